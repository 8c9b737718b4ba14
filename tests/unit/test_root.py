# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root, RootError


@pytest.fixture
def root(tmp_path):
    cpus = tmp_path / "sys/devices/system/cpu"
    for name in ("cpu0", "cpu2", "cpu10", "cpufreq"):
        (cpus / name).mkdir(parents=True)
    (cpus / "online").write_text("0,2,10\n")
    (tmp_path / "sys/driver").symlink_to("../nowhere/ixgbe")
    return Root(str(tmp_path))


def test_reads(root):
    assert root.read("/sys/devices/system/cpu/online") == "0,2,10"
    assert root.read_bytes("/sys/devices/system/cpu/online") == b"0,2,10\n"
    assert root.read_int("/sys/devices/system/cpu/online") is None
    assert root.numbered("/sys/devices/system/cpu", "cpu") == [0, 2, 10]
    assert root.link("/sys/driver") == "ixgbe"
    assert not root.is_live


def test_what_is_not_there_is_none(root):
    assert root.read("/sys/nothing") is None
    assert root.read_int("/sys/nothing") is None
    assert root.names("/sys/nothing") == []
    assert root.link("/sys/nothing") is None
    assert root.read("/sys/devices") is None
    assert not root.exists("/sys/nothing")


def test_this_machine():
    assert Root("/").is_live
    assert Root("/").read("/proc/self/stat")


@pytest.mark.parametrize("path", ["relative", "", "/nowhere/at/all", "/proc/version"])
def test_a_root_that_is_none(path):
    with pytest.raises(RootError, match=f"root '{path}' is not"):
        Root(path)


def test_a_directory_without_proc_and_sys(tmp_path):
    with pytest.raises(RootError, match="neither proc/ nor sys/"):
        Root(str(tmp_path))
