// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The Open Inference Protocol (KServe v2, REST) as pure functions: bytes in, structs out, and back. No sockets, no clock.
// Source: the protocol's "Inference Request/Response JSON Object" and Triton's "Binary Tensor Data Extension".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "index.hpp"

namespace vnni::serve {

inline constexpr const char* kVersion = "0.1.0";

/// What is wrong with a request, as the HTTP status and the sentence the client is told.
struct ProtocolError : std::runtime_error {
    ProtocolError(unsigned status, const std::string& message) : std::runtime_error(message), status(status) {}
    unsigned status;
};

/// What a request may ask for. `dim` is the served index's.
struct Limits {
    uint32_t dim = 0;
    uint64_t max_queries = 16384;
    uint32_t max_k = 1000;
    uint32_t max_ef = 100000;
    uint64_t max_response_bytes = 64 << 20;  // of the results as numbers
};

/// What a request that does not say gets; a recall target of 0 leaves the effort to `ef`, and an `ef` of 0 to the engine.
struct Defaults {
    uint32_t k = 10;
    uint32_t ef = 0;
    float recall_target = 0;
};

enum class Field : uint8_t { ids, distances };

struct Output {
    Field field;
    bool binary;
};

struct InferRequest {
    std::optional<std::string> id;
    uint64_t n = 0;
    std::vector<float> queries;  // n × dim, all finite
    uint32_t k = 0, ef = 0;
    float recall_target = 0;
    std::optional<TagFilter> filter;
    std::vector<Output> outputs;  // in the order asked for
};

/// A write: the inputs `ids` INT64 [n] and, for an upsert, `vectors` FP32 [n, dim]; the parameter `tags` lists each row's.
struct WriteRequest {
    std::vector<uint64_t> ids;
    std::vector<float> vectors;
    std::vector<std::vector<std::string>> tags;  // n lists, or none at all
};

/// Parses an inference request. What it does not know of parameters and members is ignored, and a null member is absent, as
/// clients send more than they mean; what would change the meaning of the answer is refused.
///  `header_length` is the value of Inference-Header-Content-Length, when there is one: the
/// JSON is that long and the binary tensors follow. Throws ProtocolError for everything the server cannot answer.
InferRequest parse_infer(std::string_view body, std::optional<std::string_view> header_length, const Limits&, const Defaults&);

/// Parses the tensors of an upsert (`with_vectors`) or a delete, in the same encoding as an inference request.
WriteRequest parse_write(std::string_view body, std::optional<std::string_view> header_length, const Limits&, bool with_vectors);

/// Parses `{"path": "…"}`, the optional body of a swap or snapshot; nothing when the body is empty or has no path.
std::optional<std::string> parse_path(std::string_view body);

struct Encoded {
    std::string body;
    std::optional<size_t> header_length;  // set when binary tensors follow the JSON
};

/// Encodes the answer: `ids` and `distances` are [n, k], rows padded by `pad_row`.
Encoded encode_infer(const InferRequest&, std::string_view model, std::string_view version, const std::vector<int64_t>& ids,
                     const std::vector<float>& distances);

/// No fewer bytes than encode_infer() gives for it.
size_t encoded_bytes(const InferRequest&, std::string_view model);

/// Fills the places of a row past the `found` results with id -1 and the largest finite FP32 as distance, and replaces
/// distances that overflowed by it: JSON has no infinity, and both encodings must say the same.
void pad_row(int64_t* ids, float* distances, uint32_t found, uint32_t k);

std::string encode_error(std::string_view message);
std::string encode_server_metadata();
std::string encode_model_metadata(std::string_view model, std::string_view version, uint32_t dim);

/// The key in the value of an Authorization header, whose scheme is Bearer in any case; empty when there is none.
std::string_view bearer_key(std::string_view authorization);
/// Compares without telling by its duration how many characters agree.
bool same_secret(std::string_view given, std::string_view secret);

}  // namespace vnni::serve
