// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// Vectors from files, read in blocks.
#pragma once

#include <algorithm>

#include "util.hpp"

namespace vnni {

// .npy (float32, float16, uint8, int8; C or Fortran order; one vector a row), .fvecs, .bvecs, .fbin, .u8bin, .i8bin. By the file's name.
class Vectors {
 public:
    explicit Vectors(const std::string& path);  // throws Error on a format it cannot read, on a truncated file, on dim out of range
    uint64_t rows() const { return rows_; }
    uint32_t dim() const { return dim_; }
    // Rows [first, first + n) as floats. Throws Error, naming the row, on a value that is not finite.
    void read(uint64_t first, uint64_t n, float* out) const;
    void keep_first(uint64_t n) { rows_ = std::min(rows_, n); }
    const std::string& path() const { return file_.path(); }

 private:
    enum class Type { f32, f16, u8, i8 };
    void open_npy();
    File file_;
    Type type_ = Type::f32;
    uint64_t rows_ = 0, offset_ = 0, stride_ = 0;  // bytes from row to row
    uint64_t column_ = 0;                          // Fortran order: values of a column lie side by side, so many; 0: C order
    uint32_t dim_ = 0, prefix_ = 0;                // bytes before a row's values: *vecs repeat the dimension there
};

// Ground truth, [rows][columns] ids: .npy of int32 or int64, or .ivecs.
struct IdMatrix {
    uint64_t rows = 0, columns = 0;
    std::vector<uint64_t> ids;
    static IdMatrix read(const std::string& path);
};

}  // namespace vnni
