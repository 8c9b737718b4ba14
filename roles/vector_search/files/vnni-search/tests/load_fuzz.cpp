// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// The loader must refuse or open whatever it is given. The input becomes a header and small sections; the checksums are made right,
// so that everything behind them is reached.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "format.hpp"

using namespace vnni;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size < 16) return 0;
    static const std::string path = "/dev/shm/vnni-load-fuzz." + std::to_string(getpid());
    std::vector<uint8_t> file(sizeof(Header));
    Header h{};
    std::memcpy(h.magic, "VNNISRCH", 8);
    h.format = 1, h.refine_scale = 1, h.alpha = 1.2f;
    h.dim = 1 + bytes[0] % 40, h.rows = bytes[1] % 20, h.live = h.rows, h.bits = bytes[2] % 2 ? 8 : 4, h.metric = bytes[2] / 2 % 3;
    h.degree = 1 + bytes[3] % 8, h.pivots = uint32_t(std::min<uint64_t>(h.rows, 1 + bytes[4] % 4)), h.stride = Quantizer::stride_for(h.dim, h.bits);
    const uint64_t lengths[] = {8ull * h.dim, 4ull * h.pivots, h.rows * h.stride, 4 * h.rows * h.degree, h.metric ? 0 : 4 * h.rows, 2 * h.rows * h.dim,
                                bytes[5] % 2 ? 8 * h.rows : 0, bytes[5] / 2 % 2 ? (h.rows + 63) / 64 * 8 : 0, bytes[5] / 4 % 2 ? size - 16 : 0};
    const uint8_t* rest = bytes + 16;
    size_t left = size - 16;
    for (uint32_t s = 0; s < kSections; ++s) {
        Section& section = h.sections[s];
        if (!(section.bytes = lengths[s])) continue;
        section.offset = round_up(file.size(), kHugePage);
        file.resize(section.offset + section.bytes);
        const size_t n = std::min<size_t>(left, section.bytes);
        std::memcpy(&file[section.offset], rest, n);
        if (s == kTags) std::memcpy(&file[section.offset], bytes + 16, section.bytes);
        if (s == kGraph || s == kPivots)  // mostly rows that are there
            for (uint64_t i = 0; i < section.bytes && bytes[6] % 8; i += 4) file[section.offset + i] %= uint8_t(h.rows), file[section.offset + i + 1] = file[section.offset + i + 2] = file[section.offset + i + 3] = 0;
        rest += n, left -= n;
        section.crc = crc32c(&file[section.offset], section.bytes);
    }
    if (bytes[7] % 4 == 0) reinterpret_cast<uint8_t*>(&h)[72 + bytes[8] % 300] ^= bytes[9];
    h.crc = 0;
    h.crc = crc32c(&h, sizeof h);
    std::memcpy(file.data(), &h, sizeof h);
    {
        File out(path, O_RDWR | O_CREAT | O_TRUNC);
        out.write(file.data(), file.size(), 0);
    }
    try {
        OpenOptions open;
        open.mode = Mode(bytes[10] % 3);
        const auto index = Index::open(path, open);
        Searcher searcher(index);
        const std::vector<float> query(index->dim(), 1);
        uint64_t ids[5];
        float distances[5];
        SearchOptions options;
        options.k = 5;
        searcher.search(query.data(), options, ids, distances);
        const TagFilter filter{{"a"}, {}, {}};
        options.filter = &filter;
        searcher.search(query.data(), options, ids, distances);
    } catch (const Error&) {
    }
    return 0;
}
