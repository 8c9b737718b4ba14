#!/usr/bin/python

# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_facts
short_description: Gather what an AI inference node is made of
version_added: "0.1.0"
description:
  - Reads the CPU and its instruction sets, the topology, NUMA, frequency and idle states, memory, devices, what can be seen of the firmware's settings, and
    the platform around them, in one task and one pass over C(/proc) and C(/sys).
  - The facts are returned below C(ansible_facts.ainode). The other parts of this collection decide by them alone.
  - A value that the host does not tell is V(null), with the reason beside it where there can be several; it is never a guess.
    A derived value names its source.
  - Sizes are bytes, times microseconds, frequencies kHz, and sets of CPUs the kernel's own lists (V(0-3,8)). Lists are sorted.
  - A play gathers them with C(gather_facts) when C(ansible_facts_modules) names this module, see the examples. Ansible does not pass C(gather_subset),
    C(gather_timeout) and C(filter) of a play to any other module than M(ansible.builtin.setup); use C(module_defaults) to narrow O(gather_subset) there.
author:
  - The ainode.cpu authors (@ainode)
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - This module changes nothing.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: N/A
    details:
      - This module changes nothing.
  facts:
    description: Action returns an C(ansible_facts) dictionary that will update existing host facts.
    support: full
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
    support: full
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: Linux
options:
  root:
    description:
      - The system root whose C(/proc), C(/sys) and C(/etc) are read. V(/) is this host; any other directory is a recording of one.
      - Of a recorded machine nothing is read but the recording; the running process's own affinity says nothing about it.
    type: path
    default: /
  gather_subset:
    description:
      - Which facts to gather. V(all), or any of V(cpu), V(devices), V(firmware), V(memory), V(numa), V(platform), V(power); with V(!) before a name that one
        is left out.
      - A later call replaces C(ansible_facts.ainode) as a whole.
    type: list
    elements: str
    default: [all]
  fact_path:
    description:
      - Not used. It is there because C(gather_facts) passes the play's C(fact_path) to every facts module.
    type: path
seealso:
  - module: ansible.builtin.setup
"""

EXAMPLES = r"""
- name: Gather everything
  ainode.cpu.node_facts:

- name: Gather what a placement needs
  ainode.cpu.node_facts:
    gather_subset: [cpu, numa]

- name: Read a recorded machine
  ainode.cpu.node_facts:
    root: /srv/recordings/xeon-8380

- name: Let the play gather them with its own facts
  hosts: nodes
  gather_facts: true
  vars:
    ansible_facts_modules: [ansible.builtin.setup, ainode.cpu.node_facts]
  tasks:
    - name: Say which INT8 path the node has
      ansible.builtin.debug:
        msg: "{{ ansible_facts.ainode.cpu.int8_path }}"
"""

RETURN = r"""
ansible_facts:
  description: The facts, below one key.
  returned: success
  type: dict
  contains:
    ainode:
      description: What this node is made of. It holds the subsets that O(gather_subset) selects.
      returned: success
      type: dict
      contains:
        cpu:
          description: The processors.
          returned: when selected
          type: dict
          contains:
            architecture:
              description: The machine architecture as C(uname -m) names it.
              type: str
              returned: always
              sample: x86_64
            vendor:
              description: The CPU's maker as the kernel writes it; of arm64 the implementer's name.
              type: str
              returned: always
              sample: GenuineIntel
            model_name:
              description: The CPU's name.
              type: str
              returned: always
              sample: Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz
            family:
              description: The x86 family.
              type: int
              returned: always
              sample: 6
            model:
              description: The x86 model number.
              type: int
              returned: always
              sample: 106
            stepping:
              description: The x86 stepping.
              type: int
              returned: always
              sample: 6
            microarchitecture:
              description: The generation's name, from a table by vendor, family, model and stepping; V(null) when it is not in the table.
              type: str
              returned: always
              sample: Ice Lake
            microcode:
              description: The microcode revision in use.
              type: str
              returned: always
              sample: "0xd0003a5"
            hypervisor:
              description:
                - V(KVM), V(VMware), V(Xen), V(Microsoft) and others; V(unknown) when the CPU's hypervisor flag is all there is; V(null) on bare metal.
                - QEMU without KVM cannot be told apart from KVM by its DMI strings and is named V(KVM), as C(lscpu) does.
              type: str
              returned: always
              sample:
            sockets:
              description: Sockets with at least one online CPU.
              type: int
              returned: always
              sample: 2
            physical_cores:
              description: Cores with at least one online CPU. A module of AMD's Bulldozer family counts as a core of two threads, as it does for the kernel.
              type: int
              returned: always
              sample: 80
            logical_cpus:
              description: Online CPUs.
              type: int
              returned: always
              sample: 160
            threads_per_core:
              description: The most online threads that a core has.
              type: int
              returned: always
              sample: 2
            online:
              description: The online CPUs.
              type: str
              returned: always
              sample: 0-159
            offline:
              description: The CPUs that are present and offline. CPUs that are merely possible are not listed.
              type: str
              returned: always
              sample: ""
            present:
              description: The CPUs that are present, online or not.
              type: str
              returned: always
              sample: 0-159
            isolated:
              description: The CPUs that the kernel keeps out of its scheduling (C(isolcpus)).
              type: str
              returned: always
              sample: ""
            nohz_full:
              description: The CPUs on which the kernel stops its tick (C(nohz_full)), set aside for programs that are pinned to them.
              type: str
              returned: always
              sample: ""
            smt:
              description: Whether some core has more than one online thread.
              type: bool
              returned: always
              sample: true
            smt_control:
              description: The kernel's C(/sys/devices/system/cpu/smt/control).
              type: str
              returned: always
              sample: "on"
            cores:
              description: The cores, sorted by their first CPU.
              type: list
              elements: dict
              returned: always
              contains:
                socket:
                  description: The socket's id.
                  type: int
                  returned: always
                core:
                  description: The kernel's core id, unique within its socket and die alone.
                  type: int
                  returned: always
                node:
                  description: The NUMA node; V(null) without NUMA.
                  type: int
                  returned: always
                cpus:
                  description: The online CPUs of this core.
                  type: str
                  returned: always
                kind:
                  description: V(performance) or V(efficiency) on a hybrid CPU, else V(null).
                  type: str
                  returned: always
              sample: [{"socket": 0, "core": 0, "node": 0, "cpus": "0,80", "kind": null}]
            caches:
              description: The kinds of cache, and who shares each one.
              type: list
              elements: dict
              returned: always
              contains:
                level:
                  description: The cache level.
                  type: int
                  returned: always
                type:
                  description: V(Data), V(Instruction) or V(Unified).
                  type: str
                  returned: always
                size_bytes:
                  description: The size of one such cache.
                  type: int
                  returned: always
                shared_by:
                  description: For each such cache the online CPUs that share it.
                  type: list
                  elements: str
                  returned: always
              sample: [{"level": 1, "type": "Data", "size_bytes": 49152, "shared_by": ["0,80"]}]
            isa:
              description: The instruction sets that AI kernels choose by, in the kernel's names; those that every CPU has.
              type: list
              elements: str
              returned: always
              sample: [avx2, avx512_vnni, avx512f, fma]
            isa_level:
              description: The highest level of the x86-64 psABI, V(x86-64-v1) to V(x86-64-v4); V(null) on other architectures.
              type: str
              returned: always
              sample: x86-64-v4
            int8_path:
              description:
                - The best instruction set for INT8 products, one of V(amx_int8), V(avx512_vnni), V(avx_vnni), V(asimddp), V(none).
                - V(null) when the instruction sets are not known.
              type: str
              returned: always
              sample: avx512_vnni
            fma_units_512:
              description: How many 512-bit FMA instructions a core starts a cycle. No register tells it; it comes from a table.
              type: dict
              returned: always
              contains:
                value:
                  description: V(1), V(2), or V(null) when not known.
                  type: int
                  returned: always
                source:
                  description: Where the value comes from, or why there is none.
                  type: str
                  returned: always
              sample: {"value": 2, "source": "Intel ARK, number of AVX-512 FMA units: all of Ice Lake-SP have 2"}
            usable:
              description: What a service may really use. On a host that runs systemd these are the limits of C(system.slice), whatever session reads them.
              type: dict
              returned: always
              contains:
                cpus:
                  description: The online CPUs within the affinity and every cgroup cpuset.
                  type: str
                  returned: always
                count:
                  description: How many threads can run at a time, CPU quotas included (rounded down, at least 1).
                  type: int
                  returned: always
                limit:
                  description: The tightest limit, one of V(affinity), V(cpuset), V(quota), or V(null).
                  type: str
                  returned: always
                cpuset:
                  description: The online CPUs that no process may leave, V(null) where no cpuset is smaller than the machine.
                  type: str
                  returned: always
              sample: {"cpus": "0-159", "count": 160, "limit": null, "cpuset": null}
        numa:
          description: Memory nodes.
          returned: when selected
          type: dict
          contains:
            nodes:
              description: The NUMA nodes; empty without NUMA.
              type: list
              elements: dict
              returned: always
              contains:
                id:
                  description: The node's id; ids can have gaps.
                  type: int
                  returned: always
                cpus:
                  description: The node's online CPUs.
                  type: str
                  returned: always
                memory_bytes:
                  description: The node's memory.
                  type: int
                  returned: always
                distances:
                  description: The distance to each node by its id.
                  type: dict
                  returned: always
                kind:
                  description: V(cpu), or V(memory) for a node without an online CPU.
                  type: str
                  returned: always
                hugepages:
                  description: For each huge page size in kB the pages there are and the free ones.
                  type: dict
                  returned: always
              sample:
                - id: 0
                  cpus: 0-39,80-119
                  memory_bytes: 270000000000
                  distances: {"0": 10, "1": 20}
                  kind: cpu
                  hugepages: {"2048": {"total": 0, "free": 0}}
            nodes_per_socket:
              description: The most nodes with CPUs that a socket has.
              type: int
              returned: always
              sample: 1
            sub_numa:
              description: Whether the firmware splits a socket into several nodes, seen from the topology.
              type: dict
              returned: always
              contains:
                enabled:
                  description: V(true), V(false), or V(null) when it cannot be known.
                  type: bool
                  returned: always
                kind:
                  description: What this CPU's firmware calls it, V(SNC) or V(NPS); V(null) when it has no such setting.
                  type: str
                  returned: always
                reason:
                  description: What it was seen by, or why it cannot be known.
                  type: str
                  returned: always
              sample: {"enabled": false, "kind": "SNC", "reason": "no socket has more than one NUMA node with CPUs"}
            persistent_memory:
              description: Namespaces of persistent memory, with C(name), C(size_bytes) and C(numa_node).
              type: list
              elements: dict
              returned: always
              sample: []
            cxl:
              description: CXL memory devices, with C(name), C(ram_bytes), C(pmem_bytes) and C(numa_node).
              type: list
              elements: dict
              returned: always
              sample: []
            dax:
              description:
                - DAX devices, with C(name), C(size_bytes), C(numa_node), C(target_node) and C(driver).
                - The driver V(kmem) makes one the memory of its target node.
              type: list
              elements: dict
              returned: always
              sample: []
        power:
          description: Frequency and idle states.
          returned: when selected
          type: dict
          contains:
            driver:
              description: The cpufreq driver.
              type: str
              returned: always
              sample: intel_pstate
            reason:
              description: Why there is no cpufreq driver; V(null) when there is one.
              type: str
              returned: always
              sample:
            hwp:
              description: Whether the CPU chooses its own P-states (Intel's HWP).
              type: bool
              returned: always
              sample: true
            governors:
              description: The governors there are.
              type: list
              elements: str
              returned: always
              sample: [performance, powersave]
            governor:
              description: The governors in force on any CPU.
              type: list
              elements: str
              returned: always
              sample: [powersave]
            epp:
              description: The energy-performance preferences in force on any CPU.
              type: list
              elements: str
              returned: always
              sample: [balance_performance]
            epb:
              description: The energy-performance biases in force on any CPU.
              type: list
              elements: int
              returned: always
              sample: [6]
            turbo:
              description: C(available), whether the CPU can run above its base frequency, and C(enabled), whether it may now.
              type: dict
              returned: always
              sample: {"available": true, "enabled": true}
            min_khz:
              description: The lowest frequency of any CPU.
              type: int
              returned: always
              sample: 800000
            max_khz:
              description: The highest frequency of any CPU.
              type: int
              returned: always
              sample: 3400000
            base_khz:
              description: The highest base frequency of any CPU.
              type: int
              returned: always
              sample: 2300000
            idle:
              description: The cpuidle driver and its states.
              type: dict
              returned: always
              contains:
                driver:
                  description: The cpuidle driver.
                  type: str
                  returned: always
                states:
                  description: The union of all CPUs' states by name, by latency; of numbers that differ between core types the largest.
                  type: list
                  elements: dict
                  returned: always
                  contains:
                    name:
                      description: The state's name.
                      type: str
                      returned: always
                    latency_us:
                      description: The exit latency.
                      type: int
                      returned: always
                    residency_us:
                      description: The target residency.
                      type: int
                      returned: always
                    disabled:
                      description: On which CPUs that have it the state is disabled, V(all), V(none) or V(some); V(null) when the kernel does not tell.
                      type: str
                      returned: always
              sample:
                driver: intel_idle
                states: [{"name": "POLL", "latency_us": 0, "residency_us": 0, "disabled": "none"}]
        memory:
          description: Memory and the kernel's policies for it.
          returned: when selected
          type: dict
          contains:
            total_bytes:
              description: The memory the kernel has.
              type: int
              returned: always
              sample: 540000000000
            hugepage_sizes:
              description: The huge page sizes in bytes.
              type: list
              elements: int
              returned: always
              sample: [2097152, 1073741824]
            transparent_hugepage:
              description: When transparent huge pages are used.
              type: str
              returned: always
              sample: madvise
            thp_defrag:
              description: When the kernel compacts memory for them.
              type: str
              returned: always
              sample: madvise
            numa_balancing:
              description: Automatic NUMA balancing, the kernel's C(kernel.numa_balancing).
              type: int
              returned: always
              sample: 1
            swappiness:
              description: The kernel's C(vm.swappiness).
              type: int
              returned: always
              sample: 60
            zone_reclaim_mode:
              description: The kernel's C(vm.zone_reclaim_mode).
              type: int
              returned: always
              sample: 0
            dimms:
              description: The DIMMs by SMBIOS or EDAC. C(channel) is V(null) where the slot's name does not tell it.
              type: list
              elements: dict
              returned: always
              sample: [{"slot": "CPU0_DIMM_A1", "size_bytes": 68719476736, "speed_mts": 3200, "channel": "CPU0_A"}]
            channels:
              description: Memory channels with a DIMM, of those there are, or the reason why they are not known.
              type: dict
              returned: always
              sample: {"populated": 16, "available": 16, "reason": null}
        devices:
          description: Physical devices.
          returned: when selected
          type: dict
          contains:
            nics:
              description: Network interfaces. C(speed_mbps) is V(null) while a link is down.
              type: list
              elements: dict
              returned: always
              sample: [{"name": "ens1f0", "speed_mbps": 100000, "numa_node": 0, "driver": "ice"}]
            disks:
              description: Disks.
              type: list
              elements: dict
              returned: always
              sample: [{"name": "nvme0n1", "rotational": false, "transport": "nvme", "numa_node": 0, "size_bytes": 1920383410176}]
        firmware:
          description: The guide's five BIOS rows, each with C(value) and the C(reason) it was seen by, or V(null) with the reason why it cannot be seen.
          returned: when selected
          type: dict
          contains:
            hyper_threading:
              description: V(enabled), V(disabled) or V(null).
              type: dict
              returned: always
              sample: {"value": "enabled", "reason": "a core has 2 online threads"}
            sub_numa:
              description: V(enabled), V(disabled) or V(null).
              type: dict
              returned: always
              sample: {"value": "disabled", "reason": "no socket has more than one NUMA node with CPUs"}
            boot_performance_mode:
              description: Always V(null), since nothing of it can be seen.
              type: dict
              returned: always
            turbo:
              description: V(enabled), V(disabled) or V(null).
              type: dict
              returned: always
            hardware_pstates:
              description: V(native), V(disabled) or V(null).
              type: dict
              returned: always
              sample: {"value": "native", "reason": "intel_pstate runs the CPU's hardware P-states (HWP)"}
        platform:
          description: The system around the CPU.
          returned: when selected
          type: dict
          contains:
            virtualization:
              description: The hypervisor in lower case; V(null) on bare metal.
              type: str
              returned: always
              sample:
            container:
              description: The container manager; V(null) outside of a container.
              type: str
              returned: always
              sample:
            kernel:
              description: The kernel release.
              type: str
              returned: always
              sample: 6.8.0-45-generic
            cmdline:
              description: The kernel's boot parameters.
              type: str
              returned: always
              sample: root=/dev/sda1 ro
            distribution:
              description: C(id), C(version_id) and C(pretty_name) of os-release.
              type: dict
              returned: always
              sample: {"id": "ubuntu", "version_id": "24.04", "pretty_name": "Ubuntu 24.04.1 LTS"}
            conflicting_tuners:
              description:
                - Active services that change power settings by themselves, of V(auto-cpufreq), V(cpufrequtils), V(power-profiles-daemon), V(tlp), V(tuned).
              type: list
              elements: str
              returned: always
              sample: []
            init:
              description: V(systemd) when it is the init system, else V(null).
              type: str
              returned: always
              sample: systemd
            battery:
              description: Whether a battery powers the machine.
              type: bool
              returned: always
              sample: false
            sys_writable:
              description: Whether this process may write C(/sys); V(false) in most containers.
              type: bool
              returned: always
              sample: true
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import SubsetError, gather, select
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root, RootError


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/"},
            "gather_subset": {"type": "list", "elements": "str", "default": ["all"]},
            "fact_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        subsets = select(module.params["gather_subset"])
        root = Root(module.params["root"])
    except (SubsetError, RootError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, ansible_facts={"ainode": gather(root, subsets)})


if __name__ == "__main__":
    main()
