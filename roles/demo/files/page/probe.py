# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the demo one query, for the audit: prints {"verdict", "live", "reason"} as JSON.

Where systemd does not run, the page and the first instance of each service that it asks are started as their units say, and stopped again.
"""

import contextlib
import json
import os
import shlex
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

UNIT = "/etc/systemd/system/ainode-{}-0.service"
QUERY = "play chess against the computer"


class Failed(Exception):
    """The verdict is fail; the text says why."""


def unit(name):
    """Return (the words of ExecStart, {option: value}, the environment) of a service's first unit."""
    with open(UNIT.format(name), encoding="utf-8") as file:
        settings = [line.strip().split("=", 1) for line in file if "=" in line]
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(dict(settings)["ExecStart"])]
    environment = dict(shlex.split(value)[0].split("=", 1) for key, value in settings if key == "Environment")
    return words, dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word), environment


def get(url):
    """Return the JSON at a URL of this machine."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Failed(error.read().decode("utf-8", "replace")[:300]) from None


def await_ready(process, url, what):
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError, Failed):
            get(url)
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"started for a query, the {what} was not ready")
        time.sleep(0.2)


def main():
    page, options, environment = unit("demo")
    base = "http://" + options["listen"].replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
    started = []
    try:
        with contextlib.ExitStack() as stack:

            def start(words, more, ready, what):
                given = {"user": "ainode", "group": "ainode", "extra_groups": [], "cwd": "/", "env": {**os.environ, **more}}
                process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **given)
                started.append(what)
                stack.callback(process.wait)
                stack.callback(process.kill)
                await_ready(process, ready, what)

            if not os.path.isdir("/run/systemd/system"):
                words, its, more = unit("model-service")
                models = f"http://{its['address'].replace('0.0.0.0', '127.0.0.1')}:{its['port']}"
                start(words, more, models + "/v2/health/ready", "model service")
                words, its, more = unit("vector-search")
                vectors = "http://" + its["listen"].replace("0.0.0.0", "127.0.0.1")
                start([word for word in words if not word.startswith(("--admin", "--writes"))], more, vectors + "/v2/health/ready", "vector search")
                start([*page, "--models=" + models, "--vectors=" + vectors], environment, base + "/health/live", "page")
            found = get(base + "/api/search?q=" + urllib.parse.quote(QUERY))
        if not found["ranked"]:
            raise Failed(f"'{QUERY}' has no results")
        times = ", ".join(f"{stage['name']} {stage['ms']:.1f} ms" for stage in found["stages"])
        verdict, live, reason = "pass", f"'{QUERY}': {found['ranked'][0]['name']} first; {times}", f"started for it: {', '.join(started)}" if started else ""
    except (Failed, OSError, ValueError, KeyError) as error:
        verdict, live, reason = "fail", None, str(error)
    print(json.dumps({"verdict": verdict, "live": live, "reason": reason}))


if __name__ == "__main__":
    main()
