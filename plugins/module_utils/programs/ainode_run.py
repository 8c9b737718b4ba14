# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""ainode-run: start a command pinned as one instance of a workload.

The module runtime_env installs this file as /usr/local/bin/ainode-run, so it is a program of its own: the standard library alone, and
nothing of this collection. docs/runtime-env.md is its manual.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys

PLACEMENT = "/etc/ainode/placement.json"

# Exit codes as env(1), nohup(1) and timeout(1) have them; any other one is the command's own.
FAILED, CANNOT_EXECUTE, NOT_FOUND = 125, 126, 127

# What --preload knows by name: file names, best first, and where to get one.
LIBRARIES = {
    "jemalloc": (("libjemalloc.so.2",), "Debian's package libjemalloc2"),
    "tcmalloc": (("libtcmalloc_minimal.so.4", "libtcmalloc.so.4"), "Debian's package libtcmalloc-minimal4"),
    "libomp": (("libomp.so.5", "libomp.so"), "Debian's package libomp5"),
    "libiomp5": (("libiomp5.so",), "the package intel-openmp from PyPI, in the command's virtual environment"),
}

# The system calls' numbers are the kernel's: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_MODES = {"bind": 2, "interleave": 3}  # include/uapi/linux/mempolicy.h
_NUMACTL = {"bind": "--membind", "interleave": "--interleave"}


class RunError(Exception):
    """The command was not started. `code` is the exit code."""

    def __init__(self, message, code=FAILED):
        super().__init__(message)
        self.code = code


def expand(cpulist):
    """Return the set of the ids in a cpulist ("0-3,8") out of the placement."""
    ids = set()
    for part in cpulist.split(","):
        first, _dash, last = part.partition("-")
        ids.update(range(int(first), int(last or first) + 1))
    return ids


def find_library(name, root="", extra=()):
    """Return the path of the shared library that --preload calls `name`; a path is returned as it is. Raises RunError when it is not there.

    `root` is put before each path that is looked at; `extra` are directories to look into first.
    """
    if "/" in name:
        if not os.path.isfile(root + name):
            raise RunError(f"preload: {name} is not there")
        if set(name) & set(": \t\n"):
            raise RunError(f"preload: '{name}' holds a space or a colon, where the dynamic linker would split it")
        return name
    if name not in LIBRARIES:
        raise RunError(f"preload: '{name}' is unknown: give {', '.join(sorted(LIBRARIES))} or a path")
    files, source = LIBRARIES[name]
    # Debian and its relatives keep libraries in a folder by architecture.
    directories = list(dict.fromkeys([*extra, "/usr/local/lib", f"/usr/lib/{platform.machine()}-linux-gnu", "/usr/lib64", "/usr/lib"]))
    for directory in directories:
        for file in files:
            if os.path.isfile(f"{root}{directory}/{file}"):
                return f"{directory}/{file}"
    raise RunError(f"preload: {files[0]} is in none of {', '.join(directories)}: install {source}")


def preloading(paths):
    """Return the variables {name: text, or None to take it out} that go with preloading the libraries `paths`."""
    if not paths:
        return {}
    variables = {"LD_PRELOAD": ":".join(paths)}
    names = [os.path.basename(path) for path in paths]
    if any(name.startswith("libjemalloc") for name in names):
        # As PyTorch's performance tuning guide has it.
        variables["MALLOC_CONF"] = "oversize_threshold:1,background_thread:true,metadata_thp:auto"
    if any(name.startswith(("libomp", "libiomp5")) for name in names):
        # PyTorch and others still load GNU's OpenMP too. With these set, it binds the main thread to one CPU while it is loaded; LLVM's and
        # Intel's, which start later, then find a process of one CPU and put every thread there.
        variables.update(OMP_PROC_BIND=None, OMP_PLACES=None)
    return variables


def load(path):
    """Return {workload: [instance]} of the placement file `path`. Raises RunError."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)["workloads"]
    except FileNotFoundError:
        raise RunError(f"{path} is not there: apply the role ainode.cpu.runtime_env to this node first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}): apply the role ainode.cpu.runtime_env again") from None


def choose(workloads, workload, instance):
    """Return one instance of {workload: [instance]}; both may be None where there is but one. Raises RunError."""
    if workload is None and len(workloads) == 1:
        workload = next(iter(workloads))
    if workload not in workloads:
        raise RunError(f"{_given('--workload', workload)}: give one of {', '.join(sorted(workloads))}")
    instances = workloads[workload]
    if instance is None and len(instances) == 1:
        instance = 0
    if instance is None or not 0 <= instance < len(instances):
        raise RunError(f"{_given('--instance', instance)}: {workload} has the instances 0 to {len(instances) - 1} on this node (--list shows them)")
    return instances[instance]


def _given(option, value):
    return f"no {option} was given" if value is None else f"{option} is {value}"


def table(workloads):
    """Return the instances as a table for people."""
    rows = [("INSTANCE", "NODE", "CPUS", "THREADS", "MEMORY")]
    for workload in sorted(workloads):
        for one in workloads[workload]:
            memory = f"{one['memory_policy']} {one['memory_node']}" if one["memory_policy"] else "-"
            rows.append((one["name"], "-" if one["numa_node"] is None else str(one["numa_node"]), one["cpus"], str(one["threads"]), memory))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() + "\n" for row in rows)


def environment(instance, preload, overrides, inherited):
    """Return the whole environment of the command; what counts more comes later: inherited, the instance's, what preloading needs, --env."""
    result = dict(inherited)
    result.update(instance["env"])
    preload = preload + [path for path in (inherited.get("LD_PRELOAD"), instance["env"].get("LD_PRELOAD")) if path]
    for name, value in preloading(preload).items():
        result.pop(name, None)
        if value is not None:
            result[name] = value
    result.update(overrides)
    return result


def numactl_command(instance):
    """Return numactl's command line for the instance, [] where numactl is not installed or has nothing to do (no NUMA)."""
    numactl = shutil.which("numactl")
    if not numactl or not instance["memory_policy"]:
        return []
    return [numactl, f"--physcpubind={instance['cpus']}", f"{_NUMACTL[instance['memory_policy']]}={instance['memory_node']}"]


def pin_cpus(instance):
    """Confine this process, and what it becomes, to the CPUs of the instance. Raises RunError when the kernel gives others."""
    wanted = expand(instance["cpus"])
    try:
        os.sched_setaffinity(0, wanted)
        got = os.sched_getaffinity(0)
    except OSError as error:
        raise RunError(f"{instance['name']} is placed on the CPUs {instance['cpus']}, and this process may use none of them ({error.strerror})") from None
    if got != wanted:
        missing = ",".join(str(number) for number in sorted(wanted - got))
        raise RunError(
            f"{instance['name']} is placed on the CPUs {instance['cpus']}, and this process may not use {missing}: they are offline, or outside the "
            "cpuset of its cgroup; start it elsewhere, or apply the role ainode.cpu.runtime_env again"
        )


def set_memory_policy(instance):
    """Give this process, and what it becomes, the memory policy of the instance, as numactl would; return why not, or None."""
    import ctypes

    number = _SET_MEMPOLICY.get(platform.machine())
    if number is None:
        return f"its system call's number on {platform.machine()} is not known here: install numactl"
    word = 8 * ctypes.sizeof(ctypes.c_ulong)
    nodes = expand(instance["memory_node"])
    mask = (ctypes.c_ulong * (max(nodes) // word + 1))()
    for node in nodes:
        mask[node // word] |= 1 << node % word
    libc = ctypes.CDLL(None, use_errno=True)
    # The kernel reads one bit less than it is told.
    if libc.syscall(number, _MODES[instance["memory_policy"]], mask, ctypes.c_ulong(len(mask) * word + 1)):
        return os.strerror(ctypes.get_errno())
    return None


def start(instance, command, env):
    """Become the command, pinned. Returns never; raises RunError."""
    path = shutil.which(command[0], path=env.get("PATH", os.defpath))
    if path is None:
        if "/" in command[0] and os.path.exists(command[0]):
            raise RunError(f"{command[0]} cannot be executed", CANNOT_EXECUTE)
        raise RunError(f"{command[0]} is not there", NOT_FOUND)
    pin_cpus(instance)
    prefix = numactl_command(instance)
    refused = None
    if prefix:
        # A container may refuse memory policies. That is better known before numactl has taken our place.
        probe = subprocess.run([*prefix, "true"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if probe.returncode:
            refused, prefix = (probe.stdout.strip() or f"numactl ended with {probe.returncode}").splitlines()[0], []
    elif instance["memory_policy"]:
        refused = set_memory_policy(instance)
    if refused:
        say(f"memory is not bound to node {instance['memory_node']} ({refused}): the CPUs are pinned, and memory comes from where it is first touched")
    try:
        os.execve(prefix[0] if prefix else path, [*prefix, path, *command[1:]] if prefix else command, env)
    except OSError as error:
        raise RunError(f"{command[0]} cannot be executed: {error.strerror}", CANNOT_EXECUTE) from None


def dry_run(instance, command, env, inherited):
    """Return the shell command that does the same."""
    changes = [f"{name}={value}" for name, value in env.items() if inherited.get(name) != value]
    unset = [word for name in sorted(set(inherited) - set(env)) for word in ("-u", name)]
    prefix = numactl_command(instance) or ["taskset", "--cpu-list", instance["cpus"]]
    text = shlex.join(["env", *unset, *changes, *prefix, *command])
    if instance["memory_policy"] and prefix[0] == "taskset":
        text += f"  # numactl is not installed: ainode-run sets the memory policy ({instance['memory_policy']} {instance['memory_node']}) itself"
    return text


def say(message):
    """Tell the user; standard output is the command's."""
    sys.stderr.write(f"ainode-run: {message}\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise RunError(f"{message} (ainode-run --help)")


def parse(arguments):
    """Return the parsed command line. Raises RunError."""
    parser = _Parser(
        prog="ainode-run",
        allow_abbrev=False,
        usage="ainode-run --workload NAME --instance N [--env KEY=VALUE]... [--preload LIBRARY]... [--dry-run] -- COMMAND [ARGUMENT]...\n"
        "       ainode-run --list",
        description="Start COMMAND pinned as one instance of a workload: on its CPUs, with its memory policy and its environment.",
        epilog="Exit code: the command's own; 125 when ainode-run fails itself, 126 when COMMAND cannot be executed, 127 when it is not there.",
    )
    parser.add_argument("--workload", metavar="NAME", help="online, batch, search or training; may be left out where the node has one alone")
    parser.add_argument("--instance", metavar="N", type=int, help="number of the instance, from 0 up; may be left out where there is one alone")
    parser.add_argument("--env", metavar="KEY=VALUE", action="append", default=[], help="set a variable for COMMAND; counts more than the placement")
    parser.add_argument("--preload", metavar="LIBRARY", action="append", default=[], help=f"preload a shared library: {', '.join(sorted(LIBRARIES))} or a path")
    parser.add_argument("--dry-run", action="store_true", help="print the shell command that does the same, and end")
    parser.add_argument("--list", action="store_true", help="print the instances of this node, and end")
    parser.add_argument("--placement", metavar="FILE", default=PLACEMENT, help="read another placement than %(default)s")
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to start")
    options = parser.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.list and not options.command:
        raise RunError("no COMMAND was given (ainode-run --help)")
    for text in options.env:
        if not text.partition("=")[0] or "=" not in text:
            raise RunError(f"--env is '{text}': give KEY=VALUE")
    return options


def main(arguments):
    """Run the command line `arguments`; return the exit code, or become the command."""
    try:
        options = parse(arguments)
        workloads = load(options.placement)
        if options.list:
            sys.stdout.write(table(workloads))
            return 0
        instance = choose(workloads, options.workload, options.instance)
        # A virtual environment keeps the libraries that come as packages in lib/, beside bin/.
        program = shutil.which(options.command[0])
        beside = [os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(program))), "lib")] if program else []
        preload = [find_library(name, extra=beside) for name in options.preload]
        env = environment(instance, preload, dict(text.split("=", 1) for text in options.env), os.environ)
        if options.dry_run:
            sys.stdout.write(dry_run(instance, options.command, env, os.environ) + "\n")
            return 0
        start(instance, options.command, env)
    except RunError as error:
        say(str(error))
        return error.code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
