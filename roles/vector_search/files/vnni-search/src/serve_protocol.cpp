// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later

#include "serve_protocol.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

namespace vnni::serve {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "binary tensors are little-endian");

constexpr size_t kMaxDepth = 8;       // of the JSON; a request needs 5
constexpr size_t kMaxValues = 65536;  // outside of the tensors
constexpr size_t kEscaped = 6;        // bytes of one that JSON writes as \u00XX
constexpr float kFarthest = std::numeric_limits<float>::max();

[[noreturn]] void bad(const std::string& message, unsigned status = 400) { throw ProtocolError(status, message); }

std::string quote(const std::string& s) { return "\"" + s.substr(0, 64) + "\""; }

/// The numbers of one tensor's "data". Integers stay exact until the first number with a fraction or exponent.
struct Numbers {
    std::vector<int64_t> integers;
    std::vector<double> reals;
    bool real = false;
    std::optional<size_t> row;  // length of the inner arrays when the data is nested

    size_t size() const { return real ? reals.size() : integers.size(); }
    void add(int64_t v) { real ? reals.push_back(static_cast<double>(v)) : integers.push_back(v); }
    void add(double v) {
        if (!real) reals.assign(integers.begin(), integers.end()), integers = {}, real = true;
        reals.push_back(v);
    }
};

/// Builds a small DOM, and takes the numbers under inputs[*].data straight into flat arrays: no more memory than the
/// request is worth, and duplicate keys and deep nesting are refused, which a DOM parser would let pass.
class Reader {
 public:
    json root;
    std::vector<Numbers> data;  // a tensor's "data" in the DOM is an index into this

    bool null() {  // absent, unless it is a place in an array
        if (in_data_ || stack_.empty() || !stack_.back()->is_object()) return add(nullptr);
        if (++values_ > kMaxValues) too_many();
        return true;
    }
    bool boolean(bool v) { return add(v); }
    bool number_integer(int64_t v) { return number(v); }
    bool number_unsigned(uint64_t v) {
        return v <= static_cast<uint64_t>(INT64_MAX) ? number(static_cast<int64_t>(v)) : number(static_cast<double>(v));
    }
    bool number_float(double v, const std::string&) { return number(v); }
    bool string(std::string& v) { return add(std::move(v)); }
    bool binary(json::binary_t&) { return false; }
    bool start_object(size_t) { return open(json::object()); }
    bool end_object() { return close(); }
    bool key(std::string& k) {
        if (stack_.back()->contains(k)) bad("duplicate key " + quote(k));
        key_ = std::move(k);
        return true;
    }
    bool start_array(size_t) {
        if (in_data_ == 0 && at_data()) {
            (*stack_.back())[key_] = data.size();
            data.emplace_back();
            in_data_ = 1;
            return true;
        }
        if (in_data_ == 0) return open(json::array());
        auto& d = data.back();
        if (in_data_ == 2) bad("\"data\" is nested deeper than its shape");
        if (!d.row && d.size() > 0) bad("\"data\" mixes numbers and arrays");
        if (!d.row) d.row = 0, first_row_ = true;
        row_start_ = d.size();
        in_data_ = 2;
        return true;
    }
    bool end_array() {
        if (in_data_ == 0) return close();
        if (--in_data_ == 0) return true;
        auto& d = data.back();
        const size_t length = d.size() - row_start_;
        if (std::exchange(first_row_, false)) d.row = length;
        if (*d.row != length) bad("rows of \"data\" have " + std::to_string(*d.row) + " and " + std::to_string(length) + " numbers");
        return true;
    }
    bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& e) {
        const std::string_view what = e.what();
        const auto end_of_tag = what.find("] ");
        bad("not valid JSON: " + std::string(end_of_tag == what.npos ? what : what.substr(end_of_tag + 2)));
    }

 private:
    std::vector<json*> stack_;  // the open objects and arrays
    std::string key_;
    size_t values_ = 0, row_start_ = 0;
    int in_data_ = 0;  // arrays open inside a "data"
    bool first_row_ = false;

    [[noreturn]] static void too_many() { bad("too many values outside of the tensors"); }
    bool at_data() const {  // root{ inputs[ { data
        return stack_.size() == 3 && stack_[2]->is_object() && key_ == "data" && stack_[0]->is_object() && stack_[0]->contains("inputs") &&
               &(*stack_[0])["inputs"] == stack_[1];
    }
    json& place(json v) {
        if (in_data_ || at_data()) bad("\"data\" must be an array of numbers");
        if (++values_ > kMaxValues) too_many();
        if (stack_.empty()) return root = std::move(v);
        if (stack_.back()->is_array()) return stack_.back()->emplace_back(std::move(v));
        return (*stack_.back())[key_] = std::move(v);
    }
    bool add(json v) { return place(std::move(v)), true; }
    template <class T>
    bool number(T v) {
        if (in_data_ == 0) return add(v);
        if (in_data_ == 1 && data.back().row) bad("\"data\" mixes numbers and arrays");
        data.back().add(v);
        return true;
    }
    bool open(json v) {
        if (stack_.size() == kMaxDepth) bad("JSON is nested deeper than " + std::to_string(kMaxDepth) + " levels");
        stack_.push_back(&place(std::move(v)));
        return true;
    }
    bool close() { return stack_.pop_back(), true; }
};

/// A parsed body: the JSON, the numbers it held and the bytes that followed it.
struct Message {
    json root;
    std::vector<Numbers> data;
    std::string_view binary;
};

Message read(std::string_view body, std::optional<std::string_view> header_length) {
    size_t length = body.size();
    if (header_length) {
        const auto [end, error] = std::from_chars(header_length->data(), header_length->data() + header_length->size(), length);
        if (error != std::errc() || end != header_length->data() + header_length->size() || header_length->empty())
            bad("Inference-Header-Content-Length is not a number");
        if (length > body.size())
            bad("Inference-Header-Content-Length is " + std::to_string(length) + ", the body has only " + std::to_string(body.size()) + " bytes");
    }
    Reader reader;
    const auto text = body.substr(0, length);
    if (text.find('\0') != text.npos) bad("not valid JSON: it has a NUL byte");  // which the parser takes for the end
    if (!json::sax_parse(text.begin(), text.end(), &reader)) bad("not valid JSON");
    if (!reader.root.is_object()) bad("the request must be a JSON object");
    return {std::move(reader.root), std::move(reader.data), body.substr(length)};
}

/// The member `key` of `object` when it is there; it must then be of the type that `is` tests.
const json* member(const json& object, const char* key, bool (json::*is)() const noexcept, const char* type) {
    const auto it = object.find(key);
    if (it == object.end()) return nullptr;
    if (!((*it).*is)()) bad("\"" + std::string(key) + "\" must be " + type);
    return &*it;
}
const json* object_member(const json& o, const char* key) { return member(o, key, &json::is_object, "an object"); }
const json* array_member(const json& o, const char* key) { return member(o, key, &json::is_array, "an array"); }
std::string string_member(const json& o, const char* key, const std::string& of) {
    const json* v = member(o, key, &json::is_string, "a string");
    if (!v) bad(of + " has no \"" + key + "\"");
    return v->get<std::string>();
}
bool bool_member(const json& o, const char* key, bool otherwise) {
    const json* v = member(o, key, &json::is_boolean, "true or false");
    return v ? v->get<bool>() : otherwise;
}
void only_members(const json& object, const std::string& of, std::initializer_list<std::string_view> known) {
    for (const auto& [key, value] : object.items())
        if (std::find(known.begin(), known.end(), key) == known.end()) bad("unknown key " + quote(key) + " in " + of);
}

/// An input tensor with its place in the body settled; its elements are read by `floats` or `integers`.
struct Tensor {
    std::string name, datatype;
    std::vector<uint64_t> shape;
    uint64_t elements = 1;
    const Numbers* numbers = nullptr;  // or else:
    std::string_view bytes;
};

std::vector<Tensor> tensors(const Message& m) {
    const json* inputs = array_member(m.root, "inputs");
    if (!inputs || inputs->empty()) bad("the request has no \"inputs\"");
    std::vector<Tensor> result;
    size_t taken = 0;
    for (const json& in : *inputs) {
        if (!in.is_object()) bad("each of \"inputs\" must be an object");
        Tensor t;
        t.name = string_member(in, "name", "an input");
        const std::string called = "input " + quote(t.name);
        t.datatype = string_member(in, "datatype", called);
        for (const auto& other : result)
            if (other.name == t.name) bad(called + " is given twice");
        const json* shape = array_member(in, "shape");
        if (!shape || shape->empty() || shape->size() > 4) bad(called + " needs a \"shape\" of 1 to 4 dimensions");
        for (const json& extent : *shape) {
            if (!extent.is_number_integer() || extent.get<int64_t>() < 1 || extent.get<int64_t>() > INT32_MAX)
                bad(called + ": a dimension must be an integer from 1 to 2147483647");
            t.shape.push_back(extent.get<uint64_t>());
            if (t.elements > UINT32_MAX) bad(called + " is too large", 413);
            t.elements *= t.shape.back();
        }
        const json* parameters = object_member(in, "parameters");
        const json* size = parameters && parameters->contains("binary_data_size") ? &(*parameters)["binary_data_size"] : nullptr;
        if (size && in.contains("data")) bad(called + " has both \"data\" and \"binary_data_size\"");
        if (size) {
            if (!size->is_number_integer() || size->get<int64_t>() < 0) bad("\"binary_data_size\" must be an integer of bytes");
            const auto want = size->get<uint64_t>();
            if (want > m.binary.size() - taken)
                bad(called + ": binary_data_size is " + std::to_string(want) + ", only " + std::to_string(m.binary.size() - taken) +
                    " bytes are left in the body");
            t.bytes = m.binary.substr(taken, want);
            taken += want;
        } else {
            const auto data = in.find("data");
            if (data == in.end()) bad(called + " has neither \"data\" nor \"binary_data_size\"");
            t.numbers = &m.data.at(data->get<size_t>());
            if (t.numbers->size() != t.elements)
                bad(called + ": the shape says " + std::to_string(t.elements) + " elements, \"data\" has " + std::to_string(t.numbers->size()));
            if (t.numbers->row && *t.numbers->row != t.shape.back())
                bad(called + ": rows of \"data\" have " + std::to_string(*t.numbers->row) + " numbers, the shape says " +
                    std::to_string(t.shape.back()));
        }
        result.push_back(std::move(t));
    }
    if (taken != m.binary.size()) bad(std::to_string(m.binary.size() - taken) + " bytes follow the last binary tensor");
    return result;
}

/// The tensor's bytes as T, when it is of the datatype and size that T needs.
template <class T>
std::vector<T> raw(const Tensor& t) {
    if (t.bytes.size() != t.elements * sizeof(T))
        bad("input " + quote(t.name) + ": the shape needs " + std::to_string(t.elements * sizeof(T)) + " bytes, binary_data_size is " +
            std::to_string(t.bytes.size()));
    std::vector<T> v(t.elements);
    std::memcpy(v.data(), t.bytes.data(), t.bytes.size());  // the body gives no alignment
    return v;
}

void want_datatype(const Tensor& t, const char* datatype) {
    if (t.datatype != datatype) bad("input " + quote(t.name) + " must be " + datatype + ", not " + quote(t.datatype));
}

std::vector<float> vectors(const Tensor& t, uint32_t dim) {
    want_datatype(t, "FP32");
    if (t.shape.size() != 2 || t.shape[1] != dim)
        bad("input " + quote(t.name) + " must have the shape [n, " + std::to_string(dim) + "]: the index has " + std::to_string(dim) + " dimensions");
    std::vector<float> v;
    if (!t.numbers)
        v = raw<float>(t);
    else if (t.numbers->real)
        v.assign(t.numbers->reals.begin(), t.numbers->reals.end());
    else
        v.assign(t.numbers->integers.begin(), t.numbers->integers.end());
    uint32_t largest = 0;  // magnitudes order like their bits, infinity and NaN above all: one vectorised pass
    for (float x : v) largest = std::max(largest, std::bit_cast<uint32_t>(x) & 0x7fffffffu);
    if (largest < 0x7f800000u) return v;
    const size_t at = std::find_if_not(v.begin(), v.end(), [](float x) { return std::isfinite(x); }) - v.begin();
    bad("input " + quote(t.name) + ": element [" + std::to_string(at / dim) + ", " + std::to_string(at % dim) + "] is not a finite FP32");
}

std::vector<int64_t> integers(const Tensor& t) {
    want_datatype(t, "INT64");
    if (!t.numbers) return raw<int64_t>(t);
    if (t.numbers->real) bad("input " + quote(t.name) + " must hold 64-bit integers");
    return t.numbers->integers;
}

uint32_t count_parameter(const json& parameters, const char* key, uint32_t otherwise, uint32_t largest) {
    const auto it = parameters.find(key);
    if (it == parameters.end()) return otherwise;
    if (!it->is_number_integer() || it->get<int64_t>() < 1 || it->get<int64_t>() > largest)
        bad("parameter \"" + std::string(key) + "\" must be an integer from 1 to " + std::to_string(largest));
    return it->get<uint32_t>();
}

std::vector<std::string> tag_list(const json& value, const std::string& of) {
    const auto is_string = [](const json& tag) { return tag.is_string(); };
    if (!value.is_array() || !std::all_of(value.begin(), value.end(), is_string)) bad(of + " must be an array of strings");
    return value.get<std::vector<std::string>>();
}

/// {"all": [tags], "any": [tags], "none": [tags]}, or the same as a string for clients whose parameters are scalars.
TagFilter filter_parameter(const json& value) {
    if (value.is_string()) return filter_parameter(read(value.get_ref<const std::string&>(), std::nullopt).root);
    if (!value.is_object()) bad("parameter \"filter\" must be an object with lists of tags as \"all\", \"any\" or \"none\"");
    only_members(value, "the filter", {"all", "any", "none"});
    const auto tags = [&](const char* key) {
        return value.contains(key) ? tag_list(value[key], "\"" + std::string(key) + "\" of the filter") : std::vector<std::string>{};
    };
    return {tags("all"), tags("any"), tags("none")};
}

std::vector<Output> requested_outputs(const json& root, bool binary) {
    const json* outputs = array_member(root, "outputs");
    if (!outputs || outputs->empty()) return {{Field::ids, binary}, {Field::distances, binary}};
    std::vector<Output> result;
    for (const json& out : *outputs) {
        if (!out.is_object()) bad("each of \"outputs\" must be an object");
        const std::string name = string_member(out, "name", "an output");
        if (name != "ids" && name != "distances") bad("unknown output " + quote(name) + ": there are \"ids\" and \"distances\"");
        const Field field = name == "ids" ? Field::ids : Field::distances;
        for (const Output& other : result)
            if (other.field == field) bad("output " + quote(name) + " is asked for twice");
        const json* parameters = object_member(out, "parameters");
        for (const char* other : {"classification", "shared_memory_region"})
            if (parameters && parameters->contains(other)) bad("output " + quote(name) + ": this server has no \"" + other + "\"");
        result.push_back({field, parameters ? bool_member(*parameters, "binary_data", binary) : binary});
    }
    return result;
}

template <class T>
void append_array(std::string& to, const std::vector<T>& values) {
    char text[32];
    to += '[';
    for (size_t i = 0; i < values.size(); ++i) {
        if (i) to += ',';
        to.append(text, std::to_chars(text, text + sizeof text, values[i]).ptr);
    }
    to += ']';
}

std::string dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace

InferRequest parse_infer(std::string_view body, std::optional<std::string_view> header_length, const Limits& limits, const Defaults& defaults) {
    const Message m = read(body, header_length);
    InferRequest r;
    if (m.root.contains("id")) r.id = string_member(m.root, "id", "the request");

    const json none = json::object();
    const json* given = object_member(m.root, "parameters");
    const json& parameters = given ? *given : none;
    r.k = count_parameter(parameters, "k", defaults.k, limits.max_k);
    const bool has_recall = parameters.contains("recall_target");
    if (has_recall && parameters.contains("ef")) bad("give \"ef\" or \"recall_target\", not both");
    r.ef = count_parameter(parameters, "ef", has_recall ? 0 : defaults.ef, limits.max_ef);
    if (has_recall) {
        const json& target = parameters["recall_target"];
        if (!target.is_number() || !(target.get<double>() >= 0.5 && target.get<double>() <= 0.999))
            bad("parameter \"recall_target\" must be from 0.5 to 0.999");
        r.recall_target = target.get<float>();
    } else if (!parameters.contains("ef")) {
        r.recall_target = defaults.recall_target;
    }
    if (parameters.contains("filter")) r.filter = filter_parameter(parameters["filter"]);
    r.outputs = requested_outputs(m.root, bool_member(parameters, "binary_data_output", false));

    const auto inputs = tensors(m);
    if (inputs.size() != 1 || inputs[0].name != "queries") bad("the one input is \"queries\", FP32 [n, " + std::to_string(limits.dim) + "]");
    r.n = inputs[0].shape[0];
    if (r.n > limits.max_queries)
        bad(std::to_string(r.n) + " queries in one request; at most " + std::to_string(limits.max_queries) + " are taken", 413);
    if (r.n * r.k * (sizeof(int64_t) + sizeof(float)) > limits.max_response_bytes)
        bad("n × k = " + std::to_string(r.n * r.k) + " results would exceed the largest response; ask for fewer", 413);
    r.queries = vectors(inputs[0], limits.dim);
    return r;
}

WriteRequest parse_write(std::string_view body, std::optional<std::string_view> header_length, const Limits& limits, bool with_vectors) {
    const Message m = read(body, header_length);
    only_members(m.root, "the request", {"id", "parameters", "inputs"});
    WriteRequest r;
    const auto inputs = tensors(m);
    const auto find = [&](const char* name) {
        const auto it = std::find_if(inputs.begin(), inputs.end(), [&](const Tensor& t) { return t.name == name; });
        return it == inputs.end() ? nullptr : &*it;
    };
    const Tensor *ids = find("ids"), *rows = find("vectors");
    if (!ids || (with_vectors && !rows) || inputs.size() != (with_vectors ? 2 : 1))
        bad(with_vectors ? "an upsert has the inputs \"ids\" and \"vectors\"" : "a delete has the one input \"ids\"");
    if (ids->shape.size() != 1) bad("input \"ids\" must have the shape [n]");
    const uint64_t n = ids->shape[0];
    for (int64_t id : integers(*ids)) {
        if (id < 0) bad("id " + std::to_string(id) + " is negative");
        r.ids.push_back(static_cast<uint64_t>(id));
    }
    if (rows) {
        r.vectors = vectors(*rows, limits.dim);
        if (rows->shape[0] != n) bad(std::to_string(n) + " ids and " + std::to_string(rows->shape[0]) + " vectors");
    }
    if (const json* parameters = object_member(m.root, "parameters")) {
        only_members(*parameters, "the parameters", {"tags"});
        if (const json* tags = array_member(*parameters, "tags")) {
            if (!with_vectors || tags->size() != n) bad("\"tags\" must be a list for each of the " + std::to_string(n) + " rows of an upsert");
            for (const json& row : *tags) r.tags.push_back(tag_list(row, "each of \"tags\""));
        }
    }
    return r;
}

std::optional<std::string> parse_path(std::string_view body) {
    if (body.empty()) return std::nullopt;
    const Message m = read(body, std::nullopt);
    only_members(m.root, "the request", {"path"});
    if (!m.root.contains("path")) return std::nullopt;
    auto path = string_member(m.root, "path", "the request");
    if (path.empty() || path.find('\0') != path.npos) bad("\"path\" must name a file");
    return path;
}

void pad_row(int64_t* ids, float* distances, uint32_t found, uint32_t k) {
    for (uint32_t i = 0; i < found; ++i)
        if (!std::isfinite(distances[i])) distances[i] = kFarthest;
    std::fill(ids + found, ids + k, int64_t{-1});
    std::fill(distances + found, distances + k, kFarthest);
}

size_t encoded_bytes(const InferRequest& r, std::string_view model) {
    size_t result = 1024 + kEscaped * (model.size() + (r.id ? r.id->size() : 0)) + (r.outputs.size() + 1) * 128;
    for (const Output& out : r.outputs) result += r.n * r.k * (out.binary ? (out.field == Field::ids ? 8 : 4) : (out.field == Field::ids ? 21 : 17));
    return result;
}

Encoded encode_infer(const InferRequest& r, std::string_view model, std::string_view version, const std::vector<int64_t>& ids,
                     const std::vector<float>& distances) {
    const std::string shape = "[" + std::to_string(r.n) + "," + std::to_string(r.k) + "]";
    std::string text;
    text.reserve(encoded_bytes(r, model));
    text += "{\"model_name\":" + dump(json(model)) + ",\"model_version\":" + dump(json(version));
    if (r.id) text += ",\"id\":" + dump(json(*r.id));
    text += ",\"outputs\":[";
    std::vector<std::string_view> binaries;
    for (const Output& out : r.outputs) {
        const bool is_ids = out.field == Field::ids;
        if (&out != r.outputs.data()) text += ',';
        text += is_ids ? R"({"name":"ids","datatype":"INT64","shape":)" : R"({"name":"distances","datatype":"FP32","shape":)";
        text += shape;
        if (out.binary) {
            const std::string_view bytes = is_ids
                                               ? std::string_view(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int64_t))
                                               : std::string_view(reinterpret_cast<const char*>(distances.data()), distances.size() * sizeof(float));
            text += ",\"parameters\":{\"binary_data_size\":" + std::to_string(bytes.size()) + "}}";
            binaries.push_back(bytes);
        } else {
            text += ",\"data\":";
            is_ids ? append_array(text, ids) : append_array(text, distances);
            text += '}';
        }
    }
    text += "]}";
    if (binaries.empty()) return {std::move(text), std::nullopt};
    const size_t header = text.size();
    for (const auto& bytes : binaries) text += bytes;
    return {std::move(text), header};
}

std::string encode_error(std::string_view message) { return dump({{"error", message}}); }

std::string encode_server_metadata() { return dump({{"name", "vnni-search"}, {"version", kVersion}, {"extensions", {"binary_tensor_data"}}}); }

std::string encode_model_metadata(std::string_view model, std::string_view version, uint32_t dim) {
    const auto tensor = [](const char* name, const char* datatype, int64_t width) {
        return json{{"name", name}, {"datatype", datatype}, {"shape", {-1, width}}};
    };
    return dump({{"name", model},
                 {"versions", {version}},
                 {"platform", "vnni-search"},
                 {"inputs", json::array({tensor("queries", "FP32", dim)})},
                 {"outputs", json::array({tensor("ids", "INT64", -1), tensor("distances", "FP32", -1)})}});
}

std::string_view bearer_key(std::string_view authorization) {
    constexpr std::string_view scheme = "bearer ";
    const auto same = [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; };
    if (authorization.size() < scheme.size() || !std::equal(scheme.begin(), scheme.end(), authorization.begin(), [&](char b, char a) { return same(a, b); }))
        return {};
    authorization.remove_prefix(scheme.size());
    return authorization.substr(std::min(authorization.find_first_not_of(' '), authorization.size()));
}

bool same_secret(std::string_view given, std::string_view secret) {
    // Every character of `given` is looked at, whatever it holds; only its length, which the client knows, shows.
    unsigned char difference = given.size() != secret.size();
    for (size_t i = 0; i < given.size(); ++i) difference |= static_cast<unsigned char>(given[i] ^ secret[i % secret.size()]);
    return difference == 0;
}

}  // namespace vnni::serve
