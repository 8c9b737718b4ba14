// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "format.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>

#include "tags.hpp"

namespace vnni {

static constexpr char kMagic[] = {'V', 'N', 'N', 'I', 'S', 'R', 'C', 'H'};
static constexpr size_t kBlock = 8 << 20;  // read, checked and written at a time

const char* name(SectionId s) {
    static constexpr const char* names[] = {"scales", "basis", "pivots", "codes", "graph", "refine", "ids", "dead", "tags"};
    return names[s];
}

// --- shape ---

uint64_t hnswlib_row_bytes(uint32_t dim) {
    // FP32 row, layer 0 (2 M ids and a count), label, upper layers; then a mutex, a list pointer, a level and the label's hash node.
    return 4ull * dim + 4 * 33 + 8 + 5 + 40 + 8 + 4 + 40;
}

uint64_t Shape::row_bytes(SectionId s) const {
    switch (s) {
        case kCodes: return stride;
        case kGraph: return 4ull * degree;
        case kRefine: return 2ull * dim;
        case kIds: return ids ? 8 : 0;
        default: return 0;
    }
}

uint64_t Shape::row_bytes() const {
    uint64_t sum = 0;
    for (uint32_t s = 0; s < kSections; ++s) sum += row_bytes(SectionId(s));
    return sum;
}

Shape shape_for(uint32_t dim, Metric metric, uint32_t bits, uint32_t degree) {
    Shape shape;
    shape.dim = dim, shape.metric = metric;
    shape.bits = bits ? bits : dim > 128 ? 4 : 8;
    shape.stride = Quantizer::stride_for(dim, shape.bits);
    shape.degree = 0;
    const auto room = int64_t(hnswlib_row_bytes(dim)) - int64_t(shape.row_bytes());
    shape.degree = degree ? degree : uint32_t(std::clamp<int64_t>(room / 4 / 8 * 8, 32, 64));
    return shape;
}

// --- reading ---

Shape shape_of(const Header& h) {
    Shape shape;
    shape.dim = h.dim, shape.bits = h.bits, shape.stride = h.stride, shape.degree = h.degree, shape.metric = Metric(h.metric);
    shape.ids = h.sections[kIds].bytes;
    return shape;
}

// What a section must measure; tags alone have a size of their own.
static uint64_t expected_bytes(const Header& h, SectionId s) {
    switch (s) {
        case kScales: return 4ull * (h.dim + h.width + (h.width < h.dim ? h.width : 0));
        case kBasis: return h.width < h.dim ? h.width * round_up(h.dim, 64) : 0;
        case kPivots: return 4ull * h.pivots;
        case kDead: return h.sections[s].bytes ? (h.rows + 63) / 64 * 8 : 0;
        case kTags: return h.sections[s].bytes;
        default: return h.rows * shape_of(h).row_bytes(s);
    }
}

static uint32_t header_crc(Header h) {
    h.crc = 0;
    return crc32c(&h, sizeof h);
}

Header read_header(const File& file) {
    const std::string& path = file.path();
    const uint64_t size = file.size();
    if (size < sizeof(Header)) fail(path, ": ", size, " bytes, shorter than an index's header of ", sizeof(Header));
    Header h;
    file.read(&h, sizeof h, 0);
    if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) fail(path, ": not a vnni-search index (its first 8 bytes are not VNNISRCH)");
    if (h.format != kFormat) fail(path, ": format version ", h.format, "; this program reads version ", kFormat);
    if (header_crc(h) != h.crc) fail(path, ": the header's checksum is wrong: the file is damaged");
    if (h.dim < 1 || h.dim > kMaxDim) fail(path, ": header: dimension ", h.dim, ", expected 1 to ", kMaxDim);
    if (h.metric > 2) fail(path, ": header: metric ", int(h.metric), ", expected 0 to 2");
    if (h.bits != 8 && h.bits != 4) fail(path, ": header: ", int(h.bits), " bits a code, expected 8 or 4");
    if (h.rows >= kNoSlot || h.live > h.rows) fail(path, ": header: ", h.live, " live of ", h.rows, " rows");
    if (h.degree < 1 || h.degree > 1024) fail(path, ": header: degree ", h.degree, ", expected 1 to 1024");
    if (h.width < 1 || h.width > h.dim) fail(path, ": header: ", h.width, " coordinates of ", h.dim);
    if (h.stride != Quantizer::stride_for(h.width, h.bits)) fail(path, ": header: stride ", h.stride, " does not fit the coordinates");
    if (h.pivots > h.rows || h.pivots > kMaxPivots || (h.rows && !h.pivots)) fail(path, ": header: ", h.pivots, " pivots of ", h.rows, " rows");
    if (!(h.refine_scale > 0) || !std::isfinite(h.refine_scale)) fail(path, ": header: refinement scale ", h.refine_scale);
    if (!std::isfinite(h.alpha)) fail(path, ": header: a parameter is not finite");
    if (!(h.term_step >= 0) || !std::isfinite(h.term_step) || (h.metric == uint8_t(Metric::l2)) != (h.term_step > 0)) fail(path, ": header: term step ", h.term_step);
    uint64_t end = sizeof h;
    for (uint32_t s = 0; s < kSections; ++s) {
        const Section& section = h.sections[s];
        const auto what = [&] { return path + ": section " + name(SectionId(s)); };
        if (section.bytes != expected_bytes(h, SectionId(s)))
            fail(what(), " has ", section.bytes, " bytes, expected ", expected_bytes(h, SectionId(s)));
        if (!section.bytes) continue;
        if (section.offset % kHugePage || section.offset < end) fail(what(), " at ", section.offset, ": not on 2 MiB behind the one before");
        if (section.bytes > size || section.offset > size - section.bytes)
            fail(what(), " ends at byte ", section.offset + section.bytes, " but the file has ", size, ": it is truncated");
        end = section.offset + section.bytes;
    }
    if (end != size) fail(path, ": ", size - end, " bytes behind the last section");
    return h;
}

static void verify(const File& file, const IndexData& data) {
    const Header& h = data.header;
    const std::string& path = file.path();
    uint64_t end = sizeof(Header);
    std::vector<uint8_t> gap, zeros(kHugePage);
    for (uint32_t s = 0; s < kSections; ++s) {
        const Section& section = h.sections[s];
        if (!section.bytes) continue;
        for (; end < section.offset; end += gap.size()) {
            gap.resize(std::min<uint64_t>(kHugePage, section.offset - end));
            file.read(gap.data(), gap.size(), end);
            if (std::memcmp(gap.data(), zeros.data(), gap.size()) != 0) fail(path, ": bytes before section ", name(SectionId(s)), " are not zero");
        }
        uint32_t crc = 0;
        for (uint64_t at = 0; at < section.bytes; at += kBlock)
            crc = crc32c(data.section[s].data() + at, std::min<uint64_t>(kBlock, section.bytes - at), crc);
        if (crc != section.crc) fail(path, ": the checksum of section ", name(SectionId(s)), " is wrong: the file is damaged");
        end = section.offset + section.bytes;
    }
    const auto in_range = [&](SectionId s) {
        const std::span ids(data.section[s].as<const uint32_t>(), h.sections[s].bytes / 4);
        if (std::any_of(ids.begin(), ids.end(), [&](uint32_t id) { return id >= h.rows; }))
            fail(path, ": section ", name(s), " names a row beyond ", h.rows);
    };
    in_range(kPivots);
    in_range(kGraph);
    const auto* scales = data.section[kScales].as<const float>();
    if (!all_finite(scales, h.sections[kScales].bytes / 4)) fail(path, ": section scales has a value that is not finite");
}

void IndexData::attach() {
    const Header& h = header;
    const auto* scales = section[kScales].as<const float>();
    quantizer.dim = h.dim, quantizer.width = h.width, quantizer.bits = h.bits, quantizer.stride = h.stride, quantizer.term_step = h.term_step;
    quantizer.mean.assign(scales, scales + h.dim);
    quantizer.scale.assign(scales + h.dim, scales + h.dim + h.width);
    if (h.width < h.dim) quantizer.set_basis(section[kBasis].data(), scales + h.dim + h.width, h.width);
    else quantizer.basis = nullptr, quantizer.mean_coordinates = quantizer.mean;
    const auto* slots = section[kPivots].as<const uint32_t>();
    pivot_codes = Region::anonymous(size_t(h.stride) * std::max<uint32_t>(h.pivots, kMaxPivots));
    for (uint32_t p = 0; p < h.pivots; ++p)
        std::memcpy(pivot_codes.data() + size_t(p) * h.stride, section[kCodes].data() + size_t(slots[p]) * h.stride, h.stride);
    rows = h.rows, live = h.live, hidden = h.rows - h.live;
    view.codes = section[kCodes].data(), view.stride = h.stride, view.bits = h.bits;
    view.graph = section[kGraph].as<uint32_t>(), view.degree = h.degree;
    view.pivots = slots, view.pivot_codes = pivot_codes.data();
    view.pivot_count = h.pivots;
}

std::unique_ptr<IndexData> load(const std::string& path, const OpenOptions& options, uint64_t reserve_rows) {
    const File file(path, O_RDONLY);
    auto data = std::make_unique<IndexData>();
    data->header = read_header(file);
    data->path = path;
    Header& h = data->header;
    for (uint32_t s = 0; s < kSections; ++s) {
        const Section& section = h.sections[s];
        if (!section.bytes) continue;
        const size_t reserve = s == kPivots ? 4 * kMaxPivots : s == kDead ? reserve_rows / 8 + 8 : reserve_rows * shape_of(h).row_bytes(SectionId(s));
        const bool map = options.mode == Mode::mmap || (options.mode == Mode::split && s == kRefine);
        if (map) {
            data->section[s] = Region::file(file.fd(), path, section.offset, section.bytes, reserve);
            if (s == kRefine) madvise(data->section[s].data(), section.bytes, MADV_RANDOM);
            continue;
        }
        data->section[s] = Region::anonymous(section.bytes, reserve, options.numa_node);
        file.read(data->section[s].data(), section.bytes, section.offset);
    }
    if (options.verify) verify(file, *data);
    if (h.sections[kTags].bytes) data->tags = Tags::parse(path, data->section[kTags].data(), h.sections[kTags].bytes, h.rows, reserve_rows);
    data->attach();
    return data;
}

// --- writing ---

void write_index(const IndexData& data, Header h, const std::string& path) {
    std::memcpy(h.magic, kMagic, sizeof kMagic);
    h.format = kFormat;
    AtomicFile out(path);
    Region tags;
    uint64_t end = sizeof h;
    for (uint32_t s = 0; s < kSections; ++s) {
        Section& section = h.sections[s];
        const Region* region = &data.section[s];
        if (s == kTags && data.tags) tags = data.tags->serialize(h.rows), region = &tags;
        section = {};
        if (!*region) continue;
        h.sections[s].bytes = s == kTags ? tags.size() : 1;  // present
        section.bytes = expected_bytes(h, SectionId(s));
        if (!section.bytes) continue;
        section.offset = round_up(end, kHugePage);
        for (uint64_t at = 0; at < section.bytes; at += kBlock) {
            check_interrupted();
            const size_t block = std::min<uint64_t>(kBlock, section.bytes - at);
            section.crc = crc32c(region->data() + at, block, section.crc);
            out.file().write(region->data() + at, block, section.offset + at);
        }
        end = section.offset + section.bytes;
    }
    h.crc = header_crc(h);
    out.file().write(&h, sizeof h, 0);
    out.commit();
}

}  // namespace vnni
