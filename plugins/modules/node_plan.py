#!/usr/bin/python
# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_plan
short_description: Divide a node's cores among its services
version_added: "0.1.0"
author: The ainode.cpu authors (@ainode)
description:
  - Gives each service cores and memory of its own, places its instances there as the filter P(ainode.cpu.placement#filter) does, and writes
    what came of it to C(/etc/ainode/plan.json).
  - The cores are divided among all O(services) at once, by their shares. Each gets whole NUMA nodes where there are enough, else cores.
  - A service that is in the file already, with the same request, keeps its cores. One that is not in O(services) is left as it is.
  - On a node that is too small services have cores in common, and RV(plan.shared) says which.
  - The module reads no hardware. It takes what M(ainode.cpu.node_facts) found.
attributes:
  check_mode:
    support: full
    description: Tells what would change and changes nothing.
  diff_mode:
    support: full
    description: Shows the file before and after.
  idempotent:
    support: full
    description: A second run with the same facts and options changes nothing.
  platform:
    support: full
    platforms: linux
    description: The systems it works on.
options:
  state:
    description:
      - V(present) gives O(services) their cores. Without services it tells the plan as it is.
      - V(absent) frees the cores of the services that O(services) names, of all of them without any. The file goes with the last one.
    type: str
    choices: [present, absent]
    default: present
  facts:
    description:
      - The facts of the node, RV(ainode.cpu.node_facts#module:ansible_facts.ainode), with at least the subsets V(cpu) and V(numa).
      - Required to place services.
    type: dict
  services:
    description: The services, and what each asks for. For O(state=absent) their names are enough.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The service's name, as it stands in the names of its units, V(vector-search) for C(ainode-vector-search-0.service).
        type: str
        required: true
      workload:
        description: What its instances do. Required for O(state=present).
        type: str
        choices: [online, batch, search, training]
      share:
        description: The weight of its part of the cores. With V(2) it gets twice what one with V(1) gets, rounded to whole NUMA nodes where there are enough.
        type: int
        default: 1
      instances:
        description:
          - Exactly so many instances, spread over the NUMA nodes. They take the cores that they need before the others divide the rest.
          - By default as many as fit into its part.
        type: int
      cores_per_instance:
        description: The physical cores of an instance. 8 for V(online) by default, otherwise all of the NUMA node or socket that are its own.
        type: int
      numa_node:
        description: Only cores of this NUMA node.
        type: int
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
        description: Whether OpenMP binds each of its threads to one CPU, and the main thread with them.
        type: str
        choices: ["false", close, spread]
        default: "false"
      env:
        description: Environment variables to add, or to leave out (where the value is V(null)). Everyone on the node can read them.
        type: dict
        default: {}
  reserved_cores:
    description: How many physical cores stay free for the system. They are the first ones of the first NUMA node.
    type: int
    default: 0
  replan:
    description: Divide the cores anew among O(services). Those that are on other cores afterwards are restarted by their roles.
    type: bool
    default: false
  root:
    description: The system root to write to. V(/) is the node itself.
    type: path
    default: /
seealso:
  - module: ainode.cpu.node_facts
  - module: ainode.cpu.pinned_service
  - plugin: ainode.cpu.placement
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Give the search a part of the node, and the models twice as much
  ainode.cpu.node_plan:
    facts: "{{ ansible_facts.ainode }}"
    services:
      - name: vector-search
        workload: search
      - name: model-service
        workload: online
        share: 2
    reserved_cores: 1
  register: node

- name: Run the search where the plan says
  ainode.cpu.pinned_service:
    name: vector-search
    instances: "{{ node.plan.services['vector-search'].instances }}"
    command: [/opt/search/serve, "--cpus={cpus}", "--port={port}"]

- name: Free the cores of the models
  ainode.cpu.node_plan:
    state: absent
    facts: "{{ ansible_facts.ainode }}"
    services:
      - name: model-service
"""

RETURN = r"""
plan:
  description: The plan of the node.
  returned: success
  type: dict
  contains:
    version:
      description: The version of the form.
      type: int
    services:
      description:
        - The services by name, those that were there before among them.
        - C(asked) is the request with all its options, C(instances) the instances as the filter P(ainode.cpu.placement#filter) returns them.
      type: dict
    shared:
      description: A sentence for each two services that have cores in common, and one for more threads than a CPU quota lets run. Empty as it should be.
      type: list
      elements: str
  sample:
    version: 1
    services:
      vector-search:
        asked: {workload: search, share: 1}
        instances:
          - {name: search-0, numa_node: 0, cpus: 0-19, threads: 20, memory_node: "0", memory_policy: bind, env: {OMP_NUM_THREADS: "20"}}
    shared: []
files:
  description: The file of this module, and what was done with it (V(created), V(updated), V(removed) or V(null)).
  returned: success
  type: list
  elements: dict
  sample: [{path: /etc/ainode/plan.json, change: created}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils.host.host import Host
from ansible_collections.ainode.cpu.plugins.module_utils.plan.placement import OMP_PROC_BIND, WORKLOADS
from ansible_collections.ainode.cpu.plugins.module_utils.state import node_plan
from ansible_collections.ainode.cpu.plugins.module_utils.state.converge import Plan, converge


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["present", "absent"], "default": "present"},
            "facts": {"type": "dict"},
            "services": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"required": True},
                    "workload": {"choices": list(WORKLOADS)},
                    "share": {"type": "int", "default": 1},
                    "instances": {"type": "int"},
                    "cores_per_instance": {"type": "int"},
                    "numa_node": {"type": "int"},
                    "memory_per_instance": {"type": "int"},
                    "allow_cross_node": {"type": "bool", "default": False},
                    "use_isolated": {"type": "bool", "default": False},
                    "kmp_blocktime": {"type": "int", "default": 1},
                    "omp_proc_bind": {"choices": list(OMP_PROC_BIND), "default": "false"},
                    "env": {"type": "dict", "default": {}},
                },
            },
            "reserved_cores": {"type": "int", "default": 0},
            "replan": {"type": "bool", "default": False},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        host = Host(options["root"])
        if options["state"] == "present":
            plan = node_plan.plan(host, options["facts"], options["services"], options["reserved_cores"], options["replan"])
        else:
            plan = node_plan.without(host, options["facts"], [service["name"] for service in options["services"]])
        done = converge(host, "node_plan", Plan(files=node_plan.files(plan)), module.check_mode)
    except (ValueError, OSError) as error:
        module.fail_json(msg=str(error))
    for warning in done["warnings"]:
        module.warn(warning)
    module.exit_json(changed=done["changed"], diff=done["diff"], files=done["files"], plan=plan)


if __name__ == "__main__":
    main()
