// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// `vnni-search serve`: routes requests to the workers, swaps indexes, and tells systemd and Prometheus how it is doing.
// Threads: main waits for signals and ticks the watchdog; I/O threads speak HTTP; workers parse, search and encode; one thread
// opens and swaps indexes and writes to them, in the order in which it is asked to; one takes snapshots and consolidates meanwhile.

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "cli.hpp"
#include "live.hpp"
#include "serve_http.hpp"
#include "serve_options.hpp"
#include "serve_pool.hpp"
#include "serve_protocol.hpp"
#include "tags.hpp"

namespace vnni {
namespace {

using namespace serve;
using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// ---- the log: one JSON object a line on stderr

void log(const char* level, const std::string& message, json fields = json::object()) {
    char date[32], stamp[48];
    timespec now{};
    tm utc{};
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    std::strftime(date, sizeof date, "%FT%T", &utc);
    std::snprintf(stamp, sizeof stamp, "%s.%03ldZ", date, now.tv_nsec / 1'000'000);
    nlohmann::ordered_json line{{"time", stamp}, {"level", level}, {"message", message}};
    for (auto& [key, value] : fields.items()) line[key] = value;
    const std::string text = line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;  // nobody listens: nothing to be done
}

// ---- systemd: sd_notify(3) is one datagram

void notify_systemd(const std::string& state) {
    const char* path = std::getenv("NOTIFY_SOCKET");
    sockaddr_un to{};
    if (!path || (path[0] != '/' && path[0] != '@') || std::strlen(path) >= sizeof to.sun_path) return;
    to.sun_family = AF_UNIX;
    std::strcpy(to.sun_path, path);
    if (path[0] == '@') to.sun_path[0] = '\0';
    const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    sendto(fd, state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&to),
           static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path)));
    close(fd);
}

/// The interval in which systemd wants a sign of life; zero when it wants none.
microseconds watchdog_interval() {
    const char *interval = std::getenv("WATCHDOG_USEC"), *pid = std::getenv("WATCHDOG_PID");
    if (!interval || (pid && std::atol(pid) != getpid())) return microseconds(0);
    return microseconds(std::atoll(interval));
}

// ---- the service

constexpr double kBuckets[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5};  // s
constexpr size_t kBucketCount = std::size(kBuckets) + 1;
const std::string kDraining = "the server is draining";
const std::set<std::string> kChanges{"/admin/swap", "/admin/upsert", "/admin/delete", "/admin/snapshot", "/admin/consolidate"};

using Replicas = std::vector<std::shared_ptr<const Index>>;  // copies of one index, in the order of Service::nodes_

/// What belongs to one worker: its searcher, and counters that no other thread writes.
struct alignas(64) WorkerState {
    std::shared_ptr<const Index> index;
    std::optional<Searcher> searcher;
    std::atomic<uint64_t> queries{0}, distances{0}, hops{0}, refined{0}, microseconds{0};
    std::atomic<uint64_t> buckets[kBucketCount] = {};

    void use(const std::shared_ptr<const Index>& wanted) {
        if (index == wanted) return;
        searcher.reset();
        index = wanted;
        if (index) searcher.emplace(index);
    }
    void refresh(const std::shared_ptr<const Index>& wanted) noexcept {
        try {
            use(wanted);
        } catch (const std::exception&) {
            index.reset();  // no memory just now: the next job tries again, and says so
        }
    }
};

class Service {
 public:
    explicit Service(const Options& o)
        : options_(o),
          states_(o.cpus.size()),
          nodes_(o.replicas ? nodes_of(o.cpus) : std::vector<int>{o.open.numa_node}),
          replica_of_(replicas_of(o.cpus, nodes_)),
          results_(o.max_results, o.http.peer_percent),
          server_(o.http, static_cast<unsigned>(o.io_threads ? o.io_threads : (o.cpus.size() + 7) / 8), encode_error),
          pool_(o.cpus, o.queue, [this](size_t worker) {
              const auto current = replicas();
              states_[worker].refresh(current ? (*current)[replica_of_[worker]] : nullptr);
          }) {}

    int run();

 private:
    friend struct SearchJob;
    const Options options_;

    mutable std::mutex mutex_;
    std::shared_ptr<const Replicas> replicas_;                          // the index in service, if there is one
    std::shared_ptr<LiveIndex> live_;                                   // whose view it is, when it takes writes
    std::string path_ = options_.index, file_;                          // as it was named, and the file that the name stood for
    std::string not_ready_ = "the index is being opened and verified";  // why there is no index
    bool stopping_ = false;
    std::atomic<uint64_t> swaps_{0}, failed_swaps_{0}, rejected_{0}, refused_results_{0}, abandoned_{0}, upserted_{0}, erased_{0};
    std::atomic<bool> opening_{false};

    std::vector<WorkerState> states_;
    const std::vector<int> nodes_;          // where a copy of the index lies; -1: wherever
    const std::vector<size_t> replica_of_;  // which copy a worker searches: the one on its node
    Budget results_;  // before the server, whose answers hold of it
    http::Server server_;
    WorkerPool pool_;
    Errands changes_, upkeep_;

    static std::vector<int> nodes_of(const std::vector<int>& cpus) {
        std::set<int> nodes;
        for (const int cpu : cpus) nodes.insert(node_of(cpu));
        return {nodes.begin(), nodes.end()};
    }
    static std::vector<size_t> replicas_of(const std::vector<int>& cpus, const std::vector<int>& nodes) {
        std::vector<size_t> result;
        for (const int cpu : cpus) result.push_back(nodes.size() == 1 ? 0 : std::lower_bound(nodes.begin(), nodes.end(), node_of(cpu)) - nodes.begin());
        return result;
    }
    std::shared_ptr<const Replicas> replicas() const {
        std::lock_guard lock(mutex_);
        return replicas_;
    }
    /// Any of the copies, for what they have in common; nothing when there is none.
    std::shared_ptr<const Index> index() const {
        const auto current = replicas();
        return current ? current->front() : nullptr;
    }
    /// Empty when ready, else the reason.
    std::string not_ready() const {
        std::lock_guard lock(mutex_);
        return stopping_ ? kDraining : replicas_ ? "" : not_ready_;
    }

    std::string open(std::string path);

    std::optional<http::Response> admit(const http::Request& request, bool admin) const;
    std::string why_refused(const InferRequest& request, const Index& index) const;
    void infer(http::Request request, http::Reply reply);
    void administer(http::Request request, http::Reply reply);
    http::Response write(const http::Request& request);
    std::optional<http::Response> describe(std::string_view path, bool& is_infer) const;
    http::Response status() const;
    std::string metrics() const;
};

http::Response json_response(std::string body, unsigned status = 200) { return {.status = status, .body = std::move(body)}; }
http::Response error_response(unsigned status, const std::string& message) { return json_response(encode_error(message), status); }

http::Response busy(const std::string& message) {
    auto response = error_response(429, message);
    response.retry_after_s = 1;
    return response;
}

/// A request on its way through the workers. Holds the index that it was checked against, so that a swap cannot come
/// between its parsing and its search.
struct SearchJob : Job {
    SearchJob(Service& service, http::Request request, http::Reply reply, std::shared_ptr<const Replicas> replicas)
        : service(service), request(std::move(request)), reply(std::move(reply)), replicas(std::move(replicas)), index(this->replicas->front().get()) {}

    size_t prepare() override {
        if (*request.gone) return abandon(), 0;
        try {
            infer = parse_infer(request.body, request.inference_header_length, {.dim = index->dim(), .max_queries = service.options_.max_queries},
                                service.options_.defaults);
            request.body = {};
            if (const std::string why = service.why_refused(infer, *index); !why.empty()) throw ProtocolError(413, why);
            const size_t count = infer.n * infer.k, bytes = count * (sizeof(int64_t) + sizeof(float)) + encoded_bytes(infer, service.options_.name);
            if (const size_t most = service.results_.most(request.peer); bytes > most + Hold::kFree)
                throw ProtocolError(413, "n × k = " + std::to_string(count) + " results need " + std::to_string(bytes) + " bytes; a client may hold " +
                                             std::to_string(most) + " (--max-results, --peer-share): ask for fewer at a time, or for binary ones");
            results = std::make_shared<Hold>(service.results_, request.peer);
            if (!results->resize(bytes) || !request.hold->resize(infer.queries.size() * sizeof(float))) {
                ++service.refused_results_;
                reply(busy("the requests under way use up the memory for results"));
                return 0;
            }
            ids.resize(count);
            distances.resize(count);
            options = {.k = infer.k, .ef = infer.ef, .recall_target = infer.recall_target, .filter = infer.filter ? &*infer.filter : nullptr};
            return infer.n;
        } catch (const ProtocolError& e) {
            reply(error_response(e.status, e.what()));
        } catch (const std::exception& e) {
            log("error", "a request could not be prepared", {{"reason", e.what()}});
            reply(error_response(500, "the server failed to prepare the request"));
        }
        return 0;
    }

    void run(size_t worker, size_t begin, size_t end) override {
        auto& state = service.states_[worker];
        try {
            state.use((*replicas)[service.replica_of_[worker]]);
            uint64_t compared = 0, hops = 0, refined = 0;
            size_t done = 0;
            for (size_t i = begin; i < end && !abandoned; ++i, ++done) {
                if (*request.gone) {
                    abandoned = true;
                    break;
                }
                service.pool_.beat(worker);
                int64_t* row_ids = ids.data() + i * infer.k;
                float* row_distances = distances.data() + i * infer.k;
                const uint32_t found =
                    state.searcher->search(infer.queries.data() + i * index->dim(), options, reinterpret_cast<uint64_t*>(row_ids), row_distances);
                pad_row(row_ids, row_distances, found, infer.k);
                compared += state.searcher->stats().distances;
                hops += state.searcher->stats().hops;
                refined += state.searcher->stats().refined;
            }
            state.queries += done;
            state.distances += compared;
            state.hops += hops;
            state.refined += refined;
        } catch (const Error& e) {  // what the user can cause and only the engine knows
            std::lock_guard lock(failure_mutex);
            refused = e.what();
        } catch (const std::exception& e) {
            std::lock_guard lock(failure_mutex);
            failed = e.what();
        }
    }

    void finish(size_t worker) override {
        if (abandoned) return abandon();
        http::Response response;
        try {
            if (!failed.empty()) {
                log("error", "a search failed", {{"reason", failed}});
                response = error_response(500, "the search failed");
            } else if (!refused.empty()) {
                response = error_response(400, refused);
            } else {
                auto encoded = encode_infer(infer, service.options_.name, std::to_string(index->version()), ids, distances);
                response = json_response(std::move(encoded.body));
                response.inference_header_length = encoded.header_length;
                if (encoded.header_length) response.content_type = "application/octet-stream";
                ids = {}, distances = {}, infer.queries = {};
                results->resize(response.body.capacity());
                response.hold = std::move(results);
            }
        } catch (const std::exception& e) {
            log("error", "an answer could not be encoded", {{"reason", e.what()}});
            response = error_response(500, "the answer could not be encoded");
        }
        auto& state = service.states_[worker];
        const auto took = duration_cast<microseconds>(Clock::now() - received);
        const double took_s = std::chrono::duration<double>(took).count();
        ++state.buckets[std::lower_bound(std::begin(kBuckets), std::end(kBuckets), took_s) - std::begin(kBuckets)];
        state.microseconds += static_cast<uint64_t>(took.count());
        reply(std::move(response));
    }

    /// Nobody waits for the answer; who has closed only the sending side can still read this one.
    void abandon() {
        ++service.abandoned_;
        reply(error_response(400, "the connection's sending side was closed before the answer was ready: keep it open"));
    }

    Service& service;
    http::Request request;
    const http::Reply reply;
    const std::shared_ptr<const Replicas> replicas;
    const Index* const index;  // the first of them
    const Clock::time_point received = Clock::now();
    InferRequest infer;
    SearchOptions options;
    std::vector<int64_t> ids;
    std::vector<float> distances;
    std::shared_ptr<Hold> results;  // what these hold of the budget for results
    std::atomic<bool> abandoned{false};
    std::mutex failure_mutex;
    std::string refused, failed;
};

void Service::infer(http::Request request, http::Reply reply) {
    const auto current = replicas();
    if (!current) return reply(error_response(503, not_ready()));
    // What it will cost is known before it is parsed, from its size; the queue's bound is in queries.
    const size_t cost = std::max<size_t>(1, request.body.size() / (sizeof(float) * current->front()->dim()));
    auto job = std::make_shared<SearchJob>(*this, std::move(request), reply, current);
    if (pool_.submit(std::move(job), cost)) return;
    ++rejected_;
    reply(busy("the queue is full"));
}

/// The answer to a GET of the protocol's descriptions; nothing when there is no such path. `is_infer` when it was one to POST to.
std::optional<http::Response> Service::describe(std::string_view path, bool& is_infer) const {
    const std::string why = not_ready();
    const auto readiness = [&](json body) {
        body["ready"] = why.empty();
        if (!why.empty()) body["error"] = why;
        return json_response(body.dump(), why.empty() ? 200 : 503);
    };
    if (path == "/v2") return json_response(encode_server_metadata());
    if (path == "/v2/health/live") return json_response(R"({"live":true})");
    if (path == "/v2/health/ready") return readiness(json::object());
    if (path == "/metrics") {
        auto response = json_response(metrics());
        response.content_type = "text/plain; version=0.0.4; charset=utf-8";
        return response;
    }
    const auto take = [&path](std::string_view prefix) { return path.starts_with(prefix) && (path.remove_prefix(prefix.size()), true); };
    if (!take("/v2/models/")) return std::nullopt;
    const auto segment = [&path] {
        const auto result = path.substr(0, path.find('/'));
        path.remove_prefix(result.size());
        return result;
    };
    if (const auto name = segment(); name != options_.name)
        return error_response(404, "there is no model \"" + std::string(name) + "\"; this server has \"" + options_.name + "\"");
    const auto current = index();
    if (take("/versions/")) {
        const auto version = segment();
        if (!current || version != std::to_string(current->version()))
            return error_response(404, "there is no version \"" + std::string(version) + "\"" +
                                           (current ? "; this server has " + std::to_string(current->version()) : ""));
    }
    if (path == "/infer") return is_infer = true, std::nullopt;
    if (path == "/ready") return readiness({{"name", options_.name}});
    if (!path.empty()) return std::nullopt;
    if (!current) return error_response(503, why);
    return json_response(encode_model_metadata(options_.name, std::to_string(current->version()), current->dim()));
}

/// Why a request costs more than one may, or nothing. The measure is queries × ef × dimensions. With a filter a search may
/// have to look at sqrt(ef × rows / 3) times as much as an ef of 1 does, whatever the filter selects.
std::string Service::why_refused(const InferRequest& request, const Index& index) const {
    const double rows = static_cast<double>(index.size());
    double ef = request.ef ? request.ef : index.ef_for(request.recall_target, request.k);
    if (request.filter) ef = std::max(ef, std::sqrt(ef * rows / 3));
    ef = std::ceil(std::min(ef, std::max(rows, 1.0)));
    const double cost = static_cast<double>(request.n) * ef * index.dim();
    if (cost <= static_cast<double>(options_.max_cost)) return "";
    std::ostringstream why;
    why.precision(15);
    why << request.n << " queries × " << (request.filter ? "ef with this filter " : "ef ") << ef << " × " << index.dim() << " dimensions = " << cost
        << " is more work than one request may ask for, " << options_.max_cost << " (--max-cost): send fewer queries at a time, or a smaller ef";
    return why.str();
}

/// What is decided on the header alone: the key, then the path, then the method. Nothing: the request needs its body.
std::optional<http::Response> Service::admit(const http::Request& request, bool admin) const {
    const std::string& key = admin ? options_.admin_key : options_.api_key;
    if (!key.empty() && !request.path.starts_with("/v2/health/") && !same_secret(bearer_key(request.authorization), key))
        return error_response(401, "a valid API key is required, as \"Authorization: Bearer KEY\"");

    const auto only = [&](const char* method) -> std::optional<http::Response> {
        if (request.method == method) return std::nullopt;
        auto response = error_response(405, std::string("use ") + method);
        response.allow = method;
        return response;
    };
    const auto body = [&]() -> std::optional<http::Response> {
        if (auto wrong = only("POST")) return wrong;
        if (request.content_encoding.empty() || request.content_encoding == "identity") return std::nullopt;
        return error_response(415, "Content-Encoding " + request.content_encoding + " is not supported: send the body as it is");
    };
    if (admin && request.path == "/admin/status") return only("GET").value_or(status());
    if (admin && kChanges.contains(request.path)) return body();
    bool is_infer = false;
    auto description = describe(request.path, is_infer);
    if (is_infer) {
        auto refused = body();
        return !refused && !index() ? error_response(503, not_ready()) : refused;
    }
    if (!description) return error_response(404, "there is nothing at " + request.path);
    if (description->status == 404) return description;
    auto refused = only("GET");
    return refused ? std::move(refused) : std::move(description);
}

/// Everything that changes the index waits its turn.
void Service::administer(http::Request request, http::Reply reply) {
    const bool upkeep = request.path == "/admin/snapshot" || request.path == "/admin/consolidate";
    const bool taken = (upkeep ? upkeep_ : changes_).add([this, request = std::move(request), reply] {
        try {
            if (request.path != "/admin/swap") return reply(write(request));
            const std::string error = open(parse_path(request.body).value_or(path_));
            reply(error.empty() ? status() : error_response(422, error));
        } catch (const ProtocolError& e) {
            reply(error_response(e.status, e.what()));
        } catch (const std::exception& e) {
            log("error", "a write failed", {{"request", request.path}, {"reason", e.what()}});
            reply(error_response(500, e.what()));
        }
    });
    if (taken) return;
    ++rejected_;
    reply(busy("too many changes wait"));
}

/// Carries out a write and says what it did, once the log has it. Throws ProtocolError for what the client can mend, Error for the rest.
http::Response Service::write(const http::Request& request) {
    const std::string operation = request.path.substr(std::strlen("/admin/"));
    if (!options_.writes) throw ProtocolError(409, "this server only reads its index; start it with --writes");
    std::unique_lock lock(mutex_);
    const auto live = live_;
    const auto file = file_;
    lock.unlock();
    if (!live) throw ProtocolError(503, not_ready());
    json done;
    if (operation == "snapshot") {
        live->snapshot();
        done["path"] = file;
    } else if (operation == "consolidate") {
        done["freed"] = live->consolidate();
    } else {
        const bool upsert = operation == "upsert";
        const WriteRequest w = parse_write(request.body, request.inference_header_length, {.dim = live->view()->dim()}, upsert);
        try {
            for (const auto& tags : w.tags) Tags::check(tags);
        } catch (const Error& e) {
            throw ProtocolError(400, e.what());
        }
        if (upsert) live->upsert(w.ids.data(), w.vectors.data(), w.ids.size(), w.tags);
        const size_t count = upsert ? w.ids.size() : live->erase(w.ids.data(), w.ids.size());
        (upsert ? upserted_ : erased_) += count;
        done[upsert ? "upserted" : "deleted"] = count;
    }
    done["rows"] = live->view()->size();
    return json_response(done.dump());
}

/// Opens and verifies the index at `path` and swaps to it; the one in service goes on until then, and for good when this
/// fails. Returns why it failed. On the thread of `changes_` only, which alone changes `path_`, `file_` and `live_`.
std::string Service::open(const std::string path) {
    const auto started = Clock::now();
    const bool reload = index() != nullptr;
    if (not_ready() == kDraining) return kDraining;
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (reload) notify_systemd("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(now.tv_sec * 1'000'000 + now.tv_nsec / 1000));
    Replicas opened;
    std::shared_ptr<LiveIndex> live;
    std::string error, file = path;
    opening_ = true;
    try {
        if (options_.writes) {
            file = std::filesystem::canonical(path);  // a link to the index stays one, and the log is found beside the file
            if (live_ && file == file_) throw Error(file + " is being written to; swap to another file");
            live = std::make_shared<LiveIndex>(file, file + ".log",
                                               LiveOptions{.open = options_.open, .sync = *options_.writes, .capacity = options_.capacity});
            opened.push_back(live->view());
        }
        for (OpenOptions how = options_.open; opened.size() < nodes_.size();) {
            how.numa_node = nodes_[opened.size()];
            opened.push_back(Index::open(path, how));
            if (opened.back()->version() != opened.front()->version()) throw Error(path + " changed while it was opened");
        }
    } catch (const std::exception& e) {
        error = e.what();
    }
    opening_ = false;
    {
        std::lock_guard lock(mutex_);
        if (error.empty())
            replicas_ = std::make_shared<const Replicas>(opened), live_ = live, path_ = path, file_ = file;
        else if (!reload)
            not_ready_ = error;
    }
    if (error.empty()) {
        ++swaps_;
        pool_.wake_all();  // idle workers let go of the old index
        const double seconds = std::chrono::duration<double>(Clock::now() - started).count();
        log("info", "serving",
            {{"index", path}, {"version", opened[0]->version()}, {"rows", opened[0]->size()}, {"dim", opened[0]->dim()}, {"seconds", seconds}});
        if (live && !live->missing().empty()) log("error", "acknowledged writes are missing", {{"index", path}, {"reason", live->missing()}});
        notify_systemd("READY=1\nSTATUS=serving " + path);
    } else {
        ++failed_swaps_;
        log("error", reload ? "the new index was refused, the old one goes on" : "the index was refused", {{"index", path}, {"reason", error}});
        notify_systemd((reload ? "READY=1\nSTATUS=kept the old index: " : "STATUS=not ready: ") + error);
    }
    return error;
}

http::Response Service::status() const {
    const auto current = index();
    const std::string why = not_ready();
    json body{{"ready", why.empty()},           {"model", options_.name}, {"workers", pool_.workers()},          {"kernel", kernel_name()},
              {"queue_depth", pool_.waiting()}, {"swaps", swaps_.load()}, {"failed_swaps", failed_swaps_.load()}};
    if (!why.empty()) body["reason"] = why;
    if (current)
        body["index"] = {{"path", current->path()},
                         {"version", current->version()},
                         {"rows", current->size()},
                         {"dim", current->dim()},
                         {"metric", name(current->metric())},
                         {"mode", name(options_.open.mode)},
                         {"replicas", nodes_.size()},
                         {"memory_bytes", current->memory_bytes() * nodes_.size()}};
    return json_response(body.dump(-1, ' ', false, json::error_handler_t::replace));
}

std::string Service::metrics() const {
    std::ostringstream text;
    text.precision(15);
    const auto family = [&](const char* metric, const char* type, const char* help_text) {
        text << "# HELP vnni_search_" << metric << " " << help_text << "\n# TYPE vnni_search_" << metric << " " << type << "\n";
    };
    const auto one = [&](const char* metric, const char* type, const char* help_text, auto value) {
        family(metric, type, help_text);
        text << "vnni_search_" << metric << " " << value << "\n";
    };
    const auto sum = [&](auto member) {
        uint64_t total = 0;
        for (const auto& state : states_) total += (state.*member).load();
        return total;
    };
    const auto& http = server_.counters();
    const auto current = index();
    one("ready", "gauge", "1 when a verified index is served", not_ready().empty() ? 1 : 0);
    one("queries_total", "counter", "Query vectors answered", sum(&WorkerState::queries));
    one("distance_computations_total", "counter", "Rows compared by their codes", sum(&WorkerState::distances));
    one("hops_total", "counter", "Graph nodes expanded", sum(&WorkerState::hops));
    one("refined_total", "counter", "Rows compared at full precision", sum(&WorkerState::refined));

    family("request_duration_seconds", "histogram", "Inference requests, from received whole to answered");
    uint64_t count = 0;
    for (size_t b = 0; b < kBucketCount; ++b) {
        for (const auto& state : states_) count += state.buckets[b];
        text << "vnni_search_request_duration_seconds_bucket{le=\"";
        b < std::size(kBuckets) ? text << kBuckets[b] : text << "+Inf";
        text << "\"} " << count << "\n";
    }
    text << "vnni_search_request_duration_seconds_sum " << static_cast<double>(sum(&WorkerState::microseconds)) / 1e6
         << "\nvnni_search_request_duration_seconds_count " << count << "\n";

    family("http_responses_total", "counter", "Responses by status");
    for (size_t code = 0; code < http.responses.size(); ++code)
        if (const uint64_t n = http.responses[code]) text << "vnni_search_http_responses_total{code=\"" << code << "\"} " << n << "\n";
    family("rejected_total", "counter", "Requests and connections turned away for load");
    text << "vnni_search_rejected_total{reason=\"queue\"} " << rejected_ << "\nvnni_search_rejected_total{reason=\"connections\"} "
         << http.refused_connections << "\nvnni_search_rejected_total{reason=\"bodies\"} " << http.refused_bodies
         << "\nvnni_search_rejected_total{reason=\"results\"} " << refused_results_ << "\n";
    one("abandoned_total", "counter", "Requests given up as their clients were gone", abandoned_.load());
    one("silent_connections_closed_total", "counter", "Connections without a request that gave way to new ones", http.closed_for_others.load());
    family("held_bytes", "gauge", "Memory that requests under way hold of their bounds");
    text << "vnni_search_held_bytes{of=\"bodies\"} " << server_.body_bytes() << "\nvnni_search_held_bytes{of=\"results\"} " << results_.held() << "\n";
    one("connections", "gauge", "Open connections", http.connections.load());
    one("queue_depth", "gauge", "Queries waiting for a worker", pool_.waiting());
    one("queue_capacity", "gauge", "Queries that may wait", options_.queue);
    one("workers", "gauge", "Worker threads", pool_.workers());
    one("worker_silence_seconds", "gauge", "The longest time since a worker's last sign of life, one a query and, when idle, one a second",
        std::chrono::duration<double>(pool_.oldest_heartbeat()).count());
    one("upserted_total", "counter", "Rows inserted or replaced", upserted_.load());
    one("deleted_total", "counter", "Rows deleted", erased_.load());
    one("index_swaps_total", "counter", "Indexes taken into service", swaps_.load());
    one("index_swap_failures_total", "counter", "Indexes refused", failed_swaps_.load());

    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    family("page_faults_total", "counter", "Page faults of the process; major ones waited for storage");
    text << "vnni_search_page_faults_total{type=\"minor\"} " << usage.ru_minflt << "\nvnni_search_page_faults_total{type=\"major\"} "
         << usage.ru_majflt << "\n";
    if (current) {
        one("index_rows", "gauge", "Rows that a search can return", current->size());
        const auto live = [this] {
            const std::lock_guard lock(mutex_);
            return live_;
        }();
        if (live) {
            one("index_rows_dead", "gauge", "Deleted rows that the graph still leads over", live->hidden());
            one("index_rows_reachable_ratio", "gauge", "Share of the live rows that the graph leads to, of a sample of 256", live->reachable());
            one("log_missing", "gauge", "1 when acknowledged writes could not be replayed: the log says which", int(!live->missing().empty()));
        }
        one("index_replicas", "gauge", "Copies of the index in memory", nodes_.size());
        one("index_memory_bytes", "gauge", "Bytes of all copies' sections", current->memory_bytes() * nodes_.size());
        family("index_info", "gauge", "The index in service");
        text << "vnni_search_index_info{model=\"" << options_.name << "\",version=\"" << current->version() << "\",metric=\""
             << name(current->metric()) << "\",dim=\"" << current->dim() << "\",mode=\"" << name(options_.open.mode) << "\"} 1\n";
    }
    family("build_info", "gauge", "The program");
    text << "vnni_search_build_info{version=\"" << kVersion << "\",kernel=\"" << kernel_name() << "\"} 1\n";
    return text.str();
}

int Service::run() {
    const auto listen = [this](const std::string& address, bool admin) {
        const std::string bound = server_.listen(
            address, {.admit = [this, admin](const http::Request& request) { return admit(request, admin); },
                      .answer = [this](http::Request request, http::Reply reply) {
                          request.path.starts_with("/admin/") ? administer(std::move(request), std::move(reply)) : infer(std::move(request), std::move(reply));
                      }});
        log("info", admin ? "listening for the administrator" : "listening", {{"address", bound}});
    };
    for (const auto& address : options_.listen) listen(address, false);
    if (!options_.admin.empty()) listen(options_.admin, true);

    server_.start();
    changes_.add([this] { open(path_); });

    sigset_t signals;
    sigemptyset(&signals);
    for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
    const microseconds watchdog = watchdog_interval();
    const microseconds tick = watchdog.count() ? watchdog / 3 : microseconds(10'000'000);
    const auto sign_of_life = [&] {
        if (opening_) notify_systemd("EXTEND_TIMEOUT_USEC=60000000");
        if (watchdog.count() && pool_.oldest_heartbeat() < watchdog && server_.alive()) notify_systemd("WATCHDOG=1");
    };
    // Waits for a signal; 0 when `time` passed without one.
    const auto wait = [&](microseconds time) {
        for (auto end = Clock::now() + time;;) {
            const auto rest = std::clamp<microseconds>(duration_cast<microseconds>(end - Clock::now()), microseconds(0), tick);
            const timespec timeout{rest.count() / 1'000'000, rest.count() % 1'000'000 * 1000};
            if (const int signal = sigtimedwait(&signals, nullptr, &timeout); signal > 0) return signal;
            sign_of_life();
            if (Clock::now() >= end) return 0;
        }
    };
    for (int signal = 0; signal != SIGTERM && signal != SIGINT;) {
        signal = wait(std::chrono::hours(24));
        if (signal == SIGHUP) changes_.add([this] { open(path_); });
    }

    log("info", "draining");
    notify_systemd("STOPPING=1");
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    server_.refuse_keep_alive();
    wait(options_.drain_delay);
    server_.drain();
    bool drained = false;
    for (const auto end = Clock::now() + options_.drain_timeout; !drained && Clock::now() < end; sign_of_life())
        drained = server_.wait_closed(std::min(duration_cast<milliseconds>(tick), duration_cast<milliseconds>(end - Clock::now())));
    log(drained ? "info" : "warning", drained ? "drained" : "ended with requests under way");
    if (opening_) _exit(0);  // reading a large index takes minutes, and nobody waits for it any more
    changes_.finish();
    upkeep_.finish();
    return 0;
}

}  // namespace

int serve_main(int argc, char** argv) {
    try {
        const auto options = parse_options(argc - 2, argv + 2);  // after "vnni-search serve"
        if (!options) return 0;
        kernel_name();  // a kernel that this CPU lacks is refused now, not with the first query
        // Before the first thread: all inherit it, and the main thread takes these signals one by one.
        sigset_t signals;
        sigemptyset(&signals);
        for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
        pthread_sigmask(SIG_BLOCK, &signals, nullptr);
        signal(SIGPIPE, SIG_IGN);
        Service service(*options);
        return service.run();
    } catch (const UsageError& e) {
        std::cerr << "vnni-search serve: " << e.what() << "\nSee vnni-search serve --help.\n";
        return 2;
    } catch (const std::exception& e) {
        log("error", e.what());
        return 1;
    }
}

}  // namespace vnni
