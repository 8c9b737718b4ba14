# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of the state modules, on every machine, and the machinery that keeps it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import machines
import pytest
import state
from ansible_collections.ainode.cpu.plugins.module_utils.host import baseline
from ansible_collections.ainode.cpu.plugins.module_utils.host.host import UNITS, Host, SettingsError, current, file, link, rendered
from ansible_collections.ainode.cpu.plugins.module_utils.state import converge as state_module
from ansible_collections.ainode.cpu.plugins.module_utils.state.converge import Plan, Setting, converge

MODULES = sorted(state.EVERYTHING)


# The contract ---------------------------------------------------------------------------------------------------------------------


def prediction(result):
    return {key: result[key] for key in ("changed", "settings", "files", "units", "not_applicable", "diff")}


def holds(module, root):
    """Assert the whole contract of one state module on the machine `root`, which ends as it began; return what converging said."""
    options, before = state.EVERYTHING[module], state.tree(root)
    check = state.run(module, root, check=True, **options)
    assert "failed" not in check, check["msg"]
    assert state.tree(root) == before, "a check run wrote"

    done = state.run(module, root, **options)
    assert prediction(done) == prediction(check), "the check run predicted something else"
    converged = state.tree(root)
    assert done["changed"] == (converged != before)
    for row in done["settings"]:
        assert row["after"] == current(state.read(root, first_path(row))), row

    assert state.run(module, root, **options)["changed"] is False
    assert state.tree(root) == converged

    changed = [row for row in done["settings"] if row["changed"]]
    if changed:
        drifted = changed[-1]
        host = Host(str(root))
        host.set_value(first_path(drifted), drifted["before"])
        mended = state.run(module, root, **options)
        assert [(row["before"], row["after"]) for row in mended["settings"] if row["changed"]] == [(drifted["before"], drifted["after"])]
        assert state.tree(root) == converged, "drift was not put back"

    check = state.run(module, root, check=True, state="absent")
    assert state.tree(root) == converged, "a check run wrote"
    undone = state.run(module, root, state="absent")
    assert prediction(undone) == prediction(check)
    assert state.tree(root) == before, "absent left something behind"
    assert undone["changed"] == done["changed"]
    assert state.run(module, root, state="absent")["changed"] is False
    return done


def first_path(row):
    return row["path"].replace("*", row["ids"].split(",")[0].split("-")[0], 1)


def all_modules_hold(root):
    """The contract of each module by itself, and of all together, undone in another order than done."""
    done = {module: holds(module, root) for module in MODULES}
    before = state.tree(root)
    for module in MODULES:
        state.run(module, root, **state.EVERYTHING[module])
    for module in ("hugepages", "cpu_power", "memory_policy"):
        state.run(module, root, state="absent")
    assert state.tree(root) == before
    return done


@pytest.fixture
def copy(machine_store):
    """Return the function that copies a machine; the copy goes when the test has passed or failed."""
    folder = machine_store / "copy"
    yield lambda machine: state.copied(machine, folder)
    shutil.rmtree(folder)


def test_contract_on_our_machines(machine, copy):
    all_modules_hold(copy(machine))


def test_contract_on_recorded_machines(recorded_machine, copy):
    all_modules_hold(copy(recorded_machine))


def test_the_machines_exercise_every_option(tmp_path):
    """The contract would hold for modules that do nothing: on this machine every option must change something."""
    root = small(tmp_path)
    for module, options in state.EVERYTHING.items():
        done = state.run(module, root, **options)
        assert done["not_applicable"] == []
        assert {row["setting"] for row in done["settings"] if row["changed"]} >= ({"pages 2M"} if module == "hugepages" else set(options))
        assert all(entry["change"] == "created" for entry in done["files"]) and done["files"]


def small(directory):
    """A machine with two CPUs that has all settings: runs on it take milliseconds."""
    return machines.write(
        directory / "small",
        machines.grid(2, 1),
        machines.XEON_8480,
        {0: 64, 1: 64},
        idle=[("POLL", 0, 0), ("C1", 1, 1), ("C6", 290, 800)],
        cpufreq=machines.intel_pstate(800000, 3800000, 2000000),
        epb=6,
        files={"/sys/devices/system/cpu/intel_pstate/no_turbo": 0, "/sys/kernel/mm/transparent_hugepage/khugepaged/defrag": 1},
    )


@pytest.mark.parametrize("module", MODULES)
def test_ansible_itself_runs_the_modules_as_this_process_does(module, tmp_path):
    """Options and result go through Ansible's own packing and serialising."""
    root, options = small(tmp_path), state.EVERYTHING[module]
    here = state.run(module, root, check=True, **options)
    checkout = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible"),
            "localhost",
            "-c",
            "local",
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            "-m",
            f"ainode.cpu.{module}",
            "-a",
            json.dumps({**options, "root": root}),
        ],
        cwd=checkout,
        env={**os.environ, "ANSIBLE_CONFIG": str(checkout / "ansible.cfg"), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    there = json.loads(done.stdout[done.stdout.index("{") :])
    assert {key: there[key] for key in ("changed", "settings", "files", "not_applicable")} == {
        key: here[key] for key in ("changed", "settings", "files", "not_applicable")
    }
    assert state.run(module, root, **options)["changed"] is False


# Runs that were cut short ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("then", ["absent", "present"])
def test_a_run_cut_short_at_any_write_is_undone_or_finished(module, then, tmp_path, monkeypatch):
    root = small(tmp_path)
    before = state.tree(root)
    options = state.EVERYTHING[module]
    state.run(module, root, **options)
    finished = state.tree(root)
    state.run(module, root, state="absent")
    for fails_at in range(1000):
        with monkeypatch.context() as patch:
            patch.setattr(state_module, "Host", type("Broken", (state.Broken,), {"fails_at": fails_at}))
            result = state.run(module, root, **options)
        if "failed" not in result:
            break
        if then == "present":
            state.run(module, root, **options)
            assert state.tree(root) == finished, f"after a failure at write {fails_at}"
        state.run(module, root, state="absent")
        assert state.tree(root) == before, f"after a failure at write {fails_at}"
    assert fails_at > 5


def test_an_absent_cut_short_is_finished_by_the_next(tmp_path):
    before = state.tree(root := small(tmp_path))
    for fails_at in range(1000):
        state.run("cpu_power", root, **state.EVERYTHING["cpu_power"])
        broken = type("Broken", (state.Broken,), {"fails_at": fails_at})(root)
        try:
            converge(broken, "cpu_power", Plan())
        except (OSError, SettingsError):
            state.run("cpu_power", root, state="absent")
            assert state.tree(root) == before, f"after a failure at write {fails_at}"
        else:
            break
    assert fails_at > 10


def test_a_draft_of_a_killed_run_goes_with_the_file(tmp_path):
    before = state.tree(root := small(tmp_path))
    state.run("cpu_power", root, **state.EVERYTHING["cpu_power"])
    state.write(root, "/etc/ainode/cpu-power.conf.ainode-new", "half a li")
    state.write(root, "/var/lib/ainode/baseline.json.ainode-new", "{")
    state.run("cpu_power", root, state="absent")
    assert state.tree(root) == before


# The machinery --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path):
    state.write(tmp_path, "/sys/a", "1\n")
    state.write(tmp_path, "/sys/b", "2")
    state.write(tmp_path, "/sys/choice", "always defer defer+madvise [madvise] never\n")
    return Host(str(tmp_path))


def plan(*values, **more):
    return Plan(settings=tuple(Setting("option", path, wanted) for path, wanted in values), **more)


@pytest.mark.parametrize(
    "text, value, shown",
    [
        ("powersave\n", "performance", "performance\n"),
        ("0", "1", "1"),
        (" 6 \n", "15", " 15 \n"),
        ("always [madvise] never\n", "never", "always madvise [never]\n"),
        ("always defer defer+madvise [madvise] never\n", "defer+madvise", "always defer [defer+madvise] madvise never\n"),
        ("always defer defer+madvise [madvise] never\n", "defer", "always [defer] defer+madvise madvise never\n"),
        ("", "1", "1\n"),
    ],
)
def test_rendered_as_the_kernel_would(text, value, shown):
    assert rendered(text, value) == shown
    assert current(shown.strip()) == value


def test_a_choice_that_is_not_offered_is_refused():
    with pytest.raises(OSError) as error:
        rendered("always [madvise] never", "sometimes")
    assert error.value.errno == errno.EINVAL


def test_what_is_no_longer_asked_for_goes_back(host):
    converge(host, "us", plan(("/sys/a", "10"), ("/sys/b", "20"), files={"/etc/x": file("x"), "/etc/y": file("y")}))
    done = converge(host, "us", plan(("/sys/b", "20"), files={"/etc/y": file("y")}))
    assert (host.read("/sys/a"), host.read("/sys/b")) == ("1", "20")
    assert [row for row in done["settings"] if row["changed"]] == [
        {"setting": "baseline", "path": "/sys/a", "ids": "", "before": "10", "after": "1", "changed": True}
    ]
    assert not host.exists("/etc/x") and host.read("/etc/y") == "y"
    assert baseline.load(host).record("us") == {"values": {"/sys/b": "2"}, "files": {"/etc/y": None}, "units": {}}


def test_the_first_value_stays_the_baseline(host):
    converge(host, "us", plan(("/sys/a", "10")))
    host.set_value("/sys/a", "5")
    converge(host, "us", plan(("/sys/a", "11")))
    converge(host, "us", Plan())
    assert host.read("/sys/a") == "1"


def test_a_value_that_was_right_already_is_in_the_baseline_too(host):
    """Otherwise the first drift would be taken for the baseline."""
    converge(host, "us", plan(("/sys/a", "1"), ("/sys/b", "20")))
    host.set_value("/sys/a", "7")
    converge(host, "us", plan(("/sys/a", "1"), ("/sys/b", "20")))
    converge(host, "us", Plan())
    assert host.read("/sys/a") == "1"


def test_nothing_is_written_where_nothing_differs(host, tmp_path):
    before = state.tree(tmp_path)
    assert converge(host, "us", plan(("/sys/a", "1")))["changed"] is False
    assert state.tree(tmp_path) == before


def test_owners_do_not_touch_each_other(host):
    converge(host, "one", plan(("/sys/a", "10"), files={"/etc/ainode/one": file("1")}))
    converge(host, "two", plan(("/sys/b", "20"), files={"/etc/ainode/two": file("2")}))
    converge(host, "one", Plan())
    assert (host.read("/sys/a"), host.read("/sys/b"), host.names("/etc/ainode")) == ("1", "20", ["two"])
    converge(host, "two", Plan())
    assert (host.names("/"), host.read_bytes("/sys/b")) == (["sys"], b"2")


def test_a_file_that_was_there_before_comes_back(host, tmp_path):
    state.write(tmp_path, "/etc/conf", "caf\u00e9, theirs\n")
    os.chmod(tmp_path / "etc/conf", 0o640)
    os.symlink("/dev/null", tmp_path / "etc/unit")
    (tmp_path / "etc/raw").write_bytes(b"\xff\x00 no text")
    before = state.tree(tmp_path)
    wanted = {"/etc/conf": file("ours\n", 0o600), "/etc/unit": file("[Unit]\n"), "/etc/link": link("conf"), "/etc/raw": file("")}
    done = converge(host, "us", Plan(files=wanted))
    assert [entry["change"] for entry in done["files"]] == ["updated", "updated", "created", "updated"]
    assert {path: host.file_state(path) for path in wanted} == wanted
    assert stat.S_IMODE(os.stat(tmp_path / "etc/conf").st_mode) == 0o600
    converge(host, "us", Plan())
    assert state.tree(tmp_path) == before


def test_files_of_others_keep_a_directory_of_ours(host, tmp_path):
    converge(host, "us", Plan(files={"/etc/ainode/conf": file("x")}))
    state.write(tmp_path, "/etc/ainode/theirs", "y")
    converge(host, "us", Plan())
    assert host.names("/etc/ainode") == ["theirs"] and not host.exists("/var")


def test_values_that_hang_on_each_other_are_written_in_the_order_that_works(tmp_path):
    root = small(tmp_path)
    folder = "/sys/devices/system/cpu/cpufreq/policy1"
    for low, high in ((3000000, 3200000), (900000, 1000000), (2000000, 2000000), (800000, 3800000)):
        kernel = state.Kernel(root)
        for order in (1, -1):
            wanted = [(f"{folder}/scaling_min_freq", str(low)), (f"{folder}/scaling_max_freq", str(high))][::order]
            converge(kernel, "us", plan(*wanted))
            assert (kernel.read_int(f"{folder}/scaling_min_freq"), kernel.read_int(f"{folder}/scaling_max_freq")) == (low, high)


def test_a_kernel_that_takes_another_value_is_a_failure_with_both_numbers(host):
    class Stubborn(Host):
        def set_value(self, name, value):
            super().set_value(name, "3")

    with pytest.raises(SettingsError, match=r"/sys/a: wanted '10', the kernel took '3'"):
        converge(Stubborn(host.top), "us", plan(("/sys/a", "10"), files={"/etc/x": file("x")}))
    assert not host.exists("/etc/x"), "what is not in force must not be set at boot"
    converge(host, "us", Plan())
    assert host.read("/sys/a") == "1" and host.names("/") == ["sys"]


def test_a_refused_write_names_the_kernels_error_once(host):
    class Refusing(Host):
        def set_value(self, name, value):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with pytest.raises(SettingsError, match=r"option: /sys/a: the kernel refused '10' \(EPERM: Operation not permitted\), and 1 more like it"):
        converge(Refusing(host.top), "us", plan(("/sys/a", "10"), ("/sys/b", "20")))


def test_a_guard_stops_before_anything_changes(host, tmp_path):
    before = state.tree(tmp_path)
    for check_mode in (True, False):
        with pytest.raises(SettingsError, match="in use"):
            converge(host, "us", plan(("/sys/a", "10"), ("/sys/b", "20"), guard=lambda path, value: "in use" if path == "/sys/b" else None), check_mode)
    assert state.tree(tmp_path) == before


def test_a_setting_that_is_gone_waits_for_its_cpu_and_is_named_when_we_leave(host, tmp_path):
    converge(host, "us", plan(("/sys/a", "10"), ("/sys/b", "20")))
    os.unlink(tmp_path / "sys/a")
    assert converge(host, "us", plan(("/sys/b", "20")))["changed"] is False
    converge(host, "us", Plan(not_applicable=({"setting": "all", "reason": "the driver is not loaded"},)))
    assert baseline.load(host).record("us")["values"] == {"/sys/a": "1"}
    converge(host, "us", plan(("/sys/b", "20")))
    state.write(tmp_path, "/sys/a", "10\n")
    assert converge(host, "us", Plan(), check_mode=True)["warnings"] == []
    os.unlink(tmp_path / "sys/a")
    done = converge(host, "us", Plan())
    assert "/sys/a" in done["warnings"][0] and host.read("/sys/b") == "2" and host.names("/") == ["sys"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "no baseline"),
        ("[]", "no baseline"),
        ('{"version": 2}', "version 2"),
        ('{"version": 1}', "no baseline"),
        ('{"version": 1, "directories": [], "owners": {"us": {"values": {}}}}', "no baseline"),
    ],
)
def test_a_baseline_that_is_none_stops_everything(host, tmp_path, content, message):
    state.write(tmp_path, baseline.BASELINE, content)
    before = state.tree(tmp_path)
    with pytest.raises(baseline.BaselineError, match=message):
        converge(host, "us", plan(("/sys/a", "10")))
    assert state.tree(tmp_path) == before


def test_a_baseline_that_cannot_be_read_stops_everything(host, monkeypatch):
    converge(host, "us", plan(("/sys/a", "10")))
    monkeypatch.setattr(Host, "read_bytes", lambda self, name: None)
    with pytest.raises(baseline.BaselineError, match="cannot be read"):
        converge(host, "us", plan(("/sys/b", "20")))


def test_the_baseline_is_there_before_the_first_write(host):
    class Watched(Host):
        def set_value(self, name, value):
            assert baseline.load(self).record("us")["values"] == {"/sys/a": "1"}
            super().set_value(name, value)

    converge(Watched(host.top), "us", plan(("/sys/a", "10")))


def test_the_baseline_is_readable_json(host):
    converge(host, "us", plan(("/sys/a", "10"), files={"/etc/ainode/x": file("x")}))
    assert json.loads(host.read(baseline.BASELINE)) == {
        "version": 1,
        "directories": ["/etc", "/etc/ainode", "/var", "/var/lib", "/var/lib/ainode"],
        "owners": {"us": {"values": {"/sys/a": "1"}, "files": {"/etc/ainode/x": None}, "units": {}}},
    }


def test_runs_at_the_same_time_do_not_lose_a_record(host, tmp_path):
    for number in range(12):
        state.write(tmp_path, f"/sys/value{number}", "0\n")
    threads = [threading.Thread(target=converge, args=(Host(host.top), f"owner{number}", plan((f"/sys/value{number}", "1")))) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(baseline.load(host).record(f"owner{number}")["values"] == {f"/sys/value{number}": "0"} for number in range(12))


def test_alike_values_are_one_row(host, tmp_path):
    for cpu in range(12):
        state.write(tmp_path, f"/sys/devices/system/cpu/cpu{cpu}/power/energy_perf_bias", "6\n")
    wanted = [(f"/sys/devices/system/cpu/cpu{cpu}/power/energy_perf_bias", "0" if cpu < 10 else "6") for cpu in range(12)]
    assert converge(host, "us", plan(*wanted), check_mode=True)["settings"] == [
        {"setting": "option", "path": "/sys/devices/system/cpu/cpu*/power/energy_perf_bias", "ids": "0-9", "before": "6", "after": "0", "changed": True},
        {"setting": "option", "path": "/sys/devices/system/cpu/cpu*/power/energy_perf_bias", "ids": "10-11", "before": "6", "after": "6", "changed": False},
    ]


def test_diff_shows_values_and_files(host):
    diff = converge(host, "us", plan(("/sys/a", "10"), ("/sys/b", "2"), files={"/etc/x": file("x\n"), "/etc/l": link("x")}), check_mode=True)["diff"]
    assert [(entry["before_header"], entry["before"], entry["after"]) for entry in diff] == [
        ("kernel settings", "/sys/a: 1\n", "/sys/a: 10\n"),
        ("/etc/x", "", "x\n"),
        ("/etc/l", "", "-> x\n"),
    ]


# A live host's refusals, without one: the paths are absolute, so a fake root becomes "live" by its flag -----------------------------


@pytest.fixture
def live(host):
    host.is_live = True
    return host


def test_a_read_only_mount_is_the_machine_underneath(live, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_args: False)
    monkeypatch.setattr(os, "statvfs", lambda _path: type("", (), {"f_flag": os.ST_RDONLY}))
    assert "read-only" in live.locked_because("/sys/a")


def test_a_container_without_rights_is_told_from_a_play_without_become(live, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_args: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "container" in live.locked_because("/sys/a")
    os.chmod(tmp_path / "sys/a", 0o444)
    assert "does not let it be changed" in live.locked_because("/sys/a")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert live.locked_because("/sys/a") is None
    with pytest.raises(SettingsError, match="become"):
        converge(live, "us", plan(("/sys/a", "10")), check_mode=True)


class Systemd(Host):
    """A host where systemd runs units, and notes what it was asked for. `running` is {unit: enabled}."""

    running = {}  # noqa: RUF012
    calls = ()

    def has_systemd(self):
        return True

    def systemctl(self, *arguments):
        type(self).calls = (*self.calls, " ".join(arguments))
        if arguments[0] != "show":
            return ""
        return "\n\n".join(
            f"Id={name}\nActiveState={'active' if name in self.running else 'inactive'}\nUnitFileState={'enabled' if self.running.get(name) else 'disabled'}"
            for name in arguments[2:]
        )


def test_a_unit_that_runs_is_a_change_by_itself(host):
    systemd = type("Here", (Systemd,), {"running": {"tuned.service": False}})(host.top)
    done = converge(systemd, "us", plan(("/sys/a", "1"), stopped=("tuned.service",)))
    assert done["changed"] and systemd.calls[-1] == "stop tuned.service"


def test_what_systemctl_refuses_is_an_error_with_its_words(host, programs, monkeypatch):
    (programs / "systemctl").write_text("#!/bin/sh\n[ $2 = stop ] || exec echo Id=$2\necho Access denied >&2; exit 4\n")
    (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    assert host.systemctl("show") == "Id=show\n"
    with pytest.raises(SettingsError, match=r"systemctl stop tuned\.service failed: Access denied"):
        host.systemctl("stop", "tuned.service")


@pytest.mark.parametrize(
    ("active", "file", "expected"),
    [
        ("inactive", "disabled", None),
        ("failed", "masked", None),
        ("active", "disabled", {"active": True, "enabled": False}),
        ("activating", "static", {"active": True, "enabled": False}),
        ("reloading", "", {"active": True, "enabled": False}),
        *(("inactive", word, {"active": False, "enabled": True}) for word in ("enabled", "enabled-runtime", "generated", "alias", "linked")),
    ],
)
def test_a_unit_counts_that_runs_or_starts_at_boot(host, active, file, expected):
    class Shown(Systemd):
        def systemctl(self, *arguments):
            return f"Id=a.service\nActiveState={active}\nUnitFileState={file}\n"

    assert Shown(host.top).unit_states(["a.service"]) == ({"a.service": expected} if expected else {})


def test_a_directory_in_the_place_of_a_file_is_an_error(host, tmp_path):
    (tmp_path / "etc/ours.conf").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"/etc/ours\.conf is there and is no regular file"):
        converge(host, "us", plan(("/sys/a", "10"), files={"/etc/ours.conf": file("x")}))
    assert host.read("/sys/a") == "1"


def test_units_are_rated_by_systemds_own_numbers(host, programs, monkeypatch):
    said = "→ Overall exposure level for a.service: 1.9 OK\n→ Overall exposure level for b.service: 9.6 UNSAFE"
    (programs / "systemd-analyze").write_text(f"#!/bin/sh\ncat <<EOF\n$*\n{said}\nEOF\n")
    (programs / "systemd-analyze").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    names = ("a.service", "b.service", "c.service")
    assert host.rated_units(names) == {}, "systemd does not run a recorded machine"
    assert Systemd(host.top).rated_units(names) == {"a.service": 1.9, "b.service": 9.6}
    monkeypatch.setenv("PATH", str(programs / "nowhere"))
    assert Systemd(host.top).rated_units(names) == {}


def test_units_are_stopped_first_and_started_again_last(host):
    systemd = type("Here", (Systemd,), {"running": {"tuned.service": True, "power-profiles-daemon.service": True}})(host.top)
    names = ("tuned.service", "tlp.service", "power-profiles-daemon.service")
    done = converge(systemd, "us", plan(("/sys/a", "10"), stopped=names))
    assert systemd.calls[1:] == (
        "disable tuned.service",
        "stop tuned.service",
        "disable power-profiles-daemon.service",
        "mask --now power-profiles-daemon.service",
    )
    assert [unit["name"] for unit in done["units"]] == ["tuned.service", "power-profiles-daemon.service"]
    type(systemd).running, type(systemd).calls = {}, ()
    assert converge(systemd, "us", plan(("/sys/a", "10"), stopped=names))["changed"] is False
    type(systemd).calls = ()
    done = converge(systemd, "us", Plan())
    assert systemd.calls == (
        "enable tuned.service",
        "start tuned.service",
        "unmask power-profiles-daemon.service",
        "enable power-profiles-daemon.service",
        "start power-profiles-daemon.service",
    )
    assert done["changed"] and host.read("/sys/a") == "1" and host.names("/") == ["sys"]


def test_a_value_that_a_stopped_tuner_takes_along_is_written_again(host):
    class Tuned(Systemd):
        running = {"tuned.service": True}  # noqa: RUF012

        def systemctl(self, *arguments):
            if arguments[0] == "stop":
                self.set_value("/sys/a", "99")
            return super().systemctl(*arguments)

    converge(Tuned(host.top), "us", plan(("/sys/a", "1"), stopped=("tuned.service",)))
    assert host.read("/sys/a") == "1"


def test_a_unit_of_ours_is_reloaded_started_and_stopped(host):
    systemd = type("Here", (Systemd,), {"running": {}})(host.top)
    wanted = plan(("/sys/a", "10"), files={f"{UNITS}/ours.service": file("[Unit]\n")}, starts="ours.service")

    def told(wanted):
        type(systemd).calls = ()
        done = converge(systemd, "us", wanted)
        return done["changed"], [call for call in systemd.calls if not call.startswith("show")], done["units"]

    started = [{"name": "ours.service", "change": "started"}]
    assert converge(systemd, "us", wanted, check_mode=True)["units"] == started
    assert told(wanted) == (True, ["daemon-reload", "restart ours.service"], started)
    systemd.running["ours.service"] = True
    assert told(wanted) == (False, [], [])
    systemd.set_value("/sys/a", "3")
    assert told(wanted) == (True, [], []), "drift of a value is no reason to restart"
    systemd.running.clear()
    assert told(wanted) == (True, ["restart ours.service"], started), "a unit that failed or was stopped is drift"
    assert told(Plan()) == (True, ["stop ours.service", "daemon-reload"], [])


def test_values_that_undo_each_other_are_an_error(host):
    class Seesaw(Host):
        def set_value(self, name, value):
            super().set_value(name, value)
            super().set_value({"/sys/a": "/sys/b", "/sys/b": "/sys/a"}[name], "0")

    with pytest.raises(SettingsError, match="does not keep these values together"):
        converge(Seesaw(host.top), "us", plan(("/sys/a", "10"), ("/sys/b", "20")))


def test_a_value_that_a_later_one_disturbs_is_written_again(host):
    class Coupled(Host):
        def set_value(self, name, value):
            super().set_value(name, value)
            if name == "/sys/b":
                super().set_value("/sys/a", "0")

    converge(Coupled(host.top), "us", plan(("/sys/a", "1"), ("/sys/b", "20")))
    assert (host.read("/sys/a"), host.read("/sys/b")) == ("1", "20")
