// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The index file and the same bytes in memory. A 4 KiB header, then sections on 2 MiB boundaries, zeros between them; nothing in
// the file is a pointer, so it can be mapped anywhere. Little-endian.
#pragma once

#include <atomic>
#include <span>
#include <thread>

#include "search.hpp"
#include "util.hpp"

namespace vnni {

enum SectionId : uint32_t {
    kScales,   // float mean[dim], scale[width], with a basis basis_scale[width]: the quantiser
    kBasis,    // u8 [width][dim rounded up to 64]: directions that rows are coded in; none: their own coordinates
    kPivots,   // u32 slot[pivots]: where searches enter
    kCodes,    // u8 [rows][stride]
    kGraph,    // u32 [rows][degree]: neighbours; a short list is filled with the row itself
    kRefine,   // half [rows][dim]: the rows times refine_scale
    kIds,      // u64 [rows], external ids; none: a row's id is its number
    kDead,     // u64 bitmap [rows]: slots that hold no row (deleted, perhaps still linked); none: all live
    kTags,     // see tags.hpp; none: no row has a tag
    kSections
};
const char* name(SectionId);

constexpr uint32_t kFormat = 3;  // of the file

struct Section {
    uint64_t offset, bytes;
    uint32_t crc, unused;
};

// ef per recall target, measured at build on rows that were not in the graph yet.
constexpr float kTargets[] = {0.90f, 0.95f, 0.97f, 0.98f, 0.99f, 0.995f, 0.999f};
constexpr uint32_t kTargetKs[] = {1, 10, 100};

struct Header {
    char magic[8];           // "VNNISRCH"
    uint32_t format;         // kFormat
    uint32_t crc;            // of these 4 KiB with crc = 0
    uint64_t rows;           // slots in every section
    uint64_t live;           // slots that are not dead
    uint64_t content;        // version of the content
    uint64_t created;        // seconds since 1970
    uint64_t seed;
    uint64_t wal_position;   // LiveIndex: the log generation that continues this file
    uint32_t dim, stride, degree, pivots;
    uint8_t metric, bits;    // bits: 8 or 4 a code
    uint8_t by_product;      // the graph was built by inner product, as its rows' lengths differ
    uint8_t unused;          // 0
    uint32_t build_ef;
    float alpha;
    float refine_scale;      // a power of two
    float term_step;         // of the terms in the codes; l2: positive
    uint32_t table[std::size(kTargetKs)][std::size(kTargets)];  // 0: not measured
    float table_recall;      // the recall@10 the largest measured ef reached
    uint32_t width;          // coordinates of a code; less than dim: there is a basis
    Section sections[kSections];
    char rest[3688];
};
static_assert(sizeof(Header) == 4096);

class Tags;

// Searches of a LiveIndex announce themselves, so that a slot is not used again while one may know it.
struct Readers {
    static constexpr size_t kSeats = 256;
    struct alignas(64) Seat {
        std::atomic<uint64_t> epoch{0};  // in which the search began; 0: free
    };
    Seat seats[kSeats];
    std::atomic<uint64_t> epoch{1};
    std::atomic<bool> closed{false};  // while the rows' memory moves

    std::atomic<uint64_t>& sit() {
        static thread_local size_t favourite = 0;
        for (;; ++favourite) {
            closed.wait(true);
            uint64_t free = 0;
            auto& seat = seats[favourite % kSeats].epoch;
            if (!seat.compare_exchange_strong(free, epoch.load())) continue;
            if (!closed) return seat;
            seat = 0;
        }
    }
    void close() {
        closed = true;
        while (!none_before(UINT64_MAX)) std::this_thread::yield();
    }
    void reopen() {
        closed = false;
        closed.notify_all();
    }
    uint64_t next_epoch() { return ++epoch; }
    bool none_before(uint64_t wanted) const {
        for (const Seat& seat : seats)
            if (const uint64_t began = seat.epoch.load(); began && began < wanted) return false;
        return true;
    }
};

// Where the searches of a LiveIndex enter. A set never changes: another takes its place, and it goes when no search can know it.
struct Entrances {
    std::vector<uint32_t> slots;
    std::vector<uint8_t> codes;  // the slots' rows side by side
};

// One opened or built index. The typed pointers point into the sections.
struct IndexData {
    Header header{};
    std::string path;
    Quantizer quantizer;
    Region section[kSections];
    Region pivot_codes;                 // the pivots' rows side by side
    std::shared_ptr<Tags> tags;
    std::unique_ptr<Readers> readers;   // of a LiveIndex
    std::atomic<uint64_t> rows{0};      // header.rows, growing in a LiveIndex
    std::atomic<uint64_t> live{0};
    std::atomic<uint64_t> hidden{0};    // dead rows that lists may still name
    mutable std::atomic<uint64_t> detours{0};   // rows compared by searches that dead rows stood in the way of
    std::atomic<const Entrances*> entrances{nullptr};  // of a LiveIndex; else the view's pivots
    View view;

    bool has(SectionId s) const { return bool(section[s]); }
    uint64_t id_of(uint32_t slot) const {
        return has(kIds) ? __atomic_load_n(section[kIds].as<uint64_t>() + slot, __ATOMIC_RELAXED) : slot;
    }
    bool dead(uint32_t slot) const {
        return has(kDead) && __atomic_load_n(section[kDead].as<uint64_t>() + slot / 64, __ATOMIC_ACQUIRE) >> slot % 64 & 1;
    }
    void attach();  // quantizer, pivots' copies and view, from header and sections
};

// Bytes a row takes in every section, by the shape alone: what `plan` prints and `build` allocates.
struct Shape {
    uint32_t dim = 0, bits = 8, stride = 0, degree = 64;  // stride: at most so much; a build may find that less does
    Metric metric = Metric::l2;
    bool ids = false;
    uint64_t row_bytes(SectionId) const;
    uint64_t row_bytes() const;  // of all sections
};
// bits 0 and degree 0: the measured choice for this dimension, never more memory than hnswlib takes for FP32 rows at M = 16.
Shape shape_of(const Header&);
Shape shape_for(uint32_t dim, Metric, uint32_t bits, uint32_t degree);
uint64_t hnswlib_row_bytes(uint32_t dim);

// Reads the header and refuses what is no index: wrong magic, version, checksum, sizes that do not fit together or the file.
Header read_header(const File&);
// Maps or reads all sections as the mode says. Throws Error naming the file, the section and what is wrong with it.
std::unique_ptr<IndexData> load(const std::string& path, const OpenOptions&, uint64_t reserve_rows = 0);
// Writes header and sections under a temporary name and renames; fills in offsets and checksums.
void write_index(const IndexData&, Header, const std::string& path);

}  // namespace vnni
