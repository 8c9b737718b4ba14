#!/usr/bin/python

# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_audit
short_description: Judge a node against the tuning guide, one row a recommendation
version_added: "0.1.0"
author: The ainode.cpu authors (@ainode)
description:
  - Reads the live node and gives one verdict for each recommendation of the tuning guide and of this collection. What each row checks,
    and how, stands in C(docs/audit.md).
  - A setting passes when the kernel has the expected value now, and the system's own configuration (C(sysctl.d), C(tmpfiles.d), the boot unit
    C(ainode-cpu-power.service), the kernel's command line and build) says that it has it after a reboot too.
  - What the firmware or the hardware decides is V(advice) when it is not as the guide wants it. What the host does not own, does not tell or
    was not given is V(not_applicable), with the reason.
  - Roles that deploy something add their own rows through C(/etc/ainode/audit.d/<name>.json), which names a command that judges on the node.
    It is run without a shell, and only when the file belongs to root and nobody else may write it.
  - The expected values have the names of the options of M(ainode.cpu.cpu_power), M(ainode.cpu.hugepages) and M(ainode.cpu.memory_policy).
    Where one is left out, the default of the roles P(ainode.cpu.cpu_power#role) and P(ainode.cpu.hugepages#role) is expected, which is the
    guide's value wherever the guide names one.
attributes:
  check_mode:
    support: full
    description: Changes nothing, in check mode and out of it.
  diff_mode:
    support: N/A
    description: Changes nothing.
  idempotent:
    support: full
    description: Changes nothing.
  platform:
    support: full
    platforms: posix
    description: Linux.
options:
  governor:
    description: The expected cpufreq governor. V(performance) by default.
    type: str
  epp:
    description: The expected energy performance preference, by name or as a number.
    type: str
  epb:
    description: The expected energy performance bias, by name or as a number.
    type: str
  turbo:
    description: Whether turbo is expected to be on. V(true) by default.
    type: bool
  min_frequency_khz:
    description: The expected lowest frequency in kHz.
    type: int
  max_frequency_khz:
    description: The expected highest frequency in kHz.
    type: int
  idle_states_disabled:
    description: The names of idle states that are expected to be disabled on every CPU.
    type: list
    elements: str
  max_exit_latency_us:
    description:
      - The longest exit latency in µs that an enabled idle state may have.
      - V(10) by default. Nothing is expected by default where O(idle_states_disabled) names states, and on a host with a battery.
    type: int
  hugepages:
    description: The expected huge pages, as O(ainode.cpu.hugepages#module:pages) has them.
    type: list
    elements: dict
    suboptions:
      size:
        description: The size of a page, such as V(2M) or V(1G).
        type: str
        required: true
      nodes:
        description: The number of pages by NUMA node.
        type: dict
      total:
        description: The number of pages in all, spread over the nodes that have CPUs and memory.
        type: int
  shortfall:
    description: Whether fewer huge pages than O(hugepages) are a failed row, or advice (V(warn)).
    type: str
    choices: [fail, warn]
    default: fail
  transparent_hugepage:
    description: The expected policy of transparent huge pages, V(always), V(madvise) (the default) or V(never).
    type: str
  thp_defrag:
    description: The expected policy of waiting for a transparent huge page, such as V(madvise) (the default) or V(defer+madvise).
    type: str
  khugepaged_defrag:
    description: Whether khugepaged is expected to compact memory.
    type: bool
  numa_balancing:
    description: The expected mode of automatic NUMA balancing. V(0) by default.
    type: int
  zone_reclaim_mode:
    description: The expected zone reclaim mode. V(0) by default.
    type: int
  swappiness:
    description: The expected swappiness. V(10) by default.
    type: int
  ignore:
    description: The names of options above whose settings are as they please. Nothing is expected of them, not even the default.
    type: list
    elements: str
    default: []
  fail:
    description:
      - Whether the module fails when a row does. The result is complete in both cases.
      - Leave it off to show RV(table) first and to fail in a later task.
    type: bool
    default: false
  root:
    description: The system root to audit. V(/) is the node itself; any other directory is a recorded machine, on which no command is run.
    type: path
    default: /
seealso:
  - module: ainode.cpu.node_facts
  - module: ainode.cpu.cpu_power
  - module: ainode.cpu.hugepages
  - module: ainode.cpu.memory_policy
"""

EXAMPLES = r"""
# ansible -m ainode.cpu.node_audit all
- name: Judge the node by the guide
  ainode.cpu.node_audit:
  register: audit

- name: Show the verdicts
  ansible.builtin.debug:
    msg: "{{ audit.table }}"

- name: Fail when the node is not as it was set up
  ainode.cpu.node_audit:
    governor: performance
    max_exit_latency_us: 10
    hugepages:
      - size: 2M
        total: 4096
    fail: true
"""

RETURN = r"""
rows:
  description: One row a recommendation, in the guide's order, then this collection's own and those of deployed pieces.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The row's stable name.
      type: str
      sample: power.governor
    section:
      description: The heading in the guide, or C(collection).
      type: str
      sample: Configuration of Linux Performance Governor
    what:
      description: What is recommended.
      type: str
      sample: The CPU frequency governor is performance
    expected:
      description: The expected value; null where none can be named.
      type: str
      sample: performance
    live:
      description: What the node has now; null where it does not tell.
      type: str
      sample: powersave
    after_reboot:
      description: What the node will have after a reboot; null for what no boot sets, and where nothing known sets it.
      type: str
      sample: performance
    verdict:
      description: V(pass), V(fail), V(advice) or V(not_applicable).
      type: str
      sample: fail
    reason:
      description: Why the verdict is not V(pass).
      type: str
      sample: "drifted: the next boot sets it right (/etc/ainode/cpu-power.conf)"
    remedy:
      description: What to do; empty for V(pass).
      type: str
      sample: run playbooks/ai-node.yml (role cpu_power)
summary:
  description: The number of rows by verdict.
  returned: always
  type: dict
  sample: {fail: 1, advice: 2, pass: 20, not_applicable: 17}
failed_rows:
  description: The ids of the rows that fail.
  returned: always
  type: list
  elements: str
  sample: [power.governor]
table:
  description: The rows as a text for people, failed ones first.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils.audit import checks
from ansible_collections.ainode.cpu.plugins.module_utils.audit.evidence import collect
from ansible_collections.ainode.cpu.plugins.module_utils.audit.rows import audit, expectations, summary, table
from ansible_collections.ainode.cpu.plugins.module_utils.facts.gather import gather
from ansible_collections.ainode.cpu.plugins.module_utils.host.host import Host
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import RootError


def main():
    module = AnsibleModule(
        argument_spec={
            "governor": {"type": "str"},
            "epp": {"type": "str"},
            "epb": {"type": "str"},
            "turbo": {"type": "bool"},
            "min_frequency_khz": {"type": "int"},
            "max_frequency_khz": {"type": "int"},
            "idle_states_disabled": {"type": "list", "elements": "str"},
            "max_exit_latency_us": {"type": "int"},
            "hugepages": {
                "type": "list",
                "elements": "dict",
                "options": {"size": {"type": "str", "required": True}, "nodes": {"type": "dict"}, "total": {"type": "int"}},
            },
            "shortfall": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
            "transparent_hugepage": {"type": "str"},
            "thp_defrag": {"type": "str"},
            "khugepaged_defrag": {"type": "bool"},
            "numa_balancing": {"type": "int"},
            "zone_reclaim_mode": {"type": "int"},
            "swappiness": {"type": "int"},
            "ignore": {"type": "list", "elements": "str", "default": []},
            "fail": {"type": "bool", "default": False},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    try:
        host = Host(module.params["root"])
    except RootError as error:
        module.fail_json(msg=str(error))
    settings = {name: value for name, value in module.params.items() if name not in ("ignore", "fail", "root")}
    unknown = [name for name in module.params["ignore"] if name not in settings]
    if unknown:
        module.fail_json(msg=f"ignore has '{unknown[0]}', which is no setting: give names out of {', '.join(sorted(settings))}")
    node = gather(host)
    expected = expectations(node, settings, module.params["ignore"])
    rows = audit(node, collect(host, node, expected), expected, checks.rows(host))
    failed = [row["id"] for row in rows if row["verdict"] == "fail"]
    result = {"changed": False, "rows": rows, "summary": summary(rows), "failed_rows": failed, "table": table(rows)}
    if failed and module.params["fail"]:
        module.fail_json(msg=f"{len(failed)} of {len(rows)} rows fail: {', '.join(failed)}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
