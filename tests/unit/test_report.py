# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import machines
import pytest
import state
from ansible.errors import AnsibleFilterError
from ansible_collections.ainode.cpu.plugins.filter.fleet import FilterModule, fleet

CHECKOUT = Path(__file__).resolve().parents[2]
TEMPLATE = CHECKOUT / "playbooks" / "templates" / "report.html.j2"


def row(identity, verdict="pass", **fields):
    texts = {"section": "S", "what": f"What {identity}", "expected": "E", "live": "L", "after_reboot": None, "reason": "", "remedy": ""}
    return {"id": identity, "verdict": verdict, **texts, **fields}


# The filter -------------------------------------------------------------------------------------------------------------------------------


def test_drift_comes_first_and_names_sort_as_people_count():
    audits = {
        "node10": {"rows": [row("a.a"), row("a.b", "fail")]},
        "node2": {"rows": [row("a.a"), row("a.b", "fail")]},
        "node1": {"rows": [row("a.a", "advice"), row("a.b")]},
        "node3": {"rows": [row("a.a", "fail"), row("a.b", "fail")]},
        "node4": {"rows": [row("a.a"), row("a.b")]},
        "node5": {"msg": "unreachable"},
        "node6": None,
    }
    found = fleet(audits)
    assert [node["name"] for node in found["nodes"]] == ["node5", "node6", "node3", "node2", "node10", "node1", "node4"]
    assert [node["error"] for node in found["nodes"]][:3] == ["unreachable", "no answer", None]
    assert found["totals"] == {"fail": 4, "advice": 1, "pass": 5, "not_applicable": 0, "nodes": 7, "drifted": 3, "silent": 2}
    assert [(finding["verdict"], finding["count"]) for finding in found["findings"]] == [("fail", 3), ("fail", 1), ("advice", 1)]
    assert found["findings"][0]["variants"][0]["nodes"] == ["node2", "node3", "node10"]


def test_each_way_to_differ_is_one_variant_the_most_frequent_first():
    audits = {f"n{number}": {"rows": [row("a.a", "fail", live="x" if number < 2 else "y", remedy="R")]} for number in range(7)}
    (finding,) = fleet(audits)["findings"]
    assert [(fleet(audits)["details"][variant["detail"]]["live"], len(variant["nodes"])) for variant in finding["variants"]] == [("y", 5), ("x", 2)]
    assert finding["remedies"] == ["R"]


def test_nodes_may_have_different_rows():
    found = fleet({"a": {"rows": [row("x.x"), row("y.y")]}, "b": {"rows": [row("y.y"), row("z.z", "fail")]}})
    assert [column["id"] for column in found["columns"]] == ["x.x", "y.y", "z.z"]
    cells = {node["name"]: [found["details"][cell]["verdict"] if cell is not None else None for cell in node["cells"]] for node in found["nodes"]}
    assert cells == {"a": ["pass", "pass", None], "b": [None, "pass", "fail"]}


@pytest.mark.parametrize("rows", [[1], [{}], [row("a.a", "<b>")], [row("a.a", live=3)], [{**row("a.a"), "id": None}], [row("a.a"), row("a.b", reason=["x"])]])
def test_an_answer_that_is_no_audit_is_no_answer(rows):
    found = fleet({"evil": {"rows": rows}, "good": {"rows": [row("a.a")]}})
    assert [(node["name"], bool(node["error"])) for node in found["nodes"]] == [("evil", True), ("good", False)]


def test_an_empty_fleet_and_a_wrong_type():
    assert fleet({})["totals"]["nodes"] == 0
    with pytest.raises(AnsibleFilterError, match="dictionary of audits by node, and was given list"):
        fleet([])
    assert FilterModule().filters() == {"fleet": fleet}


# The page ---------------------------------------------------------------------------------------------------------------------------------

NONE = "\N{EN DASH}"
VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """A page as its elements: it fails on a tag that is not closed where it should be, and keeps texts, attributes and tables."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.attributes, self.cells, self.scripts, self.texts = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.stack.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1][0] == "script":
            self.scripts.append((self.stack[-1][1], data))
        elif not any(tag == "style" for tag, _attributes in self.stack):
            self.texts.append(data)
            if any(tag in ("td", "th") for tag, _attributes in self.stack):
                self.cells[-1][-1] += data

    def data(self):
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("type") == "application/json"))


HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}{% raw %}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of playbooks/report.yml for a small fleet of recorded machines: one with hostile names, one that is none, one that is not there."""
    directory = tmp_path_factory.mktemp("report")
    small = {"cpus": machines.grid(2, 2, 2)}
    hosts = {
        "xeon1": {"audit_root": machines.write(directory / "xeon1", **{**machines.MACHINES["xeon-8380-2s"], **small})},
        "xeon2": {"audit_root": machines.write(directory / "xeon2", **{**machines.MACHINES["xeon-8380-2s"], **small})},
        "vm": {"audit_root": machines.build("vm-without-cpufreq", directory), "hugepages_swappiness": None},
        "nowhere": {"audit_root": "/nonexistent"},
    }
    state.write(hosts["xeon2"]["audit_root"], f"/sys/class/net/{HOSTILE}/speed", "1000\n")
    state.write(hosts["xeon2"]["audit_root"], f"/sys/class/net/{HOSTILE}/type", "1\n")
    state.write(hosts["xeon2"]["audit_root"], f"/sys/class/net/{HOSTILE}/device/uevent", "\n")
    for name in ("ens1f0", "ens2f0"):
        (Path(hosts["xeon2"]["audit_root"]) / "sys/class/net" / name).unlink()
    for values in hosts.values():
        values.update(ansible_connection="local", ansible_become=False, ansible_python_interpreter=sys.executable)
    hosts["dead"] = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_become": False, "ansible_ssh_common_args": "-o ConnectTimeout=2"}
    inventory, page = directory / "inventory.json", directory / "report.html"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", inventory, CHECKOUT / "playbooks/report.yml", "-e", json.dumps({"report_path": str(page)})],
        cwd=CHECKOUT, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return page.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_needs_nothing_else(report):
    page = Page(report)
    assert report.startswith("<!DOCTYPE html>")
    assert page.tags.count("html") == page.tags.count("body") == page.tags.count("title") == 1
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [name for name, _value in page.attributes if name in ("src", "href", "srcset") or name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", report)
    assert "prefers-color-scheme: dark" in report
    assert "@media print" in report


def test_every_value_is_escaped(report):
    page = Page(report)
    assert len(page.scripts) == page.tags.count("script") == 2
    assert any(detail["live"] == f"{HOSTILE}: 1 Gbit/s" for detail in page.data()["details"])
    # In the text it stands as it is, and not as markup; nor did Ansible take it for a template.
    assert HOSTILE in "".join(page.texts)
    assert "<img" not in report
    assert "49{%" not in report


def test_the_matrix_has_every_node_and_row_drift_first(report):
    page = Page(report)
    columns = [column["id"] for column in page.data()["columns"]]
    head = next(cells for cells in page.cells if cells[:2] == ["Node", "Fails"])
    assert head[2:] == columns
    matrix = {cells[0]: cells[1:] for cells in page.cells if cells and cells[0] in ("xeon1", "xeon2", "vm", "nowhere", "dead")}
    assert list(matrix) == ["dead", "nowhere", "xeon2", "xeon1", "vm"]
    assert len(matrix["xeon1"]) == len(columns) + 1
    marks = dict(zip(columns, matrix["xeon1"][1:]))
    assert (marks["power.governor"], marks["bios.turbo"], marks["framework.openvino"]) == ("✕", "✓", NONE)
    # null in the inventory asks for nothing.
    assert dict(zip(columns, matrix["vm"][1:]))["memory.swappiness"] == NONE
    assert matrix["xeon1"][0] == str(list(marks.values()).count("✕"))
    assert matrix["dead"][0] == "?"
    assert "/nonexistent" in matrix["nowhere"][1]


def test_same_drift_is_one_line(report):
    page = Page(report)
    lines = [cells for cells in page.cells if cells[0] == "powersave"]
    assert len(lines) == 1
    assert lines[0][2] == "performance"
    assert " ".join(lines[0][4].split()) == "2 xeon1, xeon2"


def test_every_expression_of_the_template_is_escaped_or_a_number():
    """Ansible renders without autoescape, so what is forgotten here is a hole."""
    numbers = re.compile(
        r"report\.totals\.\w+|column\.counts\.\w+|node\.counts\.fail or \"\"|\"\{:,\}\"\.format\(.*\)|.* \| length|.* - 50|\[.*\] \| max|clean|detail"
        r"|nodes\(.*\)|names\(.*\)|findings\(.*\)|glyphs\[verdict\]|verdict|node\.cells \| map\('extract', cells\) \| join"
        r"|'[a-z ]+' if .*|\"node\" if .*|.* \| tojson"
    )
    expressions = re.findall(r"\{\{ (.*?) \}\}", TEMPLATE.read_text(encoding="utf-8"))
    assert len(expressions) > 30
    assert [text for text in expressions if not text.endswith("| e") and not numbers.fullmatch(text)] == []


def test_what_a_thousand_nodes_say_alike_is_there_once():
    rows = [row(f"a.r{number}") for number in range(45)]
    audits = {f"n{number}": {"rows": [{**one, "live": f"{number % 50}"} for one in rows]} for number in range(1000)}
    found = fleet(audits)
    assert (len(found["nodes"]), len(found["details"])) == (1000, 45 * 50)
