// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "input.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "search.hpp"

namespace vnni {

struct NpyHeader {
    std::string type;
    bool fortran = false;
    std::vector<uint64_t> shape;
    uint64_t offset = 0;
};

// The header is a Python dict literal that numpy writes in one fixed form.
static NpyHeader read_npy_header(const File& file) {
    const std::string& path = file.path();
    const uint64_t size = file.size();
    uint8_t start[12] = {};
    if (size < 12) fail(path, ": ", size, " bytes, too short for an .npy file");
    file.read(start, 12, 0);
    if (std::memcmp(start, "\x93NUMPY", 6) != 0) fail(path, ": not an .npy file (its first bytes are not \\x93NUMPY)");
    const bool wide = start[6] >= 2;
    const uint64_t length = wide ? start[8] | start[9] << 8 | start[10] << 16 | uint64_t(start[11]) << 24 : start[8] | start[9] << 8;
    NpyHeader h;
    h.offset = (wide ? 12 : 10) + length;
    if (h.offset > size || length > 1 << 20) fail(path, ": the .npy header is truncated");
    std::string text(length, 0);
    file.read(text.data(), length, wide ? 12 : 10);
    const auto after = [&](const char* key) {
        const size_t at = text.find(key);
        if (at == std::string::npos) fail(path, ": the .npy header has no ", key);
        return text.substr(text.find(':', at) + 1);
    };
    const std::string type = after("'descr'"), shape = after("'shape'");
    const size_t quote = type.find('\''), open = shape.find('('), close = shape.find(')');
    if (quote == std::string::npos || open == std::string::npos || close == std::string::npos) fail(path, ": the .npy header cannot be read: ", text);
    h.type = type.substr(quote + 1, type.find('\'', quote + 1) - quote - 1);
    h.fortran = after("'fortran_order'").find("True") < 3;
    for (size_t at = open + 1; at < close;) {
        char* end = nullptr;
        h.shape.push_back(std::strtoull(shape.c_str() + at, &end, 10));
        const size_t next = size_t(end - shape.c_str());
        if (next == at) break;
        at = shape.find_first_not_of(", ", next);
    }
    if (!h.shape.empty() && h.shape.back() == 0 && h.shape.size() > 1 && shape[close - 1] == ',') h.shape.pop_back();
    return h;
}

static bool ends_with(const std::string& text, const char* end) {
    const size_t n = std::strlen(end);
    return text.size() >= n && text.compare(text.size() - n, n, end) == 0;
}

static const size_t kTypeBytes[] = {4, 2, 1, 1};

void Vectors::open_npy() {
    const NpyHeader h = read_npy_header(file_);
    const std::string& path = file_.path();
    static constexpr std::pair<const char*, Type> types[] = {{"<f4", Type::f32}, {"<f2", Type::f16}, {"|u1", Type::u8}, {"|i1", Type::i8}};
    const auto known = std::find_if(std::begin(types), std::end(types), [&](const auto& t) { return h.type == t.first; });
    if (known == std::end(types)) fail(path, ": values of type '", h.type, "'; expected float32 ('<f4'), float16, uint8 or int8: convert with .astype('float32')");
    if (h.shape.size() != 2) fail(path, ": an array of ", h.shape.size(), " dimensions; expected 2: [vectors][values]");
    if (h.fortran) column_ = h.shape[0];
    type_ = known->second;
    if (h.shape[1] < 1 || h.shape[1] > kMaxDim) fail(path, ": dimension ", h.shape[1], "; expected 1 to ", kMaxDim);
    rows_ = h.shape[0], dim_ = uint32_t(h.shape[1]), offset_ = h.offset;
}

Vectors::Vectors(const std::string& path) : file_(path, O_RDONLY) {
    const uint64_t size = file_.size();
    const auto head = [&](uint64_t at) {
        uint32_t value = 0;
        if (size < at + 4) fail(path, ": ", size, " bytes, too short for its format");
        file_.read(&value, 4, at);
        return value;
    };
    if (ends_with(path, ".npy")) {
        open_npy();
    } else if (ends_with(path, ".fvecs") || ends_with(path, ".bvecs")) {
        type_ = ends_with(path, ".fvecs") ? Type::f32 : Type::u8;
        dim_ = head(0), prefix_ = 4;
    } else if (ends_with(path, "bin")) {
        type_ = ends_with(path, ".fbin") ? Type::f32 : ends_with(path, ".u8bin") ? Type::u8 : Type::i8;
        if (type_ == Type::i8 && !ends_with(path, ".i8bin")) fail(path, ": expected .fbin, .u8bin or .i8bin");
        rows_ = head(0), dim_ = head(4), offset_ = 8;
    } else {
        fail(path, ": expected a name that ends in .npy, .fvecs, .bvecs, .fbin, .u8bin or .i8bin");
    }
    if (dim_ < 1 || dim_ > kMaxDim) fail(path, ": dimension ", dim_, "; expected 1 to ", kMaxDim);
    stride_ = prefix_ + dim_ * kTypeBytes[size_t(type_)];
    if (prefix_) {
        if (size % stride_) fail(path, ": ", size, " bytes are no whole number of vectors of ", stride_, " bytes: truncated, or mixed dimensions");
        rows_ = size / stride_;
    }
    if (rows_ > (UINT64_MAX - offset_) / stride_ || size < offset_ + rows_ * stride_)
        fail(path, ": ", size, " bytes, expected ", offset_ + rows_ * stride_, " for ", rows_, " vectors of ", dim_, ": truncated");
    if (!rows_) fail(path, ": no vectors; an index learns its codes from some, so begin with a sample of what will come");
    if (rows_ >= kNoSlot) fail(path, ": ", rows_, " vectors; an index holds at most ", kNoSlot - 1);
}

void Vectors::read(uint64_t first, uint64_t n, float* out) const {
    std::vector<uint8_t> raw(n * stride_);
    if (column_) {
        const size_t bytes = kTypeBytes[size_t(type_)];
        std::vector<uint8_t> column(n * bytes);
        for (uint32_t j = 0; j < dim_; ++j) {
            file_.read(column.data(), column.size(), offset_ + (j * column_ + first) * bytes);
            for (uint64_t i = 0; i < n; ++i) std::memcpy(raw.data() + i * stride_ + j * bytes, column.data() + i * bytes, bytes);
        }
    } else {
        file_.read(raw.data(), raw.size(), offset_ + first * stride_);
    }
    for (uint64_t i = 0; i < n; ++i) {
        const uint8_t* row = raw.data() + i * stride_;
        float* to = out + i * dim_;
        if (prefix_) {
            uint32_t dim;
            std::memcpy(&dim, row, 4);
            if (dim != dim_) fail(path(), ": vector ", first + i, " has dimension ", dim, ", the first one ", dim_);
            row += prefix_;
        }
        switch (type_) {
            case Type::f32: std::memcpy(to, row, 4 * dim_); break;
            case Type::f16:
                for (uint32_t j = 0; j < dim_; ++j) to[j] = from_half(uint16_t(row[2 * j] | row[2 * j + 1] << 8));
                break;
            case Type::u8: std::copy(row, row + dim_, to); break;
            case Type::i8: std::copy(reinterpret_cast<const int8_t*>(row), reinterpret_cast<const int8_t*>(row) + dim_, to); break;
        }
        if (!all_finite(to, dim_)) {
            const auto bad = std::find_if(to, to + dim_, [](float x) { return !std::isfinite(x); });
            fail(path(), ": vector ", first + i, " has ", *bad, " in position ", bad - to, "; all values must be finite");
        }
    }
}

IdMatrix IdMatrix::read(const std::string& path) {
    const File file(path, O_RDONLY);
    IdMatrix m;
    uint64_t offset = 0, bytes = 4, stride = 0, size = file.size();
    if (ends_with(path, ".ivecs")) {
        uint32_t columns = 0;
        file.read(&columns, 4, 0);
        m.columns = columns, offset = 4, stride = 4 + 4ull * columns;
        m.rows = size / stride;
    } else if (ends_with(path, ".npy")) {
        const NpyHeader h = read_npy_header(file);
        if (h.shape.size() != 2 || h.fortran || h.type.size() != 3 || (h.type[1] != 'i' && h.type[1] != 'u') || (h.type[2] != '4' && h.type[2] != '8'))
            fail(path, ": expected a two-dimensional array of int32 or int64 in C order");
        m.rows = h.shape[0], m.columns = h.shape[1], offset = h.offset, bytes = uint64_t(h.type[2] - '0');
        stride = bytes * m.columns;
    } else {
        fail(path, ": expected a name that ends in .npy or .ivecs");
    }
    if (!m.columns || m.rows > size / stride) fail(path, ": ", size, " bytes, too short for ", m.rows, " rows of ", m.columns, " ids");
    std::vector<uint8_t> row(bytes * m.columns);
    for (uint64_t i = 0; i < m.rows; ++i) {
        file.read(row.data(), row.size(), offset + i * stride);
        for (uint64_t j = 0; j < m.columns; ++j) {
            uint64_t id = 0;
            std::memcpy(&id, row.data() + j * bytes, bytes);
            m.ids.push_back(id);
        }
    }
    return m;
}

}  // namespace vnni
