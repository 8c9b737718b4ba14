#!/usr/bin/python
# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cpu_power
short_description: Set governor, energy preference, turbo, frequency limits and idle states of all CPUs
version_added: "0.1.0"
description:
  - Sets how the CPUs of a Linux host trade speed for energy, at once and at every boot, and undoes it.
  - Each value is written to the kernel, read back, and set again at boot by C(ainode-cpu-power.service), a oneshot unit that
    reads C(/etc/ainode/cpu-power.conf). Idle states are found by name or latency, never by number, for the numbers differ between CPUs and kernels.
  - What a setting was before is kept in C(/var/lib/ainode/baseline.json). O(state=absent) puts it back, and so does leaving an option out later.
  - What the host does not have, or does not own, is listed in RV(not_applicable) and changes nothing.
options:
  state:
    description: Whether the settings are in force, or the host is back at its baseline.
    type: str
    choices: [present, absent]
    default: present
  governor:
    description:
      - The cpufreq governor of every policy, such as V(performance) or V(schedutil).
      - V(powersave) scales with the load under the drivers intel_pstate and amd-pstate in active mode. Under all others it holds the
        CPUs at their lowest frequency; the module warns of that.
    type: str
  epp:
    description:
      - The energy performance preference, by name (V(performance), V(balance_performance), V(balance_power), V(power)) or as a number from V(0) to V(255).
      - Under O(governor=performance), intel_pstate and amd-pstate in active mode hold it at V(performance). Another value is then not applicable.
    type: str
  epb:
    description:
      - The energy performance bias of Intel CPUs, a number from V(0) (performance) to V(15) (power), or
        V(performance), V(balance-performance), V(normal), V(balance-power) or V(power).
    type: str
  turbo:
    description: Whether the CPUs may exceed their base frequency.
    type: bool
  min_frequency_khz:
    description:
      - The lowest frequency in kHz. It must lie in the host's range.
      - A CPU of a hybrid whose own range is narrower gets the nearest end of it.
    type: int
  max_frequency_khz:
    description: The highest frequency in kHz, under the same rules as O(min_frequency_khz).
    type: int
  idle_states_disabled:
    description:
      - The names of the idle states (C-states) that are disabled on every CPU that has them, such as V(C6).
      - All other states stay as they are. Some are off by the kernel's own choice.
    type: list
    elements: str
  max_exit_latency_us:
    description:
      - Disables every idle state that takes longer than this many µs to leave.
      - V(10) leaves POLL, C1 and C1E of an Intel server and disables C6; V(1) disables C1E as well.
    type: int
  conflicting_tuners:
    description:
      - What to do when tuned, power-profiles-daemon, TLP, cpufrequtils or auto-cpufreq runs or starts at boot. They set the same values.
      - V(fail) stops before anything changes.
      - V(disable) stops and disables them. O(state=absent) starts them again.
      - V(ignore) leaves them running.
    type: str
    choices: [fail, disable, ignore]
    default: fail
extends_documentation_fragment:
  - ainode.cpu.settings
author:
  - The ainode.cpu authors (@ainode)
"""

EXAMPLES = r"""
- name: Run at full speed and wake up fast
  ainode.cpu.cpu_power:
    governor: performance
    turbo: true
    max_exit_latency_us: 10

- name: Name the idle states, and take over from tuned
  ainode.cpu.cpu_power:
    governor: performance
    idle_states_disabled: [C6]
    conflicting_tuners: disable

- name: Put everything back
  ainode.cpu.cpu_power:
    state: absent
"""

RETURN = r"""
settings:
  description: The kernel values that were asked for, those alike on many CPUs in one entry. Values on their way back have the setting C(baseline).
  returned: success
  type: list
  elements: dict
  contains:
    setting:
      description: The option it comes from.
      type: str
    path:
      description: The file; a C(*) stands for the numbers in RV(settings[].ids).
      type: str
    ids:
      description: The CPUs or policies, as a cpulist; empty for a file of the whole host.
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
    - setting: governor
      path: /sys/devices/system/cpu/cpufreq/policy*/scaling_governor
      ids: 0-159
      before: powersave
      after: performance
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
    - path: /etc/ainode/cpu-power.conf
      change: created
units:
  description: The tuners that were stopped or started again, and C(ainode-cpu-power.service) when it was started.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The systemd unit.
      type: str
    change:
      description: One of V(stopped), V(started).
      type: str
  sample:
    - name: tuned.service
      change: stopped
not_applicable:
  description: The options that this host does not have or does not own.
  returned: success
  type: list
  elements: dict
  contains:
    setting:
      description: The option.
      type: str
    reason:
      description: Why it changes nothing here.
      type: str
  sample:
    - setting: governor
      reason: this host has no cpufreq driver (in a VM, the hypervisor owns the frequency)
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils.host import baseline
from ansible_collections.ainode.cpu.plugins.module_utils.state import converge, cpu_power


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "governor": {"type": "str"},
            "epp": {"type": "str"},
            "epb": {"type": "str"},
            "turbo": {"type": "bool"},
            "min_frequency_khz": {"type": "int"},
            "max_frequency_khz": {"type": "int"},
            "idle_states_disabled": {"type": "list", "elements": "str"},
            "max_exit_latency_us": {"type": "int"},
            "conflicting_tuners": {"type": "str", "choices": ["fail", "disable", "ignore"], "default": "fail"},
            "persist": {"type": "bool", "default": True},
            "root": {"type": "path", "default": "/"},
        },
        mutually_exclusive=[("idle_states_disabled", "max_exit_latency_us")],
        supports_check_mode=True,
    )

    def plan(host):
        return cpu_power.plan(host, module.params, baseline.load(host).record("cpu_power")["units"])

    converge.run(module, "cpu_power", plan)


if __name__ == "__main__":
    main()
