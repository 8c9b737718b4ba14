// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The protocol and the pool, without a socket.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "../src/serve_budget.hpp"
#include "../src/serve_pool.hpp"
#include "../src/serve_protocol.hpp"

using namespace vnni::serve;
using nlohmann::json;
using vnni::TagFilter;

namespace {

const Limits kLimits{.dim = 3, .max_queries = 100, .max_response_bytes = 12'000};
const Defaults kDefaults{.k = 10, .ef = 0, .recall_target = 0.95f};

InferRequest infer(const std::string& body, std::optional<std::string> header_length = std::nullopt) {
    return parse_infer(body, header_length, kLimits, kDefaults);
}

/// A request of one 3-dimensional query with further members, each after a comma.
std::string request(const std::string& more = "") {
    return R"({"inputs":[{"name":"queries","datatype":"FP32","shape":[1,3],"data":[1,2.5,-3e2]}])" + more + "}";
}
std::string with_parameters(const std::string& parameters) { return request(",\"parameters\":{" + parameters + "}"); }
std::string with_data(const std::string& shape, const std::string& data, const std::string& datatype = "FP32") {
    return R"({"inputs":[{"name":"queries","datatype":")" + datatype + R"(","shape":)" + shape + R"(,"data":)" + data + "}]}";
}

/// The status and message that `body` is refused with; {0, ""} when it is taken.
std::pair<unsigned, std::string> refusal(const std::string& body, std::optional<std::string> header_length = std::nullopt) {
    try {
        infer(body, header_length);
        return {0, ""};
    } catch (const ProtocolError& e) {
        return {e.status, e.what()};
    }
}
bool refused(const std::string& body, const std::string& because, unsigned status = 400, std::optional<std::string> header_length = std::nullopt) {
    const auto [given, message] = refusal(body, header_length);
    INFO(body, " -> ", given, " ", message);
    CHECK(given == status);
    CHECK(message.find(because) != message.npos);
    return given == status && message.find(because) != message.npos;
}

std::string bytes_of(const std::vector<float>& v) { return std::string(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float)); }
std::string binary_header(size_t bytes, const std::string& shape = "[2,3]") {
    return R"({"inputs":[{"name":"queries","datatype":"FP32","shape":)" + shape + R"(,"parameters":{"binary_data_size":)" + std::to_string(bytes) +
           "}}]}";
}

}  // namespace

TEST_CASE("a JSON request, flat or nested, integers or reals") {
    const auto r = infer(request());
    CHECK(r.n == 1);
    CHECK(r.queries == std::vector<float>{1, 2.5f, -300});
    CHECK(r.k == 10);
    CHECK(r.ef == 0);
    CHECK(r.recall_target == 0.95f);
    CHECK_FALSE(r.filter);
    CHECK_FALSE(r.id);
    REQUIRE(r.outputs.size() == 2);
    CHECK_FALSE(r.outputs[0].binary);
    CHECK(infer(with_data("[2,3]", "[[1,2,3],[4,5,6]]")).queries == std::vector<float>{1, 2, 3, 4, 5, 6});
    CHECK(infer(with_data("[2,3]", "[1,2,3,4,5,6.5]")).queries == std::vector<float>{1, 2, 3, 4, 5, 6.5f});
    CHECK(infer(with_data("[1,3]", "[9223372036854775807,18446744073709551615,1e-60]")).queries ==
          std::vector<float>{9223372036854775807.0f, 18446744073709551615.0f, 0});
}

TEST_CASE("parameters") {
    CHECK(infer(with_parameters(R"("k":1000)")).k == 1000);
    const auto effort = infer(with_parameters(R"("ef":77)"));
    CHECK(effort.ef == 77);
    CHECK(effort.recall_target == 0);  // what the request says wins over the server's default
    const auto recall = parse_infer(with_parameters(R"("recall_target":0.99)"), {}, kLimits, {.ef = 50});
    CHECK(recall.recall_target == 0.99f);
    CHECK(recall.ef == 0);
    CHECK(infer(request(R"(,"id":"q-1")")).id == "q-1");
    for (const char* k : {"0", "1001", "-1", "1.5", "\"10\"", "true", "[null]", "18446744073709551615", "9223372036854775808", "1e400", "[1]"})
        CHECK(refusal(with_parameters("\"k\":" + std::string(k))).first == 400);
    refused(with_parameters(R"("ef":10,"recall_target":0.9)"), "not both");
    refused(with_parameters(R"("recall_target":1)"), "0.5 to 0.999");
    refused(request(R"(,"parameters":[])"), "must be an object");
    refused(request(R"(,"id":7)"), "\"id\" must be a string");
}

TEST_CASE("what is not known is ignored, and null is absent") {
    const std::vector<float> queries{1, 2.5f, -300};
    for (const char* more : {R"(,"model_name":"x","extra":[{"deep":[1,null]}])", R"(,"id":null,"parameters":null,"outputs":null)", R"(,"outputs":[])",
                             R"(,"parameters":{"content_type":"np","timeout":1000000,"priority":1,"sequence_id":7,"headers":{"a":null}})",
                             R"(,"parameters":{"k":null,"ef":null,"recall_target":null,"filter":null,"binary_data_output":null})",
                             R"(,"outputs":[{"name":"ids","shape":[1],"parameters":{"content_type":"np"}},{"name":"distances","parameters":null}])"}) {
        const auto r = infer(request(more));
        CHECK(r.queries == queries);
        CHECK(r.k == 10);
        CHECK(r.recall_target == 0.95f);
        CHECK_FALSE(r.filter);
        CHECK_FALSE(r.id);
        CHECK(r.outputs.size() == 2);
    }
    CHECK(infer(R"({"inputs":[{"name":"queries","datatype":"FP32","shape":[1,3],"data":[1,2.5,-3e2],"parameters":{"content_type":"np"},"x":{}}]})").queries ==
          queries);
    const std::string nulls = R"({"inputs":[{"name":"queries","datatype":"FP32","shape":[1,3],"data":null,"parameters":{"binary_data_size":12}}]})";
    CHECK(infer(nulls + bytes_of(queries), std::to_string(nulls.size())).queries == queries);
    refused(with_data("[1,3]", "null"), "neither");
    refused(R"({"inputs":null})", "no \"inputs\"");
    refused(R"({"inputs":[null]})", "must be an object");
    refused(request(R"(,"outputs":[null])"), "must be an object");
    refused(with_parameters(R"("filter":{"typo":["a"]})"), "unknown key");  // half a filter would answer with other rows
    std::string many = "\"a\":null";
    for (int i = 0; i < 70'000; ++i) many += ",\"a" + std::to_string(i) + "\":null";
    refused(with_parameters(many), "too many values");
}

TEST_CASE("the key of an Authorization header") {
    for (const char* header : {"Bearer abc", "bearer abc", "BEARER abc", "bEaReR   abc"}) CHECK(bearer_key(header) == "abc");
    for (const char* header : {"", "Bearer", "Bearer ", "Bearer   ", "Basic abc", "Bearerabc", "abc", "Bearer\tabc"}) CHECK(bearer_key(header).empty());
    CHECK(bearer_key("Bearer a b") == "a b");
}

TEST_CASE("a budget has a bound, a share for each peer, and what each may hold for nothing") {
    constexpr size_t free = vnni::Hold::kFree;
    vnni::Budget budget(1000, 50);
    vnni::Hold a(budget, "a"), b(budget, "b"), small(budget, "c"), local(budget, "");
    CHECK(a.resize(free));
    CHECK(budget.held() == 0);
    CHECK(a.resize(free + 500));
    CHECK_FALSE(a.resize(free + 501));
    CHECK(budget.held() == 500);  // as before
    {
        vnni::Hold more(budget, "a");
        CHECK(more.resize(free));
        CHECK_FALSE(more.resize(free + 1));
    }
    CHECK(b.resize(free + 400));
    CHECK(local.resize(free + 100));
    CHECK(budget.held() == 1000);
    CHECK(small.resize(free));
    CHECK_FALSE(small.resize(free + 1));
    vnni::Hold moved(std::move(a));
    CHECK(budget.held() == 1000);
    CHECK(moved.resize(0));
    CHECK(budget.held() == 500);
    CHECK(local.resize(free + 600));  // no peer: all that is left
    CHECK_FALSE(local.resize(SIZE_MAX));
    moved = std::move(local);
    { const vnni::Hold ended(std::move(moved)); }
    CHECK(budget.held() == 400);
    CHECK(budget.most("a") == 500);
    CHECK(budget.most("") == 1000);
}

TEST_CASE("filters, as an object or as the same in a string") {
    const auto check = [](const std::string& body) {
        const TagFilter f = infer(body).filter.value();
        CHECK(f.all == std::vector<std::string>{"red"});
        CHECK(f.any == std::vector<std::string>{"a,b", "c"});
        CHECK(f.none.empty());
    };
    check(with_parameters(R"("filter":{"all":["red"],"any":["a,b","c"]})"));
    check(with_parameters(R"("filter":"{\"all\":[\"red\"],\"any\":[\"a,b\",\"c\"]}")"));
    refused(with_parameters(R"("filter":["red"])"), "must be an object");
    refused(with_parameters(R"("filter":{"al":["red"]})"), "unknown key");
    refused(with_parameters(R"("filter":{"all":"red"})"), "array of strings");
    refused(with_parameters(R"("filter":{"all":[1]})"), "array of strings");
    refused(with_parameters(R"("filter":"{")"), "JSON");
}

TEST_CASE("shapes, data types and data that disagree") {
    refused(with_data("[1,4]", "[1,2,3,4]"), "the index has 3 dimensions");
    refused(with_data("[3]", "[1,2,3]"), "[n, 3]");
    refused(with_data("[2,3]", "[1,2,3]"), "6 elements, \"data\" has 3");
    refused(with_data("[0,3]", "[]"), "from 1");
    refused(with_data("[-1,3]", "[1,2,3]"), "from 1");
    refused(with_data("[1.0,3]", "[1,2,3]"), "from 1");
    refused(with_data("[2147483647,2147483647,2147483647,2147483647]", "[1]"), "too large", 413);
    refused(with_data("[1,3]", "[01,2,3]"), "JSON");
    refused(with_data("[1,1,1,1,3]", "[1,2,3]"), "1 to 4");
    refused(with_data("[2,3]", "[[1,2],[3,4],[5,6]]"), "rows of \"data\" have 2 numbers, the shape says 3");
    refused(with_data("[2,3]", "[[1,2,3],[4,5]]"), "have 3 and 2");
    refused(with_data("[1,3]", "[[1,2,3],4]"), "mixes");
    refused(with_data("[1,3]", "[1,[2,3]]"), "mixes");
    refused(with_data("[1,3]", "[[[1,2,3]]]"), "deeper");
    for (const char* data : {"0", "\"AAAA\"", "{}", "[\"1\",2,3]", "[null,1,2]", "[true,1,2]", "[{},1,2]"})
        refused(with_data("[1,3]", data), "array of numbers");
    refused(with_data("[1,3]", "[1,2,3]", "FP64"), "must be FP32");
    refused(with_data("[1,3]", "[1,2,1e39]"), "element [0, 2] is not a finite FP32");
    refused(with_data("[1,3]", "[1,2,1e999]"), "JSON");
    refused(with_data("[1,3]", "[1,2,NaN]"), "JSON");
    std::string many = "[0";
    for (int i = 1; i < 303; ++i) many += ",0";
    refused(with_data("[101,3]", many + "]"), "at most 100", 413);
    refused(R"({"parameters":{"k":1000},"inputs":[{"name":"queries","datatype":"FP32","shape":[2,3],"data":[1,2,3,4,5,6]}]})", "largest response",
            413);
}

TEST_CASE("JSON that is not a request") {
    for (const char* body : {"",
                             " ",
                             "{",
                             "[]",
                             "7",
                             "\"x\"",
                             "null",
                             "{}",
                             "{\"inputs\":[]}",
                             "{\"inputs\":{}}",
                             "{\"inputs\":[7]}",
                             "{\"inputs\":[[]]}",
                             "{\"inputs\":[{}]}",
                             "{\"inputs\":[{\"data\":[1]}]}",
                             "{\"inputs\":[{\"name\":\"queries\"}]}",
                             "{'inputs':[]}",
                             "\xff\xfe",
                             "{\"a\xff\":1}",
                             "{\"inputs\":[]}x",
                             "// c\n{}"})
        CHECK(refusal(body).first == 400);
    refused(request(R"(,"inputs":[])"), "duplicate key \"inputs\"");
    refused(with_parameters(R"("k":1,"k":2)"), "duplicate key \"k\"");
    refused(request(",\"parameters\":" + std::string(100'000, '[')), "nested deeper");
    refused(request(",\"parameters\":{\"a\":" + std::string(100'000, '{')), "JSON");
    std::string wide = "[0";
    for (int i = 0; i < 70'000; ++i) wide += ",0";
    refused(request(",\"id\":" + wide + "]"), "too many values");
    refused(
        R"({"inputs":[{"name":"queries","datatype":"FP32","shape":[1,3],"data":[1,2,3]},{"name":"queries","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]})",
        "given twice");
    refused(R"({"inputs":[{"name":"other","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]})", "\"queries\"");
    refused(R"({"inputs":[{"name":"queries","datatype":"FP32","shape":[1,3],"data":[1,2,3],"data":[1,2,3]}]})", "duplicate key");
}

TEST_CASE("binary tensors") {
    const std::vector<float> v{1, 2, 3, 4, 5, std::numeric_limits<float>::denorm_min()};
    const std::string header = binary_header(24), length = std::to_string(header.size());
    CHECK(infer(header + bytes_of(v), length).queries == v);
    refused(header + bytes_of(v), "JSON");  // no header length: all of it should be JSON
    refused(header + bytes_of(v), "JSON", 400, std::to_string(header.size() - 1));
    refused(header + bytes_of(v), "JSON: it has a NUL byte", 400, std::to_string(header.size() + 1));
    for (const char* lie : {"", "-1", "+5", "1e3", "0x10", "99999999999999999999", "12 ", " 12"})
        refused(header + bytes_of(v), "not a number", 400, lie);
    refused(header + bytes_of(v), "the body has only", 400, "100000");
    refused(header + bytes_of(v).substr(1), "only 23 bytes are left", 400, length);
    refused(header + bytes_of(v) + "x", "1 bytes follow", 400, length);
    const std::string huge = binary_header(18446744073709551615ull), other_shape = binary_header(24, "[1,3]");
    refused(huge + bytes_of(v), "bytes", 400, std::to_string(huge.size()));
    refused(other_shape + bytes_of(v), "needs 12 bytes", 400, std::to_string(other_shape.size()));
    for (const float special :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
        auto w = v;
        w[4] = special;
        refused(header + bytes_of(w), "element [1, 1] is not a finite FP32", 400, length);
    }
    const std::string both = R"({"inputs":[{"name":"queries","datatype":"FP32","shape":[1,3],"data":[1,2,3],"parameters":{"binary_data_size":12}}]})";
    refused(both + bytes_of({1, 2, 3}), "both", 400, std::to_string(both.size()));
}

TEST_CASE("outputs: which, in which order, in which encoding") {
    auto r = infer(request(R"(,"outputs":[{"name":"distances","parameters":{"binary_data":true}},{"name":"ids"}])"));
    REQUIRE(r.outputs.size() == 2);
    CHECK(r.outputs[0].field == Field::distances);
    CHECK(r.outputs[0].binary);
    CHECK_FALSE(r.outputs[1].binary);
    r = infer(
        request(R"(,"parameters":{"binary_data_output":true},"outputs":[{"name":"ids"},{"name":"distances","parameters":{"binary_data":false}}])"));
    CHECK(r.outputs[0].binary);
    CHECK_FALSE(r.outputs[1].binary);
    refused(request(R"(,"outputs":[{"name":"ids"},{"name":"ids"}])"), "twice");
    refused(request(R"(,"outputs":[{"name":"scores"}])"), "unknown output");
    refused(request(R"(,"outputs":[{"name":"ids","parameters":{"classification":3}}])"), "no \"classification\"");
    refused(request(R"(,"outputs":[{"name":"ids","parameters":{"shared_memory_region":"r","shared_memory_byte_size":8}}])"), "no \"shared_memory_region\"");
}

TEST_CASE("answers") {
    InferRequest r =
        infer(R"({"id":"a\"b","parameters":{"k":2},"inputs":[{"name":"queries","datatype":"FP32","shape":[2,3],"data":[1,2,3,4,5,6]}]})");
    std::vector<int64_t> ids{7, 9007199254740993, 5, 99};
    std::vector<float> distances{0.1f, std::numeric_limits<float>::infinity(), -2, 42};
    pad_row(ids.data(), distances.data(), 2, 2);
    pad_row(ids.data() + 2, distances.data() + 2, 1, 2);
    CHECK(ids == std::vector<int64_t>{7, 9007199254740993, 5, -1});
    const float far = std::numeric_limits<float>::max();
    CHECK(distances == std::vector<float>{0.1f, far, -2, far});

    SUBCASE("as JSON") {
        const Encoded e = encode_infer(r, "m", "3", ids, distances);
        CHECK(e.body.size() <= encoded_bytes(r, "m"));
        CHECK_FALSE(e.header_length);
        const json j = json::parse(e.body);
        CHECK(j["model_name"] == "m");
        CHECK(j["model_version"] == "3");
        CHECK(j["id"] == "a\"b");
        CHECK(j["outputs"][0] == json{{"name", "ids"}, {"datatype", "INT64"}, {"shape", {2, 2}}, {"data", ids}});
        CHECK(j["outputs"][1]["data"].get<std::vector<float>>() == distances);  // shortest form, exact both ways
    }
    SUBCASE("as binary tensors") {
        r.outputs = {{Field::distances, true}, {Field::ids, true}};
        const Encoded e = encode_infer(r, "m", "3", ids, distances);
        CHECK(e.body.size() <= encoded_bytes(r, "m"));
        REQUIRE(e.header_length);
        const json j = json::parse(e.body.substr(0, *e.header_length));
        CHECK(j["outputs"][0]["parameters"]["binary_data_size"] == 16);
        CHECK(j["outputs"][1]["parameters"]["binary_data_size"] == 32);
        REQUIRE(e.body.size() == *e.header_length + 48);
        CHECK(std::memcmp(e.body.data() + *e.header_length, distances.data(), 16) == 0);
        CHECK(std::memcmp(e.body.data() + *e.header_length + 16, ids.data(), 32) == 0);
    }
    CHECK(json::parse(encode_error("bad \xff \"byte\""))["error"].is_string());
    CHECK(json::parse(encode_model_metadata("m", "3", 3))["inputs"][0]["shape"] == json{-1, 3});
    CHECK(json::parse(encode_model_metadata("m", "3", 3))["versions"] == json{"3"});
}

TEST_CASE("writes") {
    const auto upsert = [](const std::string& ids, const std::string& parameters = "") {
        return parse_write(R"({"inputs":[{"name":"ids","datatype":"INT64","shape":[2],"data":)" + ids +
                               R"(},{"name":"vectors","datatype":"FP32","shape":[2,3],"data":[1,2,3,4,5,6]}])" + parameters + "}",
                           {}, kLimits, true);
    };
    const auto w = upsert("[5,9223372036854775807]", R"(,"parameters":{"tags":[["red","big"],[]]})");
    CHECK(w.ids == std::vector<uint64_t>{5, 9223372036854775807});
    CHECK(w.vectors.size() == 6);
    CHECK(w.tags == std::vector<std::vector<std::string>>{{"red", "big"}, {}});
    CHECK(upsert("[1,2]").tags.empty());
    CHECK_THROWS_AS(upsert("[1,-2]"), ProtocolError);
    CHECK_THROWS_AS(upsert("[1,2.5]"), ProtocolError);
    CHECK_THROWS_AS(upsert("[1,18446744073709551615]"), ProtocolError);
    CHECK_THROWS_AS(upsert("[1,2]", R"(,"parameters":{"tags":[["red"]]})"), ProtocolError);
    const std::string only_ids = R"({"inputs":[{"name":"ids","datatype":"INT64","shape":[1],"data":[5]}]})";
    CHECK(parse_write(only_ids, {}, kLimits, false).ids == std::vector<uint64_t>{5});
    CHECK_THROWS_AS(parse_write(only_ids, {}, kLimits, true), ProtocolError);
    CHECK(parse_path("") == std::nullopt);
    CHECK(parse_path("{}") == std::nullopt);
    CHECK(parse_path(R"({"path":"/x"})") == "/x");
    CHECK_THROWS_AS(parse_path(R"({"path":"a\u0000b"})"), ProtocolError);
    CHECK_THROWS_AS(parse_path(R"({"pth":"/x"})"), ProtocolError);
}

TEST_CASE("secrets") {
    CHECK(same_secret("0123456789abcdef", "0123456789abcdef"));
    for (const char* wrong :
         {"", "0", "0123456789abcdeg", "1123456789abcdef", "0123456789abcde", "0123456789abcdef0", "0123456789abcdef0123456789abcdef"})
        CHECK_FALSE(same_secret(wrong, "0123456789abcdef"));
}

TEST_CASE("cpulists and cores") {
    CHECK(parse_cpulist("0-3,8") == std::vector<int>{0, 1, 2, 3, 8});
    CHECK(parse_cpulist("") == std::vector<int>{});
    for (const char* wrong : {"a", "1-", "3-1", "1,", ",1", "1 2", "-1", "0-99999999", "1--2"})
        CHECK_THROWS_AS(parse_cpulist(wrong), std::invalid_argument);
    const auto root = std::filesystem::temp_directory_path() / ("serve_test." + std::to_string(getpid()));
    for (int cpu = 0; cpu < 4; ++cpu) {
        const auto dir = root / "devices/system/cpu" / ("cpu" + std::to_string(cpu)) / "topology";
        std::filesystem::create_directories(dir);
        std::ofstream(dir / "thread_siblings_list") << cpu % 2 << "," << cpu % 2 + 2 << "\n";
    }
    CHECK(one_per_core({0, 1, 2, 3}, root) == std::vector<int>{0, 1});
    CHECK(one_per_core({2, 1}, root) == std::vector<int>{2, 1});
    CHECK(one_per_core({7, 8}, root) == std::vector<int>{7, 8});  // topology not told
    std::filesystem::create_directories(root / "devices/system/cpu/cpu3/node12");
    CHECK(node_of(3, root) == 12);
    CHECK(node_of(2, root) == 0);
    CHECK(node_of(7, root) == 0);
    std::filesystem::remove_all(root);
}

namespace {
struct CountingJob : Job {
    CountingJob(size_t items, std::atomic<int>& finished) : hits(items), finished(finished) {}
    size_t prepare() override { return ++prepared, hits.size(); }
    void run(size_t, size_t begin, size_t end) override {
        for (size_t i = begin; i < end; ++i) ++hits[i];
    }
    void finish(size_t) override {
        whole = prepared == 1 && std::all_of(hits.begin(), hits.end(), [](auto& h) { return h == 1; });
        ++finished;
    }
    std::vector<std::atomic<int>> hits;
    std::atomic<int> prepared{0};
    std::atomic<int>& finished;
    bool whole = false;
};
}  // namespace

TEST_CASE("the pool runs every item of every job once, and refuses what it has no room for") {
    std::atomic<int> finished{0}, idled{0};
    const auto cpus = allowed_cpus();
    std::vector<int> workers(4, cpus[0]);  // four threads that preempt each other
    std::vector<std::shared_ptr<CountingJob>> jobs;
    {
        WorkerPool pool(workers, 1 << 20, [&](size_t) { ++idled; });
        for (int i = 0; i < 300; ++i) {
            jobs.push_back(std::make_shared<CountingJob>(1 + static_cast<size_t>(i * 7919 % 500), finished));
            REQUIRE(pool.submit(jobs.back(), 1));
        }
        for (int i = 0; i < 5000 && (finished < 300 || idled < 4); ++i) usleep(1000);
        pool.wake_all();
        for (int i = 0; i < 5000 && idled < 8; ++i) usleep(1000);
        CHECK(pool.waiting() == 0);
        CHECK(pool.oldest_heartbeat() < std::chrono::seconds(5));
    }
    CHECK(finished == 300);
    CHECK(idled == 8);
    for (const auto& job : jobs) CHECK(job->whole);
}

namespace {
struct BlockingJob : Job {
    explicit BlockingJob(std::atomic<bool>& go) : go(go) {}
    size_t prepare() override { return 1; }
    void run(size_t, size_t, size_t) override {
        running = true;
        while (!go) usleep(100);
    }
    void finish(size_t) override {}
    std::atomic<bool>& go;
    std::atomic<bool> running{false};
};
}  // namespace

namespace {
struct LongJob : Job {
    size_t prepare() override { return 32; }  // all for one worker at a time
    void run(size_t worker, size_t begin, size_t end) override {
        for (size_t i = begin; i < end; ++i) pool->beat(worker), usleep(30'000);
        chunk = end - begin;
    }
    void finish(size_t) override { finished = true; }
    WorkerPool* pool = nullptr;
    std::atomic<size_t> chunk{0};
    std::atomic<bool> finished{false};
};
}  // namespace

TEST_CASE("a worker shows its life with every item") {
    WorkerPool pool({allowed_cpus()[0]}, 100, [](size_t) {});
    auto job = std::make_shared<LongJob>();
    job->pool = &pool;
    const auto started = std::chrono::steady_clock::now();
    auto oldest = std::chrono::steady_clock::duration::zero();
    REQUIRE(pool.submit(job, 1));
    for (; !job->finished; usleep(1000)) oldest = std::max(oldest, pool.oldest_heartbeat());
    CHECK(job->chunk >= 16);
    CHECK(oldest < (std::chrono::steady_clock::now() - started) / 3);
}

TEST_CASE("the pool's queue is bounded, and a worker that hangs is noticed") {
    std::atomic<bool> go{false};
    std::atomic<int> finished{0};
    WorkerPool pool({allowed_cpus()[0]}, 100, [](size_t) {});
    auto blocker = std::make_shared<BlockingJob>(go);
    REQUIRE(pool.submit(blocker, 1));
    while (!blocker->running) usleep(100);
    CHECK(pool.submit(std::make_shared<CountingJob>(1, finished), 1000));  // larger than the queue, but nothing waits
    CHECK_FALSE(pool.submit(std::make_shared<CountingJob>(1, finished), 1));
    usleep(1'300'000);
    CHECK(pool.oldest_heartbeat() > std::chrono::seconds(1));  // an idle worker would have given a sign by now
    go = true;
    for (int i = 0; i < 5000 && finished < 1; ++i) usleep(1000);
    CHECK(pool.submit(std::make_shared<CountingJob>(1, finished), 100));
}
