// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The arithmetic of a search, one table of functions a CPU family, chosen once by cpuid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vnni {

// All integer kernels give the same bits on every family. Rows are at base + id * stride, `bytes` long (a multiple of 32);
// queries are padded with zeros to that length.
struct Kernels {
    const char* name;
    // out[i] = sum row[ids[i]][j] * query[j], rows u8, query s8. terms (or null; room for three more): terms[i] is the number that the
    // lowest bits of the row's last 16 bytes make
    void (*dot8)(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms);
    // the same over 4-bit codes: byte j of a 64-byte block holds dimension j in its low nibble and 64 + j in its high one;
    // `bytes` is a multiple of 64, the query has 2 * bytes elements
    void (*dot4)(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms);
    // distance[i] = coef * dots[i] + term_coef * terms[i] (terms may be null); those below limit are kept, in order: their ids and
    // distances move to the front of kept / distances. Returns how many.
    size_t (*select)(const uint32_t* ids, const int32_t* dots, const uint16_t* terms, size_t n, float coef, float term_coef, float limit,
                     uint32_t* kept, float* distances);
    // out[i] = sum (half row[j]) * query[j], or with l2 sum (query[j] - row[j])^2; dim elements, rows `stride` halves apart
    void (*dot16)(const uint16_t* base, size_t stride, size_t dim, const uint32_t* ids, size_t n, const float* query, float* out);
    void (*l2_16)(const uint16_t* base, size_t stride, size_t dim, const uint32_t* ids, size_t n, const float* query, float* out);
};

// The family in use: the best this CPU has, or what VNNI_SEARCH_KERNEL names (an Error when the CPU lacks it).
const Kernels& kernels();
// Every family this CPU can run, best first; the tests compare each with the last, scalar.
std::vector<const Kernels*> usable_kernels();

}  // namespace vnni
