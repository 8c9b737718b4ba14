# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ACPI tables that give a QEMU guest real P-states and C-states, for the kernel's own acpi-cpufreq and acpi_idle drivers.

ACPI 6.5, section 8.4: _PCT and _PSS (performance control), _PSD (its domains), _CST (C-states). QEMU's `-device pc-testdev` answers
on I/O ports 0xE0-0xE3 with the byte last written, so a P-state that is written there reads back as the one in force.
"""

from __future__ import annotations

FREQUENCIES_MHZ = [3200, 2800, 2400, 2000, 1600, 1200, 800]
# (ACPI type, exit latency in µs). The idle governor never enters what takes seconds to leave: under emulation, C2 would only spin.
C_STATES = [(1, 2), (2, 10_000_000), (3, 20_000_000)]
LATCHES = 4


def source(cpus):
    """ASL source of an SSDT for `cpus` CPUs named as QEMU names them, each a frequency domain of its own; ValueError for more than four."""
    if not 1 <= cpus <= LATCHES:
        raise ValueError(f"{cpus} CPUs: pc-testdev has {LATCHES} latches, one a CPU")
    devices = [f"\\_SB.CPUS.C{cpu:03X}" for cpu in range(cpus)]
    return "\n".join(
        [
            'DefinitionBlock ("", "SSDT", 2, "AINODE", "LABCPU", 1) {',
            *(f"  External ({device}, DeviceObj)" for device in devices),
            *(_processor(device, 0xE0 + cpu, cpu) for cpu, device in enumerate(devices)),
            "}\n",
        ]
    )


def _processor(device, port, domain):
    register = f"ResourceTemplate () {{ Register (SystemIO, 8, 0, {port:#x}) }}"
    # frequency (MHz), power (mW), transition and bus master latency (µs), the value to write, the value then read
    states = [f"Package () {{ {mhz}, {mhz * 30}, 10, 10, {index}, {index} }}" for index, mhz in enumerate(FREQUENCIES_MHZ)]
    idle = [f"Package () {{ ResourceTemplate () {{ {_idle_register(kind)} }}, {kind}, {latency}, {1000 // kind} }}" for kind, latency in C_STATES]
    return "\n".join(
        [
            f"  Scope ({device}) {{",
            f"    Name (_PCT, Package () {{ {register}, {register} }})",
            f"    Name (_PSS, Package () {{ {', '.join(states)} }})",
            "    Name (_PPC, 0)",
            # five entries, revision 0, the domain, coordinated by software (0xFC), of one CPU
            f"    Name (_PSD, Package () {{ Package () {{ 5, 0, {domain}, 0xFC, 1 }} }})",
            f"    Name (_CST, Package () {{ {len(idle)}, {', '.join(idle)} }})",
            "  }",
        ]
    )


def _idle_register(kind):
    """C1 is the halt instruction (fixed hardware); the deeper states are entered by reading a port."""
    return "Register (FFixedHW, 0, 0, 0)" if kind == 1 else "Register (SystemIO, 8, 0, 0xE8)"
