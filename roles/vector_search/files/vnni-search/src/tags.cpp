// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "tags.hpp"

#include <algorithm>
#include <mutex>

namespace vnni {

Tags::Tags(uint64_t reserve_rows) : set_of_(Region::anonymous(4 * reserve_rows, 4 * reserve_rows)), sets_(1) {}

void Tags::check(const std::vector<std::string>& tags) {
    if (tags.size() > kMaxTagsPerRow) fail("a row has ", tags.size(), " tags, at most ", kMaxTagsPerRow, " are possible");
    for (const std::string& tag : tags)
        if (tag.empty() || tag.size() > kMaxTagBytes) fail("a tag of ", tag.size(), " bytes, expected 1 to ", kMaxTagBytes);
}

uint32_t Tags::number_of(const std::string& tag) {
    const auto [it, fresh] = numbers_.try_emplace(tag, uint32_t(names_.size()));
    if (fresh) names_.push_back(tag), tag_sets_.emplace_back();
    return it->second;
}

uint32_t Tags::set_number_of(std::vector<uint32_t> tags) {
    std::sort(tags.begin(), tags.end());
    tags.erase(std::unique(tags.begin(), tags.end()), tags.end());
    if (tags.empty()) return 0;
    const auto [it, fresh] = set_numbers_.try_emplace(std::string(reinterpret_cast<const char*>(tags.data()), 4 * tags.size()), uint32_t(sets_.size()));
    if (fresh) {
        for (const uint32_t tag : tags) tag_sets_[tag].push_back(it->second);
        sets_.push_back({std::move(tags), {}, 0});
    }
    return it->second;
}

void Tags::put(uint32_t slot, uint32_t set) {
    uint32_t* const place = set_of_.as<uint32_t>() + slot;
    const uint32_t old = *place;
    if (old == set) return;
    if (old) --sets_[old].rows;
    __atomic_store_n(place, set, __ATOMIC_RELAXED);
    if (!set) return;
    Set& s = sets_[set];
    ++s.rows;
    s.slots.push_back(slot);
    if (s.slots.size() > 2 * s.rows + 16) {
        std::sort(s.slots.begin(), s.slots.end());
        s.slots.erase(std::unique(s.slots.begin(), s.slots.end()), s.slots.end());
        std::erase_if(s.slots, [&](uint32_t other) { return set_of(other) != set; });
    }
}

void Tags::reserve(uint64_t rows) {
    const std::unique_lock lock(mutex_);
    set_of_.grow(4 * rows);
}

void Tags::set(uint32_t slot, std::vector<std::string> tags) {
    check(tags);
    const std::unique_lock lock(mutex_);
    std::vector<uint32_t> numbers;
    for (const std::string& tag : tags) numbers.push_back(number_of(tag));
    put(slot, set_number_of(std::move(numbers)));
}

std::vector<std::string> Tags::get(uint32_t slot) const {
    const std::shared_lock lock(mutex_);
    std::vector<std::string> tags;
    for (const uint32_t tag : sets_[set_of(slot)].tags) tags.push_back(names_[tag]);
    return tags;
}

Tags::Filter Tags::compile(const TagFilter& wanted, uint64_t live, uint64_t list_below) const {
    const std::shared_lock lock(mutex_);
    Filter filter;
    filter.tags = this;
    filter.sets.assign(sets_.size(), false);
    std::vector<uint32_t> all, any, none;
    for (const std::string& tag : wanted.all) {
        const auto it = numbers_.find(tag);
        if (it == numbers_.end()) return filter.listed = true, filter;  // no row has it
        all.push_back(it->second);
    }
    for (const std::string& tag : wanted.any)
        if (const auto it = numbers_.find(tag); it != numbers_.end()) any.push_back(it->second);
    if (any.empty() && !wanted.any.empty()) return filter.listed = true, filter;
    for (const std::string& tag : wanted.none)
        if (const auto it = numbers_.find(tag); it != numbers_.end()) none.push_back(it->second);

    std::vector<uint32_t> passing;
    const auto consider = [&](uint32_t set) {
        const auto& tags = sets_[set].tags;
        const auto has = [&](uint32_t tag) { return std::binary_search(tags.begin(), tags.end(), tag); };
        if (filter.sets[set] || !std::all_of(all.begin(), all.end(), has) || std::any_of(none.begin(), none.end(), has)) return;
        if (!any.empty() && std::none_of(any.begin(), any.end(), has)) return;
        filter.sets[set] = true;
        if (set) filter.rows += sets_[set].rows, passing.push_back(set);
    };
    if (!all.empty()) {
        const auto rarest = std::min_element(all.begin(), all.end(), [&](uint32_t a, uint32_t b) { return tag_sets_[a].size() < tag_sets_[b].size(); });
        for (const uint32_t set : tag_sets_[*rarest]) consider(set);
    } else if (!any.empty()) {
        for (const uint32_t tag : any)
            for (const uint32_t set : tag_sets_[tag]) consider(set);
    } else {
        for (uint32_t set = 0; set < sets_.size(); ++set) consider(set);
    }
    if (filter.sets[0]) {  // rows without tags are not listed anywhere
        uint64_t tagged = 0;
        for (const Set& set : sets_) tagged += set.rows;
        filter.rows += live > tagged ? live - tagged : 0;
    } else if (filter.rows <= list_below) {
        filter.listed = true;
        for (const uint32_t set : passing)
            for (const uint32_t slot : sets_[set].slots)
                if (set_of(slot) == set) filter.candidates.push_back(slot);
        std::sort(filter.candidates.begin(), filter.candidates.end());
        filter.candidates.erase(std::unique(filter.candidates.begin(), filter.candidates.end()), filter.candidates.end());
    }
    return filter;
}

// In the file: u32 tags, sets, then per tag u32 length and bytes, per set (from 1 on) u32 length and numbers, per row u32 set.
Region Tags::serialize(uint64_t rows) const {
    const std::shared_lock lock(mutex_);
    std::vector<uint8_t> bytes;
    const auto put = [&](const void* p, size_t n) { bytes.insert(bytes.end(), static_cast<const uint8_t*>(p), static_cast<const uint8_t*>(p) + n); };
    const auto put32 = [&](size_t value) { const auto word = uint32_t(value); put(&word, 4); };
    put32(names_.size());
    put32(sets_.size() - 1);
    for (const std::string& tag : names_) put32(tag.size()), put(tag.data(), tag.size());
    for (size_t s = 1; s < sets_.size(); ++s) put32(sets_[s].tags.size()), put(sets_[s].tags.data(), 4 * sets_[s].tags.size());
    Region region = Region::anonymous(bytes.size() + 4 * rows);
    std::memcpy(region.data(), bytes.data(), bytes.size());
    std::memcpy(region.data() + bytes.size(), set_of_.data(), 4 * rows);
    return region;
}

std::shared_ptr<Tags> Tags::parse(const std::string& path, const uint8_t* bytes, size_t size, uint64_t rows, uint64_t reserve_rows) {
    auto tags = std::make_shared<Tags>(std::max(rows, reserve_rows));
    const auto damaged = [&] { fail(path, ": section tags is damaged"); };
    size_t at = 0;
    const auto take = [&](size_t n) {
        if (n > size - at) damaged();
        at += n;
        return bytes + at - n;
    };
    const auto take32 = [&] { uint32_t word; std::memcpy(&word, take(4), 4); return word; };
    const uint32_t names = take32(), sets = take32();
    for (uint32_t i = 0; i < names; ++i) {
        const uint32_t length = take32();
        if (length < 1 || length > kMaxTagBytes || tags->number_of(std::string(reinterpret_cast<const char*>(take(length)), length)) != i) damaged();
    }
    for (uint32_t s = 1; s <= sets; ++s) {
        const uint32_t length = take32();
        if (length < 1 || length > kMaxTagsPerRow) damaged();
        std::vector<uint32_t> numbers(length);
        std::memcpy(numbers.data(), take(4 * length), 4 * length);
        if (std::any_of(numbers.begin(), numbers.end(), [&](uint32_t n) { return n >= names; }) || tags->set_number_of(numbers) != s) damaged();
    }
    for (uint64_t row = 0; row < rows; ++row) {
        const uint32_t set = take32();
        if (set > sets) damaged();
        tags->put(uint32_t(row), set);
    }
    if (at != size) damaged();
    return tags;
}

}  // namespace vnni
