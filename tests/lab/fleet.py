# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many hosts in seconds: an sshd each, in network, mount and process namespaces of its own, on a disk that is a layer over one base system.

  fleet up N     start N hosts, node-001 and on, afresh; writes the inventory build/lab/fleet.yml
  fleet down     end them and forget their disks

They have no systemd, and /sys and /proc/sys, which are this machine's, are read-only.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import lab

BRIDGE = "ainode-lab"
# RFC 2544's addresses for test networks: nobody's real ones.
NETWORK = "198.18.0"
MOST = 200

# In the host's namespaces, as their first process: $1 base system, $2 its own directory, $3 its name.
HOST = """set -e
hostname "$3"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
cd "$2/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs dev/shm
mkdir run/sshd
exec chroot . /usr/sbin/sshd -D -e
"""


def base():
    """The base system unpacked, in the cache."""
    tarball = lab.base_tarball("bookworm")
    root = tarball.with_suffix(".root")
    with lab.locked("root"):
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=lab.CACHE) as work:
                tree = Path(work, "root")
                tree.mkdir()
                lab.run("tar", "-C", tree, "-xf", tarball)
                for old in lab.CACHE.glob("bookworm-????????????.root"):
                    shutil.rmtree(old)
                tree.rename(root)
    return root


def host_name(number):
    return f"node-{number:03d}"


def start(number, root, files):
    """Start one host; returns its address."""
    name, address = host_name(number), f"{NETWORK}.{number + 1}"
    namespace, directory = f"{BRIDGE}-{number}", lab.BUILD / "fleet" / host_name(number)
    for part in ("root", "upper", "work"):
        (directory / part).mkdir(parents=True)
    lab.lay({**files, "/etc/hostname": f"{name}\n"}, directory / "upper")
    (directory / "upper/etc/ssh/ssh_host_ed25519_key").chmod(0o600)
    outside = f"ainode{number}"
    lab.run("ip", "-batch", "-", input="\n".join([
        f"netns add {namespace}",
        f"link add {outside} type veth peer name eth0 netns {namespace}",
        f"link set {outside} master {BRIDGE} up",
    ]))  # fmt: skip
    lab.run("ip", "-n", namespace, "-batch", "-", input="\n".join([
        "link set lo up",
        f"address add {address}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {NETWORK}.1",
    ]))  # fmt: skip
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child",
         "sh", "-c", HOST, "sh", root, directory, name],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(directory / "log").open("w"), start_new_session=True,
    )  # fmt: skip
    (directory / "pid").write_text(str(process.pid))
    return address


def answers(address):
    """Whether an sshd greets there."""
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def up(options):
    """Start N hosts."""
    if not 1 <= options.count <= MOST:
        raise lab.LabError(f"{options.count} hosts: give a number from 1 to {MOST}")
    lab.need("ip", "unshare", "ssh")
    root = base()
    down(options)
    files = {**lab.host_files()[0], **lab.guest_ssh_files(), "/etc/ssh/sshd_config.d/lab.conf": "UseDNS no\nUsePAM no\nHostKey /etc/ssh/ssh_host_ed25519_key\n"}
    lab.run("ip", "-batch", "-", input=f"link add {BRIDGE} type bridge\naddress add {NETWORK}.1/24 dev {BRIDGE}\nlink set {BRIDGE} up")
    hosts = {host_name(number): {"address": start(number, root, files), "port": 22} for number in range(1, options.count + 1)}
    for name, where in hosts.items():
        deadline = time.monotonic() + 20
        while not answers(where["address"]):
            if time.monotonic() > deadline:
                raise lab.LabError(f"{name} does not answer on {where['address']}: {(lab.BUILD / 'fleet' / name / 'log').read_text().strip()}")
            time.sleep(0.05)
    print(lab.write_inventory("fleet", hosts))


def down(_options):
    """End the hosts and forget their disks."""
    fleet = lab.BUILD / "fleet"
    for directory in sorted(fleet.glob("node-*")):
        with contextlib.suppress(OSError, ValueError):
            pid = int((directory / "pid").read_text())
            # A number alone could be somebody else's by now.
            if str(directory) in Path(f"/proc/{pid}/cmdline").read_text():
                # unshare ignores SIGTERM; its children go with it, and with them the mounts.
                os.kill(pid, signal.SIGKILL)
                while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/cmdline").read_text():
                    time.sleep(0.01)
    for line in lab.output("ip", "netns", "list").splitlines():
        namespace = line.split()[0]
        if namespace.startswith(f"{BRIDGE}-"):
            lab.run("ip", "netns", "delete", namespace)
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        lab.run("ip", "link", "delete", BRIDGE)
    shutil.rmtree(fleet, ignore_errors=True)
    (lab.BUILD / "fleet.yml").unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True, metavar="up|down")
    command = actions.add_parser("up", help=up.__doc__)
    command.add_argument("count", metavar="N", type=int)
    command.set_defaults(function=up)
    actions.add_parser("down", help=down.__doc__).set_defaults(function=down)
    options = parser.parse_args()
    lab.need_root()
    return options.function(options)


if __name__ == "__main__":
    lab.main(main)
