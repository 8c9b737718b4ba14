// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The tags of rows, and filters over them.
#pragma once

#include <memory>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "util.hpp"

namespace vnni {

constexpr size_t kMaxTagBytes = 255, kMaxTagsPerRow = 255;

// Every distinct set of tags is kept once; a row holds its set's number (0: no tags). A filter is decided set by set, then a row
// passes by one bit. Readers take the lock only to compile a filter.
class Tags {
 public:
    struct Filter {
        std::vector<bool> sets;           // which sets pass
        uint64_t rows = 0;                // how many rows that is
        bool listed = false;              // candidates holds all of them, in ascending order
        std::vector<uint32_t> candidates;
        const Tags* tags = nullptr;
        bool operator()(uint32_t slot) const {
            const uint32_t set = tags->set_of(slot);
            return set < sets.size() && sets[set];
        }
    };

    explicit Tags(uint64_t reserve_rows);
    static std::shared_ptr<Tags> parse(const std::string& path, const uint8_t* bytes, size_t size, uint64_t rows, uint64_t reserve_rows);
    Region serialize(uint64_t rows) const;

    void reserve(uint64_t rows);  // moves what filters read: no filter may be in use
    void set(uint32_t slot, std::vector<std::string> tags);  // replaces the row's tags
    std::vector<std::string> get(uint32_t slot) const;
    // Lists the candidates when at most `list_below` rows pass.
    Filter compile(const TagFilter&, uint64_t live, uint64_t list_below) const;
    static void check(const std::vector<std::string>& tags);  // throws Error on an empty or too long tag, or too many

 private:
    struct Set {
        std::vector<uint32_t> tags;   // sorted numbers
        std::vector<uint32_t> slots;  // rows that had it when written; those that still do count
        uint64_t rows = 0;
    };
    uint32_t set_of(uint32_t slot) const { return __atomic_load_n(set_of_.as<uint32_t>() + slot, __ATOMIC_RELAXED); }
    void put(uint32_t slot, uint32_t set);

    mutable std::shared_mutex mutex_;
    Region set_of_;  // u32 [rows]
    std::vector<std::string> names_;
    std::unordered_map<std::string, uint32_t> numbers_;
    std::vector<std::vector<uint32_t>> tag_sets_;  // tag -> the sets that have it
    std::vector<Set> sets_;
    std::unordered_map<std::string, uint32_t> set_numbers_;  // the numbers' bytes -> set
    uint32_t number_of(const std::string& tag);
    uint32_t set_number_of(std::vector<uint32_t> tags);
};

}  // namespace vnni
