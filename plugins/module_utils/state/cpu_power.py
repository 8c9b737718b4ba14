# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The plan of cpu_power: governor, energy preferences, turbo, frequency limits and idle states of a host.

Sources: https://docs.kernel.org/admin-guide/pm/cpufreq.html, intel_pstate.html, amd-pstate.html, cpuidle.html and intel_epb.html;
the guide's sections "Configuration of Linux Performance Governor" and "CPU C-States Settings".
"""

from __future__ import annotations

import os

from ..host import cpulist
from ..host.host import UNITS, SettingsError, file, link
from .converge import Plan, Setting

CPU = "/sys/devices/system/cpu"
CONF = "/etc/ainode/cpu-power.conf"
SCRIPT = "/usr/local/sbin/ainode-cpu-power"
UNIT = "ainode-cpu-power.service"
# Each of these sets governors or idle states by itself, at boot or whenever it thinks fit.
TUNERS = ("tuned.service", "power-profiles-daemon.service", "tlp.service", "cpufrequtils.service", "auto-cpufreq.service")

GOVERNORS = ("conservative", "ondemand", "performance", "powersave", "schedutil", "userspace")
# These drivers choose the frequency themselves. Their powersave is dynamic, and under performance they hold the EPP at 0.
SELF_GOVERNED = ("intel_pstate", "amd-pstate-epp")
EPB_NAMES = {"performance": 0, "balance-performance": 4, "normal": 6, "balance-power": 8, "power": 15}
# The numbers that the kernel shows by name; some CPU models have numbers of their own (intel_epp_default in intel_pstate.c).
EPP_NUMBERS = {"performance": (0, 16), "balance_performance": (32, 64, 102, 115, 128), "balance_power": (179, 192), "power": (255,)}

# As what most CPUs' default is read back: 128 is what the register holds at power-on (Intel SDM, volume 3, "IA32_HWP_REQUEST").
EPP_DEFAULT = ("balance_performance", "128")

_SCRIPT = r"""#!/bin/sh
# Sets what /etc/ainode/cpu-power.conf asks for. Laid down by ainode.cpu.cpu_power, run at boot by ainode-cpu-power.service.
# Ends with 1 when a value is not in force; the unit then tries again, for cpufreq drivers may be loaded late.
set -u
root=${AINODE_ROOT:-}
cpu=$root/sys/devices/system/cpu
governor='' epp='' epb='' turbo='' min_frequency_khz='' max_frequency_khz='' idle_states_disabled='' max_exit_latency_us=''

while IFS='=' read -r key value; do
    case $key in
    governor) governor=$value ;;
    epp) epp=$value ;;
    epb) epb=$value ;;
    turbo) turbo=$value ;;
    min_frequency_khz) min_frequency_khz=$value ;;
    max_frequency_khz) max_frequency_khz=$value ;;
    idle_states_disabled) idle_states_disabled=$value ;;
    max_exit_latency_us) max_exit_latency_us=$value ;;
    '' | '#'*) ;;
    *) echo "unknown setting '$key' in /etc/ainode/cpu-power.conf" >&2; exit 2 ;;
    esac
done < "$root/etc/ainode/cpu-power.conf" || exit 2

# read_file FILE: its first line in $now; fails for a file that is not there or not readable (the policy of an offline CPU).
read_file() {
    now=''
    { read -r now < "$1" || [ -n "$now" ]; } 2>/dev/null
}

# missing TEXT: remember, in the second round, that a value is not in force.
missing() {
    [ "$round" = 1 ] && return
    echo "$1" >&2
    failed=1
}

# set_file FILE VALUE: write unless it is there, and read back.
set_file() {
    read_file "$1" || return 0
    [ "$now" = "$2" ] && return
    { printf '%s\n' "$2" > "$1"; } 2>/dev/null
    read_file "$1"
    [ "$now" = "$2" ] || missing "$1: wanted $2, has $now"
}

# set_epp FILE: the kernel shows some numbers by name, and the default by another name, so these count as set when the write succeeds.
set_epp() {
    case $epp in
    default) ! read_file "$1" || { printf 'default\n' > "$1"; } 2>/dev/null || missing "$1: wanted default, has $now" ;;
    *[!0-9]*) set_file "$1" "$epp" ;;
    *) read_file "$1" || return 0
        [ "$now" = "$epp" ] || { printf '%s\n' "$epp" > "$1"; } 2>/dev/null || missing "$1: wanted $epp, has $now" ;;
    esac
}

# set_limit POLICY FILE KHZ: what is beyond this CPU's own range is the end of that range (the cores of a hybrid differ). Between two frequencies
# of the driver's table the kernel takes the one below for a maximum and the one above for a minimum.
set_limit() {
    limit=$3 nearest=''
    read_file "$1/cpuinfo_min_freq" && [ "$limit" -lt "$now" ] && limit=$now
    read_file "$1/cpuinfo_max_freq" && [ "$limit" -gt "$now" ] && limit=$now
    read_file "$1/scaling_available_frequencies"
    table=$now
    read_file "$1/scaling_boost_frequencies"
    for step in $table $now; do
        case $2 in
        scaling_max_freq) [ "$step" -le "$limit" ] && [ "$step" -gt "${nearest:-0}" ] && nearest=$step ;;
        *) [ "$step" -ge "$limit" ] && [ "$step" -lt "${nearest:-999999999}" ] && nearest=$step ;;
        esac
    done
    set_file "$1/$2" "${nearest:-$limit}"
}

apply() {
    policies=0 states=0
    # Kernels before 4.3 have no policy directories.
    set -- "$cpu"/cpufreq/policy*
    [ -e "$1" ] || set -- "$cpu"/cpu[0-9]*/cpufreq
    for policy; do
        read_file "$policy/scaling_governor" || continue
        policies=1
        [ -z "$governor" ] || set_file "$policy/scaling_governor" "$governor"
        [ -z "$epp" ] || set_epp "$policy/energy_performance_preference"
        [ -z "$max_frequency_khz" ] || set_limit "$policy" scaling_max_freq "$max_frequency_khz"
        [ -z "$min_frequency_khz" ] || set_limit "$policy" scaling_min_freq "$min_frequency_khz"
        [ -z "$turbo" ] || set_file "$policy/boost" "$turbo"
    done
    [ -z "$governor$epp$min_frequency_khz$max_frequency_khz" ] || [ "$policies" = 1 ] || missing 'no cpufreq driver is there'
    if [ -n "$turbo" ]; then
        set_file "$cpu/intel_pstate/no_turbo" "$((1 - turbo))"
        set_file "$cpu/cpufreq/boost" "$turbo"
    fi
    if [ -n "$epb" ]; then
        for file in "$cpu"/cpu[0-9]*/power/energy_perf_bias; do
            set_file "$file" "$epb"
        done
    fi
    [ -n "$idle_states_disabled$max_exit_latency_us" ] || return
    # By name or latency, never by number: another kernel or CPU type numbers other states.
    for state in "$cpu"/cpu[0-9]*/cpuidle/state[0-9]*; do
        read_file "$state/name" || continue
        states=1
        case ",$idle_states_disabled," in
        *",$now,"*) set_file "$state/disable" 1 ;;
        esac
        [ -z "$max_exit_latency_us" ] || { read_file "$state/latency" && [ "$now" -gt "$max_exit_latency_us" ] && set_file "$state/disable" 1; }
    done
    [ "$states" = 1 ] || missing 'no idle states are there'
}

# Values hang on each other (a minimum on the maximum, the EPP on the governor): what is refused in the first round is set in the second.
failed=0
for round in 1 2; do
    apply
done
exit "$failed"
"""

_UNIT = f"""# Laid down by ainode.cpu.cpu_power.
[Unit]
Description=CPU power settings of an AI node: governor, energy preference, turbo, idle states
Documentation=file:{CONF}
ConditionPathIsReadWrite=/sys/devices/system/cpu
After=systemd-modules-load.service {" ".join(TUNERS)}
# A cpufreq driver may be loaded late: try every 3 s, for 90 s.
StartLimitIntervalSec=180
StartLimitBurst=30

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={SCRIPT}
Restart=on-failure
RestartSec=3
RestartPreventExitStatus=2
# It writes root's files in /sys and needs nothing else; the kernel wants CAP_SYS_ADMIN of who disables an idle state.
CapabilityBoundingSet=CAP_SYS_ADMIN
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateNetwork=yes
PrivateTmp=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectProc=invisible
ProtectSystem=strict
RestrictAddressFamilies=none
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def plan(host, params, stopped_before=()):
    """Return the Plan for the options of the module cpu_power; an option that is None is not asked for.

    `stopped_before` are the tuners that an earlier run has stopped. Raises SettingsError for a value that no host, or not this one, takes.
    """
    machine = _Machine(host, params)
    made, boot, not_applicable, warnings = [], {}, [], []
    for option, function in _OPTIONS.items():
        if params.get(option) is None:
            continue
        wanted, text, reasons = function(machine, params[option])
        locked = next(filter(None, (host.locked_because(setting.path) for setting in wanted)), None)
        not_applicable += [{"setting": option, "reason": reason} for reason in [*reasons, *([f"{wanted[0].path}: {locked}"] if locked else [])]]
        if wanted and not locked:
            made += wanted
            boot[option] = text
    if boot.get("governor") == "powersave" and machine.driver not in SELF_GOVERNED:
        warnings.append(f"governor powersave holds every CPU at its lowest frequency under the driver {machine.driver}")
    stays = params["persist"] and boot
    return Plan(
        settings=tuple(made),
        files=_files(boot) if stays else {},
        stopped=_tuners(host, params["conflicting_tuners"], stopped_before) if made else (),
        starts=UNIT if stays else None,
        not_applicable=tuple(not_applicable),
        warnings=tuple(warnings),
    )


class _Machine:
    """What the options' functions look at: the host, its cpufreq policies that work, and its online CPUs."""

    def __init__(self, host, params):
        self.host = host
        # Kernels before 4.3 have a directory a CPU, several of which may be one policy.
        folders = [f"{CPU}/cpufreq/policy{number}" for number in host.numbered(f"{CPU}/cpufreq", "policy")]
        if not folders:
            named = [f"{CPU}/cpu{number}/cpufreq" for number in host.numbered(CPU, "cpu") if host.is_dir(f"{CPU}/cpu{number}/cpufreq")]
            folders = list({os.path.realpath(host.path(name)): name for name in reversed(named)}.values())[::-1]
        # The policy of offline CPUs keeps its files, and the kernel answers none of them (EBUSY).
        self.policies = [name for name in folders if host.read(f"{name}/scaling_governor")]
        self.driver = host.read(f"{self.policies[0]}/scaling_driver") if self.policies else None
        online = host.read(f"{CPU}/online")
        self.cpus = host.numbered(CPU, "cpu") if online is None else cpulist.parse(online)
        self.governor = params.get("governor")
        self.limits = params.get("min_frequency_khz"), params.get("max_frequency_khz")
        if None not in self.limits and self.limits[0] > self.limits[1]:
            raise SettingsError(f"min_frequency_khz {self.limits[0]} is above max_frequency_khz {self.limits[1]}")

    def policy_files(self, name):
        """Return {path: value} of the file `name` in the policies that have it."""
        found = ((path, self.host.read(path)) for path in (f"{policy}/{name}" for policy in self.policies))
        return {path: value for path, value in found if value}

    def holds_epp(self, policy):
        """Return whether the kernel holds the EPP of `policy` at performance: any other is refused (EBUSY)."""
        return self.driver in SELF_GOVERNED and (self.governor or self.host.read(f"{policy}/scaling_governor")) == "performance"


_NO_CPUFREQ = "this host has no cpufreq driver (in a VM, the hypervisor owns the frequency)"


def _governor(machine, governor):
    available = {path: machine.host.read(os.path.dirname(path) + "/scaling_available_governors") for path in machine.policy_files("scaling_governor")}
    offered = sorted({name for text in available.values() for name in (text or "").split()})
    if governor not in offered and governor not in (_loadable(machine) if machine.policies else GOVERNORS):
        raise SettingsError(f"governor '{governor}' is not available: choose one of {', '.join(offered or GOVERNORS)}")
    if not available:
        return [], None, [_NO_CPUFREQ]
    wanted = [Setting("governor", path, governor) for path in available]
    # Under performance the kernel puts the EPP to performance as well: said and recorded here, so that it goes back with the governor.
    wanted += [
        Setting("epp (implied by governor)", path, "performance", also=("0",))
        for path in machine.policy_files("energy_performance_preference")
        if machine.holds_epp(os.path.dirname(path))
    ]
    return wanted, governor, []


def _loadable(machine):
    """Return the governors that the kernel loads when they are written: modules of its release. Self-governed drivers take none."""
    if machine.driver in SELF_GOVERNED:
        return []
    folder = f"/lib/modules/{machine.host.read('/proc/sys/kernel/osrelease')}/kernel/drivers/cpufreq"
    return [name[len("cpufreq_") :].split(".")[0] for name in machine.host.names(folder, "cpufreq_*.ko*")]


def _epp(machine, epp):
    files = machine.policy_files("energy_performance_preference")
    if epp.isdigit():
        if int(epp) > 255:
            raise SettingsError(f"epp {epp} is not a number from 0 (performance) to 255 (power)")
        also = tuple(name for name, numbers in EPP_NUMBERS.items() if int(epp) in numbers)
    else:
        also = {"performance": ("0",), "default": EPP_DEFAULT}.get(epp, ())
        offered = {name for path in files for name in (machine.host.read(os.path.dirname(path) + "/energy_performance_available_preferences") or "").split()}
        offered = sorted(offered or {"default", *EPP_NUMBERS})
        if epp not in offered:
            raise SettingsError(f"epp '{epp}' is not available: choose one of {', '.join(offered)} or a number from 0 to 255")
    if not files:
        return [], None, ["this host has no energy performance preference (EPP)" if machine.policies else _NO_CPUFREQ]
    free = [path for path in files if not machine.holds_epp(os.path.dirname(path))]
    held = len(files) - len(free)
    reasons = [f"{machine.driver} holds the EPP at performance under governor performance"] if held and epp not in ("performance", "0") else []
    # What the CPU started with has no name of its own when it is read: the kernel answers the preference it is equal to, whichever that is.
    wanted = [Setting("epp", path, epp, also=also, tolerant=epp == "default", hint="which is this CPU's default") for path in free]
    if held and not reasons:
        wanted += [Setting("epp", path, "performance", also=("0",)) for path in files if path not in free]
    return wanted, epp, reasons


def _epb(machine, epb):
    number = EPB_NAMES.get(epb, int(epb) if epb.isdigit() else 16)
    if number > 15:
        raise SettingsError(f"epb '{epb}' is neither a number from 0 (performance) to 15 (power) nor one of {', '.join(EPB_NAMES)}")
    paths = [f"{CPU}/cpu{cpu}/power/energy_perf_bias" for cpu in machine.cpus]
    wanted = [Setting("epb", path, str(number)) for path in paths if machine.host.read(path)]
    return wanted, str(number), [] if wanted else ["this host has no energy performance bias (EPB)"]


def _turbo(machine, turbo):
    host, no_turbo = machine.host, f"{CPU}/intel_pstate/no_turbo"
    if host.read(no_turbo):
        # Firmware that disables turbo takes the CPUID flag away: Intel SDM, volume 3, "Intel Turbo Boost Technology".
        flags = next((line.split() for line in (host.read("/proc/cpuinfo") or "").splitlines() if line.startswith("flags")), None)
        if turbo and host.read(no_turbo) == "1" and flags and "ida" not in flags:
            return [], None, ["the firmware has turbo disabled (CPU flag ida is missing): enable it in the BIOS setup"]
        hint = "the firmware may have turbo disabled: enable it in the BIOS setup"
        return [Setting("turbo", no_turbo, "0" if turbo else "1", hint=hint)], "1" if turbo else "0", []
    paths = [f"{CPU}/cpufreq/boost", *machine.policy_files("boost")]
    wanted = [Setting("turbo", path, "1" if turbo else "0") for path in paths if host.read(path)]
    return wanted, "1" if turbo else "0", [] if wanted else ["this host offers no control over turbo"]


def _frequency(option, name):
    """Return the function of a frequency limit."""

    def limit(machine, khz):
        files = machine.policy_files(name)
        ranges = {path: [machine.host.read_int(f"{os.path.dirname(path)}/cpuinfo_{end}_freq") for end in ("min", "max")] for path in files}
        known = [ends for ends in ranges.values() if None not in ends]
        if khz <= 0 or (known and not min(low for low, _high in known) <= khz <= max(high for _low, high in known)):
            limits = f"from {min(low for low, _high in known)} to {max(high for _low, high in known)}" if known else "a positive number"
            raise SettingsError(f"{option} {khz} is not in this host's range of kHz: {limits}")
        wanted = [Setting(option, path, str(resolved_khz(machine.host, os.path.dirname(path), name, khz))) for path in ranges]
        return wanted, str(khz), [] if wanted else [_NO_CPUFREQ]

    return limit


def resolved_khz(host, policy, name, khz):
    """Return what the limit `name` (scaling_min_freq, scaling_max_freq) of `policy` becomes in kHz where `khz` is asked for.

    What is beyond the policy's own range is the end of that range: the cores of a hybrid differ. A driver with a table of frequencies has no limit
    between two of them: the kernel takes the one below for a maximum, and the one above for a minimum (cpufreq_set_policy in drivers/cpufreq/cpufreq.c).
    """
    low, high = (host.read_int(f"{policy}/cpuinfo_{end}_freq") for end in ("min", "max"))
    inside = khz if None in (low, high) else min(max(khz, low), high)
    tables = (host.read(f"{policy}/scaling_{kind}_frequencies") or "" for kind in ("available", "boost"))
    table = sorted(int(word) for text in tables for word in text.split() if word.isdigit())
    if name == "scaling_max_freq":
        return max((step for step in table if step <= inside), default=inside)
    return min((step for step in table if step >= inside), default=inside)


def _idle_states(machine):
    """Return [(path of the state, name, exit latency in µs or None)] of the online CPUs, and why there are none."""
    host, states = machine.host, []
    for cpu in machine.cpus:
        folder = f"{CPU}/cpu{cpu}/cpuidle"
        for number in host.numbered(folder, "state"):
            path = f"{folder}/state{number}"
            states.append((path, host.read(f"{path}/name"), host.read_int(f"{path}/latency")))
    if not states:
        return [], "this host has no idle states to choose (no cpuidle driver; in a VM, the hypervisor owns them)"
    if not any(host.read(f"{path}/disable") for path, _name, _latency in states):
        return [], "this kernel has no way to disable an idle state"
    return states, None


def _idle_states_disabled(machine, names):
    for name in names:
        if not name or name != name.strip() or "," in name or not name.isprintable():
            raise SettingsError(f"idle_states_disabled: '{name}' is not the name of an idle state (such as C6)")
    states, reason = _idle_states(machine)
    if reason:
        return [], None, [reason]
    here = list(dict.fromkeys(name for _path, name, _latency in states))
    unknown = [name for name in names if name not in here]
    reasons = [f"no CPU of this host has an idle state {', '.join(unknown)}: it has {', '.join(here)}"] if unknown else []
    known = [name for name in dict.fromkeys(names) if name in here]
    return _disabled(machine, "idle_states_disabled", [path for path, name, _latency in states if name in known]), ",".join(known), reasons


def _max_exit_latency(machine, limit):
    if limit < 0:
        raise SettingsError(f"max_exit_latency_us {limit} is negative: give the longest exit latency that a state may have, in µs")
    states, reason = _idle_states(machine)
    if reason:
        return [], None, [reason]
    slow = [path for path, _name, latency in states if latency is not None and latency > limit]
    return _disabled(machine, "max_exit_latency_us", slow), str(limit), []


def _disabled(machine, option, states):
    """Disable these states and leave all others alone: some are off by the kernel's own choice (default_status)."""
    paths = [f"{path}/disable" for path in states]
    return [Setting(option, path, "1") for path in paths if machine.host.read(path)]


_OPTIONS = {
    "governor": _governor,
    "epp": _epp,
    "epb": _epb,
    "turbo": _turbo,
    "max_frequency_khz": _frequency("max_frequency_khz", "scaling_max_freq"),
    "min_frequency_khz": _frequency("min_frequency_khz", "scaling_min_freq"),
    "idle_states_disabled": _idle_states_disabled,
    "max_exit_latency_us": _max_exit_latency,
}


def _tuners(host, mode, stopped_before):
    """Return the tuners that are to be stopped. Raises SettingsError for one that is in the way."""
    if mode == "ignore":
        return ()
    if mode == "disable":
        return TUNERS
    active = [name for name in host.unit_states(TUNERS) if name not in stopped_before]
    if active:
        raise SettingsError(
            f"{', '.join(active)} runs or starts at boot on this host and sets the same values: let it be stopped with conflicting_tuners: disable "
            "(state: absent starts it again), or leave it with conflicting_tuners: ignore"
        )
    return tuple(stopped_before)


def _files(boot):
    """Return the files that set `boot`, {option: text}, at every start of the host."""
    conf = "# Written by ainode.cpu.cpu_power, read by ainode-cpu-power.service.\n" + "".join(f"{option}={text}\n" for option, text in boot.items())
    return {
        CONF: file(conf),
        SCRIPT: file(_SCRIPT, 0o755),
        f"{UNITS}/{UNIT}": file(_UNIT),
        f"{UNITS}/multi-user.target.wants/{UNIT}": link(f"../{UNIT}"),
    }
