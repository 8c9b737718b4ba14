// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "build.hpp"
#include "live.hpp"
#include "tags.hpp"

using namespace vnni;
namespace fs = std::filesystem;

// A file system that lies: the next so many calls fail, a write after half of its bytes.
namespace faults {
std::atomic<int> writes{0}, syncs{0}, cuts{0};
std::atomic<int> error{EIO};
bool strikes(std::atomic<int>& left) {
    int n = left;
    while (n > 0 && !left.compare_exchange_weak(n, n - 1)) {}
    if (n > 0) errno = error;
    return n > 0;
}
}  // namespace faults

extern "C" {
ssize_t pwrite(int fd, const void* bytes, size_t n, off_t at) {
    if (!faults::strikes(faults::writes)) return syscall(SYS_pwrite64, fd, bytes, n, at);
    if (n > 1) syscall(SYS_pwrite64, fd, bytes, n / 2, at);
    errno = faults::error;
    return -1;
}
int fdatasync(int fd) { return faults::strikes(faults::syncs) ? -1 : int(syscall(SYS_fdatasync, fd)); }
int fsync(int fd) { return faults::strikes(faults::syncs) ? -1 : int(syscall(SYS_fsync, fd)); }
int ftruncate(int fd, off_t n) noexcept { return faults::strikes(faults::cuts) ? -1 : int(syscall(SYS_ftruncate, fd, n)); }
}

namespace {

struct Directory {
    fs::path path = fs::temp_directory_path() / ("vnni-test-" + std::to_string(getpid()) + "-" + std::to_string(rand()));
    Directory() { fs::create_directories(path); }
    ~Directory() { fs::remove_all(path); }
    std::string operator/(const std::string& name) const { return path / name; }
};

std::vector<float> random_rows(size_t n, uint32_t dim, uint64_t seed, uint32_t clusters = 20) {
    Random random{seed}, centres{7};  // the same clusters for rows and queries
    const auto gauss = [](Random& r) {
        double sum = 0;
        for (int i = 0; i < 6; ++i) sum += double(r() >> 11) * 0x1p-53;
        return float(sum - 3);
    };
    std::vector<float> means(size_t(clusters) * dim), rows(n * dim);
    for (float& x : means) x = 2 * gauss(centres);
    for (size_t i = 0; i < n; ++i) {
        const size_t c = random.below(clusters);
        for (uint32_t j = 0; j < dim; ++j) rows[i * dim + j] = means[c * dim + j] + gauss(random);
    }
    return rows;
}

// The bytes of an .npy file.
void write_npy(const std::string& path, const std::vector<float>& rows, uint64_t n, uint64_t dim, const std::string& type = "<f4", bool fortran = false) {
    std::string header = "{'descr': '" + type + "', 'fortran_order': " + (fortran ? "True" : "False") + ", 'shape': (" + std::to_string(n) + ", " +
                         std::to_string(dim) + "), }";
    header.resize(118, ' ');
    header.back() = '\n';
    std::ofstream file(path, std::ios::binary);
    file.write("\x93NUMPY\1\0\x76\0", 10);
    file << header;
    file.write(reinterpret_cast<const char*>(rows.data()), std::streamsize(4 * rows.size()));
}

std::shared_ptr<Index> build_from(const Directory& dir, const std::vector<float>& rows, uint32_t dim, BuildOptions options) {
    write_npy(dir / "base.npy", rows, rows.size() / dim, dim);
    return build(Vectors(dir / "base.npy"), options);
}

double distance(Metric metric, const float* a, const float* b, uint32_t dim) {
    double dot = 0, aa = 0, bb = 0, l2 = 0;
    for (uint32_t j = 0; j < dim; ++j) dot += double(a[j]) * b[j], aa += double(a[j]) * a[j], bb += double(b[j]) * b[j], l2 += (double(a[j]) - b[j]) * (double(a[j]) - b[j]);
    if (metric == Metric::l2) return l2;
    return 1 - (metric == Metric::ip ? dot : aa && bb ? dot / std::sqrt(aa * bb) : 0);
}

std::vector<uint64_t> truth(Metric metric, const float* query, const std::map<uint64_t, std::vector<float>>& rows, uint32_t dim, size_t k) {
    std::vector<std::pair<double, uint64_t>> all;
    for (const auto& [id, row] : rows) all.emplace_back(distance(metric, query, row.data(), dim), id);
    std::sort(all.begin(), all.end());
    std::vector<uint64_t> ids;
    for (size_t i = 0; i < std::min(k, all.size()); ++i) ids.push_back(all[i].second);
    return ids;
}

std::map<uint64_t, std::vector<float>> as_map(const std::vector<float>& rows, uint32_t dim) {
    std::map<uint64_t, std::vector<float>> map;
    for (size_t i = 0; i < rows.size() / dim; ++i) map[i].assign(rows.begin() + ptrdiff_t(i * dim), rows.begin() + ptrdiff_t((i + 1) * dim));
    return map;
}

double recall(Searcher& searcher, Metric metric, const std::vector<float>& queries, const std::map<uint64_t, std::vector<float>>& rows, uint32_t dim, SearchOptions options) {
    size_t hits = 0, wanted = 0;
    std::vector<uint64_t> ids(options.k);
    std::vector<float> distances(options.k);
    for (size_t q = 0; q < queries.size() / dim; ++q) {
        const auto right = truth(metric, &queries[q * dim], rows, dim, options.k);
        const uint32_t n = searcher.search(&queries[q * dim], options, ids.data(), distances.data());
        CHECK(n == right.size());
        for (uint32_t i = 0; i < n; ++i) {
            REQUIRE(rows.count(ids[i]));
            const double expected = distance(metric, &queries[q * dim], rows.at(ids[i]).data(), dim);
            CHECK(distances[i] == doctest::Approx(expected).epsilon(0.01).scale(1 + std::abs(expected)));
            if (i) CHECK(distances[i] >= distances[i - 1]);
            hits += std::find(right.begin(), right.end(), ids[i]) != right.end();
        }
        CHECK(std::set<uint64_t>(ids.begin(), ids.begin() + n).size() == n);
        wanted += right.size();
    }
    return wanted ? double(hits) / double(wanted) : 1;
}

void copy_with_flip(const std::string& from, const std::string& to, uint64_t at) {
    fs::copy_file(from, to, fs::copy_options::overwrite_existing);
    std::fstream file(to, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(std::streamoff(at));
    const int byte = file.get();
    file.seekp(std::streamoff(at));
    file.put(char(byte ^ 0x10));
}

}  // namespace

TEST_CASE("every kernel family gives scalar's bits") {
    const auto usable = usable_kernels();
    const Kernels& scalar = *usable.back();
    CHECK(std::string(scalar.name) == "scalar");
    Random random{3};
    for (const size_t bytes : {32, 64, 96, 128, 192, 320, 1024, 4096})
        for (const size_t n : {1, 2, 3, 4, 5, 8, 17}) {
            const size_t rows = 40;
            std::vector<uint8_t> base(rows * bytes);
            std::vector<int8_t> query(2 * bytes);
            const bool extreme = random.below(3) == 0;
            for (auto& x : base) x = extreme ? 255 : uint8_t(random());
            for (auto& x : query) x = extreme ? -128 : int8_t(random());
            std::vector<uint32_t> ids(n);
            for (auto& id : ids) id = uint32_t(random.below(rows));
            std::vector<int32_t> expected(n), got(n);
            std::vector<uint16_t> terms(n + 3), terms_too(n + 3);
            std::vector<uint16_t> halves(rows * bytes);
            std::vector<float> floats(bytes), expected_float(n), got_float(n);
            for (auto& h : halves) h = to_half(float(random.below(2000)) / 100 - 10);
            for (auto& f : floats) f = float(random.below(2000)) / 100 - 10;
            const size_t dim = bytes - random.below(20);
            for (const Kernels* k : usable) {
                CAPTURE(k->name);
                scalar.dot8(base.data(), bytes, bytes, ids.data(), n, query.data(), expected.data(), terms.data());
                k->dot8(base.data(), bytes, bytes, ids.data(), n, query.data(), got.data(), terms_too.data());
                CHECK(got == expected);
                for (size_t i = 0; i < n; ++i) CHECK(terms[i] == terms_too[i]);
                if (bytes % 64 == 0) {
                    scalar.dot4(base.data(), bytes, bytes, ids.data(), n, query.data(), expected.data(), nullptr);
                    k->dot4(base.data(), bytes, bytes, ids.data(), n, query.data(), got.data(), terms_too.data());
                    for (size_t i = 0; i < n; ++i) CHECK(terms[i] == terms_too[i]);
                    CHECK(got == expected);
                }
                for (const auto kernel : {&Kernels::dot16, &Kernels::l2_16}) {
                    (scalar.*kernel)(halves.data(), bytes, dim, ids.data(), n, floats.data(), expected_float.data());
                    (k->*kernel)(halves.data(), bytes, dim, ids.data(), n, floats.data(), got_float.data());
                    for (size_t i = 0; i < n; ++i) CHECK(got_float[i] == doctest::Approx(expected_float[i]).epsilon(1e-4).scale(double(dim) * 100));
                }
                std::vector<uint32_t> kept(n + 16), kept_too(n + 16);
                std::vector<float> distances(n + 16), distances_too(n + 16);
                const size_t m = scalar.select(ids.data(), expected.data(), terms.data(), n, -0.5f, 0.1f, 0, kept.data(), distances.data());
                CHECK(k->select(ids.data(), expected.data(), terms.data(), n, -0.5f, 0.1f, 0, kept_too.data(), distances_too.data()) == m);
                for (size_t i = 0; i < m; ++i) CHECK(kept[i] == kept_too[i]);
            }
        }
}

TEST_CASE("halves and checksums") {
    CHECK(crc32c("123456789", 9) == 0xe3069283);
    CHECK(crc32c("6789", 4, crc32c("12345", 5)) == 0xe3069283);
    for (uint32_t h = 0; h < 0x7c00; ++h) CHECK(to_half(from_half(uint16_t(h))) == h);
    CHECK(to_half(65520.0f) == 0x7c00);
    CHECK(to_half(1.0f + 0x1p-11f) == 0x3c00);  // a tie goes to the even one
    CHECK(to_half(-2.0f) == 0xc000);
}

TEST_CASE("recall and distances for every metric and code width") {
    const Directory dir;
    for (const Metric metric : {Metric::l2, Metric::ip, Metric::cosine})
        for (const auto& [dim, bits] : {std::pair{24u, 8u}, {100u, 8u}, {300u, 4u}}) {
            CAPTURE(name(metric));
            CAPTURE(dim);
            const auto rows = random_rows(5000, dim, 1), queries = random_rows(30, dim, 2);
            BuildOptions options;
            options.metric = metric, options.bits = bits, options.threads = 2, options.measure = false;
            Searcher searcher(build_from(dir, rows, dim, options));
            SearchOptions search;
            search.ef = 200;
            CHECK(recall(searcher, metric, queries, as_map(rows, dim), dim, search) > 0.95);
        }
}

TEST_CASE("rows near a subspace are coded in its coordinates, saved, loaded and changed so") {
    const Directory dir;
    const uint32_t dim = 300, inner = 20;
    const auto spread = [&](const std::vector<float>& few) {
        Random random{11};
        std::vector<float> directions(size_t(inner) * dim), rows(few.size() / inner * dim);
        for (float& x : directions) x = float(random.below(2001)) / 1000 - 1;
        for (size_t i = 0; i < rows.size() / dim; ++i)
            for (uint32_t f = 0; f < inner; ++f)
                for (uint32_t j = 0; j < dim; ++j) rows[i * dim + j] += few[i * inner + f] * directions[f * dim + j];
        return rows;
    };
    const auto rows = spread(random_rows(5000, inner, 1)), queries = spread(random_rows(30, inner, 2));
    for (const Metric metric : {Metric::l2, Metric::ip, Metric::cosine}) {
        CAPTURE(name(metric));
        BuildOptions options;
        options.metric = metric, options.threads = 2, options.measure = false;
        const auto built = build_from(dir, rows, dim, options);
        const Header& h = built->header();
        CHECK(h.width < dim);
        CHECK(h.stride < shape_for(dim, metric, 0, 0).stride);
        SearchOptions search;
        search.ef = 100;
        Searcher searcher(built);
        CHECK(recall(searcher, metric, queries, as_map(rows, dim), dim, search) > 0.95);
        write_index(built->data(), h, dir / "index");
        {
            Searcher loaded(Index::open(dir / "index"));
            CHECK(recall(loaded, metric, queries, as_map(rows, dim), dim, search) > 0.95);
        }
        LiveIndex live(dir / "index", dir / (std::string("log-") + name(metric)));
        const auto fresh = spread(random_rows(200, inner, 3));
        auto all = as_map(rows, dim);
        std::vector<uint64_t> ids;
        for (uint64_t i = 0; i < 200; ++i) ids.push_back(6000 + i), all[6000 + i].assign(&fresh[i * dim], &fresh[i * dim] + dim);
        live.upsert(ids.data(), fresh.data(), ids.size());
        Searcher changed(live.view());
        CHECK(recall(changed, metric, fresh, all, dim, search) > 0.95);
    }
}

TEST_CASE("the table reaches the recall it promises") {
    const Directory dir;
    const uint32_t dim = 32;
    const auto rows = random_rows(12000, dim, 1, 200), queries = random_rows(60, dim, 2, 200);
    BuildOptions options;
    options.threads = 2;
    const auto index = build_from(dir, rows, dim, options);
    CHECK(index->ef_for(0.99f, 10) >= index->ef_for(0.9f, 10));
    Searcher searcher(index);
    SearchOptions search;
    for (const float target : {0.9f, 0.95f, 0.99f}) {
        search.recall_target = target;
        CHECK(recall(searcher, Metric::l2, queries, as_map(rows, dim), dim, search) > target - 0.03);
    }
}

TEST_CASE("small and odd inputs") {
    const Directory dir;
    BuildOptions options;
    uint64_t ids[1000];
    float distances[1000];
    SearchOptions search;
    for (const uint32_t dim : {1u, 2u, 33u, 4096u})
        for (const size_t n : {1, 2, 7, 40}) {
            const auto rows = random_rows(n, dim, 5);
            for (const Metric metric : {Metric::l2, Metric::ip, Metric::cosine}) {
                options.metric = metric;
                Searcher searcher(build_from(dir, rows, dim, options));
                search.k = 1000;
                CHECK(searcher.search(rows.data(), search, ids, distances) == n);
                if (metric == Metric::l2) CHECK(ids[0] == 0);
            }
        }
    options.metric = Metric::cosine;
    std::vector<float> rows(5000 * 8, 0);  // all zero
    search.k = 10;
    Searcher zeros(build_from(dir, rows, 8, options));
    CHECK(zeros.search(rows.data(), search, ids, distances) == 10);
    CHECK(distances[0] == 1);
    options.metric = Metric::l2;
    Searcher same(build_from(dir, std::vector<float>(6000 * 8, 3.25f), 8, options));  // all equal
    CHECK(same.search(rows.data(), search, ids, distances) == 10);
    CHECK(distances[9] == doctest::Approx(8 * 3.25 * 3.25));
    CHECK(std::set<uint64_t>(ids, ids + 10).size() == 10);
    std::vector<float> bad(8, NAN);
    CHECK_THROWS_WITH_AS(same.search(bad.data(), search, ids, distances), doctest::Contains("not finite"), Error);
    search.k = 1001;
    CHECK_THROWS_AS(same.search(rows.data(), search, ids, distances), Error);
    search.k = 10, search.recall_target = 2;
    CHECK_THROWS_AS(same.search(rows.data(), search, ids, distances), Error);
}

TEST_CASE("the same seed gives the same graph, whatever the threads") {
    const Directory dir;
    const auto rows = random_rows(3000, 16, 1);
    BuildOptions options;
    const auto one = build_from(dir, rows, 16, options);
    options.threads = 3;
    const auto three = build_from(dir, rows, 16, options);
    const auto bytes = [](const Index& index) { return std::string(reinterpret_cast<const char*>(index.data().section[kGraph].data()), index.data().section[kGraph].size()); };
    CHECK(bytes(*one) == bytes(*three));
    options.seed = 43;
    CHECK(bytes(*one) != bytes(*build_from(dir, rows, 16, options)));
}

TEST_CASE("every row can be reached from the pivots") {
    const Directory dir;
    auto rows = random_rows(6000, 24, 1, 1);
    for (uint32_t i = 0; i < 100 * 24; ++i) rows[i] = rows[i % 24];         // equal rows hide each other
    for (uint32_t i = 3000 * 24; i < 6000 * 24; ++i) rows[i] *= 0.01f;      // and by inner product short ones are nobody's neighbours
    for (const Metric metric : {Metric::l2, Metric::ip})
        for (const uint32_t degree : {8u, 0u}) {
            BuildOptions options;
            options.metric = metric, options.degree = degree;
            const auto index = build_from(dir, rows, 24, options);
            const View& view = index->data().view;
            std::vector<uint32_t> met(view.pivots, view.pivots + view.pivot_count);
            std::set<uint32_t> seen(met.begin(), met.end());
            for (size_t i = 0; i < met.size(); ++i)
                for (uint32_t j = 0; j < view.degree; ++j)
                    if (const uint32_t slot = view.graph[size_t(met[i]) * view.degree + j]; seen.insert(slot).second) met.push_back(slot);
            CHECK(met.size() == 6000);
        }
}

TEST_CASE("the file: every mode reads it, every damage is refused") {
    const Directory dir;
    const uint32_t dim = 20;
    const auto rows = random_rows(5000, dim, 1), queries = random_rows(10, dim, 2);
    BuildOptions options;
    options.tags.resize(5000);
    for (size_t i = 0; i < 5000; ++i) options.tags[i] = {i % 2 ? "odd" : "even"};
    const std::string path = dir / "i.vnni", damaged = dir / "d.vnni";
    const auto built = build_from(dir, rows, dim, options);
    write_index(built->data(), built->header(), path);
    SearchOptions search;
    search.ef = 200;
    for (const Mode mode : {Mode::ram, Mode::mmap, Mode::split}) {
        OpenOptions open;
        open.mode = mode;
        Searcher searcher(Index::open(path, open));
        CHECK(recall(searcher, Metric::l2, queries, as_map(rows, dim), dim, search) > 0.95);
    }
    const Header h = read_header(File(path, O_RDONLY));
    const uint64_t size = fs::file_size(path);
    std::vector<uint64_t> places = {0, 9, 13, 20, 100, 300, 4000, 4096, 5000, size - 1};
    for (const Section& section : h.sections)
        if (section.bytes)
            for (const uint64_t at : {section.offset - 1, section.offset, section.offset + section.bytes / 2, section.offset + section.bytes - 1}) places.push_back(at);
    for (const uint64_t at : places) {
        CAPTURE(at);
        copy_with_flip(path, damaged, at);
        CHECK_THROWS_WITH_AS(Index::open(damaged), doctest::Contains("d.vnni"), Error);
    }
    for (const uint64_t length : {uint64_t(0), uint64_t(112), uint64_t(4095), uint64_t(4096), h.sections[kGraph].offset + 1, size - 1, size + 1}) {
        CAPTURE(length);
        fs::copy_file(path, damaged, fs::copy_options::overwrite_existing);
        fs::resize_file(damaged, length);
        CHECK_THROWS_WITH_AS(Index::open(damaged), doctest::Contains("d.vnni"), Error);
    }
    CHECK_THROWS_WITH_AS(Index::open(dir / "none"), doctest::Contains("No such file"), Error);
}

TEST_CASE("inputs that cannot be used are refused with a reason") {
    const Directory dir;
    const std::string path = dir / "x.npy";
    const std::vector<float> rows(40, 1);
    const auto refused = [&](const char* why) { CHECK_THROWS_WITH_AS(build(Vectors(path), {}), doctest::Contains(why), Error); };
    write_npy(path, rows, 10, 4, "<f8"), refused("float32");
    write_npy(path, rows, 11, 4), refused("truncated");
    write_npy(path, rows, 0, 4), refused("no vectors");
    write_npy(path, std::vector<float>(5000, 1), 1, 5000), refused("1 to 4096");
    std::vector<float> bad = rows;
    bad[9] = INFINITY;
    write_npy(path, bad, 10, 4), refused("vector 2 has inf in position 1");
    std::ofstream(path) << "no numpy";
    refused("npy");
    CHECK_THROWS_AS(Vectors(dir / "x.txt"), Error);
    BuildOptions options;
    options.tags.resize(3);
    write_npy(path, rows, 10, 4);
    CHECK_THROWS_WITH_AS(build(Vectors(path), options), doctest::Contains("tags for 3 rows"), Error);
    std::ofstream(dir / "v.fvecs", std::ios::binary).write("\2\0\0\0aaaabbbb\3\0\0\0aaaabbbb", 24);
    CHECK_THROWS_WITH_AS(build(Vectors(dir / "v.fvecs"), {}), doctest::Contains("dimension 3"), Error);
}

TEST_CASE("filters are right at any selectivity") {
    const Directory dir;
    const uint32_t dim = 24;
    const auto rows = random_rows(8000, dim, 1), queries = random_rows(15, dim, 2);
    const auto all = as_map(rows, dim);
    BuildOptions options;
    options.threads = 2, options.measure = false;
    Random random{5};
    for (size_t i = 0; i < 8000; ++i) {
        auto& tags = options.tags.emplace_back();
        for (const auto& [tag, share] : {std::pair{"half", 2}, {"tenth", 10}, {"percent", 100}, {"rare", 1000}})
            if (random.below(uint64_t(share)) == 0) tags.push_back(tag);
        if (distance(Metric::l2, &rows[i * dim], &rows[0], dim) < 40) tags.push_back("corner");  // far from most queries
    }
    Searcher searcher(build_from(dir, rows, dim, options));
    const std::vector<TagFilter> filters = {{{"half"}, {}, {}}, {{"tenth"}, {}, {}}, {{"percent"}, {}, {}}, {{"rare"}, {}, {}}, {{"corner"}, {}, {}},
                                            {{}, {}, {"half"}}, {{"half"}, {"tenth", "percent"}, {"rare"}}, {{"unknown"}, {}, {}}, {{}, {"unknown"}, {}}, {{}, {}, {"unknown"}}};
    for (const TagFilter& filter : filters) {
        auto passing = all;
        std::erase_if(passing, [&](const auto& row) {
            const auto& tags = options.tags[row.first];
            const auto has = [&](const std::string& tag) { return std::find(tags.begin(), tags.end(), tag) != tags.end(); };
            return !std::all_of(filter.all.begin(), filter.all.end(), has) || std::any_of(filter.none.begin(), filter.none.end(), has) ||
                   (!filter.any.empty() && std::none_of(filter.any.begin(), filter.any.end(), has));
        });
        CAPTURE(passing.size());
        SearchOptions search;
        search.filter = &filter, search.ef = 100;
        CHECK(recall(searcher, Metric::l2, queries, passing, dim, search) > 0.95);
    }
}

// --- live updates ---

TEST_CASE("upserts, deletes, replay, snapshots and consolidation agree with a map") {
    const Directory dir;
    for (const Metric metric : {Metric::l2, Metric::ip, Metric::cosine}) {
        const uint32_t dim = 16;
        auto rows = random_rows(4500, dim, 1);
        const auto queries = random_rows(20, dim, 2), fresh = random_rows(3000, dim, 3);
        auto model = as_map(rows, dim);
        BuildOptions options;
        options.metric = metric, options.threads = 2, options.measure = false;
        const std::string path = dir / (std::string(name(metric)) + ".vnni"), log = path + ".log";
        const auto built = build_from(dir, rows, dim, options);
        write_index(built->data(), built->header(), path);
        LiveOptions live;
        live.sync = Sync::never, live.consolidate_share = 2, live.capacity = 1 << 20;
        auto index = std::make_unique<LiveIndex>(path, log, live);
        Random random{9};
        const auto check = [&] {
            Searcher searcher(index->view());
            SearchOptions search;
            search.ef = 300;
            CHECK(index->view()->size() == model.size());
            CHECK(recall(searcher, metric, queries, model, dim, search) > 0.95);
        };
        for (int round = 0; round < 6; ++round) {
            for (int i = 0; i < 250; ++i) {
                const uint64_t id = random.below(7000), from = random.below(3000);
                if (random.below(3)) {
                    model[id].assign(fresh.begin() + ptrdiff_t(from * dim), fresh.begin() + ptrdiff_t((from + 1) * dim));
                    index->upsert(&id, &fresh[from * dim], 1, {{"new"}});
                } else {
                    CHECK(index->erase(&id, 1) == model.erase(id));
                }
            }
            check();
            if (round == 1) {
                CHECK(index->consolidate() > 0);
                check();
            }
            if (round == 2) index = nullptr, index = std::make_unique<LiveIndex>(path, log, live), check();
            if (round == 3) index->snapshot(), check();
            if (round == 4) index = nullptr, index = std::make_unique<LiveIndex>(path, log, live), check(), index->consolidate();
        }
        CHECK_THROWS_AS(index->upsert(model.size() ? &model.begin()->first : nullptr, std::vector<float>(dim, NAN).data(), 1), Error);
        check();
    }
}

TEST_CASE("a torn record is cut off, from a damaged one on the writes are set aside") {
    const Directory dir;
    const auto rows = random_rows(100, 4, 1);
    const auto built = build_from(dir, rows, 4, {});
    write_index(built->data(), built->header(), dir / "i");
    LiveOptions live;
    live.capacity = 10000;
    for (uint64_t id = 1000; id < 1010; ++id) {
        LiveIndex index(dir / "i", dir / "log", live);
        CHECK(index.view()->size() == 100 + id - 1000);
        index.upsert(&id, rows.data(), 1);
    }
    const uint64_t size = fs::file_size(dir / "log.1"), record = 8 + 1 + 8 + 16 + 1;
    for (uint64_t cut = 1; cut < record; cut += 5) {
        fs::remove(dir / "copy.1");
        fs::copy_file(dir / "log.1", dir / "copy.1");
        fs::resize_file(dir / "copy.1", size - cut);
        CHECK(LiveIndex(dir / "i", dir / "copy", live).view()->size() == 109);
        CHECK(fs::file_size(dir / "copy.1") == size - record);
    }
    const std::vector<float> vector(rows.begin(), rows.begin() + 4);
    const auto opens_with = [&](uint64_t rows, const char* missing) {
        fs::remove(dir / "copy.1.lost");
        {
            LiveIndex index(dir / "i", dir / "copy", live);
            CHECK(index.view()->size() == rows);
            CHECK(index.missing().find(missing) != std::string::npos);
            CHECK(fs::file_size(dir / "copy.1.lost") == size);
            const uint64_t id = 5000;
            index.upsert(&id, vector.data(), 1);
        }
        LiveIndex again(dir / "i", dir / "copy", live);  // what is written from there on is replayed
        CHECK(again.view()->size() == rows + 1);
        CHECK(again.missing() == "");
    };
    copy_with_flip(dir / "log.1", dir / "copy.1", size - 5 * record + 20);
    opens_with(105, "is damaged");
    copy_with_flip(dir / "log.1", dir / "copy.1", 10);
    opens_with(100, "not a log");
    copy_with_flip(dir / "log.1", dir / "copy.1", size - 3 * record + 1);  // a length
    fs::copy_file(dir / "log.1", dir / "copy.2");                          // a log behind the damage is not replayed over the gap
    opens_with(107, "and so are the logs that follow");
    CHECK(fs::exists(dir / "copy.2.lost"));
}

TEST_CASE("a full index takes updates and deletes, logs nothing that it refuses, and replays what it acknowledged") {
    const Directory dir;
    const uint32_t dim = 8;
    const auto rows = random_rows(600, dim, 1), others = random_rows(600, dim, 2);
    const auto built = build_from(dir, rows, dim, {});
    write_index(built->data(), built->header(), dir / "i");
    LiveOptions live;
    live.capacity = 600, live.consolidate_share = 2, live.sync = Sync::never;
    std::vector<uint64_t> ids(600);
    for (uint64_t i = 0; i < 600; ++i) ids[i] = i;
    auto index = std::make_unique<LiveIndex>(dir / "i", dir / "log", live);
    const auto size = [&] { return fs::file_size(dir / "log.1"); };
    for (int round = 0; round < 30; ++round) index->upsert(ids.data(), round % 2 ? rows.data() : others.data(), 600);
    CHECK(index->view()->data().rows < 6000);  // slots are used again
    const uint64_t before = size(), fresh = 1000;
    CHECK_THROWS_WITH_AS(index->upsert(&fresh, rows.data(), 1), doctest::Contains("full: 600 rows of a capacity of 600, and 1 of these ids"), Error);
    CHECK(size() == before);
    CHECK(index->erase(ids.data(), 1) == 1);
    index->upsert(&fresh, rows.data(), 1);
    live.capacity = 100;  // a lower one refuses no start
    for (int again = 0; again < 2; ++again) {
        index = nullptr, index = std::make_unique<LiveIndex>(dir / "i", dir / "log", live);
        CHECK(index->view()->size() == 600);
        CHECK(index->missing() == "");
        CHECK(index->view()->unreachable() == 0);
        index->upsert(&fresh, others.data(), 1);
    }
}

TEST_CASE("readers, writer and consolidation side by side") {
    const Directory dir;
    const uint32_t dim = 8;
    const auto rows = random_rows(5000, dim, 1);
    BuildOptions options;
    options.measure = false;
    const auto built = build_from(dir, rows, dim, options);
    write_index(built->data(), built->header(), dir / "i");
    LiveOptions live;
    live.sync = Sync::never, live.capacity = 20000, live.consolidate_share = 0.02, live.interval = 0.02;
    LiveIndex index(dir / "i", dir / "log", live);
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> searches{0};
    {
        std::vector<std::jthread> readers;
        for (int t = 0; t < 2; ++t)
            readers.emplace_back([&, t] {
                Searcher searcher(index.view());
                Random random{uint64_t(t)};
                uint64_t ids[10];
                float distances[10];
                while (!stop) {
                    if (searcher.search(&rows[random.below(5000) * dim], {}, ids, distances) != 10) std::abort();
                    for (const uint64_t id : ids)
                        if (id >= 6000) std::abort();
                    ++searches;
                }
            });
        Random random{77};
        for (int i = 0; i < 1500; ++i) {
            const uint64_t id = random.below(6000);
            if (i % 3) index.upsert(&id, &rows[random.below(5000) * dim], 1, {{"tag"}});
            else index.erase(&id, 1);
            if (i % 500 == 0) index.consolidate(), index.snapshot();
        }
        stop = true;
    }
    CHECK(searches > 0);
}

TEST_CASE("a disk that fails loses nothing acknowledged and brings back nothing refused") {
    const Directory dir;
    const uint32_t dim = 4;
    const auto rows = random_rows(400, dim, 1);
    const auto built = build_from(dir, rows, dim, {});
    for (const Sync sync : {Sync::always, Sync::never}) {
        const std::string path = dir / (sync == Sync::always ? "always" : "never");
        write_index(built->data(), built->header(), path);
        LiveOptions live;
        live.sync = sync, live.consolidate_share = 2;
        auto index = std::make_unique<LiveIndex>(path, path + ".log", live);
        std::set<uint64_t> model;
        for (uint64_t id = 0; id < 400; ++id) model.insert(id);
        Random random{5};
        int refused = 0;
        for (int i = 0; i < 600; ++i) {
            const uint64_t ids[2] = {random.below(600), random.below(600)};
            faults::error = random.below(2) ? ENOSPC : EIO;
            if (random.below(4) == 0) faults::writes = 1;
            if (random.below(4) == 0) faults::syncs = 1;
            if (random.below(8) == 0) faults::cuts = 1;
            try {
                const uint64_t what = random.below(40);
                if (what == 0) index->snapshot();
                else if (what < 20) index->upsert(ids, &rows[random.below(399) * dim], 2), model.insert({ids[0], ids[1]});
                else index->erase(ids, 2), model.erase(ids[0]), model.erase(ids[1]);
            } catch (const Error&) {
                ++refused;
            }
            faults::writes = faults::syncs = 0;
            if (i % 25 == 0) {
                faults::cuts = 0;
                index->erase(ids, 2), model.erase(ids[0]), model.erase(ids[1]);  // which takes back what a write before may have left
                index = nullptr;
                index = std::make_unique<LiveIndex>(path, path + ".log", live);
                CHECK(index->missing() == "");
            }
            std::set<uint64_t> there;
            const IndexData& data = index->view()->data();
            for (uint32_t slot = 0; slot < data.rows; ++slot)
                if (!data.dead(slot)) there.insert(data.id_of(slot));
            REQUIRE(there == model);
        }
        faults::cuts = 0;
        CHECK(refused > 50);
    }
}

TEST_CASE("when the log cannot be synced in time a snapshot makes good what was acknowledged") {
    const Directory dir;
    const auto rows = random_rows(100, 4, 1);
    const auto built = build_from(dir, rows, 4, {});
    write_index(built->data(), built->header(), dir / "i");
    LiveOptions live;
    live.sync = Sync::interval, live.interval = 0.01;
    LiveIndex index(dir / "i", dir / "log", live);
    const uint64_t content = read_header(File(dir / "i", O_RDONLY)).content;
    faults::syncs = 1;
    uint64_t id = 1000;
    index.upsert(&id, rows.data(), 1);
    for (int i = 0; i < 1000 && read_header(File(dir / "i", O_RDONLY)).content == content; ++i) usleep(10000);
    const Header h = read_header(File(dir / "i", O_RDONLY));
    CHECK(h.content > content);
    CHECK(h.live == 101);
    for (int i = 0;; ++i) {  // until the snapshot is done writes are refused
        try {
            index.upsert(&++id, rows.data(), 1);
            break;
        } catch (const Error& e) {
            CHECK(std::string(e.what()).find("cannot sync") != std::string::npos);
            REQUIRE(i < 1000);
            usleep(10000);
        }
    }
}

TEST_CASE("kill -9 at any moment loses nothing acknowledged and adds nothing") {
    const Directory dir;
    const auto rows = random_rows(300, 4, 1);
    const auto built = build_from(dir, rows, 4, {});
    write_index(built->data(), built->header(), dir / "i");
    LiveOptions live;  // full now and then, while the background consolidates
    live.capacity = 300 + 700, live.consolidate_share = 0.02, live.interval = 0.01;
    const char* const rounds = std::getenv("VNNI_SEARCH_KILLS");
    std::map<uint64_t, bool> acknowledged;  // id -> there
    Random random{11};
    for (int round = 0; round < (rounds ? std::atoi(rounds) : 20); ++round) {
        int pipe_ends[2];
        REQUIRE(pipe(pipe_ends) == 0);
        const pid_t child = fork();
        if (child == 0) {  // op, id before; op | 16, id after it was acknowledged
            LiveIndex index(dir / "i", dir / "log", live);
            Random choose{uint64_t(round)};
            for (;;) {
                const uint64_t id = 1000 + choose.below(700);
                const auto say = [&](uint64_t what, uint64_t which) {
                    const uint64_t message[2] = {what, which};
                    if (write(pipe_ends[1], message, 16) != 16) _exit(1);
                };
                if (choose.below(10) == 0) index.snapshot();
                say(1, id), index.upsert(&id, &rows[choose.below(300) * 4], 1), say(17, id);
                const uint64_t victim = 1000 + choose.below(700);
                if (choose.below(20) == 0) index.consolidate();
                if (choose.below(3) == 0) say(2, victim), index.erase(&victim, 1), say(18, victim);
            }
        }
        close(pipe_ends[1]);
        usleep(useconds_t(5000 + random.below(60000)));
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        uint64_t message[2], open_id = 0;
        while (read(pipe_ends[0], message, 16) == 16) {
            if (message[0] < 16) open_id = message[1];
            else acknowledged[message[1]] = message[0] == 17, open_id = 0;
        }
        close(pipe_ends[0]);
        LiveIndex index(dir / "i", dir / "log", live);
        CHECK(index.missing() == "");
        CHECK(index.view()->unreachable() == 0);
        std::set<uint64_t> there;
        const IndexData& data = index.view()->data();
        for (uint32_t slot = 0; slot < data.rows; ++slot)
            if (!data.dead(slot) && data.id_of(slot) >= 1000) CHECK(there.insert(data.id_of(slot)).second);
        for (const auto& [id, present] : acknowledged)
            if (id != open_id) CHECK(there.count(id) == present);
        for (const uint64_t id : there) CHECK((id == open_id || acknowledged.count(id)));
        if (open_id) acknowledged[open_id] = there.count(open_id);
    }
}
