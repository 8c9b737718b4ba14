// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "live.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "build.hpp"
#include "tags.hpp"

namespace vnni {

Sync sync_from(const std::string& word) {
    if (word == "always") return Sync::always;
    if (word == "interval") return Sync::interval;
    if (word == "never") return Sync::never;
    fail("sync '", word, "': expected always, interval or never");
}

// --- the log: a header, then records {u32 bytes, u32 crc, payload}; payload: u8 operation, u64 id, and for an upsert the vector, u8
// number of tags, and per tag u8 length and bytes ---

enum : uint8_t { kUpsert = 1, kErase = 2 };

struct LogHeader {
    char magic[8];
    uint64_t generation;
    uint32_t dim, crc;
};

struct LiveIndex::Log {
    File file;
    uint64_t generation, end = sizeof(LogHeader);
    bool dirty = false;
    double synced = 0;
    std::vector<uint8_t> pending;

    static LogHeader header_for(uint64_t generation, uint32_t dim) {
        LogHeader h{{'V', 'N', 'N', 'I', 'L', 'O', 'G', '1'}, generation, dim, 0};
        h.crc = crc32c(&h, sizeof h);
        return h;
    }

    void begin(uint8_t operation, uint64_t id) {
        start_ = pending.size();
        pending.resize(start_ + 8);
        add(&operation, 1);
        add(&id, 8);
    }
    void add(const void* p, size_t n) { pending.insert(pending.end(), static_cast<const uint8_t*>(p), static_cast<const uint8_t*>(p) + n); }
    void finish() {
        const auto bytes = uint32_t(pending.size() - start_ - 8);
        const uint32_t crc = crc32c(&pending[start_ + 8], bytes);
        std::memcpy(&pending[start_], &bytes, 4);
        std::memcpy(&pending[start_ + 4], &crc, 4);
    }
    void commit(Sync sync) {
        try {
            file.write(pending.data(), pending.size(), end);
            if (sync == Sync::always) file.sync();
        } catch (...) {  // not acknowledged, so it must not come back
            pending.clear();
            if (ftruncate(file.fd(), off_t(end)) != 0) std::abort();
            throw;
        }
        end += pending.size();
        pending.clear();
        dirty = sync != Sync::always;
    }

 private:
    size_t start_ = 0;
};

void LiveIndex::open_log(uint64_t generation) {
    auto log = std::make_unique<Log>();
    log->file = File(log_name_ + "." + std::to_string(generation), O_RDWR | O_CREAT);
    log->generation = generation;
    const LogHeader header = Log::header_for(generation, data_->header.dim);
    if (const uint64_t size = log->file.size(); size < sizeof header) {
        log->file.write(&header, sizeof header, 0);
        log->file.sync();
        sync_directory_of(log->file.path());
    } else {
        log->end = size;
    }
    log_ = std::move(log);
}

// Applies the records of one log; returns where the good ones end.
static uint64_t read_log(const File& file, const LogHeader& expected, const std::function<void(const uint8_t*, size_t)>& apply) {
    const uint64_t size = file.size();
    if (size < sizeof expected) return 0;  // died while it was made: nothing was acknowledged
    std::vector<uint8_t> bytes(size);
    file.read(bytes.data(), size, 0);
    if (std::memcmp(bytes.data(), &expected, sizeof expected) != 0)
        fail(file.path(), ": not the log of this index (generation ", expected.generation, ", dimension ", expected.dim, "), or its header is damaged");
    const auto good = [&](uint64_t at, uint32_t& length) {
        if (size - at < 8) return false;
        uint32_t crc;
        std::memcpy(&length, &bytes[at], 4);
        std::memcpy(&crc, &bytes[at + 4], 4);
        return length >= 9 && length <= size - at - 8 && crc32c(&bytes[at + 8], length) == crc;
    };
    uint64_t at = sizeof expected;
    for (uint32_t length; at < size; at += 8 + length) {
        if (good(at, length)) {
            apply(&bytes[at + 8], length);
            continue;
        }
        // A crash tears the last write; a good record behind a bad one means that the file was damaged later.
        uint32_t next = 0;
        if (size - at > 8 && length <= size - at - 8 && at + 8 + length < size && good(at + 8 + length, next))
            fail(file.path(), ": the record at byte ", at, " is damaged; acknowledged writes behind it would be lost");
        break;
    }
    return at;
}

void LiveIndex::replay() {
    uint64_t generation = std::max<uint64_t>(1, data_->header.wal_position);
    const uint32_t dim = data_->header.dim;
    for (;; ++generation) {
        const std::string name = log_name_ + "." + std::to_string(generation);
        if (!std::filesystem::exists(name)) break;
        const File file(name, O_RDWR);
        const auto damaged = [&] { fail(name, ": a record with a right checksum makes no sense: written by another program?"); };
        const uint64_t end = read_log(file, Log::header_for(generation, dim), [&](const uint8_t* p, size_t n) {
            uint64_t id;
            std::memcpy(&id, p + 1, 8);
            if (*p == kErase && n == 9) return void(remove(id));
            if (*p != kUpsert || n < 10 + 4ull * dim) damaged();
            std::vector<float> vector(dim);
            std::memcpy(vector.data(), p + 9, 4ull * dim);
            std::vector<std::string> tags(p[9 + 4ull * dim]);
            size_t at = 10 + 4ull * dim;
            for (std::string& tag : tags) {
                if (at >= n || at + 1 + p[at] > n) damaged();
                tag.assign(reinterpret_cast<const char*>(p + at + 1), p[at]);
                at += 1 + p[at];
            }
            if (!all_finite(vector.data(), dim)) damaged();
            put(id, vector.data(), tags);
        });
        if (end != file.size() && ftruncate(file.fd(), off_t(end)) != 0) fail_errno(name + ": cannot cut the torn record");
    }
    open_log(std::max<uint64_t>(generation - 1, std::max<uint64_t>(1, data_->header.wal_position)));
    for (uint64_t old = data_->header.wal_position; old > 1 && std::filesystem::remove(log_name_ + "." + std::to_string(old - 1)); --old) {}
}

// --- opening ---

LiveIndex::LiveIndex(const std::string& path, const std::string& log, const LiveOptions& options) : path_(path), log_name_(log), options_(options) {
    lock_ = File(log + ".lock", O_RDWR | O_CREAT);
    if (flock(lock_.fd(), LOCK_EX | LOCK_NB) != 0) fail_errno(path + ": cannot be written to (does another process do so?)");
    const auto parent = std::filesystem::absolute(path).parent_path();
    const std::string stale = std::filesystem::path(path).filename().string() + ".tmp.";  // of a snapshot that was killed
    for (const auto& entry : std::filesystem::directory_iterator(parent))
        if (entry.path().filename().string().rfind(stale, 0) == 0) std::filesystem::remove(entry.path());
    auto data = load(path, options.open, std::max<uint64_t>(options.capacity, 1));
    data_ = data.get();
    const uint64_t rows = data_->header.rows, capacity = options.capacity;
    if (rows > capacity) fail(path, ": ", rows, " rows, more than the capacity of ", capacity);
    if (!data_->has(kIds)) {
        data_->section[kIds] = Region::anonymous(8 * rows, 8 * capacity, options.open.numa_node);
        for (uint64_t i = 0; i < rows; ++i) data_->section[kIds].as<uint64_t>()[i] = i;
    }
    if (!data_->has(kDead)) data_->section[kDead] = Region::anonymous((rows + 63) / 64 * 8, capacity / 8 + 8, options.open.numa_node);
    if (!data_->tags) data_->tags = std::make_shared<Tags>(capacity);
    data_->readers = std::make_unique<Readers>();
    data_->attach();
    freed_.assign(rows, false);
    index_ = std::make_shared<Index>(std::move(data));
    grow_map();
    replay();
    worker_ = std::jthread([this](std::stop_token stop) { background(stop); });
}

LiveIndex::~LiveIndex() {
    worker_ = {};  // stops and joins
    const std::lock_guard lock(writer_);
    if (log_ && log_->dirty) ::fdatasync(log_->file.fd());
}

void LiveIndex::background(std::stop_token stop) {
    std::unique_lock lock(writer_);
    while (!stop.stop_requested()) {
        wake_.wait_for(lock, stop, std::chrono::duration<double>(std::clamp(options_.interval, 0.01, 60.0)), [] { return false; });
        if (options_.sync == Sync::interval && log_->dirty) {
            log_->dirty = false;
            if (::fdatasync(log_->file.fd()) != 0) std::abort();  // what was promised cannot be kept
        }
        if (double(hidden()) > options_.consolidate_share * double(data_->rows) && hidden() > 64) {
            lock.unlock();
            consolidate();
            lock.lock();
        }
    }
}

// --- ids to slots ---

static size_t hash(uint64_t id) { return size_t(Random{id}()); }

uint32_t LiveIndex::find(uint64_t id) const {
    for (size_t i = hash(id);; ++i) {
        const uint32_t entry = map_[i & (map_.size() - 1)];
        if (!entry) return kNoSlot;
        if (entry != kNoSlot && data_->id_of(entry - 1) == id) return entry - 1;
    }
}

void LiveIndex::remember(uint64_t id, uint32_t slot) {
    if (2 * (map_used_ + 1) > map_.size()) grow_map();
    for (size_t i = hash(id);; ++i) {
        uint32_t& entry = map_[i & (map_.size() - 1)];
        if (entry) continue;
        entry = slot + 1;
        ++map_used_;
        return;
    }
}

void LiveIndex::forget(uint64_t id) {
    for (size_t i = hash(id);; ++i) {
        uint32_t& entry = map_[i & (map_.size() - 1)];
        if (entry && entry != kNoSlot && data_->id_of(entry - 1) == id) return void(entry = kNoSlot);
    }
}

void LiveIndex::grow_map() {
    size_t size = 64;
    while (size < 4 * (data_->live + 1)) size *= 2;
    map_.assign(size, 0);
    map_used_ = 0;
    for (uint32_t slot = 0; slot < data_->rows; ++slot)
        if (!data_->dead(slot)) remember(data_->id_of(slot), slot);
}

// --- rows ---

void LiveIndex::hide(uint32_t slot, bool hidden) {
    uint64_t* const word = data_->section[kDead].as<uint64_t>() + slot / 64;
    if (hidden) __atomic_fetch_or(word, 1ull << slot % 64, __ATOMIC_RELEASE);
    else __atomic_fetch_and(word, ~(1ull << slot % 64), __ATOMIC_RELEASE);
}

uint32_t LiveIndex::take_slot() {
    if (free_.empty() && !waiting_.empty() && data_->readers->none_before(waiting_.front().first)) {
        free_ = std::move(waiting_.front().second);
        waiting_.erase(waiting_.begin());
    }
    if (!free_.empty()) {
        const uint32_t slot = free_.back();
        free_.pop_back();
        freed_[slot] = false;
        --freed_count_;
        return slot;
    }
    const uint64_t slot = data_->rows;
    if (slot >= options_.capacity) fail("the index is full: ", slot, " rows");
    freed_.push_back(false);
    return uint32_t(slot);
}

void LiveIndex::put(uint64_t id, const float* vector, const std::vector<std::string>& tags) {
    const Header& h = data_->header;
    const uint32_t dim = h.dim, old = find(id);
    std::vector<float> row(vector, vector + dim);
    if (h.metric == uint8_t(Metric::cosine)) normalise(row.data(), dim);
    const uint32_t slot = take_slot();
    hide(slot, true);
    for (uint32_t i = 0; i < h.degree; ++i) __atomic_store_n(list(slot) + i, slot, __ATOMIC_RELAXED);
    uint8_t* code = data_->section[kCodes].data() + size_t(slot) * h.stride;
    data_->quantizer.encode(row.data(), code);
    for (uint32_t j = 0; j < dim; ++j) data_->section[kRefine].as<uint16_t>()[size_t(slot) * dim + j] = to_half(row[j] * h.refine_scale);
    __atomic_store_n(data_->section[kIds].as<uint64_t>() + slot, id, __ATOMIC_RELAXED);
    data_->tags->set(slot, tags);
    if (slot == data_->rows) data_->rows.store(slot + 1ull, std::memory_order_release);
    link(slot, row.data());
    if (old != kNoSlot) {
        forget(id);
        hide(old, true);
        data_->tags->set(old, {});
        --data_->live;
    }
    remember(id, slot);
    hide(slot, false);
    ++data_->live;
    // An index that grew has more entrances.
    const uint32_t pivots = data_->pivots;
    if (pivots < pivots_for(data_->rows)) {
        data_->section[kPivots].as<uint32_t>()[pivots] = slot;
        std::memcpy(data_->pivot_codes.data() + size_t(pivots) * h.stride, code, h.stride);
        data_->pivots.store(pivots + 1, std::memory_order_release);
    }
}

bool LiveIndex::remove(uint64_t id) {
    const uint32_t slot = find(id);
    if (slot == kNoSlot) return false;
    forget(id);
    hide(slot, true);
    data_->tags->set(slot, {});
    --data_->live;
    return true;
}

// --- links ---

void LiveIndex::distances(uint32_t slot, const uint32_t* others, size_t n, float* out) {
    const uint32_t dim = data_->header.dim;
    const auto* halves = data_->section[kRefine].as<const uint16_t>();
    if (from_slot_ != slot) {
        from_.resize(dim);
        for (uint32_t j = 0; j < dim; ++j) from_[j] = from_half(halves[size_t(slot) * dim + j]);
        from_slot_ = slot;
    }
    if (!data_->header.by_product) return kernels().l2_16(halves, dim, dim, others, n, from_.data(), out);
    kernels().dot16(halves, dim, dim, others, n, from_.data(), out);
    for (size_t i = 0; i < n; ++i) out[i] = -out[i];
}

// Prunes slots to the neighbours of slot. Hidden rows are no neighbours, but for the one that is just being linked.
void LiveIndex::choose(uint32_t slot, std::vector<uint32_t>& slots, uint32_t fresh) {
    std::sort(slots.begin(), slots.end());
    slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
    std::erase_if(slots, [&](uint32_t s) { return s == slot || (s != fresh && data_->dead(s)); });
    scratch_.resize(slots.size());
    from_slot_ = kNoSlot;
    distances(slot, slots.data(), slots.size(), scratch_.data());
    std::vector<std::pair<float, uint32_t>> candidates;
    for (size_t i = 0; i < slots.size(); ++i) candidates.emplace_back(scratch_[i], slots[i]);
    std::sort(candidates.begin(), candidates.end());
    slots.resize(data_->header.degree);
    slots.resize(robust_prune(candidates, data_->header.by_product ? kProductAlpha : data_->header.alpha, data_->header.degree, slots.data(),
                              [&](uint32_t from, const uint32_t* to, size_t n, float* out) { distances(from, to, n, out); }));
}

void LiveIndex::set_list(uint32_t slot, const std::vector<uint32_t>& neighbours) {
    for (uint32_t i = 0; i < data_->header.degree; ++i)
        __atomic_store_n(list(slot) + i, i < neighbours.size() ? neighbours[i] : slot, __ATOMIC_RELEASE);
}

void LiveIndex::link(uint32_t slot, const float* row) {
    const Header& h = data_->header;
    query_.prepare(data_->quantizer, Metric(h.metric), row);
    View view = data_->view;
    view.pivot_count = data_->pivots;
    beam_.search(view, query_, std::max(h.build_ef, 32u));
    std::vector<uint32_t> slots, theirs;
    for (uint32_t i = 0; i < beam_.pool.size(); ++i) slots.push_back(beam_.pool.slot(i));
    choose(slot, slots);
    set_list(slot, slots);
    for (const uint32_t other : slots) {
        uint32_t* const neighbours = list(other);
        uint32_t* const end = neighbours + h.degree;
        if (uint32_t* const room = std::find(neighbours, end, other); room != end) {
            __atomic_store_n(room, slot, __ATOMIC_RELEASE);
            continue;
        }
        theirs.assign(neighbours, end);
        theirs.push_back(slot);
        choose(other, theirs, slot);
        set_list(other, theirs);
    }
}

size_t LiveIndex::consolidate() {
    const std::lock_guard one(consolidating_);
    std::vector<bool> gone;
    std::vector<uint32_t> slots, freed;
    {
        const std::lock_guard lock(writer_);
        gone.resize(data_->rows);
        for (uint32_t slot = 0; slot < data_->rows; ++slot)
            if (data_->dead(slot) && !freed_[slot]) gone[slot] = true, freed.push_back(slot);
        const auto* pivots = data_->section[kPivots].as<const uint32_t>();
        for (uint32_t p = 0; p < data_->pivots; ++p)  // entrances stay
            if (gone[pivots[p]]) gone[pivots[p]] = false, std::erase(freed, pivots[p]);
    }
    if (freed.empty()) return 0;
    // Links to hidden rows are never made anew, so lists that were repaired stay so while writers go on between the steps.
    constexpr uint32_t step = 1024;
    const auto is_gone = [&](uint32_t s) { return s < gone.size() && gone[s]; };
    for (uint64_t begin = 0; begin < gone.size(); begin += step) {
        const std::lock_guard lock(writer_);
        for (uint64_t i = begin; i < std::min<uint64_t>(gone.size(), begin + step); ++i) {
            const auto slot = uint32_t(i);
            const uint32_t* const neighbours = list(slot);
            const uint32_t degree = data_->header.degree;
            if (is_gone(slot) || freed_[slot] || std::none_of(neighbours, neighbours + degree, is_gone)) continue;
            slots.clear();
            for (uint32_t n = 0; n < degree; ++n) {
                if (!is_gone(neighbours[n])) slots.push_back(neighbours[n]);
                else slots.insert(slots.end(), list(neighbours[n]), list(neighbours[n]) + degree);
            }
            choose(slot, slots);
            set_list(slot, slots);
        }
    }
    const std::lock_guard lock(writer_);
    for (const uint32_t slot : freed) freed_[slot] = true;
    freed_count_ += freed.size();
    const size_t count = freed.size();
    waiting_.emplace_back(data_->readers->next_epoch(), std::move(freed));
    return count;
}

// --- what users call ---

void LiveIndex::upsert(const uint64_t* ids, const float* vectors, size_t n, const std::vector<std::vector<std::string>>& tags) {
    const uint32_t dim = data_->header.dim;
    if (!tags.empty() && tags.size() != n) fail(tags.size(), " tag sets for ", n, " rows");
    for (const auto& set : tags) Tags::check(set);
    for (size_t i = 0; i < n; ++i) {
        if (!all_finite(vectors + i * dim, dim)) fail("row ", i, " (id ", ids[i], ") has a value that is not finite");
        for (uint32_t j = 0; j < dim && data_->header.metric != uint8_t(Metric::cosine); ++j)
            if (std::abs(vectors[i * dim + j]) * data_->header.refine_scale > 65000)
                fail("row ", i, " (id ", ids[i], ") has ", vectors[i * dim + j], ": more than ", 65000 / data_->header.refine_scale, " does not fit this index");
    }
    static const std::vector<std::string> none;
    const std::lock_guard lock(writer_);
    if (data_->live + n > options_.capacity) fail("the index is full: ", data_->live.load(), " rows");
    for (size_t i = 0; i < n; ++i) {
        const auto& set = tags.empty() ? none : tags[i];
        log_->begin(kUpsert, ids[i]);
        log_->add(vectors + i * dim, 4ull * dim);
        const auto count = uint8_t(set.size());
        log_->add(&count, 1);
        for (const std::string& tag : set) {
            const auto length = uint8_t(tag.size());
            log_->add(&length, 1);
            log_->add(tag.data(), length);
        }
        log_->finish();
    }
    log_->commit(options_.sync);
    for (size_t i = 0; i < n; ++i) put(ids[i], vectors + i * dim, tags.empty() ? none : tags[i]);
}

size_t LiveIndex::erase(const uint64_t* ids, size_t n) {
    const std::lock_guard lock(writer_);
    for (size_t i = 0; i < n; ++i) log_->begin(kErase, ids[i]), log_->finish();
    log_->commit(options_.sync);
    size_t count = 0;
    for (size_t i = 0; i < n; ++i) count += remove(ids[i]);
    return count;
}

// What a forked process writes: it has this process's memory as of the fork, and no other thread. Returns the error, "" when there is none.
static std::string in_child(const std::function<void()>& work, const std::function<void()>& forked) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) fail_errno("cannot make a pipe");
    const pid_t parent = getpid(), child = fork();
    if (child < 0) {
        ::close(ends[0]), ::close(ends[1]);
        fail_errno("cannot fork");
    }
    if (child == 0) {
        // It ends with the process that waits for it, and holds neither its connections nor its locks.
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        const int out = dup2(ends[1], STDERR_FILENO + 1);
        for (int fd = out + 1; fd < getdtablesize(); ++fd) ::close(fd);
        std::string error;
        try {
            work();
        } catch (const std::exception& e) {
            error = e.what();
        }
        _exit(error.empty() ? 0 : write(out, error.data(), error.size()) >= 0);
    }
    forked();
    ::close(ends[1]);
    std::string error;
    char text[512];
    for (ssize_t n; (n = ::read(ends[0], text, sizeof text)) > 0 || (n < 0 && errno == EINTR);) error.append(text, size_t(std::max<ssize_t>(n, 0)));
    ::close(ends[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    if (error.empty() && status != 0) error = "the process that wrote it ended with status " + std::to_string(status);
    return error;
}

void LiveIndex::snapshot() {
    const std::lock_guard one(snapshotting_);
    std::unique_lock writers(writer_);
    if (log_->dirty) log_->file.sync();  // it counts until the new file is there, and nobody will look after it any more
    const uint64_t before = log_->generation;
    open_log(before + 1);
    Header h = data_->header;
    h.rows = data_->rows, h.live = data_->live, h.pivots = data_->pivots;
    h.wal_position = before + 1;
    h.content += before + 1;
    const std::string error = in_child([&] { write_index(*data_, h, path_); }, [&] { writers.unlock(); });
    if (!error.empty()) fail(path_, ": no snapshot: ", error);  // the logs so far continue the old file
    for (uint64_t old = before; old && std::filesystem::remove(log_name_ + "." + std::to_string(old)); --old) {}
}

}  // namespace vnni
