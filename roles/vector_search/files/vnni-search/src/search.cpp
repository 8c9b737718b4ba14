// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "search.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace vnni {

// --- the pool ---

// Floats in an order that unsigned integers share (their lowest bit gives way), then the slot, then the expanded mark. One row has one key: zero has
// two signs, by which way it was computed, and a row with both would be found twice.
static uint64_t key_of(float distance, uint32_t slot) {
    const uint32_t bits = std::bit_cast<uint32_t>(distance + 0.0f);
    const uint32_t ordered = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
    return uint64_t(ordered >> 1) << 33 | uint64_t(slot) << 1;
}

float Pool::distance(uint32_t i) const {
    const uint32_t ordered = uint32_t(keys_[i] >> 33) << 1;
    return std::bit_cast<float>(ordered ^ (ordered >> 31 ? 0x80000000u : 0xffffffffu));
}

void Pool::reset(uint32_t capacity) {
    size_ = 0;
    grow(capacity);
}

void Pool::grow(uint32_t capacity) {
    capacity_ = capacity;
    if (keys_.size() < capacity) keys_.resize(capacity);
    if (size_ == capacity_ && size_) limit_ = distance(size_ - 1);
}

uint32_t Pool::merge(const uint32_t* slots, const float* distances, size_t n) {
    uint64_t* const keys = keys_.data();
    uint32_t size = size_, first = size;
    for (size_t i = 0; i < n; ++i) {
        const uint64_t key = key_of(distances[i], slots[i]);
        if (size == capacity_ && key >= keys[size - 1]) continue;
        uint32_t at = 0;  // of the first that is not nearer; by masks, as no branch here could be predicted
        for (uint32_t left = size; left;) {
            const uint32_t half = left - left / 2;
            at += half & -uint32_t(keys[at + half - 1] < key);
            left -= half;
        }
        if (at < size && (keys[at] & ~kExpanded) == key) continue;  // here already
        size += size < capacity_;
        std::memmove(keys + at + 1, keys + at, (size - 1 - at) * sizeof *keys);
        keys[at] = key;
        first = std::min(first, at);
    }
    size_ = size;
    if (size_ == capacity_) limit_ = distance(size_ - 1);
    return std::min(first, size_);
}

uint32_t Pool::expand(uint32_t& i, uint32_t end) {
    for (end = std::min(end, size_); i < end; ++i)
        if (!(keys_[i] & kExpanded)) {
            keys_[i] |= kExpanded;
            return uint32_t(keys_[i++] >> 1);
        }
    return kNoSlot;
}

// --- the visited filter ---

void Visited::reset(uint32_t ef) {
    const uint32_t bits = std::clamp<uint32_t>(uint32_t(std::bit_width(ef)) + 6, 12, 22);
    if (table_.size() < 1ull << bits) table_.resize(1ull << bits);
    std::fill_n(table_.begin(), 1ull << bits, kNoSlot);
    shift_ = 32 - bits;
}

// --- the search ---

// A step expands the best few nodes together: their misses overlap. More would compare rows that nobody asked for.
constexpr uint32_t kStep = 4;
constexpr uint32_t kSeeds = 16;  // pivots kept to start from

void Beam::room(size_t n) {
    n += 16;  // the kernels store whole vectors
    if (found_.size() < n) found_.resize(n), kept_.resize(n), dots_.resize(n), terms_.resize(n), distances_.resize(n);
}

void Beam::compare(const View& view, const Query& query, size_t n) {
    uint16_t* const terms = query.term_coef ? terms_.data() : nullptr;
    view.dot(view.codes, found_.data(), n, query.codes.data(), dots_.data(), terms);
    n = kernels().select(found_.data(), dots_.data(), terms, n, query.coef, query.term_coef, pool.limit(), kept_.data(), distances_.data());
    first_new_ = n ? pool.merge(kept_.data(), distances_.data(), n) : pool.size();
}

// The pivots lie side by side. Of every kSeeds-th the nearest enters: vectors of minima need no sorting, and the nearest of all is one of them.
FOR_EACH_CPU static void nearest_of_lanes(const int32_t* dots, const uint16_t* terms, size_t n, float coef, float term_coef, float* nearest, uint32_t* which) {
    float best[kSeeds];
    int32_t at[kSeeds];
    for (size_t lane = 0; lane < kSeeds; ++lane) best[lane] = std::numeric_limits<float>::infinity(), at[lane] = 0;
    for (size_t i = 0; i < n; i += kSeeds)
        for (size_t lane = 0; lane < kSeeds; ++lane) {
            const float distance = coef * float(dots[i + lane]) + term_coef * float(terms[i + lane]);
            const int32_t nearer = -int32_t(distance < best[lane]);
            at[lane] = (at[lane] & ~nearer) | (int32_t(i) & nearer);
            best[lane] = std::min(best[lane], distance);
        }
    for (size_t lane = 0; lane < kSeeds; ++lane) nearest[lane] = best[lane], which[lane] = uint32_t(at[lane] + int32_t(lane));
}

void Beam::enter(const View& view, const Query& query, uint32_t capacity) {
    const uint32_t n = view.pivot_count, whole = n / kSeeds * kSeeds;
    room(n + kSeeds);
    for (uint32_t i = 0; i < n; ++i) found_[i] = i;
    view.dot(view.pivot_codes, found_.data(), n, query.codes.data(), dots_.data(), terms_.data());
    stats.distances += n;
    nearest_of_lanes(dots_.data(), terms_.data(), whole, query.coef, query.term_coef, distances_.data(), kept_.data());
    uint32_t m = whole ? kSeeds : 0;
    for (uint32_t i = whole; i < n; ++i, ++m) kept_[m] = i, distances_[m] = query.coef * float(dots_[i]) + query.term_coef * float(terms_[i]);
    for (uint32_t i = 0; i < m; ++i) kept_[i] = view.pivots[kept_[i]];
    pool.reset(std::max(1u, std::min(capacity, kSeeds)));
    pool.merge(kept_.data(), distances_.data(), m);
    pool.grow(capacity);
}

void Beam::search(const View& view, const Query& query, uint32_t ef, uint32_t keep) {
    room(size_t(kStep) * view.degree);
    stats = {};
    visited_.reset(ef);
    enter(view, query, std::max(ef, keep));

    const size_t list_bytes = sizeof(uint32_t) * view.degree;
    uint32_t picks[kStep];
    for (uint32_t cursor = 0;;) {
        uint32_t picked = 0;
        while (picked < kStep) {
            const uint32_t slot = pool.expand(cursor, ef);
            if (slot == kNoSlot) break;
            picks[picked++] = slot;
            prefetch(view.graph + size_t(slot) * view.degree, list_bytes);
        }
        if (!picked) break;
        stats.hops += picked;
        size_t n = 0;
        for (uint32_t p = 0; p < picked; ++p) {
            const size_t before = n;
            n += visited_.filter(view.graph + size_t(picks[p]) * view.degree, view.degree, found_.data() + n);
            for (size_t i = before; i < n; ++i) prefetch(view.codes + size_t(found_[i]) * view.stride, view.stride);
        }
        stats.distances += n;
        compare(view, query, n);
        cursor = std::min(cursor, first_new_);
    }
}

void Beam::scan(const View& view, const Query& query, uint32_t ef, uint64_t n, const uint32_t* slots,
                const std::function<bool(uint32_t)>& pass) {
    constexpr size_t chunk = 256;
    room(chunk);
    stats = {};
    pool.reset(ef);
    for (uint64_t next = 0; next < n;) {
        size_t m = 0;
        while (m < chunk && next < n) {
            const uint32_t slot = slots ? slots[next] : uint32_t(next);
            ++next;
            if (pass && !pass(slot)) continue;
            if (slots) prefetch(view.codes + size_t(slot) * view.stride, view.stride);
            found_[m++] = slot;
        }
        stats.distances += m;
        compare(view, query, m);
    }
}

}  // namespace vnni
