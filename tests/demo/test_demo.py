# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo on a container with systemd, step by step: deployed, asked by its API and in Chromium, with a service down, with hostile text, removed."""

from __future__ import annotations

import json
import time

import pytest

QUERY = "play chess against the computer"
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><b>bold</b>"

EDIT = """
import json, sys
path, name, text = sys.argv[1:]
made = json.load(open(path))
for package in made["packages"]:
    if package["name"] == name:
        package.update(synopsis=package["synopsis"] + text, text=package["text"] + text)
json.dump(made, open(path, "w"))
"""

# As the probe is on a machine whose systemd does not run.
NO_SYSTEMD = """
import glob, os, runpy, sys
is_directory = os.path.isdir
os.path.isdir = lambda path: path != "/run/systemd/system" and is_directory(path)
probe = glob.glob("/opt/ainode/demo/*/probe.py")[0]
sys.path.insert(0, os.path.dirname(probe))
sys.argv = [probe, "answers"]
sys.dont_write_bytecode = True
runpy.run_path(probe, run_name="__main__")
"""
AWAIT_ANSWERS = "for n in $(seq 60); do sleep 0.5; python3 -B /opt/ainode/demo/*/probe.py answers | grep -q '\"pass\"' && exit; done; exit 1"
AWAIT_PAGE = "for n in $(seq 120); do sleep 0.5; curl -sf http://127.0.0.1:8080/health/live && exit; done; exit 1"
WHAT_RUNS = "systemctl show --property=Id,MainPID,NRestarts 'ainode-*.service'"
UNITS = "ainode-demo-0 ainode-vector-search-0 ainode-model-service-0"


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def type_in(browser, text):
    """Type a query as a person does, and wait for what the page says to it."""
    from selenium.webdriver.common.keys import Keys

    field = find(browser, "#query")[0]
    field.clear()
    field.send_keys(text, Keys.ENTER)
    return said(browser, lambda status: status and status != "Searching …")


def said(browser, enough):
    """Wait until the page's status is as it should be, and return it."""
    deadline = time.monotonic() + 30
    while True:
        time.sleep(0.2)
        status = find(browser, "#status")[0].text
        if enough(status):
            return status
        assert time.monotonic() < deadline, f"the page says {status!r}"


def test_bad_values_are_one_error_and_change_nothing(node):
    status, changed, text = node.play(demo_packages=5, demo_port=8000)
    assert status and changed == 0, text[-2000:]
    assert "demo_packages is 5, at least 1000 are expected" in text and "8000, 8000, 8001, 8002, four different ports" in text


def test_it_is_deployed(node):
    began = time.monotonic()
    status, changed, text = node.play()
    assert status == 0, text[-4000:]
    assert changed
    print(f"the demo took {time.monotonic() - began:.0f} s")


@pytest.mark.parametrize("options", [[], ["--check"]], ids=["real", "check"])
def test_a_second_run_changes_nothing(node, options):
    before = node.run(WHAT_RUNS)
    assert all(f"Id={unit}.service" in before for unit in UNITS.split())
    status, changed, text = node.play(*options)
    assert (status, changed) == (0, 0), text[-4000:]
    assert node.run(WHAT_RUNS) == before


def test_ranking_brings_something_on_queries_that_were_held_out(node):
    measured = json.loads(node.run("cat /opt/ainode/demo/*/measured.json"))
    print(measured)
    assert measured["queries"] > 50 and measured["recalled"] > 0.5
    assert measured["ranked"]["mrr"] > measured["recall"]["mrr"]
    # More than chance: twice the standard error of the paired difference.
    assert measured["gain"] > 2 * measured["gain_standard_error"]


def test_the_api_answers_with_every_stage(node):
    status, head, found = node.ask(QUERY)
    assert status == 200
    assert [stage["name"] for stage in found["stages"]] == ["embed", "recall", "features", "rank"]
    assert all(stage["ms"] > 0 for stage in found["stages"])
    assert {stage["model"] for stage in found["stages"]} == {"minilm", "vectors", None, "ranker"}
    scores = [entry["score"] for entry in found["ranked"]]
    cosines = [entry["cosine"] for entry in found["recalled"]]
    assert len(scores) == 10 and scores == sorted(scores, reverse=True)
    assert len(cosines) == 10 and cosines == sorted(cosines, reverse=True) and cosines[0] > 0.3
    assert [entry["rank"] for entry in found["ranked"]] == list(range(1, 11)) == [entry["recall"] for entry in found["recalled"]]
    assert "chess" in json.dumps(found["ranked"][:3]).lower()
    assert "content-security-policy: default-src 'none'; script-src 'self'" in head and "nosniff" in head
    served = {stage["name"]: stage["version"].rpartition("-")[2] for stage in found["stages"]}
    precision = "int8" if "avx512_vnni" in node.run("cat /proc/cpuinfo") or "avx_vnni" in node.run("cat /proc/cpuinfo") else "fp32"
    assert served["embed"] == served["rank"] == precision


@pytest.mark.parametrize(("query", "text"), [("", "the query is empty"), ("  \t ", "the query is empty"), ("x" * 501, "501 characters, 500 are taken")])
def test_a_query_that_is_none_is_refused(node, query, text):
    status, _head, found = node.ask(query)
    assert status == 400 and text in found["error"]


def test_strange_queries_are_answered(node):
    for query in ("…", "日本語の入力", "\U0001f3b5", "'; DROP TABLE packages; --", "a" * 500, "%00%ff"):
        status, _head, found = node.ask(query)
        assert status == 200 and len(found["ranked"]) == 10, (query, found)


def test_the_unit_is_pinned_and_sandboxed(node):
    assert float(node.run("systemd-analyze security ainode-demo-0 | tail -n 1").partition(": ")[2].split()[0]) <= 2.0
    row = json.loads(node.run("cat /etc/ainode/audit.d/demo.json"))[0]
    verdict = json.loads(node.run(" ".join(row["command"])))
    assert verdict["verdict"] == "pass", verdict


def test_without_systemd_it_is_started_for_one_query(node):
    try:
        verdict = json.loads(node.run(f"systemctl stop {UNITS} && python3 -B -", NO_SYSTEMD))
        assert verdict["verdict"] == "pass" and verdict["reason"] == "systemd does not run here: the page and the services were started for it", verdict
        assert node.run("pgrep -f '[s]erve.py|vnni-[s]earch serve|[p]age.py' || true") == ""
    finally:
        node.run(f"systemctl start {UNITS}")
    node.run(AWAIT_ANSWERS)


def test_a_query_in_the_browser(node, browser):
    browser.get(browser.base)
    assert type_in(browser, QUERY) == f"10 results for \u201c{QUERY}\u201d."
    _status, _head, found = node.ask(QUERY)
    assert [it.text for it in find(browser, "#ranked .name")] == [entry["name"] for entry in found["ranked"]]
    assert [it.text for it in find(browser, "#recalled .name")] == [entry["name"] for entry in found["recalled"]]
    assert [it.text for it in find(browser, "#ranked .place")] == [str(number) for number in range(1, 11)]
    legend = [it.text for it in find(browser, "#legend li")]
    assert len(legend) == 5 and all(" ms" in line for line in legend), legend
    assert "mean reciprocal rank" in find(browser, "#measured")[0].text
    assert "?q=play%20chess" in browser.current_url
    # What is in the address is asked again.
    browser.refresh()
    assert said(browser, lambda status: "results" in status)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_page_is_used_with_the_keyboard_alone(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(browser.base)
    assert browser.switch_to.active_element.get_attribute("id") == "query"
    ActionChains(browser).send_keys(Keys.TAB, Keys.TAB, Keys.ENTER).perform()
    assert said(browser, lambda status: "results" in status) == "10 results for \u201cretouch photos and remove red eyes\u201d."
    ActionChains(browser).send_keys("/").perform()
    assert browser.switch_to.active_element.get_attribute("id") == "query"
    assert find(browser, "#query")[0].get_attribute("value") == "retouch photos and remove red eyes"
    assert find(browser, "label[for=query]") and find(browser, "html[lang=en]") and find(browser, "#status[aria-live=polite]")


def test_dark_and_light(browser):
    colours = set()
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        colours.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(colours) == 2


def test_an_empty_query_in_the_browser(browser):
    browser.get(browser.base)
    assert "the query is empty" in type_in(browser, "   ")
    assert not find(browser, "#results")[0].is_displayed()


@pytest.mark.parametrize(("unit", "what"), [("ainode-vector-search-0", "vector search"), ("ainode-model-service-0", "embedding service")])
def test_a_service_that_is_down_is_named(node, browser, unit, what):
    browser.get(browser.base)
    node.run(f"systemctl stop {unit}; sleep 1")
    try:
        status, _head, found = node.ask(QUERY)
        assert status == 503 and f"The {what} at http://127.0.0.1:800" in found["error"], found
        assert f"The {what} at" in type_in(browser, QUERY)
        assert find(browser, "#status.error") and not find(browser, "#results")[0].is_displayed()
    finally:
        node.run(f"systemctl start {unit}; {AWAIT_ANSWERS}")
    assert "10 results" in type_in(browser, QUERY)


def test_text_that_looks_like_html_is_shown_as_text(node, browser):
    name = node.ask(QUERY)[2]["ranked"][0]["name"]
    quoted = HOSTILE.replace("'", "'\\''")
    node.run(f"cat >/tmp/edit.py; python3 /tmp/edit.py /opt/ainode/demo/*/corpus.json {name} '{quoted}'; systemctl restart ainode-demo-0; {AWAIT_PAGE}", EDIT)
    browser.get(browser.base)
    type_in(browser, QUERY)
    assert HOSTILE in find(browser, "#ranked .synopsis")[0].text and HOSTILE in find(browser, "#recalled")[0].text
    assert not find(browser, "#results img") and not find(browser, "#results b")
    assert browser.title == "Recall, then rank"
    type_in(browser, HOSTILE)
    assert HOSTILE in find(browser, "#status")[0].text and not find(browser, "#status img")
    # What was damaged on the node is put right by a second run, which changes nothing else.
    status, changed, text = node.play()
    assert status == 0 and changed == 1, text[-2000:]


def test_nothing_is_left_of_it(node):
    assert node.play(demo_state="absent")[0] == 0
    status, changed, text = node.play(demo_state="absent")
    assert (status, changed) == (0, 0), text[-2000:]
    assert node.run("find /opt/ainode /etc/ainode /var/lib/ainode /etc/systemd/system/ainode* ! -type d 2>/dev/null || true") == ""
    assert node.run("systemctl list-units --all --plain --no-legend 'ainode*'") == ""
