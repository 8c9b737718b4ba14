# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of machines from elsewhere than this collection: the table that test_recorded.py holds the facts against.

RECORDED are machines that other people recorded. Their rows are what lscpu (--sysroot), hwloc (--if fsroot) and the makers' data sheets tell.
OURS are five of our own machines (machines.py), one of each kind, for a checkout without recordings. Their rows are the makers' data sheets of the CPUs
and what the descriptions say of sockets, cores and nodes. A virtual machine's nodes are its hypervisor's: they tell nothing of sub-NUMA clustering.
"""

from __future__ import annotations

# Columns: sockets, cores, CPUs, threads a core; NUMA nodes with CPUs + without; nodes a socket; sub-NUMA; microarchitecture; INT8 path; 512-bit FMA units;
# x86-64 level; cpufreq driver; HWP; idle states.
OURS = {
    "xeon-8380-2s": (2, 80, 160, 2, "2+0", 1, False, "Ice Lake", "avx512_vnni", 2, "x86-64-v4", "intel_pstate", True, "POLL C1 C1E C6"),
    "epyc-nps4": (2, 64, 128, 2, "8+0", 4, True, "Zen 4", "avx512_vnni", 1, "x86-64-v4", "acpi-cpufreq", False, "POLL C1 C2"),
    "hybrid-laptop": (1, 12, 16, 2, "0+0", None, None, "Alder Lake", "avx_vnni", None, "x86-64-v3", "intel_pstate", True, "POLL C1E C6 C8 C10"),
    "container-quota-v2": (1, 8, 16, 2, "1+0", 1, None, "Cascade Lake", "avx512_vnni", 2, "x86-64-v4", None, False, ""),
    "cxl-memory": (2, 16, 32, 2, "2+1", 1, False, "Sapphire Rapids", "amx_int8", 2, "x86-64-v4", "intel_pstate", True, "POLL C1 C1E C6"),
}
RECORDED = {
    "hwloc-16amd64-4n4c-cgroup-distance-merge": (4, 16, 16, 1, "4+0", 1, False, "K10", "none", None, "x86-64-v1", None, False, ""),
    "hwloc-16amd64-8n2c": (8, 16, 16, 1, "8+0", 1, False, "K8", "none", None, "x86-64-v1", None, False, ""),
    "hwloc-16em64t-4s2c2t-offlines": (4, 7, 12, 2, "1+0", 1, False, "NetBurst", "none", None, "x86-64-v1", None, False, ""),
    "hwloc-2i386-2t-hugepagesizecount": (1, 1, 2, 2, "0+0", None, None, "NetBurst", "none", None, None, None, False, ""),
    "hwloc-32amd64-4s2n4c-cgroup2": (4, 32, 32, 1, "8+0", 2, False, "K10", "none", None, "x86-64-v1", "powernow-k8", False, ""),
    "hwloc-32em64t-2n8c+dax+nvme+mic+dimms": (2, 16, 16, 1, "2+0", 1, False, "Sandy Bridge", "none", None, "x86-64-v2", "acpi-cpufreq", False, "C0 C1 C2 C3"),
    "hwloc-64amd64-4s2n4ca2co": (4, 32, 64, 2, "8+0", 2, False, "Bulldozer", "none", None, "x86-64-v2", None, False, ""),
    "hwloc-fakeheteromemtiers": (1, 6, 6, 1, "3+4", 3, None, None, "none", None, "x86-64-v1", None, False, ""),
    "hwloc-memorysidecaches": (2, 40, 80, 2, "4+0", 2, True, "Cascade Lake", "avx512_vnni", 2, "x86-64-v4", None, False, ""),
    "hwloc-offline-cpu0-node0": (2, 17, 17, 1, "1+0", 1, False, "Haswell", "none", None, "x86-64-v3", None, False, ""),
    "lscpu-vmware_fpe": (2, 8, 16, 2, "4+0", 2, False, "Piledriver", "none", None, "x86-64-v2", "acpi-cpufreq", False, "POLL C1 C2"),
    "lscpu-x86_64-64cpu": (4, 32, 64, 2, "3+0", 1, False, "Nehalem", "none", None, "x86-64-v2", "acpi-cpufreq", False, "C0 NHM-C1 NHM-C3"),
    "lscpu-x86_64-dell_e4310": (1, 2, 4, 2, "1+0", 1, False, "Westmere", "none", None, "x86-64-v2", "acpi-cpufreq", False, "POLL NHM-C1 NHM-C3 NHM-C6"),
    "pepc-adl0": (1, 12, 16, 2, "1+0", 1, False, "Alder Lake", "avx_vnni", None, "x86-64-v3", "intel_pstate", True, "POLL C1E C6 C8 C10"),
    "pepc-aml-y-2": (1, 2, 4, 2, "1+0", 1, False, None, "none", None, "x86-64-v3", "intel_pstate", True, "POLL C1 C1E C3 C6 C7s C8 C9 C10"),
    "pepc-arl-h-1": (1, 14, 14, 1, "1+0", 1, False, "Arrow Lake", "avx_vnni", None, "x86-64-v3", "intel_pstate", True, "POLL C1_ACPI C2_ACPI C3_ACPI"),
    "pepc-bdw0": (2, 44, 88, 2, "2+0", 1, False, "Broadwell", "none", None, "x86-64-v3", "intel_cpufreq", False, "POLL C1 C1E C3 C6"),
    "pepc-bdwde0": (1, 8, 16, 2, "1+0", 1, False, "Broadwell", "none", None, "x86-64-v3", "intel_cpufreq", False, "POLL C1 C1E C3 C6"),
    "pepc-bdwep0": (2, 44, 88, 2, "4+0", 2, True, "Broadwell", "none", None, "x86-64-v3", "intel_cpufreq", False, "POLL C1 C1E C3 C6"),
    "pepc-bdwup0": (1, 4, 8, 2, "1+0", 1, False, "Broadwell", "none", None, "x86-64-v3", "intel_cpufreq", False, "POLL C1 C1E C3 C6"),
    "pepc-cfl-u": (1, 4, 8, 2, "1+0", 1, False, "Coffee Lake", "none", None, "x86-64-v3", "intel_pstate", True, "POLL C1 C1E C3 C6 C7s C8 C9 C10"),
    "pepc-clx2s0": (2, 48, 96, 2, "2+0", 1, False, "Cascade Lake", "avx512_vnni", 2, "x86-64-v4", "intel_pstate", True, "POLL C1 C1E C6"),
    "pepc-cwf0": (2, 576, 576, 1, "6+0", 3, True, "Clearwater Forest", "avx_vnni", None, "x86-64-v3", "intel_pstate", True, ""),
    "pepc-dell-9360-kbl": (1, 2, 4, 2, "1+0", 1, False, "Kaby Lake", "none", None, "x86-64-v3", "intel_pstate", True, "POLL C1 C1E C3 C6 C7s C8 C9 C10"),
    "pepc-dnv0": (1, 12, 12, 1, "1+0", 1, False, "Goldmont", "none", None, "x86-64-v2", "acpi-cpufreq", False, "POLL C1 C1E C6"),
    "pepc-emr0": (2, 128, 256, 2, "2+0", 1, False, "Emerald Rapids", "amx_int8", 2, "x86-64-v4", "intel_pstate", True, "POLL C1 C1E C6"),
    "pepc-genoa0": (2, 64, 128, 2, "2+0", 1, False, "Zen 4", "avx512_vnni", 1, "x86-64-v4", "acpi-cpufreq", False, "POLL C1 C2"),
    "pepc-gnr0": (2, 256, 512, 2, "2+0", 1, False, "Granite Rapids", "amx_int8", 2, "x86-64-v4", "intel_pstate", True, "POLL C1 C1E C6 C6P"),
    "pepc-hswep0": (2, 28, 56, 2, "2+0", 1, False, "Haswell", "none", None, "x86-64-v3", "intel_cpufreq", False, "POLL C1 C1E C3 C6"),
    "pepc-icx2s0": (2, 72, 144, 2, "2+0", 1, False, "Ice Lake", "avx512_vnni", 2, "x86-64-v4", "intel_pstate", True, "POLL C1 C1E C6"),
    "pepc-icxd0": (1, 20, 40, 2, "1+0", 1, False, "Ice Lake", "avx512_vnni", None, "x86-64-v4", "acpi-cpufreq", False, "POLL C1 C1E C6"),
    "pepc-ivbep1": (2, 24, 48, 2, "2+0", 1, False, "Ivy Bridge", "none", None, "x86-64-v2", "intel_cpufreq", False, "POLL C1 C1E C3 C6"),
    "pepc-knl0": (1, 68, 272, 4, "1+1", 1, False, "Knights Landing", "none", 2, "x86-64-v3", "intel_cpufreq", False, "POLL C1 C6"),
    "pepc-lnl0": (1, 8, 8, 1, "1+0", 1, False, "Lunar Lake", "avx_vnni", None, "x86-64-v3", "intel_pstate", True, "POLL C1_ACPI C2_ACPI C3_ACPI"),
    "pepc-milan0": (2, 64, 128, 2, "2+0", 1, False, "Zen 3", "none", None, "x86-64-v3", "acpi-cpufreq", False, "POLL C1 C2"),
    "pepc-mtl-m-2": (1, 12, 14, 2, "1+0", 1, False, "Meteor Lake", "avx_vnni", None, "x86-64-v3", "intel_pstate", True, "POLL C1E C6 C10"),
    "pepc-ptl-h-4": (1, 10, 10, 1, "1+0", 1, False, "Panther Lake", "avx_vnni", None, "x86-64-v3", "intel_pstate", True, "POLL C1_ACPI C2_ACPI C3_ACPI"),
    "pepc-sklep0": (2, 52, 104, 2, "4+0", 2, True, "Skylake", "none", 2, "x86-64-v4", "intel_pstate", True, "POLL C1 C1E C6"),
    "pepc-snr0": (1, 24, 24, 1, "1+0", 1, False, "Tremont", "none", None, "x86-64-v2", "acpi-cpufreq", False, "POLL C1 C1E"),
    "pepc-spr1": (4, 160, 320, 2, "4+0", 1, False, "Sapphire Rapids", "amx_int8", 2, "x86-64-v4", "intel_pstate", True, "POLL C1 C1E C6"),
}
