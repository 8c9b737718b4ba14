// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "search.hpp"

#include <algorithm>
#include <bit>

namespace vnni {

// --- the pool ---

// Floats in an order that unsigned integers share (their lowest bit gives way), then the slot, then the expanded mark.
static uint64_t key_of(float distance, uint32_t slot) {
    const uint32_t bits = std::bit_cast<uint32_t>(distance);
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
    if (fresh_.size() < n) fresh_.resize(n);
    size_t fresh = 0;
    for (size_t i = 0; i < n; ++i) fresh_[fresh++] = key_of(distances[i], slots[i]);
    if (fresh > capacity_) {
        std::nth_element(fresh_.begin(), fresh_.begin() + capacity_, fresh_.begin() + ptrdiff_t(fresh));
        fresh = capacity_;
    }
    if (fresh <= 24) {  // the usual few: insertion sort
        for (size_t i = 1; i < fresh; ++i) {
            const uint64_t key = fresh_[i];
            size_t j = i;
            for (; j > 0 && fresh_[j - 1] > key; --j) fresh_[j] = fresh_[j - 1];
            fresh_[j] = key;
        }
    } else {
        std::sort(fresh_.begin(), fresh_.begin() + ptrdiff_t(fresh));
    }
    // Without those that are here already or twice among the new.
    uint32_t first = size_, at = 0;
    size_t kept = 0;
    for (size_t i = 0; i < fresh; ++i) {
        const uint64_t key = fresh_[i];
        at = uint32_t(std::lower_bound(keys_.begin() + at, keys_.begin() + size_, key) - keys_.begin());
        const bool known = (at < size_ && (keys_[at] & ~kExpanded) == key) || (kept && fresh_[kept - 1] == key);
        if (known) continue;
        if (!kept) first = at;
        fresh_[kept++] = key;
    }
    if (!kept) return size_;
    // Backwards, so that only what moves is touched; what would land beyond the capacity falls out.
    ptrdiff_t i = ptrdiff_t(size_) - 1, j = ptrdiff_t(kept) - 1;
    for (ptrdiff_t w = i + j + 1; j >= 0; --w) {
        const uint64_t key = i >= 0 && keys_[size_t(i)] > fresh_[size_t(j)] ? keys_[size_t(i--)] : fresh_[size_t(j--)];
        if (w < ptrdiff_t(capacity_)) keys_[size_t(w)] = key;
    }
    size_ = uint32_t(std::min<size_t>(capacity_, size_ + kept));
    if (size_ == capacity_) limit_ = distance(size_ - 1);
    return first;
}

uint32_t Pool::expand(uint32_t& i) {
    for (; i < size_; ++i)
        if (!(keys_[i] & kExpanded)) {
            keys_[i] |= kExpanded;
            return uint32_t(keys_[i++] >> 1);
        }
    return kNoSlot;
}

uint32_t Pool::peek(uint32_t& i) const {
    for (; i < size_; ++i)
        if (!(keys_[i] & kExpanded)) return uint32_t(keys_[i++] >> 1);
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
constexpr uint32_t kStep = 3;
constexpr uint32_t kSeeds = 16;  // pivots kept to start from
constexpr uint32_t kAhead = 2;   // nodes behind them whose lists are fetched meanwhile

static void prefetch(const void* p, size_t bytes) {
    for (size_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(static_cast<const char*>(p) + offset);
}

static void prefetch_rows(const View& view, const float* term, const uint32_t* slots, size_t n) {
    const uint8_t* const codes = view.codes;
    const size_t stride = view.stride;
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* const row = codes + slots[i] * stride;
        __builtin_prefetch(row);
        for (size_t offset = 64; offset < stride; offset += 64) __builtin_prefetch(row + offset);
    }
    if (!term) return;
    for (size_t i = 0; i < n; ++i) __builtin_prefetch(term + slots[i]);
}

void Beam::compare(const View& view, const Query& query, size_t n) {
    view.dot(view.codes, found_.data(), n, query.codes.data(), dots_.data());
    n = kernels().select(found_.data(), dots_.data(), n, query.coef, query.term, query.term_coef, pool.limit(), kept_.data(), distances_.data());
    first_new_ = n ? pool.merge(kept_.data(), distances_.data(), n) : pool.size();
}

void Beam::search(const View& view, const Query& query, uint32_t ef) {
    const size_t room = size_t(kStep) * view.degree + 32;
    if (found_.size() < room) found_.resize(room), kept_.resize(room), dots_.resize(room), distances_.resize(room);
    stats = {};
    visited_.reset(ef);

    // Enter at the nearest pivots; they lie side by side.
    pool.reset(std::min(ef, kSeeds));
    constexpr uint32_t chunk = 128;
    if (found_.size() < chunk + 16) found_.resize(chunk + 16), kept_.resize(chunk + 16), dots_.resize(chunk), distances_.resize(chunk + 16);
    for (uint32_t begin = 0; begin < view.pivot_count; begin += chunk) {
        const uint32_t n = std::min(chunk, view.pivot_count - begin);
        for (uint32_t i = 0; i < n; ++i) found_[i] = begin + i;
        view.dot(view.pivot_codes, found_.data(), n, query.codes.data(), dots_.data());
        const size_t m = kernels().select(found_.data(), dots_.data(), n, query.coef, query.term ? view.pivot_terms : nullptr,
                                          query.term_coef, pool.limit(), kept_.data(), distances_.data());
        for (size_t i = 0; i < m; ++i) kept_[i] = view.pivots[kept_[i]];
        if (m) pool.merge(kept_.data(), distances_.data(), m);
    }
    stats.distances += view.pivot_count;
    pool.grow(ef);

    const size_t list_bytes = sizeof(uint32_t) * view.degree;
    uint32_t picks[kStep];
    for (uint32_t cursor = 0;;) {
        uint32_t picked = 0;
        while (picked < kStep) {
            const uint32_t slot = pool.expand(cursor);
            if (slot == kNoSlot) break;
            picks[picked++] = slot;
            prefetch(view.graph + size_t(slot) * view.degree, list_bytes);
        }
        if (!picked) break;
        stats.hops += picked;
        uint32_t ahead = cursor;
        for (uint32_t i = 0; i < kAhead; ++i) {
            const uint32_t slot = pool.peek(ahead);
            if (slot == kNoSlot) break;
            prefetch(view.graph + size_t(slot) * view.degree, list_bytes);
        }
        size_t n = 0;
        for (uint32_t p = 0; p < picked; ++p) {
            const size_t before = n;
            n += visited_.filter(view.graph + size_t(picks[p]) * view.degree, view.degree, found_.data() + n);
            prefetch_rows(view, query.term, found_.data() + before, n - before);
        }
        stats.distances += n;
        compare(view, query, n);
        cursor = std::min(cursor, first_new_);
    }
}

void Beam::scan(const View& view, const Query& query, uint32_t ef, uint64_t n, const uint32_t* slots,
                const std::function<bool(uint32_t)>& pass) {
    constexpr size_t chunk = 256;
    if (found_.size() < chunk + 16) found_.resize(chunk + 16), kept_.resize(chunk + 16), dots_.resize(chunk), distances_.resize(chunk + 16);
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
