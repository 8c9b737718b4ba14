// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The public face of the engine: open an index, search it. Everything else in src/ stands behind this header.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace vnni {

// Every failure a user can cause. The message names the file or value, what is wrong with it and what was expected.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class Metric : uint8_t { l2 = 0, ip = 1, cosine = 2 };
const char* name(Metric);            // "l2", "ip", "cosine"
Metric metric_from(const std::string&);  // throws Error on another word

// Distances, as hnswlib returns them: a smaller one is always nearer, results come nearest first.
//   l2: squared Euclidean distance;  ip: 1 - <q, x>;  cosine: 1 - cos(q, x), where a zero vector has cosine 0.

enum class Mode : uint8_t {
    ram,    // all sections copied into huge pages
    mmap,   // the file mapped privately: a restart loads nothing, pages come as they are touched
    split,  // codes and graph in RAM, the refinement copy mapped from the file (SSD, DAX)
};
const char* name(Mode);
Mode mode_from(const std::string&);

struct OpenOptions {
    Mode mode = Mode::ram;
    bool verify = true;   // check the CRC32C of every section before the first search
    int numa_node = -1;   // place the sections' memory on this node (ram, split); -1: where the opening thread runs
};

// A row carries a set of tags. It passes when it has every tag of `all`, at least one of `any` (if there are some) and none of `none`.
struct TagFilter {
    std::vector<std::string> all, any, none;
};

struct SearchOptions {
    uint32_t k = 10;          // 1..1000; more than the index holds gives what there is
    uint32_t ef = 0;          // candidates whose neighbours are looked at; 0: from recall_target
    float recall_target = 0;  // 0.5..0.999: the ef measured at build to reach it; 0 with ef 0: 0.95
    const TagFilter* filter = nullptr;
};

struct SearchStats {          // of a Searcher's last search
    uint64_t distances = 0;   // rows compared by their codes
    uint64_t hops = 0;        // nodes expanded
    uint64_t refined = 0;     // rows compared at full precision
};

struct Header;      // what the file says of itself: format.hpp
struct IndexData;   // the sections in memory: format.hpp

// An opened index; immutable to its readers (LiveIndex changes one underneath them), thread-safe.
class Index {
 public:
    static std::shared_ptr<const Index> open(const std::string& path, const OpenOptions& = {});  // throws Error

    explicit Index(std::unique_ptr<IndexData>);
    ~Index();
    const Header& header() const;
    const IndexData& data() const { return *data_; }
    IndexData& data() { return *data_; }

    uint64_t size() const;       // rows that a search can return
    uint32_t dim() const;
    Metric metric() const;
    const std::string& path() const;   // "" when built in memory
    uint64_t version() const;          // of the content: no two builds share one, and it grows with every snapshot
    uint64_t memory_bytes() const;     // of all sections, wherever they are
    uint64_t unreachable() const;      // live rows that no way leads to from where searches enter; no writer may be at work
    uint32_t ef_for(float recall_target, uint32_t k) const;  // the measured table

 private:
    std::unique_ptr<IndexData> data_;
};

// One per thread: the scratch space of a search.
class Searcher {
 public:
    explicit Searcher(std::shared_ptr<const Index>);
    ~Searcher();
    Searcher(Searcher&&) noexcept;
    // query: dim() finite floats; ids and distances: room for k. Returns how many were found (k unless the index or the filter has
    // fewer). Throws Error on a non-finite query and on options out of range.
    uint32_t search(const float* query, const SearchOptions&, uint64_t* ids, float* distances);
    // The k nearest among slots[0, n) by comparing all of them: the truth that recall is measured against.
    uint32_t exact(const float* query, const uint32_t* slots, uint64_t n, uint32_t k, uint64_t* ids);
    const SearchStats& stats() const;

 private:
    uint32_t refine(uint32_t k, uint64_t* ids, float* distances);
    void prepare(const float* query);
    struct Scratch;
    std::shared_ptr<const Index> index_;
    std::unique_ptr<Scratch> scratch_;
};

// The kernel family in use: "avx512_vnni", "avx_vnni", "avx2", "neon_dotprod" or "scalar".
const char* kernel_name();

}  // namespace vnni
