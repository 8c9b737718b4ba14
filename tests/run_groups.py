# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run groups of tests, targets of the Makefile, three at a time; all of them, whatever fails.

    python3 tests/run_groups.py molecule-vm models lint

What a group prints comes when it is done, and stays in build/test/GROUP.log. The last lines say how long each group took and, of those that
failed, which lines of their output tell why: molecule ends with pages that do not.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
LOGS = CHECKOUT / "build" / "test"
AT_ONCE = 3  # the hosts mostly wait, for each other's answers and for a boot
# A failed task and what Ansible says of it, a failed row of the audit, a failed test.
TELLING = re.compile(r"fatal: |failed: |FAILED|ERROR|E  |\[ERROR\]|make(\[\d+\])?: \*\*\*|FAIL +[a-z_]+\.")
FATAL_LINES = 25  # of a task's message
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Molecule draws a box around what it runs.
BOX = re.compile(r"^\s*│ ?")


def run(group):
    """Run one group into its log; return its name, exit status and minutes."""
    started = time.monotonic()
    with (LOGS / f"{group}.log").open("wb") as log:
        status = subprocess.run(
            ["make", "--no-print-directory", group], cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
    return group, status, (time.monotonic() - started) / 60


def output(group):
    return (LOGS / f"{group}.log").read_text(encoding="utf-8", errors="replace")


def telling(text, lines=12, width=400):
    """Return the lines of a failed group's output that say why, or its last ones if none does: those that tell, and the message of the last failed task."""
    text = [BOX.sub("", COLOUR.sub("", line))[:width] for line in text.splitlines()]
    found = [number for number, line in enumerate(text) if TELLING.match(line)][-lines:]
    fatal = max((number for number in found if text[number].startswith("fatal: ")), default=None)
    if fatal is not None:
        found = sorted({*found, *range(fatal, min(fatal + FATAL_LINES, len(text)))})
    return [text[number] for number in found] or text[-lines:]


def main(groups):
    LOGS.mkdir(parents=True, exist_ok=True)
    # A make that was started with jobs of its own must not lend them: its pipe is closed for programs it does not know as a make.
    os.environ["MAKEFLAGS"] = re.sub(r"(^| )(-j\d*|--jobserver-\S+)", "", os.environ.get("MAKEFLAGS", ""))
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = []
        for done in concurrent.futures.as_completed([pool.submit(run, group) for group in groups]):
            results.append(done.result())
            print(output(done.result()[0]), flush=True)
    for group, status, minutes in results:
        print(f"{group:12} {'passed' if status == 0 else 'FAILED'} {minutes:5.1f} min")
    failed = [group for group, status, _minutes in results if status]
    for group in failed:
        print(f"\nWhy {group} failed (all of it: build/test/{group}.log):")
        print("\n".join(telling(output(group))))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
