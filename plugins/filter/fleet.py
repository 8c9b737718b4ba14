# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns the audits of many nodes into what the report's page shows."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet
short_description: Arrange the audits of many nodes for the fleet report
version_added: "0.1.0"
author: The ainode.cpu authors (@ainode)
description:
  - Takes the results of P(ainode.cpu.node_audit#module) by node and returns the matrix of nodes and audit rows, what drifted first,
    and what drifted in which way on which nodes.
options:
  _input:
    description:
      - A dictionary of the module's results by node name.
      - A result without rows (the node could not be reached, the module failed) makes a node that gave no answer; its C(msg) is kept.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say which nodes drifted
  ansible.builtin.debug:
    msg: "{{ (audits | ainode.cpu.fleet).nodes | selectattr('counts.fail') | map(attribute='name') }}"
"""

RETURN = r"""
_value:
  description: The fleet, arranged.
  type: dict
  contains:
    columns:
      description: The audit rows that some node has, in the audit's order, as id, section, what and counts (nodes by verdict).
      type: list
      elements: dict
    nodes:
      description:
        - The nodes as name, error (why it gave no answer, or null), counts (rows by verdict) and cells.
        - A cell is the position in C(details) of the finding in that column, or null.
        - Nodes without an answer come first, then those with the most failed rows.
      type: list
      elements: dict
    details:
      description: Each different finding once, as column (its position), verdict, expected, live, after_reboot, reason and remedy.
      type: list
      elements: dict
    findings:
      description: Failed and then advised rows, the most frequent first, as column, verdict, count, remedies and variants (detail, nodes).
      type: list
      elements: dict
    totals:
      description: The number of nodes, of drifted ones (some row fails), of silent ones (no answer), and of rows by verdict.
      type: dict
"""

import re

from ansible.errors import AnsibleFilterError

# Drift first.
_VERDICTS = ("fail", "advice", "pass", "not_applicable")
_DETAIL = ("verdict", "expected", "live", "after_reboot", "reason", "remedy")


def fleet(audits):
    """Return the results of node_audit by node, arranged as documented above."""
    if not isinstance(audits, dict):
        raise AnsibleFilterError(f"ainode.cpu.fleet arranges a dictionary of audits by node, and was given {type(audits).__name__}")
    columns, positions, details, seen, nodes = [], {}, [], {}, []
    for name in sorted(audits, key=_natural):
        rows, error = _answer(audits[name])
        cells = {}
        for row in rows:
            if row["id"] not in positions:
                positions[row["id"]] = len(columns)
                columns.append({"id": row["id"], "section": row["section"], "what": row["what"], "counts": dict.fromkeys(_VERDICTS, 0)})
            column = positions[row["id"]]
            columns[column]["counts"][row["verdict"]] += 1
            detail = (column, *(row.get(key) for key in _DETAIL))
            if detail not in seen:
                seen[detail] = len(details)
                details.append(dict(zip(("column", *_DETAIL), detail)))
            cells[column] = seen[detail]
        counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in _VERDICTS}
        nodes.append({"name": name, "error": error, "counts": counts, "cells": cells})
    for node in nodes:
        node["cells"] = [node["cells"].get(column) for column in range(len(columns))]
    # Stable: nodes with as many failures stay in the order of their names.
    nodes.sort(key=lambda node: (node["error"] is None, -node["counts"]["fail"], -node["counts"]["advice"]))
    totals = {verdict: sum(node["counts"][verdict] for node in nodes) for verdict in _VERDICTS}
    totals.update(nodes=len(nodes), drifted=sum(node["counts"]["fail"] > 0 for node in nodes), silent=sum(node["error"] is not None for node in nodes))
    return {"columns": columns, "nodes": nodes, "details": details, "findings": _findings(columns, details, nodes), "totals": totals}


def _answer(result):
    """Return (rows, None) of a result of node_audit, or ([], why there are none). What a node says is not trusted to be an audit."""
    if not isinstance(result, dict) or result.get("rows") is None:
        return [], str((isinstance(result, dict) and result.get("msg")) or "no answer")
    texts = ("expected", "live", "after_reboot", "reason", "remedy")
    for row in result["rows"]:
        sound = isinstance(row, dict) and row.get("verdict") in _VERDICTS and all(isinstance(row.get(key), str) for key in ("id", "section", "what"))
        if not sound or not all(isinstance(row.get(key), (str, type(None))) for key in texts):
            return [], "its answer is no audit: a row is not of the form that node_audit gives"
    return result["rows"], None


def _findings(columns, details, nodes):
    """Return what failed or is advised, by audit row: a thousand nodes that drifted in the same way are one line."""
    holders = {}
    for node in sorted(nodes, key=lambda node: _natural(node["name"])):
        for detail in node["cells"]:
            if detail is not None:
                holders.setdefault(detail, []).append(node["name"])
    groups = {}
    for position, detail in enumerate(details):
        if detail["verdict"] in ("fail", "advice"):
            groups.setdefault((detail["verdict"], detail["column"]), []).append({"detail": position, "nodes": holders[position]})
    findings = [
        {
            "column": column,
            "verdict": verdict,
            "count": columns[column]["counts"][verdict],
            "variants": sorted(variants, key=lambda variant: -len(variant["nodes"])),
            "remedies": sorted({details[variant["detail"]]["remedy"] for variant in variants} - {"", None}),
        }
        for (verdict, column), variants in groups.items()
    ]
    return sorted(findings, key=lambda finding: (finding["verdict"] != "fail", -finding["count"], finding["column"]))


def _natural(name):
    """Return a key that sorts node2 before node10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


class FilterModule:
    """The filter's registration."""

    def filters(self):
        """Return the filters of this file by name."""
        return {"fleet": fleet}
