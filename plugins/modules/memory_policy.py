#!/usr/bin/python
# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: memory_policy
short_description: Set transparent huge pages, NUMA balancing, zone reclaim and swappiness
version_added: "0.1.0"
description:
  - Sets how the kernel of a Linux host manages memory, at once and at every boot (C(/etc/sysctl.d/90-ainode.conf),
    C(/etc/tmpfiles.d/ainode-memory.conf)), and undoes it. Each value is read back.
  - What a setting was before is kept in C(/var/lib/ainode/baseline.json). O(state=absent) puts it back, and so does leaving an option out later.
  - What the host does not have, or does not own, is listed in RV(not_applicable) and changes nothing.
options:
  state:
    description: Whether the settings are in force, or the host is back at its baseline.
    type: str
    choices: [present, absent]
    default: present
  transparent_hugepage:
    description: Who gets transparent huge pages. V(madvise) gives them to programs that ask (allocators of inference servers do) and to no others.
    type: str
    choices: [always, madvise, never]
  thp_defrag:
    description: Whether a page fault waits for memory to be compacted into a huge page. With V(defer+madvise) only programs that ask wait.
    type: str
    choices: [always, defer, defer+madvise, madvise, never]
  khugepaged_defrag:
    description: Whether the kernel compacts memory in the background to make huge pages.
    type: bool
  numa_balancing:
    description:
      - Whether the kernel moves pages after the CPUs that use them. V(0) is right for pinned instances, whose memory is already where it belongs.
      - V(1) balances, V(2) moves hot pages out of slow memory tiers, V(3) does both.
    type: int
  zone_reclaim_mode:
    description: Whether a full NUMA node drops its page cache before memory of another node is used; a bit mask from V(0) (no) to V(7).
    type: int
  swappiness:
    description: How readily anonymous memory is swapped out in favour of page cache, from V(0) to V(200).
    type: int
notes:
  - A file in C(sysctl.d) with a later name than C(90-ainode.conf), or C(/etc/sysctl.conf), wins at boot over this one. M(ainode.cpu.node_audit) finds that.
extends_documentation_fragment:
  - ainode.cpu.settings
author:
  - The ainode.cpu authors (@ainode)
"""

EXAMPLES = r"""
- name: The memory policy of a node with pinned instances
  ainode.cpu.memory_policy:
    transparent_hugepage: madvise
    thp_defrag: madvise
    numa_balancing: 0
    zone_reclaim_mode: 0
    swappiness: 10

- name: Put everything back
  ainode.cpu.memory_policy:
    state: absent
"""

RETURN = r"""
settings:
  description: The kernel values that were asked for, those alike on many nodes in one entry. Values on their way back have the setting C(baseline).
  returned: success
  type: list
  elements: dict
  contains:
    setting:
      description: What was asked for.
      type: str
    path:
      description: The file; a C(*) stands for the numbers in RV(settings[].ids).
      type: str
    ids:
      description: The NUMA nodes, as a cpulist; empty for a file of the whole host.
      type: str
    before:
      description: The value before.
      type: str
    after:
      description: The value after; in check mode the predicted one.
      type: str
    changed:
      description: Whether the two differ.
      type: bool
  sample:
    - setting: swappiness
      path: /proc/sys/vm/swappiness
      ids: ""
      before: "60"
      after: "10"
      changed: true
files:
  description: The files that make the settings last.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
    change:
      description: One of V(created), V(updated), V(removed); null when it stayed.
      type: str
  sample:
    - path: /etc/sysctl.d/90-ainode.conf
      change: created
units:
  description: Always empty; here so that all state modules answer alike.
  returned: success
  type: list
  elements: dict
  sample: []
not_applicable:
  description: What this host does not have or does not own.
  returned: success
  type: list
  elements: dict
  contains:
    setting:
      description: What was asked for.
      type: str
    reason:
      description: Why it changes nothing here.
      type: str
  sample:
    - setting: numa_balancing
      reason: the kernel of this host has no /proc/sys/kernel/numa_balancing
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils.state import converge, memory_policy


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "transparent_hugepage": {"type": "str", "choices": ["always", "madvise", "never"]},
            "thp_defrag": {"type": "str", "choices": ["always", "defer", "defer+madvise", "madvise", "never"]},
            "khugepaged_defrag": {"type": "bool"},
            "numa_balancing": {"type": "int"},
            "zone_reclaim_mode": {"type": "int"},
            "swappiness": {"type": "int"},
            "persist": {"type": "bool", "default": True},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    converge.run(module, "memory_policy", lambda host: memory_policy.plan(host, module.params))


if __name__ == "__main__":
    main()
