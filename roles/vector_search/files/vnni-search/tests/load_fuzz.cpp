// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// libFuzzer target: the loader must refuse or open whatever it is given, and a search of what it opened must stay inside of it. The input becomes
// a header and small sections; the checksums are made right, so that everything behind them is reached. Thousands of files a second: they live in
// memory, and this copy of the format has its sections every 4 KiB instead of every 2 MiB.
#include <fcntl.h>
#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>

#include "util.hpp"

constexpr size_t kFuzzPage = 4096;
#define kHugePage kFuzzPage
#include "../src/format.cpp"  // instead of the library's, whose symbols it has
#undef kHugePage

using namespace vnni;

namespace {

// Behind the last byte of a section the memory is mapped, too, for rows to come: here nobody may look there.
struct Fence {
    explicit Fence(const IndexData& data) : data(data) {
        each([](uint8_t* p, size_t n) { ASAN_POISON_MEMORY_REGION(p, n); });
    }
    ~Fence() {
        each([](uint8_t* p, size_t n) { ASAN_UNPOISON_MEMORY_REGION(p, n); });
    }
    void each(void (*mark)(uint8_t*, size_t)) const {
        for (const Region& region : data.section)
            if (const size_t free = std::min(region.reserved() - region.size(), kFuzzPage)) mark(region.data() + region.size(), free);
    }
    const IndexData& data;
};

std::vector<uint8_t> file_of(const uint8_t* bytes, size_t size) {
    std::vector<uint8_t> file(sizeof(Header));
    Header h{};
    std::memcpy(h.magic, kMagic, sizeof kMagic);
    h.format = kFormat, h.refine_scale = 1, h.alpha = 1.2f;
    h.dim = 1 + bytes[0] % 40, h.rows = bytes[1] % 20, h.live = h.rows, h.bits = bytes[2] % 2 ? 8 : 4, h.metric = bytes[2] / 2 % 3;
    h.degree = 1 + bytes[3] % 8, h.pivots = uint32_t(std::min<uint64_t>(h.rows, 1 + bytes[4] % 4)), h.width = bytes[11] % 2 ? h.dim : 1 + bytes[12] % h.dim, h.stride = Quantizer::stride_for(h.width, h.bits);
    h.term_step = h.metric ? 0.0f : 1.0f;
    h.sections[kIds].bytes = bytes[5] % 2, h.sections[kDead].bytes = bytes[5] / 2 % 2;  // present
    h.sections[kTags].bytes = bytes[5] / 4 % 2 ? size - 16 : 0;
    const uint8_t *rest = bytes + 16, *const end = bytes + size;
    for (uint32_t s = 0; s < kSections; ++s) {
        Section& section = h.sections[s];
        if (!(section.bytes = expected_bytes(h, SectionId(s)))) continue;
        section.offset = round_up(file.size(), kFuzzPage);
        file.resize(section.offset + section.bytes);
        uint8_t* const at = &file[section.offset];
        if (s == kTags) rest = bytes + 16;  // a format of its own, which has the whole input
        const size_t n = std::min<size_t>(size_t(end - rest), section.bytes);
        std::memcpy(at, rest, n);
        rest += n;
        if ((s == kGraph || s == kPivots) && bytes[6] % 8)  // mostly rows that are there
            for (uint64_t i = 0; i < section.bytes; i += 4) at[i] %= uint8_t(h.rows), at[i + 1] = at[i + 2] = at[i + 3] = 0;
        section.crc = crc32c(at, section.bytes);
    }
    if (bytes[7] % 4 == 0) reinterpret_cast<uint8_t*>(&h)[72 + bytes[8] % 300] ^= bytes[9];
    h.crc = header_crc(h);
    if (bytes[7] % 16 == 1) h.crc ^= bytes[9];
    std::memcpy(file.data(), &h, sizeof h);
    if (bytes[7] % 16 == 2) file.resize(file.size() - std::min<size_t>(file.size(), bytes[9]));
    return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size < 16) return 0;
    static const int memory = [] {
        prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);  // 2 MiB of zeros for each small section would be all that is done
        return memfd_create("fuzz", 0);
    }();
    static const std::string path = "/proc/self/fd/" + std::to_string(memory);
    const auto file = file_of(bytes, size);
    if (ftruncate(memory, 0) != 0 || pwrite(memory, file.data(), file.size(), 0) != ssize_t(file.size())) std::abort();
    try {
        OpenOptions open;
        open.mode = Mode(bytes[10] % 3);
        const auto index = Index::open(path, open);
        const Fence fence(index->data());
        Searcher searcher(index);
        const std::vector<float> query(index->dim(), 1);
        uint64_t ids[5];
        float distances[5];
        SearchOptions options;
        options.k = 5;
        const uint32_t found = searcher.search(query.data(), options, ids, distances);
        if (found > index->header().rows) std::abort();
        const TagFilter filter{{"a"}, {}, {}};
        options.filter = &filter;
        if (searcher.search(query.data(), options, ids, distances) > found) std::abort();
    } catch (const Error&) {
    }
    return 0;
}
