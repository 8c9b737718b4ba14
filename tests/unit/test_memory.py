# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import struct

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts import memory
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root
from hypothesis import given
from hypothesis import strategies as st

GIB = 1 << 30


@pytest.fixture
def host(tmp_path):
    """A function that writes {file: content} as a root and returns what memory.read says of it."""

    def write(files):
        (tmp_path / "proc").mkdir(exist_ok=True)
        for name, content in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
        return memory.read(Root(str(tmp_path)))

    return write


def table(*slots):
    return {"/sys/firmware/dmi/tables/DMI": machines.smbios(slots)}


def test_the_guides_own_machine(described):
    facts = memory.read(Root(described("xeon-8380-2s")))
    dimms = facts.pop("dimms")
    assert facts == {
        "total_bytes": 1024 * GIB,
        "hugepage_sizes": [2 << 20, 1 << 30],
        "transparent_hugepage": "madvise",
        "thp_defrag": "madvise",
        "numa_balancing": 1,
        "swappiness": 60,
        "zone_reclaim_mode": 0,
        "channels": {"populated": 16, "available": 16, "reason": None},
    }
    assert dimms[:2] == [
        {"slot": "CPU0_DIMM_A1", "size_bytes": 64 * GIB, "speed_mts": 3200, "channel": "CPU0_A"},
        {"slot": "CPU0_DIMM_B1", "size_bytes": 64 * GIB, "speed_mts": 3200, "channel": "CPU0_B"},
    ]
    assert len(dimms) == 16


def test_nothing_told(host):
    assert host({}) == {
        "total_bytes": None,
        "hugepage_sizes": [],
        "transparent_hugepage": None,
        "thp_defrag": None,
        "numa_balancing": None,
        "swappiness": None,
        "zone_reclaim_mode": None,
        "dimms": [],
        "channels": {"populated": None, "available": None, "reason": "there is no SMBIOS table and no EDAC driver"},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[always] madvise never", "always"),
        ("always defer defer+madvise [madvise] never", "madvise"),
        ("always [defer+madvise] never", "defer+madvise"),
        ("always madvise never", None),
        ("[]", None),
        ("", None),
    ],
)
def test_selected(host, text, expected):
    assert host({"/sys/kernel/mm/transparent_hugepage/enabled": text})["transparent_hugepage"] == expected


def test_hugepage_sizes_of_arm(host):
    sizes = (64, 2048, 32768, 1048576)
    told = host({f"/sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages": 0 for size in sizes} | {"/sys/kernel/mm/hugepages/README": ""})
    assert told["hugepage_sizes"] == [size * 1024 for size in sizes]


# What boards really write: (device locator, bank locator) and the channel they mean.
@pytest.mark.parametrize(
    ("locator", "bank", "expected"),
    [
        ("CPU0_DIMM_A1", "NODE 0", "CPU0_A"),  # Intel
        ("P1-DIMMA2", "P0_Node0_Channel0_Dimm1", "CPU0_MC0_0"),  # Supermicro, both
        ("P2-DIMMC1", "Not Specified", "CPU2_C"),
        ("DIMM_P0_B0", "BANK 1", "CPU0_B"),  # Gigabyte
        ("DIMM 0", "P0 CHANNEL A", "CPU0_A"),  # AMD reference
        ("DIMM 1", "P1 CHANNEL L", "CPU1_L"),
        ("Controller1-ChannelB-DIMM0", "BANK 0", "MC1_B"),  # laptops
        ("ChannelA-DIMM0", "BANK 0", "A"),
        ("DIMM_A1", "NODE 1", "CPU1_A"),
        ("DIMMB2", "", "B"),
        ("A1", "Not Specified", None),  # Dell: the letter is the CPU
        ("DIMM_A5", "", None),
        ("PROC 1 DIMM 3", "", None),  # HPE
        ("DIMM 0", "", None),  # a virtual machine
        ("", "", None),
    ],
)
def test_channel(locator, bank, expected):
    assert memory.channel(locator, bank) == expected


def test_channels_half_filled(host):
    told = host(table(*[(f"P{cpu}-DIMM{channel}1", "", 32768 if channel in "ACEG" else 0, 2933) for cpu in (1, 2) for channel in "ABCDEFGH"]))
    assert told["channels"] == {"populated": 8, "available": 16, "reason": None}
    assert len(told["dimms"]) == 8
    assert told["dimms"][0] == {"slot": "P1-DIMMA1", "size_bytes": 32 * GIB, "speed_mts": 2933, "channel": "CPU1_A"}


def test_two_dimms_in_a_channel_are_one_channel(host):
    assert host(table(("P1-DIMMA1", "", 16384, 3200), ("P1-DIMMA2", "", 16384, 3200)))["channels"]["populated"] == 1


def test_one_slot_outside_of_the_convention_and_no_channel_is_known(host):
    """Dell's DIMM_A1 to A12 look like Supermicro's until A4: there the letter is the CPU."""
    told = host(table(*[(f"DIMM_A{number}", "", 4096 if number < 4 else 0, 1600) for number in range(1, 7)]))
    assert told["channels"] == {"populated": None, "available": None, "reason": "the slot names (DIMM_A4, DIMM_A5, DIMM_A6) do not tell the channel"}
    assert {dimm["channel"] for dimm in told["dimms"]} == {None}


def test_sizes(host):
    assert [dimm["size_bytes"] for dimm in host(table(("DIMM 0", "", 2048, 800), ("DIMM 1", "", 256 * 1024, 4800)))["dimms"]] == [2 * GIB, 256 * GIB]


def test_memory_that_is_not_the_systems(host):
    """Type 16 with another use (flash, cache), and slots of flash memory, are no DIMMs."""
    array = struct.pack("<BBHBBB", 16, 23, 0x1000, 3, 4, 3) + bytes(16) + b"\0\0"  # location, use 4: flash
    assert host({"/sys/firmware/dmi/tables/DMI": array + machines.smbios([("P1-DIMMA1", "", 8192, 3200)])})["dimms"] == []


def test_the_entries_when_the_table_is_not_there(host):
    whole = machines.smbios([("P1-DIMMA1", "", 8192, 3200)])
    told = host({"/sys/firmware/dmi/entries/17-0/raw": whole[: whole.index(b"\0\0", 60) + 2]})
    assert told["dimms"] == [{"slot": "P1-DIMMA1", "size_bytes": 8 * GIB, "speed_mts": 3200, "channel": "CPU1_A"}]


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_cut_table(host, cut):
    told = host({"/sys/firmware/dmi/tables/DMI": machines.smbios([("P1-DIMMA1", "", 8192, 3200)])[:cut]})
    assert isinstance(told["dimms"], list)
    assert told["channels"]["reason"] or told["dimms"]


@given(st.integers(0, 255), st.binary(max_size=120))
def test_any_bytes_are_read_as_a_table(length, content):
    """A slot whose length and offsets lie: whatever comes out, nothing is raised."""

    class Firmware(Root):
        def read_bytes(self, name):
            return bytes((17, length)) + content + b"\0\0" if name.endswith("/DMI") else None

    dimms, channels = memory.dimms_and_channels(Firmware("/"))
    assert all(isinstance(dimm["size_bytes"], int) for dimm in dimms)
    assert set(channels) == {"populated", "available", "reason"}


def test_a_table_that_is_empty_or_for_root_alone(host):
    assert host({"/sys/firmware/dmi/tables/DMI": b""})["channels"]["reason"] == "the SMBIOS table is readable by root alone"


def test_edac(host):
    files = {}
    for controller in (0, 1):
        for number in (0, 1):
            base = f"/sys/devices/system/edac/mc/mc{controller}/dimm{number}"
            files.update(
                {
                    base + "/size": 16384,
                    base + "/dimm_label": f"CPU_SrcID#0_MC#{controller}_Chan#{number}_DIMM#0",
                    base + "/dimm_location": f"channel {number} slot 0 ",
                }
            )
    told = host(files)
    assert told["channels"] == {"populated": 4, "available": None, "reason": "EDAC names no empty slot, and SMBIOS is not readable"}
    assert told["dimms"][3] == {"slot": "CPU_SrcID#0_MC#1_Chan#1_DIMM#0", "size_bytes": 16 * GIB, "speed_mts": None, "channel": "MC1_1"}
