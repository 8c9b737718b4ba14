# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""All facts of a node, ansible_facts.ainode: one read of the machine, shared by node_facts, node_audit and the state modules."""

from __future__ import annotations

from . import cpu, devices, firmware, memory, platform, power, topology, usable

SUBSETS = ("cpu", "devices", "firmware", "memory", "numa", "platform", "power")


class SubsetError(ValueError):
    """A word of gather_subset is none of SUBSETS."""


def select(words):
    """Return the set of subsets that gather_subset's `words` name: "all", names, and "!name" to leave one out. Nothing but "!" begins from all.

    Raises SubsetError that names the word.
    """
    chosen, left_out = set(), set()
    for word in words:
        name = word[1:] if word.startswith("!") else word
        if name != "all" and name not in SUBSETS:
            raise SubsetError(f"gather_subset has '{word}', which is no subset: give all, {', '.join(SUBSETS)}, or one of them with ! before it")
        (left_out if word.startswith("!") else chosen).update(SUBSETS if name == "all" else [name])
    return (chosen or set(SUBSETS)) - left_out


def gather(root, subsets=SUBSETS):
    """Return {subset: facts} of the machine at the Root `root`. It reads only what the `subsets` stand on, and never raises for what a machine holds."""
    wanted = set(subsets)
    facts = {}
    if wanted & {"cpu", "numa", "power", "firmware", "platform"}:
        info = cpu.CpuInfo(root)
        identity = cpu.read(root, info)
    if wanted & {"cpu", "numa", "power", "firmware"}:
        arranged = topology.Topology(root, info)
    if wanted & {"cpu", "firmware"}:
        facts["cpu"] = dict(identity, **topology.read(root, info, arranged), usable=usable.read(root, arranged.online))
    if wanted & {"numa", "firmware"}:
        facts["numa"] = dict(topology.numa(root, arranged, identity), **devices.memory_devices(root))
    if wanted & {"power", "firmware"}:
        facts["power"] = power.read(root, info, arranged, identity["hypervisor"])
    if "memory" in wanted:
        facts["memory"] = memory.read(root)
    if "devices" in wanted:
        facts["devices"] = devices.read(root)
    if "firmware" in wanted:
        facts["firmware"] = firmware.read(facts["cpu"], facts["numa"], facts["power"], info.flags)
    if "platform" in wanted:
        facts["platform"] = platform.read(root, identity["hypervisor"])
    return {name: facts[name] for name in SUBSETS if name in wanted}
