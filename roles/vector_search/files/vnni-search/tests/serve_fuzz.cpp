// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// libFuzzer target for the request parsers. The first byte chooses the request (search, upsert, delete, snapshot or swap), the next two give
// Inference-Header-Content-Length (0xffff: none, else that many bytes); whatever is accepted must hold what it promises and its answer must encode.
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "../src/serve_protocol.hpp"

using namespace vnni::serve;

namespace {
void require(bool holds) {
    if (!holds) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 3) return 0;
    const unsigned prefix = data[1] | data[2] << 8;
    const std::string_view body(reinterpret_cast<const char*>(data) + 3, size - 3);
    const std::string length = std::to_string(prefix);
    const std::optional<std::string_view> header_length = prefix == 0xffff ? std::nullopt : std::optional<std::string_view>(length);
    const Limits limits{.dim = 3, .max_queries = 64, .max_response_bytes = 1 << 16};
    try {
        if (data[0] % 4 == 0) {
            const InferRequest r = parse_infer(body, header_length, limits, {});
            require(r.n >= 1 && r.n <= 64 && r.queries.size() == r.n * 3 && r.k >= 1 && r.k <= 1000 && !r.outputs.empty() && r.outputs.size() <= 2);
            for (float x : r.queries) require(std::isfinite(x));
            const std::vector<int64_t> ids(r.n * r.k, -1);
            const std::vector<float> distances(r.n * r.k, 0.5f);
            const Encoded e = encode_infer(r, "m", "1", ids, distances);
            require(e.body.size() <= encoded_bytes(r, "m"));
            const auto text = std::string_view(e.body).substr(0, e.header_length.value_or(e.body.size()));
            require(nlohmann::json::parse(text)["outputs"].size() == r.outputs.size());
        } else if (data[0] % 4 == 3) {
            parse_path(body);
        } else {
            const bool upsert = data[0] % 4 == 1;
            const WriteRequest w = parse_write(body, header_length, limits, upsert);
            require(!w.ids.empty() && w.vectors.size() == (upsert ? w.ids.size() * 3 : 0) && (w.tags.empty() || w.tags.size() == w.ids.size()));
        }
    } catch (const ProtocolError& e) {
        require((e.status == 400 || e.status == 413) && nlohmann::json::accept(encode_error(e.what())));
    }
    return 0;
}
