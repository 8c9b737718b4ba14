// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include <algorithm>
#include <bit>

#include "search.hpp"

namespace vnni {

// The greatest magnitude as bits: integers order like non-negative floats, and infinities and NaNs come out on top.
FOR_EACH_CPU static uint32_t greatest(const float* x, size_t n) {
    uint32_t most = 0;
    for (size_t i = 0; i < n; ++i) most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
    return most;
}

FOR_EACH_CPU static void weigh(const float* query, const float* mean, const float* scale, float centred, float* weights, size_t n) {
    for (size_t i = 0; i < n; ++i) weights[i] = (query[i] - centred * mean[i]) * scale[i];
}

FOR_EACH_CPU static void round_all(const float* weights, float inverse, int8_t* out, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        const float x = weights[i] * inverse;
        out[i] = int8_t(int32_t(x + std::copysign(0.5f, x)));
    }
}

bool all_finite(const float* x, size_t n) { return greatest(x, n) < 0x7f800000; }

void normalise(float* x, size_t n) {
    double sum = 0;  // no square of a float leaves the range of doubles
    for (size_t i = 0; i < n; ++i) sum += double(x[i]) * x[i];
    if (sum == 0) return;
    const double inverse = 1 / std::sqrt(sum);
    for (size_t i = 0; i < n; ++i) x[i] = float(x[i] * inverse);
}

void Query::prepare(const Quantizer& quantizer, Metric metric, const float* query) {
    const size_t dim = quantizer.dim, length = quantizer.stride * (quantizer.bits == 4 ? 2 : 1);
    if (codes.size() != length) codes.assign(length, 0), weights.resize(dim);
    const bool l2 = metric == Metric::l2;
    weigh(query, quantizer.mean.data(), quantizer.scale.data(), l2 ? 1.0f : 0.0f, weights.data(), dim);
    const float most = std::bit_cast<float>(greatest(weights.data(), dim));
    const float step = most > 1e-30f ? most / 127 : 1;  // a query of zeros compares by term alone
    round_all(weights.data(), 1 / step, codes.data(), dim);
    coef = l2 ? -2 * step : -step;
    term_coef = l2 ? quantizer.term_step : 0;
}

uint32_t Quantizer::stride_for(uint32_t dim, uint32_t bits) {
    if (bits == 4) return uint32_t(round_up(dim, 128) / 2);
    return dim <= 32 ? 32 : uint32_t(round_up(dim, 64));
}

// The scale of least squared error for rounding `values` to `levels` steps; found by trying ever narrower ranges.
static float best_scale(const std::vector<float>& values, int levels, bool whole_range) {
    const float most = std::bit_cast<float>(greatest(values.data(), values.size()));
    if (!(most > 0)) return 1;
    const float high = float(levels - 1) / 2;
    float best = most / high;
    if (whole_range) return best;
    double least = std::numeric_limits<double>::infinity();
    for (float range = most; range > most / 64; range *= 0.9f) {
        const float scale = range / high;
        double error = 0;
        for (const float value : values) {
            const float centre = levels % 2 ? 0 : 0.5f;  // an even number of levels has none at zero
            const float code = std::clamp(std::floor(value / scale + (centre ? 0.0f : 0.5f)) + centre, -high, high);
            error += double(value - scale * code) * (value - scale * code);
        }
        if (error < least) least = error, best = scale;
        else if (error > 4 * least) break;
    }
    return std::max(best, 1e-30f);
}

Quantizer Quantizer::train(const std::vector<float>& sample, uint32_t dim, uint32_t bits, bool whole_range, bool terms) {
    Quantizer q;
    q.dim = dim, q.bits = bits, q.stride = stride_for(dim, bits);
    const size_t rows = sample.size() / dim;
    q.mean.assign(dim, 0);
    for (uint32_t j = 0; j < dim; ++j) {
        double sum = 0;
        for (size_t i = 0; i < rows; ++i) sum += sample[i * dim + j];
        q.mean[j] = rows ? float(sum / double(rows)) : 0;
    }
    std::vector<float> values;
    const auto gather = [&](uint32_t from, uint32_t to, size_t step) {
        values.clear();
        for (size_t i = 0; i < rows; i += step)
            for (uint32_t j = from; j < to; ++j) values.push_back(sample[i * dim + j] - q.mean[j]);
    };
    if (bits == 4) {
        for (uint32_t j = 0; j < dim; ++j) gather(j, j + 1, std::max<size_t>(1, rows / 4000)), q.scale.push_back(best_scale(values, 16, whole_range));
    } else {
        gather(0, dim, std::max<size_t>(1, rows * dim / 400000));
        q.scale.assign(dim, best_scale(values, 255, whole_range));
    }
    if (!terms) return q;
    double longest = 0;  // of the sample; four times as much fits
    for (size_t i = 0; i < rows; ++i) {
        double sum = 0;
        for (uint32_t j = 0; j < dim; ++j) sum += double(sample[i * dim + j] - q.mean[j]) * (sample[i * dim + j] - q.mean[j]);
        longest = std::max(longest, sum);
    }
    q.term_step = std::max(1e-30f, float(4 * longest / 65535));
    return q;
}

// Where dimension j of a 4-bit code lies.
static uint32_t nibble_byte(uint32_t j) { return j / 128 * 64 + j % 64; }

float Quantizer::decoded(const uint8_t* code, uint32_t j) const {
    if (bits == 8) return scale[j] * (float(code[j]) - 128);
    const uint8_t byte = code[nibble_byte(j)];
    return scale[j] * (float(j / 64 % 2 ? byte >> 4 : byte & 15) - 7.5f);
}

void Quantizer::encode(const float* row, uint8_t* code) const {
    std::fill_n(code, stride, bits == 4 ? 0 : 128);
    for (uint32_t j = 0; j < dim; ++j) {
        const float x = (row[j] - mean[j]) / scale[j];
        if (bits == 4) {
            const auto nibble = uint8_t(std::clamp(x + 8.0f, 0.0f, 15.0f));
            code[nibble_byte(j)] |= uint8_t(j / 64 % 2 ? nibble << 4 : nibble);
        } else {
            code[j] = uint8_t(std::clamp(x + 128.5f, 1.0f, 255.0f));
        }
    }
    if (term_step > 0) set_term(row, code);
}

// Hiding the term changes some dimensions, and these the term: a few rounds, of which the best stays.
void Quantizer::set_term(const float* row, uint8_t* code) const {
    uint8_t* const last = code + stride - 16;
    const uint32_t first = bits == 4 ? (stride - 64) * 2 + 48 : stride - 16;  // the dimension whose code ends in the first of the bits
    const uint32_t hiding = dim > first ? std::min(16u, dim - first) : 0;
    const auto hide = [&](uint32_t term) {
        for (uint32_t i = 0; i < 16; ++i) {
            const uint32_t bit = term >> i & 1;
            if (i >= hiding) {
                last[i] = uint8_t((last[i] & ~1u) | bit);
                continue;
            }
            const float x = (row[first + i] - mean[first + i]) / scale[first + i] + (bits == 4 ? 7.5f : 128.0f);
            const float low = bits == 4 ? float(bit) : bit ? 1 : 2, high = bits == 4 ? float(14 + bit) : float(254 + bit);
            const auto nearest = uint32_t(std::clamp(2 * std::floor((x - float(bit)) / 2 + 0.5f) + float(bit), low, high));
            last[i] = uint8_t(bits == 4 ? (last[i] & 0xf0u) | nearest : nearest);
        }
        return uint32_t(std::min(squared_length(code) / term_step + 0.5f, 65535.0f));
    };
    uint32_t best = 0, best_miss = UINT32_MAX;
    for (uint32_t round = 0, term = uint32_t(std::min(squared_length(code) / term_step + 0.5f, 65535.0f)); round < 8 && best_miss; ++round) {
        const uint32_t now = hide(term), miss = now > term ? now - term : term - now;
        if (miss < best_miss) best = term, best_miss = miss;
        term = now;
    }
    hide(best);
}

void Quantizer::decode(const uint8_t* code, float* row) const {
    for (uint32_t j = 0; j < dim; ++j) row[j] = mean[j] + decoded(code, j);
}

float Quantizer::squared_length(const uint8_t* code) const {
    double sum = 0;
    for (uint32_t j = 0; j < dim; ++j) sum += double(decoded(code, j)) * decoded(code, j);
    return float(sum);
}

}  // namespace vnni
