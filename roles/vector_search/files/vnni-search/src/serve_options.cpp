// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later

#include "serve_options.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>

#include "serve_pool.hpp"

namespace vnni::serve {
namespace {

using std::chrono::milliseconds;

template <class T>
T number(const std::string& text, T smallest, T largest) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !(value >= smallest && value <= largest)) {
        std::ostringstream why;
        why << "\"" << text << "\" is not a number from " << smallest << " to " << largest;
        throw UsageError(why.str());
    }
    return value;
}

milliseconds seconds(const std::string& text) { return milliseconds(std::llround(number<double>(text, 0, 86400) * 1000)); }

/// The key in `path`, which others must not be able to read.
std::string read_key(const std::string& path) {
    struct stat st{};
    std::ifstream file(path);
    if (!file || stat(path.c_str(), &st) != 0) throw UsageError("cannot read " + path);
    if (st.st_mode & S_IROTH) throw UsageError(path + " is readable by every user; chmod 0640 it");
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    text = text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
    if (text.size() < 16 || text.size() > 1024 || text.find_first_of(" \t\r\n") != text.npos)
        throw UsageError(path + " must hold one key of 16 to 1024 characters without blanks");
    return text;
}

/// The first allowed CPU of each physical core among `wanted` (empty: of all allowed ones), `most` of them.
std::vector<int> worker_cpus(const std::vector<int>& wanted, size_t most) {
    const std::vector<int> allowed = allowed_cpus();
    for (int cpu : wanted)
        if (!std::binary_search(allowed.begin(), allowed.end(), cpu))
            throw UsageError("--cpus: CPU " + std::to_string(cpu) + " is offline or outside of this process's affinity mask");
    auto cpus = one_per_core(wanted.empty() ? allowed : wanted);
    cpus.resize(std::min(cpus.size(), most));
    return cpus;
}

bool is_local(const std::string& address) { return address.starts_with("unix:") || address.starts_with("127.") || address.starts_with("[::1]:"); }

struct Option {
    const char *name, *value, *help;
    std::function<void(const std::string&)> set;
};

std::vector<Option> option_table(Options& o, size_t& workers) {
    return {
        {"index", "FILE", "the index to serve", [&](auto& v) { o.index = v; }},
        {"mode", "MODE", "ram (copied into huge pages), mmap (a restart loads nothing) or split (refinement copy on disk) [ram]",
         [&](auto& v) { o.open.mode = mode_from(v); }},
        {"numa-node", "N", "where the index's memory is placed; -1: where the process runs [-1]",
         [&](auto& v) { o.open.numa_node = number(v, -1, 1023); }},
        {"replicas", "WHERE", "one copy of the index, or one on each NUMA node of the workers (numa), searched by the workers there [one]",
         [&](auto& v) {
             if (v != "one" && v != "numa") throw UsageError("\"" + v + "\" is neither one nor numa");
             o.replicas = v == "numa";
         }},
        {"name", "NAME", "the model's name in /v2/models/NAME [search]",
         [&](auto& v) {
             if (v.empty() || v.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != v.npos)
                 throw UsageError("\"" + v + "\" is not a name of letters, digits and ._-");
             o.name = v;
         }},
        {"listen", "ADDRESS", "IP:PORT or unix:/PATH, any number of them [127.0.0.1:8000]", [&](auto& v) { o.listen.push_back(v); }},
        {"admin", "ADDRESS", "the listener for status, swap and writes; loopback or unix:/PATH unless it has a key [none]",
         [&](auto& v) { o.admin = v; }},
        {"api-key-file", "FILE", "clients must send \"Authorization: Bearer KEY\", except to /v2/health", [&](auto& v) { o.api_key = read_key(v); }},
        {"admin-key-file", "FILE", "the same for the admin listener", [&](auto& v) { o.admin_key = read_key(v); }},
        {"writes", "SYNC", "take writes at the admin listener; their log, FILE.log.N, is synced always, at an interval (1 s) or never [no writes]",
         [&](auto& v) { o.writes = sync_from(v); }},
        {"capacity", "ROWS", "with --writes, the rows from which new ids are refused; updates and deletes are always taken [4294967294]",
         [&](auto& v) { o.capacity = number<uint64_t>(v, 1, LiveOptions().capacity); }},
        {"cpus", "CPULIST", "CPUs for the workers, such as 0-3,8; one worker a physical core [the affinity mask]",
         [&](auto& v) { o.cpus = parse_cpulist(v); }},
        {"workers", "N", "no more workers than this [one a physical core]", [&](auto& v) { workers = number<size_t>(v, 1, 4096); }},
        {"io-threads", "N", "threads for HTTP [one for 8 workers]", [&](auto& v) { o.io_threads = number<size_t>(v, 1, 256); }},
        {"queue", "QUERIES", "queries that may wait for a worker; more are answered with 429 [4096]",
         [&](auto& v) { o.queue = number<size_t>(v, 1, 1 << 24); }},
        {"k", "K", "results for a request that does not say [10]", [&](auto& v) { o.defaults.k = number<uint32_t>(v, 1, 1000); }},
        {"ef", "EF", "effort for a request that does not say; excludes recall-target",
         [&](auto& v) { o.defaults.ef = number<uint32_t>(v, 1, 100000); }},
        {"recall-target", "R", "recall for a request that does not say, 0.5 to 0.999 [0.95]",
         [&](auto& v) { o.defaults.recall_target = number<float>(v, 0.5f, 0.999f); }},
        {"max-queries", "N", "queries in one request [16384]", [&](auto& v) { o.max_queries = number<uint64_t>(v, 1, 1 << 24); }},
        {"max-body", "BYTES", "largest request body; larger ones are answered with 413 [16777216]",
         [&](auto& v) { o.http.body_bytes = number<size_t>(v, 1024, size_t{1} << 30); }},
        {"max-cost", "N", "queries x ef x dimensions of one request, where a filter may raise ef; more is answered with 413 [4294967296]",
         [&](auto& v) { o.max_cost = number<uint64_t>(v, 1, UINT64_MAX); }},
        {"max-pending", "BYTES", "request bodies held at a time, not counting 64 KiB of each; more are answered with 503 [268435456]",
         [&](auto& v) { o.http.pending_bytes = number<size_t>(v, 1024, size_t{1} << 40); }},
        {"max-results", "BYTES", "results held at a time, not counting 64 KiB of each request; more are answered with 429 [536870912]",
         [&](auto& v) { o.max_results = number<size_t>(v, 1024, size_t{1} << 40); }},
        {"peer-share", "PERCENT", "of max-pending and max-results, the most for one client address; unix sockets have no bound [50]",
         [&](auto& v) { o.http.peer_percent = number<unsigned>(v, 1, 100); }},
        {"max-header", "BYTES", "largest request header; larger ones are answered with 431 [8192]",
         [&](auto& v) { o.http.header_bytes = number<size_t>(v, 256, 1 << 20); }},
        {"max-connections", "N", "connections of one listener; at the bound, one that is silent for a second gives way [1024]", [&](auto& v) { o.http.connections = number<size_t>(v, 1, 1 << 20); }},
        {"idle-timeout", "SECONDS", "a connection may wait so long between requests [60]", [&](auto& v) { o.http.idle = seconds(v); }},
        {"request-timeout", "SECONDS", "a client may take so long to send a request, and to take the answer [10]",
         [&](auto& v) { o.http.request = seconds(v); }},
        {"drain-delay", "SECONDS", "after SIGTERM, serve so long while not ready, for balancers to notice [0]",
         [&](auto& v) { o.drain_delay = seconds(v); }},
        {"drain-timeout", "SECONDS", "then wait so long for requests under way [30]", [&](auto& v) { o.drain_timeout = seconds(v); }},
    };
}

std::string help(const std::vector<Option>& table) {
    std::ostringstream text;
    text << "usage: vnni-search serve --index FILE [options]\n\n"
            "Serves an index by the Open Inference Protocol (KServe v2, REST): queries FP32 [n, d] in, ids INT64 [n, k] and\n"
            "distances FP32 [n, k] out, as JSON or binary tensors. Where fewer than k rows are found, ids end in -1 and\n"
            "distances in 3.4028235e38. Request parameters: k, ef or recall_target, filter; others are ignored, null is absent.\n"
            "GET /v2, /v2/health/live, /v2/health/ready, /v2/models/NAME, /metrics; POST /v2/models/NAME/infer.\n"
            "At --admin: GET /admin/status; POST /admin/swap, upsert (inputs ids INT64 [n], vectors FP32 [n, d]; parameter tags), delete\n"
            "(ids), snapshot, consolidate.\n"
            "SIGHUP opens the index file anew and swaps to it; SIGTERM drains and ends.\n\n";
    for (const auto& option : table) {
        const std::string left = "  --" + std::string(option.name) + " " + option.value;
        text << left << std::string(left.size() < 29 ? 29 - left.size() : 1, ' ') << option.help << "\n";
    }
    text << "  --help                     this text\n";
    return text.str();
}

void set_option(const std::vector<Option>& table, const std::string& name, const std::string& value) {
    for (const auto& option : table)
        if (name == option.name) {
            try {
                return option.set(value);
            } catch (const std::exception& e) {
                throw UsageError("--" + name + ": " + e.what());
            }
        }
    throw UsageError("there is no option --" + name);
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv) {
    Options o;
    size_t workers = SIZE_MAX;
    const auto table = option_table(o, workers);
    for (int i = 0; i < argc; ++i) {
        std::string name = argv[i];
        if (name == "--help" || name == "-h") return std::cout << help(table), std::nullopt;
        if (!name.starts_with("--")) throw UsageError("unexpected argument \"" + name + "\"");
        const auto equals = name.find('=');
        if (equals == name.npos && i + 1 == argc) throw UsageError(name + " needs a value");
        set_option(table, name.substr(2, equals == name.npos ? equals : equals - 2), equals == name.npos ? argv[++i] : name.substr(equals + 1));
    }
    if (o.index.empty()) throw UsageError("--index is missing");
    if (o.defaults.ef && o.defaults.recall_target > 0) throw UsageError("give --ef or --recall-target, not both");
    if (!o.admin.empty() && o.admin_key.empty() && !is_local(o.admin))
        throw UsageError("--admin " + o.admin + " is reachable from other hosts: give --admin-key-file, or a loopback or unix: address");
    if (o.writes && o.admin.empty()) throw UsageError("--writes needs --admin, where they are taken");
    if (o.replicas && (o.writes || o.open.mode == Mode::mmap || o.open.numa_node >= 0))
        throw UsageError("--replicas numa copies the index: it excludes --writes, --mode mmap and --numa-node");
    if (o.listen.empty()) o.listen.push_back("127.0.0.1:8000");
    o.cpus = worker_cpus(o.cpus, workers);
    return o;
}

}  // namespace vnni::serve
