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

constexpr uint64_t kMoreRows = 4096;  // room for at least so many more: an update takes a slot before the old one is free
constexpr uint64_t kSlotLimit = uint64_t(kNoSlot) - 1;
constexpr uint64_t kSweepCost = 16;  // what a sweep costs a row, in rows that a search compares

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
    bool dirty = false, rest = false;  // rest: behind end is what could not be taken back
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
    // Writes what is pending. When that fails nothing of it stays in the file, as it was not acknowledged.
    void commit(Sync sync) {
        if (rest && !cut()) {
            pending.clear();
            fail(file.path(), ": cannot take back a write that failed (", std::strerror(errno), "); no write is possible before");
        }
        try {
            file.write(pending.data(), pending.size(), end);
            if (sync == Sync::always) file.sync();
        } catch (...) {
            pending.clear();
            rest = !cut();
            throw;
        }
        end += pending.size();
        pending.clear();
        dirty = sync != Sync::always;
    }
    bool cut() const { return ftruncate(file.fd(), off_t(end)) == 0; }

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

// Applies the records of one log as long as they are good; returns where these end. behind: whether a good one follows a bad one, which
// no crash leaves, as it tears the last write alone.
static uint64_t read_log(const File& file, const LogHeader& expected, const std::function<bool(const uint8_t*, size_t)>& apply, bool& behind) {
    const uint64_t size = file.size();
    behind = false;
    if (size < sizeof expected) return 0;  // died while it was made: nothing was acknowledged
    std::vector<uint8_t> bytes(size);
    file.read(bytes.data(), size, 0);
    behind = std::memcmp(bytes.data(), &expected, sizeof expected) != 0;  // of another index or version
    if (behind) return 0;
    const auto good = [&](uint64_t at, uint32_t& length) {
        if (size - at < 8) return false;
        uint32_t crc;
        std::memcpy(&length, &bytes[at], 4);
        std::memcpy(&crc, &bytes[at + 4], 4);
        const uint64_t most = 10 + 4ull * expected.dim + kMaxTagsPerRow * (1 + kMaxTagBytes);
        return length >= 9 && length <= most && length <= size - at - 8 && crc32c(&bytes[at + 8], length) == crc;
    };
    uint64_t at = sizeof expected;
    for (uint32_t length; at < size && good(at, length) && apply(&bytes[at + 8], length); at += 8 + length) {}
    for (uint64_t next = at + 1; next < size && !behind; ++next) {
        uint32_t length;
        behind = good(next, length);
    }
    return at;
}

bool LiveIndex::apply(const uint8_t* p, size_t n) {
    const uint32_t dim = data_->header.dim;
    uint64_t id;
    std::memcpy(&id, p + 1, 8);
    if (*p == kErase && n == 9) return remove(id), true;
    if (*p != kUpsert || n < 10 + 4ull * dim) return false;
    std::vector<float> vector(dim);
    std::memcpy(vector.data(), p + 9, 4ull * dim);
    std::vector<std::string> tags(p[9 + 4ull * dim]);
    size_t at = 10 + 4ull * dim;
    for (std::string& tag : tags) {
        if (at >= n || !p[at] || at + 1 + p[at] > n) return false;
        tag.assign(reinterpret_cast<const char*>(p + at + 1), p[at]);
        at += 1 + p[at];
    }
    if (!all_finite(vector.data(), dim)) return false;
    make_room(1);
    put(id, vector.data(), tags);
    return true;
}

// What cannot be replayed is kept beside the log under the name NAME.lost, and said: an index that never opens again helps nobody.
void LiveIndex::replay() {
    uint64_t generation = std::max<uint64_t>(1, data_->header.wal_position);
    const auto name = [&](uint64_t g) { return log_name_ + "." + std::to_string(g); };
    for (; std::filesystem::exists(name(generation)) && missing_.empty(); ++generation) {
        const File file(name(generation), O_RDWR);
        bool behind;
        const uint64_t size = file.size();
        const uint64_t end = read_log(file, Log::header_for(generation, data_->header.dim), [&](const uint8_t* p, size_t n) { return apply(p, n); }, behind);
        if (end == size) continue;
        if (behind || (end && std::filesystem::exists(name(generation + 1)))) {
            std::filesystem::copy_file(name(generation), name(generation) + ".lost", std::filesystem::copy_options::overwrite_existing);
            std::ostringstream text;
            if (end) text << name(generation) << ": the record at byte " << end << " is damaged: the writes in it and in the " << size - end << " bytes from there on are missing";
            else text << name(generation) << ": not a log that this program wrote for this index (generation " << generation << ", dimension " << data_->header.dim
                      << "), or its header is damaged: the writes in its " << size << " bytes are missing";
            text << "; the file is kept as " << name(generation) << ".lost";
            missing_ = text.str();
        }
        if (ftruncate(file.fd(), off_t(end)) != 0) fail_errno(name(generation) + ": cannot cut the torn record");
    }
    if (!missing_.empty()) {
        bool more = false;
        for (uint64_t later = generation; std::filesystem::exists(name(later)); ++later) std::filesystem::rename(name(later), name(later) + ".lost"), more = true;
        if (more) missing_ += ", and so are the logs that follow it";
    }
    open_log(std::max<uint64_t>(generation - 1, std::max<uint64_t>(1, data_->header.wal_position)));
    for (uint64_t old = data_->header.wal_position; old > 1 && std::filesystem::remove(name(old - 1)); --old) {}
}

// --- opening ---

LiveIndex::LiveIndex(const std::string& path, const std::string& log, const LiveOptions& options) : path_(path), log_name_(log), options_(options) {
    lock_ = File(log + ".lock", O_RDWR | O_CREAT);
    if (flock(lock_.fd(), LOCK_EX | LOCK_NB) != 0) fail_errno(path + ": cannot be written to (does another process do so?)");
    const auto parent = std::filesystem::absolute(path).parent_path();
    const std::string stale = std::filesystem::path(path).filename().string() + ".tmp.";  // of a snapshot that was killed
    for (const auto& entry : std::filesystem::directory_iterator(parent))
        if (entry.path().filename().string().rfind(stale, 0) == 0) std::filesystem::remove(entry.path());
    const uint64_t rows = read_header(File(path, O_RDONLY)).rows;
    room_ = rows + rows / 8 + kMoreRows;
    auto data = load(path, options.open, room_);
    data_ = data.get();
    if (!data_->has(kIds)) {
        data_->section[kIds] = Region::anonymous(8 * rows, 8 * room_, options.open.numa_node);
        for (uint64_t i = 0; i < rows; ++i) data_->section[kIds].as<uint64_t>()[i] = i;
    }
    if (!data_->has(kDead)) data_->section[kDead] = Region::anonymous((rows + 63) / 64 * 8, room_ / 8 + 8, options.open.numa_node);
    if (!data_->tags) data_->tags = std::make_shared<Tags>(room_);
    data_->readers = std::make_unique<Readers>();
    data_->attach();
    freed_.assign(rows, false);
    index_ = std::make_shared<Index>(std::move(data));
    grow_map();
    plant();
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
    uint64_t ticks = 0;
    while (!stop.stop_requested()) {
        wake_.wait_for(lock, stop, std::chrono::duration<double>(std::clamp(options_.interval, 0.01, 60.0)), [] { return false; });
        if (options_.sync == Sync::interval && log_->dirty) {
            log_->dirty = false;
            if (::fdatasync(log_->file.fd()) != 0) unsynced_ = log_->file.path() + ": cannot sync: " + std::strerror(errno);
        }
        const bool crowded = double(hidden()) > options_.consolidate_share * double(data_->rows) && hidden() > 64;
        const bool in_the_way = options_.consolidate_share <= 1 && hidden() && data_->detours > kSweepCost * data_->rows;
        const bool unsynced = !unsynced_.empty();
        if (++ticks % 10 == 0) sample_reachable();
        if (!crowded && !in_the_way && !unsynced) continue;
        lock.unlock();
        try {
            if (unsynced) snapshot();  // holds all that was acknowledged, whatever became of the log
            else consolidate();
        } catch (const std::exception&) {  // tried again next time; until then writes are refused, with the reason
        }
        lock.lock();
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

// Memory for so many more rows. Throws Error, and changes nothing, when the system has none.
void LiveIndex::make_room(uint64_t more) {
    const uint64_t wanted = std::min(data_->rows + more - std::min<uint64_t>(more, free_.size()), kSlotLimit);
    if (wanted <= room_ || hidden() >= std::max(more, data_->rows / 8)) return;  // or hidden rows will give way
    const uint64_t room = std::min(std::max(wanted, room_ + room_ / 4 + kMoreRows), kSlotLimit);
    const Shape shape = shape_of(data_->header);
    struct Moved {
        IndexData& data;
        ~Moved() {
            data.view.codes = data.section[kCodes].data(), data.view.graph = data.section[kGraph].as<uint32_t>();
            data.readers->reopen();
        }
    };
    data_->readers->close();
    const Moved moved{*data_};
    for (const SectionId s : {kCodes, kGraph, kRefine}) data_->section[s].grow(room * shape.row_bytes(s));
    data_->section[kIds].grow(8 * room);
    data_->section[kDead].grow(room / 8 + 8);
    data_->tags->reserve(room);
    room_ = room;
}

uint32_t LiveIndex::take_slot() {
    const auto reclaim = [&] {
        if (free_.empty() && !waiting_.empty() && data_->readers->none_before(waiting_.front().first)) {
            free_ = std::move(waiting_.front().second);
            waiting_.erase(waiting_.begin());
        }
        return !free_.empty();
    };
    if (!reclaim() && data_->rows >= room_) {  // all that there is memory for: hidden rows give way
        sweep_now();
        while (!waiting_.empty() && !reclaim()) std::this_thread::yield();
        if (free_.empty()) make_room(1);
        if (free_.empty() && data_->rows >= room_) fail("the index is full: ", data_->rows.load(), " rows");
    }
    if (!free_.empty()) {
        const uint32_t slot = free_.back();
        free_.pop_back();
        freed_[slot] = false;
        --freed_count_;
        return slot;
    }
    freed_.push_back(false);
    parent_.push_back(kNoSlot);
    depth_.push_back(0);
    return uint32_t(data_->rows);
}

void LiveIndex::put(uint64_t id, const float* vector, const std::vector<std::string>& tags) {
    const Header& h = data_->header;
    const uint32_t dim = h.dim;
    std::vector<float> row(vector, vector + dim);
    if (h.metric == uint8_t(Metric::cosine)) normalise(row.data(), dim);
    std::vector<uint16_t> halves(dim);
    for (uint32_t j = 0; j < dim; ++j) halves[j] = to_half(row[j] * h.refine_scale);
    uint16_t* const refine = data_->section[kRefine].as<uint16_t>();
    if (const uint32_t same = find(id); same != kNoSlot && std::equal(halves.begin(), halves.end(), refine + size_t(same) * dim))
        return data_->tags->set(same, tags);  // the vector that is there
    if (hidden() > data_->live + kMoreRows / 8) sweep_now();  // the graph would be the dead rows'
    const uint32_t slot = take_slot(), old = find(id);
    hide(slot, true);
    for (uint32_t i = 0; i < h.degree; ++i) __atomic_store_n(list(slot) + i, slot, __ATOMIC_RELAXED);
    data_->quantizer.encode(row.data(), data_->section[kCodes].data() + size_t(slot) * h.stride);
    std::copy(halves.begin(), halves.end(), data_->section[kRefine].as<uint16_t>() + size_t(slot) * dim);
    __atomic_store_n(data_->section[kIds].as<uint64_t>() + slot, id, __ATOMIC_RELAXED);
    data_->tags->set(slot, tags);
    if (slot == data_->rows) data_->rows.store(slot + 1ull, std::memory_order_release);
    link(slot, old);
    if (old != kNoSlot) forget(id), hide(old, true);
    remember(id, slot);  // while neither is shown: the map may be made anew, of the rows that are
    hide(slot, false);
    ++data_->live;
    if (old != kNoSlot) drop(old);
    count();
    // An index that grew has more entrances.
    if (entrances_->slots.size() < pivots_for(data_->live) && parent_[slot] != slot) {
        std::vector<uint32_t> slots = entrances_->slots;
        slots.push_back(slot);
        parent_[slot] = slot, depth_[slot] = 0;
        enter_at(std::move(slots));
    }
}

bool LiveIndex::remove(uint64_t id) {
    const uint32_t slot = find(id);
    if (slot == kNoSlot) return false;
    forget(id);
    hide(slot, true);
    drop(slot);
    return true;
}

// What follows when a row was hidden.
void LiveIndex::drop(uint32_t slot) {
    data_->tags->set(slot, {});
    --data_->live;
    uproot(slot);
    count();
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

// Prunes slots to the neighbours of slot. Hidden rows are no neighbours, but for the one that is just being linked, and those that hang
// under slot stay.
void LiveIndex::choose(uint32_t slot, std::vector<uint32_t>& slots, uint32_t fresh) {
    const uint32_t degree = data_->header.degree;
    std::sort(slots.begin(), slots.end());
    slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
    std::erase_if(slots, [&](uint32_t s) { return s == slot || (s != fresh && parent_[s] == kNoSlot && data_->dead(s)); });
    std::vector<uint32_t> children;
    for (const uint32_t s : slots)
        if (parent_[s] == slot) children.push_back(s);
    scratch_.resize(slots.size());
    from_slot_ = kNoSlot;
    distances(slot, slots.data(), slots.size(), scratch_.data());
    std::vector<std::pair<float, uint32_t>> candidates;
    for (size_t i = 0; i < slots.size(); ++i) candidates.emplace_back(scratch_[i], slots[i]);
    std::sort(candidates.begin(), candidates.end());
    slots.resize(degree);
    slots.resize(robust_prune(candidates, data_->header.by_product ? kProductAlpha : data_->header.alpha, degree, slots.data(),
                              [&](uint32_t from, const uint32_t* to, size_t n, float* out) { distances(from, to, n, out); }));
    for (const uint32_t child : children) {
        if (std::find(slots.begin(), slots.end(), child) != slots.end()) continue;
        if (slots.size() < degree) {
            slots.push_back(child);
            continue;
        }
        *std::find_if(slots.rbegin(), slots.rend(), [&](uint32_t s) { return parent_[s] != slot; }) = child;  // there are at most degree children
    }
}

void LiveIndex::set_list(uint32_t slot, const std::vector<uint32_t>& neighbours) {
    for (uint32_t i = 0; i < data_->header.degree; ++i)
        __atomic_store_n(list(slot) + i, i < neighbours.size() ? neighbours[i] : slot, __ATOMIC_RELEASE);
}

// Makes query_ the row of slot.
void LiveIndex::prepare(uint32_t slot) {
    const Header& h = data_->header;
    std::vector<float> row(h.dim);
    for (uint32_t j = 0; j < h.dim; ++j) row[j] = from_half(data_->section[kRefine].as<const uint16_t>()[size_t(slot) * h.dim + j]) / h.refine_scale;
    query_.prepare(data_->quantizer, Metric(h.metric), row.data());
}

// The live rows nearest to query_ by their codes, about as many as neighbours are chosen from, however many dead ones lie between.
void LiveIndex::near(std::vector<uint32_t>& slots, uint32_t but) {
    const uint64_t rows = data_->rows, ef = std::max(data_->header.build_ef, 32u);
    View view = data_->view;
    view.pivots = entrances_->slots.data(), view.pivot_codes = entrances_->codes.data(), view.pivot_count = uint32_t(entrances_->slots.size());
    const auto wanted = [&](uint32_t s) { return s != but && parent_[s] != kNoSlot; };
    for (uint64_t effort = ef;; effort *= 4) {
        const bool scan = effort > ef && double(effort) * kWalkRows >= double(rows);
        if (scan) beam_.scan(view, query_, uint32_t(ef), rows, nullptr, wanted);
        else beam_.search(view, query_, uint32_t(effort));
        slots.clear();
        for (uint32_t i = 0; i < beam_.pool.size() && slots.size() < ef; ++i)
            if (wanted(beam_.pool.slot(i))) slots.push_back(beam_.pool.slot(i));
        if (scan || 2 * slots.size() >= std::min<uint64_t>(ef, data_->live)) return;
    }
}

// Links a row to its neighbours and them to it; to all but one of them, which is about to go.
void LiveIndex::link(uint32_t slot, uint32_t but) {
    const uint32_t degree = data_->header.degree;
    prepare(slot);
    std::vector<uint32_t> slots, theirs;
    near(slots, but);
    for (uint32_t i = 0; i < degree; ++i)
        if (parent_[list(slot)[i]] == slot) slots.push_back(list(slot)[i]);
    choose(slot, slots);
    set_list(slot, slots);
    const bool planted = parent_[slot] != kNoSlot;
    uint32_t above = kNoSlot;
    for (const uint32_t other : slots) {
        uint32_t* const neighbours = list(other);
        uint32_t* const end = neighbours + degree;
        bool there = std::find(neighbours, end, slot) != end;
        if (uint32_t* const room = std::find(neighbours, end, other); !there && room != end) {
            __atomic_store_n(room, slot, __ATOMIC_RELEASE);
            there = true;
        }
        if (!there) {
            theirs.assign(neighbours, end);
            theirs.push_back(slot);
            // Where dead rows crowd the neighbours of some take their place; else the live ones that are left do.
            constexpr uint32_t most = 4;
            const auto dead = [&](uint32_t s) { return s != slot && parent_[s] == kNoSlot; };
            uint32_t heard = std::count_if(neighbours, end, dead) > degree / 4 ? 0 : most;
            for (uint32_t i = 0; i < degree && heard < most; ++i)
                if (dead(neighbours[i])) theirs.insert(theirs.end(), list(neighbours[i]), list(neighbours[i]) + degree), ++heard;
            choose(other, theirs, slot);
            set_list(other, theirs);
            there = std::find(theirs.begin(), theirs.end(), slot) != theirs.end();
        }
        if (there && (above == kNoSlot || depth_[other] < depth_[above])) above = other;
    }
    if (planted) return;
    if (above == kNoSlot) return adopt(slot, slots.data(), slots.size());
    parent_[slot] = above;
    depth_[slot] = uint8_t(std::min(255, depth_[above] + 1));
}

// --- the forest ---

void LiveIndex::enter_at(std::vector<uint32_t> slots) {
    const auto dead = [&](uint32_t s) { return parent_[s] == kNoSlot; };
    if (!std::all_of(slots.begin(), slots.end(), dead)) std::erase_if(slots, dead);
    auto next = std::make_unique<Entrances>();
    const size_t stride = data_->header.stride;
    next->codes.resize(slots.size() * stride);
    for (size_t i = 0; i < slots.size(); ++i) std::memcpy(&next->codes[i * stride], data_->section[kCodes].data() + slots[i] * stride, stride);
    std::copy(slots.begin(), slots.end(), data_->section[kPivots].as<uint32_t>());
    next->slots = std::move(slots);
    data_->entrances.store(next.get(), std::memory_order_release);
    std::unique_ptr<const Entrances> old = std::move(entrances_);
    entrances_ = std::move(next);
    retired_.emplace_back(data_->readers->next_epoch(), std::move(old));
    std::erase_if(retired_, [&](const auto& r) { return data_->readers->none_before(r.first); });
}

// Adds live rows, spread over all, until the entrances are as many as the rows ask for.
void LiveIndex::spread(std::vector<uint32_t>& entrances) {
    const uint64_t rows = data_->rows, wanted = std::min<uint64_t>(data_->live, pivots_for(data_->live));
    const auto add = [&](uint32_t slot) {
        if (data_->dead(slot) || parent_[slot] == slot) return;
        parent_[slot] = slot, depth_[slot] = 0;
        entrances.push_back(slot);
    };
    for (uint64_t i = 0; i < 8 * wanted && entrances.size() < wanted; ++i) add(uint32_t(random_.below(rows)));
    for (uint64_t slot = 0; entrances.empty() && wanted && slot < rows; ++slot) add(uint32_t(slot));
}

// The forest of an index that was just opened: from the entrances along the lists, and rows that none of these lead to are linked.
void LiveIndex::plant() {
    const uint64_t rows = data_->rows;
    const uint32_t degree = data_->header.degree;
    parent_.assign(rows, kNoSlot);
    depth_.assign(rows, 0);
    std::vector<uint32_t> slots;
    const auto* pivots = data_->section[kPivots].as<const uint32_t>();
    for (uint32_t p = 0; p < data_->header.pivots; ++p)
        if (const uint32_t slot = pivots[p]; !data_->dead(slot) && parent_[slot] == kNoSlot) parent_[slot] = slot, slots.push_back(slot);
    spread(slots);
    if (slots.empty() && rows) slots.push_back(pivots[0]);  // all are dead
    std::vector<uint32_t> met = slots;
    enter_at(std::move(slots));
    size_t next = 0;
    const auto walk = [&] {
        for (; next < met.size(); ++next)
            for (uint32_t i = 0; i < degree; ++i)
                if (const uint32_t slot = list(met[next])[i]; parent_[slot] == kNoSlot && !data_->dead(slot))
                    parent_[slot] = met[next], depth_[slot] = uint8_t(std::min(255, depth_[met[next]] + 1)), met.push_back(slot);
    };
    if (data_->live) walk();
    for (uint64_t slot = 0; slot < rows; ++slot)
        if (!data_->dead(uint32_t(slot)) && parent_[slot] == kNoSlot) {
            link(uint32_t(slot));
            met.push_back(uint32_t(slot));
            walk();
        }
}

// Whether a row hangs below another, or in no tree at all.
bool LiveIndex::hangs_below(uint32_t slot, uint32_t under) const {
    constexpr int most = 4096;  // a longer way is none
    for (int i = 0; i < most; ++i) {
        if (slot == under) return true;
        const uint32_t above = parent_[slot];
        if (above == kNoSlot) return true;
        if (above == slot) return false;
        slot = above;
    }
    return true;
}

// Hangs slot under a row; how 0: whose list names it, 1: whose list has room, 2: whose list has an entry that can go.
bool LiveIndex::hang(uint32_t slot, uint32_t under, int how) {
    uint32_t* const entries = list(under);
    for (uint32_t i = data_->header.degree; i-- > 0;) {
        const uint32_t entry = entries[i];
        if (how == 0 ? entry != slot : how == 1 ? entry != under && parent_[entry] != kNoSlot : parent_[entry] == under && entry != under) continue;
        if (hangs_below(under, slot)) return false;
        __atomic_store_n(entries + i, slot, __ATOMIC_RELEASE);
        parent_[slot] = under;
        depth_[slot] = uint8_t(std::min(255, depth_[under] + 1));
        return true;
    }
    return false;
}

bool LiveIndex::hang_at_one(uint32_t slot, const uint32_t* rows, size_t n) {
    for (const int how : {0, 1, 2})
        for (size_t i = 0; i < n; ++i)
            if (rows[i] != slot && parent_[rows[i]] != kNoSlot && hang(slot, rows[i], how)) return true;
    return false;
}

// Hangs slot somewhere: under one of these rows, its own neighbours, what a search finds, an entrance, any row. Where there is none it becomes an entrance.
void LiveIndex::adopt(uint32_t slot, const uint32_t* rows, size_t n) {
    if (hang_at_one(slot, list(slot), data_->header.degree) || hang_at_one(slot, rows, n)) return;
    std::vector<uint32_t> slots;
    prepare(slot);
    near(slots, slot);
    if (hang_at_one(slot, slots.data(), slots.size())) return;
    slots = entrances_->slots;
    if (hang_at_one(slot, slots.data(), slots.size())) return;
    if (std::count_if(slots.begin(), slots.end(), [&](uint32_t s) { return parent_[s] == s; }) >= kMaxPivots)
        for (uint64_t s = 0; s < data_->rows; ++s)
            if (const auto other = uint32_t(s); hang_at_one(slot, &other, 1)) return;
    parent_[slot] = slot, depth_[slot] = 0;
    slots.push_back(slot);
    enter_at(std::move(slots));
}

// Takes a hidden row out of the forest; what hung under it is hung elsewhere.
void LiveIndex::uproot(uint32_t slot) {
    const uint32_t degree = data_->header.degree;
    const uint32_t* const neighbours = list(slot);
    std::vector<uint32_t> children;
    for (uint32_t i = 0; i < degree; ++i)
        if (const uint32_t child = neighbours[i]; child != slot && parent_[child] == slot) children.push_back(child);
    const bool entrance = parent_[slot] == slot;
    parent_[slot] = kNoSlot;
    if (entrance) {
        std::vector<uint32_t> slots = entrances_->slots;
        std::erase(slots, slot);
        if (slots.size() < pivots_for(data_->live) && data_->live) {
            uint32_t heir = children.empty() ? kNoSlot : children.front();
            for (uint32_t i = 0; i < degree && heir == kNoSlot; ++i)
                if (const uint32_t s = neighbours[i]; parent_[s] != kNoSlot && parent_[s] != s) heir = s;
            if (heir != kNoSlot) parent_[heir] = heir, depth_[heir] = 0, slots.push_back(heir), std::erase(children, heir);
            else spread(slots);
        }
        if (slots.empty()) slots.push_back(slot);
        enter_at(std::move(slots));
    }
    // One may only find a place under another that has found its own.
    for (int round = 0; round < 2; ++round)
        std::erase_if(children, [&](uint32_t child) {
            return hang_at_one(child, list(child), degree) || hang_at_one(child, neighbours, degree);
        });
    for (const uint32_t child : children) adopt(child, neighbours, degree);
}

// Follows the forest from some live rows to an entrance: every link must be there.
void LiveIndex::sample_reachable() {
    const uint64_t rows = data_->rows;
    const uint32_t degree = data_->header.degree;
    uint64_t sampled = 0, reached = 0;
    for (int i = 0; i < 256 && rows; ++i) {
        auto slot = uint32_t(random_.below(rows));
        if (data_->dead(slot)) continue;
        ++sampled;
        uint64_t steps = 0;
        for (; parent_[slot] != slot && parent_[slot] != kNoSlot && ++steps < rows; slot = parent_[slot])
            if (std::find(list(parent_[slot]), list(parent_[slot]) + degree, slot) == list(parent_[slot]) + degree) break;
        reached += parent_[slot] == slot && std::find(entrances_->slots.begin(), entrances_->slots.end(), slot) != entrances_->slots.end();
    }
    reachable_ = sampled ? double(reached) / double(sampled) : 1;
}

size_t LiveIndex::consolidate() {
    const std::lock_guard one(consolidating_);
    std::unique_lock lock(writer_);
    return sweep(lock, true);
}

// For a writer, who has the lock.
void LiveIndex::sweep_now() {
    std::unique_lock lock(writer_, std::adopt_lock);
    sweep(lock, false);
    lock.release();
}

// Drops hidden rows from all lists and frees their slots. let_others: writers go on between the steps; a sweep that one of them makes
// takes this one's place.
size_t LiveIndex::sweep(std::unique_lock<std::mutex>& lock, bool let_others) {
    const uint64_t number = ++sweeps_;
    std::vector<bool> gone(data_->rows);
    std::vector<uint32_t> slots, freed;
    for (uint32_t slot = 0; slot < data_->rows; ++slot)
        if (data_->dead(slot) && !freed_[slot] && parent_[slot] == kNoSlot) gone[slot] = true, freed.push_back(slot);
    for (const uint32_t entrance : entrances_->slots)  // of an index without a row one stays
        if (gone[entrance]) gone[entrance] = false, std::erase(freed, entrance);
    data_->detours = 0;
    if (freed.empty()) return 0;
    // Links to hidden rows are never made anew, so lists that were repaired stay so while writers go on between the steps.
    constexpr uint32_t step = 1024;
    const uint32_t degree = data_->header.degree;
    const auto is_gone = [&](uint32_t s) { return s < gone.size() && gone[s]; };
    for (uint64_t i = 0; i < gone.size(); ++i) {
        if (let_others && i % step == step - 1) {
            lock.unlock();
            lock.lock();
            if (number != sweeps_) return 0;
        }
        const auto slot = uint32_t(i);
        const uint32_t* const neighbours = list(slot);
        if (is_gone(slot) || freed_[slot] || std::none_of(neighbours, neighbours + degree, is_gone)) continue;
        slots.clear();
        for (uint32_t n = 0; n < degree; ++n) {
            if (!is_gone(neighbours[n])) slots.push_back(neighbours[n]);
            else slots.insert(slots.end(), list(neighbours[n]), list(neighbours[n]) + degree);
        }
        choose(slot, slots);
        std::erase_if(slots, is_gone);
        set_list(slot, slots);
        // Where all around it are gone it would be left with too few ways on.
        if (slots.size() < std::min<uint64_t>(degree / 8, data_->live - 1) && parent_[slot] != kNoSlot) link(slot);
    }
    for (const uint32_t slot : freed) freed_[slot] = true;
    freed_count_ += freed.size();
    count();
    std::vector<uint32_t> entrances = entrances_->slots;
    if (const size_t before = entrances.size(); spread(entrances), entrances.size() > before) enter_at(std::move(entrances));
    const size_t n = freed.size();
    waiting_.emplace_back(data_->readers->next_epoch(), std::move(freed));
    return n;
}

void LiveIndex::refuse_if_unsynced() const {
    if (!unsynced_.empty()) fail("no write is taken: ", unsynced_, ". A snapshot is tried until one succeeds, which puts on the disk what was acknowledged");
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
    std::unique_lock lock(writer_);
    refuse_if_unsynced();
    std::vector<uint64_t> fresh;
    for (size_t i = 0; i < n; ++i)
        if (find(ids[i]) == kNoSlot) fresh.push_back(ids[i]);
    std::sort(fresh.begin(), fresh.end());
    fresh.erase(std::unique(fresh.begin(), fresh.end()), fresh.end());
    if (!fresh.empty() && data_->live + fresh.size() > options_.capacity)
        fail("the index is full: ", data_->live.load(), " rows of a capacity of ", options_.capacity, ", and ", fresh.size(), " of these ids are new. Delete rows or raise --capacity");
    make_room(n);
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
    refuse_if_unsynced();
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
    if (log_->dirty && unsynced_.empty()) log_->file.sync();  // it counts until the new file is there, and nobody will look after it any more
    const uint64_t before = log_->generation;
    open_log(before + 1);
    Header h = data_->header;
    h.rows = data_->rows, h.live = data_->live, h.pivots = uint32_t(entrances_->slots.size());
    h.wal_position = before + 1;
    h.content += before + 1;
    const std::string error = in_child([&] { write_index(*data_, h, path_); }, [&] { writers.unlock(); });
    if (!error.empty()) fail(path_, ": no snapshot: ", error);  // the logs so far continue the old file
    writers.lock();
    unsynced_.clear();
    writers.unlock();
    for (uint64_t old = before; old && std::filesystem::remove(log_name_ + "." + std::to_string(old)); --old) {}
}

}  // namespace vnni
