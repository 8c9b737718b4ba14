#!/usr/bin/python
# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: runtime_env
short_description: Write environment files and a launcher for pinned instances of AI workloads
version_added: "0.1.0"
author: The ainode.cpu authors (@ainode)
description:
  - Places the instances of each workload on the node's cores and memory, as the filter P(ainode.cpu.placement#filter) does, and writes what
    programs need to run as one of them.
  - C(/etc/ainode/placement.json) has every instance of every workload.
  - C(/etc/ainode/env.d/<workload>.env) has the environment of a workload, in a syntax that systemd's C(EnvironmentFile=) and a POSIX shell
    read alike. Where instances differ (NUMA nodes of unequal size), C(<workload>-<number>.env) beside it has what is different for one.
  - C(/usr/local/bin/ainode-run) starts any command as one instance.
  - What O(workloads) no longer names is removed. With O(state=absent) all of it is, and what was there before comes back.
  - The module reads no hardware. It takes what M(ainode.cpu.node_facts) found.
attributes:
  check_mode:
    support: full
    description: Tells what would change and changes nothing.
  diff_mode:
    support: full
    description: Shows each file before and after.
  idempotent:
    support: full
    description: A second run with the same facts and options changes nothing.
  platform:
    support: full
    platforms: linux
    description: The systems it works on.
options:
  state:
    description: Whether the files are there.
    type: str
    choices: [present, absent]
    default: present
  facts:
    description: The facts of the node, RV(ainode.cpu.node_facts#module:ansible_facts.ainode), with at least the subsets V(cpu) and V(numa).
    type: dict
  workloads:
    description:
      - The workloads to place. Each is placed on the whole node, so they are alternatives unless O(workloads[].instances),
        O(workloads[].reserved_cores) and their likes keep them apart.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The workload.
        type: str
        required: true
        choices: [online, batch, search, training]
      cores_per_instance:
        description: The physical cores of an instance. 8 for V(online) by default, otherwise all of the NUMA node or socket.
        type: int
      instances:
        description: Exactly so many instances, spread over the NUMA nodes. By default as many as fit.
        type: int
      reserved_cores:
        description: How many physical cores stay free for the system. They are the first ones of the first NUMA node.
        type: int
        default: 0
      memory_per_instance:
        description: How many bytes of memory an instance needs.
        type: int
      allow_cross_node:
        description: Let instances span NUMA nodes and sockets.
        type: bool
        default: false
      use_isolated:
        description: Give out isolated CPUs too.
        type: bool
        default: false
      kmp_blocktime:
        description: For how many milliseconds an idle thread of Intel's or LLVM's OpenMP spins before it sleeps. 0 or 1, by model.
        type: int
        default: 1
      omp_proc_bind:
        description:
          - Whether OpenMP binds each of its threads to one CPU.
          - With V(close) and V(spread) the main thread is bound as well, and with it every thread and process that it starts later.
        type: str
        choices: ["false", close, spread]
        default: "false"
      preload:
        description:
          - Shared libraries to preload, V(jemalloc), V(tcmalloc), V(libomp), V(libiomp5) or absolute paths. They must be on the node.
          - With V(libomp) and V(libiomp5) the variables E(OMP_PROC_BIND) and E(OMP_PLACES) are left out. They would make GNU's OpenMP, which
            is loaded as well, confine the process to one CPU before the other starts.
        type: list
        elements: str
        default: []
      env:
        description:
          - Environment variables to add, or to leave out (where the value is V(null)).
          - The files can be read by everyone on the node. Keep secrets elsewhere.
        type: dict
        default: {}
  root:
    description: The system root to write to. V(/) is the node itself.
    type: path
    default: /
seealso:
  - module: ainode.cpu.node_facts
  - plugin: ainode.cpu.placement
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Online instances of 16 cores, and searches that keep two cores for the system
  ainode.cpu.runtime_env:
    facts: "{{ ansible_facts.ainode }}"
    workloads:
      - name: online
        cores_per_instance: 16
        preload: [jemalloc]
      - name: search
        reserved_cores: 2

- name: Take everything back
  ainode.cpu.runtime_env:
    state: absent
"""

RETURN = r"""
placement:
  description: The instances of each workload, as the filter P(ainode.cpu.placement#filter) returns them.
  returned: success
  type: dict
  sample: {online: [{name: online-0, numa_node: 0, cpus: 0-7, threads: 8, memory_node: "0", memory_policy: bind, env: {OMP_NUM_THREADS: "8"}}]}
files:
  description: Every file of this module, and what was done with it (V(created), V(updated), V(removed) or V(null)).
  returned: success
  type: list
  elements: dict
  sample: [{path: /etc/ainode/env.d/online.env, change: created}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils.host.host import Host
from ansible_collections.ainode.cpu.plugins.module_utils.plan.placement import OMP_PROC_BIND, WORKLOADS
from ansible_collections.ainode.cpu.plugins.module_utils.state import runtime_env
from ansible_collections.ainode.cpu.plugins.module_utils.state.converge import Plan, converge


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["present", "absent"], "default": "present"},
            "facts": {"type": "dict"},
            "workloads": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"required": True, "choices": list(WORKLOADS)},
                    "cores_per_instance": {"type": "int"},
                    "instances": {"type": "int"},
                    "reserved_cores": {"type": "int", "default": 0},
                    "memory_per_instance": {"type": "int"},
                    "allow_cross_node": {"type": "bool", "default": False},
                    "use_isolated": {"type": "bool", "default": False},
                    "kmp_blocktime": {"type": "int", "default": 1},
                    "omp_proc_bind": {"choices": list(OMP_PROC_BIND), "default": "false"},
                    "preload": {"type": "list", "elements": "str", "default": []},
                    "env": {"type": "dict", "default": {}},
                },
            },
            "root": {"type": "path", "default": "/"},
        },
        required_if=[("state", "present", ["facts"])],
        supports_check_mode=True,
    )
    try:
        host = Host(module.params["root"])
        present = module.params["state"] == "present"
        placed = runtime_env.plan(module.params["facts"], module.params["workloads"], host.path("")) if present else {}
        done = converge(host, "runtime_env", Plan(files=runtime_env.files(placed) if present else {}), module.check_mode)
    except (ValueError, OSError) as error:
        module.fail_json(msg=str(error))
    for warning in done["warnings"]:
        module.warn(warning)
    module.exit_json(changed=done["changed"], diff=done["diff"], files=done["files"], placement=placed)


if __name__ == "__main__":
    main()
