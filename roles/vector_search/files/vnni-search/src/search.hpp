// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The graph search itself, used by Searcher, by the build and by live updates alike.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "kernels.hpp"
#include "util.hpp"

namespace vnni {

// Plain loops that the compiler vectorises once per instruction set.
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

// Into the second cache: a core waits for far more lines there than in the first, and the lines of a step are as many.
inline void prefetch(const void* p, size_t bytes) {
    const char* const end = static_cast<const char*>(p) + bytes;
    for (const char* line = static_cast<const char*>(p) - reinterpret_cast<uintptr_t>(p) % 64; line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

constexpr uint32_t kNoSlot = 0xffffffff;
constexpr uint32_t kMaxDim = 4096, kMaxK = 1000, kMaxEf = 1 << 20, kMaxPivots = 1024;

constexpr double kWalkRows = 12;  // a walk compares about so many rows a candidate kept

// How many pivots an index of so many rows has: one in 64 up to 256, one in 256 beyond 65,536 rows. Each costs every query the same.
constexpr uint32_t pivots_for(uint64_t rows) {
    return uint32_t(std::clamp<uint64_t>(std::max(rows / 256, std::min<uint64_t>(rows / 64, 256)), 1, kMaxPivots));
}

// A row is coded in `width` coordinates: its own (width = dim) or, where a few directions hold nearly all that tells rows apart, those
// of greatest variance (the basis). A coordinate is scale * (code - offset); offset 128 for 8-bit codes, 7.5 for 4-bit ones.
//
// For distances a row needs its squared length too, the term: in units of term_step it is the number that the lowest bits of its last
// 16 bytes make, so that it costs no cache line. Bytes behind the last coordinate take these bits for nothing; coordinates are rounded
// to the codes that end so.
struct Quantizer {
    uint32_t dim = 0, width = 0, bits = 8, stride = 0;  // stride: bytes of a code row
    float term_step = 0;                                // 0: no terms
    std::vector<float> mean, mean_coordinates, scale;   // of dim, width and width elements
    const uint8_t* basis = nullptr;                     // [width][round_up(dim, 64)], 128 is zero; null: a row's own coordinates
    std::vector<float> basis_scale, basis_columns;      // of a basis: [width]; the same as floats, [dim][width]

    // Chooses mean and scale from a sample of rows: least squared error; one scale for 8 bits, one a coordinate for 4.
    // whole_range: no sampled value is clipped, as the extreme rows are the ones that matter.
    // terms: rows are to have terms. The basis, if any, was set before by set_basis().
    void train(const std::vector<float>& sample, uint32_t bits, bool whole_range, bool terms);
    void set_basis(const uint8_t* basis, const float* scale, uint32_t width);  // dim and mean are there already
    void set_mean(const std::vector<float>& sample);
    static uint32_t stride_for(uint32_t width, uint32_t bits);
    void coordinates(const float* row, bool centred, float* out) const;  // out: width floats
    float encode(const float* row, uint8_t* code) const;                 // returns the squared length of the row less mean, as searches see it
    void decode(const uint8_t* code, float* coordinates) const;          // centred ones

 private:
    float decoded(const uint8_t* code, uint32_t j) const;
    float squared_length(const uint8_t* code) const;
    void set_term(const float* coordinates, float rest, uint8_t* code) const;
};
// The directions of greatest variance among the sample's rows less mean, [width][round_up(dim, 64)] as above, and their scales.
void principal_directions(const std::vector<float>& sample, const std::vector<float>& mean, uint32_t width, uint8_t* basis, float* scale);

// A query as the kernels want it: distance(row) = coef * dot(codes) + term_coef * term(row), in the order of true distances.
struct Query {
    std::vector<int8_t> codes;      // zero-padded to the row's length
    float coef = 0, term_coef = 0;  // term_coef 0: rows' terms do not count
    void prepare(const Quantizer&, Metric, const float* query);
    void prepare_coded(const Quantizer&, Metric, const uint8_t* code);  // the row of this code

 private:
    void round(const Quantizer&, Metric);  // coordinates_ to codes
    std::vector<float> coordinates_, weights_;
    std::vector<int8_t> rounded_;
    std::vector<int32_t> dots_;
    std::vector<uint32_t> numbers_;
};
bool all_finite(const float*, size_t);
void normalise(float*, size_t);  // a zero vector stays zero

// What a search reads of an index.
struct View {
    const uint8_t* codes = nullptr;
    size_t stride = 0;
    uint32_t bits = 8;
    const uint32_t* graph = nullptr;
    uint32_t degree = 0;
    const uint32_t* pivots = nullptr;
    const uint8_t* pivot_codes = nullptr;
    uint32_t pivot_count = 0;

    void dot(const uint8_t* base, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) const {
        const Kernels& k = kernels();
        (bits == 4 ? k.dot4 : k.dot8)(base, stride, stride, ids, n, query, out, terms);
    }
};

// The candidates of a search, nearest first: distance, slot and expanded mark in one sortable word.
class Pool {
 public:
    void reset(uint32_t capacity);
    void grow(uint32_t capacity);
    uint32_t size() const { return size_; }
    uint32_t slot(uint32_t i) const { return uint32_t(keys_[i] >> 1); }
    float distance(uint32_t i) const;
    float limit() const { return size_ < capacity_ ? std::numeric_limits<float>::infinity() : limit_; }  // what comes in must be below
    // Adds candidates (distances below limit()); returns the position of the nearest new one, size() when none was new.
    uint32_t merge(const uint32_t* slots, const float* distances, size_t n);
    // Marks the nearest unexpanded candidate from position i on, before `end`, and returns its slot; kNoSlot: none. i moves behind it.
    uint32_t expand(uint32_t& i, uint32_t end);

 private:
    static constexpr uint64_t kExpanded = 1;
    std::vector<uint64_t> keys_;
    uint32_t size_ = 0, capacity_ = 0;
    float limit_ = 0;
};

// A lossy set of slots: a slot that fell out is compared again, which costs time but changes nothing, as the pool takes no
// duplicates. Its size depends on the effort, not on the rows.
class Visited {
 public:
    void reset(uint32_t ef);
    // Appends those of list that were not seen to out; branch-free.
    size_t filter(const uint32_t* list, uint32_t n, uint32_t* out) {
        size_t m = 0;
        uint32_t* const table = table_.data();
        const uint32_t shift = shift_;  // a copy: the stores below could change the member for all the compiler knows
        for (uint32_t i = 0; i < n; ++i) {
            const uint32_t id = __atomic_load_n(list + i, __ATOMIC_ACQUIRE);
            uint32_t& entry = table[id * 2654435769u >> shift];
            out[m] = id;
            m += entry != id;
            entry = id;
        }
        return m;
    }

 private:
    std::vector<uint32_t> table_;
    uint32_t shift_ = 0;
};

class Beam {
 public:
    // Leaves the nearest slots found in pool, max(ef, keep) of them; the nearest ef are those whose lists were followed.
    void search(const View&, const Query&, uint32_t ef, uint32_t keep = 0);
    // Compares slots [0, n), or those of `slots`; leaves the ef nearest in pool. pass: only these rows.
    void scan(const View&, const Query&, uint32_t ef, uint64_t n, const uint32_t* slots, const std::function<bool(uint32_t)>& pass);
    Pool pool;
    SearchStats stats;

 private:
    void room(size_t n);                                // of all the arrays below
    void enter(const View&, const Query&, uint32_t ef);  // the nearest pivots into the pool
    void compare(const View&, const Query&, size_t n);  // found_[0, n) into the pool
    Visited visited_;
    std::vector<uint32_t> found_, kept_;
    std::vector<int32_t> dots_;
    std::vector<uint16_t> terms_;
    std::vector<float> distances_;
    uint32_t first_new_ = 0;
};

}  // namespace vnni
