// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "kernels.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "index.hpp"
#include "util.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

namespace vnni {
namespace {

// A group of four rows; the last one of a call may repeat its first row, and only the real results are stored.
struct Four {
    const uint8_t* row[4];
    Four(const uint8_t* base, size_t stride, const uint32_t* ids, size_t n) {
        for (size_t r = 0; r < 4; ++r) row[r] = base + stride * ids[r < n ? r : 0];
    }
};

// The term hidden in a row: the lowest bits of its last 16 bytes, the first byte's least significant.
#if defined(__x86_64__)
inline uint16_t term_of(const uint8_t* row, size_t bytes) {
    const __m128i last = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + bytes - 16));
    return uint16_t(_mm_movemask_epi8(_mm_slli_epi16(last, 7)));
}
#elif defined(__aarch64__)
inline uint16_t term_of(const uint8_t* row, size_t bytes) {
    static constexpr uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t bits = vmulq_u8(vandq_u8(vld1q_u8(row + bytes - 16), vdupq_n_u8(1)), vld1q_u8(weights));
    return uint16_t(vaddv_u8(vget_low_u8(bits)) | vaddv_u8(vget_high_u8(bits)) << 8);
}
#endif
inline void take_terms(const Four& rows, size_t bytes, uint16_t* terms) {
    for (size_t r = 0; r < 4; ++r) terms[r] = term_of(rows.row[r], bytes);
}

namespace scalar {

uint16_t term_of(const uint8_t* row, size_t bytes) {
    uint16_t term = 0;
    for (size_t j = 0; j < 16; ++j) term |= uint16_t((row[bytes - 16 + j] & 1) << j);
    return term;
}

void dot8(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = base + stride * ids[i];
        int32_t sum = 0;
        for (size_t j = 0; j < bytes; ++j) sum += int32_t(row[j]) * query[j];
        out[i] = sum;
        if (terms) terms[i] = term_of(row, bytes);
    }
}

void dot4(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = base + stride * ids[i];
        int32_t sum = 0;
        for (size_t block = 0; block < bytes; block += 64)
            for (size_t j = 0; j < 64; ++j)
                sum += (row[block + j] & 15) * query[2 * block + j] + (row[block + j] >> 4) * query[2 * block + 64 + j];
        out[i] = sum;
        if (terms) terms[i] = term_of(row, bytes);
    }
}

size_t select(const uint32_t* ids, const int32_t* dots, const uint16_t* terms, size_t n, float coef, float term_coef, float limit,
              uint32_t* kept, float* distances) {
    size_t m = 0;
    for (size_t i = 0; i < n; ++i) {
        const float distance = coef * float(dots[i]) + (terms ? term_coef * float(terms[i]) : 0.0f);
        kept[m] = ids[i];
        distances[m] = distance;
        m += distance < limit;
    }
    return m;
}

template <bool L2>
void float16(const uint16_t* base, size_t stride, size_t dim, const uint32_t* ids, size_t n, const float* query, float* out) {
    for (size_t i = 0; i < n; ++i) {
        const uint16_t* row = base + stride * ids[i];
        float sum = 0;
        for (size_t j = 0; j < dim; ++j) {
            const float x = from_half(row[j]), difference = query[j] - x;
            sum += L2 ? difference * difference : query[j] * x;
        }
        out[i] = sum;
    }
}

constexpr Kernels table{"scalar", dot8, dot4, select, float16<false>, float16<true>};
}  // namespace scalar

#if defined(__x86_64__)
namespace avx2 {
#define TARGET __attribute__((target("avx2,fma,f16c")))

TARGET inline __m128i reduce(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

TARGET inline void store(int32_t* out, size_t n, __m128i sums) {
    if (n >= 4) return _mm_storeu_si128(reinterpret_cast<__m128i*>(out), sums);
    alignas(16) int32_t all[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(all), sums);
    for (size_t r = 0; r < n; ++r) out[r] = all[r];
}

TARGET inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// maddubs saturates, so bytes are widened to even and odd 16-bit lanes: exact, and no shuffle is needed.
TARGET inline __m256i dot_add(__m256i sum, __m256i u8, __m256i even, __m256i odd) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(u8, _mm256_set1_epi16(255)), even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(u8, 8), odd));
}
TARGET inline __m256i even_lanes(__m256i s8) { return _mm256_srai_epi16(_mm256_slli_epi16(s8, 8), 8); }
TARGET inline __m256i odd_lanes(__m256i s8) { return _mm256_srai_epi16(s8, 8); }

TARGET void dot8(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    for (size_t i = 0; i < n; i += 4) {
        const Four rows(base, stride, ids + i, n - i);
        __m256i sum[4] = {};
        for (size_t j = 0; j < bytes; j += 32) {
            const __m256i q = load(query + j), even = even_lanes(q), odd = odd_lanes(q);
            for (int r = 0; r < 4; ++r) sum[r] = dot_add(sum[r], load(rows.row[r] + j), even, odd);
        }
        store(out + i, n - i, reduce(sum[0], sum[1], sum[2], sum[3]));
        if (terms) take_terms(rows, bytes, terms + i);
    }
}

// A nibble is below 16, so two products stay below 2 * 15 * 128 and maddubs is exact here.
TARGET void dot4(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (size_t i = 0; i < n; i += 4) {
        const Four rows(base, stride, ids + i, n - i);
        __m256i sum[4] = {};
        for (size_t block = 0; block < bytes; block += 64)
            for (size_t j = 0; j < 64; j += 32) {
                const __m256i q0 = load(query + 2 * block + j), q1 = load(query + 2 * block + 64 + j);
                for (int r = 0; r < 4; ++r) {
                    const __m256i x = load(rows.row[r] + block + j);
                    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_and_si256(x, low), q0),
                                                           _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 4), low), q1));
                    sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(pairs, ones));
                }
            }
        store(out + i, n - i, reduce(sum[0], sum[1], sum[2], sum[3]));
        if (terms) take_terms(rows, bytes, terms + i);
    }
}

template <bool L2>
TARGET void float16(const uint16_t* base, size_t stride, size_t dim, const uint32_t* ids, size_t n, const float* query, float* out) {
    for (size_t i = 0; i < n; ++i) {
        const uint16_t* row = base + stride * ids[i];
        __m256 sum[2] = {};
        size_t j = 0;
        for (; j + 8 <= dim; j += 8) {
            const __m256 x = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + j))), q = _mm256_loadu_ps(query + j);
            const __m256 difference = _mm256_sub_ps(q, x);
            __m256& s = sum[j / 8 % 2];
            s = L2 ? _mm256_fmadd_ps(difference, difference, s) : _mm256_fmadd_ps(q, x, s);
        }
        const __m256 both = _mm256_add_ps(sum[0], sum[1]);
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        float total = _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
        for (; j < dim; ++j) {
            const float x = _cvtsh_ss(row[j]), difference = query[j] - x;
            total += L2 ? difference * difference : query[j] * x;
        }
        out[i] = total;
    }
}
#undef TARGET

constexpr Kernels table{"avx2", dot8, dot4, scalar::select, float16<false>, float16<true>};
}  // namespace avx2

// VNNI on 256-bit registers: client CPUs have it in the VEX encoding only. The EVEX twin exists so that
// the code is tested on server CPUs, where the VEX encoding is missing.
#define VNNI_256(SPACE, TARGETS, DPBUSD)                                                                                              \
    namespace SPACE {                                                                                                                 \
    __attribute__((target(TARGETS))) void dot8(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n,       \
                                               const int8_t* query, int32_t* out, uint16_t* terms) {                                                   \
        for (size_t i = 0; i < n; i += 4) {                                                                                           \
            const Four rows(base, stride, ids + i, n - i);                                                                            \
            __m256i sum[4] = {};                                                                                                      \
            for (size_t j = 0; j < bytes; j += 32) {                                                                                  \
                const __m256i q = avx2::load(query + j);                                                                              \
                for (int r = 0; r < 4; ++r) sum[r] = DPBUSD(sum[r], avx2::load(rows.row[r] + j), q);                                  \
            }                                                                                                                         \
            avx2::store(out + i, n - i, avx2::reduce(sum[0], sum[1], sum[2], sum[3]));                                                \
            if (terms) take_terms(rows, bytes, terms + i);                                                                            \
        }                                                                                                                             \
    }                                                                                                                                 \
    __attribute__((target(TARGETS))) void dot4(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n,       \
                                               const int8_t* query, int32_t* out, uint16_t* terms) {                                                   \
        const __m256i low = _mm256_set1_epi8(15);                                                                                     \
        for (size_t i = 0; i < n; i += 4) {                                                                                           \
            const Four rows(base, stride, ids + i, n - i);                                                                            \
            __m256i sum[4] = {};                                                                                                      \
            for (size_t block = 0; block < bytes; block += 64)                                                                        \
                for (size_t j = 0; j < 64; j += 32) {                                                                                 \
                    const __m256i q0 = avx2::load(query + 2 * block + j), q1 = avx2::load(query + 2 * block + 64 + j);                \
                    for (int r = 0; r < 4; ++r) {                                                                                     \
                        const __m256i x = avx2::load(rows.row[r] + block + j);                                                        \
                        sum[r] = DPBUSD(DPBUSD(sum[r], _mm256_and_si256(x, low), q0),                                                 \
                                        _mm256_and_si256(_mm256_srli_epi16(x, 4), low), q1);                                          \
                    }                                                                                                                 \
                }                                                                                                                     \
            avx2::store(out + i, n - i, avx2::reduce(sum[0], sum[1], sum[2], sum[3]));                                                \
            if (terms) take_terms(rows, bytes, terms + i);                                                                            \
        }                                                                                                                             \
    }                                                                                                                                 \
    constexpr Kernels table{#SPACE, dot8, dot4, scalar::select, avx2::float16<false>, avx2::float16<true>};                           \
    }
VNNI_256(avx_vnni, "avx2,fma,f16c,avxvnni", _mm256_dpbusd_avx_epi32)
VNNI_256(avx512_vnni_256, "avx2,fma,f16c,avx512f,avx512vl,avx512vnni", _mm256_dpbusd_epi32)
#undef VNNI_256

namespace avx512_vnni {
#define TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

// Four accumulators to four sums with one transposition instead of four reductions.
TARGET inline __m128i reduce(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

TARGET inline void store(int32_t* out, size_t n, __m128i sums) {
    _mm_mask_storeu_epi32(out, n >= 4 ? 15 : (1 << n) - 1, sums);
}

// Rows of `Blocks` 64-byte lines, their loop unrolled; 0: any number of lines and perhaps half a one.
template <size_t Blocks>
TARGET void dot8_blocks(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    const size_t whole = Blocks ? Blocks * 64 : bytes / 64 * 64;
    for (size_t i = 0; i < n; i += 4) {
        const Four rows(base, stride, ids + i, n - i);
        __m512i sum[4] = {};
#pragma GCC unroll 4
        for (size_t j = 0; j < whole; j += 64) {
            const __m512i q = _mm512_loadu_si512(query + j);
            for (int r = 0; r < 4; ++r) sum[r] = _mm512_dpbusd_epi32(sum[r], _mm512_loadu_si512(rows.row[r] + j), q);
        }
        if (!Blocks && bytes > whole) {
            const __m512i q = _mm512_castsi256_si512(avx2::load(query + whole));
            for (int r = 0; r < 4; ++r) sum[r] = _mm512_dpbusd_epi32(sum[r], _mm512_maskz_loadu_epi32(0xff, rows.row[r] + whole), q);
        }
        store(out + i, n - i, reduce(sum[0], sum[1], sum[2], sum[3]));
        if (terms) take_terms(rows, bytes, terms + i);
    }
}

void dot8(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    const auto run = bytes == 64 ? dot8_blocks<1> : bytes == 128 ? dot8_blocks<2> : dot8_blocks<0>;
    run(base, stride, bytes, ids, n, query, out, terms);
}

template <size_t Blocks>
TARGET void dot4_blocks(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    const __m512i low = _mm512_set1_epi8(15);
    const size_t whole = Blocks ? Blocks * 64 : bytes;
    for (size_t i = 0; i < n; i += 4) {
        const Four rows(base, stride, ids + i, n - i);
        __m512i sum[4] = {};
#pragma GCC unroll 4
        for (size_t j = 0; j < whole; j += 64) {
            const __m512i q0 = _mm512_loadu_si512(query + 2 * j), q1 = _mm512_loadu_si512(query + 2 * j + 64);
            for (int r = 0; r < 4; ++r) {
                const __m512i x = _mm512_loadu_si512(rows.row[r] + j);
                sum[r] = _mm512_dpbusd_epi32(sum[r], _mm512_and_si512(x, low), q0);
                sum[r] = _mm512_dpbusd_epi32(sum[r], _mm512_and_si512(_mm512_srli_epi16(x, 4), low), q1);
            }
        }
        store(out + i, n - i, reduce(sum[0], sum[1], sum[2], sum[3]));
        if (terms) take_terms(rows, bytes, terms + i);
    }
}

void dot4(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    const auto run = bytes == 64 ? dot4_blocks<1> : bytes == 128 ? dot4_blocks<2> : dot4_blocks<0>;
    run(base, stride, bytes, ids, n, query, out, terms);
}

TARGET size_t select(const uint32_t* ids, const int32_t* dots, const uint16_t* terms, size_t n, float coef, float term_coef, float limit,
                     uint32_t* kept, float* distances) {
    size_t m = 0;
    const __m512 coefs = _mm512_set1_ps(coef), term_coefs = _mm512_set1_ps(term_coef), limits = _mm512_set1_ps(limit);
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 live = n - i >= 16 ? 0xffff : (1u << (n - i)) - 1;
        const __m512i id = _mm512_maskz_loadu_epi32(live, ids + i);
        __m512 distance = _mm512_mul_ps(coefs, _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(live, dots + i)));
        if (terms) {
            const __m512 term = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(live, terms + i)));
            distance = _mm512_add_ps(distance, _mm512_mul_ps(term_coefs, term));
        }
        const __mmask16 keep = _mm512_mask_cmp_ps_mask(live, distance, limits, _CMP_LT_OQ);
        const int count = __builtin_popcount(keep);
        // compressing in a register and storing whole is faster than a compressing store; callers leave 16 elements of room
        _mm512_storeu_si512(kept + m, _mm512_maskz_compress_epi32(keep, id));
        _mm512_storeu_ps(distances + m, _mm512_maskz_compress_ps(keep, distance));
        m += size_t(count);
    }
    return m;
}

template <bool L2>
TARGET void float16(const uint16_t* base, size_t stride, size_t dim, const uint32_t* ids, size_t n, const float* query, float* out) {
    const size_t whole = dim / 16 * 16;
    const __mmask16 tail = (1u << (dim - whole)) - 1;
    for (size_t i = 0; i < n; ++i) {
        const uint16_t* row = base + stride * ids[i];
        __m512 sum[2] = {};
        const auto add = [&](size_t j, __m512 x, __m512 q) TARGET {
            __m512& s = sum[j / 16 % 2];
            const __m512 difference = _mm512_sub_ps(q, x);
            s = L2 ? _mm512_fmadd_ps(difference, difference, s) : _mm512_fmadd_ps(q, x, s);
        };
        for (size_t j = 0; j < whole; j += 16)
            add(j, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + j))), _mm512_loadu_ps(query + j));
        if (tail) add(whole, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(tail, row + whole)), _mm512_maskz_loadu_ps(tail, query + whole));
        out[i] = _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
    }
}
#undef TARGET

constexpr Kernels table{"avx512_vnni", dot8, dot4, select, float16<false>, float16<true>};
}  // namespace avx512_vnni

bool has(const Kernels& k) {
    __builtin_cpu_init();
    unsigned a = 0, b = 0, c = 0, d = 0;  // two features that not every compiler has a name for
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 29);
    const bool avx_vnni_bit = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
    const bool base = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
    const bool vnni512 = base && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") &&
                         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    if (&k == &avx512_vnni::table || &k == &avx512_vnni_256::table) return vnni512;
    if (&k == &avx_vnni::table) return base && avx_vnni_bit;
    return &k == &scalar::table || base;
}

const Kernels* const families[] = {&avx512_vnni::table, &avx_vnni::table, &avx512_vnni_256::table, &avx2::table, &scalar::table};

#elif defined(__aarch64__)
namespace neon_dotprod {
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))

TARGET int32_t sum_of(const int8_t* query, size_t n) {
    int32x4_t sum = vdupq_n_s32(0);
    for (size_t j = 0; j < n; j += 16) sum = vdotq_s32(sum, vld1q_s8(query + j), vdupq_n_s8(1));
    return vaddvq_s32(sum);
}

// SDOT wants both sides signed: u8 = s8 + 128, and 128 * sum(query) is the same for every row.
TARGET void dot8(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    const int32_t shift = 128 * sum_of(query, bytes);
    for (size_t i = 0; i < n; i += 4) {
        const Four rows(base, stride, ids + i, n - i);
        int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        for (size_t j = 0; j < bytes; j += 16) {
            const int8x16_t q = vld1q_s8(query + j);
            for (int r = 0; r < 4; ++r)
                sum[r] = vdotq_s32(sum[r], vreinterpretq_s8_u8(veorq_u8(vld1q_u8(rows.row[r] + j), vdupq_n_u8(128))), q);
        }
        for (size_t r = 0; r < 4 && i + r < n; ++r) out[i + r] = vaddvq_s32(sum[r]) + shift;
        if (terms) take_terms(rows, bytes, terms + i);
    }
}

TARGET void dot4(const uint8_t* base, size_t stride, size_t bytes, const uint32_t* ids, size_t n, const int8_t* query, int32_t* out, uint16_t* terms) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = base + stride * ids[i];
        int32x4_t sum = vdupq_n_s32(0);
        for (size_t block = 0; block < bytes; block += 64)
            for (size_t j = 0; j < 64; j += 16) {
                const uint8x16_t x = vld1q_u8(row + block + j);
                sum = vdotq_s32(sum, vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(15))), vld1q_s8(query + 2 * block + j));
                sum = vdotq_s32(sum, vreinterpretq_s8_u8(vshrq_n_u8(x, 4)), vld1q_s8(query + 2 * block + 64 + j));
            }
        out[i] = vaddvq_s32(sum);
        if (terms) terms[i] = term_of(row, bytes);
    }
}

template <bool L2>
TARGET void float16(const uint16_t* base, size_t stride, size_t dim, const uint32_t* ids, size_t n, const float* query, float* out) {
    for (size_t i = 0; i < n; ++i) {
        const uint16_t* row = base + stride * ids[i];
        float32x4_t sum = vdupq_n_f32(0);
        size_t j = 0;
        for (; j + 4 <= dim; j += 4) {
            const float32x4_t x = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(row + j))), q = vld1q_f32(query + j), e = vsubq_f32(q, x);
            sum = L2 ? vfmaq_f32(sum, e, e) : vfmaq_f32(sum, q, x);
        }
        float total = vaddvq_f32(sum);
        for (; j < dim; ++j) {
            const float x = from_half(row[j]), difference = query[j] - x;
            total += L2 ? difference * difference : query[j] * x;
        }
        out[i] = total;
    }
}
#undef TARGET

constexpr Kernels table{"neon_dotprod", dot8, dot4, scalar::select, float16<false>, float16<true>};
}  // namespace neon_dotprod

bool has(const Kernels& k) { return &k == &scalar::table || (getauxval(AT_HWCAP) & HWCAP_ASIMDDP); }
const Kernels* const families[] = {&neon_dotprod::table, &scalar::table};

#else
bool has(const Kernels&) { return true; }
const Kernels* const families[] = {&scalar::table};
#endif

const Kernels* choose() {
    const auto usable = usable_kernels();
    const char* wanted = std::getenv("VNNI_SEARCH_KERNEL");
    if (!wanted || !*wanted) return usable.front();
    std::string names;
    for (const Kernels* k : usable) {
        if (std::string(wanted) == k->name) return k;
        names += std::string(names.empty() ? "" : ", ") + k->name;
    }
    throw Error(std::string("VNNI_SEARCH_KERNEL=") + wanted + ": this CPU cannot run it; it can run " + names);
}

}  // namespace

std::vector<const Kernels*> usable_kernels() {
    std::vector<const Kernels*> usable;
    std::copy_if(std::begin(families), std::end(families), std::back_inserter(usable), [](const Kernels* k) { return has(*k); });
    return usable;
}

const Kernels& kernels() {
    static const Kernels* const chosen = choose();
    return *chosen;
}

const char* kernel_name() { return kernels().name; }

}  // namespace vnni
