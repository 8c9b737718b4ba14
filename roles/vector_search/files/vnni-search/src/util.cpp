// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
#include "util.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <exception>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace vnni {

void fail_errno(const std::string& what) { fail(what, ": ", std::strerror(errno)); }

// --- CRC32C (Castagnoli, reflected) ---

static uint32_t crc32c_table(const uint8_t* p, size_t bytes, uint32_t crc) {
    static const auto table = [] {
        std::array<uint32_t, 256> t{};
        for (uint32_t i = 0; i < 256; ++i) {
            t[i] = i;
            for (int bit = 0; bit < 8; ++bit) t[i] = t[i] >> 1 ^ (t[i] & 1 ? 0x82f63b78u : 0);
        }
        return t;
    }();
    while (bytes--) crc = crc >> 8 ^ table[(crc ^ *p++) & 255];
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_hardware(const uint8_t* p, size_t bytes, uint32_t crc) {
    uint64_t wide = crc;
    for (; bytes >= 8; p += 8, bytes -= 8) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = uint32_t(wide);
    while (bytes--) crc = _mm_crc32_u8(crc, *p++);
    return crc;
}
#endif

uint32_t crc32c(const void* data, size_t bytes, uint32_t crc) {
    const auto* p = static_cast<const uint8_t*>(data);
#if defined(__x86_64__)
    static const bool hardware = __builtin_cpu_supports("sse4.2");
    if (hardware) return ~crc32c_hardware(p, bytes, ~crc);
#endif
    return ~crc32c_table(p, bytes, ~crc);
}

// --- half floats ---

float from_half(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
    if (exponent == 0) return std::copysign(float(mantissa) * 0x1p-24f, std::bit_cast<float>(sign | 0x3f800000));
    return std::bit_cast<float>(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13);
}

uint16_t to_half(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffff;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (magnitude >= 0x477ff000) return uint16_t(sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00));
    if (magnitude < 0x38800000)  // subnormal: the addition rounds the mantissa at the right place
        return uint16_t(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000));
    return uint16_t(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

// --- memory ---

static uint8_t* reserve_aligned(size_t bytes, int protection = PROT_READ | PROT_WRITE) {
    const size_t span = bytes + kHugePage;
    void* raw = mmap(nullptr, span, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) fail_errno("cannot reserve " + human_bytes(double(bytes)) + " of memory");
    auto* start = static_cast<uint8_t*>(raw);
    auto* aligned = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<uintptr_t>(start), kHugePage));
    if (aligned > start) munmap(start, size_t(aligned - start));
    if (const size_t tail = size_t(start + span - (aligned + bytes))) munmap(aligned + bytes, tail);
    return aligned;
}

Region Region::anonymous(size_t bytes, size_t reserve, int numa_node) {
    Region region;
    region.size_ = bytes;
    region.reserved_ = round_up(std::max<size_t>({bytes, reserve, 1}), kHugePage);
    region.data_ = reserve_aligned(region.reserved_);
    madvise(region.data_, region.reserved_, MADV_HUGEPAGE);  // advice: a kernel without THP serves small pages
    if (numa_node >= 0) {
        std::vector<unsigned long> mask(size_t(numa_node) / 64 + 1);
        mask[size_t(numa_node) / 64] = 1ul << numa_node % 64;
        constexpr int bind = 2;  // MPOL_BIND
        if (syscall(SYS_mbind, region.data_, region.reserved_, bind, mask.data(), mask.size() * 64 + 1, 0) != 0)
            fail_errno("cannot place memory on NUMA node " + std::to_string(numa_node));
    }
    return region;
}

Region Region::file(int fd, const std::string& path, uint64_t offset, size_t bytes, size_t reserve) {
    Region region;
    region.size_ = bytes;
    region.reserved_ = round_up(std::max<size_t>({bytes, reserve, 1}), kHugePage);
    region.data_ = reserve_aligned(region.reserved_);
    if (bytes && mmap(region.data_, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, off_t(offset)) == MAP_FAILED)
        fail_errno(path + ": cannot map " + human_bytes(double(bytes)));
    region.mapped_ = round_up(bytes, size_t(sysconf(_SC_PAGESIZE)));
    return region;
}

void Region::grow(size_t reserve) {
    reserve = round_up(reserve, kHugePage);
    if (reserve <= reserved_) return;
    uint8_t* const to = reserve_aligned(reserve, PROT_NONE);
    const auto move = [&](size_t begin, size_t end, size_t new_end) {
        return mremap(data_ + begin, end - begin, new_end - begin, MREMAP_MAYMOVE | MREMAP_FIXED, to + begin) != MAP_FAILED;
    };
    // The part that becomes larger goes first: it alone can lack memory.
    const bool tail = mapped_ < reserved_
                          ? move(mapped_, reserved_, reserve)
                          : mmap(to + mapped_, reserve - mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
    if (!tail) {
        const int error = errno;
        munmap(to, reserve);
        errno = error;
        fail_errno("cannot grow to " + human_bytes(double(reserve)) + " of memory");
    }
    if (mapped_ && !move(0, mapped_, mapped_)) std::abort();  // half moved: nothing that follows could be right
    data_ = to, reserved_ = reserve;
}

Region::~Region() {
    if (data_) munmap(data_, reserved_);
}

void Region::swap(Region& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(reserved_, other.reserved_);
    std::swap(mapped_, other.mapped_);
}

// --- files ---

File::File(const std::string& path, int flags, int mode) : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)), path_(path) {
    if (fd_ < 0) fail_errno(path);
}

File::~File() {
    if (fd_ >= 0) ::close(fd_);
}

uint64_t File::size() const {
    struct stat info;
    if (fstat(fd_, &info) != 0) fail_errno(path_);
    if (!S_ISREG(info.st_mode)) fail(path_, ": not a regular file");
    return uint64_t(info.st_size);
}

void File::read(void* to, size_t bytes, uint64_t offset) const {
    auto* p = static_cast<uint8_t*>(to);
    while (bytes) {
        const ssize_t got = pread(fd_, p, std::min<size_t>(bytes, 1 << 30), off_t(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail_errno(path_ + ": cannot read");
        if (got == 0) fail(path_, ": ends at byte ", offset, ", ", bytes, " bytes too early");
        p += got, offset += size_t(got), bytes -= size_t(got);
    }
}

void File::write(const void* from, size_t bytes, uint64_t offset) {
    const auto* p = static_cast<const uint8_t*>(from);
    while (bytes) {
        const ssize_t put = pwrite(fd_, p, std::min<size_t>(bytes, 1 << 30), off_t(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) fail_errno(path_ + ": cannot write");
        p += put, offset += size_t(put), bytes -= size_t(put);
    }
}

void File::sync() {
    if (fdatasync(fd_) != 0) fail_errno(path_ + ": cannot sync");
}

void sync_directory_of(const std::string& path) {
    const auto parent = std::filesystem::path(path).parent_path();
    const File directory(parent.empty() ? "." : parent.string(), O_RDONLY | O_DIRECTORY);
    if (fsync(directory.fd()) != 0) fail_errno(directory.path() + ": cannot sync");
}

AtomicFile::AtomicFile(const std::string& path)
    : path_(path), temporary_(path + ".tmp." + std::to_string(getpid())), file_(temporary_, O_RDWR | O_CREAT | O_TRUNC) {}

AtomicFile::~AtomicFile() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::commit() {
    if (fsync(file_.fd()) != 0) fail_errno(temporary_ + ": cannot sync");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_errno(path_ + ": cannot replace");
    temporary_.clear();
    sync_directory_of(path_);
}

// --- threads and clocks ---

void parallel(size_t n, unsigned threads, size_t chunk, const std::function<void(size_t, size_t, unsigned)>& body) {
    std::atomic<size_t> next{0};
    std::exception_ptr error;
    std::mutex mutex;
    const auto work = [&](unsigned thread) {
        try {
            for (size_t begin; (begin = next.fetch_add(chunk)) < n;) body(begin, std::min(n, begin + chunk), thread);
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!error) error = std::current_exception();
            next = n;
        }
    };
    if (threads <= 1 || n <= chunk) {
        work(0);
    } else {
        std::vector<std::jthread> crew;
        for (unsigned t = 1; t < threads; ++t) crew.emplace_back(work, t);
        work(0);
    }
    if (error) std::rethrow_exception(error);
}

static double seconds(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}
double wall_seconds() { return seconds(CLOCK_MONOTONIC); }
double cpu_seconds() { return seconds(CLOCK_PROCESS_CPUTIME_ID); }
double thread_cpu_seconds() { return seconds(CLOCK_THREAD_CPUTIME_ID); }

uint64_t resident_bytes() {
    unsigned long total = 0, resident = 0;
    if (FILE* f = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(f, "%lu %lu", &total, &resident) != 2) resident = 0;
        std::fclose(f);
    }
    return resident * uint64_t(sysconf(_SC_PAGESIZE));
}

std::string human_bytes(double bytes) {
    const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    int unit = 0;
    while (bytes >= 1024 && unit < 5) bytes /= 1024, ++unit;
    char text[32];
    std::snprintf(text, sizeof text, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

std::string human_seconds(double s) {
    char text[64];
    if (s >= 5400) std::snprintf(text, sizeof text, "%d h %d min", int(s) / 3600, int(s) / 60 % 60);
    else if (s >= 90) std::snprintf(text, sizeof text, "%d min %d s", int(s) / 60, int(s) % 60);
    else std::snprintf(text, sizeof text, "%.1f s", s);
    return text;
}

static volatile std::sig_atomic_t interrupted = 0;

void catch_interrupts() {
    struct sigaction action {};
    action.sa_handler = [](int signal) { interrupted = signal; };
    action.sa_flags = int(SA_RESETHAND);  // a second signal kills
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
}

void check_interrupted() {
    if (interrupted) fail("interrupted by ", interrupted == SIGINT ? "SIGINT" : "SIGTERM", "; nothing was written");
}

}  // namespace vnni
