// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later

#include "serve_http.hpp"

#include <netinet/in.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <utility>  // which Boost 1.74 forgets

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <vector>

namespace vnni::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace bhttp = boost::beast::http;
using boost::system::error_code;
using Protocol = asio::generic::stream_protocol;  // TCP and unix sockets alike
using Stream = beast::basic_stream<Protocol>;
using Acceptor = asio::basic_socket_acceptor<Protocol>;
using std::chrono::milliseconds;

constexpr size_t kReadBytes = 64 << 10;
constexpr milliseconds kLinger{2'000};  // for a refused client to read why, before its socket is closed
constexpr milliseconds kGrace{500};     // while draining, for the first request on a new connection
constexpr milliseconds kWatch{100};     // between looks at clients that wait for an answer
constexpr int kHalfClosedLooks = 3;     // a client that has closed its sending side is gone after so many
constexpr int64_t kStaleMs = 1'000;     // from when on a connection without a request gives way to a new one

auto into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }

/// The status that a failure to read a request deserves; 0 when nobody is there to be told.
unsigned status_of(error_code ec) {
    if (ec == bhttp::error::body_limit) return 413;
    if (ec == bhttp::error::header_limit || ec == bhttp::error::buffer_overflow) return 431;
    if (ec == bhttp::error::end_of_stream) return 0;
    return ec.category() == make_error_code(bhttp::error::bad_method).category() ? 400 : 0;
}

int64_t now_ms() { return std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Whose share counts, as Request::peer says.
std::string peer_of(const Protocol::socket& socket) {
    error_code ec;
    const Protocol::endpoint endpoint = socket.remote_endpoint(ec);
    if (ec) return {};
    const void* const address = endpoint.data();
    if (endpoint.data()->sa_family == AF_INET) return {reinterpret_cast<const char*>(&static_cast<const sockaddr_in*>(address)->sin_addr), 4};
    if (endpoint.data()->sa_family != AF_INET6) return {};
    const in6_addr& ip = static_cast<const sockaddr_in6*>(address)->sin6_addr;
    const char* const bytes = reinterpret_cast<const char*>(&ip);
    return IN6_IS_ADDR_V4MAPPED(&ip) ? std::string(bytes + 12, 4) : std::string(bytes, 8);
}

std::string http_date() {
    char text[32];
    const time_t now = time(nullptr);
    tm utc{};
    return std::string(text, strftime(text, sizeof text, "%a, %d %b %Y %T GMT", gmtime_r(&now, &utc)));
}

struct Endpoint {
    Protocol::endpoint address;
    std::string unix_path;  // empty for TCP
};

Endpoint parse_address(const std::string& text) {
    const auto wrong = [&](const char* why) {
        return std::runtime_error("address \"" + text + "\": " + why + "; expected 127.0.0.1:8000, [::1]:8000 or unix:/path");
    };
    if (text.starts_with("unix:")) {
        const std::string path = text.substr(5);
        if (path.empty() || path[0] != '/' || path.size() >= sizeof(sockaddr_un::sun_path))
            throw wrong("not an absolute path of at most 107 characters");
        return {asio::local::stream_protocol::endpoint(path), path};
    }
    const auto colon = text.rfind(':');
    if (colon == text.npos) throw wrong("no port");
    std::string host = text.substr(0, colon);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    error_code ec;
    const auto ip = asio::ip::make_address(host, ec);
    if (ec) throw wrong("not an IP address");
    const std::string port = text.substr(colon + 1);
    if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != port.npos || std::stoul(port) > 65535) throw wrong("not a port");
    return {asio::ip::tcp::endpoint(ip, static_cast<uint16_t>(std::stoul(port))), ""};
}

/// Removes a socket that a process which is gone left behind; one that still answers is left alone.
void remove_stale_socket(const Endpoint& endpoint) {
    struct stat st{};
    if (lstat(endpoint.unix_path.c_str(), &st) != 0 || !S_ISSOCK(st.st_mode)) return;
    asio::io_context io;
    Protocol::socket probe(io);
    error_code ec;
    probe.connect(endpoint.address, ec);
    if (ec == asio::error::connection_refused) unlink(endpoint.unix_path.c_str());
}

}  // namespace

struct Server::Impl {
    struct Listener {
        Listener(asio::io_context& io, Handler handler) : acceptor(asio::make_strand(io)), handler(std::move(handler)) {}
        Acceptor acceptor;
        Handler handler;
        std::string unix_path;
        std::atomic<size_t> connections{0};
    };
    struct Session {
        Session(Protocol::socket socket, Listener& listener)
            : fd(socket.native_handle()), peer(peer_of(socket)), stream(std::move(socket)), listener(listener) {}
        const int fd;
        const std::string peer;
        Stream stream;
        Listener& listener;
        bool idle = false;  // waits for the first byte of a request; these two are touched on the stream's strand only
        bool fresh = true;  // has not had a request yet
        std::atomic<int64_t> waits_since{0};  // for a request's header, in ms of the steady clock; 0: has one
        std::atomic<bool> answering{false};   // the request is with the handler
        std::atomic<bool> gone{false};        // as Request::gone
        bool gives_way = false;               // to a newer connection; these two are guarded by Impl::mutex
        int half_closed_looks = 0;
    };

    Impl(Limits limits, unsigned threads, ErrorBody error_body)
        : limits(limits), thread_count(threads), error_body(std::move(error_body)), io(static_cast<int>(threads)) {}

    const Limits limits;
    const unsigned thread_count;
    const ErrorBody error_body;
    Counters counters;
    Budget bodies{limits.pending_bytes, limits.peer_percent};  // before `io`, which ends what holds of it
    asio::io_context io;
    asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
    std::vector<std::unique_ptr<Listener>> listeners;
    std::vector<std::thread> threads;
    std::atomic<bool> closing{false}, draining{false};
    std::atomic<bool> pong{true};
    std::mutex mutex;
    std::condition_variable all_closed;
    std::unordered_set<std::shared_ptr<Session>> sessions;
    size_t open_listeners = 0;

    asio::awaitable<void> accept(Listener& listener) {
        asio::steady_timer pause(listener.acceptor.get_executor());
        while (listener.acceptor.is_open()) {
            error_code ec;
            Protocol::socket socket = co_await listener.acceptor.async_accept(asio::make_strand(io), into(ec));
            if (!ec) {
                start(std::move(socket), listener);
            } else if (ec != asio::error::operation_aborted) {  // no file descriptors left, or a client that went away: go on, but do not spin
                pause.expires_after(milliseconds(50));
                co_await pause.async_wait(into(ec));
            }
        }
        std::lock_guard lock(mutex);
        --open_listeners;
        all_closed.notify_all();
    }

    /// Closes a listener; connections that the kernel has already made for it are served.
    void close(Listener& listener) {
        error_code ec;
        listener.acceptor.cancel(ec);
        listener.acceptor.non_blocking(true, ec);
        while (!ec) {
            Protocol::socket socket = listener.acceptor.accept(asio::make_strand(io), ec);
            if (!ec) start(std::move(socket), listener);
        }
        listener.acceptor.close(ec);
    }

    /// Closes the connections that wait for a request and have (`fresh`: never) had one.
    void close_idle(bool fresh) {
        std::lock_guard lock(mutex);
        for (const auto& session : sessions)
            asio::post(session->stream.get_executor(), [session, fresh] {
                if (session->idle && session->fresh == fresh) session->stream.cancel();
            });
    }

    void start(Protocol::socket socket, Listener& listener) {
        ++counters.accepted;
        if (listener.connections >= limits.connections && !make_room(listener)) return refuse(socket);
        error_code ec;
        if (listener.unix_path.empty()) socket.set_option(asio::ip::tcp::no_delay(true), ec);
        auto session = std::make_shared<Session>(std::move(socket), listener);
        ++listener.connections, ++counters.connections;
        {
            std::lock_guard lock(mutex);
            sessions.insert(session);
        }
        asio::co_spawn(session->stream.get_executor(), converse(session), [this, session](std::exception_ptr) {
            --session->listener.connections, --counters.connections;
            std::lock_guard lock(mutex);
            sessions.erase(session);
            all_closed.notify_all();
        });
    }

    /// Closes the connection that has waited longest without a request, if one has for a while: silence must not lock others out.
    bool make_room(const Listener& listener) {
        std::lock_guard lock(mutex);
        std::shared_ptr<Session> longest;
        int64_t since = now_ms() - kStaleMs;
        for (const auto& session : sessions)
            if (const int64_t waits = session->waits_since; &session->listener == &listener && waits && waits <= since && !session->gives_way)
                longest = session, since = waits;
        if (!longest) return false;
        longest->gives_way = true;
        ++counters.closed_for_others;
        asio::post(longest->stream.get_executor(), [longest] {
            longest->waits_since ? longest->stream.cancel() : void();  // a request that has just come is answered first
        });
        return true;
    }

    /// Notices that a client which waits for an answer is gone. One that has closed its sending side may only have
    /// finished asking, so it keeps a moment in which most answers are ready.
    asio::awaitable<void> watch() {
        asio::steady_timer timer(io);
        std::vector<pollfd> polled;
        std::vector<Session*> waiting;
        for (error_code ec;;) {
            timer.expires_after(kWatch);
            co_await timer.async_wait(into(ec));
            std::lock_guard lock(mutex);
            polled.clear(), waiting.clear();
            for (const auto& session : sessions)
                if (session->answering && !session->gone) waiting.push_back(session.get()), polled.push_back({session->fd, POLLRDHUP, 0});
            if (polled.empty() || poll(polled.data(), polled.size(), 0) <= 0) continue;
            for (size_t i = 0; i < polled.size(); ++i) {
                if (polled[i].revents & (POLLERR | POLLHUP)) waiting[i]->gone = true;
                else if (polled[i].revents & POLLRDHUP && ++waiting[i]->half_closed_looks >= kHalfClosedLooks) waiting[i]->gone = true;
            }
        }
    }

    void refuse(Protocol::socket& socket) {
        ++counters.refused_connections;
        const std::string body = error_body("too many connections");
        const std::string text =
            "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: " +
            std::to_string(body.size()) + "\r\n\r\n" + body;
        error_code ec;
        socket.non_blocking(true, ec);
        socket.write_some(asio::buffer(text), ec);
        ++counters.responses[503];
    }

    /// Everything one connection says, request by request.
    asio::awaitable<void> converse(std::shared_ptr<Session> session) {
        Stream& stream = session->stream;
        beast::flat_buffer buffer(std::max(kReadBytes, limits.header_bytes) * 2);
        buffer.reserve(kReadBytes);
        for (bool open = true; open;) {
            error_code ec;
            session->waits_since = now_ms();
            if (buffer.size() == 0) {
                if (draining && !session->fresh) co_return;
                session->idle = true;
                stream.expires_after(draining ? kGrace : limits.idle);
                const size_t got = co_await stream.async_read_some(buffer.prepare(kReadBytes), into(ec));
                session->idle = session->fresh = false;
                if (ec) co_return;
                buffer.commit(got);
            }
            open = co_await exchange(session, buffer);
        }
    }

    /// Reads one request and answers it. False when the connection ends with it.
    asio::awaitable<bool> exchange(std::shared_ptr<Session> shared, beast::flat_buffer& buffer) {
        Session& session = *shared;
        Stream& stream = session.stream;
        error_code ec;
        stream.expires_after(limits.request);
        bhttp::request_parser<bhttp::buffer_body> parser;
        parser.header_limit(static_cast<uint32_t>(limits.header_bytes));
        parser.body_limit(limits.body_bytes);
        co_await bhttp::async_read_header(stream, buffer, parser, into(ec));
        if (ec) co_return co_await refuse(session, ec);
        session.waits_since = 0;

        const auto& header = parser.get();
        const bool keep_alive = header.keep_alive();
        Request request;
        const bool head = header.method() == bhttp::verb::head;  // answered like GET, without the body
        request.method = head ? "GET" : std::string(header.method_string());
        request.path = std::string(header.target().substr(0, header.target().find('?')));
        request.authorization = std::string(header[bhttp::field::authorization]);
        request.content_encoding = std::string(header[bhttp::field::content_encoding]);
        if (const auto it = header.find("Inference-Header-Content-Length"); it != header.end())
            request.inference_header_length = std::string(it->value());
        request.peer = session.peer;
        request.hold = std::make_shared<Hold>(bodies, session.peer);
        request.gone = std::shared_ptr<const std::atomic<bool>>(shared, &session.gone);
        // After an answer without a look at the body, what follows on the connection is no request.
        if (auto early = session.listener.handler.admit(request))
            co_return co_await write(session, std::move(*early), keep_alive && parser.is_done() && !closing, head);

        if (const auto expect = header[bhttp::field::expect]; !expect.empty() && header.version() >= 11) {
            std::string message = "Expect: " + std::string(expect) + " is not supported; 100-continue is";
            if (!beast::iequals(expect, "100-continue")) co_return co_await refuse(session, 417, std::move(message), 0);
            bhttp::response<bhttp::empty_body> proceed{bhttp::status::continue_, 11};
            co_await bhttp::async_write(stream, proceed, into(ec));
            if (ec) co_return false;
        }
        while (!parser.is_done()) {
            std::string& body = request.body;
            const size_t size = body.size();
            if (size == body.capacity() || size == 0) {  // room is made as bytes arrive, and never more than was announced
                const size_t room = std::min<size_t>(std::max(2 * size, Hold::kFree), parser.content_length().value_or(limits.body_bytes + 1));
                if (!request.hold->resize(room)) {
                    ++counters.refused_bodies;
                    std::string message = "too many requests are being received";
                    co_return co_await refuse(session, 503, std::move(message), 1);
                }
                std::string larger;  // reserve() would double what there is
                larger.reserve(room);
                body.swap(larger += body);
            }
            body.resize(std::min(body.capacity(), size + kReadBytes));
            auto& rest = parser.get().body();
            rest.data = body.data() + size, rest.size = body.size() - size, rest.more = true;
            co_await bhttp::async_read_some(stream, buffer, parser, into(ec));
            body.resize(body.size() - rest.size);
            if (ec && ec != bhttp::error::need_buffer) co_return co_await refuse(session, ec);
        }

        stream.expires_never();
        session.answering = true;
        const auto submit = [&](auto handler) {  // resumes this coroutine on its strand, whichever thread replies
            auto resume = std::make_shared<decltype(handler)>(std::move(handler));
            session.listener.handler.answer(std::move(request), [resume, executor = stream.get_executor()](Response response) {
                asio::post(executor, [resume, response = std::move(response)]() mutable { std::move (*resume)(std::move(response)); });
            });
        };
        Response response = co_await asio::async_initiate<const asio::use_awaitable_t<>, void(Response)>(submit, asio::use_awaitable);
        session.answering = false;
        co_return co_await write(session, std::move(response), keep_alive && !closing && !session.gone, head);
    }

    asio::awaitable<bool> write(Session& session, Response response, bool keep_alive, bool head) {
        bhttp::response<bhttp::string_body> message{static_cast<bhttp::status>(response.status), 11};
        message.set(bhttp::field::date, http_date());
        message.set(bhttp::field::content_type, response.content_type);
        if (response.inference_header_length) message.set("Inference-Header-Content-Length", std::to_string(*response.inference_header_length));
        if (response.retry_after_s) message.set(bhttp::field::retry_after, std::to_string(response.retry_after_s));
        if (!response.allow.empty()) message.set(bhttp::field::allow, response.allow);
        if (response.status == 401) message.set(bhttp::field::www_authenticate, "Bearer");
        if (response.status == 415) message.set(bhttp::field::accept_encoding, "identity");
        message.body() = std::move(response.body);
        message.keep_alive(keep_alive);
        message.prepare_payload();
        if (head) message.body().clear();
        ++counters.responses[response.status];
        error_code ec;
        session.stream.expires_after(limits.request);
        co_await bhttp::async_write(session.stream, message, into(ec));
        if (ec) co_return false;
        message.body() = {};
        response.hold.reset();
        if (!keep_alive) co_await linger(session);
        co_return keep_alive;
    }

    asio::awaitable<bool> refuse(Session& session, error_code ec) {
        const unsigned status = status_of(ec);
        if (!status) co_return false;
        // Named, not a temporary in the co_await expression: GCC 12 would destroy that twice.
        std::string message = "HTTP: " + ec.message();
        if (status == 413) message = "the body is larger than " + std::to_string(limits.body_bytes) + " bytes";
        co_return co_await refuse(session, status, std::move(message), 0);
    }
    asio::awaitable<bool> refuse(Session& session, unsigned status, std::string message, unsigned retry_after_s) {
        Response response;
        response.status = status;
        response.body = error_body(message);
        response.retry_after_s = retry_after_s;
        co_return co_await write(session, std::move(response), false, false);
    }

    /// Closing a socket with unread data resets the connection and may take the answer with it: read on for a moment.
    asio::awaitable<void> linger(Session& session) {
        error_code ec;
        session.stream.socket().shutdown(Protocol::socket::shutdown_send, ec);
        session.stream.expires_after(kLinger);
        std::array<char, 4096> discarded;
        while (!ec) co_await session.stream.async_read_some(asio::buffer(discarded), into(ec));
    }
};

Server::Server(Limits limits, unsigned threads, ErrorBody error_body) : impl_(std::make_unique<Impl>(limits, threads, std::move(error_body))) {}

Server::~Server() {
    impl_->io.stop();
    for (auto& thread : impl_->threads) thread.join();
    for (auto& listener : impl_->listeners)
        if (!listener->unix_path.empty()) unlink(listener->unix_path.c_str());
}

std::string Server::listen(const std::string& address, Handler handler) {
    const Endpoint endpoint = parse_address(address);
    auto listener = std::make_unique<Impl::Listener>(impl_->io, std::move(handler));
    try {
        if (!endpoint.unix_path.empty()) remove_stale_socket(endpoint);
        listener->acceptor.open(endpoint.address.protocol());
        if (endpoint.unix_path.empty()) listener->acceptor.set_option(asio::socket_base::reuse_address(true));
        listener->acceptor.bind(endpoint.address);
        if (!endpoint.unix_path.empty() && chmod(endpoint.unix_path.c_str(), 0660) != 0)
            throw boost::system::system_error(errno, boost::system::system_category());
        listener->acceptor.listen();
    } catch (const boost::system::system_error& e) {
        throw std::runtime_error("cannot listen on " + address + ": " + e.code().message());
    }
    listener->unix_path = endpoint.unix_path;
    std::string bound = address;
    if (endpoint.unix_path.empty()) {
        asio::ip::tcp::endpoint tcp;
        const auto local = listener->acceptor.local_endpoint();
        tcp.resize(local.size());
        std::memcpy(tcp.data(), local.data(), local.size());
        bound = address.substr(0, address.rfind(':') + 1) + std::to_string(tcp.port());
    }
    impl_->listeners.push_back(std::move(listener));
    return bound;
}

void Server::start() {
    impl_->open_listeners = impl_->listeners.size();
    for (auto& listener : impl_->listeners) asio::co_spawn(listener->acceptor.get_executor(), impl_->accept(*listener), asio::detached);
    asio::co_spawn(impl_->io, impl_->watch(), asio::detached);
    for (unsigned i = 0; i < impl_->thread_count; ++i) impl_->threads.emplace_back([this] { impl_->io.run(); });
}

bool Server::alive() {
    const bool answered = impl_->pong.exchange(false);
    asio::post(impl_->io, [this] { impl_->pong = true; });
    return answered;
}

const Counters& Server::counters() const { return impl_->counters; }

size_t Server::body_bytes() const { return impl_->bodies.held(); }

void Server::refuse_keep_alive() { impl_->closing = true; }

void Server::drain() {
    impl_->closing = impl_->draining = true;
    for (auto& listener : impl_->listeners) asio::post(listener->acceptor.get_executor(), [this, &listener = *listener] { impl_->close(listener); });
    impl_->close_idle(false);
}

bool Server::wait_closed(milliseconds timeout) {
    const auto wait = [&](milliseconds time) {
        std::unique_lock lock(impl_->mutex);
        return impl_->all_closed.wait_for(lock, time, [this] { return impl_->sessions.empty() && impl_->open_listeners == 0; });
    };
    if (wait(std::min(timeout, kGrace))) return true;
    impl_->close_idle(true);
    return wait(timeout - std::min(timeout, kGrace));
}

}  // namespace vnni::http
