# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""memory_policy: values, the files that keep them, and kernels that lack a part of it."""

from __future__ import annotations

import os
import shutil

import machines
import pytest
import state
from ansible_collections.ainode.cpu.plugins.module_utils.host.host import Host
from ansible_collections.ainode.cpu.plugins.module_utils.state import converge, memory_policy

THP = "/sys/kernel/mm/transparent_hugepage"
ALL = {
    "transparent_hugepage": "never",
    "thp_defrag": "defer+madvise",
    "khugepaged_defrag": False,
    "numa_balancing": 0,
    "zone_reclaim_mode": 1,
    "swappiness": 10,
}


@pytest.fixture
def root(tmp_path):
    root = machines.write(tmp_path / "machine", machines.grid(1, 2), machines.XEON_8380, {0: 64})
    state.write(root, f"{THP}/khugepaged/defrag", "1\n")
    return root


def run(root, **options):
    return state.run("memory_policy", root, **options)


def fails(root, *words, **options):
    before = state.tree(root)
    for check in (True, False):
        result = state.run("memory_policy", root, check=check, **options)
        assert result.get("failed"), result
        assert all(word in result["msg"] for word in words), result["msg"]
        assert state.tree(root) == before


def test_every_option_is_set_now_and_at_boot(root):
    before = state.tree(root)
    done = run(root, **ALL)
    assert {row["setting"]: (row["before"], row["after"]) for row in done["settings"]} == {
        "transparent_hugepage": ("madvise", "never"),
        "thp_defrag": ("madvise", "defer+madvise"),
        "khugepaged_defrag": ("1", "0"),
        "numa_balancing": ("1", "0"),
        "zone_reclaim_mode": ("0", "1"),
        "swappiness": ("60", "10"),
    }
    assert state.read(root, f"{THP}/enabled") == "always madvise [never]"
    assert state.read(root, f"{THP}/defrag") == "always defer [defer+madvise] madvise never"
    assert state.read(root, memory_policy.SYSCTL).splitlines()[1:] == ["kernel.numa_balancing = 0", "vm.zone_reclaim_mode = 1", "vm.swappiness = 10"]
    assert state.read(root, memory_policy.TMPFILES).splitlines()[1:] == [
        f"w {THP}/enabled - - - - never",
        f"w {THP}/defrag - - - - defer+madvise",
        f"w {THP}/khugepaged/defrag - - - - 0",
    ]
    run(root, state="absent")
    assert state.tree(root) == before


def test_only_what_is_asked_for(root):
    done = run(root, swappiness=0)
    assert [row["setting"] for row in done["settings"]] == ["swappiness"]
    assert not os.path.exists(f"{root}{memory_policy.TMPFILES}") and state.read(root, "/proc/sys/vm/swappiness") == "0"


def test_an_option_that_is_left_out_goes_back_alone(root):
    run(root, **ALL)
    done = run(root, **{name: value for name, value in ALL.items() if name not in ("swappiness", "thp_defrag")})
    assert {row["path"] for row in done["settings"] if row["changed"]} == {"/proc/sys/vm/swappiness", f"{THP}/defrag"}
    assert state.read(root, "/proc/sys/vm/swappiness") == "60"
    assert state.read(root, f"{THP}/defrag") == "always defer defer+madvise [madvise] never"
    assert "swappiness" not in state.read(root, memory_policy.SYSCTL) and state.read(root, "/proc/sys/vm/zone_reclaim_mode") == "1"


@pytest.mark.parametrize(
    "options, words",
    [
        ({"swappiness": 201}, ("swappiness 201", "200")),
        ({"swappiness": -1}, ("swappiness -1",)),
        ({"swappiness": "much"}, ("much",)),
        ({"numa_balancing": 4}, ("numa_balancing 4", "3")),
        ({"zone_reclaim_mode": 8}, ("zone_reclaim_mode 8", "7")),
        ({"transparent_hugepage": "sometimes"}, ("sometimes", "madvise")),
        ({"swappiness": 10, "numa_balancing": 9}, ("numa_balancing 9",)),
    ],
)
def test_a_bad_value_is_one_clear_error_and_changes_nothing(root, options, words):
    fails(root, *words, **options)


@pytest.mark.parametrize("options", [{"swappiness": 0}, {"swappiness": 200}, {"numa_balancing": 3}, {"zone_reclaim_mode": 7}])
def test_the_ends_of_a_range_are_in_it(root, options):
    (value,) = options.values()
    assert [row["after"] for row in run(root, **options)["settings"]] == [str(value)]


def test_a_choice_that_this_kernel_does_not_have(root):
    state.write(root, f"{THP}/defrag", "always [madvise] never\n")
    fails(root, "'defer+madvise'", "always, madvise, never", thp_defrag="defer+madvise")


def test_what_this_kernel_lacks_is_said_and_the_rest_is_set(root):
    shutil.rmtree(f"{root}{THP}")
    os.unlink(f"{root}/proc/sys/kernel/numa_balancing")
    done = run(root, **ALL)
    assert [entry["setting"] for entry in done["not_applicable"]] == ["transparent_hugepage", "thp_defrag", "khugepaged_defrag", "numa_balancing"]
    assert all("the kernel of this host has no /" in entry["reason"] for entry in done["not_applicable"])
    assert state.read(root, "/proc/sys/vm/swappiness") == "10"


def test_an_older_kernel_that_refuses_a_high_swappiness(root, monkeypatch):
    class Old(Host):
        def set_value(self, name, value):
            if int(value) > 100:
                raise OSError(22, "Invalid argument")
            super().set_value(name, value)

    monkeypatch.setattr(converge, "Host", Old)
    assert "'150' (EINVAL" in run(root, swappiness=150)["msg"]
    assert not os.path.exists(f"{root}{memory_policy.SYSCTL}")


def test_a_read_only_proc_is_not_ours(root, monkeypatch):
    """A container without privileges: nothing is written, no file is laid down, and no failure."""

    class Container(Host):
        def locked_because(self, name):
            return "it is mounted read-only" if name.startswith("/proc/sys") else None

    monkeypatch.setattr(converge, "Host", Container)
    done = run(root, **ALL)
    assert {entry["reason"] for entry in done["not_applicable"]} == {
        f"/proc/sys/{name}: it is mounted read-only" for name in ("kernel/numa_balancing", "vm/zone_reclaim_mode", "vm/swappiness")
    }
    assert not os.path.exists(f"{root}{memory_policy.SYSCTL}") and os.path.exists(f"{root}{memory_policy.TMPFILES}")


def test_a_file_that_others_wrote_to_our_name_comes_back(root):
    state.write(root, memory_policy.SYSCTL, "vm.swappiness = 33\n")
    before = state.tree(root)
    run(root, swappiness=10)
    run(root, state="absent")
    assert state.tree(root) == before


def test_without_persist_no_file(root):
    assert run(root, **ALL, persist=False)["files"] == []
