// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// Measuring: a sweep over ef, and the line protocol of benchmark harnesses.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include <fcntl.h>
#include <sched.h>

#include "build.hpp"
#include "cli.hpp"

namespace vnni {

using nlohmann::json;

// The protocol's efforts begin at 10, but on easy data fewer candidates do.
static constexpr uint32_t kEffortOffset = 8;

const char* const kBenchHelp = R"(usage: vnni-search bench --index FILE --queries FILE [--truth FILE] [options]
       vnni-search bench --json-lines

Searches with one thread over a sweep of ef and prints recall, QPS, latency percentiles, distances and hops a query.
  --index FILE      the index                    --queries FILE   vectors (.npy, .fvecs, .fbin, ...)
  --truth FILE      ids of the true neighbours (.npy int32 or int64, .ivecs); without it recall is measured against an
                    exact search of the index itself
  --k N             results a query (10)         --ef LIST        e.g. 16,32,64 (10 to 640 in steps)
  --mode MODE       ram, mmap, split (ram)       --repeat N       rounds, of which the fastest counts (3)
  --json            one JSON object on stdout    --plot FILE.svg  recall against QPS

--json-lines reads one JSON object a line from stdin and answers each with one line:
  {"op":"build","base":PATH.npy,"metric":"l2|ip|cosine","threads":n}            {"build_cpu_s","build_wall_s","rss_mib"}
  {"op":"search","query":PATH.npy,"k":10,"ef":e,"out":PATH}                     {"cpu_s","wall_s"}, int32 ids [queries][k] in out;
                                                                                e is an effort from 10 up: ef + 8
  {"op":"load","index":FILE}  {"op":"save","index":FILE}                        {}
Searches are single-threaded and the times are those of the search alone. A failure answers {"error":TEXT}.
)";

static std::vector<float> read_all(const std::string& path, uint32_t dim, uint64_t* rows) {
    const Vectors vectors(path);
    if (vectors.dim() != dim) fail(path, ": dimension ", vectors.dim(), ", but the index has ", dim);
    std::vector<float> all(vectors.rows() * dim);
    vectors.read(0, vectors.rows(), all.data());
    *rows = vectors.rows();
    return all;
}

// --- the line protocol ---

static json answer(const json& request, std::shared_ptr<const Index>& index) {
    const std::string op = request.at("op");
    if (op == "build") {
        const Vectors base(request.at("base"));
        BuildOptions options;
        options.metric = metric_from(request.at("metric"));
        options.threads = request.value("threads", 1u);
        options.ef = request.value("build_ef", options.ef);
        options.degree = request.value("degree", options.degree);
        options.bits = request.value("bits", options.bits);
        options.alpha = request.value("alpha", options.alpha);
        options.measure = request.value("measure", options.measure);
        index.reset();
        const double cpu = cpu_seconds(), wall = wall_seconds();
        index = build(base, options);
        return {{"build_cpu_s", cpu_seconds() - cpu}, {"build_wall_s", wall_seconds() - wall}, {"rss_mib", double(resident_bytes()) / (1 << 20)},
                {"index_mib", double(index->memory_bytes()) / (1 << 20)}, {"coordinates", index->header().width}, {"bits", index->header().bits}};
    }
    if (op == "load") return index = Index::open(request.at("index")), json::object();
    if (!index) fail("op '", op, "' before any build or load");
    if (op == "save") return write_index(index->data(), index->header(), request.at("index")), json::object();
    if (op != "search") fail("op '", op, "': expected build, search, load or save");
    uint64_t rows = 0;
    const std::string path = request.at("out");
    const auto queries = read_all(request.at("query"), index->dim(), &rows);
    SearchOptions options;
    options.k = request.value("k", 10u);
    options.ef = request.value("ef", 0u);
    if (options.ef) options.ef = std::max(options.ef, kEffortOffset + 1) - kEffortOffset;
    options.recall_target = request.value("recall_target", 0.0f);
    if (options.k < 1 || options.k > kMaxK) fail("k ", options.k, ": expected 1 to ", kMaxK);
    std::vector<int32_t> out(rows * options.k, -1);
    Searcher searcher(index);
    uint64_t ids[kMaxK], distances_made = 0, hops = 0;
    float distances[kMaxK];
    const double cpu = thread_cpu_seconds(), wall = wall_seconds();
    for (uint64_t q = 0; q < rows; ++q) {
        const uint32_t n = searcher.search(&queries[q * index->dim()], options, ids, distances);
        for (uint32_t i = 0; i < n; ++i) out[q * options.k + i] = int32_t(ids[i]);
        distances_made += searcher.stats().distances, hops += searcher.stats().hops;
    }
    const double cpu_s = thread_cpu_seconds() - cpu, wall_s = wall_seconds() - wall;
    File file(path, O_WRONLY | O_CREAT | O_TRUNC);
    file.write(out.data(), 4 * out.size(), 0);
    return {{"cpu_s", cpu_s}, {"wall_s", wall_s}, {"distances", double(distances_made) / double(rows)}, {"hops", double(hops) / double(rows)}};
}

static int json_lines() {
    std::shared_ptr<const Index> index;
    for (std::string line; std::getline(std::cin, line);) {
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        json reply;
        try {
            reply = answer(json::parse(line), index);
        } catch (const std::exception& error) {
            reply = {{"error", error.what()}};
        }
        std::cout << reply.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
    }
    return 0;
}

// --- the sweep ---

struct Point {
    uint32_t ef;
    double recall, qps, p50, p90, p99, distances, hops;
};

static void plot(const std::vector<Point>& points, const std::string& path) {
    constexpr double width = 640, height = 400, margin = 60;
    double low = 1, high = 0, slow = 1e30, fast = 0;
    for (const Point& p : points) low = std::min(low, p.recall), high = std::max(high, p.recall), slow = std::min(slow, p.qps), fast = std::max(fast, p.qps);
    const auto x = [&](double recall) { return margin + (width - 2 * margin) * (high > low ? (recall - low) / (high - low) : 0.5); };
    const auto y = [&](double qps) { return height - margin - (height - 2 * margin) * (fast > slow ? std::log(qps / slow) / std::log(fast / slow) : 0.5); };
    std::ostringstream svg;
    svg << "<svg xmlns='http://www.w3.org/2000/svg' width='" << width << "' height='" << height << "' font-family='sans-serif' font-size='12'>\n"
        << "<rect width='100%' height='100%' fill='white'/>\n<polyline fill='none' stroke='#0a6' stroke-width='2' points='";
    for (const Point& p : points) svg << x(p.recall) << ',' << y(p.qps) << ' ';
    svg << "'/>\n";
    for (const Point& p : points)
        svg << "<circle cx='" << x(p.recall) << "' cy='" << y(p.qps) << "' r='3' fill='#0a6'><title>ef " << p.ef << ": recall " << p.recall << ", "
            << std::llround(p.qps) << " QPS</title></circle>\n";
    svg << "<text x='" << width / 2 << "' y='" << height - 20 << "' text-anchor='middle'>recall " << low << " to " << high << "</text>\n"
        << "<text x='20' y='30'>QPS, one thread: " << std::llround(slow) << " to " << std::llround(fast) << " (log scale)</text>\n</svg>\n";
    AtomicFile file(path);
    const std::string text = svg.str();
    file.file().write(text.data(), text.size(), 0);
    file.commit();
}

static Point measure(Searcher& searcher, const std::vector<float>& queries, uint32_t dim, const IdMatrix& truth, SearchOptions options, unsigned repeat) {
    const uint64_t rows = queries.size() / dim;
    std::vector<uint64_t> ids(options.k);
    std::vector<float> distances(options.k);
    Point point{};
    point.ef = options.ef;
    std::vector<double> times(rows), best;
    for (unsigned round = 0; round < repeat; ++round) {
        uint64_t hits = 0, compared = 0, hops = 0;
        double sum = 0;
        for (uint64_t q = 0; q < rows; ++q) {
            const double start = wall_seconds();
            const uint32_t n = searcher.search(&queries[q * dim], options, ids.data(), distances.data());
            sum += times[q] = wall_seconds() - start;
            compared += searcher.stats().distances, hops += searcher.stats().hops;
            const auto* true_ids = &truth.ids[q * truth.columns];
            for (uint32_t i = 0; i < n; ++i) hits += std::find(true_ids, true_ids + options.k, ids[i]) != true_ids + options.k;
        }
        const double qps = double(rows) / sum;
        if (qps > point.qps) point.qps = qps, best = times;
        point.recall = double(hits) / double(rows * options.k);
        point.distances = double(compared) / double(rows), point.hops = double(hops) / double(rows);
    }
    std::sort(best.begin(), best.end());
    const auto percentile = [&](double p) { return 1e6 * best[std::min<size_t>(best.size() - 1, size_t(p * double(best.size())))]; };
    point.p50 = percentile(0.5), point.p90 = percentile(0.9), point.p99 = percentile(0.99);
    return point;
}

int bench_main(int argc, char** argv) {
    const Arguments args(argc, argv, 2, {"json-lines!", "index", "queries", "truth", "k", "ef", "mode", "repeat", "json!", "plot"});
    if (args.flag("json-lines")) return json_lines();
    OpenOptions open;
    open.mode = mode_from(args.text("mode", "ram"));
    const auto index = Index::open(args.required("index"), open);
    uint64_t rows = 0;
    const auto queries = read_all(args.required("queries"), index->dim(), &rows);
    SearchOptions options;
    options.k = uint32_t(args.integer("k", 10, 1, kMaxK));
    if (options.k > index->size()) fail("--k ", options.k, ": the index has ", index->size(), " rows");
    IdMatrix truth;
    Searcher searcher(index);
    if (const std::string path = args.text("truth"); !path.empty()) {
        truth = IdMatrix::read(path);
        if (truth.rows < rows) fail(path, ": truth for ", truth.rows, " queries, but there are ", rows);
        if (truth.columns < options.k) fail(path, ": ", truth.columns, " neighbours a query, --k is ", options.k);
    } else {
        std::vector<uint32_t> live;
        for (uint32_t slot = 0; slot < index->data().rows; ++slot)
            if (!index->data().dead(slot)) live.push_back(slot);
        truth.rows = rows, truth.columns = options.k, truth.ids.resize(rows * options.k);
        for (uint64_t q = 0; q < rows; ++q) searcher.exact(&queries[q * index->dim()], live.data(), live.size(), options.k, &truth.ids[q * options.k]);
    }
    std::vector<uint32_t> efs;
    std::istringstream list(args.text("ef", "10,14,20,28,40,56,80,112,160,226,320,452,640"));
    for (std::string word; std::getline(list, word, ',');) {
        char* end = nullptr;
        const unsigned long ef = std::strtoul(word.c_str(), &end, 10);
        if (end == word.c_str() || *end || ef < 1 || ef > kMaxEf) fail("--ef '", word, "': expected numbers from 1 to ", kMaxEf);
        efs.push_back(uint32_t(ef));
    }
    const auto repeat = unsigned(args.integer("repeat", 3, 1, 1000));
    json out = {{"index", index->path()}, {"kernel", kernel_name()}, {"k", options.k}, {"queries", rows}, {"points", json::array()}};
    std::vector<Point> points;
    if (!args.flag("json")) std::printf("%6s %8s %9s %9s %9s %9s %10s %7s\n", "ef", "recall", "QPS", "p50 us", "p90 us", "p99 us", "distances", "hops");
    for (const uint32_t ef : efs) {
        check_interrupted();
        options.ef = ef;
        const Point p = measure(searcher, queries, index->dim(), truth, options, repeat);
        points.push_back(p);
        out["points"].push_back({{"ef", ef}, {"recall", p.recall}, {"qps", p.qps}, {"p50_us", p.p50}, {"p90_us", p.p90}, {"p99_us", p.p99},
                                 {"distances", p.distances}, {"hops", p.hops}});
        if (!args.flag("json")) std::printf("%6u %8.4f %9.0f %9.1f %9.1f %9.1f %10.0f %7.1f\n", ef, p.recall, p.qps, p.p50, p.p90, p.p99, p.distances, p.hops);
    }
    if (args.flag("json")) std::cout << out.dump(2) << std::endl;
    if (args.flag("plot")) plot(points, args.text("plot"));
    return 0;
}

}  // namespace vnni
