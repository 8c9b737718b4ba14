// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "build.hpp"

#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <mutex>
#include <numeric>

#include "tags.hpp"

namespace vnni {
namespace {

// Codes as the other side of a dot product; returns their sum.
FOR_EACH_CPU int32_t to_signed(const uint8_t* code, size_t n, int8_t* out) {
    int32_t sum = 0;
    for (size_t j = 0; j < n; ++j) out[j] = int8_t(code[j] ^ 128), sum += out[j];
    return sum;
}

FOR_EACH_CPU float distance(const float* x, const float* y, size_t n, bool l2) {
    float sums[16] = {};  // which every compiler makes vectors of
    size_t j = 0;
    for (; j + 16 <= n; j += 16)
        for (size_t lane = 0; lane < 16; ++lane) {
            const float difference = l2 ? x[j + lane] - y[j + lane] : x[j + lane];
            sums[lane] += difference * (l2 ? difference : -y[j + lane]);
        }
    for (; j < n; ++j) sums[0] += l2 ? (x[j] - y[j]) * (x[j] - y[j]) : -x[j] * y[j];
    return std::accumulate(sums, sums + 16, 0.0f);
}

constexpr size_t kBlockRows = 4096;
constexpr size_t kSampleRows = 20000;
constexpr uint32_t kHeldOut = 500;  // rows that measure the recall before they are linked
constexpr uint32_t kTruth = 100;
constexpr double kEvenLengths = 0.05;  // standard deviation of rows' lengths over their mean

// Rows are linked in random order, in batches: every row of a batch searches the graph as it was before the batch, so the result does
// not depend on the threads. The graph is built over 8-bit codes even when the index keeps 4-bit ones.
class Builder {
 public:
    Builder(const Vectors& input, const BuildOptions& options)
        : input_(input), options_(options), rows_(uint32_t(input.rows())), dim_(input.dim()), scratch_(std::max(1u, options.threads)) {}
    std::shared_ptr<Index> run();

 private:
    struct Scratch {
        Beam beam;
        Query query;
        std::vector<int8_t> code;     // of the slot distances() measures from
        int32_t code_sum = 0;
        uint32_t code_slot = kNoSlot;
        std::vector<std::pair<float, uint32_t>> candidates;
        std::vector<uint32_t> slots;
        std::vector<float> distances;
        std::vector<int32_t> dots;
    };

    void allocate();
    void train();
    void look_at_lengths(std::vector<float>& sample);
    void choose_codes(const std::vector<float>& sample);
    double coverage(const std::vector<float>& sample, const std::vector<uint32_t>& truth) const;
    void encode();
    void order_rows();
    void link(uint32_t begin, uint32_t end);
    void link_batch(uint32_t begin, uint32_t end);
    void reach_all();
    void choose(uint32_t slot, Scratch&);
    void add_backlinks(std::vector<uint64_t>& links);
    void add_to(uint32_t slot, const uint64_t* links, size_t n, Scratch&);
    void finish();
    void measure();
    void distances(uint32_t slot, const uint32_t* others, size_t n, float* out, Scratch&);
    uint32_t* list(uint32_t slot) { return d_->section[kGraph].as<uint32_t>() + size_t(slot) * d_->header.degree; }

    const Vectors& input_;
    const BuildOptions& options_;
    const uint32_t rows_, dim_;
    std::shared_ptr<Index> index_;
    IndexData* d_ = nullptr;
    Quantizer quantizer_;         // of the build's codes
    Region codes_;                // 8 bits
    std::vector<float> squares_;  // squared lengths of the rows less mean, as coded
    bool by_product_ = false;
    std::vector<float> offsets_;  // by_product_: <row less mean, mean>
    float mean_square_ = 0;       // ip: <mean, mean>
    std::vector<uint32_t> order_;
    View view_;                   // of the build's codes and what is linked
    std::vector<Scratch> scratch_;
};

void Builder::allocate() {
    const Shape shape = shape_for(dim_, options_.metric, options_.bits, options_.degree);
    auto data = std::make_unique<IndexData>();
    d_ = data.get();
    Header& h = d_->header;
    h.rows = h.live = rows_;
    h.dim = dim_, h.degree = shape.degree;
    h.metric = uint8_t(options_.metric);
    h.pivots = pivots_for(rows_);
    h.build_ef = options_.ef, h.alpha = options_.alpha, h.seed = options_.seed;
    h.created = uint64_t(std::time(nullptr)), h.content = 1;
    for (const SectionId s : {kGraph, kRefine})
        if (const uint64_t bytes = rows_ * shape.row_bytes(s)) d_->section[s] = Region::anonymous(bytes);
    d_->section[kPivots] = Region::anonymous(4ull * h.pivots);
    if (!options_.tags.empty()) {
        if (options_.tags.size() != rows_) fail("tags for ", options_.tags.size(), " rows, but ", input_.path(), " has ", rows_);
        d_->tags = std::make_shared<Tags>(rows_);
        for (uint32_t i = 0; i < rows_; ++i) d_->tags->set(i, options_.tags[i]);
        d_->section[kTags] = d_->tags->serialize(rows_);
    }
    index_ = std::make_shared<Index>(std::move(data));
}

// The quantiser and the half floats' scale, from a sample spread over the file.
void Builder::train() {
    const size_t wanted = std::min<size_t>(rows_, std::max<size_t>(1000, std::min(kSampleRows, (256u << 20) / (4 * size_t(dim_)))));
    std::vector<float> sample(wanted * dim_);
    Random random{options_.seed};
    constexpr size_t run = 16;  // neighbouring rows a read
    for (size_t i = 0; i < wanted; i += run) {
        const size_t n = std::min(run, wanted - i);
        input_.read(wanted == rows_ ? i : random.below(rows_ - n + 1), n, sample.data() + i * dim_);
    }
    if (options_.metric == Metric::cosine)
        for (size_t i = 0; i < wanted; ++i) normalise(sample.data() + i * dim_, dim_);
    float most = 0;
    for (const float x : sample) most = std::max(most, std::abs(x));
    if (options_.metric == Metric::ip) look_at_lengths(sample);
    choose_codes(sample);
    // The greatest sampled value comes to 256..512: rows 100 times as large still fit, and small ones keep their bits.
    d_->header.refine_scale = most > 0 ? std::exp2(float(std::clamp(8 - std::ilogb(most), -100, 100))) : 1;
}

// Rows about equally long are in the same order by inner product and by distance, and the graph is built by distance. Where
// lengths differ the long rows are the answers: the graph is built by inner product and the quantiser trained on the long half.
void Builder::look_at_lengths(std::vector<float>& sample) {
    const size_t rows = sample.size() / dim_;
    std::vector<std::pair<float, size_t>> lengths;
    double sum = 0, squares = 0;
    for (size_t i = 0; i < rows; ++i) {
        const float* row = sample.data() + i * dim_;
        lengths.emplace_back(std::inner_product(row, row + dim_, row, 0.0f), i);
        sum += std::sqrt(lengths[i].first), squares += lengths[i].first;
    }
    by_product_ = squares * double(rows) > (1 + kEvenLengths * kEvenLengths) * sum * sum;
    d_->header.by_product = by_product_;
    if (!by_product_) return;
    std::sort(lengths.rbegin(), lengths.rend());
    std::vector<float> kept;
    for (size_t i = 0; i < (rows + 1) / 2; ++i) kept.insert(kept.end(), sample.begin() + ptrdiff_t(lengths[i].second * dim_), sample.begin() + ptrdiff_t((lengths[i].second + 1) * dim_));
    sample = std::move(kept);
}

// The codes of fewest cache lines a row that still tell neighbours apart: of a sampled query's nearest kNear rows the nearest kLooked by
// code must hold kCovered, or the graph is walked astray; where none do, those that hold the most. Codes are of 8 or 4 bits and of the
// whole row or its principal coordinates. Laxer choices (20 looked at) were slower at a recall of .99: by 1.7 on clustered rows of 960.
constexpr uint32_t kNear = 10, kLooked = 15, kTrials = 100;
constexpr double kCovered = 0.98;

void Builder::choose_codes(const std::vector<float>& sample) {
    Header& h = d_->header;
    Quantizer& chosen = d_->quantizer;
    chosen.dim = dim_;
    chosen.set_mean(sample);
    struct Trial { uint32_t width, bits; };
    std::vector<Trial> trials;
    const Shape most = shape_for(dim_, options_.metric, options_.bits, options_.degree);
    if (!options_.bits && dim_ > 64)
        for (const Trial trial : {Trial{64, 8}, {128, 4}, {128, 8}, {256, 4}, {192, 8}, {384, 4}, {256, 8}, {384, 8}})
            if (const Trial fit{std::min(trial.width, dim_), trial.bits}; Quantizer::stride_for(fit.width, fit.bits) < most.stride) trials.push_back(fit);
    trials.push_back({dim_, most.bits});

    uint32_t widest = 0;
    for (const Trial trial : trials) widest = std::max(widest, trial.width < dim_ ? trial.width : 0);
    const size_t rows = sample.size() / dim_, padded = round_up(dim_, 64);
    std::vector<uint8_t> basis(widest * padded);
    std::vector<float> basis_scale(widest);
    std::vector<uint32_t> truth;
    if (trials.size() > 1 && rows > 20 * kNear) {
        principal_directions(sample, chosen.mean, widest, basis.data(), basis_scale.data());
        std::vector<std::pair<float, uint32_t>> all(rows);
        for (size_t q = 0; q < std::min<size_t>(rows, kTrials); ++q) {
            for (size_t i = 0; i < rows; ++i) all[i] = {distance(&sample[q * dim_], &sample[i * dim_], dim_, options_.metric == Metric::l2), uint32_t(i)};
            std::partial_sort(all.begin(), all.begin() + kNear, all.end());
            for (uint32_t i = 0; i < kNear; ++i) truth.push_back(all[i].second);
        }
    } else {
        trials.erase(trials.begin(), trials.end() - 1);
    }
    const auto take = [&](Trial trial) {
        chosen.basis = nullptr, chosen.width = dim_, chosen.mean_coordinates = chosen.mean, chosen.basis_scale.clear();
        if (trial.width < dim_) chosen.set_basis(basis.data(), basis_scale.data(), trial.width);
        chosen.train(sample, trial.bits, by_product_, options_.metric == Metric::l2);
    };
    std::pair<double, Trial> best{-1, trials.back()};
    for (const Trial trial : trials) {
        take(trial);
        const double held = truth.empty() ? 1 : coverage(sample, truth);
        if (held > best.first) best = {held, trial};
        if (held >= kCovered) break;
    }
    if (best.first < kCovered) take(best.second);
    h.width = chosen.width, h.bits = uint8_t(chosen.bits), h.stride = chosen.stride, h.term_step = chosen.term_step;
    d_->section[kCodes] = Region::anonymous(size_t(rows_) * h.stride);
    if (chosen.basis) {
        d_->section[kBasis] = Region::anonymous(h.width * padded);
        std::copy_n(basis.begin(), h.width * padded, d_->section[kBasis].data());
        chosen.set_basis(d_->section[kBasis].data(), basis_scale.data(), h.width);
    }
    d_->section[kScales] = Region::anonymous(4ull * (dim_ + h.width + chosen.basis_scale.size()));
    quantizer_ = chosen;
    if (h.bits == 4) quantizer_.train(sample, 8, by_product_, options_.metric == Metric::l2);
}

// The share of the sampled queries' true neighbours among the nearest kLooked rows by code.
double Builder::coverage(const std::vector<float>& sample, const std::vector<uint32_t>& truth) const {
    const size_t rows = sample.size() / dim_;
    const Quantizer& quantizer = d_->quantizer;
    Region codes = Region::anonymous(rows * quantizer.stride);
    for (size_t i = 0; i < rows; ++i) quantizer.encode(&sample[i * dim_], codes.data() + i * quantizer.stride);
    View view;
    view.codes = codes.data(), view.stride = quantizer.stride, view.bits = quantizer.bits;
    Beam beam;
    Query query;
    size_t found = 0;
    for (size_t q = 0; q < truth.size() / kNear; ++q) {
        query.prepare(quantizer, options_.metric, &sample[q * dim_]);
        beam.scan(view, query, kLooked, rows, nullptr, nullptr);
        for (uint32_t i = 0; i < beam.pool.size(); ++i) found += size_t(std::count(&truth[q * kNear], &truth[q * kNear] + kNear, beam.pool.slot(i)));
    }
    return double(found) / double(truth.size());
}

void Builder::encode() {
    codes_ = d_->header.bits == 8 ? std::move(d_->section[kCodes]) : Region::anonymous(size_t(rows_) * quantizer_.stride);
    squares_.resize(rows_);
    auto* halves = d_->section[kRefine].as<uint16_t>();
    const float scale = d_->header.refine_scale;
    if (by_product_) offsets_.resize(rows_), mean_square_ = std::inner_product(quantizer_.mean.begin(), quantizer_.mean.end(), quantizer_.mean.begin(), 0.0f);
    std::atomic<uint64_t> done{0};
    parallel(rows_, options_.threads, kBlockRows, [&](size_t begin, size_t end, unsigned) {
        check_interrupted();
        std::vector<float> rows((end - begin) * dim_);
        input_.read(begin, end - begin, rows.data());
        for (size_t i = begin; i < end; ++i) {
            float* row = rows.data() + (i - begin) * dim_;
            if (options_.metric == Metric::cosine) normalise(row, dim_);
            uint8_t* code = codes_.data() + i * quantizer_.stride;
            squares_[i] = quantizer_.encode(row, code);
            if (by_product_) offsets_[i] = std::inner_product(row, row + dim_, quantizer_.mean.begin(), 0.0f) - mean_square_;
            for (uint32_t j = 0; j < dim_; ++j) {
                const uint16_t half = to_half(row[j] * scale);
                if ((half & 0x7fff) == 0x7c00)
                    fail(input_.path(), ": vector ", i, " has ", row[j], ", more than 100 times the values of the others: scale or remove it");
                halves[i * dim_ + j] = half;
            }
        }
        options_.progress("reading", done += end - begin, rows_);
    });
}

void Builder::order_rows() {
    order_.resize(rows_);
    std::iota(order_.begin(), order_.end(), 0);
    Random random{options_.seed ^ 0x6f72646572};
    for (uint32_t i = rows_; i > 1; --i) std::swap(order_[i - 1], order_[random.below(i)]);
    const Header& h = d_->header;
    auto* pivots = d_->section[kPivots].as<uint32_t>();
    std::copy_n(order_.begin(), h.pivots, pivots);
    for (uint32_t i = 0; i < rows_; ++i) std::fill_n(list(i), h.degree, i);
}

// --- linking ---

void Builder::distances(uint32_t slot, const uint32_t* others, size_t n, float* out, Scratch& s) {
    const size_t stride = quantizer_.stride;
    if (s.code_slot != slot) {
        s.code.resize(stride);
        s.code_sum = to_signed(view_.codes + slot * stride, stride, s.code.data());
        s.code_slot = slot;
    }
    if (s.dots.size() < n) s.dots.resize(n);
    kernels().dot8(view_.codes, stride, stride, others, n, s.code.data(), s.dots.data(), nullptr);
    const float unit = quantizer_.scale[0] * quantizer_.scale[0];
    for (size_t i = 0; i < n; ++i) {
        const float product = unit * float(s.dots[i] - 128 * s.code_sum);
        out[i] = offsets_.empty() ? squares_[slot] + squares_[others[i]] - 2 * product : -(product + offsets_[slot] + offsets_[others[i]] + mean_square_);
    }
}

// Prunes s.slots to the neighbours of slot: s.slots again.
void Builder::choose(uint32_t slot, Scratch& s) {
    std::sort(s.slots.begin(), s.slots.end());
    s.slots.erase(std::unique(s.slots.begin(), s.slots.end()), s.slots.end());
    std::erase(s.slots, slot);
    s.distances.resize(s.slots.size());
    distances(slot, s.slots.data(), s.slots.size(), s.distances.data(), s);
    s.candidates.clear();
    for (size_t i = 0; i < s.slots.size(); ++i) s.candidates.emplace_back(s.distances[i], s.slots[i]);
    std::sort(s.candidates.begin(), s.candidates.end());
    s.slots.resize(d_->header.degree);
    s.slots.resize(robust_prune(s.candidates, offsets_.empty() ? options_.alpha : kProductAlpha, d_->header.degree, s.slots.data(),
                                [&](uint32_t from, const uint32_t* to, size_t n, float* out) { distances(from, to, n, out, s); }));
}

void Builder::link_batch(uint32_t begin, uint32_t end) {
    const uint32_t degree = d_->header.degree;
    view_.pivot_count = std::min(begin, d_->header.pivots);
    std::vector<uint64_t> links(size_t(end - begin) * degree, UINT64_MAX);  // target << 32 | source
    parallel(end - begin, options_.threads, 16, [&](size_t first, size_t last, unsigned thread) {
        check_interrupted();
        Scratch& s = scratch_[thread];
        for (size_t i = first; i < last; ++i) {
            const uint32_t slot = order_[begin + i];
            s.query.prepare_coded(quantizer_, options_.metric, view_.codes + size_t(slot) * quantizer_.stride);
            s.beam.search(view_, s.query, options_.ef);
            s.slots.clear();
            for (uint32_t c = 0; c < s.beam.pool.size(); ++c) s.slots.push_back(s.beam.pool.slot(c));
            choose(slot, s);
            std::copy(s.slots.begin(), s.slots.end(), list(slot));
            for (size_t c = 0; c < s.slots.size(); ++c) links[i * degree + c] = uint64_t(s.slots[c]) << 32 | slot;
        }
    });
    std::erase(links, UINT64_MAX);
    add_backlinks(links);
}

void Builder::add_backlinks(std::vector<uint64_t>& links) {
    std::sort(links.begin(), links.end());
    parallel(links.size(), options_.threads, 1024, [&](size_t begin, size_t end, unsigned thread) {
        const auto target = [&](size_t i) { return uint32_t(links[i] >> 32); };
        while (begin && begin < end && target(begin) == target(begin - 1)) ++begin;  // another chunk's
        for (size_t next; begin < end; begin = next) {
            for (next = begin + 1; next < links.size() && target(next) == target(begin);) ++next;
            add_to(target(begin), &links[begin], next - begin, scratch_[thread]);
        }
    });
}

void Builder::add_to(uint32_t slot, const uint64_t* links, size_t n, Scratch& s) {
    const uint32_t degree = d_->header.degree;
    uint32_t* const neighbours = list(slot);
    const uint32_t used = uint32_t(std::find(neighbours, neighbours + degree, slot) - neighbours);
    if (used + n <= degree) {
        for (size_t i = 0; i < n; ++i) neighbours[used + i] = uint32_t(links[i]);
        return;
    }
    s.slots.assign(neighbours, neighbours + used);
    for (size_t i = 0; i < n; ++i) s.slots.push_back(uint32_t(links[i]));
    for (const uint32_t other : s.slots) prefetch(view_.codes + size_t(other) * quantizer_.stride, quantizer_.stride);
    choose(slot, s);
    std::copy(s.slots.begin(), s.slots.end(), neighbours);
    std::fill(neighbours + s.slots.size(), neighbours + degree, slot);
}

// Links order_[begin, end) in batches that grow with the graph.
void Builder::link(uint32_t begin, uint32_t end) {
    for (uint32_t next; begin < end; begin = next) {
        next = uint32_t(std::min<uint64_t>(end, begin + std::clamp<uint64_t>(begin / 16, 1, 16384)));
        link_batch(begin, next);
        options_.progress("linking", next, rows_);
    }
}

// Pruning may leave a row that no list leads to. The lists are walked from the pivots; the lists' entries that first led to a row are a tree,
// and every other entry may give way: a row that was not met goes into the list of a met row it links to, a short one if there is any.
void Builder::reach_all() {
    const uint32_t degree = d_->header.degree;
    std::vector<uint32_t> parent(rows_, kNoSlot), met;  // parent: the row whose list led here; a pivot is its own
    met.reserve(rows_);
    size_t next = 0;
    const auto walk = [&] {
        for (; next < met.size(); ++next)
            for (uint32_t i = 0; i < degree; ++i)
                if (const uint32_t slot = list(met[next])[i]; parent[slot] == kNoSlot) parent[slot] = met[next], met.push_back(slot);
    };
    const auto enter_from = [&](uint32_t from, uint32_t slot, bool any) {  // a short list ends in the row itself; any: else the farthest entry that can go
        uint32_t* const entries = list(from);
        for (uint32_t i = degree; i-- > 0;)
            if (entries[i] == from || (any && parent[entries[i]] != from)) return entries[i] = slot, parent[slot] = from, met.push_back(slot), true;
        return false;
    };
    for (uint32_t p = 0; p < d_->header.pivots; ++p) parent[order_[p]] = order_[p], met.push_back(order_[p]);
    walk();
    for (const uint32_t slot : order_) {
        if (parent[slot] != kNoSlot) continue;
        bool entered = false;
        for (const bool any : {false, true})
            for (uint32_t i = 0; i < degree && !entered; ++i)
                if (const uint32_t near = list(slot)[i]; parent[near] != kNoSlot) entered = enter_from(near, slot, any);
        for (size_t i = met.size(); i-- > 0 && !entered;) entered = enter_from(met[i], slot, true);  // a tree has fewer entries than all lists
        walk();
    }
}

// --- the finished index ---

// Writes what searches read: scales, codes, terms, pivots' copies.
void Builder::finish() {
    auto* scales = d_->section[kScales].as<float>();
    const Quantizer& quantizer = d_->quantizer;
    for (const auto* values : {&quantizer.mean, &quantizer.scale, &quantizer.basis_scale}) scales = std::copy(values->begin(), values->end(), scales);
    if (d_->header.bits == 4) {
        const auto* halves = d_->section[kRefine].as<uint16_t>();
        parallel(rows_, options_.threads, kBlockRows, [&](size_t begin, size_t end, unsigned) {
            std::vector<float> row(dim_);
            for (size_t i = begin; i < end; ++i) {
                for (uint32_t j = 0; j < dim_; ++j) row[j] = from_half(halves[i * dim_ + j]) / d_->header.refine_scale;
                uint8_t* code = d_->section[kCodes].data() + i * d_->header.stride;
                d_->quantizer.encode(row.data(), code);
            }
        });
    } else {
        d_->section[kCodes] = std::move(codes_);
        view_.codes = d_->section[kCodes].data();
    }
    d_->attach();
}

// The smallest ef that reaches each target, between the tried ones by interpolation in log ef.
void Builder::measure() {
    Header& h = d_->header;
    const uint32_t linked = rows_ - kHeldOut;
    const auto* halves = d_->section[kRefine].as<uint16_t>();
    std::vector<float> queries(size_t(kHeldOut) * dim_);
    for (uint32_t q = 0; q < kHeldOut; ++q)
        for (uint32_t j = 0; j < dim_; ++j) queries[q * dim_ + j] = from_half(halves[size_t(order_[linked + q]) * dim_ + j]) / h.refine_scale;
    std::vector<uint64_t> truth(size_t(kHeldOut) * kTruth);
    std::vector<Searcher> searchers;
    for (unsigned t = 0; t < scratch_.size(); ++t) searchers.emplace_back(index_);

    parallel(kHeldOut, options_.threads, 1, [&](size_t q, size_t, unsigned thread) {
        check_interrupted();
        searchers[thread].exact(&queries[q * dim_], order_.data(), linked, kTruth, &truth[q * kTruth]);
        options_.progress("measuring", q + 1, kHeldOut);
    });
    for (size_t row = 0; row < std::size(kTargetKs); ++row) {
        const uint32_t k = kTargetKs[row];
        double before = 0, before_ef = 1;
        size_t target = 0;
        for (double ef = std::max(4.0, 0.4 * k); ef <= 1500 && target < std::size(kTargets); ef = std::ceil(ef * 1.4)) {
            std::atomic<uint64_t> hits{0};
            parallel(kHeldOut, options_.threads, 8, [&](size_t begin, size_t end, unsigned thread) {
                uint64_t ids[kTruth];
                float distances[kTruth];
                SearchOptions options;
                options.k = k, options.ef = uint32_t(ef);
                for (size_t q = begin; q < end; ++q) {
                    const uint32_t n = searchers[thread].search(&queries[q * dim_], options, ids, distances);
                    for (uint32_t i = 0; i < n; ++i) hits += std::find(&truth[q * kTruth], &truth[q * kTruth + k], ids[i]) != &truth[q * kTruth + k];
                }
            });
            const double recall = double(hits) / (double(k) * kHeldOut);
            for (; target < std::size(kTargets) && recall >= kTargets[target]; ++target) {
                const double share = recall > before ? std::clamp((kTargets[target] - before) / (recall - before), 0.0, 1.0) : 1;
                h.table[row][target] = uint32_t(std::ceil(before_ef * std::pow(ef / before_ef, share)));
            }
            before = recall, before_ef = ef;
            if (k == 10) h.table_recall = float(recall);
        }
        for (; target < std::size(kTargets); ++target) h.table[row][target] = uint32_t(before_ef);  // the best that was seen
    }
}

std::shared_ptr<Index> Builder::run() {
    allocate();
    train();
    encode();
    order_rows();
    const Header& h = d_->header;
    view_.codes = codes_.data(), view_.stride = quantizer_.stride, view_.graph = d_->section[kGraph].as<uint32_t>(), view_.degree = h.degree;
    view_.pivots = d_->section[kPivots].as<uint32_t>();
    Region pivot_codes = Region::anonymous(size_t(h.pivots) * quantizer_.stride);
    for (uint32_t p = 0; p < h.pivots; ++p)
        std::memcpy(pivot_codes.data() + p * quantizer_.stride, codes_.data() + size_t(order_[p]) * quantizer_.stride, quantizer_.stride);
    view_.pivot_codes = pivot_codes.data();

    const bool measured = options_.measure && rows_ >= 20 * kHeldOut;
    const uint32_t held_out = measured ? kHeldOut : 0;
    link(0, rows_ - held_out);
    finish();
    if (measured) measure();
    link(rows_ - held_out, rows_);
    reach_all();
    return index_;
}

}  // namespace

std::shared_ptr<Index> build(const Vectors& input, const BuildOptions& options) {
    if (options.threads < 1 || options.threads > 4096) fail("threads ", options.threads, ": expected 1 to 4096");
    if (options.bits != 0 && options.bits != 4 && options.bits != 8) fail("bits ", options.bits, ": expected 4 or 8");
    if (options.degree && (options.degree < 8 || options.degree > 256)) fail("degree ", options.degree, ": expected 8 to 256");
    if (options.ef < 16 || options.ef > 4096) fail("build ef ", options.ef, ": expected 16 to 4096");
    if (!(options.alpha >= 1 && options.alpha <= 2)) fail("alpha ", options.alpha, ": expected 1 to 2");
    auto index = Builder(input, options).run();
    malloc_trim(0);  // what the build had goes back to the system now
    return index;
}

}  // namespace vnni
