// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// Building an index: quantise, link, measure.
#pragma once

#include <functional>
#include <memory>

#include "format.hpp"
#include "input.hpp"

namespace vnni {

constexpr float kProductAlpha = 0.95f;  // alpha where similarities are compared instead of distances

struct BuildOptions {
    Metric metric = Metric::l2;
    unsigned threads = 1;
    uint32_t bits = 0, degree = 0;  // 0: by dimension, see shape_for
    uint32_t ef = 128;              // candidates a row's neighbours are chosen from
    float alpha = 1.2f;             // a neighbour is dropped when another is alpha times nearer to it (squared distances)
    uint64_t seed = 42;             // the graph depends on it and on nothing else, whatever the threads
    bool measure = true;            // the recall table, on held-out rows
    std::vector<std::vector<std::string>> tags;  // one set a row, or none at all
    std::function<void(const char* phase, uint64_t done, uint64_t all)> progress = [](const char*, uint64_t, uint64_t) {};
};

std::shared_ptr<Index> build(const Vectors&, const BuildOptions&);  // throws Error

// Chooses neighbours out of candidates by distance and direction: nearest first, each candidate is dropped when one already chosen
// is alpha times nearer to it than the row is. Distances are squared L2 in whatever space `distance` measures.
//   candidates: pairs (distance to the row, slot), sorted; at most degree slots are written to out; returns how many.
//   distances(slot, chosen, n, out): from slot to each of chosen[0, n).
template <class Distances>
uint32_t robust_prune(const std::vector<std::pair<float, uint32_t>>& candidates, float alpha, uint32_t degree, uint32_t* out, Distances&& distances) {
    constexpr uint32_t chunk = 16;
    uint32_t chosen = 0;
    float between[chunk];
    for (const auto& [distance, slot] : candidates) {
        bool hidden = false;
        for (uint32_t begin = 0; begin < chosen && !hidden; begin += chunk) {
            const uint32_t n = std::min(chunk, chosen - begin);
            distances(slot, out + begin, n, between);
            for (uint32_t i = 0; i < n; ++i) hidden |= alpha * between[i] <= distance;
        }
        if (!hidden) out[chosen++] = slot;
        if (chosen == degree) break;
    }
    return chosen;
}

}  // namespace vnni
