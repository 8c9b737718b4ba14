// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "index.hpp"

#include <algorithm>

#include "format.hpp"
#include "tags.hpp"

namespace vnni {

static constexpr const char* kMetrics[] = {"l2", "ip", "cosine"};
static constexpr const char* kModes[] = {"ram", "mmap", "split"};

const char* name(Metric m) { return kMetrics[size_t(m)]; }
const char* name(Mode m) { return kModes[size_t(m)]; }

Metric metric_from(const std::string& word) {
    for (uint8_t i = 0; i < 3; ++i)
        if (word == kMetrics[i]) return Metric(i);
    fail("metric '", word, "': expected l2, ip or cosine");
}

Mode mode_from(const std::string& word) {
    for (uint8_t i = 0; i < 3; ++i)
        if (word == kModes[i]) return Mode(i);
    fail("mode '", word, "': expected ram, mmap or split");
}

// --- Index ---

Index::Index(std::unique_ptr<IndexData> data) : data_(std::move(data)) {}
Index::~Index() = default;

std::shared_ptr<const Index> Index::open(const std::string& path, const OpenOptions& options) {
    return std::make_shared<const Index>(load(path, options));
}

const Header& Index::header() const { return data_->header; }
uint64_t Index::size() const { return data_->live; }
uint32_t Index::dim() const { return data_->header.dim; }
Metric Index::metric() const { return Metric(data_->header.metric); }
const std::string& Index::path() const { return data_->path; }
uint64_t Index::version() const { return data_->header.content << 32 | data_->header.crc; }

uint64_t Index::memory_bytes() const {
    uint64_t sum = data_->header.pivots * uint64_t(data_->header.stride);
    for (const Region& region : data_->section) sum += region.size();
    return sum;
}

uint64_t Index::unreachable() const {
    const View& view = data_->view;
    const uint64_t rows = data_->rows;
    std::vector<bool> met(rows);
    std::vector<uint32_t> open;
    uint64_t live = 0;
    const auto meet = [&](uint32_t slot) {
        if (met[slot]) return;
        met[slot] = true, live += !data_->dead(slot);
        open.push_back(slot);
    };
    if (const Entrances* const now = data_->entrances.load()) std::for_each(now->slots.begin(), now->slots.end(), meet);
    else std::for_each(view.pivots, view.pivots + view.pivot_count, meet);
    while (!open.empty()) {
        const uint32_t* const list = view.graph + size_t(open.back()) * view.degree;
        open.pop_back();
        std::for_each(list, list + view.degree, meet);
    }
    return data_->live - live;
}

uint32_t Index::ef_for(float target, uint32_t k) const {
    if (target <= 0) target = 0.95f;
    const Header& h = data_->header;
    const auto column = [&](size_t row) {  // the measured ef for the first target that is at least the wanted one
        size_t t = 0;
        while (t + 1 < std::size(kTargets) && kTargets[t] < target - 1e-6f) ++t;
        if (const uint32_t measured = h.table[row][t]) return double(measured);
        // Nothing was measured (an index too small, or grown from nothing): what random data needs.
        return std::max(24.0, double(kTargetKs[row])) * (target > 0.995f ? 24 : target > 0.98f ? 8 : target > 0.95f ? 4 : 2);
    };
    size_t row = 0;
    while (row + 1 < std::size(kTargetKs) && kTargetKs[row + 1] <= k) ++row;
    double ef = column(row);
    if (row + 1 < std::size(kTargetKs)) {  // between two measured k: linear
        const double share = double(k - kTargetKs[row]) / (kTargetKs[row + 1] - kTargetKs[row]);
        ef += share * (column(row + 1) - ef);
    } else {
        ef *= double(k) / kTargetKs[row];
    }
    return uint32_t(std::clamp(std::ceil(ef), 1.0, double(kMaxEf)));
}

// --- Searcher ---

struct Searcher::Scratch {
    Beam beam;
    Query query;
    std::vector<float> exact;  // the query as the refinement copy is: normalised for cosine, times refine_scale
    std::vector<uint32_t> slots, order;
    std::vector<float> distances;
};

Searcher::Searcher(std::shared_ptr<const Index> index) : index_(std::move(index)), scratch_(std::make_unique<Scratch>()) {}
Searcher::~Searcher() = default;
Searcher::Searcher(Searcher&&) noexcept = default;

const SearchStats& Searcher::stats() const { return scratch_->beam.stats; }

// Below so many rows comparing all is as fast as walking the graph, and exact.
static constexpr uint64_t kScanRows = 4096;
// Testing a row against a filter costs this share of comparing it. An estimate like kWalkRows: it chooses the faster way, never the result.
static constexpr double kTestCost = 0.3;
// So many rows are compared at full precision: measured to cost least at any recall. A larger effort refines more, so that the codes set no ceiling.
static uint32_t refined_rows(uint32_t k, uint32_t ef) { return std::max(std::clamp(ef + ef / 2, k + (k + 4) / 5, 12 * k), ef / 4); }

void Searcher::prepare(const float* query) {
    const IndexData& data = index_->data();
    Scratch& s = *scratch_;
    s.exact.assign(query, query + data.header.dim);
    if (index_->metric() == Metric::cosine) normalise(s.exact.data(), data.header.dim);
    s.query.prepare(data.quantizer, index_->metric(), s.exact.data());
    for (float& x : s.exact) x *= data.header.refine_scale;
}

// Compares scratch's slots at the higher precision and returns the k nearest.
uint32_t Searcher::refine(uint32_t k, uint64_t* ids, float* distances) {
    const IndexData& data = index_->data();
    const bool l2 = index_->metric() == Metric::l2;
    const uint32_t dim = data.header.dim;
    const auto* rows = data.section[kRefine].as<const uint16_t>();
    Scratch& s = *scratch_;
    const uint32_t n = uint32_t(s.slots.size()), found = std::min(n, k);
    s.distances.resize(n);
    s.order.resize(n);
    (l2 ? kernels().l2_16 : kernels().dot16)(rows, dim, dim, s.slots.data(), n, s.exact.data(), s.distances.data());
    const float unscale = 1 / (data.header.refine_scale * data.header.refine_scale);
    for (uint32_t i = 0; i < n; ++i) {
        s.distances[i] = l2 ? s.distances[i] * unscale : 1 - s.distances[i] * unscale;
        s.order[i] = i;
    }
    std::partial_sort(s.order.begin(), s.order.begin() + found, s.order.end(), [&](uint32_t a, uint32_t b) {
        return s.distances[a] != s.distances[b] ? s.distances[a] < s.distances[b] : s.slots[a] < s.slots[b];
    });
    for (uint32_t i = 0; i < found; ++i) {
        ids[i] = data.id_of(s.slots[s.order[i]]);
        if (distances) distances[i] = s.distances[s.order[i]];
    }
    s.beam.stats.refined = n;
    return found;
}

uint32_t Searcher::exact(const float* query, const uint32_t* slots, uint64_t n, uint32_t k, uint64_t* ids) {
    prepare(query);
    Scratch& s = *scratch_;
    s.beam.scan(index_->data().view, s.query, 16 * k, n, slots, nullptr);
    s.slots.clear();
    for (uint32_t i = 0; i < s.beam.pool.size(); ++i) s.slots.push_back(s.beam.pool.slot(i));
    return refine(k, ids, nullptr);
}

uint32_t Searcher::search(const float* query, const SearchOptions& options, uint64_t* ids, float* distances) {
    const IndexData& data = index_->data();
    const uint32_t k = options.k;
    if (k < 1 || k > kMaxK) fail("k ", k, ": expected 1 to ", kMaxK);
    if (options.ef > kMaxEf) fail("ef ", options.ef, ": expected at most ", kMaxEf);
    if (options.recall_target && !(options.recall_target >= 0.5f && options.recall_target <= 0.999f))
        fail("recall_target ", options.recall_target, ": expected 0.5 to 0.999");
    if (!all_finite(query, index_->dim())) fail("the query has a value that is not finite");
    Scratch& s = *scratch_;
    struct Seat {
        std::atomic<uint64_t>* epoch;
        ~Seat() { if (epoch) epoch->store(0); }
    } const seat{data.readers ? &data.readers->sit() : nullptr};
    const uint64_t rows = data.rows.load(std::memory_order_acquire);
    s.slots.clear();
    s.beam.stats = {};
    if (!rows) return 0;
    prepare(query);
    const uint32_t ef = options.ef ? options.ef : index_->ef_for(options.recall_target, k);
    const uint32_t wanted = refined_rows(k, ef);
    View view = data.view;
    if (const Entrances* const now = data.entrances.load(std::memory_order_acquire))
        view.pivots = now->slots.data(), view.pivot_codes = now->codes.data(), view.pivot_count = uint32_t(now->slots.size());

    Tags::Filter filter;
    std::function<bool(uint32_t)> pass;  // empty: every row may be returned
    if (data.has(kDead)) pass = [&](uint32_t slot) { return !data.dead(slot); };
    const auto collect = [&] {
        s.slots.clear();
        for (uint32_t i = 0; i < s.beam.pool.size() && s.slots.size() < wanted; ++i) {
            const uint32_t slot = s.beam.pool.slot(i);
            if (pass && !pass(slot)) continue;
            s.slots.push_back(slot);
            prefetch(data.section[kRefine].as<const uint16_t>() + size_t(slot) * data.header.dim, 2 * data.header.dim);
        }
    };
    const bool filtered = options.filter && !(options.filter->all.empty() && options.filter->any.empty() && options.filter->none.empty());
    if (!filtered) {
        const uint64_t hidden = data.hidden.load(std::memory_order_relaxed), live = data.live.load(std::memory_order_relaxed);
        bool scan = rows <= kScanRows || hidden > 4 * live;
        if (!scan) {
            // Dead rows take places among the candidates: a search keeps more by their share, and goes on where they crowd.
            uint64_t effort = ef + (hidden ? std::min<uint64_t>(ef, ef * hidden / std::max<uint64_t>(live, 1)) : 0);
            s.beam.search(view, s.query, uint32_t(effort), std::max<uint32_t>(wanted, uint32_t(wanted * effort / ef)));
            for (SearchStats spent = s.beam.stats; hidden; spent = s.beam.stats) {
                uint64_t met = 0;
                const uint64_t seen = std::min<uint64_t>(effort, s.beam.pool.size());
                for (uint32_t i = 0; i < seen; ++i) met += !data.dead(s.beam.pool.slot(i));
                if (4 * met >= 3 * seen || met >= ef) break;
                effort *= 4;
                if ((scan = double(effort) * kWalkRows >= double(rows) || effort > kMaxEf)) break;
                s.beam.search(view, s.query, uint32_t(effort), uint32_t(std::max<uint64_t>(wanted, effort)));
                data.detours.fetch_add(s.beam.stats.distances, std::memory_order_relaxed);
                s.beam.stats.distances += spent.distances, s.beam.stats.hops += spent.hops;
            }
            collect();
            scan |= s.slots.size() < std::min<uint64_t>(k, live);
            if (scan) data.detours.fetch_add(rows, std::memory_order_relaxed);
        }
        if (scan) {
            s.beam.scan(view, s.query, std::max(ef, wanted), rows, nullptr, pass);
            collect();
        }
        return refine(k, ids, distances);
    }

    // A share p of the rows passes. Walking the graph must keep ef / p candidates, comparing all that pass costs p * rows: the
    // cheaper one. A walk that met too few, as when the filter and the query point to different places, is followed by the other.
    static const Tags untagged(0);
    filter = (data.tags ? *data.tags : untagged).compile(*options.filter, index_->size(), std::max<uint64_t>(kScanRows, uint64_t(std::sqrt(kWalkRows * ef * double(rows)))));
    pass = [&](uint32_t slot) { return filter(slot) && !data.dead(slot); };
    const double share = double(std::max<uint64_t>(filter.rows, 1)) / double(rows);
    const double walk = kWalkRows * ef / share, scan = double(filter.rows) + (filter.listed ? 0 : kTestCost * double(rows));
    if (rows > kScanRows && walk < scan && ef / share < kMaxEf) {
        s.beam.search(view, s.query, uint32_t(ef / share), uint32_t(wanted / share));
        collect();
        if (s.slots.size() >= std::min<uint64_t>(k, filter.rows)) return refine(k, ids, distances);
    }
    if (filter.listed) s.beam.scan(view, s.query, std::max(ef, wanted), filter.candidates.size(), filter.candidates.data(), pass);
    else s.beam.scan(view, s.query, std::max(ef, wanted), rows, nullptr, pass);
    collect();
    return refine(k, ids, distances);
}

}  // namespace vnni
