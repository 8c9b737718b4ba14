# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of ansible_facts.ainode: which key has which type. Whatever a machine holds, gather() returns this shape and nothing else."""

from __future__ import annotations

INT, STR, BOOL = (int, None), (str, None), (bool, None)
CPULIST, NODE = STR, INT
ROW = {"value": STR, "reason": (str,)}
SHAPE = {
    "cpu": {
        "architecture": STR,
        "vendor": STR,
        "model_name": STR,
        "family": INT,
        "model": INT,
        "stepping": INT,
        "microarchitecture": STR,
        "microcode": STR,
        "hypervisor": STR,
        "sockets": INT,
        "physical_cores": INT,
        "logical_cpus": INT,
        "threads_per_core": INT,
        "online": CPULIST,
        "offline": CPULIST,
        "present": CPULIST,
        "isolated": CPULIST,
        "nohz_full": CPULIST,
        "smt": BOOL,
        "smt_control": STR,
        "cores": [{"socket": INT, "core": INT, "node": NODE, "cpus": (str,), "kind": ("performance", "efficiency", None)}],
        "caches": [{"level": (int,), "type": STR, "size_bytes": INT, "shared_by": [(str,)]}],
        "isa": [(str,)],
        "isa_level": ("x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4", None),
        "int8_path": ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "none", None),
        "fma_units_512": {"value": (1, 2, None), "source": (str,)},
        "usable": {"cpus": CPULIST, "count": INT, "limit": ("affinity", "cpuset", "quota", None), "cpuset": CPULIST},
    },
    "numa": {
        "nodes": [
            {
                "id": (int,),
                "cpus": (str,),
                "memory_bytes": INT,
                "distances": {str: (int,)},
                "kind": ("cpu", "memory"),
                "hugepages": {str: {"total": INT, "free": INT}},
            }
        ],
        "nodes_per_socket": INT,
        "sub_numa": {"enabled": BOOL, "kind": ("SNC", "NPS", None), "reason": (str,)},
        "persistent_memory": [{"name": (str,), "size_bytes": (int,), "numa_node": NODE}],
        "cxl": [{"name": (str,), "ram_bytes": INT, "pmem_bytes": INT, "numa_node": NODE}],
        "dax": [{"name": (str,), "size_bytes": INT, "numa_node": NODE, "target_node": NODE, "driver": STR}],
    },
    "power": {
        "driver": STR,
        "reason": STR,
        "hwp": BOOL,
        "governors": [(str,)],
        "governor": [(str,)],
        "epp": [(str,)],
        "epb": [(int,)],
        "turbo": {"available": BOOL, "enabled": BOOL},
        "min_khz": INT,
        "max_khz": INT,
        "base_khz": INT,
        "idle": {"driver": STR, "states": [{"name": (str,), "latency_us": INT, "residency_us": INT, "disabled": ("all", "none", "some", None)}]},
    },
    "memory": {
        "total_bytes": INT,
        "hugepage_sizes": [(int,)],
        "transparent_hugepage": STR,
        "thp_defrag": STR,
        "numa_balancing": INT,
        "swappiness": INT,
        "zone_reclaim_mode": INT,
        "dimms": [{"slot": STR, "size_bytes": (int,), "speed_mts": INT, "channel": STR}],
        "channels": {"populated": INT, "available": INT, "reason": STR},
    },
    "devices": {
        "nics": [{"name": (str,), "speed_mbps": INT, "numa_node": NODE, "driver": STR}],
        "disks": [{"name": (str,), "rotational": BOOL, "transport": STR, "numa_node": NODE, "size_bytes": INT}],
    },
    "firmware": {"hyper_threading": ROW, "sub_numa": ROW, "boot_performance_mode": ROW, "turbo": ROW, "hardware_pstates": ROW},
    "platform": {
        "virtualization": STR,
        "container": STR,
        "kernel": STR,
        "cmdline": STR,
        "distribution": {"id": STR, "version_id": STR, "pretty_name": STR},
        "conflicting_tuners": [(str,)],
        "init": ("systemd", None),
        "battery": BOOL,
        "sys_writable": (bool,),
    },
}


def check(value, shape=None, where="ainode"):
    """Assert that `value` has the shape: a dict its keys, a list its elements, a tuple one of its types or of its values. By default SHAPE."""
    shape = SHAPE if shape is None else shape
    if isinstance(shape, dict):
        assert isinstance(value, dict), f"{where} is {value!r}, not a dict"
        if str in shape:
            assert all(isinstance(key, str) for key in value), f"{where} has a key that is no text"
            shape = dict.fromkeys(value, shape[str])
        assert set(value) == set(shape), f"{where} has {sorted(value)}, not {sorted(shape)}"
        for key, inner in shape.items():
            check(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), f"{where} is {value!r}, not a list"
        for number, element in enumerate(value):
            check(element, shape[0], f"{where}[{number}]")
    else:
        types = tuple(item for item in shape if isinstance(item, type))
        fits = type(value) in types or any(value is item or (value == item and type(value) is type(item)) for item in shape if not isinstance(item, type))
        assert fits, f"{where} is {value!r}, not one of {shape}"
