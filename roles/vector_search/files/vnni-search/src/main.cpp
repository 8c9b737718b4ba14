// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// vnni-search: the command line.
#include <fcntl.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <mutex>
#include <thread>

#include <nlohmann/json.hpp>

#include "build.hpp"
#include "cli.hpp"
#include "kernels.hpp"
#include "tags.hpp"

namespace vnni {

static const char* const kHelp = R"(usage: vnni-search COMMAND [options]      (vnni-search COMMAND --help tells more)

  build    vectors to an index file
  serve    answer searches over HTTP (Open Inference Protocol)
  bench    recall, QPS and latencies of an index
  info     what an index holds
  verify   check every byte of an index
  plan     bytes by section for n vectors of dimension d, and what fits where
  kernels  the kernels that this CPU can run, the best first

The best kernel is used; VNNI_SEARCH_KERNEL=avx2 (avx512_vnni, avx_vnni, avx512_vnni_256, avx2, neon_dotprod, scalar) chooses another.
)";

static const char* const kBuildHelp = R"(usage: vnni-search build --input FILE --output FILE.vnni --metric l2|ip|cosine [options]

  --input FILE      .npy (float32, float16, uint8, int8), .fvecs, .bvecs, .fbin, .u8bin, .i8bin; row numbers become ids
  --output FILE     written under a temporary name, synced and renamed: never half a file, not even after SIGINT
  --metric M        l2, ip (inner product) or cosine
  --rows N          only the first N vectors (all)
  --tags FILE       a line a row: its tags, separated by blanks (an empty line: none)
  --threads N       (all CPUs)       --seed N     the same seed gives the same index, whatever the threads (42)
  --bits 8|4        of a code, of all dimensions (chosen by a sample, with the coordinates)
  --degree N        neighbours a row (64, fewer for short vectors: never more memory than hnswlib FP32 with M = 16)
  --build-ef N      candidates that neighbours are chosen from (128)
  --alpha X         1 to 2: keep a neighbour unless another is X times nearer to it (1.2)
  --no-measure      leave out the table behind recall_target
  --quiet           no progress
)";

static const char* const kInfoHelp = R"(usage: vnni-search info FILE [--sample N [--nearest K]]

Prints an index's header: rows, dimension, metric, version, sections, the ef measured for each recall.
--sample N: instead, as JSON, the header's main fields and N rows spread over the index with their ids and vectors, to query a service with.
--nearest K: with each of them, its K nearest of up to a million rows spread over the index ("compared"), found by comparing all: to judge the answers.
)";
static const char* const kVerifyHelp = "usage: vnni-search verify FILE\n\nReads every byte and walks the graph; exit status 0 when all checksums and ids are right and every row is reachable, else 1 and the reason.\n";
static const char* const kPlanHelp = R"(usage: vnni-search plan --n ROWS --d DIMENSION [--metric l2|ip|cosine] [--bits 8|4] [--degree N] [--ids] [--ram BYTES]

Bytes by section for an index of that shape, in each mode, beside hnswlib's FP32. --n takes 4e9. --ids: rows have ids of their own.
--ram (default: this machine's): what fits.
)";

// --- arguments ---

Arguments::Arguments(int argc, char** argv, int first, const std::vector<std::string>& options) {
    for (int i = first; i < argc; ++i) {
        const std::string word = argv[i];
        const std::string name = word.rfind("--", 0) == 0 ? word.substr(2) : "";
        const auto known = [&](const std::string& n) { return std::find(options.begin(), options.end(), n) != options.end(); };
        if (!name.empty() && known(name + "!")) {
            values_[name] = "";
        } else if (!name.empty() && known(name)) {
            if (i + 1 == argc) fail("--", name, " needs a value");
            values_[name] = argv[++i];
        } else {
            fail("unknown argument '", word, "'; see vnni-search ", argv[1], " --help");
        }
    }
}

std::string Arguments::text(const std::string& name, const std::string& fallback) const {
    const auto it = values_.find(name);
    return it == values_.end() ? fallback : it->second;
}

std::string Arguments::required(const std::string& name) const {
    if (!values_.count(name) || text(name).empty()) fail("--", name, " is missing");
    return text(name);
}

double Arguments::number(const std::string& name, double fallback, double least, double most) const {
    if (!values_.count(name)) return fallback;
    const std::string value = text(name);
    char* end = nullptr;
    const double x = std::strtod(value.c_str(), &end);
    if (end == value.c_str() || *end || !(x >= least && x <= most)) fail("--", name, " '", value, "': expected a number from ", least, " to ", most);
    return x;
}

uint64_t Arguments::integer(const std::string& name, uint64_t fallback, uint64_t least, uint64_t most) const {
    const double x = number(name, double(fallback), double(least), double(most));
    if (x != std::floor(x)) fail("--", name, " '", text(name), "': expected a whole number");
    return uint64_t(x);
}

// --- commands ---

static std::vector<std::vector<std::string>> read_tags(const std::string& path) {
    std::ifstream file(path);
    if (!file) fail_errno(path);
    std::vector<std::vector<std::string>> rows;
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::vector<std::string>& tags = rows.emplace_back();
        for (std::string word; words >> word;) tags.push_back(word);
    }
    return rows;
}

// One line on stderr a second at most: phase, share, rate, time left.
class Progress {
 public:
    void operator()(const char* phase, uint64_t done, uint64_t all) {
        const std::lock_guard lock(mutex_);
        const double now = wall_seconds();
        if (phase != phase_) phase_ = phase, start_ = now, first_ = done;
        if (now < next_ && done < all) return;
        next_ = now + 1;
        const double rate = now > start_ ? double(done - std::min(first_, done)) / (now - start_) : 0;
        std::fprintf(stderr, "%s %llu of %llu (%.0f%%), %.0f rows/s, %s left\n", phase, static_cast<unsigned long long>(done),
                     static_cast<unsigned long long>(all), 100.0 * double(done) / double(all), rate,
                     rate > 0 ? human_seconds(double(all - done) / rate).c_str() : "?");
    }

 private:
    std::mutex mutex_;
    const char* phase_ = nullptr;
    double start_ = 0, next_ = 0;
    uint64_t first_ = 0;
};

static int build_main(int argc, char** argv) {
    const Arguments args(argc, argv, 2, {"input", "output", "metric", "rows", "tags", "threads", "seed", "bits", "degree", "build-ef", "alpha", "no-measure!", "quiet!"});
    BuildOptions options;
    const std::string output = args.required("output");
    options.metric = metric_from(args.required("metric"));
    options.threads = unsigned(args.integer("threads", std::max(1u, std::thread::hardware_concurrency()), 1, 4096));
    options.seed = args.integer("seed", options.seed, 0, 1ull << 53);
    options.bits = uint32_t(args.integer("bits", 0, 4, 8));
    options.degree = uint32_t(args.integer("degree", 0, 8, 256));
    options.ef = uint32_t(args.integer("build-ef", options.ef, 16, 4096));
    options.alpha = float(args.number("alpha", options.alpha, 1, 2));
    options.measure = !args.flag("no-measure");
    if (args.flag("tags")) options.tags = read_tags(args.text("tags"));
    Progress progress;
    if (!args.flag("quiet")) options.progress = std::ref(progress);
    Vectors input(args.required("input"));
    input.keep_first(args.integer("rows", UINT32_MAX, 1, UINT32_MAX));
    catch_interrupts();
    { AtomicFile writable(output); }  // a place that cannot be written is known before the work
    const double start = wall_seconds();
    const auto index = build(input, options);
    write_index(index->data(), index->header(), output);
    if (!args.flag("quiet")) std::fprintf(stderr, "%s: %s in %s\n", output.c_str(), human_bytes(double(index->memory_bytes())).c_str(), human_seconds(wall_seconds() - start).c_str());
    return 0;
}

static int info_main(const std::string& path) {
    const Header h = read_header(File(path, O_RDONLY));
    std::printf("file        %s\nrows        %llu (%llu live)\ndimension   %u\nmetric      %s\ncodes       %u bits, %u bytes a row\ndegree      %u\npivots      %u\n"
                "version     %llu\nbuilt       alpha %.2f, ef %u, seed %llu\n",
                path.c_str(), static_cast<unsigned long long>(h.rows), static_cast<unsigned long long>(h.live), h.dim, name(Metric(h.metric)), h.bits, h.stride,
                h.degree, h.pivots, static_cast<unsigned long long>(h.content << 32 | h.crc), double(h.alpha), h.build_ef, static_cast<unsigned long long>(h.seed));
    for (uint32_t s = 0; s < kSections; ++s)
        if (h.sections[s].bytes)
            std::printf("section     %-7s %12llu bytes at %llu, CRC32C %08x\n", name(SectionId(s)), static_cast<unsigned long long>(h.sections[s].bytes),
                        static_cast<unsigned long long>(h.sections[s].offset), h.sections[s].crc);
    if (!h.table[1][0]) return std::puts("recall      not measured"), 0;
    std::printf("ef for recall@k");
    for (const float target : kTargets) std::printf(" %7.3f", double(target));
    for (size_t row = 0; row < std::size(kTargetKs); ++row) {
        std::printf("\n        k = %-3u", kTargetKs[row]);
        for (const uint32_t ef : h.table[row]) std::printf(" %7u", ef);
    }
    std::printf("\n");
    return 0;
}

static int sample_main(const std::string& path, uint64_t count, uint32_t nearest) {
    constexpr uint64_t kMostCompared = 1'000'000;
    OpenOptions options;
    options.mode = Mode::mmap, options.verify = false;
    const auto index = Index::open(path, options);
    const IndexData& data = index->data();
    const uint64_t rows = data.header.rows;
    const auto spread = [&](uint64_t n) {  // up to n live slots, evenly over the index
        std::vector<uint32_t> slots;
        for (uint64_t i = 0; i < std::min(n, rows); ++i)
            if (const auto slot = uint32_t(rows * i / std::min(n, rows)); !data.dead(slot)) slots.push_back(slot);
        return slots;
    };
    const auto row = [&](uint32_t slot) {
        std::vector<float> vector(index->dim());
        for (uint32_t j = 0; j < index->dim(); ++j) vector[j] = from_half(data.section[kRefine].as<uint16_t>()[size_t(slot) * index->dim() + j]) / data.header.refine_scale;
        return vector;
    };
    const std::vector<uint32_t> compared = nearest ? spread(kMostCompared) : std::vector<uint32_t>();
    nlohmann::json out = {{"live", index->size()}, {"dim", index->dim()}, {"metric", name(index->metric())}, {"version", std::to_string(index->version())},
                          {"compared", compared.size()}, {"sample", nlohmann::json::array()}};
    Searcher searcher(index);
    for (const uint32_t slot : spread(count)) {
        nlohmann::json& sampled = out["sample"].emplace_back(nlohmann::json{{"id", data.id_of(slot)}, {"vector", row(slot)}});
        if (!nearest) continue;
        std::vector<uint64_t> ids(nearest);
        ids.resize(searcher.exact(row(slot).data(), compared.data(), compared.size(), nearest, ids.data()));
        sampled["nearest"] = nlohmann::json::array();
        for (const uint64_t id : ids) {
            const auto at = std::find_if(compared.begin(), compared.end(), [&](uint32_t s) { return data.id_of(s) == id; });
            sampled["nearest"].push_back({{"id", id}, {"vector", row(*at)}});
        }
    }
    return std::puts(out.dump().c_str()), 0;
}

static int verify_main(const std::string& path) {
    OpenOptions options;
    options.mode = Mode::mmap;
    const auto index = Index::open(path, options);
    const uint64_t unreachable = index->unreachable();
    if (unreachable)
        fail(path, ": ", unreachable, " of ", index->size(), " rows are unreachable: searches do not find them. Serve it with --writes and take a snapshot, which links them, or build it anew");
    std::printf("%s: right (%llu rows, 0 unreachable, %s)\n", path.c_str(), static_cast<unsigned long long>(index->size()), human_bytes(double(index->memory_bytes())).c_str());
    return 0;
}

static uint64_t machine_ram() {
    std::ifstream file("/proc/meminfo");
    std::string key;
    uint64_t kib = 0;
    file >> key >> kib;
    return kib << 10;
}

static int plan_main(int argc, char** argv) {
    const Arguments args(argc, argv, 2, {"n", "d", "metric", "bits", "degree", "ids!", "ram"});
    args.required("n"), args.required("d");
    const uint64_t n = args.integer("n", 0, 1, kNoSlot - 1);
    const auto d = uint32_t(args.integer("d", 0, 1, kMaxDim));
    Shape shape = shape_for(d, metric_from(args.text("metric", "ip")), uint32_t(args.integer("bits", 0, 4, 8)), uint32_t(args.integer("degree", 0, 8, 256)));
    shape.ids = args.flag("ids");
    const double ram = args.number("ram", double(machine_ram()), 1, 1e18);
    const auto line = [&](const char* what, double bytes) { std::printf("%-34s %14s %10.1f bytes a row\n", what, human_bytes(bytes).c_str(), bytes / double(n)); };
    std::printf("%.10g rows, dimension %u, %s, %u-bit codes, degree %u\n", double(n), d, name(shape.metric), shape.bits, shape.degree);
    double all = 0;
    for (uint32_t s = 0; s < kSections; ++s)
        if (const double bytes = double(n) * double(shape.row_bytes(SectionId(s))); bytes > 0) all += bytes, line(name(SectionId(s)), bytes);
    const double refine = double(n) * double(shape.row_bytes(kRefine));
    const double modes[] = {all, double(n) * (shape.stride + 4.0 * shape.degree), all - refine};
    line("the file", all);
    line("hnswlib FP32, M = 16", double(n) * double(hnswlib_row_bytes(d)));
    const char* const what[] = {"ram: all in memory", "mmap: touched by searches", "split: codes and graph in memory"};
    for (int m = 0; m < 3; ++m) {
        line(what[m], modes[m]);
        std::printf("%-34s %s\n", "", modes[m] < 0.9 * ram ? "fits" : ("does not fit in " + human_bytes(ram) + ": at least " + std::to_string(uint64_t(std::ceil(modes[m] / (0.9 * ram)))) + " such machines").c_str());
    }
    return 0;
}

static int run(int argc, char** argv) {
    const std::string command = argc > 1 ? argv[1] : "--help";
    if (command == "--help" || command == "-h" || command == "help") return std::fputs(kHelp, stdout), 0;
    const bool help = argc > 2 && (std::string(argv[2]) == "--help" || std::string(argv[2]) == "-h");
    const auto one_file = [&](int (*body)(const std::string&), const char* text) {
        if (help) return std::fputs(text, stdout), 0;
        if (argc != 3) fail("vnni-search ", command, " takes one file");
        return body(argv[2]);
    };
    if (command == "build") return help ? std::fputs(kBuildHelp, stdout), 0 : build_main(argc, argv);
    if (command == "bench") return help ? std::fputs(kBenchHelp, stdout), 0 : bench_main(argc, argv);
    if (command == "plan") return help ? std::fputs(kPlanHelp, stdout), 0 : plan_main(argc, argv);
    if (command == "info" && !help && argc > 3) {
        const Arguments args(argc, argv, 3, {"sample", "nearest"});
        return sample_main(argv[2], args.integer("sample", 16, 1, 10000), uint32_t(args.integer("nearest", 0, 1, 100)));
    }
    if (command == "info") return one_file(info_main, kInfoHelp);
    if (command == "verify") return one_file(verify_main, kVerifyHelp);
    if (command == "kernels") {
        if (argc > 2 && !help) fail("vnni-search kernels takes no arguments");
        if (help) return std::fputs("usage: vnni-search kernels\n\nPrints the kernels that this CPU can run by what cpuid says, a line each, the best first.\n", stdout), 0;
        for (const Kernels* k : usable_kernels()) std::puts(k->name);
        return 0;
    }
#ifdef VNNI_SEARCH_SERVE
    if (command == "serve") return serve_main(argc, argv);
#endif
    fail("unknown command '", command, "'; see vnni-search --help");
}

}  // namespace vnni

int main(int argc, char** argv) {
    try {
        return vnni::run(argc, argv);
    } catch (const std::bad_alloc&) {
        std::fputs("vnni-search: out of memory\n", stderr);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "vnni-search: %s\n", error.what());
    }
    return 1;
}
