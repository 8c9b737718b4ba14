#!/usr/bin/python
# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pinned_service
short_description: Run a service as one sandboxed systemd unit an instance, each pinned to its CPUs and memory nodes
version_added: "0.1.0"
author: The ainode.cpu authors (@ainode)
description:
  - Writes C(ainode-<name>-<number>.service), one for each instance of a placement (P(ainode.cpu.placement#filter)), enables them, and starts them.
  - The unit pins its instance (C(CPUAffinity), C(NUMAPolicy), C(NUMAMask)), runs it as an unprivileged user, and takes from it
    what a network service does not need (C(systemd-analyze security) rates it 1.4).
  - A changed unit is restarted, changed O(data) is reloaded (SIGHUP); in both cases one instance after the other, each awaited until O(ready_url) answers
    before the next is touched. When one does not become ready, O(links) and the units touched so far go back to what they were,
    so that the old goes on everywhere, and the module fails with the end of that instance's journal.
  - Units of instances that are no longer in the placement are stopped and removed.
  - Where systemd does not run (a container), units are laid down and enabled, not started, and the result says so.
attributes:
  check_mode:
    support: full
    description: Can run in check mode and says exactly what would change, without changing it.
  diff_mode:
    support: full
    description: Shows the units before and after.
  idempotent:
    support: full
    description: A second run with the same options changes nothing.
  platform:
    support: full
    platforms: posix
    description: Linux with systemd 240 or newer, or without a running systemd.
options:
  name:
    description: The service's name, as it stands in the names of its units.
    type: str
    required: true
  state:
    description: Whether the units are there and run, or are stopped and gone.
    type: str
    choices: [present, absent]
    default: present
  description:
    description: What the unit says it is. By default O(name).
    type: str
  instances:
    description: The instances, as the filter P(ainode.cpu.placement#filter) returns them. Required for O(state=present).
    type: list
    elements: dict
  command:
    description:
      - The argument list that starts an instance; the first is an absolute path. Required for O(state=present).
      - In each argument C({name}), C({index}), C({port}), C({cpus}), C({threads}), C({credentials}) (the directory of O(credentials))
        and C({runtime}) (a directory below /run that systemd makes for the instance when it is named) stand for the instance's own.
    type: list
    elements: str
  port:
    description: The port of the first instance; each next one has the next port.
    type: int
    default: 8500
  notify:
    description: Whether the program tells systemd when it is ready (sd_notify), feeds its watchdog and reloads its data on SIGHUP.
    type: bool
    default: false
  user:
    description: The user and group that instances run as. They must exist.
    type: str
    default: ainode
  environment:
    description: Environment variables beside those of the placement, over which they win.
    type: dict
    default: {}
  credentials:
    description: Secret files (name to absolute path) that systemd hands to the service alone (C(LoadCredential)), never through its arguments.
    type: dict
    default: {}
  writable:
    description: Directories that the service may write to; the rest of the file system is read-only for it.
    type: list
    elements: path
    default: []
  jit:
    description: Whether the program makes machine code at run time (Python frameworks do), which the sandbox forbids otherwise.
    type: bool
    default: false
  loopback:
    description: Whether the sandbox lets the service speak with this machine alone.
    type: bool
    default: true
  limits:
    description:
      - What an instance may use up, C(MemoryMax), C(MemoryHigh), C(TasksMax) or C(LimitCORE), as numbers, with K, M, G, T or % behind them,
        or as C(infinity).
      - Unless they are given, C(TasksMax) is 4096 and C(LimitCORE) is 0.
    type: dict
    default: {}
  data:
    description: What the service serves, by digest. When only this changes, instances are reloaded instead of restarted; needs O(notify=true).
    type: str
    default: ""
  links:
    description:
      - Symbolic links (path to target), such as C(current), that are switched atomically before an instance is touched,
        and switched back when one does not become ready. A link that was not there before stays.
      - An instance is told of a switched link by what else changes with it, O(command) or O(data).
    type: dict
    default: {}
  ready_url:
    description: An HTTP URL, with the placeholders of O(command), that answers 200 when the instance is ready. By default an active unit is ready.
    type: str
  serves_url:
    description: An HTTP URL, with the same placeholders, whose answer holds O(serves) once the instance serves O(data).
    type: str
  serves:
    description: The text that O(serves_url) shows. By default O(data).
    type: str
  key_file:
    description: A file on the node with the key that O(serves_url) wants as a bearer token.
    type: path
  timeout:
    description: Seconds that an instance may take to start and to become ready.
    type: int
    default: 90
"""

EXAMPLES = r"""
- name: One search service a NUMA node, pinned
  ainode.cpu.pinned_service:
    name: vector-search
    instances: "{{ ansible_facts.ainode | ainode.cpu.placement('search') }}"
    command:
      - /opt/ainode/vnni-search/current/vnni-search
      - serve
      - --index=/var/lib/ainode/vector-search/current.vnni
      - --listen=127.0.0.1:{port}
    notify: true
    ready_url: http://127.0.0.1:{port}/v2/health/ready

- name: Stop it and remove its units
  ainode.cpu.pinned_service:
    name: vector-search
    state: absent
"""

RETURN = r"""
units:
  description: The service's units, by instance.
  returned: always
  type: list
  elements: dict
  sample: [{unit: ainode-vector-search-0.service, port: 8500, cpus: "0-7", action: restart}]
  contains:
    unit:
      description: The unit's name.
      type: str
    port:
      description: The port that the instance listens on; null for a removed unit.
      type: int
    cpus:
      description: The instance's CPUs, a kernel cpulist; null for a removed unit.
      type: str
    action:
      description: What was done (in check mode, would be done) to the instance. V(write) where systemd does not run; null when nothing was needed.
      type: str
      choices: [start, restart, reload, write, remove]
links:
  description: The links of O(links), with the target of each before (null when there was none) and after, and whether it was (would be) switched.
  returned: always
  type: list
  elements: dict
  sample: [{path: /opt/ainode/vnni-search/current, before: /opt/ainode/vnni-search/1f0c, after: /opt/ainode/vnni-search/77ab, changed: true}]
running:
  description: Whether systemd runs here and was told to run the units.
  returned: always
  type: bool
reason:
  description: Why the units were not started; null when they were.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils.deploy.rollout import RolloutError, rollout
from ansible_collections.ainode.cpu.plugins.module_utils.deploy.unit import Service


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "description": {"type": "str"},
            "instances": {"type": "list", "elements": "dict"},
            "command": {"type": "list", "elements": "str"},
            "port": {"type": "int", "default": 8500},
            "notify": {"type": "bool", "default": False},
            "user": {"type": "str", "default": "ainode"},
            "environment": {"type": "dict", "default": {}},
            "credentials": {"type": "dict", "default": {}},
            "writable": {"type": "list", "elements": "path", "default": []},
            "jit": {"type": "bool", "default": False},
            "loopback": {"type": "bool", "default": True},
            "limits": {"type": "dict", "default": {}},
            "data": {"type": "str", "default": ""},
            "links": {"type": "dict", "default": {}},
            "ready_url": {"type": "str"},
            "serves_url": {"type": "str"},
            "serves": {"type": "str"},
            "key_file": {"type": "path", "no_log": False},
            "timeout": {"type": "int", "default": 90},
        },
        required_if=[("state", "present", ("instances", "command"))],
        supports_check_mode=True,
    )
    options = module.params
    instances = (options["instances"] if options["state"] == "present" else None) or []
    service = Service(
        options["name"],
        options["description"] or options["name"],
        options["command"] or [],
        port=options["port"],
        notify=options["notify"],
        user=options["user"],
        environment=options["environment"],
        credentials=options["credentials"],
        writable=options["writable"],
        jit=options["jit"],
        loopback=options["loopback"],
        limits=options["limits"],
        data=options["data"],
        start_timeout=options["timeout"],
    )
    try:
        for problem in service.problems(len(instances)):
            raise RolloutError(problem)
        result = rollout(service, instances, options, module.check_mode)
    except RolloutError as error:
        module.fail_json(msg=f"pinned_service {options['name']}: {error}", units=error.units, links=error.links)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
