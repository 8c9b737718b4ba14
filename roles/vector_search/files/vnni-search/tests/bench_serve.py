# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HTTP costs: `vnni-search serve` over loopback against the same searches in process.

For 1 and 2 workers: QPS in process (that many single-threaded searchers), QPS over loopback in batches of 64 binary
queries, their ratio, the processor time of a query in both (which other work on the machine hardly changes), and the
latency at half of the service's highest load, for batches and for single queries (Poisson arrivals, timed from when a
request was due, so that a stalled server cannot hide its queue). Client and server share the machine's cores. With
--check it fails when the ratio is below one half.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

BINARY = os.environ.get("VNNI_SEARCH", str(Path(__file__).parent.parent / "build" / "vnni-search"))


def request_bytes(queries: np.ndarray, k: int, ef: int) -> bytes:
    tensor = {"name": "queries", "datatype": "FP32", "shape": list(queries.shape), "parameters": {"binary_data_size": queries.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, "k": k, "ef": ef}}).encode()
    lengths = f"Inference-Header-Content-Length: {len(header)}\r\nContent-Length: {len(header) + queries.nbytes}\r\n"
    return f"POST /v2/models/search/infer HTTP/1.1\r\nHost: x\r\n{lengths}\r\n".encode() + header + queries.tobytes()


class Connection:
    """The least that a client can do, so that the server is what is measured."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> None:
        self.socket.sendall(request)
        answer = self.socket.recv(1 << 20)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the server answered {answer[:300]!r}")
        head, _dummy, body = answer.partition(b"\r\n\r\n")
        left = int(head.lower().split(b"content-length: ")[-1].split(b"\r\n")[0]) - len(body)
        while left > 0:
            left -= len(self.socket.recv(1 << 20))


def highest_load(address, requests: list[bytes], connections: int, seconds: float) -> float:
    """Requests a second of clients that ask without pause."""
    counts = [0] * connections
    end = time.perf_counter() + seconds

    def client(i: int) -> None:
        connection = Connection(address)
        while time.perf_counter() < end:
            connection.ask(requests[(counts[i] * connections + i) % len(requests)])
            counts[i] += 1

    run([threading.Thread(target=client, args=(i,)) for i in range(connections)])
    return sum(counts) / seconds


def latencies(address, requests: list[bytes], connections: int, seconds: float, rate: float) -> np.ndarray:
    """Seconds from when each request was due to its answer, at `rate` requests a second in all."""
    results: list[list[float]] = [[] for _dummy in range(connections)]
    start = time.perf_counter() + 0.05

    def client(i: int) -> None:
        arrivals, connection, due = random.Random(i), Connection(address), start
        while due < start + seconds:
            due += arrivals.expovariate(rate / connections)
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
            connection.ask(requests[len(results[i]) % len(requests)])
            results[i].append(time.perf_counter() - due)

    run([threading.Thread(target=client, args=(i,)) for i in range(connections)])
    return np.sort(np.concatenate(results))


def run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_process(index: Path, queries: Path, searchers: int, k: int, ef: int, count: int) -> tuple[float, float]:
    """QPS of that many single-threaded searchers at a time, and the processor seconds of a query."""
    processes = [subprocess.Popen([BINARY, "bench", "--json-lines"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _dummy in range(searchers)]

    def say(process: subprocess.Popen, **message) -> None:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()

    qps, cpu = 0.0, float("inf")
    for process in processes:
        say(process, op="load", index=str(index))
    for process in processes:
        process.stdout.readline()
    for _dummy in range(3):
        for process in processes:
            say(process, op="search", query=str(queries), k=k, ef=ef, out=os.devnull)
        answers = [json.loads(process.stdout.readline()) for process in processes]
        qps = max(qps, sum(count / answer["wall_s"] for answer in answers))
        cpu = min(cpu, sum(answer["cpu_s"] for answer in answers) / (count * searchers))
    for process in processes:
        process.stdin.close()
        process.wait()
    return qps, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, help="an index; without it one of --rows random rows is built")
    parser.add_argument("--queries", type=Path, help=".npy float32 [n, d], with --index")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--ef", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--check", action="store_true", help="fail when the service reaches less than half of the in-process QPS")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if args.index is None:
            random_rows = np.random.Generator(np.random.PCG64(1))
            np.save(f"{folder}/rows.npy", random_rows.standard_normal((args.rows, args.dim), np.float32))
            np.save(f"{folder}/queries.npy", random_rows.standard_normal((6400, args.dim), np.float32))
            args.index, args.queries = Path(folder, "index.vnni"), Path(folder, "queries.npy")
            subprocess.run([BINARY, "build", "--input", f"{folder}/rows.npy", "--output", args.index, "--metric", "l2", "--no-measure", "--quiet"], check=True)
        queries = np.ascontiguousarray(np.load(args.queries), np.float32)
        batches = [request_bytes(queries[i : i + 64], args.k, args.ef) for i in range(0, len(queries) - 63, 64)]
        singles = [request_bytes(queries[i : i + 1], args.k, args.ef) for i in range(len(queries))]
        failed = False
        for workers in range(1, min(2, len(os.sched_getaffinity(0))) + 1):
            inside, inside_cpu = in_process(args.index, args.queries, workers, args.k, args.ef, len(queries))
            command = [BINARY, "serve", "--index", args.index, "--listen", "127.0.0.1:0", "--workers", str(workers)]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
                address = None
                for line in server.stderr:
                    said = json.loads(line)
                    if said["message"] == "listening":
                        address = ("127.0.0.1", int(said["address"].rsplit(":", 1)[1]))
                    if said["message"] == "serving":
                        break
                before = cpu_seconds(server.pid)
                batch_rate = highest_load(address, batches, 2 * workers, args.seconds)
                served_cpu = (cpu_seconds(server.pid) - before) / (batch_rate * 64 * args.seconds)
                ratio = batch_rate * 64 / inside
                failed |= ratio < 0.5
                print(f"workers: {workers}; in process {inside:,.0f} QPS; loopback, batches of 64, {batch_rate * 64:,.0f} QPS: {ratio:.2f} of it")
                print(
                    f"  processor time a query: {inside_cpu * 1e6:.1f} µs in process, {served_cpu * 1e6:.1f} µs in the service: {inside_cpu / served_cpu:.2f}"
                )
                single_rate = highest_load(address, singles, 4 * workers, args.seconds)
                for name, requests, rate in (("batches of 64", batches, batch_rate), ("single queries", singles, single_rate)):
                    sample = latencies(address, requests, 8 * workers, args.seconds, rate / 2)
                    p50, p99 = (sample[int(len(sample) * p)] * 1000 for p in (0.5, 0.99))
                    print(f"  {name}: at most {rate:,.0f} requests/s; at half of that p50 {p50:.2f} ms, p99 {p99:.2f} ms", flush=True)
                server.terminate()
                server.stderr.read()
        sys.exit(args.check and failed)


if __name__ == "__main__":
    main()
