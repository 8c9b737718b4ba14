# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Memory: its size, huge pages, the kernel's policies, and the DIMMs and channels.

Sources: https://docs.kernel.org/admin-guide/mm/hugetlbpage.html, transhuge.html, https://docs.kernel.org/admin-guide/sysctl/vm.html, and DMTF DSP0134
(SMBIOS) for the DIMMs.
"""

from __future__ import annotations

import re
import struct

from . import smbios

_HUGEPAGES = "/sys/kernel/mm/hugepages"
_EDAC = "/sys/devices/system/edac/mc"
# What vendors write into a slot's two names. The socket may be missing; the channel is a letter or a number.
_SOCKET = r"(?:CPU|PROC|SOCKET|NODE|P|S)[ _-]?(?P<socket>\d)"
_CHANNEL_PATTERNS = (
    # "P0 CHANNEL A", "CPU1_MC2_CHANNEL_1", "P0_Node1_Channel2_Dimm0", "Controller1-ChannelA-DIMM0", "Channel-0"
    re.compile(
        rf"(?:{_SOCKET})?.*?(?:(?:MC|NODE|CONTROLLER|IMC)[ _-]?(?P<controller>\d))?[ _-]*(?:CHANNEL|CH)[ _-]?(?P<channel>[A-Z]|\d{{1,2}})(?![A-Z])", re.I
    ),
    # "CPU0_DIMM_A1", "P1-DIMMA2", "CPU1 DIMM B0". A channel has three slots at most: a higher number means that the letter is the CPU (Dell).
    re.compile(rf"{_SOCKET}[ _-]*DIMM[ _-]?(?P<channel>[A-Z])[0-3]$", re.I),
    # "DIMM_P0_A1", "DIMM P1 C0"
    re.compile(rf"DIMM[ _-]?{_SOCKET}[ _-]?(?P<channel>[A-Z])[0-3]$", re.I),
    # "DIMM_A1", "DIMMB2": the socket, if any, stands in the bank's name
    re.compile(r"^DIMM[ _-]?(?P<channel>[A-Z])[0-3]$", re.I),
)
# SMBIOS type 16, "Use": 3 is system memory. Type 17, "Memory Type" codes that are no DIMMs: flash, and 0x09 ROM.
_SYSTEM_MEMORY = 3
_NOT_RAM = (0x08, 0x09, 0x0A)


def read(root):
    """Return facts.memory: total_bytes, hugepage_sizes (bytes), transparent_hugepage, thp_defrag, numa_balancing, swappiness, zone_reclaim_mode,
    dimms [{slot, size_bytes, speed_mts, channel}], channels {populated, available, reason}.
    """
    total = re.search(r"^MemTotal:\s*(\d{1,18}) kB", root.read("/proc/meminfo") or "", re.M)
    dimms, channels = dimms_and_channels(root)
    return {
        "total_bytes": int(total.group(1)) * 1024 if total else None,
        "hugepage_sizes": [kilobytes * 1024 for kilobytes in hugepage_kilobytes(root, _HUGEPAGES)],
        "transparent_hugepage": selected(root.read("/sys/kernel/mm/transparent_hugepage/enabled")),
        "thp_defrag": selected(root.read("/sys/kernel/mm/transparent_hugepage/defrag")),
        "numa_balancing": root.read_int("/proc/sys/kernel/numa_balancing"),
        "swappiness": root.read_int("/proc/sys/vm/swappiness"),
        "zone_reclaim_mode": root.read_int("/proc/sys/vm/zone_reclaim_mode"),
        "dimms": dimms,
        "channels": channels,
    }


def hugepage_kilobytes(root, directory):
    """Return the sorted huge page sizes of a hugepages directory (the machine's or a node's), in kB as the kernel names them."""
    names = [re.match(r"hugepages-(\d{1,9})kB\Z", name) for name in root.names(directory)]
    return sorted(int(match.group(1)) for match in names if match)


def selected(text):
    """Return the word in brackets of "always [madvise] never", or None."""
    match = re.search(r"\[([^\]\s]+)\]", text or "")
    return match.group(1) if match else None


def dimms_and_channels(root):
    """Return (dimms, channels) from SMBIOS, else from EDAC. Empty slots count as channels that are there, but are no DIMMs."""
    slots = _smbios_slots(root)
    if slots is not None and not any(slot["size_bytes"] for slot in slots):
        slots = None
    if slots is None:
        slots = _edac_slots(root)
        if slots:
            populated = len({slot["channel"] for slot in slots})
            return slots, {"populated": populated, "available": None, "reason": "EDAC names no empty slot, and SMBIOS is not readable"}
        return [], {"populated": None, "available": None, "reason": _why_no_smbios(root)}
    dimms = [slot for slot in slots if slot["size_bytes"]]
    nameless = sorted({slot["slot"] or "?" for slot in slots if slot["channel"] is None})
    if nameless:
        # One name outside of the convention, and the others may mean something else by their letter too.
        dimms = [dict(slot, channel=None) for slot in dimms]
        reason = f"the slot names ({', '.join(nameless[:3])}{', …' if len(nameless) > 3 else ''}) do not tell the channel"
        return dimms, {"populated": None, "available": None, "reason": reason}
    return dimms, {"populated": len({slot["channel"] for slot in dimms}), "available": len({slot["channel"] for slot in slots}), "reason": None}


def channel(locator, bank):
    """Return the channel that a slot's device and bank locator name ("CPU0_A", "MC1_0", "B"), or None where they follow no known convention."""
    for text in (bank, locator, f"{bank} {locator}"):
        for pattern in _CHANNEL_PATTERNS:
            match = pattern.search(text.strip())
            if match:
                parts = match.groupdict()
                socket = parts.get("socket") or _socket(bank) or _socket(locator)
                controller = parts.get("controller")
                names = ["CPU" + socket if socket else "", "MC" + controller if controller else "", parts["channel"].upper()]
                return "_".join(name for name in names if name)
    return None


def _socket(text):
    match = re.search(_SOCKET, text, re.I)
    return match.group("socket") if match else None


def _smbios_slots(root):
    """Return the memory slots of the SMBIOS table as dimms with size_bytes 0 when empty; None when it cannot be read or tells none."""
    table = root.read_bytes("/sys/firmware/dmi/tables/DMI")
    if not table:
        # The same structures one by one: type 16 and 17, by their number.
        entries = [f"{kind}-{number}" for kind in (16, 17) for number in root.numbered("/sys/firmware/dmi/entries", f"{kind}-")]
        table = b"".join(root.read_bytes(f"/sys/firmware/dmi/entries/{entry}/raw") or b"" for entry in entries)
    slots, other_arrays = [], set()
    for kind, body, strings in smbios.structures(table):
        if kind == 16 and len(body) >= 6 and body[5] != _SYSTEM_MEMORY:
            other_arrays.add(struct.unpack_from("<H", body, 2)[0])
        elif kind == 17 and len(body) >= 0x15:
            slots.append((struct.unpack_from("<H", body, 4)[0], _slot(body, strings)))
    return [slot for array, slot in slots if array not in other_arrays and slot] or None


def _slot(body, strings):
    def text(offset):
        number = body[offset]
        return strings[number - 1] if 0 < number <= len(strings) else ""

    if body[0x12] in _NOT_RAM:
        return None
    size = struct.unpack_from("<H", body, 0x0C)[0]
    if size == 0x7FFF and len(body) >= 0x20:
        size_bytes = (struct.unpack_from("<I", body, 0x1C)[0] & 0x7FFFFFFF) << 20
    elif size == 0xFFFF:
        size_bytes = 0
    else:
        size_bytes = (size & 0x7FFF) << (10 if size & 0x8000 else 20)
    # The configured speed where the table is new enough, else the DIMM's own.
    speeds = [struct.unpack_from("<H", body, offset)[0] for offset in (0x20, 0x15) if len(body) >= offset + 2]
    speed = next((value for value in speeds if value not in (0, 0xFFFF)), None)
    return {"slot": text(0x10) or None, "size_bytes": size_bytes, "speed_mts": speed, "channel": channel(text(0x10), text(0x11))}


def _edac_slots(root):
    """Return the DIMMs that the memory controllers' drivers name (Documentation/ABI/testing/sysfs-devices-edac)."""
    slots = []
    for controller in root.numbered(_EDAC, "mc"):
        for number in root.numbered(f"{_EDAC}/mc{controller}", "dimm"):
            base = f"{_EDAC}/mc{controller}/dimm{number}"
            size, location = root.read_int(base + "/size"), re.search(r"channel (\d+)", root.read(base + "/dimm_location") or "")
            if size and size > 0:
                slots.append(
                    {
                        "slot": root.read(base + "/dimm_label") or None,
                        "size_bytes": size << 20,
                        "speed_mts": None,
                        "channel": f"MC{controller}_{location.group(1) if location else number}",
                    }
                )
    return slots


def _why_no_smbios(root):
    if root.exists("/sys/firmware/dmi/tables/DMI"):
        return "the SMBIOS table names no DIMMs" if root.read_bytes("/sys/firmware/dmi/tables/DMI") else "the SMBIOS table is readable by root alone"
    return "there is no SMBIOS table and no EDAC driver"
