# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rooms of plugins/module_utils: every file is in one, and none imports from a room above its own."""

from __future__ import annotations

import ast
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
# The way data goes, from below: what a host is, what can be decided from that, what is written, what is judged.
ROOMS = ("host", "facts", "plan", "programs", "state", "deploy", "audit")


def imported_rooms(path):
    """Return the rooms that the file `path` in a room imports from, its own left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("ansible_collections"), f"{path}: rooms import from each other relatively"
            assert node.level < 3
            if node.level == 2:
                yield (node.module or "").split(".")[0]


def test_every_file_is_in_a_room():
    assert {path.parent.name for path in (PLUGINS / "module_utils").rglob("*.py")} == set(ROOMS)
    assert not list((PLUGINS / "module_utils").glob("*.py"))


def test_no_room_imports_from_one_above_it():
    found = {(path.parent.name, room) for path in (PLUGINS / "module_utils").rglob("*.py") for room in imported_rooms(path)}
    assert ("audit", "state") in found
    assert not {(room, other) for room, other in found if ROOMS.index(other) >= ROOMS.index(room)}


def test_programs_shipped_to_a_node_run_by_themselves():
    for path in (PLUGINS / "module_utils" / "programs").glob("*.py"):
        assert not set(imported_rooms(path)), f"{path} is copied to a node alone"
