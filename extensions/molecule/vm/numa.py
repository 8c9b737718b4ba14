# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print where each instance of the services runs and where its memory lies; fail unless that is one NUMA node, and no two have a core in common.

Runs on the test host as root. It knows the units' names and their ports, and asks systemctl, taskset, numactl, numastat, lscpu, ss and the kernel.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request

# The first instance's port, the model's name and a request for it.
SERVICES = {
    "vector-search": (8500, "vectors", {"name": "queries", "datatype": "FP32", "shape": [1, 50], "data": [0.5] * 50}),
    "model-service": (8600, "digits", {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}),
}
BALANCER = 8000
# Pages from before the first instruction of ours (the kernel copies the arguments) may lie elsewhere.
OWN_SHARE = 0.9


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def cpus(cpulist):
    """Return the set of CPUs in "0-2,5"."""
    ends = [part.split("-") for part in cpulist.split(",")]
    return {number for first, *last in ends for number in range(int(first), int((last or [first])[0]) + 1)}


def nodes():
    """Return {node: its set of CPUs}."""
    lines = re.findall(r"^node (\d+) cpus: ([\d ]+)$", output("numactl", "--hardware"), re.MULTILINE)
    return {int(node): {int(cpu) for cpu in listed.split()} for node, listed in lines}


def cores():
    """Return {CPU: its core}."""
    return {int(cpu): core for cpu, core in re.findall(r"^(\d+),(\d+)", output("lscpu", "--parse=CPU,CORE"), re.MULTILINE)}


def instances(service):
    """Return {unit: PID} of what systemd runs of a service."""
    units = re.findall(rf"^(ainode-{service}-\d+\.service) +loaded active running", output("systemctl", "list-units", "--plain", "--no-legend"), re.MULTILINE)
    return {unit: int(output("systemctl", "show", "--property=MainPID", "--value", unit)) for unit in sorted(units)}


def threads(pid):
    """Return the set of CPUs that the threads of a process may run on."""
    return set().union(*(cpus(listed) for listed in re.findall(r"list: (\S+)$", output("taskset", "-apc", str(pid)), re.MULTILINE)))


def memory(pid):
    """Return ({node: MiB of the process's own memory}, the policies that its memory is under).

    numastat counts pages of files too, such as those of libraries. They are the page cache's, of all processes together, and lie where the
    first one read them: they are taken off.
    """
    told = output("numastat", "-p", str(pid))
    total = [float(number) for number in re.search(r"^Total +(.*)$", told, re.MULTILINE)[1].split()[:-1]]
    own = dict(zip((int(node) for node in re.findall(r"Node (\d+)", told)), total))
    policies = set()
    with open(f"/proc/{pid}/numa_maps", encoding="utf-8") as lines:
        for line in lines:
            policies.add(line.split()[1])
            if " file=" in line and " anon=" not in line:
                size = int(re.search(r"kernelpagesize_kB=(\d+)", line)[1]) if "kernelpagesize_kB" in line else 4
                for node, pages in re.findall(r" N(\d+)=(\d+)", line):
                    own[int(node)] -= int(pages) * size / 1024
    return own, policies


def ask(url, body=None):
    """Return the answer in JSON; wait until there is one, for minutes where a host is emulated and has just booted."""
    deadline = time.monotonic() + 600
    while True:
        try:
            with urllib.request.urlopen(url, body and json.dumps(body).encode(), timeout=60) as answer:
                return json.load(answer)
        except OSError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{url}: {error}") from None
            time.sleep(1)


def judge(service, machine):
    """Print a line for each instance of a service, and return (its node, its CPUs) of each."""
    first_port, model, request = SERVICES[service]
    found = instances(service)
    for port in range(first_port, first_port + len(found)):
        ask(f"http://127.0.0.1:{port}/v2/health/ready")
        # Memory that no request has used yet shows little.
        assert ask(f"http://127.0.0.1:{port}/v2/models/{model}/infer", {"inputs": [request]})["outputs"]
    places = []
    for unit, pid in found.items():
        allowed = threads(pid)
        inside = [node for node, there in machine.items() if allowed <= there]
        assert len(inside) == 1, f"{unit} may run on the CPUs {sorted(allowed)}, those of one node are expected"
        (home,) = inside
        own, policies = memory(pid)
        share = own[home] / sum(own.values())
        said = f"{unit}: CPUs {sorted(allowed)} of node {home}, {share:.1%} of {sum(own.values()):.1f} MiB there, policy {', '.join(sorted(policies))}"
        print(said)
        assert share >= OWN_SHARE, said
        # OpenVINO asks for the node that it runs on ("local"), for some of its own memory.
        assert f"bind:{home}" in policies and policies <= {f"bind:{home}", "local"}, said
        listening = output("ss", "-Hltnp", f"sport = :{first_port + int(unit.rpartition('-')[2].partition('.')[0])}")
        assert f"pid={pid}," in listening, f"{unit} does not listen where it should: {listening}"
        places.append((home, allowed))
    return places


def main():
    machine = nodes()
    assert len(machine) > 1, "this host has one NUMA node: nothing to see"
    places = {service: judge(service, machine) for service in SERVICES}
    core_of, owners, homes = cores(), {}, {}
    for service, found in places.items():
        assert found, f"{service} has no instances"
        for home, allowed in found:
            homes.setdefault(home, set()).add(service)
            for core in {core_of[cpu] for cpu in allowed}:
                assert core not in owners, f"core {core} is one of {service} and one of {owners[core]}"
                owners[core] = service
    # Two services and two nodes: one each.
    assert len(homes) == len(SERVICES) and all(len(found) == 1 for found in homes.values()), f"each service is expected on a node of its own: {homes}"
    print(f"{len(owners)} cores, none of them used by two instances")
    _port, model, request = SERVICES["model-service"]
    assert ask(f"http://127.0.0.1:{BALANCER}/v2/models/{model}/infer", {"inputs": [request]})["outputs"]
    print("both answer, and the balancer does")


if __name__ == "__main__":
    main()
