# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Instances of a pinned service come into force one after the other, each ready before the next, or all go back to what they were."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from typing import NamedTuple

from ..host.host import UNITS, Host, SettingsError, file, link
from .unit import WANTS, needed_action


class RolloutError(ValueError):
    """The service is not as it was asked for; the message says why and what is in force now. `units` and `links` are those of rollout()."""

    def __init__(self, message, units=(), links=()):
        super().__init__(message)
        self.units, self.links = list(units), list(links)


class Units(Host):
    """This host's units and, where it runs, the systemd that acts on them."""

    def __init__(self, key_file=None):
        """`key_file` holds the key that the services ask for, if they do. Raises RolloutError when it cannot be read."""
        super().__init__("/")
        self.headers = {}
        if key_file:
            try:
                with open(key_file, encoding="utf-8") as stream:
                    self.headers["Authorization"] = "Bearer " + stream.read().strip()
            except OSError as error:
                raise RolloutError(f"key_file: {error}") from None
        self.running = self.has_systemd()

    def unit(self, unit):
        """Return the text of a unit file, or None."""
        state = self.file_state(os.path.join(UNITS, unit))
        return state and state["content"]

    def owned(self, service):
        """Return the names of the unit files that are instances of `service`."""
        try:
            return sorted(filter(service.owns, os.listdir(UNITS)))
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
        return os.path.lexists(os.path.join(WANTS, unit))

    def write(self, unit, text):
        """Write a unit file and enable it, or with text None remove both."""
        path = os.path.join(UNITS, unit)
        wants = os.path.join(WANTS, unit)
        if text is None:
            for name in (wants, path):
                if os.path.lexists(name):
                    self.put(name, None)
            return
        os.makedirs(WANTS, exist_ok=True)
        self.put(path, file(text))
        if not os.path.lexists(wants):
            self.put(wants, link(path))

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
                command = ("journalctl", "--no-pager", "--lines=15", "--output=cat", f"--unit={unit}")
                journal = subprocess.run(command, capture_output=True, check=False).stdout.decode("utf-8", "replace")
                raise SettingsError(f"{unit} is not ready: {said}. The end of its journal:\n{journal.strip()}")
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


def remove(host, units):
    """Stop and remove `units`, instances that are no longer wanted."""
    if units and host.running:
        host.systemctl("stop", *units)
    for unit in units:
        host.write(unit, None)
    if units and host.running:
        host.systemctl("daemon-reload")


def undo(host, steps, links, timeout):
    """Put links (path to old target) back, then the instances of `steps`, one after the other; return what was done, as a sentence."""
    links = {path: target for path, target in links.items() if target is not None}
    back = [step._replace(after=step.before) for step in steps if step.before is not None and (links or step.before != step.after)]
    try:
        for path, target in links.items():
            host.put(path, link(target))
        for step in back:
            apply(host, step, timeout, "")
    except (SettingsError, OSError) as failure:
        return f"The way back failed, too: {failure}"
    return "What was there before is back and ready." if back or links else "There was nothing before it to go back to."


def rollout(service, instances, options, check_mode):
    """Bring `service` (unit.Service) with `instances` (of the placement) into force, or tell what that would change; return the module's result.

    `options`: links ({path: target}, switched together with the units), ready_url and serves_url (templates; answered by an instance before the
    next one is touched), serves (what the answer of serves_url holds), key_file, timeout (seconds an instance may take). Raises RolloutError.
    """
    host = Units(None if check_mode else options["key_file"])
    try:
        links = [{"path": path, "before": host.target(path), "after": target} for path, target in sorted(options["links"].items())]
    except OSError as error:
        raise RolloutError(f"links: {error.filename} is there and no symbolic link") from None
    for entry in links:
        entry["changed"] = entry["before"] != entry["after"]
    switched = [entry for entry in links if entry["changed"]]
    try:
        wanted = {service.unit_name(index): service.unit(index, instance) for index, instance in enumerate(instances)}
        urls = [
            [url and url.format_map(service.values(index, instance)) for url in (options["ready_url"], options["serves_url"])]
            for index, instance in enumerate(instances)
        ]
        stale = [unit for unit in host.owned(service) if unit not in wanted]
        active = host.active(sorted(wanted))
        before = {unit: host.unit(unit) for unit in [*wanted, *stale]}
    except (KeyError, ValueError) as error:
        raise RolloutError(str(error)) from None
    units, steps = [], []
    for index, (unit, text) in enumerate(wanted.items()):
        # Without a systemd there is nothing to start: the unit file and its link are all there is.
        action = needed_action(before[unit], text, unit in active) if host.running else "write" if before[unit] != text else None
        if action is None and not host.is_enabled(unit):
            action = "write"
        units.append({"unit": unit, "port": service.port + index, "cpus": instances[index]["cpus"], "action": action})
        if action:
            steps.append(Step(unit, before[unit], text, action, *urls[index]))
    units += [{"unit": unit, "port": None, "cpus": None, "action": "remove"} for unit in stale]
    if not check_mode:
        touched = []
        try:
            for entry in switched:
                host.put(entry["path"], link(entry["after"]))
            for step in steps:
                touched.append(step)
                apply(host, step, options["timeout"], options["serves"] or service.data)
            remove(host, stale)
        except (SettingsError, OSError) as error:
            # The one that failed first: it may serve nothing now.
            outcome = undo(host, reversed(touched), {entry["path"]: entry["before"] for entry in switched}, options["timeout"])
            raise RolloutError(f"{error}\n{outcome}", units, links) from None
    return {
        "changed": bool(switched) or any(unit["action"] for unit in units),
        "units": units,
        "links": links,
        "running": host.running,
        "reason": None if host.running else "systemd does not run here: the units are laid down and enabled, not started",
        "diff": [
            {"before_header": unit, "after_header": unit, "before": before[unit] or "", "after": wanted.get(unit, "")}
            for unit in before
            if before[unit] != wanted.get(unit)
        ]
        + [
            {"before_header": entry["path"], "after_header": entry["path"], "before": f"{entry['before']}\n", "after": f"{entry['after']}\n"}
            for entry in switched
        ],
    }
