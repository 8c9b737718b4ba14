// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// Memory that requests under way may hold together, and no peer more of it than a share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

namespace vnni {

class Budget {
 public:
    /// `percent` of `bytes` is the most that one peer may hold.
    Budget(size_t bytes, unsigned percent) : bytes_(bytes), share_(percent >= 100 ? bytes : bytes / 100 * percent + bytes % 100 * percent / 100) {}

    /// The most that `peer` may hold.
    size_t most(const std::string& peer) const { return peer.empty() ? bytes_ : share_; }
    size_t held() const {
        std::lock_guard lock(mutex_);
        return held_;
    }

 private:
    friend class Hold;
    bool take(const std::string& peer, size_t bytes) {
        std::lock_guard lock(mutex_);
        size_t& of_peer = peers_[peer];
        const bool fits = bytes <= bytes_ - held_ && (peer.empty() || bytes <= share_ - std::min(share_, of_peer));
        if (fits) held_ += bytes, of_peer += bytes;
        if (of_peer == 0) peers_.erase(peer);
        return fits;
    }
    void give(const std::string& peer, size_t bytes) {
        std::lock_guard lock(mutex_);
        held_ -= bytes;
        if (const auto it = peers_.find(peer); (it->second -= bytes) == 0) peers_.erase(it);
    }

    const size_t bytes_, share_;
    mutable std::mutex mutex_;
    size_t held_ = 0;
    std::unordered_map<std::string, size_t> peers_;  // those that hold something
};

/// What one request holds of a budget, given back when this ends. The first kFree bytes are the connection's own and count
/// nowhere: whoever uses up the budget, small requests go on.
class Hold {
 public:
    static constexpr size_t kFree = 64 << 10;

    Hold() = default;
    /// An empty peer has no share of its own, and may hold all.
    Hold(Budget& budget, std::string peer) : budget_(&budget), peer_(std::move(peer)) {}
    Hold(Hold&& other) noexcept : budget_(other.budget_), peer_(std::move(other.peer_)), counted_(std::exchange(other.counted_, 0)) {}
    Hold& operator=(Hold&& other) noexcept {
        std::swap(budget_, other.budget_), std::swap(peer_, other.peer_), std::swap(counted_, other.counted_);
        return *this;
    }
    ~Hold() { resize(0); }

    /// Holds `bytes` from now on. False, and as before, when there is no room for them; there always is for fewer than now.
    bool resize(size_t bytes) {
        const size_t counted = bytes - std::min(bytes, kFree);
        if (counted > counted_ && !budget_->take(peer_, counted - counted_)) return false;
        if (counted < counted_) budget_->give(peer_, counted_ - counted);
        counted_ = counted;
        return true;
    }

 private:
    Budget* budget_ = nullptr;
    std::string peer_;
    size_t counted_ = 0;
};

}  // namespace vnni
