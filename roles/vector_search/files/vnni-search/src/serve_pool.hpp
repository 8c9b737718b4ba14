// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The worker threads: one pinned to each physical core given, a bounded queue before them, batches shared out in chunks.
// And a thread for what is done one after the other.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace vnni::serve {

/// One request on its way through the workers. The pool calls prepare once, run for disjoint ranges on several workers at
/// a time, and finish once after the last of them; none may throw.
struct Job {
    virtual ~Job() = default;
    virtual size_t prepare() = 0;  // the number of items to run; 0 when the job has ended here
    virtual void run(size_t worker, size_t begin, size_t end) = 0;
    virtual void finish(size_t worker) = 0;

 private:
    friend class WorkerPool;
    size_t cost_ = 0, items_ = 0, next_ = 0, left_ = 0;  // items_ is 0 until prepared
};

class WorkerPool {
 public:
    /// A thread for each of `cpus`, pinned to it. `capacity`: the cost of the jobs that may wait. `idle` is called by every
    /// worker after wake_all() and before its first job, for instance to let go of an index that was replaced.
    WorkerPool(const std::vector<int>& cpus, size_t capacity, std::function<void(size_t worker)> idle);
    ~WorkerPool();  // jobs that still wait are dropped

    /// False when the queue is full. A job that alone exceeds the capacity is taken when nothing waits.
    bool submit(std::shared_ptr<Job> job, size_t cost);
    void wake_all();
    /// A sign of life of a worker; a job gives one for each item that it runs.
    void beat(size_t worker) { state_[worker].heartbeat = std::chrono::steady_clock::now(); }

    size_t waiting() const;  // cost of the jobs in the queue
    size_t workers() const { return state_.size(); }
    /// The age of the oldest sign of life of a worker; an idle one gives a sign each second.
    std::chrono::steady_clock::duration oldest_heartbeat() const;

 private:
    struct alignas(64) Worker {
        std::atomic<std::chrono::steady_clock::time_point> heartbeat;
        uint64_t epoch = 0;
    };
    void work(size_t worker);
    size_t chunk(size_t items) const;

    const size_t capacity_;
    const std::function<void(size_t)> idle_;
    mutable std::mutex mutex_;
    std::condition_variable ready_;
    std::deque<std::shared_ptr<Job>> queue_;
    size_t waiting_ = 0;
    uint64_t epoch_ = 1;
    bool stop_ = false;
    std::vector<Worker> state_;
    std::vector<std::thread> threads_;
};

/// Work that waits its turn on a thread of its own; what waits when it ends is still done.
class Errands {
 public:
    ~Errands() { finish(); }
    bool add(std::function<void()> work);  // false when too much waits; `work` may not throw
    void finish();                         // takes no more, and returns when all is done

 private:
    void run();
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> waiting_;
    bool finishing_ = false;
    std::thread thread_{[this] { run(); }};  // the last member: it uses the others
};

/// Parses a kernel cpulist ("0-3,8"). Throws std::invalid_argument naming what is wrong.
std::vector<int> parse_cpulist(const std::string& text);
/// The CPUs this process may run on.
std::vector<int> allowed_cpus();
/// The NUMA node of a CPU, by `sysfs`/devices/system/cpu; 0 where the kernel knows of none.
int node_of(int cpu, const std::string& sysfs = "/sys");
/// The first of `cpus` on each physical core, by `sysfs`/devices/system/cpu; all of them where the topology is not told.
std::vector<int> one_per_core(const std::vector<int>& cpus, const std::string& sysfs = "/sys");

}  // namespace vnni::serve
