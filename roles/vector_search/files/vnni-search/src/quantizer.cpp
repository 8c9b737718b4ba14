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

FOR_EACH_CPU static void multiply(const float* x, const float* y, float* out, size_t n) {
    for (size_t i = 0; i < n; ++i) out[i] = x[i] * y[i];
}

FOR_EACH_CPU static void subtract(const float* x, const float* y, float* out, size_t n) {
    for (size_t i = 0; i < n; ++i) out[i] = x[i] - y[i];
}

// out[k] = sum_j x[j] * columns[j][k]
FOR_EACH_CPU static void combine(const float* x, const float* columns, size_t n, size_t width, float* out) {
    std::fill_n(out, width, 0.0f);
    for (size_t j = 0; j < n; ++j)
        for (size_t k = 0; k < width; ++k) out[k] += x[j] * columns[j * width + k];
}

// columns[j][k] += x[j] * y[k]
FOR_EACH_CPU static void add_outer(const float* x, const float* y, size_t n, size_t width, float* columns) {
    for (size_t j = 0; j < n; ++j)
        for (size_t k = 0; k < width; ++k) columns[j * width + k] += x[j] * y[k];
}

// out -= share * x
FOR_EACH_CPU static void take_off(float share, const float* x, float* out, size_t n) {
    for (size_t j = 0; j < n; ++j) out[j] -= share * x[j];
}

// In sixteen partial sums, which every compiler makes vectors of.
FOR_EACH_CPU static float product(const float* x, const float* y, size_t n) {
    float sums[16] = {};
    size_t j = 0;
    for (; j + 16 <= n; j += 16)
        for (size_t lane = 0; lane < 16; ++lane) sums[lane] += x[j + lane] * y[j + lane];
    for (; j < n; ++j) sums[0] += x[j] * y[j];
    float sum = 0;
    for (const float s : sums) sum += s;
    return sum;
}

FOR_EACH_CPU static void round_all(const float* weights, float inverse, int8_t* out, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        // Weights beyond the range of floats end as -127: their codes mean nothing, and no number is no integer.
        const float x = std::min(127.0f, std::max(-127.0f, weights[i] * inverse));
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

// x in s8, steps of the result; n padded with zeros by the caller.
static float round_to_s8(const float* x, size_t n, int8_t* out) {
    const float most = std::bit_cast<float>(greatest(x, n)), step = most > 1e-30f ? most / 127 : 1;  // all zeros stay so
    round_all(x, 1 / step, out, n);
    return step;
}

void Query::prepare(const Quantizer& quantizer, Metric metric, const float* query) {
    const bool l2 = metric == Metric::l2;
    const uint32_t dim = quantizer.dim, width = quantizer.width;
    coordinates_.resize(width);
    if (!quantizer.basis) {
        quantizer.coordinates(query, l2, coordinates_.data());
    } else {  // in bytes: the basis is read once a query, and nothing else of it would stay in the cache
        const size_t padded = round_up(dim, 64);
        if (rounded_.size() != padded) {
            rounded_.assign(padded, 0), dots_.resize(width), numbers_.resize(width);
            for (uint32_t k = 0; k < width; ++k) numbers_[k] = k;
        }
        const float step = round_to_s8(query, dim, rounded_.data());
        int32_t sum = 0;
        for (const int8_t x : rounded_) sum += x;
        kernels().dot8(quantizer.basis, padded, padded, numbers_.data(), width, rounded_.data(), dots_.data(), nullptr);
        for (uint32_t k = 0; k < width; ++k)
            coordinates_[k] = step * quantizer.basis_scale[k] * float(dots_[k] - 128 * sum) - (l2 ? quantizer.mean_coordinates[k] : 0);
    }
    round(quantizer, metric);
}

void Query::prepare_coded(const Quantizer& quantizer, Metric metric, const uint8_t* code) {
    coordinates_.resize(quantizer.width);
    quantizer.decode(code, coordinates_.data());
    if (metric != Metric::l2)
        for (uint32_t k = 0; k < quantizer.width; ++k) coordinates_[k] += quantizer.mean_coordinates[k];
    round(quantizer, metric);
}

void Query::round(const Quantizer& quantizer, Metric metric) {
    const size_t width = quantizer.width, length = quantizer.stride * (quantizer.bits == 4 ? 2 : 1);
    if (codes.size() != length) codes.assign(length, 0);
    weights_.resize(width);
    multiply(coordinates_.data(), quantizer.scale.data(), weights_.data(), width);
    const float step = round_to_s8(weights_.data(), width, codes.data());
    coef = metric == Metric::l2 ? -2 * step : -step;
    term_coef = metric == Metric::l2 ? quantizer.term_step : 0;
}

void Quantizer::coordinates(const float* row, bool centred, float* out) const {
    if (basis) {
        combine(row, basis_columns.data(), dim, width, out);
        if (centred) subtract(out, mean_coordinates.data(), out, width);
    } else if (centred) {
        subtract(row, mean.data(), out, dim);
    } else {
        std::copy_n(row, dim, out);
    }
}

uint32_t Quantizer::stride_for(uint32_t width, uint32_t bits) {
    if (bits == 4) return uint32_t(round_up(width, 128) / 2);
    return width <= 32 ? 32 : uint32_t(round_up(width, 64));
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

void Quantizer::set_mean(const std::vector<float>& sample) {
    const size_t rows = sample.size() / dim;
    std::vector<double> sums(dim);
    for (size_t i = 0; i < rows; ++i)
        for (uint32_t j = 0; j < dim; ++j) sums[j] += sample[i * dim + j];
    mean.resize(dim);
    for (uint32_t j = 0; j < dim; ++j) mean[j] = rows ? float(sums[j] / double(rows)) : 0;
    width = dim, basis = nullptr, mean_coordinates = mean;
}

void Quantizer::set_basis(const uint8_t* directions, const float* scales, uint32_t count) {
    basis = directions, width = count;
    basis_scale.assign(scales, scales + width);
    basis_columns.resize(size_t(dim) * width);
    for (uint32_t k = 0; k < width; ++k)
        for (uint32_t j = 0; j < dim; ++j) basis_columns[size_t(j) * width + k] = scales[k] * (float(basis[k * round_up(dim, 64) + j]) - 128);
    mean_coordinates.resize(width);
    combine(mean.data(), basis_columns.data(), dim, width, mean_coordinates.data());
}

void Quantizer::train(const std::vector<float>& sample, uint32_t wanted_bits, bool whole_range, bool terms) {
    bits = wanted_bits, stride = stride_for(width, bits);
    const size_t rows = sample.size() / dim, step = std::max<size_t>(1, rows / 4000);
    std::vector<float> coded, values;
    double longest = 0;  // of the sample; four times as much fits
    for (size_t i = 0; i < rows; i += step) {
        coded.resize(coded.size() + width);
        coordinates(&sample[i * dim], true, &coded[coded.size() - width]);
        double sum = 0;
        for (uint32_t j = 0; j < dim; ++j) sum += double(sample[i * dim + j] - mean[j]) * (sample[i * dim + j] - mean[j]);
        longest = std::max(longest, sum);
    }
    term_step = terms ? std::max(1e-30f, float(4 * longest / 65535)) : 0;
    scale.clear();
    for (uint32_t k = 0; k < width && bits == 4; ++k) {
        values.clear();
        for (size_t i = k; i < coded.size(); i += width) values.push_back(coded[i]);
        scale.push_back(best_scale(values, 16, whole_range));
    }
    if (bits == 4) return;
    for (size_t i = 0, jump = std::max<size_t>(1, coded.size() / 400000) | 1; i < coded.size(); i += jump) values.push_back(coded[i]);
    scale.assign(width, best_scale(values, 255, whole_range));
}

// Subspace iteration on the covariance, which is never written down: its product with the directions is two passes over the rows.
void principal_directions(const std::vector<float>& sample, const std::vector<float>& mean, uint32_t width, uint8_t* basis, float* scale) {
    const size_t dim = mean.size(), rows = sample.size() / dim, step = std::max<size_t>(1, rows / 4000);
    constexpr int rounds = 6;
    std::vector<float> columns(dim * width), next(dim * width), row(dim), along(width), lines(dim * width);
    Random random{1};
    for (float& x : columns) x = float(random() >> 40) * 0x1p-24f - 0.5f;
    for (int round = 0; round < rounds; ++round) {
        std::fill(next.begin(), next.end(), 0.0f);
        for (size_t i = 0; i < rows; i += step) {
            subtract(&sample[i * dim], mean.data(), row.data(), dim);
            combine(row.data(), columns.data(), dim, width, along.data());
            add_outer(row.data(), along.data(), dim, width, next.data());
        }
        for (size_t k = 0; k < width; ++k) {  // Gram-Schmidt, twice for rounding's sake
            float* const line = &lines[k * dim];
            for (size_t j = 0; j < dim; ++j) line[j] = next[j * width + k];
            for (int twice = 0; twice < 2; ++twice) {
                for (size_t other = 0; other < k; ++other) take_off(product(line, &lines[other * dim], dim), &lines[other * dim], line, dim);
                const float length = std::sqrt(product(line, line, dim));
                for (size_t j = 0; j < dim; ++j) line[j] = length > 1e-20f ? line[j] / length : 0;
            }
            for (size_t j = 0; j < dim; ++j) columns[j * width + k] = line[j];
        }
    }
    const size_t padded = round_up(dim, 64);
    std::fill_n(basis, width * padded, 128);
    for (size_t k = 0; k < width; ++k) {
        const float most = std::bit_cast<float>(greatest(&lines[k * dim], dim));
        scale[k] = most > 0 ? most / 127 : 1;
        for (size_t j = 0; j < dim; ++j) basis[k * padded + j] = uint8_t(lines[k * dim + j] / scale[k] + 128.5f);
    }
}

// Where coordinate j of a 4-bit code lies.
static uint32_t nibble_byte(uint32_t j) { return j / 128 * 64 + j % 64; }

float Quantizer::decoded(const uint8_t* code, uint32_t j) const {
    if (bits == 8) return scale[j] * (float(code[j]) - 128);
    const uint8_t byte = code[nibble_byte(j)];
    return scale[j] * (float(j / 64 % 2 ? byte >> 4 : byte & 15) - 7.5f);
}

float Quantizer::encode(const float* row, uint8_t* code) const {
    std::vector<float> coded(std::max(width, dim));
    coordinates(row, true, coded.data());
    float rest = 0;  // of the squared length: what the coordinates do not hold
    if (basis) {
        std::vector<float> centred(dim);
        subtract(row, mean.data(), centred.data(), dim);
        rest = std::max(0.0f, product(centred.data(), centred.data(), dim) - product(coded.data(), coded.data(), width));
    }
    std::fill_n(code, stride, bits == 4 ? 0 : 128);
    for (uint32_t j = 0; j < width; ++j) {
        const float x = coded[j] / scale[j];
        if (bits == 4) {
            const auto nibble = uint8_t(std::clamp(x + 8.0f, 0.0f, 15.0f));
            code[nibble_byte(j)] |= uint8_t(j / 64 % 2 ? nibble << 4 : nibble);
        } else {
            code[j] = uint8_t(std::clamp(x + 128.5f, 1.0f, 255.0f));
        }
    }
    if (term_step > 0) set_term(coded.data(), rest, code);
    return squared_length(code) + rest;
}

// Hiding the term changes some coordinates, and these the term: a few rounds, of which the best stays.
void Quantizer::set_term(const float* coordinates, float rest, uint8_t* code) const {
    uint8_t* const last = code + stride - 16;
    const uint32_t first = bits == 4 ? (stride - 64) * 2 + 48 : stride - 16;  // the coordinate whose code ends in the first of the bits
    const uint32_t hiding = width > first ? std::min(16u, width - first) : 0;
    const auto term_now = [&] { return uint32_t(std::min((squared_length(code) + rest) / term_step + 0.5f, 65535.0f)); };
    const auto hide = [&](uint32_t term) {
        for (uint32_t i = 0; i < 16; ++i) {
            const uint32_t bit = term >> i & 1;
            if (i >= hiding) {
                last[i] = uint8_t((last[i] & ~1u) | bit);
                continue;
            }
            const float x = coordinates[first + i] / scale[first + i] + (bits == 4 ? 7.5f : 128.0f);
            const float low = bits == 4 ? float(bit) : bit ? 1 : 2, high = bits == 4 ? float(14 + bit) : float(254 + bit);
            const auto nearest = uint32_t(std::clamp(2 * std::floor((x - float(bit)) / 2 + 0.5f) + float(bit), low, high));
            last[i] = uint8_t(bits == 4 ? (last[i] & 0xf0u) | nearest : nearest);
        }
        return term_now();
    };
    uint32_t best = 0, best_miss = UINT32_MAX;
    for (uint32_t round = 0, term = term_now(); round < 8 && best_miss; ++round) {
        const uint32_t now = hide(term), miss = now > term ? now - term : term - now;
        if (miss < best_miss) best = term, best_miss = miss;
        term = now;
    }
    hide(best);
}

void Quantizer::decode(const uint8_t* code, float* coordinates) const {
    for (uint32_t j = 0; j < width; ++j) coordinates[j] = decoded(code, j);
}

float Quantizer::squared_length(const uint8_t* code) const {
    double sum = 0;
    for (uint32_t j = 0; j < width; ++j) sum += double(decoded(code, j)) * decoded(code, j);
    return float(sum);
}

}  // namespace vnni
