# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The file with the node's plan, /etc/ainode/plan.json: which cores each service has. Services, balancer and audit read it."""

from __future__ import annotations

import json

from ..host import cpulist
from ..host.host import file
from ..plan import workloads

PLAN = "/etc/ainode/plan.json"


class PlanError(ValueError):
    """The file is not what this module writes."""


def read(host):
    """Return the plan of the Host `host`, with no services where there is no file; PlanError for a file that is none of ours."""
    text = host.read(PLAN)
    if text is None:
        return {"version": 1, "services": {}, "shared": []}
    try:
        found = json.loads(text)
        if found["version"] != 1:
            raise ValueError("another version")
        for service in found["services"].values():
            service["asked"].keys()
            for one in service["instances"]:
                cpulist.parse(one["cpus"])
                cpulist.parse(one["memory_node"] or "")
                if not (isinstance(one["name"], str) and isinstance(one["threads"], int) and isinstance(one["env"], dict)):
                    raise ValueError("no instance")
        return {"version": 1, "services": found["services"], "shared": [str(sentence) for sentence in found["shared"]]}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PlanError(f"{PLAN} is not what ainode.cpu.node_plan writes: put it right, or run with replan, which makes it anew") from None


def plan(host, facts, services, reserved_cores=0, replan=False):
    """Return workloads.plan() for the Host `host`, after what its file says; without services what the file says. What is wrong is a ValueError."""
    if not services:
        return read(host)
    try:
        before = read(host)
    except PlanError:
        if not replan:
            raise
        before = None
    return workloads.plan(facts, services, before, reserved_cores, replan)


def without(host, facts, names):
    """Return the plan of the Host `host` without the services `names`, and without any if there are no names."""
    if not names:
        return workloads.plan(facts, [])
    before = read(host)
    before["services"] = {name: service for name, service in before["services"].items() if name not in names}
    return workloads.plan(facts, [], before)


def files(plan):
    """Return {path: state} (host.file) of the plan: no file for a plan without services."""
    return {PLAN: file(json.dumps(plan, indent=2) + "\n")} if plan["services"] else {}
