# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a converged run of playbooks/ai-node.yml (tuning and audit) costs a host, beside the same settings by plain tasks (peer.yml).

CPU seconds of controller and target together, over a local connection, the two run in turn. Both work on a two-socket Xeon that is described
in tests/unit/machines.py, laid over /sys and /proc in a mount namespace of their own, with layers over /etc, /usr/local and /var/lib that show nothing of
an installation of the collection: this machine neither counts nor is changed. The goal is a ratio of at most 1/3. More than 15 tasks of ours are a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
VENV = CHECKOUT / ".venv/bin"
sys.path[:0] = [str(CHECKOUT / "tests/lab"), str(CHECKOUT / "tests/unit")]

import lab
import machines

PLAYBOOKS = {"ours": CHECKOUT / "playbooks/ai-node.yml", "peer": HERE / "peer.yml"}
# Plain files stand for what a kernel would have: the machine's, and the settings of memory.
TREES = ["/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/hugepages"]
FILES = {
    "/proc/sys/kernel/numa_balancing": "1\n",
    "/proc/sys/vm/swappiness": "60\n",
    "/proc/sys/vm/zone_reclaim_mode": "0\n",
    # As both want them, since a plain file does not answer in the kernel's way ("always [madvise] never").
    "/sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never\n",
    "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
}
MOST_TASKS = 15
VARIABLES = {"ainode_services": [], "hugepages_pages": [{"size": "2M", "nodes": {"0": 64, "1": 64}}]}


def posix_collection():
    """The directory of collections with ansible.posix, out of the bundle on PyPI (hash-pinned in requirements.txt), kept in the cache."""
    requirements = HERE / "requirements.txt"
    directory = lab.CACHE / f"collections-{lab.digest(requirements.read_text())}"
    with lab.locked("collections"):
        if not directory.exists():
            with tempfile.TemporaryDirectory(dir=lab.CACHE) as work:
                lab.run(VENV / "python", "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-d", work, "-r", requirements)
                with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as wheel:
                    wheel.extractall(Path(work, "tree"), [name for name in wheel.namelist() if name.startswith("ansible_collections/ansible/posix/")])
                Path(work, "tree").rename(directory)
    return directory


def lay_machine(work):
    """Show this process and its children the described machine; `work` is an empty directory."""
    root = Path(machines.build("xeon-8380-2s", work))
    lab.own_mounts()
    for path in [*TREES, "/proc/cpuinfo"]:
        lab.run("mount", "--bind", root / path[1:], path)
    for path, content in FILES.items():
        if Path(path).exists():
            plain = root / path[1:]
            plain.parent.mkdir(parents=True, exist_ok=True)
            plain.write_text(content)
            lab.run("mount", "--bind", plain, path)
    for path in ("/etc", "/usr/local", "/var/lib"):
        layer = Path(work, "layers", path[1:])
        for part in ("upper", "work"):
            (layer / part).mkdir(parents=True)
        lab.run("mount", "-t", "overlay", "-o", f"lowerdir={path},upperdir={layer}/upper,workdir={layer}/work", "overlay", path)
        # A machine where the collection is installed shows none of it here: every file of ours bears its name.
        lab.run("find", path, "-name", "*ainode*", "-prune", "-exec", "rm", "-r", "--", "{}", "+")
    # Nor is this machine's systemd asked for anything.
    if Path("/run/systemd").is_dir():
        lab.run("mount", "-t", "tmpfs", "tmpfs", "/run/systemd")


def play(name, collections):
    """Run a playbook; returns (CPU seconds, seconds, module tasks that ran, changed tasks)."""
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": f"{CHECKOUT / 'collections'}:{collections}", "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")}
    command = [VENV / "ansible-playbook", "-i", CHECKOUT / "inventory", "-e", json.dumps(VARIABLES), PLAYBOOKS[name]]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command, env=environment, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise lab.LabError(f"{PLAYBOOKS[name]} failed:\n{done.stdout[-4000:]}")
    counters = dict(field.split("=") for field in re.findall(r"^localhost +: (.*)$", done.stdout, re.MULTILINE)[0].split())
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds, int(counters["ok"]), int(counters["changed"])


def measure(rounds):
    """Converge both, then run them in turn; prints the table and the ratio."""
    collections = posix_collection()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as work:
        lay_machine(work)
        # ours first: the peer copies the files that ours wrote.
        for name in ("ours", "peer", "ours"):
            play(name, collections)
        runs = {name: [] for name in PLAYBOOKS}
        for _dummy in range(rounds):
            for name in PLAYBOOKS:
                runs[name].append(play(name, collections))
                if runs[name][-1][3]:
                    raise lab.LabError(f"{PLAYBOOKS[name]} changed something on a converged host: nothing comparable was measured")
    if runs["ours"][0][2] > MOST_TASKS:
        raise lab.LabError(f"a converged run of tuning and audit took {runs['ours'][0][2]} tasks, at most {MOST_TASKS} are wanted")
    print(f"{'':6}{'CPU s a host':>14}{'seconds':>10}{'tasks':>8}")
    medians = {}
    for name, results in runs.items():
        medians[name] = statistics.median(cpu for cpu, *_rest in results)
        print(f"{name:6}{medians[name]:14.2f}{statistics.median(seconds for _cpu, seconds, *_rest in results):10.2f}{results[0][2]:8}")
    print(f"ratio of CPU seconds, ours to peer, median of {rounds}: {medians['ours'] / medians['peer']:.2f} (goal: at most 0.33)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    options = parser.parse_args()
    lab.need_root()
    if not VENV.is_dir():
        raise lab.LabError("there is no .venv: run 'make setup' first")
    return measure(options.rounds)


if __name__ == "__main__":
    lab.main(main)
