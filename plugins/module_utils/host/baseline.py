# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The baseline: what every setting of a node was before us, in one file on that node.

/var/lib/ainode/baseline.json, written before the first change it describes:

    {"version": 1,
     "directories": ["/etc/ainode"],               those we made, pruned when empty
     "owners": {"cpu_power": {
        "values": {"/sys/…/scaling_governor": "powersave"},
        "files": {"/etc/ainode/cpu-power.conf": null},   null: it was not there; else {"content", "mode"} or {"link"}
        "units": {"tuned.service": {"active": true, "enabled": true}}}}}

An entry is written once, by the first run that wants to change the setting, and dropped when the setting is back at it. So a run
that was cut short is finished, or undone, by the next one.
"""

from __future__ import annotations

import copy
import json

BASELINE = "/var/lib/ainode/baseline.json"
KINDS = ("values", "files", "units")


class BaselineError(ValueError):
    """The baseline file cannot be used."""


def load(root):
    """Return the baseline of a Root; an empty one where there is none. Raises BaselineError for a file that is none of ours."""
    content = root.read_bytes(BASELINE)
    if content is None:
        if root.exists(BASELINE):
            raise BaselineError(f"{BASELINE} cannot be read: it tells what the node was before us, so nothing is changed without it; run as root (become)")
        return Baseline({"version": 1, "directories": [], "owners": {}})
    try:
        data = json.loads(content.decode("utf-8"))
        if data["version"] != 1:
            raise BaselineError(f"{BASELINE} has version {data['version']}, this collection knows version 1: use the release that wrote it")
        return Baseline(
            {
                "version": 1,
                "directories": list(data["directories"]),
                "owners": {owner: {kind: dict(record[kind]) for kind in KINDS} for owner, record in data["owners"].items()},
            }
        )
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BaselineError(
            f"{BASELINE} is no baseline ({type(error).__name__}: {error}): restore it from a backup, or remove it to take the node as it is for the baseline"
        ) from error


class Baseline:
    """The baseline in memory. `directories` are those we made, outermost first."""

    def __init__(self, data):
        self._data = data
        self.directories = data["directories"]

    def record(self, owner):
        """Return what `owner` has recorded, a copy: {"values": {path: text}, "files": {path: state}, "units": {name: state}}."""
        return copy.deepcopy(self._data["owners"].get(owner) or {kind: {} for kind in KINDS})

    def replace(self, owner, record):
        """Let `record` be all that `owner` has recorded."""
        self._data["owners"].pop(owner, None)
        if any(record[kind] for kind in KINDS):
            self._data["owners"][owner] = copy.deepcopy(record)

    @property
    def is_empty(self):
        """Whether no setting is away from its baseline."""
        return not self._data["owners"]

    def text(self):
        """Return the content of the file."""
        return json.dumps(self._data, indent=1) + "\n"
