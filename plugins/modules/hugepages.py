#!/usr/bin/python
# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hugepages
short_description: Reserve huge pages on each NUMA node
version_added: "0.1.0"
description:
  - Sets how many huge pages of each size every NUMA node sets aside, at once and at every boot (C(/etc/tmpfiles.d/ainode-hugepages.conf)), and undoes it.
  - What the kernel grants is read back. Pages that processes use are never taken away, the module fails before it would.
  - What a setting was before is kept in C(/var/lib/ainode/baseline.json). O(state=absent) puts it back, and so does leaving a size out later.
  - A host without huge pages, or one that does not own them (a container), is listed in RV(not_applicable) and nothing changes.
options:
  state:
    description: Whether the pages are reserved, or the host is back at its baseline.
    type: str
    choices: [present, absent]
    default: present
  pages:
    description: What to reserve, each page size once. With an empty list all goes back to the baseline.
    type: list
    elements: dict
    default: []
    suboptions:
      size:
        description: The size of the pages, such as V(2M), V(2048kB) or V(1G). It must be one that the host's kernel has.
        type: str
        required: true
      nodes:
        description:
          - "A count for each NUMA node by its id, such as C({0: 512, 1: 512}). Nodes that are not named stay as they are."
          - On a host without NUMA, node 0 is the host.
        type: dict
      total:
        description:
          - A count for the whole host, spread evenly over the nodes that have both memory and CPUs; what is left over goes to the first nodes.
          - Memory-only nodes (CXL, persistent memory) get pages by O(pages[].nodes) alone.
        type: int
  shortfall:
    description:
      - What to do when the kernel grants fewer pages than were asked for, as it does when memory is in use or fragmented.
      - V(fail) fails with both numbers.
      - V(warn) takes what is granted, and warns with both numbers. A check run supposes that the kernel grants all.
      - Neither asks for pages that leave less than a sixteenth of a NUMA node's memory, or 128 MiB, to everything else on a node with CPUs.
    type: str
    choices: [fail, warn]
    default: fail
notes:
  - Pages of 1 GiB can often be had only right after a boot. On a host that has run for long, reserve them on the kernel command line.
extends_documentation_fragment:
  - ainode.cpu.settings
author:
  - The ainode.cpu authors (@ainode)
"""

EXAMPLES = r"""
- name: Reserve 2 GiB in pages of 2 MiB, spread over the nodes
  ainode.cpu.hugepages:
    pages:
      - size: 2M
        total: 1024

- name: Two sizes, node by node, as much as the host can give
  ainode.cpu.hugepages:
    pages:
      - size: 2M
        nodes: {0: 512, 1: 512}
      - size: 1G
        nodes: {0: 8, 1: 8}
    shortfall: warn

- name: Put everything back
  ainode.cpu.hugepages:
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
    - setting: pages 2M
      path: /sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages
      ids: 0-1
      before: "0"
      after: "512"
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
    - path: /etc/tmpfiles.d/ainode-hugepages.conf
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
    - setting: pages 2M
      reason: "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages: it is mounted read-only: this is a container, and the setting
        belongs to the machine it runs on"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils.state import converge, hugepages


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "pages": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "size": {"type": "str", "required": True},
                    "nodes": {"type": "dict"},
                    "total": {"type": "int"},
                },
            },
            "shortfall": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
            "persist": {"type": "bool", "default": True},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    converge.run(module, "hugepages", lambda host: hugepages.plan(host, module.params), guard=hugepages.in_use)


if __name__ == "__main__":
    main()
