// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the engine needs of the machine: memory, files, checksums, half floats, threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>

#include "index.hpp"

namespace vnni {

// fail("items.vnni", ": 3 bytes missing") throws Error with the parts in a row.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw Error(text.str());
}
[[noreturn]] void fail_errno(const std::string& what);  // what: strerror(errno)

constexpr size_t kHugePage = 2 << 20;
constexpr size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

uint32_t crc32c(const void* data, size_t bytes, uint32_t crc = 0);

float from_half(uint16_t);
uint16_t to_half(float);  // to nearest even; beyond 65504 infinity

// splitmix64: small, and the same numbers on every platform.
struct Random {
    uint64_t state;
    uint64_t operator()() {
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }
    uint64_t below(uint64_t n) { return uint64_t((unsigned __int128)(*this)() * n >> 64); }
};

// Memory that starts on a 2 MiB boundary: anonymous and zero, in transparent huge pages, or a private mapping of a file.
class Region {
 public:
    Region() = default;
    // `reserve` bytes of address space, of which the first `bytes` are used now; nothing is committed before it is touched.
    static Region anonymous(size_t bytes, size_t reserve = 0, int numa_node = -1);
    // The first `bytes` are the file's (copy-on-write), the rest of `reserve` is anonymous.
    static Region file(int fd, const std::string& path, uint64_t offset, size_t bytes, size_t reserve = 0);
    // Reserves at least so much; what is there moves with its pages, so nobody may use the old address meanwhile. Throws Error and changes
    // nothing when the system has no room.
    void grow(size_t reserve);
    Region(Region&& other) noexcept { swap(other); }
    Region& operator=(Region&& other) noexcept { swap(other); return *this; }
    ~Region();

    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    size_t reserved() const { return reserved_; }
    template <class T> T* as() const { return reinterpret_cast<T*>(data_); }
    explicit operator bool() const { return data_ != nullptr; }

 private:
    void swap(Region&) noexcept;
    uint8_t* data_ = nullptr;
    size_t size_ = 0, reserved_ = 0, mapped_ = 0;  // mapped_: the first bytes that are a file's, whole pages
};

// A file descriptor that closes itself.
class File {
 public:
    File() = default;
    File(const std::string& path, int flags, int mode = 0644);  // throws Error
    File(File&& other) noexcept : fd_(other.fd_), path_(std::move(other.path_)) { other.fd_ = -1; }
    File& operator=(File&& other) noexcept { std::swap(fd_, other.fd_); std::swap(path_, other.path_); return *this; }
    ~File();
    int fd() const { return fd_; }
    const std::string& path() const { return path_; }
    uint64_t size() const;
    void read(void* to, size_t bytes, uint64_t offset) const;     // all of it or Error
    void write(const void* from, size_t bytes, uint64_t offset);  // all of it or Error
    void sync();

 private:
    int fd_ = -1;
    std::string path_;
};

// Files that replace another are written whole under a temporary name; commit() syncs, renames and syncs the directory.
// Without a commit the temporary file is removed.
class AtomicFile {
 public:
    explicit AtomicFile(const std::string& path);
    ~AtomicFile();
    File& file() { return file_; }
    void commit();

 private:
    std::string path_, temporary_;
    File file_;
};
void sync_directory_of(const std::string& path);

// Runs body(begin, end, thread) over chunks of [0, n) on `threads` threads; the first exception is rethrown.
void parallel(size_t n, unsigned threads, size_t chunk, const std::function<void(size_t, size_t, unsigned)>& body);

double wall_seconds();
double cpu_seconds();         // of the process
double thread_cpu_seconds();
uint64_t resident_bytes();
std::string human_bytes(double bytes);  // "1.5 GiB"
std::string human_seconds(double seconds);  // "3 min 20 s"

// SIGINT and SIGTERM set a flag instead of killing; check_interrupted throws Error("interrupted").
void catch_interrupts();
void check_interrupted();

}  // namespace vnni
