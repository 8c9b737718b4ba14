// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// An index that changes while it is searched, and survives a crash at any moment.
//
// Writers take turns; readers never wait. A neighbour list is changed one atomic word at a time and every word is a valid slot at
// every moment. A row is written into a slot nobody links to, then linked, then shown. A deleted row is hidden at once and stays
// linked until consolidate() has repaired the lists around it; its slot is used again when every search that could know it is over.
// When the index outgrows its memory the rows move, and searches wait for that moment.
//
// Every live row can be reached through live rows, at every moment: a forest of links from the entrances leads to each, and no change
// of a list drops one of them. When a row is deleted, those that hung under it are hung elsewhere first.
//
// Files: the index, logs NAME.1, NAME.2, ... and NAME.lock. The index names the first log that continues it. A snapshot starts the next log,
// replaces the index by one that names it, and removes the logs before. Opening replays what there is;
// what cannot be replayed is set aside as NAME.N.lost.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "format.hpp"

namespace vnni {

// When a write is on the disk: before it is acknowledged, within `interval` seconds, or when the system pleases.
enum class Sync : uint8_t { always, interval, never };
Sync sync_from(const std::string&);  // throws Error

struct LiveOptions {
    OpenOptions open;
    Sync sync = Sync::always;
    double interval = 1;                       // seconds
    double consolidate_share = 0.1;            // of the rows hidden, from which the background repairs; above 1: never
    uint64_t capacity = uint64_t(kNoSlot) - 1; // live rows, from which new ids are refused; updates and deletes never are
};

class LiveIndex {
 public:
    // Opens the index at path and replays the logs log.1, log.2, ...; a torn last record is cut off. From a damaged record on
    // nothing is replayed: missing() says what.
    LiveIndex(const std::string& path, const std::string& log, const LiveOptions& = {});
    ~LiveIndex();

    std::shared_ptr<const Index> view() const { return index_; }
    // Inserts or replaces n rows; vectors: n * dim floats; tags: none or n sets. Acknowledged, as Sync says, when it returns.
    // A search sees a row's old or its new vector. Throws Error on bad input before anything changed.
    void upsert(const uint64_t* ids, const float* vectors, size_t n, const std::vector<std::vector<std::string>>& tags = {});
    size_t erase(const uint64_t* ids, size_t n);  // how many there were
    // Writes the index file anew and drops the logs before it. Neither readers nor writers wait: a forked process writes, to which memory
    // stands still, while the pages that writers change meanwhile are copied.
    void snapshot();
    // Repairs the lists around hidden rows and frees their slots; returns how many. Readers and, between steps, writers go on.
    size_t consolidate();
    uint64_t hidden() const { return data_->hidden; }  // rows deleted but still linked
    std::string missing() const { return missing_; }   // acknowledged writes that could not be replayed: one sentence; "" when all could
    double reachable() const { return reachable_; }    // share of a sample of the live rows, taken now and then, to which the forest leads

 private:
    struct Log;
    uint32_t find(uint64_t id) const;
    void remember(uint64_t id, uint32_t slot);
    void forget(uint64_t id);
    void grow_map();
    uint32_t take_slot();
    void make_room(uint64_t more);
    void count() { data_->hidden = data_->rows - data_->live - freed_count_; }
    bool apply(const uint8_t* record, size_t bytes);
    void refuse_if_unsynced() const;
    void sweep_now();
    size_t sweep(std::unique_lock<std::mutex>&, bool let_others);
    void prepare(uint32_t slot);
    void near(std::vector<uint32_t>& slots, uint32_t but);
    void plant();
    void enter_at(std::vector<uint32_t> slots);
    void spread(std::vector<uint32_t>& entrances);
    bool hangs_below(uint32_t slot, uint32_t under) const;
    bool hang(uint32_t slot, uint32_t under, int how);
    bool hang_at_one(uint32_t slot, const uint32_t* rows, size_t n);
    void adopt(uint32_t slot, const uint32_t* rows, size_t n);
    void uproot(uint32_t slot);
    void sample_reachable();
    void put(uint64_t id, const float* vector, const std::vector<std::string>& tags);
    bool remove(uint64_t id);
    void drop(uint32_t slot);
    void hide(uint32_t slot, bool hidden);
    void link(uint32_t slot, uint32_t but = kNoSlot);
    void choose(uint32_t slot, std::vector<uint32_t>& slots, uint32_t fresh = kNoSlot);
    void distances(uint32_t slot, const uint32_t* others, size_t n, float* out);
    void set_list(uint32_t slot, const std::vector<uint32_t>& neighbours);
    void replay();
    void open_log(uint64_t generation);
    void background(std::stop_token);
    uint32_t* list(uint32_t slot) const { return data_->section[kGraph].as<uint32_t>() + size_t(slot) * data_->header.degree; }

    const std::string path_, log_name_;
    const LiveOptions options_;
    std::shared_ptr<Index> index_;
    IndexData* data_ = nullptr;
    File lock_;                               // two processes that write one index would ruin it
    mutable std::mutex writer_, consolidating_, snapshotting_;
    std::unique_ptr<Log> log_;
    std::vector<uint32_t> map_;               // open addressing over the ids section: slot + 1, 0 free, kNoSlot erased
    size_t map_used_ = 0;
    std::vector<uint32_t> free_;              // slots to use again now
    std::vector<std::pair<uint64_t, std::vector<uint32_t>>> waiting_;  // epoch, slots free when no reader is that old
    std::vector<bool> freed_;                 // slots no list names
    uint64_t freed_count_ = 0, room_ = 0, sweeps_ = 0;
    std::vector<uint32_t> parent_;            // the row whose list leads here; an entrance is its own; kNoSlot: not in the forest
    std::vector<uint8_t> depth_;              // about how deep in the forest
    std::unique_ptr<const Entrances> entrances_;
    std::vector<std::pair<uint64_t, std::unique_ptr<const Entrances>>> retired_;  // epoch, as above
    Random random_{0x656e7472};
    std::string missing_, unsynced_;          // unsynced_: why acknowledged writes may not be on the disk
    std::atomic<double> reachable_{1};
    Beam beam_;                               // writers' scratch
    Query query_;
    std::vector<float> from_;
    uint32_t from_slot_ = kNoSlot;
    std::vector<float> scratch_;
    std::condition_variable_any wake_;
    std::jthread worker_;
};

}  // namespace vnni
