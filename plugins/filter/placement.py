# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: placement
short_description: Place the instances of a workload on a node's cores and memory
version_added: "0.1.0"
author: The ainode.cpu authors (@ainode)
description:
  - Turns the facts of a node into the list of the instances that it runs of one workload, each with its CPUs, its memory and its environment.
  - Instances get physical cores, one logical CPU of each, by the CPUs' real numbers. They never share a core and never cross a NUMA node
    unless O(allow_cross_node) says so, or the workload's unit is a socket that Sub-NUMA Clustering splits.
  - Only what the host lets the node use is given out, within its cpuset, its affinity and its CPU quota. NUMA nodes without CPUs have no
    instances. Cores of a node whose memory is empty use the nearest memory.
  - On hybrid CPUs efficiency cores serve V(batch) alone.
  - Placements of different workloads are alternatives. Each is made for the whole node.
positional: _input, workload
options:
  _input:
    description: The facts of the node, RV(ainode.cpu.node_facts#module:ansible_facts.ainode), with at least the subsets V(cpu) and V(numa).
    type: dict
    required: true
  workload:
    description:
      - What the instances do. It decides how many cores one has and what it stays within.
      - V(online) answers single requests. An instance has O(cores_per_instance) cores, 8 by default, and as many instances as fit go into each
        NUMA node. A node with fewer cores gets one instance with all of them. Cores left over stay free.
      - V(batch) has one instance a socket with all its physical cores, its memory interleaved where the socket has several NUMA nodes.
      - V(search) has one instance a NUMA node with one thread a physical core.
      - V(training) is placed like V(batch).
    type: str
    required: true
    choices: [online, batch, search, training]
  cores_per_instance:
    description:
      - The physical cores of an instance.
      - Up to 16, the upper end of what the guide recommends for online services, this is the most an instance gets. A NUMA node (or socket)
        with fewer cores has one instance with all of them.
      - More than 16 is an error where no NUMA node (or socket) has as many.
    type: int
  instances:
    description: Place exactly so many instances, spread over the NUMA nodes. By default there are as many as fit.
    type: int
  reserved_cores:
    description:
      - How many physical cores stay free for the system.
      - They are the first ones of the first NUMA node, where the kernel's own work and unsteered interrupts go.
    type: int
    default: 0
  memory_per_instance:
    description:
      - How many bytes of memory an instance needs. No more instances are placed than their NUMA nodes' memory holds.
      - Write V("16 GiB" | ansible.builtin.human_to_bytes) for larger units.
    type: int
  allow_cross_node:
    description: Let instances span NUMA nodes and sockets. Cores left over in several nodes are then put together.
    type: bool
    default: false
  use_isolated:
    description:
      - Give out isolated CPUs (C(isolcpus=)) too.
      - The scheduler does not balance threads over isolated CPUs. A program must bind each of its threads itself there.
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
  env:
    description: Environment variables to add to each instance, or to leave out (where the value is V(null)).
    type: dict
    default: {}
seealso:
  - module: ainode.cpu.node_facts
  - module: ainode.cpu.runtime_env
"""

EXAMPLES = r"""
- name: One unit for each online instance
  ansible.builtin.template:
    src: model.service.j2
    dest: /etc/systemd/system/model-{{ item.name }}.service
    mode: "0644"
  loop: "{{ ansible_facts.ainode | ainode.cpu.placement('online', cores_per_instance=16) }}"
  loop_control:
    label: "{{ item.name }}"

- name: How many search instances hold an index of 40 GiB each
  ansible.builtin.debug:
    msg: >-
      {{ ansible_facts.ainode
         | ainode.cpu.placement('search', memory_per_instance='40 GiB' | ansible.builtin.human_to_bytes)
         | length }}
"""

RETURN = r"""
_value:
  description:
    - The instances, sorted by NUMA node, socket and CPU.
    - Each has C(name) (the workload and a number from 0 up), C(numa_node) (V(null) over several nodes), C(cpus) (a cpulist),
      C(threads), C(memory_node) (a list of NUMA nodes as C(numactl) and systemd's C(NUMAMask=) write it, V(null) without NUMA),
      C(memory_policy) (V(bind), V(interleave) or V(null)) and C(env).
  type: list
  elements: dict
  sample:
    - name: online-0
      numa_node: 0
      cpus: 0-7
      threads: 8
      memory_node: "0"
      memory_policy: bind
      env: {OMP_NUM_THREADS: "8", KMP_BLOCKTIME: "1"}
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.ainode.cpu.plugins.module_utils.plan.placement import place


def placement(facts, workload, **options):
    """Return place() of the facts; what is wrong with its arguments is an error of the filter."""
    try:
        return place(facts, workload, **options)
    except (ValueError, TypeError) as error:
        raise AnsibleFilterError(f"ainode.cpu.placement: {error}") from error


class FilterModule:
    """The collection's placement filter."""

    def filters(self):
        """Return the filters by their names."""
        return {"placement": placement}
