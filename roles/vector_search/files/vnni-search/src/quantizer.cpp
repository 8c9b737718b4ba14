// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include <algorithm>
#include <bit>

#include "search.hpp"

// Plain loops the compiler vectorises once per instruction set.
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

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

void Query::prepare(const Quantizer& quantizer, Metric metric, const float* query, const float* terms) {
    const size_t dim = quantizer.dim, length = quantizer.stride * (quantizer.bits == 4 ? 2 : 1);
    if (codes.size() != length) codes.assign(length, 0), weights.resize(dim);
    const bool l2 = metric == Metric::l2;
    weigh(query, quantizer.mean.data(), quantizer.scale.data(), l2 ? 1.0f : 0.0f, weights.data(), dim);
    const float most = std::bit_cast<float>(greatest(weights.data(), dim));
    const float step = most > 1e-30f ? most / 127 : 1;  // a query of zeros compares by term alone
    round_all(weights.data(), 1 / step, codes.data(), dim);
    coef = l2 ? -2 * step : -step;
    term = l2 ? terms : nullptr;
    term_coef = 1;
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

Quantizer Quantizer::train(const std::vector<float>& sample, uint32_t dim, uint32_t bits, bool whole_range) {
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
    return q;
}

void Quantizer::encode(const float* row, uint8_t* code) const {
    std::fill_n(code, stride, bits == 4 ? 0 : 128);
    for (uint32_t j = 0; j < dim; ++j) {
        const float x = (row[j] - mean[j]) / scale[j];
        if (bits == 4) {
            const auto nibble = uint8_t(std::clamp(x + 8.0f, 0.0f, 15.0f));
            code[j / 128 * 64 + j % 64] |= uint8_t(j / 64 % 2 ? nibble << 4 : nibble);
        } else {
            code[j] = uint8_t(std::clamp(x + 128.5f, 1.0f, 255.0f));
        }
    }
}

void Quantizer::decode(const uint8_t* code, float* row) const {
    for (uint32_t j = 0; j < dim; ++j) {
        const uint8_t byte = code[bits == 4 ? j / 128 * 64 + j % 64 : j];
        const float step = bits == 4 ? float(j / 64 % 2 ? byte >> 4 : byte & 15) - 7.5f : float(byte) - 128;
        row[j] = mean[j] + scale[j] * step;
    }
}

float Quantizer::squared_length(const uint8_t* code) const {
    double sum = 0;
    for (uint32_t j = 0; j < dim; ++j) {
        const uint8_t byte = code[bits == 4 ? j / 128 * 64 + j % 64 : j];
        const double step = scale[j] * (bits == 4 ? float(j / 64 % 2 ? byte >> 4 : byte & 15) - 7.5f : float(byte) - 128);
        sum += step * step;
    }
    return float(sum);
}

}  // namespace vnni
