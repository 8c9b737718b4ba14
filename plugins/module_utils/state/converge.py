# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""How a host is brought to a wanted state, and back: what all state modules share.

A module makes a Plan, which is pure, and `converge` carries it out: values of the kernel's files (written, read back), files of ours,
and units of other tuners that are stopped. What was there before is recorded in the baseline first (baseline.py).

The plan is the whole truth of its owner: what the baseline holds and the plan no longer asks for goes back to its baseline. Leaving
a variable out therefore undoes it, and `state: absent` is the empty plan. A check run takes the same decisions and stops before the
first write.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
from types import MappingProxyType
from typing import Callable, Mapping, NamedTuple

from ..host import baseline as baselines
from ..host import cpulist
from ..host.host import UNITS, Host, SettingsError, current, file
from ..host.root import RootError

_NUMBERED = re.compile(r"/(cpu|policy|node)(\d+)(?=/)")
_ROUNDS = 8


class Setting(NamedTuple):
    """A value that a kernel file is to have.

    `also` are other texts that the kernel may answer for the same value. A `tolerant` setting takes what the kernel gives: the
    difference is a warning, and no failure. `hint` tells what to do when the kernel gives something else.
    """

    option: str
    path: str
    wanted: str
    also: tuple[str, ...] = ()
    tolerant: bool = False
    hint: str = ""

    def is_met_by(self, value):
        """Return whether `value`, as read from the file, is the wanted one."""
        return value == self.wanted or value in self.also


class Plan(NamedTuple):
    """What a module wants of a host.

    `files` maps a path to its state (see `file` and `link`). `stopped` are systemd units that must neither run nor start at boot.
    `starts` is a unit of ours that is active; it is started again when a file has changed. `guard(path, value)` returns why a value must not be
    written now, or None; it is asked about every change, those back to the baseline included.
    """

    settings: tuple[Setting, ...] = ()
    files: Mapping[str, dict] = MappingProxyType({})
    stopped: tuple[str, ...] = ()
    starts: str | None = None
    not_applicable: tuple[dict, ...] = ()
    warnings: tuple[str, ...] = ()
    guard: Callable | None = None


@contextlib.contextmanager
def _locked(host, check_mode):
    """Keep other runs on the same host out. The lock is on the root directory: it leaves no file behind."""
    if check_mode:
        yield
        return
    descriptor = os.open(host.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def converge(host, owner, plan, check_mode=False):
    """Bring `host` to `plan` for `owner` ("cpu_power"), or tell what that would change; return the module's result.

    Result: {"changed", "settings": [{setting, path, ids, before, after, changed}], "files": [{path, change}], "units": [{name, change}],
    "not_applicable": [{setting, reason}], "warnings": [text], "diff": [{before_header, before, after_header, after}]}. A path with
    a `*` in place of a number stands for the CPUs, policies or nodes in the cpulist `ids`.

    Raises SettingsError, baseline.BaselineError or OSError. Nothing has changed when it was raised before the first write; otherwise
    the baseline knows what has.
    """
    with _locked(host, check_mode):
        return _Run(host, owner, plan).go(check_mode)


class _Run:
    """One call of converge: what is, what is wanted, and the way from one to the other."""

    def __init__(self, host, owner, plan):
        self.host, self.owner, self.plan = host, owner, plan
        self.baseline = baselines.load(host)
        self.record = self.baseline.record(owner)
        self.warnings = list(plan.warnings)
        self.settings = {setting.path: setting for setting in plan.settings}
        unasked = [path for path in self.record["values"] if path not in self.settings]
        gone = [path for path in unasked if host.read(path) is None]
        self.settings.update({path: Setting("baseline", path, self.record["values"][path]) for path in unasked if path not in gone})
        # A CPU that is offline, or a driver that is not loaded, may come back: the baseline is kept until we leave the host.
        kept = gone if plan.settings or plan.files or plan.not_applicable else []
        if gone and not kept:
            self.warnings.append(f"{len(gone)} settings are gone from this host (offline CPUs, another kernel) and cannot go back: {gone[0]} …")
        self.dropped = {
            "values": [path for path in unasked if path not in kept],
            "files": [path for path in self.record["files"] if path not in plan.files],
            "units": [name for name in self.record["units"] if name not in plan.stopped],
        }
        self.before = {path: current(host.read(path)) for path in self.settings}
        self.files = {**plan.files, **{path: self.record["files"][path] for path in self.dropped["files"]}}
        self.files_before = {path: host.file_state(path) for path in self.files}
        units = host.unit_states((*plan.stopped, *([plan.starts] if plan.starts else [])))
        self.units_before = {name: units[name] for name in plan.stopped if name in units}
        self.pending = [setting for setting in self.settings.values() if not setting.is_met_by(self.before[setting.path])]
        self.pending_files = [path for path, state in self.files.items() if self.files_before[path] != state]
        is_down = bool(plan.starts) and not units.get(plan.starts, {"active": False})["active"]
        self.starts = bool(plan.starts) and host.has_systemd() and (is_down or bool(self.pending_files))
        self.changed = bool(self.pending or self._changes_more())

    def _changes_more(self):
        """Return whether anything but a value changes."""
        return bool(self.pending_files or self.units_before or self.starts or any(self.dropped.values()))

    def go(self, check_mode):
        after = {path: self.before[path] if setting.is_met_by(self.before[path]) else setting.wanted for path, setting in self.settings.items()}
        if not self.changed:
            return self._result(after)
        if self.dropped["units"] and not self.host.has_systemd():
            raise SettingsError(f"{', '.join(self.dropped['units'])} was stopped by an earlier run and has to start again, but systemd does not run here")
        for setting in self.pending:
            reason = self.plan.guard and self.plan.guard(setting.path, setting.wanted)
            if reason:
                raise SettingsError(reason)
            if not self.host.may_write(setting.path):
                raise SettingsError(f"{setting.path} cannot be written: {self.host.locked_because(setting.path) or 'run as root (become: true)'}")
        if not check_mode:
            self._remember()
            for name, state in self.units_before.items():
                _stop(self.host, name, state)
            self._write_values()
            self._write_files()
            for name in self.dropped["units"]:
                _start(self.host, name, self.record["units"][name])
            self._forget()
            after.update({path: current(self.host.read(path)) for path, setting in self.settings.items() if setting.tolerant})
        return self._result(after)

    def _remember(self):
        """Write to the baseline all that this run may change, and what the plan holds beside it."""
        for path, value in self.before.items():
            self.record["values"].setdefault(path, value)
        for path, state in self.files_before.items():
            self.record["files"].setdefault(path, state)
        for name, state in self.units_before.items():
            self.record["units"].setdefault(name, state)
        self.baseline.replace(self.owner, self.record)
        written = [path for path in self.pending_files if self.files[path] is not None]
        missing = _missing_directories(self.host, [*written, baselines.BASELINE])
        self.baseline.directories += [name for name in missing if name not in self.baseline.directories]
        # The baseline's own directories are the only thing made before it is there to tell of them.
        made = []
        try:
            for name in _missing_directories(self.host, [baselines.BASELINE]):
                self.host.make_directory(name)
                made.append(name)
            self._save()
        except BaseException:
            for name in reversed(made):
                self.host.remove_directory(name)
            raise
        for name in missing:
            if not self.host.is_dir(name):
                self.host.make_directory(name)

    def _forget(self):
        """Drop from the baseline what is back at it, and the directories that are empty again."""
        for path in [*self.dropped["files"], baselines.BASELINE]:
            self.host.remove_draft(path)
        for kind, names in self.dropped.items():
            for name in names:
                del self.record[kind][name]
        self.baseline.replace(self.owner, self.record)
        own = [name for name in self.baseline.directories if baselines.BASELINE.startswith(name + "/")]
        for name in reversed([name for name in self.baseline.directories if name not in own]):
            self.host.remove_directory(name)
        self.baseline.directories[:] = [name for name in self.baseline.directories if self.host.is_dir(name)]
        if not self.baseline.is_empty:
            self._save()
            return
        self.host.put(baselines.BASELINE, None)
        for name in reversed(own):
            self.host.remove_directory(name)

    def _save(self):
        state = file(self.baseline.text())
        if self.host.file_state(baselines.BASELINE) != state:
            self.host.put(baselines.BASELINE, state)

    def _write_values(self):
        """Write the values and read each back.

        Some hang on others: a minimum must not pass the old maximum, the EPP is locked under one governor and free under the next.
        So what was refused is tried again as long as something else got through, and in the end all of them are looked at once more.
        """
        # Stopping a tuner may have changed what was right before.
        pending = list(self.settings.values()) if self.units_before else self.pending
        for _round in range(_ROUNDS):
            refused = [(setting, reason) for setting, reason in ((setting, self._write_value(setting)) for setting in pending) if reason]
            if pending and len(refused) == len(pending):
                raise SettingsError(_refusals(refused))
            pending = [setting for setting, _reason in refused] or [
                setting for setting in self.settings.values() if not setting.tolerant and not setting.is_met_by(current(self.host.read(setting.path)))
            ]
            if not pending:
                return
        raise SettingsError(f"the kernel does not keep these values together: {', '.join(setting.path + ' ' + setting.wanted for setting in pending)}")

    def _write_value(self, setting):
        """Write one value unless it is there already; return None, or why the kernel has another one now."""
        if setting.is_met_by(current(self.host.read(setting.path))):
            return None
        try:
            self.host.set_value(setting.path, setting.wanted)
        except OSError as error:
            if not setting.tolerant:
                return f"the kernel refused '{setting.wanted}' ({errno.errorcode.get(error.errno, error.errno)}: {error.strerror})"
        value = current(self.host.read(setting.path))
        if setting.is_met_by(value):
            return None
        if setting.tolerant:
            self.warnings.append(f"{setting.path}: wanted {setting.wanted}, the kernel gave {value}" + (f" ({setting.hint})" if setting.hint else ""))
            return None
        return f"wanted '{setting.wanted}', the kernel took '{value}'"

    def _write_files(self):
        removed_units = [os.path.basename(path) for path in self.pending_files if os.path.dirname(path) == UNITS and self.files[path] is None]
        if removed_units and self.host.has_systemd():
            self.host.systemctl("stop", *removed_units)
        for path in self.pending_files:
            self.host.put(path, self.files[path])
        if any(path.startswith(UNITS + "/") for path in self.pending_files) and self.host.has_systemd():
            self.host.systemctl("daemon-reload")
        if self.starts:
            self.host.systemctl("restart", self.plan.starts)

    def _result(self, after):
        rows = _rows(self.settings.values(), self.before, after)
        result = {
            # A tolerant setting may have stayed what it was.
            "changed": self.before != after or self._changes_more(),
            "settings": rows,
            "files": [{"path": path, "change": _change(self.files_before[path], self.files[path])} for path in self.files],
            "units": [{"name": name, "change": "stopped"} for name in self.units_before]
            + [{"name": name, "change": "started"} for name in [*self.dropped["units"], *([self.plan.starts] if self.starts else [])]],
            "not_applicable": list(self.plan.not_applicable),
            "warnings": self.warnings,
        }
        result["diff"] = _diff(result, self.files_before, self.files)
        return result


def _missing_directories(host, paths):
    """Return the parents of `paths` that are not there, outermost first."""
    missing = []
    for path in paths:
        parent, above = os.path.dirname(path), []
        while parent != "/" and not host.is_dir(parent):
            above.insert(0, parent)
            parent = os.path.dirname(parent)
        missing += [name for name in above if name not in missing]
    return missing


# D-Bus starts these on demand, enabled or not: only masking keeps them from running.
_DBUS_STARTED = ("power-profiles-daemon.service",)


def _stop(host, name, state):
    if state["enabled"]:
        host.systemctl("disable", name)
    host.systemctl(*(("mask", "--now") if name in _DBUS_STARTED else ("stop",)), name)


def _start(host, name, state):
    if name in _DBUS_STARTED:
        host.systemctl("unmask", name)
    if state["enabled"]:
        host.systemctl("enable", name)
    if state["active"]:
        host.systemctl("start", name)


def _refusals(refused):
    """Return one message for all refused settings: the first of each option, and how many more there are."""
    first, count = {}, {}
    for setting, reason in refused:
        first.setdefault(setting.option, f"{setting.option}: {setting.path}: {reason}" + (f" ({setting.hint})" if setting.hint else ""))
        count[setting.option] = count.get(setting.option, 0) + 1
    return "; ".join(text + (f", and {count[option] - 1} more like it" if count[option] > 1 else "") for option, text in first.items())


def _change(before, after):
    if before == after:
        return None
    return "created" if before is None else "removed" if after is None else "updated"


def _rows(settings, before, after):
    """Return the settings for the result, those alike on many CPUs in one row."""
    rows = {}
    for setting in settings:
        number = _NUMBERED.search(setting.path)
        path = _NUMBERED.sub(r"/\1*", setting.path, count=1)
        key = (setting.option, path, before[setting.path], after[setting.path])
        rows.setdefault(key, []).extend([int(number.group(2))] if number else [])
    return [
        {"setting": option, "path": path, "ids": cpulist.render(ids), "before": old, "after": new, "changed": old != new}
        for (option, path, old, new), ids in rows.items()
    ]


def _diff(result, files_before, files):
    """Return Ansible's diff: the changed values in one block, then each changed file."""
    rows = [row for row in result["settings"] if row["changed"]]
    rows = [(row["path"] + (f" [{row['ids']}]" if row["ids"] else ""), row) for row in rows]
    diff = []
    if rows:
        diff.append(
            {
                f"{side}{part}": text
                for side in ("before", "after")
                for part, text in (("_header", "kernel settings"), ("", "".join(f"{name}: {row[side]}\n" for name, row in rows)))
            }
        )
    if result["units"]:
        stopped = {"stopped": ("running", "stopped"), "started": ("stopped", "running")}
        diff.append(
            {
                f"{side}{part}": text
                for index, side in enumerate(("before", "after"))
                for part, text in (("_header", "units"), ("", "".join(f"{unit['name']}: {stopped[unit['change']][index]}\n" for unit in result["units"])))
            }
        )
    for entry in result["files"]:
        path = entry["path"]
        if entry["change"]:
            diff.append({"before_header": path, "before": _shown(files_before[path]), "after_header": path, "after": _shown(files[path])})
    return diff


def _shown(state):
    if state is None:
        return ""
    return f"-> {state['link']}\n" if "link" in state else state["content"]


def run(module, owner, plan, guard=None):
    """End an AnsibleModule that has the options `state` and `root`: converge the host to `plan(host)`, or back to its baseline.

    `guard(host, path, value)` is the guard of both ways. Any reason for which the state cannot be had is one message.
    """
    try:
        host = Host(module.params["root"])
        wanted = plan(host) if module.params["state"] == "present" else Plan()
        result = converge(host, owner, wanted._replace(guard=guard and functools.partial(guard, host)), module.check_mode)
    except (SettingsError, RootError, baselines.BaselineError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'the host'} cannot be written ({error.strerror}): run as root (become), on a file system with space")
    for warning in result.pop("warnings"):
        module.warn(warning)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)
