# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers as test hosts, reached by ssh (build/lab/<inventory>.yml) or with `exec`.

container up NAME...        start systemd nodes afresh: /sys and /proc/sys are read-only, as in most people's containers
container up --privileged   the same with /sys and /proc/sys writable: they are this machine's, put back what you change
container up --machine DIR  with the CPU, memory and NUMA files of a recorded machine in a writable copy of their own:
                            lscpu, numactl and cpupower see that machine, and a plain file takes any value
container up --bare         no systemd, no sshd: an unprivileged container with git, make and python3, for `exec`; /tmp is noexec
container exec NAME -- COMMAND...
container down NAME...
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import lab
from podman import PREFIX, image, podman, query, ready

# The parts of another machine that a container can show as its own. runc mounts nothing else inside /proc.
MACHINE = ["/proc/cpuinfo", "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/hugepages"]
# What without_vnni leaves of the CPU holds for the containers too.
CPU_LIMITS = ("ONEDNN_MAX_CPU_ISA", "VNNI_SEARCH_KERNEL")
# In a privileged container udev would act on this machine's devices.
UDEV = ["systemd-udevd.service", "systemd-udevd-kernel.socket", "systemd-udevd-control.socket", "systemd-udev-trigger.service"]


def machine_mounts(machine, name):
    """podman options that show the container `name` a copy of its own of `machine`."""
    copy = lab.BUILD / "machines" / name
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    if Path(machine, "sys/devices/system/cpu").is_dir():
        for path in MACHINE:
            source, target = Path(machine, path[1:]), copy / path[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            elif source.exists():
                shutil.copyfile(source, target)
        lab.run("chmod", "-R", "u+w", copy)
    else:
        sys.path.insert(0, str(lab.CHECKOUT / "tests/unit"))
        import machines

        if machine not in machines.MACHINES:
            raise lab.LabError(f"'{machine}' is no directory of a recorded machine and none of {', '.join(machines.MACHINES)}")
        copy = Path(machines.build(machine, copy))
    # The kernel's own file must be there to be covered.
    return [f"--volume={copy / path[1:]}:{path}" for path in MACHINE if (copy / path[1:]).exists() and Path(path).exists()]


def create(name, machine, options):
    """Create and start the container `name` from nothing, showing `machine` unless ""; returns its address ("" for a bare one)."""
    reference = image(options.image or ("bookworm-bare" if options.bare else "bookworm"))
    remove(name)
    files, shown = lab.host_files()
    arguments = [f"--name={PREFIX}{name}", f"--hostname={name}", *(f"--volume={path}:{path}:ro" for path in shown)]
    if machine:
        arguments += machine_mounts(machine, name)
    elif os.path.ismount("/proc/cpuinfo"):  # by without_vnni
        arguments.append("--volume=/proc/cpuinfo:/proc/cpuinfo:ro")
    limits = [f"{key}={os.environ[key]}" for key in CPU_LIMITS if key in os.environ]
    arguments += [f"--env={limit}" for limit in limits]
    if limits:  # systemd hands its own environment to no unit
        files["/etc/systemd/system.conf.d/cpu.conf"] = f"[Manager]\nDefaultEnvironment={' '.join(limits)}\n"
    if options.bare:
        command = ["sleep", "infinity"]
        arguments.append("--tmpfs=/tmp:rw,noexec,mode=1777")
    else:
        files.update(lab.guest_ssh_files())
        command = ["/sbin/init"]
        arguments.append("--systemd=always")
        if options.privileged:
            arguments += ["--privileged", *(f"--volume=/dev/null:/etc/systemd/system/{unit}:ro" for unit in UDEV)]
        else:
            # What the units' own sandboxes need (mount namespaces), without giving /sys away.
            arguments += ["--cap-add=SYS_ADMIN,SYS_NICE,NET_ADMIN", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]
    podman("create", "--quiet", *arguments, reference, *command, stdout=lab.subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as directory:
        lab.lay(files, directory)
        if not options.bare:
            (Path(directory) / "etc/ssh/ssh_host_ed25519_key").chmod(0o600)
        podman("cp", f"{directory}/.", f"{PREFIX}{name}:/")
    podman("start", f"{PREFIX}{name}", stdout=lab.subprocess.DEVNULL)
    if options.bare:
        return ""
    for _dummy in range(60):
        state = query("exec", f"{PREFIX}{name}", "systemctl", "is-system-running")
        if state in ("running", "degraded"):
            break
        time.sleep(0.5)
    if state != "running":
        failed = query("exec", f"{PREFIX}{name}", "systemctl", "--failed", "--plain", "--no-legend")
        raise lab.LabError(f"container '{name}' is '{state}' after start, expected 'running'. Failed units: {failed or 'none'}")
    return query("inspect", "--format", "{{.NetworkSettings.IPAddress}}", f"{PREFIX}{name}")


def remove(name):
    """Remove the container `name`, if there."""
    podman("rm", "--force", "--ignore", "--time=0", "--volumes", f"{PREFIX}{name}", stdout=lab.subprocess.DEVNULL)
    shutil.rmtree(lab.BUILD / "machines" / name, ignore_errors=True)


def up(options):
    """Start the containers and write their inventory."""
    addresses = {}
    for word in options.names:
        name, _dummy, machine = word.partition("=")
        addresses[name] = create(name, machine, options)
    if not options.bare:
        print(lab.write_inventory(options.inventory, {name: {"address": address, "port": 22} for name, address in addresses.items()}))


def down(options):
    """Remove the containers and their inventory."""
    for name in options.names:
        remove(name)
    (lab.BUILD / f"{options.inventory}.yml").unlink(missing_ok=True)


def execute(options):
    """Run a command in a container with our standard input; its exit code is ours."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    return podman("exec", "--interactive", *(["--tty"] if sys.stdin.isatty() else []), f"{PREFIX}{options.name}", *command, check=False).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True, metavar="up|down|exec")
    for action, function in (("up", up), ("down", down)):
        command = actions.add_parser(action, help=function.__doc__)
        command.add_argument("names", metavar="NAME[=MACHINE]" if action == "up" else "NAME", nargs="+")
        command.add_argument("--inventory", default="container", help="name of the inventory file (default: container)")
        command.set_defaults(function=function)
        if action == "up":
            command.add_argument("--image", choices=lab.IMAGES, help="default: bookworm, with --bare bookworm-bare")
            command.add_argument("--bare", action="store_true", help="without systemd and ssh")
            command.add_argument("--privileged", action="store_true")
    command = actions.add_parser("exec", help=execute.__doc__)
    command.add_argument("name", metavar="NAME")
    command.add_argument("command", nargs=argparse.REMAINDER)
    command.set_defaults(function=execute)
    options = parser.parse_args()
    ready()
    return options.function(options)


if __name__ == "__main__":
    lab.main(main)
