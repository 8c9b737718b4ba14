# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""podman as the lab uses it: as root, with runc and cgroupfs, which work on hybrid cgroups and under limits that root cannot raise."""

from __future__ import annotations

import os
import resource

import lab

PREFIX = "ainode-lab-"


def environment():
    """The environment for podman: this process's, with a configuration of the lab's own."""
    # Root without CAP_SYS_RESOURCE cannot raise its limits, and podman's defaults would.
    files = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    path = lab.BUILD / "containers.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\npids_limit = 0\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    return {**os.environ, "CONTAINERS_CONF": str(path)}


def podman(*words, **options):
    """Run podman; returns the CompletedProcess."""
    return lab.run("podman", *words, env=environment(), **options)


def query(*words):
    """What podman prints, stripped; "" when it fails."""
    return podman(*words, check=False, stdout=lab.subprocess.PIPE, stderr=lab.subprocess.DEVNULL).stdout.strip()


def ready():
    """Have podman with what it runs on, or raise LabError."""
    lab.need_root()
    lab.need("podman", "runc", "iptables", "netavark", "aardvark-dns")


def image(name):
    """The podman image of the base system `name`, imported if it is not there from the same tarball; returns its reference."""
    ready()
    reference = f"localhost/ainode-lab:{name}"
    tarball = lab.base_tarball(name)
    with lab.locked("podman-import"):
        if query("image", "inspect", "--format", '{{index .Labels "tarball"}}', reference) != tarball.name:
            podman("import", "--quiet", "--change", f"LABEL tarball={tarball.name}", tarball, reference, stdout=lab.subprocess.DEVNULL)
    return reference
