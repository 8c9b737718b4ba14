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

import os
import time
import urllib.error
import urllib.request
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils import service as units
from ansible_collections.ainode.cpu.plugins.module_utils import settings


class Host(settings.Host):
    """This host's units and, where it runs, the systemd that acts on them."""

    def __init__(self, module):
        super().__init__("/")
        self.module = module
        self.headers = {}
        if module.params["key_file"] and not module.check_mode:
            with open(module.params["key_file"], encoding="utf-8") as file:
                self.headers["Authorization"] = "Bearer " + file.read().strip()
        self.running = self.has_systemd()

    def unit(self, unit):
        """Return the text of a unit file, or None."""
        state = self.file_state(os.path.join(settings.UNITS, unit))
        return state and state["content"]

    def owned(self, service):
        """Return the names of the unit files that are instances of `service`."""
        try:
            return sorted(filter(service.owns, os.listdir(settings.UNITS)))
        except FileNotFoundError:
            return []

    def active(self, names):
        """Return which of the units are active, in one call."""
        if not (self.running and names):
            return set()
        states = self.systemctl("show", "--property=ActiveState", "--value", *names).split()
        return {name for name, state in zip(names, states) if state in ("active", "reloading")}

    def is_enabled(self, unit):
        """Return whether the unit starts at boot."""
        return os.path.lexists(os.path.join(units.WANTS, unit))

    def write(self, unit, text):
        """Write a unit file and enable it, or with text None remove both."""
        path = os.path.join(settings.UNITS, unit)
        link = os.path.join(units.WANTS, unit)
        if text is None:
            for name in (link, path):
                if os.path.lexists(name):
                    self.put(name, None)
            return
        os.makedirs(units.WANTS, exist_ok=True)
        self.put(path, settings.file(text))
        if not os.path.lexists(link):
            self.put(link, settings.link(path))

    def target(self, path):
        """Return the target of a symbolic link, or None where there is nothing."""
        return os.readlink(path) if os.path.lexists(path) else None

    def await_ready(self, unit, url, deadline, contains=""):
        """Wait until the unit is active and its URL answers 200 with `contains` in it; SettingsError with the end of its journal."""
        said = "it is not active"
        while True:
            if unit in self.active([unit]):
                if url is None:
                    return
                try:
                    # The node's own service: a proxy configured in the environment has nothing to do with it.
                    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                        urllib.request.Request(url, headers=self.headers), timeout=5
                    ) as answer:
                        if contains in answer.read(1 << 20).decode("utf-8", "replace"):
                            return
                        said = f"{url} does not yet answer with '{contains}'"
                except urllib.error.HTTPError as error:
                    said = f"{url} answers {error.code} {error.reason}"
                except (OSError, ValueError) as error:
                    said = f"{url}: {error}"
            if time.monotonic() > deadline:
                journal = self.module.run_command(["journalctl", "--no-pager", "--lines=15", "--output=cat", f"--unit={unit}"])[1]
                raise settings.SettingsError(f"{unit} is not ready: {said}. The end of its journal:\n{journal.strip()}")
            time.sleep(0.2)


class Step(NamedTuple):
    """What is done to one instance."""

    unit: str
    before: str | None
    after: str
    action: str
    ready_url: str | None
    serves_url: str | None


def apply(host, step, timeout, serves):
    """Write one instance's unit and bring it into force; SettingsError when it does not become ready in time."""
    host.write(step.unit, step.after)
    if not host.running or step.action == "write":
        return
    host.systemctl("daemon-reload")
    host.systemctl("--no-block", "restart" if step.action == "start" else step.action, step.unit)
    deadline = time.monotonic() + timeout
    host.await_ready(step.unit, step.ready_url, deadline)
    if step.serves_url:
        host.await_ready(step.unit, step.serves_url, deadline, serves)


def undo(host, steps, links, timeout):
    """Put links (path to old target) back, then the instances of `steps`, one after the other; return what was done, as a sentence."""
    links = {path: target for path, target in links.items() if target is not None}
    back = [step._replace(after=step.before) for step in steps if step.before is not None and (links or step.before != step.after)]
    try:
        for path, target in links.items():
            host.put(path, settings.link(target))
        for step in back:
            apply(host, step, timeout, "")
    except (settings.SettingsError, OSError) as failure:
        return f"The way back failed, too: {failure}"
    return "What was there before is back and ready." if back or links else "There was nothing before it to go back to."


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
    service = units.Service(
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
        data=options["data"],
        start_timeout=options["timeout"],
    )
    try:
        host = Host(module)
    except OSError as error:
        module.fail_json(msg=f"pinned_service {options['name']}: key_file: {error}")
    try:
        wanted = {service.unit_name(index): service.unit(index, instance) for index, instance in enumerate(instances)}
        urls = [
            [url and url.format_map(service.values(index, instance)) for url in (options["ready_url"], options["serves_url"])]
            for index, instance in enumerate(instances)
        ]
    except (KeyError, ValueError) as error:
        module.fail_json(msg=f"pinned_service {options['name']}: {error}")
    for problem in service.problems(len(instances)):
        module.fail_json(msg=f"pinned_service {options['name']}: {problem}")

    try:
        links = [{"path": path, "before": host.target(path), "after": target} for path, target in sorted(options["links"].items())]
        for link in links:
            link["changed"] = link["before"] != link["after"]
    except OSError as error:
        module.fail_json(msg=f"pinned_service {options['name']}: links: {error.filename} is there and no symbolic link")
    switched = [link for link in links if link["changed"]]
    stale = [unit for unit in host.owned(service) if unit not in wanted]
    try:
        active = host.active(sorted(wanted))
        before = {unit: host.unit(unit) for unit in [*wanted, *stale]}
    except settings.SettingsError as error:
        module.fail_json(msg=f"pinned_service {options['name']}: {error}")
    results, steps = [], []
    for index, (unit, text) in enumerate(wanted.items()):
        # Without a systemd there is nothing to start: the unit file and its link are all there is.
        action = units.needed_action(before[unit], text, unit in active) if host.running else "write" if before[unit] != text else None
        if action is None and not host.is_enabled(unit):
            action = "write"
        results.append({"unit": unit, "port": options["port"] + index, "cpus": instances[index]["cpus"], "action": action})
        if action:
            steps.append(Step(unit, before[unit], text, action, *urls[index]))
    results += [{"unit": unit, "port": None, "cpus": None, "action": "remove"} for unit in stale]

    if not module.check_mode:
        touched = []
        try:
            for link in switched:
                host.put(link["path"], settings.link(link["after"]))
            for step in steps:
                touched.append(step)
                apply(host, step, options["timeout"], options["serves"] or options["data"])
            if stale:
                if host.running:
                    host.systemctl("stop", *stale)
                for unit in stale:
                    host.write(unit, None)
                if host.running:
                    host.systemctl("daemon-reload")
        except (settings.SettingsError, OSError) as error:
            # The one that failed first: it may serve nothing now.
            outcome = undo(host, reversed(touched), {link["path"]: link["before"] for link in switched}, options["timeout"])
            module.fail_json(msg=f"pinned_service {options['name']}: {error}\n{outcome}", units=results, links=links)

    module.exit_json(
        changed=bool(switched) or any(result["action"] for result in results),
        units=results,
        links=links,
        running=host.running,
        reason=None if host.running else "systemd does not run here: the units are laid down and enabled, not started",
        diff=[
            {"before_header": unit, "after_header": unit, "before": before[unit] or "", "after": wanted.get(unit, "")}
            for unit in before
            if before[unit] != wanted.get(unit)
        ]
        + [{"before_header": link["path"], "after_header": link["path"], "before": f"{link['before']}\n", "after": f"{link['after']}\n"} for link in switched],
    )


if __name__ == "__main__":
    main()
