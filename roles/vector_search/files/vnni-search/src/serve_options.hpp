// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The options of `vnni-search serve`.
#pragma once

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "live.hpp"
#include "serve_http.hpp"
#include "serve_protocol.hpp"

namespace vnni::serve {

struct Options {
    std::string index, name = "search", admin;
    std::vector<std::string> listen;
    std::vector<int> cpus;           // one worker each
    std::string api_key, admin_key;  // empty: none is asked for
    OpenOptions open;
    bool replicas = false;                       // a copy of the index on each NUMA node of the workers
    std::optional<Sync> writes;                  // none: the index is only read
    uint64_t capacity = LiveOptions().capacity;  // rows, with writes
    Defaults defaults;
    http::Limits http;
    uint64_t max_queries = 16384;
    uint64_t max_cost = uint64_t{1} << 32;       // n × ef × dimensions
    size_t max_results = size_t{512} << 20;    // bytes of results in flight
    size_t io_threads = 0;
    size_t queue = 4096;  // queries
    std::chrono::milliseconds drain_delay{0}, drain_timeout{30'000};
};

/// A mistake on the command line: exit status 2.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Reads `argv` from the word after "serve" on, checks everything that needs no index, and settles the workers' CPUs. Prints
/// the help and returns nothing when that was asked for. Throws UsageError.
std::optional<Options> parse_options(int argc, char** argv);

}  // namespace vnni::serve
