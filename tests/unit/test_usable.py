# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts import usable
from ansible_collections.ainode.cpu.plugins.module_utils.host import cpulist
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root

V2 = {"/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - cgroup2 cgroup rw", "/proc/self/cgroup": "0::/a/b"}
V1 = {
    "/proc/self/cgroup": "7:cpuset:/a/b\n5:cpu,cpuacct:/a/b\n1:name=systemd:/x",
    "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    "/sys/fs/cgroup/cpuset/a/b/": None,
    "/sys/fs/cgroup/cpu,cpuacct/a/b/": None,
}
QUOTA = "/sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture
def told(tmp_path):
    """A function that returns (cpus, count, limit) of a machine with eight CPUs online and these files."""

    def read(files, online=range(8)):
        (tmp_path / "proc").mkdir()
        machines._lay(tmp_path, files)
        return tuple(usable.read(Root(str(tmp_path)), list(online)).values())[:3]

    return read


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xeon-8380-2s", ("0-159", 160, None)),
        ("container-quota-v2", ("0-15", 3, "quota")),
        ("container-cpuset-v1", ("2-5,18", 5, "cpuset")),
    ],
)
def test_described_machines(described, name, expected):
    online = {"xeon-8380-2s": range(160), "container-quota-v2": range(16), "container-cpuset-v1": range(32)}[name]
    assert tuple(usable.read(Root(described(name)), list(online)).values())[:3] == expected


def test_no_cpu_known(told):
    assert told({}, online=()) == (None, None, None)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ("0-7", 8, None)),
        ({"a/b/cpu.max": "max 100000"}, ("0-7", 8, None)),
        ({"a/b/cpu.max": "400000 100000"}, ("0-7", 4, "quota")),
        ({"a/b/cpu.max": "399999 100000"}, ("0-7", 3, "quota")),
        ({"a/b/cpu.max": "20000 100000"}, ("0-7", 1, "quota")),
        ({"a/b/cpu.max": "900000 100000"}, ("0-7", 8, None)),  # more than there is
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, ("0-7", 2, "quota")),  # the parent's
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "500000 100000"}, ("0-7", 2, "quota")),
        ({"cpu.max": "300000 100000", "a/b/": None}, ("0-7", 3, "quota")),
        ({"a/b/cpu.max": "nonsense"}, ("0-7", 8, None)),
        ({"a/b/cpu.max": "100000 0"}, ("0-7", 8, None)),
        ({"a/b/cpu.max": "0 100000"}, ("0-7", 8, None)),
        ({"a/b/cpuset.cpus.effective": "1-3"}, ("1-3", 3, "cpuset")),
        ({"a/b/cpuset.cpus.effective": "0-7"}, ("0-7", 8, None)),
        ({"a/b/cpuset.cpus.effective": "1-3", "a/b/cpu.max": "200000 100000"}, ("1-3", 2, "quota")),
        ({"a/b/cpuset.cpus.effective": "1-3", "a/b/cpu.max": "300000 100000"}, ("1-3", 3, "cpuset")),
        ({"a/b/cpuset.cpus.effective": "1", "a/b/cpu.max": "50000 100000"}, ("1", 1, "quota")),
        ({"a/cpuset.cpus.effective": "2-5", "a/b/cpuset.cpus": ""}, ("2-5", 4, "cpuset")),  # an empty set inherits
        ({"a/b/cpuset.cpus.effective": "4-20"}, ("4-7", 4, "cpuset")),  # some are offline
        ({"a/b/cpuset.cpus.effective": "20-30"}, ("0-7", 8, None)),  # another machine's: it cannot be ours
        ({"a/b/cpuset.cpus.effective": "x"}, ("0-7", 8, None)),
    ],
)
def test_cgroup_v2(told, files, expected):
    assert told({**V2, "/sys/fs/cgroup/a/b/": None, **{f"/sys/fs/cgroup/{name}": value for name, value in files.items()}}) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ("0-7", 8, None)),
        ({f"{QUOTA}/a/b/cpu.cfs_quota_us": -1, f"{QUOTA}/a/b/cpu.cfs_period_us": 100000}, ("0-7", 8, None)),
        ({f"{QUOTA}/a/b/cpu.cfs_quota_us": 250000, f"{QUOTA}/a/b/cpu.cfs_period_us": 100000}, ("0-7", 2, "quota")),
        ({f"{QUOTA}/a/cpu.cfs_quota_us": 50000, f"{QUOTA}/a/cpu.cfs_period_us": 10000}, ("0-7", 5, "quota")),
        ({"/sys/fs/cgroup/cpuset/a/b/cpuset.cpus": "0,2,4"}, ("0,2,4", 3, "cpuset")),
        ({"/sys/fs/cgroup/cpuset/a/cpuset.cpus": "0-3", "/sys/fs/cgroup/cpuset/a/b/cpuset.effective_cpus": "2-3"}, ("2-3", 2, "cpuset")),
    ],
)
def test_cgroup_v1(told, files, expected):
    assert told({**V1, **files}) == expected


def test_a_container_sees_its_own_part_of_the_hierarchy(told):
    """Without a cgroup namespace /proc/self/cgroup has the host's path, and the mount shows what lies below the container's own group."""
    assert told(
        {
            "/proc/self/cgroup": "4:cpu:/docker/abc",
            "/proc/self/mountinfo": "31 23 0:27 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu",
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": 200000,
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
        }
    ) == ("0-7", 2, "quota")


@pytest.mark.parametrize("path", ["/docker/abc/inner", "/docker/abcdef"])
def test_a_group_within_a_container_is_found_below_its_mount(told, path):
    """A group of the same beginning is another one, whose limits this mount does not show."""
    quotas = {f"/sys/fs/cgroup/cpu{folder}/cpu.cfs_{name}_us": value for folder, name, value in ROOT_AND_INNER}
    files = {"/proc/self/cgroup": f"4:cpu:{path}", "/proc/self/mountinfo": "31 23 0:27 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu", **quotas}
    assert told(files) == ("0-7", 1 if path.endswith("inner") else 2, "quota")


ROOT_AND_INNER = [("", "quota", 200000), ("", "period", 100000), ("/inner", "quota", 100000), ("/inner", "period", 100000)]


def test_a_mount_that_is_cut_short_is_none(told):
    """A line without its first or its last fields, and one without the dash between them."""
    cut = "27 23 - cgroup2 cgroup rw\n29 23 0:26 / /elsewhere ro - cgroup2\n28 23 0:26 / /elsewhere ro shared:4 cgroup2 cgroup rw\n"
    files = {**V2, "/proc/self/mountinfo": cut + V2["/proc/self/mountinfo"], "/sys/fs/cgroup/a/b/cpu.max": "400000 100000"}
    assert told({**files, "/elsewhere/a/b/cpu.max": "100000 100000"}) == ("0-7", 4, "quota")


def test_a_path_outside_of_the_mount(told):
    assert told(
        {"/proc/self/cgroup": "0::/../../system.slice", "/proc/self/mountinfo": V2["/proc/self/mountinfo"], "/sys/fs/cgroup/cpu.max": "300000 100000"}
    ) == ("0-7", 3, "quota")


def test_an_old_cpuset_mount_without_prefix(told):
    assert told({"/proc/self/cpuset": "/batch", "/proc/mounts": "cpuset /dev/cpuset cgroup rw,cpuset,noprefix 0 0", "/dev/cpuset/batch/cpus": "4-7"}) == (
        "4-7",
        4,
        "cpuset",
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("Name:\tx\nCpus_allowed:\t0f\nCpus_allowed_list:\t0-3\n", ("0-3", 4, "affinity")),
        ("Cpus_allowed_list:\t0-63\n", ("0-7", 8, None)),
        ("Cpus_allowed_list:\tnone\n", ("0-7", 8, None)),
    ],
)
def test_affinity_that_a_recording_holds(told, status, expected):
    assert told({"/proc/self/status": status}) == expected


SESSION = {"/proc/self/cgroup": "0::/user.slice/user-0.slice/session-1.scope", "/proc/self/mountinfo": V2["/proc/self/mountinfo"]}
BOOTED = {"/run/systemd/system/": None}
GROUPS = "/sys/fs/cgroup/"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # A login that is confined, by its slice or by systemd's CPUAffinity=, is no limit of a service.
        ({**SESSION, "/proc/self/status": "Cpus_allowed_list:\t0-1\n", GROUPS + "user.slice/cpuset.cpus.effective": "0-1"}, ("0-7", 8, None)),
        ({**SESSION, **BOOTED, "/proc/self/status": "Cpus_allowed_list:\t0-1\n"}, ("0-7", 8, None)),
        ({**V2, **BOOTED, "/proc/self/cgroup": "0::/system.slice/cron.service", "/proc/self/status": "Cpus_allowed_list:\t3\n"}, ("0-7", 8, None)),
        # What confines the services themselves is.
        ({**SESSION, GROUPS + "system.slice/cpuset.cpus.effective": "2-7"}, ("2-7", 6, "cpuset")),
        ({**SESSION, GROUPS + "cpuset.cpus.effective": "0-3", GROUPS + "system.slice/cpu.max": "200000 100000"}, ("0-3", 2, "quota")),
        ({**BOOTED, **V2, "/proc/self/cgroup": "0::/", GROUPS + "system.slice/cpuset.cpus.effective": "4"}, ("4", 1, "cpuset")),
        # In a container systemd's own affinity may be all that shows of the container's limits.
        ({**SESSION, **BOOTED, "/run/.containerenv": "", "/proc/self/status": "Cpus_allowed_list:\t0-1\n"}, ("0-1", 2, "affinity")),
    ],
)
def test_limits_are_those_of_services_whatever_session_reads_them(told, files, expected):
    assert told(files) == expected


def test_the_cpuset_is_told_beside_a_tighter_quota(tmp_path):
    (tmp_path / "proc").mkdir()
    machines._lay(tmp_path, {**V2, GROUPS + "a/b/cpuset.cpus.effective": "4-9", GROUPS + "a/b/cpu.max": "200000 100000"})
    assert usable.read(Root(str(tmp_path)), list(range(8))) == {"cpus": "4-7", "count": 2, "limit": "quota", "cpuset": "4-7"}


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="on a host that runs systemd the limits are those of its services")
def test_affinity_of_this_process_is_not_a_recordings(described):
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable.read(Root(described("xeon-8380-2s")), list(range(160)))["count"] == 160
        assert usable.read(Root("/"), sorted(before))["cpus"] == cpulist.render({min(before)})
        if len(before) > 1:
            assert usable.read(Root("/"), sorted(before))["limit"] in ("affinity", "quota")
    finally:
        os.sched_setaffinity(0, before)
