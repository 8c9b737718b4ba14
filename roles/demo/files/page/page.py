# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serve a page that recommends packages for what is typed into it: recall, then rank, each by a service of the Open Inference Protocol.

    page.py --data DIRECTORY [--models URL] [--vectors URL] [--listen ADDRESS:PORT]     serves until it is told to stop
    page.py --data DIRECTORY --measure QUERIES                                          asks held out queries, prints figures as JSON and ends

DIRECTORY has corpus.json and tokenizer.json, as the builder's programs have made them. A query goes through four stages: its text is embedded by the
model `minilm`; the vector search `vectors` recalls the packages whose embeddings are nearest; their features are computed here; the model `ranker` puts
them in order.

GET /api/search?q=TEXT answers {query, stages, recalled, ranked}, or {error} with the status 400 (the query), 502 or 503 (a service).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time

import aiohttp
import numpy as np
from aiohttp import web
from features import Features
from tokenizers import Tokenizer

RECALLED, SHOWN = 100, 10
LONGEST_QUERY = 500  # characters
LONGEST_TEXT = 64  # tokens, as the model was calibrated with
JSON_LENGTH = "Inference-Header-Content-Length"
DATATYPES = {"FP32": np.float32, "INT64": np.int64}
ASSETS = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}
# Descriptions come from a package archive: nothing of them can become a script, and the page is in nobody's frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """The query is not usable; the text says why."""


class Unavailable(Exception):
    """A service does not answer as it should; the text says which, and what was seen."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Service:
    """One model behind an address, as a client of the Open Inference Protocol with binary tensors."""

    def __init__(self, session, what, base, model):
        self.session, self.what, self.model = session, what, model
        self.url = f"{base.rstrip('/')}/v2/models/{model}/infer"

    async def infer(self, inputs, **parameters):
        """Return ({output: array}, the version that answered) for {input: array}; Unavailable when there is no such answer."""
        kinds = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}
        tensors = [
            {"name": name, "shape": list(array.shape), "datatype": kinds[array.dtype], "parameters": {"binary_data_size": array.nbytes}}
            for name, array in inputs.items()
        ]
        head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True, **parameters}}).encode()
        body = b"".join([head, *(np.ascontiguousarray(array).tobytes() for array in inputs.values())])
        headers = {JSON_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        try:
            async with self.session.post(self.url, data=body, headers=headers) as answer:
                said = await answer.read()
                if answer.status != 200:
                    text = said[:200].decode("utf-8", "replace").strip()
                    raise Unavailable(503 if answer.status == 503 else 502, f"The {self.what} at {self.url} answers {answer.status}: {text}")
                length = int(answer.headers.get(JSON_LENGTH, len(said)))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(503, f"The {self.what} at {self.url} does not answer: {error or type(error).__name__}") from None
        try:
            told, rest, arrays = json.loads(said[:length]), said[length:], {}
            for output in told["outputs"]:
                dtype, size = DATATYPES[output["datatype"]], output.get("parameters", {}).get("binary_data_size")
                data = np.array(output["data"], dtype) if size is None else np.frombuffer(rest[:size], dtype)
                rest = rest[size or 0 :]
                arrays[output["name"]] = data.reshape(output["shape"])
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(502, f"The {self.what} at {self.url} gives no answer of its protocol: {type(error).__name__}: {error}") from None
        return arrays, told.get("model_version", "")


class Stages:
    """The stages that a query went through, with the time of each."""

    def __init__(self):
        self.done, self.began = [], time.perf_counter()

    def end(self, name, service=None, version=""):
        now = time.perf_counter()
        self.done.append({"name": name, "ms": round((now - self.began) * 1000, 2), "model": service.model if service else None, "version": version})
        self.began = now


class Pipeline:
    """Recall, then rank."""

    def __init__(self, directory, session, models, vectors):
        with open(os.path.join(directory, "corpus.json"), encoding="utf-8") as file:
            made = json.load(file)
        self.packages, self.queries = made["packages"], made["queries"]
        self.features = Features(self.packages)
        self.tokenizer = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
        self.tokenizer.enable_truncation(LONGEST_TEXT)
        self.tokenizer.no_padding()
        self.embedding = Service(session, "embedding service", models, "minilm")
        self.recall = Service(session, "vector search", vectors, "vectors")
        self.ranker = Service(session, "ranker", models, "ranker")

    async def search(self, text):
        """Return (places of the recalled packages, nearest first; their cosines; their scores; the stages)."""
        text = " ".join(text.split())
        if not text:
            raise Refused("Type what you are looking for: the query is empty")
        if len(text) > LONGEST_QUERY:
            raise Refused(f"The query has {len(text)} characters, {LONGEST_QUERY} are taken: shorten it")
        stages = Stages()
        encoded = self.tokenizer.encode(text)
        given = {"input_ids": np.array([encoded.ids], np.int64), "attention_mask": np.array([encoded.attention_mask], np.int64)}
        found, version = await self.embedding.infer(given)
        stages.end("embed", self.embedding, version)
        found, version = await self.recall.infer({"queries": found["embedding"]}, k=min(RECALLED, len(self.packages)))
        places, cosines = found["ids"][0], 1 - found["distances"][0]
        # An index of another corpus would be answered from as if it were this one's.
        if not len(places) or places.max() >= len(self.packages) or places.min() < 0:
            raise Unavailable(502, f"The vector search at {self.recall.url} recalls rows that this corpus of {len(self.packages)} does not have")
        stages.end("recall", self.recall, version)
        inputs = self.features.of(text, places, cosines)
        stages.end("features")
        found, version = await self.ranker.infer(inputs)
        stages.end("rank", self.ranker, version)
        return places, cosines, found["score"].reshape(-1), stages.done

    async def answer(self, text):
        """Return what the page shows for a query."""
        places, cosines, scores, stages = await self.search(text)
        order = np.argsort(-scores, kind="stable")
        rank = {int(place): number for number, place in enumerate(order, 1)}

        def entry(number):
            package = self.packages[places[number]]
            shown = {key: package[key] for key in ("name", "synopsis", "text", "section", "size", "tags")}
            numbers = {
                "recall": int(number) + 1,
                "rank": rank[int(number)],
                "cosine": round(float(cosines[number]), 4),
                "score": round(float(scores[number]), 3),
            }
            return {**shown, **numbers}

        return {
            "query": text,
            "stages": stages,
            "recalled": [entry(number) for number in range(min(SHOWN, len(places)))],
            "ranked": [entry(number) for number in order[:SHOWN]],
        }

    async def measure(self, count):
        """Ask `count` held out queries one after the other; return how high both orders have the right package, and the stages' times."""
        ranks, times = {"recall": [], "ranked": []}, {}
        asked = [query for query in self.queries if query["held_out"]][:count]
        for query in asked:
            places, _cosines, scores, stages = await self.search(query["text"])
            right = places == query["package"]
            for name, order in (("recall", np.arange(len(places))), ("ranked", np.argsort(-scores, kind="stable"))):
                ranks[name].append(float(np.argmax(right[order]) + 1) if right.any() else np.inf)
            for stage in stages:
                times.setdefault(stage["name"], []).append(stage["ms"])
        orders = {
            name: {"mrr": round(float(np.mean(1 / np.array(found))), 4), "hit10": round(float(np.mean(np.array(found) <= 10)), 4)}
            for name, found in ranks.items()
        }
        gain = 1 / np.array(ranks["ranked"]) - 1 / np.array(ranks["recall"])
        times["total"] = np.sum(list(times.values()), axis=0).tolist()
        return {
            "queries": len(asked), "packages": len(self.packages), "recalled": round(float(np.mean(np.isfinite(ranks["recall"]))), 4), **orders,
            "gain": round(float(gain.mean()), 4), "gain_standard_error": round(float(gain.std(ddof=1) / np.sqrt(len(gain))), 4),
            "ms": {name: {"p50": round(float(np.percentile(it, 50)), 1), "p99": round(float(np.percentile(it, 99)), 1)} for name, it in times.items()},
        }  # fmt: skip


def application(pipeline, about):
    """Return the web application of a pipeline; `about` is what the page says of its measurement."""
    here = os.path.dirname(os.path.abspath(__file__))
    assets = {}
    for path, (name, kind) in ASSETS.items():
        with open(os.path.join(here, name), encoding="utf-8") as file:
            assets[path] = (file.read(), kind)

    async def asset(request):
        text, kind = assets[request.path]
        return web.Response(text=text, content_type=kind, charset="utf-8")

    async def search(request):
        try:
            return web.json_response(await pipeline.answer(request.query.get("q", "")))
        except Refused as error:
            return web.json_response({"error": str(error)}, status=400)
        except Unavailable as error:
            return web.json_response({"error": str(error)}, status=error.status)

    async def tell(_request):
        return web.json_response({"packages": len(pipeline.packages), "measured": about()})

    async def live(_request):
        return web.json_response({"live": True})

    async def secure(_request, response):
        response.headers.update(HEADERS)

    app = web.Application()
    app.add_routes([web.get(path, asset) for path in ASSETS])
    app.add_routes([web.get("/api/search", search), web.get("/api/about", tell), web.get("/health/live", live)])
    app.on_response_prepare.append(secure)
    return app


async def run(options):
    # The services are this machine's or named on purpose: no proxy of the environment is asked.
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=options.timeout), trust_env=False) as session:
        pipeline = Pipeline(options.data, session, options.models, options.vectors)
        if options.measure:
            print(json.dumps(await pipeline.measure(options.measure)))
            return

        def about():
            try:
                with open(os.path.join(options.data, "measured.json"), encoding="utf-8") as file:
                    return json.load(file)
            except OSError:
                return None

        runner = web.AppRunner(application(pipeline, about), access_log=None)
        await runner.setup()
        address, _colon, port = options.listen.rpartition(":")
        await web.TCPSite(runner, address.strip("[]"), int(port)).start()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
        await runner.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIRECTORY", required=True, help="the corpus and the tokenizer")
    parser.add_argument("--models", metavar="URL", default="http://127.0.0.1:8000", help="where minilm and ranker are served (default: %(default)s)")
    parser.add_argument("--vectors", metavar="URL", default="http://127.0.0.1:8002", help="where the vectors are served (default: %(default)s)")
    parser.add_argument("--listen", metavar="ADDRESS:PORT", default="127.0.0.1:8080", help="(default: %(default)s)")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=10, help="for the answer of a service (default: %(default)s)")
    parser.add_argument("--measure", metavar="QUERIES", type=int, default=0, help="ask so many held out queries and print what ranking brings")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
