# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""cpu_power against kernels with a will of their own, and the script that sets its values at boot."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess

import machines
import pytest
import state
from ansible_collections.ainode.cpu.plugins.module_utils.host.host import UNITS, Host
from ansible_collections.ainode.cpu.plugins.module_utils.state import converge, cpu_power

CPU = cpu_power.CPU
FLAGS_WITHOUT_TURBO = "flags\t\t: fpu vme avx2 hwp hwp_epp"


def build(directory, cpus=None, cpufreq=None, idle=(("POLL", 0, 0), ("C1", 1, 1), ("C1E", 4, 4), ("C6", 170, 600)), **files):
    """Return the root of a machine of two CPUs under intel_pstate in active mode, with idle states and EPB."""
    return machines.write(
        directory / "machine",
        cpus or machines.grid(1, 2),
        machines.XEON_8380,
        {0: 64},
        idle=idle,
        cpufreq=machines.intel_pstate(800000, 3400000, 2300000) if cpufreq is None else cpufreq,
        epb=6,
        files={f"{CPU}/intel_pstate/no_turbo": 0} if cpufreq is None else {},
        **files,
    )


@pytest.fixture
def intel(tmp_path):
    return build(tmp_path)


@pytest.fixture
def acpi(tmp_path):
    root = build(tmp_path, cpufreq={**machines.acpi_cpufreq([800000, 2300000, 3400000]), "boost": 1})
    state.write(root, f"{CPU}/cpufreq/boost", "1\n")
    return root


@pytest.fixture
def kernel(monkeypatch):
    """Let the modules run on a kernel that refuses, clamps and couples values."""

    class Here(state.Kernel):
        pass

    monkeypatch.setattr(converge, "Host", Here)
    return Here


def run(root, **options):
    return state.run("cpu_power", root, **options)


def policy(root, name, number=0):
    return state.read(root, f"{CPU}/cpufreq/policy{number}/{name}")


def reasons(result):
    return {entry["setting"]: entry["reason"] for entry in result["not_applicable"]}


def fails(root, *words, **options):
    """Assert that these options are refused with one message that holds `words`, in a check run too, and change nothing."""
    before = state.tree(root)
    for check in (True, False):
        result = state.run("cpu_power", root, check=check, **options)
        assert result.get("failed"), result
        assert all(word in result["msg"] for word in words), result["msg"]
        assert state.tree(root) == before
    return result["msg"]


# Bad values -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ({"governor": "turbo"}, ("'turbo'", "performance, powersave")),
        ({"governor": "schedutil"}, ("'schedutil'", "performance, powersave")),
        ({"epp": "fast"}, ("'fast'", "balance_performance", "0 to 255")),
        ({"epp": "256"}, ("256", "255")),
        ({"epb": "16"}, ("'16'", "15")),
        ({"epb": "lazy"}, ("'lazy'", "balance-power")),
        ({"min_frequency_khz": 3000000, "max_frequency_khz": 2000000}, ("3000000", "2000000")),
        ({"max_frequency_khz": 3400001}, ("3400001", "800000", "3400000")),
        ({"min_frequency_khz": 0}, ("min_frequency_khz 0",)),
        ({"max_exit_latency_us": -1}, ("-1",)),
        ({"idle_states_disabled": ["C1,C6"]}, ("'C1,C6'",)),
        ({"idle_states_disabled": [""]}, ("''", "is not the name of an idle state")),
        ({"idle_states_disabled": ["C6 "]}, ("'C6 '", "is not the name of an idle state")),
        ({"idle_states_disabled": ["C\n6"]}, ("is not the name of an idle state",)),
        ({"idle_states_disabled": ["C6"], "max_exit_latency_us": 10}, ("mutually exclusive",)),
        ({"conflicting_tuners": "kill"}, ("kill",)),
        # A bad value beside good ones: nothing of the task is done.
        ({"governor": "performance", "turbo": False, "epb": "99"}, ("'99'",)),
    ],
)
def test_a_bad_value_is_one_clear_error_and_changes_nothing(intel, options, words):
    fails(intel, *words, **options)


@pytest.mark.parametrize("root, word", [("relative", "absolute"), ("/nowhere/at/all", "not a directory"), ("/usr/bin", "neither proc/ nor sys/")])
def test_a_root_that_is_none(root, word):
    assert word in run(root, governor="performance")["msg"]


def test_a_governor_nobody_knows_is_an_error_without_cpufreq_too(tmp_path):
    root = machines.build("vm-without-cpufreq", tmp_path)
    fails(root, "'turbo'", "schedutil", governor="turbo")


# What a host does not have --------------------------------------------------------------------------------------------------------


def test_without_cpufreq_nothing_changes_and_all_is_said(tmp_path):
    root = machines.build("vm-without-cpufreq", tmp_path)
    before = state.tree(root)
    done = run(root, governor="performance", epp="performance", epb="0", turbo=True, min_frequency_khz=1, max_exit_latency_us=10)
    assert set(reasons(done)) == {"governor", "epp", "epb", "turbo", "min_frequency_khz", "max_exit_latency_us"}
    assert "hypervisor" in reasons(done)["governor"] and done["changed"] is False and done["files"] == []
    assert state.tree(root) == before


def test_states_that_this_cpu_does_not_have_are_named(intel):
    done = run(intel, idle_states_disabled=["C6", "C10", "C6S"])
    assert reasons(done) == {"idle_states_disabled": "no CPU of this host has an idle state C10, C6S: it has POLL, C1, C1E, C6"}
    assert [row["path"] for row in done["settings"]] == [f"{CPU}/cpu*/cpuidle/state3/disable"]
    assert "idle_states_disabled=C6\n" in state.read(intel, cpu_power.CONF) + "\n"


def test_states_are_found_by_name_where_their_numbers_differ(intel):
    """On a hybrid, a core of the other type has other states under the same numbers."""
    shutil.rmtree(f"{intel}{CPU}/cpu1/cpuidle/state2")
    os.rename(f"{intel}{CPU}/cpu1/cpuidle/state3", f"{intel}{CPU}/cpu1/cpuidle/state2")
    run(intel, idle_states_disabled=["C1E", "C6"])
    disabled = {
        (cpu, state.read(intel, f"{CPU}/cpu{cpu}/cpuidle/{folder}/name")): state.read(intel, f"{CPU}/cpu{cpu}/cpuidle/{folder}/disable")
        for cpu in (0, 1)
        for folder in os.listdir(f"{intel}{CPU}/cpu{cpu}/cpuidle")
    }
    assert disabled == {(0, "POLL"): "0", (0, "C1"): "0", (0, "C1E"): "1", (0, "C6"): "1", (1, "POLL"): "0", (1, "C1"): "0", (1, "C6"): "1"}


@pytest.mark.parametrize("limit, disabled", [(0, ["C1", "C1E", "C6"]), (1, ["C1E", "C6"]), (10, ["C6"]), (170, [])])
def test_states_by_exit_latency(intel, limit, disabled):
    run(intel, max_exit_latency_us=limit)
    names = [state.read(intel, f"{CPU}/cpu1/cpuidle/state{number}/name") for number in range(4)]
    assert [name for number, name in enumerate(names) if state.read(intel, f"{CPU}/cpu1/cpuidle/state{number}/disable") == "1"] == disabled


def test_a_state_that_the_kernel_keeps_off_stays_off(intel):
    state.write(intel, f"{CPU}/cpu0/cpuidle/state2/disable", "1\n")
    run(intel, idle_states_disabled=["C6"])
    assert state.read(intel, f"{CPU}/cpu0/cpuidle/state2/disable") == "1"


def test_a_kernel_that_cannot_disable_states(intel):
    for cpu, number in itertools.product((0, 1), range(4)):
        os.unlink(f"{intel}{CPU}/cpu{cpu}/cpuidle/state{number}/disable")
    assert "no way to disable" in reasons(run(intel, max_exit_latency_us=1))["max_exit_latency_us"]


def test_a_state_name_with_a_space(tmp_path):
    """As KVM guests have it: "haltpoll idle"."""
    root = build(tmp_path, idle=(("POLL", 0, 0), ("haltpoll idle", 1, 1)))
    assert reasons(run(root, idle_states_disabled=["haltpoll idle"])) == {}
    state.write(root, f"{CPU}/cpu1/cpuidle/state1/disable", "0\n")
    assert boot(root).returncode == 0 and state.read(root, f"{CPU}/cpu1/cpuidle/state1/disable") == "1"


def test_policies_of_offline_cpus_are_left_out(intel, kernel, monkeypatch):
    """Their files are there and the kernel answers none of them."""
    read = kernel.read_bytes
    monkeypatch.setattr(kernel, "read_bytes", lambda self, name: None if "/policy1/" in name else read(self, name))
    done = run(intel, governor="performance")
    assert [row["ids"] for row in done["settings"]] == ["0", "0"]


# Drivers --------------------------------------------------------------------------------------------------------------------------


def test_a_driver_that_does_not_list_its_preferences_is_given_the_kernels(intel):
    for number in (0, 1):
        os.unlink(f"{intel}{CPU}/cpufreq/policy{number}/energy_performance_available_preferences")
    run(intel, epp="balance_power")
    assert policy(intel, "energy_performance_preference") == "balance_power"
    assert "'fast'" in run(intel, epp="fast")["msg"]


def test_epp_goes_with_the_governor_and_comes_back_with_it(intel, kernel):
    before = state.tree(intel)
    check = state.run("cpu_power", intel, check=True, governor="performance")
    done = run(intel, governor="performance")
    assert done["settings"] == check["settings"]
    assert [(row["setting"], row["before"], row["after"]) for row in done["settings"]] == [
        ("governor", "powersave", "performance"),
        ("epp (implied by governor)", "balance_performance", "performance"),
    ]
    assert not [name for name, _value in kernel.log if "energy_performance_preference" in name], "the kernel had done it"
    assert run(intel, governor="performance")["changed"] is False
    run(intel, state="absent")
    assert state.tree(intel) == before


def test_epp_is_locked_under_governor_performance(intel, kernel):
    done = run(intel, governor="performance", epp="balance_power")
    assert "holds the EPP at performance" in reasons(done)["epp"]
    assert (policy(intel, "scaling_governor"), policy(intel, "energy_performance_preference")) == ("performance", "performance")
    assert "epp=" not in state.read(intel, cpu_power.CONF)
    # Under the governor that is in force already, too.
    assert "holds the EPP" in reasons(run(intel, epp="balance_power", governor="performance"))["epp"]


def test_epp_performance_is_what_the_lock_holds(intel, kernel):
    done = run(intel, governor="performance", epp="performance")
    assert done["not_applicable"] == [] and "epp=performance" in state.read(intel, cpu_power.CONF)


def test_epp_is_written_once_the_governor_lets_it(intel, kernel):
    """From performance to powersave: the EPP is free only after the governor is written, and both go back."""
    for number in (0, 1):
        state.write(intel, f"{CPU}/cpufreq/policy{number}/scaling_governor", "performance\n")
        state.write(intel, f"{CPU}/cpufreq/policy{number}/energy_performance_preference", "performance\n")
    before = state.tree(intel)
    run(intel, governor="powersave", epp="balance_power")
    assert (policy(intel, "scaling_governor", 1), policy(intel, "energy_performance_preference", 1)) == ("powersave", "balance_power")
    run(intel, state="absent")
    assert policy(intel, "energy_performance_preference") == "performance"
    for number in (0, 1):
        os.unlink(f"{intel}{CPU}/cpufreq/policy{number}/.epp")
    assert state.tree(intel) == before


@pytest.mark.parametrize("number, shown", [("128", "balance_performance"), ("77", "77"), ("255", "power")])
def test_epp_by_number_may_be_shown_by_name(intel, kernel, number, shown):
    assert run(intel, epp=number)["changed"] is True or shown == "balance_performance"
    assert policy(intel, "energy_performance_preference") == shown
    assert run(intel, epp=number)["changed"] is False


def test_amd_pstate_in_active_mode_locks_the_epp_as_well(tmp_path):
    root = build(tmp_path, cpufreq={**machines.intel_pstate(400000, 5000000, 3000000), "scaling_driver": "amd-pstate-epp"})
    state.write(root, f"{CPU}/amd_pstate/status", "active\n")
    done = run(root, governor="performance", epp="power", turbo=False)
    assert set(reasons(done)) == {"epp", "turbo"}
    state.write(root, f"{CPU}/cpufreq/boost", "1\n")
    assert set(reasons(run(root, governor="performance", turbo=False))) == set() and state.read(root, f"{CPU}/cpufreq/boost") == "0"


def test_a_driver_that_leaves_the_epp_free_under_performance(tmp_path):
    """intel_pstate in passive mode calls itself intel_cpufreq."""
    root = build(
        tmp_path,
        cpufreq={
            **machines.intel_pstate(800000, 3400000, 2300000),
            "scaling_driver": "intel_cpufreq",
            "scaling_available_governors": "conservative ondemand userspace powersave performance schedutil",
        },
    )
    run(root, governor="performance")
    assert policy(root, "energy_performance_preference") == "balance_performance"
    done = run(root, governor="performance", epp="balance_power")
    assert done["not_applicable"] == [] and policy(root, "energy_performance_preference") == "balance_power"


def test_powersave_of_acpi_cpufreq_is_the_lowest_frequency(acpi):
    assert "lowest frequency" in run(acpi, governor="powersave")["warnings"][0]


def test_powersave_of_intel_pstate_is_not(intel):
    assert run(intel, governor="powersave")["warnings"] == []


def test_a_governor_that_is_a_module_can_be_chosen(acpi):
    fails(acpi, "'sleepy'", governor="sleepy")
    state.write(acpi, "/lib/modules/6.8.0-45-generic/kernel/drivers/cpufreq/cpufreq_sleepy.ko.zst", "")
    assert "failed" not in run(acpi, governor="sleepy") and policy(acpi, "scaling_governor") == "sleepy"


def test_boost_of_acpi_cpufreq_is_set_for_host_and_policies(acpi):
    before = state.tree(acpi)
    run(acpi, turbo=False)
    assert [state.read(acpi, f"{CPU}/cpufreq/{name}") for name in ("boost", "policy0/boost", "policy1/boost")] == ["0"] * 3
    run(acpi, state="absent")
    assert state.tree(acpi) == before


def test_kernels_before_policy_directories(acpi):
    """cpu1/cpufreq is a link to cpu0/cpufreq: one policy."""
    shutil.move(f"{acpi}{CPU}/cpufreq/policy0", f"{acpi}/moved")
    shutil.rmtree(f"{acpi}{CPU}/cpufreq")
    os.unlink(f"{acpi}{CPU}/cpu0/cpufreq")
    os.unlink(f"{acpi}{CPU}/cpu1/cpufreq")
    shutil.move(f"{acpi}/moved", f"{acpi}{CPU}/cpu0/cpufreq")
    os.symlink("../cpu0/cpufreq", f"{acpi}{CPU}/cpu1/cpufreq")
    done = run(acpi, governor="performance")
    assert [(row["ids"], row["after"]) for row in done["settings"]] == [("0", "performance")]
    state.write(acpi, f"{CPU}/cpu0/cpufreq/scaling_governor", "powersave\n")
    assert boot(acpi).returncode == 0 and state.read(acpi, f"{CPU}/cpu1/cpufreq/scaling_governor") == "performance"


def test_turbo_that_the_firmware_disables_is_not_ours(intel):
    state.write(intel, f"{CPU}/intel_pstate/no_turbo", "1\n")
    state.write(intel, "/proc/cpuinfo", FLAGS_WITHOUT_TURBO + "\n")
    done = run(intel, turbo=True)
    assert "firmware" in reasons(done)["turbo"] and done["changed"] is False
    assert run(intel, turbo=False)["not_applicable"] == []


def test_turbo_that_the_kernel_refuses_is_a_failure_that_names_the_firmware(intel, kernel):
    kernel.turbo_is_locked = True
    state.write(intel, f"{CPU}/intel_pstate/no_turbo", "1\n")
    result = run(intel, turbo=True)
    assert "EPERM" in result["msg"] and "BIOS" in result["msg"] and "'0'" in result["msg"]


def test_frequencies_in_any_order_and_within_each_cores_own_range(intel, kernel):
    for name, khz in (("cpuinfo_max_freq", 2500000), ("scaling_max_freq", 2500000)):
        state.write(intel, f"{CPU}/cpufreq/policy1/{name}", f"{khz}\n")
    before = state.tree(intel)
    for low, high in ((3000000, 3400000), (800000, 900000), (2600000, 2600000)):
        assert "failed" not in run(intel, min_frequency_khz=low, max_frequency_khz=high)
        assert [policy(intel, f"scaling_{end}_freq") for end in ("min", "max")] == [str(low), str(high)]
        assert [policy(intel, f"scaling_{end}_freq", 1) for end in ("min", "max")] == [str(min(low, 2500000)), str(min(high, 2500000))]
    run(intel, state="absent")
    assert state.tree(intel) == before


def test_a_kernel_that_takes_another_frequency_is_a_failure_with_both_numbers(intel, kernel):
    kernel.ceiling_khz = 3100000
    result = run(intel, max_frequency_khz=3200000)
    assert "3200000" in result["msg"] and "3100000" in result["msg"] and "1 more" in result["msg"]
    assert not os.path.exists(f"{intel}{cpu_power.CONF}")
    kernel.ceiling_khz = None
    assert "failed" not in run(intel, state="absent")
    assert policy(intel, "scaling_max_freq") == "3400000"


@pytest.mark.parametrize(("low", "high", "expected"), [(900000, 3000000, ("2300000", "2300000")), (2300001, 3400000, ("3400000", "3400000"))])
def test_limits_between_two_frequencies_of_the_table_are_what_the_kernel_makes_of_them(acpi, kernel, low, high, expected):
    for number in (0, 1):
        state.write(acpi, f"{CPU}/cpufreq/policy{number}/scaling_available_frequencies", "3400000 2300000 800000 \n")
    before = state.tree(acpi)
    predicted = run(acpi, check=True, min_frequency_khz=low, max_frequency_khz=high)
    done = run(acpi, min_frequency_khz=low, max_frequency_khz=high)
    assert done["changed"] and predicted["settings"] == done["settings"]
    assert tuple(policy(acpi, f"scaling_{end}_freq") for end in ("min", "max")) == expected
    assert not run(acpi, min_frequency_khz=low, max_frequency_khz=high)["changed"]
    run(acpi, state="absent")
    assert state.tree(acpi) == before


def test_the_boot_script_knows_the_table_too(acpi):
    for number in (0, 1):
        state.write(acpi, f"{CPU}/cpufreq/policy{number}/scaling_available_frequencies", "3400000 2300000 800000 \n")
    run(acpi, min_frequency_khz=900000, max_frequency_khz=3000000)
    for number in (0, 1):
        state.write(acpi, f"{CPU}/cpufreq/policy{number}/scaling_min_freq", "800000\n")
        state.write(acpi, f"{CPU}/cpufreq/policy{number}/scaling_max_freq", "3400000\n")
    subprocess.run(["sh", f"{acpi}{cpu_power.SCRIPT}"], env={**os.environ, "AINODE_ROOT": acpi}, check=True)
    assert [policy(acpi, f"scaling_{end}_freq", 1) for end in ("min", "max")] == ["2300000", "2300000"]


def test_the_default_epp_is_read_back_by_the_name_of_what_it_is_equal_to(intel, kernel):
    for number in (0, 1):
        state.write(intel, f"{CPU}/cpufreq/policy{number}/scaling_governor", "powersave\n")
        state.write(intel, f"{CPU}/cpufreq/policy{number}/energy_performance_preference", "power\n")
    done = run(intel, epp="default")
    assert done["changed"] and not done["warnings"] and policy(intel, "energy_performance_preference") == "balance_performance"
    assert not run(intel, epp="default")["changed"]
    # A CPU whose firmware set another one: said, and no failure.
    kernel.default_epp = "performance"
    state.write(intel, f"{CPU}/cpufreq/policy0/energy_performance_preference", "power\n")
    done = run(intel, epp="default")
    assert "wanted default, the kernel gave performance (which is this CPU's default)" in done["warnings"][0]
    subprocess.run(["sh", f"{intel}{cpu_power.SCRIPT}"], env={**os.environ, "AINODE_ROOT": intel}, check=True)


# Tuners ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tuned(monkeypatch):
    """Let systemd run tuned on the host, and take what it is told."""

    class Tuned(Host):
        units = {}  # noqa: RUF012

        def has_systemd(self):
            return True

        def systemctl(self, *arguments):
            if arguments[0] == "show":
                return "\n\n".join(
                    f"Id={name}\nActiveState={'active' if self.units.get(name) else 'inactive'}\n"
                    f"UnitFileState={'enabled' if self.units.get(name) else 'disabled'}"
                    for name in arguments[2:]
                )
            if arguments[0] in ("start", "restart", "stop"):
                self.units[arguments[1]] = arguments[0] != "stop"
            return ""

    monkeypatch.setattr(converge, "Host", Tuned)
    Tuned.units["tuned.service"] = True
    return Tuned


OURS = {"name": cpu_power.UNIT, "change": "started"}


def test_an_active_tuner_stops_the_task(intel, tuned):
    fails(intel, "tuned.service", "conflicting_tuners: disable", "ignore", governor="performance")


def test_a_tuner_may_be_ignored(intel, tuned):
    assert run(intel, governor="performance", conflicting_tuners="ignore")["units"] == [OURS]
    assert tuned.units == {"tuned.service": True, cpu_power.UNIT: True}


def test_a_tuner_is_no_conflict_where_there_is_nothing_to_set(tmp_path, tuned):
    assert run(machines.build("vm-without-cpufreq", tmp_path), governor="performance")["changed"] is False


def test_a_disabled_tuner_stays_so_until_we_leave(intel, tuned):
    assert run(intel, governor="performance", conflicting_tuners="disable")["units"] == [{"name": "tuned.service", "change": "stopped"}, OURS]
    assert tuned.units["tuned.service"] is False
    for mode in ("disable", "fail"):
        done = run(intel, governor="performance", conflicting_tuners=mode)
        assert done["changed"] is False and done["units"] == []
    assert run(intel, state="absent")["units"] == [{"name": "tuned.service", "change": "started"}]
    assert tuned.units["tuned.service"] is True


# At boot --------------------------------------------------------------------------------------------------------------------------


def boot(root):
    """Run the boot-time script on a root, with the shell it will have on Debian."""
    return subprocess.run(
        [shutil.which("dash") or "sh", f"{root}{cpu_power.SCRIPT}"], env={**os.environ, "AINODE_ROOT": root}, capture_output=True, text=True, check=False
    )


def same_after_a_boot(root, **options):
    """Assert that the script makes of the machine's own values what the module made of them."""
    done = run(root, **options)
    converged = state.tree(root)
    for row in done["settings"]:
        host = Host(root)
        for number in range(2):
            path = row["path"].replace("*", str(number), 1)
            if host.exists(path):
                host.set_value(path, row["before"])
    assert state.tree(root) != converged
    result = boot(root)
    assert (result.returncode, result.stderr) == (0, "")
    assert state.tree(root) == converged


@pytest.mark.parametrize(
    "options",
    [
        {
            "governor": "performance",
            "epp": "performance",
            "epb": "0",
            "turbo": False,
            "min_frequency_khz": 3000000,
            "max_frequency_khz": 3300000,
            "max_exit_latency_us": 2,
        },
        {"epp": "200", "epb": "power", "idle_states_disabled": ["C6", "C1"]},
        {"max_frequency_khz": 900000, "min_frequency_khz": 900000, "max_exit_latency_us": 0},
    ],
)
def test_the_boot_script_sets_what_the_module_set(intel, options):
    same_after_a_boot(intel, **options)


def test_the_boot_script_on_acpi_cpufreq(acpi):
    same_after_a_boot(acpi, governor="performance", turbo=False, max_frequency_khz=2300000)


def test_the_boot_script_clamps_to_each_cores_range(intel):
    for name in ("cpuinfo_max_freq", "scaling_max_freq"):
        state.write(intel, f"{CPU}/cpufreq/policy1/{name}", "2500000\n")
    same_after_a_boot(intel, min_frequency_khz=2600000, max_frequency_khz=3000000)


def test_the_boot_script_tries_again_until_the_driver_is_there(intel):
    run(intel, governor="performance", max_exit_latency_us=10)
    shutil.move(f"{intel}{CPU}/cpufreq", f"{intel}/later")
    shutil.move(f"{intel}{CPU}/cpu0/cpuidle", f"{intel}/later-idle0")
    shutil.move(f"{intel}{CPU}/cpu1/cpuidle", f"{intel}/later-idle1")
    result = boot(intel)
    assert result.returncode == 1 and "no cpufreq driver" in result.stderr and "no idle states" in result.stderr
    shutil.move(f"{intel}/later", f"{intel}{CPU}/cpufreq")
    shutil.move(f"{intel}/later-idle0", f"{intel}{CPU}/cpu0/cpuidle")
    shutil.move(f"{intel}/later-idle1", f"{intel}{CPU}/cpu1/cpuidle")
    assert boot(intel).returncode == 0


def test_the_boot_script_says_what_it_could_not_set(intel):
    run(intel, governor="performance")
    path = f"{intel}{CPU}/cpufreq/policy1/scaling_governor"
    os.unlink(path)
    # A file that even root may not write.
    os.symlink("/proc/sys/kernel/ostype", path)
    result = boot(intel)
    assert result.returncode == 1
    assert result.stderr == f"{path}: wanted performance, has Linux\n"


def test_the_boot_script_refuses_a_setting_it_does_not_know(intel):
    run(intel, governor="performance")
    state.write(intel, cpu_power.CONF, "governor=performance\nspeed=11\n")
    result = boot(intel)
    assert result.returncode == 2 and "'speed'" in result.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")
def test_systemd_understands_the_unit(intel):
    run(intel, governor="performance")
    unit = f"{intel}{UNITS}/{cpu_power.UNIT}"
    # The script lies elsewhere in this root.
    text = state.read(intel, f"{UNITS}/{cpu_power.UNIT}")
    state.write(intel, f"{UNITS}/{cpu_power.UNIT}", text.replace(cpu_power.SCRIPT, "/bin/true") + "\n")
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert cpu_power.UNIT not in result.stderr, result.stderr


def test_nothing_is_laid_down_without_persist(intel):
    done = run(intel, governor="performance", persist=False)
    assert done["files"] == [] and not os.path.exists(f"{intel}/etc/systemd") and done["changed"]
