// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later

#include "serve_pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>

namespace vnni::serve {
namespace {

using Clock = std::chrono::steady_clock;

// A job at the front of the queue gives way to the next after this many items, so that a query alone waits for no more
// than this many of a large batch. Small batches are served in the order in which they came.
constexpr size_t kTurn = 64;
constexpr int kMaxCpu = 65536;
constexpr size_t kMaxErrands = 256;

}  // namespace

WorkerPool::WorkerPool(const std::vector<int>& cpus, size_t capacity, std::function<void(size_t)> idle)
    : capacity_(capacity), idle_(std::move(idle)), state_(cpus.size()) {
    for (size_t i = 0; i < state_.size(); ++i) beat(i);
    for (size_t i = 0; i < cpus.size(); ++i) {
        threads_.emplace_back([this, i] { work(i); });
        const size_t bytes = CPU_ALLOC_SIZE(kMaxCpu);
        std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(kMaxCpu), [](cpu_set_t* s) { CPU_FREE(s); });
        CPU_ZERO_S(bytes, set.get());
        CPU_SET_S(static_cast<size_t>(cpus[i]), bytes, set.get());
        pthread_setaffinity_np(threads_.back().native_handle(), bytes, set.get());  // the CPUs were checked against the mask
        pthread_setname_np(threads_.back().native_handle(), ("search/" + std::to_string(cpus[i])).c_str());
    }
}

WorkerPool::~WorkerPool() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    ready_.notify_all();
    for (auto& thread : threads_) thread.join();
}

bool WorkerPool::submit(std::shared_ptr<Job> job, size_t cost) {
    {
        std::lock_guard lock(mutex_);
        if (waiting_ > 0 && waiting_ + cost > capacity_) return false;
        job->cost_ = cost;
        waiting_ += cost;
        queue_.push_back(std::move(job));
    }
    ready_.notify_one();
    return true;
}

void WorkerPool::wake_all() {
    {
        std::lock_guard lock(mutex_);
        ++epoch_;
    }
    ready_.notify_all();
}

size_t WorkerPool::waiting() const {
    std::lock_guard lock(mutex_);
    return waiting_;
}

Clock::duration WorkerPool::oldest_heartbeat() const {
    auto oldest = Clock::now();
    for (const auto& worker : state_) oldest = std::min(oldest, worker.heartbeat.load());
    return Clock::now() - oldest;
}

/// How many of a job's items a worker takes at a time: two rounds for every worker, and divisors of kTurn.
size_t WorkerPool::chunk(size_t items) const { return std::clamp<size_t>(std::bit_ceil(items / (2 * state_.size())), 4, 32); }

void WorkerPool::work(size_t worker) {
    auto& me = state_[worker];
    std::unique_lock lock(mutex_);
    while (!stop_) {
        beat(worker);
        if (me.epoch != epoch_) {
            me.epoch = epoch_;
            lock.unlock();
            idle_(worker);
            lock.lock();
            continue;
        }
        if (queue_.empty()) {
            ready_.wait_for(lock, std::chrono::seconds(1));
            continue;
        }
        auto job = queue_.front();
        if (job->items_ == 0) {  // not parsed yet: nobody else can help until it is
            queue_.pop_front();
            waiting_ -= job->cost_;
            lock.unlock();
            const size_t items = job->prepare();
            lock.lock();
            if (items == 0) continue;
            job->items_ = job->left_ = items;
            queue_.push_front(job);
            for (size_t helpers = std::min(items / chunk(items), state_.size()); helpers > 1; --helpers) ready_.notify_one();
        }
        const size_t begin = job->next_, end = std::min(job->items_, begin + chunk(job->items_));
        job->next_ = end;
        if (end == job->items_ || end % kTurn == 0) {
            queue_.erase(std::find(queue_.begin(), queue_.end(), job));
            if (end < job->items_) queue_.push_back(job);
        }
        lock.unlock();
        job->run(worker, begin, end);
        lock.lock();
        if ((job->left_ -= end - begin) > 0) continue;
        lock.unlock();
        job->finish(worker);
        job.reset();
        lock.lock();
    }
}

bool Errands::add(std::function<void()> work) {
    {
        std::lock_guard lock(mutex_);
        if (finishing_ || waiting_.size() == kMaxErrands) return false;
        waiting_.push_back(std::move(work));
    }
    changed_.notify_one();
    return true;
}

void Errands::finish() {
    {
        std::lock_guard lock(mutex_);
        finishing_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
}

void Errands::run() {
    for (std::unique_lock lock(mutex_);;) {
        changed_.wait(lock, [this] { return finishing_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        const auto work = std::move(waiting_.front());
        waiting_.pop_front();
        lock.unlock();
        work();
        lock.lock();
    }
}

std::vector<int> parse_cpulist(const std::string& text) {
    std::set<int> cpus;
    const char *at = text.data(), *const end = at + text.size();
    const auto number = [&] {
        int value = 0;
        const auto [stop, error] = std::from_chars(at, end, value);
        if (error != std::errc() || value < 0 || value >= kMaxCpu) throw std::invalid_argument("cpulist \"" + text + "\" is not of the form 0-3,8");
        at = stop;
        return value;
    };
    while (at < end) {
        const int first = number();
        const int last = at < end && *at == '-' ? (++at, number()) : first;
        if (last < first || (at < end && (*at++ != ',' || at == end)))
            throw std::invalid_argument("cpulist \"" + text + "\" is not of the form 0-3,8");
        for (int cpu = first; cpu <= last; ++cpu) cpus.insert(cpu);
    }
    return {cpus.begin(), cpus.end()};
}

std::vector<int> allowed_cpus() {
    const size_t bytes = CPU_ALLOC_SIZE(kMaxCpu);
    std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(kMaxCpu), [](cpu_set_t* s) { CPU_FREE(s); });
    std::vector<int> cpus;
    if (sched_getaffinity(0, bytes, set.get()) != 0) return {0};
    for (int cpu = 0; cpu < kMaxCpu; ++cpu)
        if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set.get())) cpus.push_back(cpu);
    return cpus;
}

int node_of(int cpu, const std::string& sysfs) {
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(sysfs + "/devices/system/cpu/cpu" + std::to_string(cpu), none))
        if (const std::string name = entry.path().filename(); name.starts_with("node") && name.find_first_not_of("0123456789", 4) == name.npos)
            return std::atoi(name.c_str() + 4);
    return 0;
}

std::vector<int> one_per_core(const std::vector<int>& cpus, const std::string& sysfs) {
    std::vector<int> result;
    std::set<int> taken;  // siblings of a CPU that is in the result
    for (int cpu : cpus) {
        if (taken.contains(cpu)) continue;
        result.push_back(cpu);
        std::ifstream file(sysfs + "/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
        std::string line;
        if (!std::getline(file, line)) continue;
        for (int sibling : parse_cpulist(line)) taken.insert(sibling);
    }
    return result;
}

}  // namespace vnni::serve
