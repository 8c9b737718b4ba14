// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// A small HTTP/1.1 server on Boost.Beast: TCP and unix sockets, keep-alive, limits and deadlines on everything a client
// controls, and a drain that answers what it has accepted. A slow client costs its connection and nothing more. It knows
// nothing of what it serves.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "serve_budget.hpp"

namespace vnni::http {

struct Request {
    std::string method, path;  // the path without its query string
    std::string authorization, content_encoding;
    std::optional<std::string> inference_header_length;  // Inference-Header-Content-Length
    std::string peer;  // whose share of a budget counts: the address (of IPv6 its /64); empty on a unix socket
    std::string body;
    std::shared_ptr<Hold> hold;                     // what the body holds of the budget for bodies
    std::shared_ptr<const std::atomic<bool>> gone;  // set when nobody waits for the answer any more
};

struct Response {
    unsigned status = 200;
    std::string body;
    std::string content_type = "application/json";
    std::optional<size_t> inference_header_length = std::nullopt;
    std::string allow = {};      // for 405
    unsigned retry_after_s = 0;  // 0: no such header
    std::shared_ptr<Hold> hold = {};  // let go of when the client has taken the answer
};

/// Answers a request; called exactly once, from any thread.
using Reply = std::function<void(Response)>;

struct Handler {
    /// What the header alone says: an answer, which makes the body unwanted, or nothing: the body is read, and `answer` called.
    std::function<std::optional<Response>(const Request&)> admit;
    std::function<void(Request, Reply)> answer;
};

struct Limits {
    size_t header_bytes = 8 << 10;
    size_t body_bytes = 16 << 20;
    size_t pending_bytes = 256 << 20;  // bodies held at a time, over all connections, but for each one's first Hold::kFree bytes
    unsigned peer_percent = 50;        // of pending_bytes, the most that one peer may hold
    size_t connections = 1024;
    std::chrono::milliseconds idle{60'000};     // between requests
    std::chrono::milliseconds request{10'000};  // to send a request whole, and to take an answer
};

struct Counters {
    std::atomic<uint64_t> connections{0}, accepted{0}, refused_connections{0}, closed_for_others{0}, refused_bodies{0};
    std::array<std::atomic<uint64_t>, 600> responses{};  // by status
};

/// The text of a response that the HTTP layer gives by itself, from its message.
using ErrorBody = std::function<std::string(const std::string& message)>;

class Server {
 public:
    Server(Limits limits, unsigned threads, ErrorBody error_body);
    ~Server();

    /// Listens on "host:port", "[v6]:port" (addresses, not names) or "unix:/path". Returns the address with the port that
    /// was given for port 0. Throws std::runtime_error naming the address. Every listener has its own connection limit.
    std::string listen(const std::string& address, Handler handler);
    void start();

    /// True when the event loop has run since the last call, or this is the first one.
    bool alive();
    const Counters& counters() const;
    size_t body_bytes() const;  // held of the budget for bodies

    /// From now on answers carry "Connection: close".
    void refuse_keep_alive();
    /// Stops accepting and closes idle connections; those under way, and those that the kernel had made, get their answer.
    void drain();
    /// After drain(): false when `timeout` passed before the last connection was closed.
    bool wait_closed(std::chrono::milliseconds timeout);

 private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace vnni::http
