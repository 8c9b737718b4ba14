# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines of our own, each described in a few lines and written out as the proc/, sys/ and etc/ of a system root.

    root = machines.build("xeon-8380-2s", tmp_path)

Every file is writable and as long as the kernel's own, so that a state module can be run against a machine. The numbers are
those of real products; the serial numbers and MAC addresses are not.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple


class Cpu(NamedTuple):
    """A logical CPU and where it sits. `core` is unique within (package, die) alone, as in the kernel."""

    id: int
    package: int = 0
    die: int = 0
    core: int = 0
    node: int | None = 0
    kind: str | None = None


def cpulist(ids):
    """Return the kernel's cpulist of `ids`. Written here again, so that the tests do not check the collection by itself."""
    ids, parts = sorted(ids), []
    for index, number in enumerate(ids):
        if index and number == ids[index - 1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if first != last else str(first) for first, last in parts)


def grid(sockets, cores, threads=1, nodes_per_socket=1, adjacent=False, nodes=None):
    """Return the Cpus of a regular machine: `cores` a socket, siblings numbered side by side or (x86's way) in a second half.

    `nodes` are the NUMA node ids in order, where they are not 0, 1, 2 …; `nodes_per_socket=0` is a kernel without NUMA.
    """
    cpus = []
    for socket in range(sockets):
        for core in range(cores):
            number = socket * cores + core
            node = None if not nodes_per_socket else socket * nodes_per_socket + core * nodes_per_socket // cores
            for thread in range(threads):
                identity = number * threads + thread if adjacent else number + thread * sockets * cores
                cpus.append(Cpu(identity, socket, 0, core, nodes[node] if nodes else node))
    return sorted(cpus)


# What /proc/cpuinfo says of a CPU model ----------------------------------------------------------------------------------------

_V3 = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat clflush mmx fxsr sse sse2 ht syscall nx pdpe1gb rdtscp lm constant_tsc pni "
    "pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm bmi1 avx2 bmi2 adx"
)
_V4 = _V3 + " avx512f avx512dq avx512cd avx512bw avx512vl"
_HWP = " ida arat epb hwp hwp_act_window hwp_epp hwp_pkg_req"


def x86(vendor, family, model, stepping, name, flags, microcode="0x1"):
    """Return the function that writes one CPU's paragraph of an x86 /proc/cpuinfo."""

    def paragraph(cpu, siblings, cores):
        return (
            f"processor\t: {cpu.id}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\nstepping\t: {stepping}\n"
            f"microcode\t: {microcode}\ncpu MHz\t\t: 2300.000\nphysical id\t: {cpu.package}\nsiblings\t: {siblings}\ncore id\t\t: {cpu.core}\n"
            f"cpu cores\t: {cores}\nflags\t\t: {flags}\n"
        )

    return paragraph


def arm(implementer, part, features):
    """Return the function that writes one CPU's paragraph of an arm64 /proc/cpuinfo, which tells no topology."""

    def paragraph(cpu, siblings, cores):
        return (
            f"processor\t: {cpu.id}\nBogoMIPS\t: 50.00\nFeatures\t: {features}\nCPU implementer\t: {implementer}\nCPU architecture: 8\n"
            f"CPU variant\t: 0x1\nCPU part\t: {part}\nCPU revision\t: 1\n"
        )

    return paragraph


def power(cpu, siblings, cores):
    """Write one CPU's paragraph of a ppc64 /proc/cpuinfo."""
    return f"processor\t: {cpu.id}\ncpu\t\t: POWER9, altivec supported\nclock\t\t: 3800.000000MHz\nrevision\t: 2.2 (pvr 004e 1202)\n"


XEON_8380 = x86(
    "GenuineIntel",
    6,
    106,
    6,
    "Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz",
    _V4 + _HWP + " avx512ifma avx512vbmi avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni avx512_bitalg avx512_vpopcntdq",
    "0xd0003a5",
)
XEON_8480 = x86(
    "GenuineIntel",
    6,
    143,
    8,
    "Intel(R) Xeon(R) Platinum 8480+",
    _V4 + _HWP + " avx_vnni avx512_bf16 avx512_vnni avx512_fp16 amx_bf16 amx_tile amx_int8",
    "0x2b000590",
)
XEON_6962P = x86(
    "GenuineIntel",
    6,
    173,
    1,
    "Intel(R) Xeon(R) 6962P",
    _V4 + _HWP + " avx_vnni avx512_bf16 avx512_vnni avx512_fp16 amx_bf16 amx_tile amx_int8 amx_fp16",
    "0x10003d0",
)
XEON_X7550 = x86(
    "GenuineIntel",
    6,
    46,
    6,
    "Intel(R) Xeon(R) CPU           X7550  @ 2.00GHz",
    "fpu vme de pse tsc msr cx8 cmov mmx fxsr sse sse2 ht syscall nx lm pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm ida epb",
    "0x9",
)
EPYC_9354 = x86(
    "AuthenticAMD",
    25,
    17,
    1,
    "AMD EPYC 9354 32-Core Processor",
    _V4 + " topoext cpb hw_pstate avx512ifma avx512_bf16 avx512vbmi avx512_vbmi2 gfni vaes avx512_vnni",
    "0xa101148",
)
CORE_1260P = x86(
    "GenuineIntel",
    6,
    154,
    3,
    "12th Gen Intel(R) Core(TM) i7-1260P",
    _V3 + _HWP + " avx_vnni gfni vaes vpclmulqdq",
    "0x430",
)
CLOUD_CASCADE_LAKE = x86(
    "GenuineIntel",
    6,
    85,
    7,
    "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz",
    _V4 + " hypervisor avx512_vnni",
    "0x5003707",
)
NEOVERSE_V1 = arm(
    "0x41",
    "0xd40",
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 sm4 asimddp sha512 "
    "sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg dcpodp svei8mm svebf16 i8mm bf16 dgh rng",
)
S390X_INFO = (
    "vendor_id       : IBM/S390\n# processors    : {count}\nbogomips per cpu: 3033.00\nmax thread id   : 1\n"
    "features\t: esan3 zarch stfle msa ldisp eimm dfp edat etf3eh highgprs te vx vxd vxe gs vxe2 vxp sort dflt sie\n"
)

# Idle states as (name, exit latency µs, target residency µs), caches as (index, level, type, KiB, threads of a core | package) -------

_ICX_IDLE = [("POLL", 0, 0), ("C1", 1, 1), ("C1E", 4, 4), ("C6", 170, 600)]
_SPR_IDLE = [("POLL", 0, 0), ("C1", 1, 1), ("C1E", 2, 4), ("C6", 290, 800)]
_ACPI_IDLE = [("POLL", 0, 0), ("C1", 1, 2), ("C2", 800, 1600)]
_ICX_CACHES = [(1, "Data", 48, "core"), (1, "Instruction", 32, "core"), (2, "Unified", 1280, "core"), (3, "Unified", 61440, "package")]
_ZEN_CACHES = [(1, "Data", 32, "core"), (1, "Instruction", 32, "core"), (2, "Unified", 1024, "core"), (3, "Unified", 32768, "node")]


def intel_pstate(min_khz, max_khz, base_khz, epp="balance_performance"):
    """Return the cpufreq files of a CPU under intel_pstate in active mode with HWP."""
    return {
        "scaling_driver": "intel_pstate",
        "scaling_available_governors": "performance powersave",
        "scaling_governor": "powersave",
        "cpuinfo_min_freq": min_khz,
        "cpuinfo_max_freq": max_khz,
        "scaling_min_freq": min_khz,
        "scaling_max_freq": max_khz,
        "base_frequency": base_khz,
        "energy_performance_available_preferences": "default performance balance_performance balance_power power",
        "energy_performance_preference": epp,
    }


def acpi_cpufreq(frequencies):
    """Return the cpufreq files of a CPU under acpi-cpufreq."""
    return {
        "scaling_driver": "acpi-cpufreq",
        "scaling_governor": "schedutil",
        "scaling_available_governors": "conservative ondemand userspace powersave performance schedutil",
        "scaling_available_frequencies": " ".join(str(khz) for khz in sorted(frequencies, reverse=True)),
        "cpuinfo_min_freq": min(frequencies),
        "cpuinfo_max_freq": max(frequencies),
        "scaling_min_freq": min(frequencies),
        "scaling_max_freq": max(frequencies),
    }


# Files that several machines have -----------------------------------------------------------------------------------------------

_PSTATE = {
    f"/sys/devices/system/cpu/intel_pstate/{name}": value
    for name, value in {"status": "active", "no_turbo": 0, "max_perf_pct": 100, "min_perf_pct": 22, "hwp_dynamic_boost": 0}.items()
}
_VM = {
    "/proc/sys/vm/swappiness": 60,
    "/proc/sys/vm/zone_reclaim_mode": 0,
    "/proc/sys/vm/nr_hugepages": 0,
    "/proc/sys/kernel/numa_balancing": 1,
    "/proc/sys/kernel/osrelease": "6.8.0-45-generic",
    "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "/sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never",
    "/proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/mapper/root ro quiet",
    "/etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.1 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian',
    "/proc/1/comm": "systemd",
    "/proc/1/cgroup": "0::/init.scope",
    "/run/systemd/system/": None,
}
_BARE_METAL = {"/sys/class/dmi/id/sys_vendor": "Intel Corporation", "/sys/class/dmi/id/product_name": "M50CYP2SB1U", "/sys/class/dmi/id/chassis_type": 23}
_KVM = {"/sys/class/dmi/id/sys_vendor": "QEMU", "/sys/class/dmi/id/product_name": "Standard PC (Q35 + ICH9, 2009)", "/sys/class/dmi/id/chassis_type": 1}


def pci(kind, name, address, driver, files, node=0):
    """Return the files of a device of class `kind` (net, block) with its driver and its PCI device's NUMA node; address is that device's path."""
    device = f"/sys/devices/pci0000:00/{address}"
    return {
        f"/sys/devices/pci0000:00/{address.split('/')[0]}/numa_node": node,
        f"{device}/driver": f"-> /sys/bus/drivers/{driver}",
        f"/sys/bus/drivers/{driver}/": None,
        f"/sys/class/{kind}/{name}": f"-> {device}/{kind}/{name}",
        f"{device}/{kind}/{name}/device": f"-> {device}",
        **{f"{device}/{kind}/{name}/{file}": value for file, value in files.items()},
    }


def nvme(name, address, node=0, gib=1788):
    """Return the files of an NVMe disk; its block device hangs below the controller, as in the kernel."""
    device, controller = f"/sys/devices/pci0000:00/{address}", name.rstrip("0123456789").rstrip("n")
    block = f"{device}/nvme/{controller}/{name}"
    return {
        f"{device}/numa_node": node,
        f"{device}/driver": "-> /sys/bus/pci/drivers/nvme",
        "/sys/bus/pci/drivers/nvme/": None,
        f"{device}/nvme/{controller}/device": f"-> {device}",
        f"{block}/device": f"-> {device}/nvme/{controller}",
        f"{block}/queue/rotational": 0,
        f"{block}/size": gib << 21,
        f"/sys/class/block/{name}": f"-> {block}",
        f"/sys/block/{name}": f"-> {block}",
    }


def nic(name, address, driver, speed, node=0):
    """Return the files of an Ethernet interface."""
    return pci("net", name, address, driver, {"speed": speed, "type": 1, "operstate": "up"}, node)


def smbios(dimms):
    """Return an SMBIOS table with a type 17 structure (memory device) for each (locator, bank, MiB, MT/s); 0 MiB is an empty slot."""
    table = b""
    for handle, (locator, bank, mib, speed) in enumerate(dimms, 0x1100):
        size, extended = (0x7FFF, mib) if mib >= 0x7FFF else (mib, 0)
        body = struct.pack("<HHHHHBBBBBHHBBBBBIHHHH", 0x1000, 0xFFFE, 72, 64, size, 9, 0, 1, 2, 0x1A, 0x80, speed, 3, 4, 5, 6, 2, extended, speed, *[1200] * 3)
        strings = "\0".join((locator, bank or "Not Specified", "Maker", "12345678", "Tag", "Part")) + "\0\0"
        table += struct.pack("<BBH", 17, 4 + len(body), handle) + body + strings.encode()
    return table + struct.pack("<BBH", 127, 4, 0xFFFF) + b"\0\0"


_DIMMS_8380 = [
    (f"CPU{cpu}_DIMM_{channel}{slot}", f"NODE {cpu}", 65536 if slot == 1 else 0, 3200) for cpu in (0, 1) for channel in "ABCDEFGH" for slot in (1, 2)
]


def machine(cpus, cpuinfo, memory_gib, **more):
    """Return a description: `memory_gib` is what each NUMA node has (or the whole machine's), the rest as in `write`."""
    return dict({"cpus": cpus, "cpuinfo": cpuinfo, "memory_gib": memory_gib}, **more)


MACHINES = {
    # The guide's own: two Xeon Platinum 8380, a DIMM in each of the sixteen channels, one NIC and one disk a socket.
    "xeon-8380-2s": machine(
        grid(2, 40, 2),
        XEON_8380,
        {0: 512, 1: 512},
        idle=_ICX_IDLE,
        cpufreq=intel_pstate(800000, 3400000, 2300000),
        epb=6,
        caches=_ICX_CACHES,
        files={
            **_PSTATE,
            **_BARE_METAL,
            "/sys/firmware/dmi/tables/DMI": smbios(_DIMMS_8380),
            "/sys/devices/system/cpu/smt/control": "on",
            "/sys/devices/system/cpu/smt/active": 1,
            **nic("ens1f0", "0000:31:00.0", "ice", 100000, 0),
            **nic("ens2f0", "0000:b1:00.0", "ice", 100000, 1),
            **nvme("nvme0n1", "0000:65:00.0", 0),
            **nvme("nvme1n1", "0000:ca:00.0", 1),
        },
    ),
    # The same generation with sub-NUMA clustering on: two nodes a socket, no tool but the topology tells it.
    "xeon-icelake-snc2": machine(
        grid(2, 8, 2, nodes_per_socket=2),
        XEON_8380,
        {0: 64, 1: 64, 2: 64, 3: 64},
        idle=_ICX_IDLE,
        cpufreq=intel_pstate(800000, 3400000, 2300000),
        epb=6,
        caches=_ICX_CACHES,
        files={**_PSTATE, **_BARE_METAL},
    ),
    # A cloud VM: the hypervisor owns frequency and idle states, so there is no cpufreq and no state to choose.
    "vm-without-cpufreq": machine(
        grid(1, 2, 2, adjacent=True),
        CLOUD_CASCADE_LAKE,
        {0: 15},
        files={
            **_KVM,
            **nic("ens3", "0000:00:03.0/virtio0", "virtio_net", -1, -1),
            "/sys/devices/system/cpu/smt/control": "on",
            **pci("block", "vda", "0000:00:04.0/virtio1", "virtio_blk", {"size": 40 << 21, "queue/rotational": 1}, -1),
        },
    ),
    # AMD Genoa with four nodes per socket (NPS4); the socket's other threads are numbered in the second half.
    "epyc-nps4": machine(
        grid(2, 32, 2, nodes_per_socket=4),
        EPYC_9354,
        dict.fromkeys(range(8), 96),
        idle=_ACPI_IDLE,
        idle_driver="acpi_idle",
        cpufreq=acpi_cpufreq([1500000, 2500000, 3250000]),
        caches=_ZEN_CACHES,
        files={"/sys/devices/system/cpu/cpufreq/boost": 1, "/sys/class/dmi/id/sys_vendor": "Supermicro", "/sys/devices/system/cpu/smt/control": "on"},
    ),
    # A hybrid laptop: four performance cores with two threads, eight efficiency cores with one, no NUMA, a battery.
    "hybrid-laptop": machine(
        [Cpu(cpu, core=cpu // 2 * 4, node=None, kind="core") for cpu in range(8)] + [Cpu(cpu, core=cpu + 8, node=None, kind="atom") for cpu in range(8, 16)],
        CORE_1260P,
        31,
        idle=[("POLL", 0, 0), ("C1E", 2, 4), ("C6", 220, 600), ("C8", 280, 800), ("C10", 680, 2000)],
        cpufreq=intel_pstate(400000, 4700000, 2100000),
        epb=6,
        files={
            **_PSTATE,
            "/sys/class/power_supply/BAT0/type": "Battery",
            "/sys/class/power_supply/BAT0/scope": "System",
            "/sys/class/dmi/id/chassis_type": 10,
            "/sys/class/dmi/id/sys_vendor": "LENOVO",
            "/sys/devices/system/cpu/smt/control": "on",
        },
    ),
    # An unprivileged container on a VM of 16 CPUs: cgroup v2 gives it 3.5 of them, the kubelet's slice above it 3.
    "container-quota-v2": machine(
        grid(1, 8, 2, adjacent=True),
        CLOUD_CASCADE_LAKE,
        {0: 62},
        files={
            **_KVM,
            "/proc/self/cgroup": "0::/kubepods.slice/pod1.slice/cri-1.scope",
            "/proc/1/comm": "python3",
            "/run/systemd/system/": False,
            "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw",
            "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu memory",
            "/sys/fs/cgroup/kubepods.slice/cpu.max": "max 100000",
            "/sys/fs/cgroup/kubepods.slice/pod1.slice/cpu.max": "300000 100000",
            "/sys/fs/cgroup/kubepods.slice/pod1.slice/cri-1.scope/cpu.max": "350000 100000",
            "/sys/fs/cgroup/kubepods.slice/pod1.slice/cri-1.scope/cpuset.cpus.effective": "0-15",
            "/.dockerenv": "",
        },
    ),
    # A container of the older kind: a cgroup v1 cpuset of five CPUs and no quota.
    "container-cpuset-v1": machine(
        grid(2, 8, 2),
        XEON_8380,
        {0: 64, 1: 64},
        idle=_ICX_IDLE,
        cpufreq=intel_pstate(800000, 3400000, 2300000),
        files={
            **_PSTATE,
            **_BARE_METAL,
            "/proc/self/cgroup": "5:cpuset:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc",
            "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
            "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
            "/sys/fs/cgroup/cpuset/cpuset.cpus": "0-31",
            "/sys/fs/cgroup/cpuset/docker/abc/cpuset.cpus": "2-5,18",
            "/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": -1,
            "/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": 100000,
        },
    ),
    # Node ids with gaps, as large Nehalem-EX machines have them.
    "sparse-nodes": machine(
        grid(3, 8, 2, nodes=[0, 2, 8]),
        XEON_X7550,
        {0: 32, 2: 32, 8: 32},
        idle=_ACPI_IDLE,
        idle_driver="acpi_idle",
        cpufreq=acpi_cpufreq([1064000, 1862000, 2001000]),
        files=_BARE_METAL,
    ),
    # Sapphire Rapids with a CXL expander: node 2 has memory and no CPU.
    "cxl-memory": machine(
        grid(2, 8, 2),
        XEON_8480,
        {0: 64, 1: 64, 2: 128},
        idle=_SPR_IDLE,
        cpufreq=intel_pstate(800000, 3800000, 2000000),
        epb=6,
        caches=_ICX_CACHES,
        files={
            **_PSTATE,
            **_BARE_METAL,
            "/sys/bus/cxl/devices/mem0": "-> /sys/devices/cxl/mem0",
            "/sys/devices/cxl/mem0/numa_node": 0,
            "/sys/devices/cxl/mem0/ram/size": "0x2000000000",
            "/sys/devices/cxl/mem0/pmem/size": "0x0",
            "/sys/bus/dax/devices/dax0.0": "-> /sys/devices/dax/dax0.0",
            "/sys/devices/dax/dax0.0/size": 128 << 30,
            "/sys/devices/dax/dax0.0/target_node": 2,
            "/sys/devices/dax/dax0.0/driver": "-> /sys/bus/dax/drivers/kmem",
            "/sys/bus/dax/drivers/kmem/": None,
        },
    ),
    # CPU 0 is offline, so is a sibling here and there, and all of node 1.
    "offline-cpus": machine(
        grid(2, 4, 2),
        XEON_8380,
        {0: 64, 1: 64},
        idle=_ICX_IDLE,
        cpufreq=intel_pstate(800000, 3400000, 2300000),
        epb=6,
        caches=_ICX_CACHES,
        offline=[0, 4, 5, 6, 7, 9, 12, 13, 14, 15],
        files={**_PSTATE, **_BARE_METAL},
    ),
    # Twelve nodes: four Granite Rapids sockets of three clusters (SNC3), which no digit can hold.
    "twelve-nodes": machine(
        grid(4, 12, 2, nodes_per_socket=3),
        XEON_6962P,
        dict.fromkeys(range(12), 32),
        idle=_SPR_IDLE,
        cpufreq=intel_pstate(800000, 3900000, 2700000),
        epb=6,
        files={**_PSTATE, **_BARE_METAL},
    ),
    # A server of Neoverse V1 cores: /proc/cpuinfo has features and no topology.
    "arm-neoverse": machine(
        grid(1, 32),
        NEOVERSE_V1,
        {0: 128},
        idle=[("WFI", 1, 1), ("cpu-sleep", 150, 400)],
        idle_driver="psci_idle",
        bare_topology=True,
        cpufreq={**acpi_cpufreq([1000000, 2600000]), "scaling_driver": "cppc_cpufreq", "scaling_governor": "performance"},
    ),
    # A mainframe partition: no x86 file at all, books above sockets.
    "s390x-books": machine(grid(2, 4, 2, nodes_per_socket=0, adjacent=True), S390X_INFO, 15, bare_topology=True, books=True),
    # POWER9 with GPUs: SMT4 side by side, core ids in fours, nodes 0 and 8, and GPU memory as nodes without CPUs.
    "ppc64-gpu-nodes": machine(
        [cpu._replace(core=cpu.id // 4 * 4) for cpu in grid(2, 4, 4, adjacent=True, nodes=[0, 8])],
        power,
        {0: 128, 8: 128, 254: 16, 255: 16},
        idle=[("snooze", 0, 0), ("stop0", 2, 20), ("stop4", 25, 1000)],
        idle_driver="powernv_idle",
        bare_topology=True,
        cpufreq={**acpi_cpufreq([2300000, 3800000]), "scaling_driver": "powernv-cpufreq"},
    ),
    # A sandbox that shows no /sys of its own: /proc/cpuinfo is all there is.
    "sandbox-without-sys": machine(grid(1, 2, 1, nodes_per_socket=0), CLOUD_CASCADE_LAKE, 4, sandbox=True),
}
NAMES = sorted(MACHINES)


def build(name, directory):
    """Write the machine `name` below `directory` and return its root, a path for the option `root` and for Root."""
    return write(Path(directory) / name, **MACHINES[name])


def write(
    root,
    cpus,
    cpuinfo,
    memory_gib,
    idle=(),
    idle_driver="intel_idle",
    cpufreq=None,
    epb=None,
    caches=(),
    offline=(),
    files=(),
    bare_topology=False,
    books=False,
    sandbox=False,
):
    """Write a described machine below the Path `root` and return it as a text."""
    online = [cpu for cpu in cpus if cpu.id not in offline]
    tree = {**_VM, "/proc/cpuinfo": _cpuinfo(cpuinfo, online), "/proc/meminfo": _meminfo("", _gib(memory_gib))}
    if sandbox:
        tree = {name: tree[name] for name in ("/proc/cpuinfo", "/proc/meminfo", "/proc/cmdline", "/etc/os-release")}
    else:
        tree.update(_system(cpus, online, memory_gib))
        for cpu in cpus:
            tree.update(_cpu(cpu, online, cpu.id in offline, idle, cpufreq, epb, caches, bare_topology, books))
        if idle:
            tree.update({"/sys/devices/system/cpu/cpuidle/current_driver": idle_driver, "/sys/devices/system/cpu/cpuidle/current_governor": "menu"})
        if isinstance(memory_gib, dict):
            tree.update(_nodes(cpus, online, memory_gib))
        tree.update(dict(files))
    _lay(Path(root), tree)
    return str(root)


def _lay(root, tree):
    """Write the files of `tree`: a name that ends in / is a directory (False: none), a value "-> /x" a relative link, else text or bytes."""
    made = set()
    for name, value in tree.items():
        path = root / name.strip("/")
        if value is False:
            continue
        parent = path if name.endswith("/") else path.parent
        if parent not in made:
            parent.mkdir(parents=True, exist_ok=True)
            made.add(parent)
        if name.endswith("/"):
            continue
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif str(value).startswith("-> "):
            path.symlink_to("../" * name.strip("/").count("/") + value[3:].lstrip("/"))
        else:
            path.write_text(f"{value}\n")


def _gib(memory):
    return sum(memory.values()) if isinstance(memory, dict) else memory


def _meminfo(prefix, gib):
    return f"{prefix}MemTotal:       {gib << 20} kB\n{prefix}MemFree:        {gib << 19} kB\n{prefix}HugePages_Total:       0\n{prefix}HugePages_Free:        0"


def _cpuinfo(cpuinfo, online):
    if isinstance(cpuinfo, str):
        return cpuinfo.format(count=len(online)) + "".join(f"processor {cpu.id}: version = FF,  identification = 0A1B2C,  machine = 8561\n" for cpu in online)
    return "\n".join(
        cpuinfo(cpu, sum(other.package == cpu.package for other in online), len({other.core for other in online if other.package == cpu.package}))
        for cpu in online
    )


def _system(cpus, online, memory_gib):
    """Return the files of the machine as a whole."""
    ids = [cpu.id for cpu in cpus]
    tree = {
        "/sys/devices/system/cpu/possible": cpulist(ids),
        "/sys/devices/system/cpu/present": cpulist(ids),
        "/sys/devices/system/cpu/online": cpulist(cpu.id for cpu in online),
        "/sys/devices/system/cpu/isolated": "",
        "/sys/devices/system/cpu/offline": cpulist(set(ids) - {cpu.id for cpu in online}),
    }
    for kind, name in (("core", "cpu_core"), ("atom", "cpu_atom")):
        if any(cpu.kind == kind for cpu in cpus):
            tree[f"/sys/devices/{name}/cpus"] = cpulist(cpu.id for cpu in online if cpu.kind == kind)
    for size in (2048, 1048576):
        for counter in ("nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages", "nr_overcommit_hugepages"):
            tree[f"/sys/kernel/mm/hugepages/hugepages-{size}kB/{counter}"] = 0
    return tree


def _nodes(cpus, online, memory_gib):
    """Return the files of the NUMA nodes: those with CPUs and those with memory alone."""
    base, nodes = "/sys/devices/system/node", sorted(memory_gib)
    tree = {
        f"{base}/online": cpulist(nodes),
        f"{base}/possible": cpulist(nodes),
        f"{base}/has_memory": cpulist(nodes),
        f"{base}/has_cpu": cpulist({cpu.node for cpu in online}),
    }
    package = {cpu.node: cpu.package for cpu in cpus}
    for node in nodes:
        near = {node: 10, **{other: 12 if package.get(other, other + 1000) == package.get(node) else 21 for other in nodes if other != node}}
        tree[f"{base}/node{node}/cpulist"] = cpulist(cpu.id for cpu in online if cpu.node == node)
        tree[f"{base}/node{node}/distance"] = " ".join(str(near[other]) for other in nodes)
        tree[f"{base}/node{node}/meminfo"] = _meminfo(f"Node {node} ", memory_gib[node])
        for size in (2048, 1048576):
            for counter in ("nr_hugepages", "free_hugepages", "surplus_hugepages"):
                tree[f"{base}/node{node}/hugepages/hugepages-{size}kB/{counter}"] = 0
    return tree


def _cpu(cpu, online, is_offline, idle, cpufreq, epb, caches, bare_topology, books):
    """Return the files of one CPU; an offline one keeps little but its directory."""
    base = f"/sys/devices/system/cpu/cpu{cpu.id}"
    tree = {f"{base}/online": int(not is_offline)}
    if is_offline:
        return tree
    groups = {
        "core": cpulist(other.id for other in online if (other.package, other.die, other.core) == (cpu.package, cpu.die, cpu.core)),
        "package": cpulist(other.id for other in online if other.package == cpu.package),
        "node": cpulist(other.id for other in online if other.node == cpu.node),
    }
    tree.update(
        {
            f"{base}/topology/core_id": cpu.core,
            f"{base}/topology/physical_package_id": cpu.package,
            f"{base}/topology/thread_siblings_list": groups["core"],
            f"{base}/topology/core_siblings_list": groups["package"],
        }
    )
    if not bare_topology:
        tree.update(
            {f"{base}/topology/die_id": cpu.die, f"{base}/topology/core_cpus_list": groups["core"], f"{base}/topology/package_cpus_list": groups["package"]}
        )
    if books:
        tree[f"{base}/topology/book_id"] = cpu.package
    if cpu.node is not None:
        tree[f"{base}/node{cpu.node}"] = f"-> /sys/devices/system/node/node{cpu.node}"
    for index, (level, kind, kib, shared) in enumerate(caches):
        tree.update(
            {
                f"{base}/cache/index{index}/{name}": value
                for name, value in {"level": level, "type": kind, "size": f"{kib}K", "shared_cpu_list": groups[shared]}.items()
            }
        )
    for index, (name, latency, residency) in enumerate(idle):
        tree.update(
            {
                f"{base}/cpuidle/state{index}/{file}": value
                for file, value in {"name": name, "desc": name, "latency": latency, "residency": residency, "disable": 0, "usage": 0, "time": 0}.items()
            }
        )
    if cpufreq:
        policy = f"/sys/devices/system/cpu/cpufreq/policy{cpu.id}"
        tree.update({f"{policy}/{name}": value for name, value in {**cpufreq, "affected_cpus": cpu.id, "related_cpus": cpu.id}.items()})
        tree[f"{base}/cpufreq"] = f"-> {policy}"
    if epb is not None:
        tree[f"{base}/power/energy_perf_bias"] = epb
    return tree
