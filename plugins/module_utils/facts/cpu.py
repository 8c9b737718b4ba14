# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What the CPU is: its identity, its instruction sets, its INT8 path and its 512-bit FMA units.

Sources: /proc/cpuinfo, and for the hypervisor /sys/hypervisor, the DMI strings, the clock sources and the device tree.
"""

from __future__ import annotations

import re

from . import microarchitecture, smbios

# The kernel's names (arch/x86/include/asm/cpufeatures.h, arch/arm64/kernel/cpuinfo.c, …) of the instruction sets that AI kernels choose by.
_AI_FLAG_NAMES = (
    "sse2 pni ssse3 sse4_1 sse4_2 popcnt f16c fma avx avx2 bmi2 gfni avx_vnni avx_vnni_int8 avx_vnni_int16 avx_ifma avx_ne_convert "
    "avx512f avx512cd avx512bw avx512dq avx512vl avx512er avx512pf avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vpopcntdq "
    "avx512_4vnniw avx512_4fmaps avx512_bf16 avx512_fp16 avx512_vp2intersect amx_tile amx_int8 amx_bf16 amx_fp16 amx_complex "
    "asimd fphp asimdhp asimdfhm asimddp i8mm bf16 sve sve2 svei8mm svebf16 sme sme2 smei8i32 smei16i32 smef16f32 smeb16f32 "
    "neon vfpv4 vx vxd vxe vxe2 nnpa"
)
AI_FLAGS = frozenset(_AI_FLAG_NAMES.split())

# The levels of the x86-64 psABI (https://gitlab.com/x86-psABIs/x86-64-ABI), in the kernel's flag names: pni is SSE3, abm holds LZCNT.
_ISA_LEVELS = (
    ("x86-64-v1", "lm cmov cx8 fpu fxsr mmx syscall sse sse2"),
    ("x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)

# Best first. The flag names the path; an AMX path needs the tiles too.
_INT8_PATHS = (("amx_int8", {"amx_int8", "amx_tile"}), ("avx512_vnni", {"avx512_vnni"}), ("avx_vnni", {"avx_vnni"}), ("asimddp", {"asimddp"}))

# CPU implementers of arm64 (Arm's MIDR_EL1), in the words that lscpu uses.
_ARM_IMPLEMENTERS = {
    0x41: "ARM",
    0x42: "Broadcom",
    0x43: "Cavium",
    0x46: "FUJITSU",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x50: "APM",
    0x51: "Qualcomm",
    0x53: "Samsung",
    0x56: "Marvell",
    0x61: "Apple",
    0x69: "Intel",
    0x6D: "Microsoft",
    0x70: "Phytium",
    0xC0: "Ampere",
}

# Who writes what into the DMI strings of a virtual machine.
_DMI_VIRTUAL = (
    ("vmware", "VMware"),
    ("innotek", "Oracle"),
    ("virtualbox", "Oracle"),
    ("hvm domu", "Xen"),
    ("parallels", "Parallels"),
    ("bhyve", "bhyve"),
    ("bochs", "Bochs"),
    ("kvm", "KVM"),
    ("qemu", "KVM"),
    ("kubevirt", "KVM"),
    ("apple virtualization", "Apple"),
    ("microsoft corporation virtual machine", "Microsoft"),
    ("hetzner vserver", "KVM"),
)
# Who writes the same into virtual machines and into the bare-metal hosts it lets: the CPU's hypervisor flag, which only x86 has, or the
# firmware's word tells the two apart.
_DMI_EITHER = (
    ("microsoft", "Microsoft"),
    ("xen", "Xen"),
    ("amazon ec2", "KVM"),
    ("google", "KVM"),
    ("openstack", "KVM"),
    ("ovirt", "KVM"),
    ("rhev", "KVM"),
    ("digitalocean", "KVM"),
    ("alibaba cloud", "KVM"),
)
# What those who let both call their bare-metal types: c7g.metal, c4a-highmem-96-metal, ecs.ebmg8y.
_DMI_METAL = re.compile(r"\bmetal\b|\becs\.\w*ebm")
# PCI vendors of paravirtual devices.
_PCI_VIRTUAL = (("80ee", "Oracle"), ("15ad", "VMware"), ("5853", "Xen"))


class CpuInfo:
    """/proc/cpuinfo, read once. Every member is empty where the file is not there or is none of the kernel's forms."""

    def __init__(self, root):
        self.text = (root.read("/proc/cpuinfo") or "").replace("\0", "")
        #: The fields of the first CPU by their names ("model name"), as text. 32-bit Arm puts some into further paragraphs.
        self.first = {}
        for paragraph in re.split(r"\n\s*\n", self.text, maxsplit=3)[:3]:
            for line in paragraph.splitlines():
                key, colon, value = line.partition(":")
                if colon:
                    self.first.setdefault(key.strip(), value.strip())
        # Anchored at the line feed and not by ^: three times as fast over the megabyte that a large machine writes.
        lines = set(re.findall(r"\n(?:flags|Features|features)[ \t]*:(.*)", "\n" + self.text))
        #: The flags that every CPU has: a program is not told on which core type it runs.
        self.flags = frozenset(set.intersection(*[set(line.split()) for line in lines])) if lines else frozenset()

    def processors(self):
        """Return {cpu id: (physical id, core id)}, the two null where the architecture does not write them; online CPUs alone."""
        found = {}
        for paragraph in re.split(r"\n\s*\n", self.text):
            numbers = {}
            for key, value in re.findall(r"^(processor|cpu number|physical id|core id)[ \t]*:[ \t]*(\d{1,9})[ \t]*$", paragraph, re.M):
                # Some architectures write all CPUs into one paragraph.
                if key in ("processor", "cpu number"):
                    numbers = {}
                    found[int(value)] = numbers
                numbers[key] = int(value)
        if not found:
            # s390 lists its CPUs as "processor 0: version = …".
            found = {int(number): {} for number in re.findall(r"^processor (\d{1,9}):", self.text, re.M)}
        return {cpu: (numbers.get("physical id"), numbers.get("core id")) for cpu, numbers in found.items()}

    def number(self, name):
        """Return the field `name` of the first CPU as an int (decimal or 0x…), or None."""
        text = self.first.get(name, "")
        return int(text, 0) if re.match(r"(0|[1-9][0-9]{0,9}|0x[0-9a-fA-F]{1,8})\Z", text) else None


def read(root, info):
    """Return what /proc/cpuinfo tells of the CPU.

    Keys: architecture, vendor, model_name, family, model, stepping, microarchitecture, microcode, hypervisor, isa (sorted kernel flag
    names), isa_level, int8_path, fma_units_512 {value, source}. What the machine does not tell is null; isa is [] then.
    """
    architecture = _architecture(root, info)
    facts = {
        "architecture": architecture,
        "vendor": _vendor(info),
        # "cpu" is POWER's field, "model name" everybody else's.
        "model_name": info.first.get("model name") or info.first.get("cpu") or None,
        "family": info.number("cpu family"),
        "model": info.number("model"),
        "stepping": info.number("stepping"),
        "microcode": info.first.get("microcode") or root.read("/sys/devices/system/cpu/cpu0/microcode/version"),
        "hypervisor": _hypervisor(root, info),
        "isa": sorted(info.flags & AI_FLAGS),
        "isa_level": isa_level(info.flags),
        "int8_path": int8_path(info.flags, architecture),
    }
    facts["microarchitecture"] = microarchitecture.name(facts, info.number("CPU implementer"), info.number("CPU part"))
    facts["fma_units_512"] = microarchitecture.fma_units_512(facts, info.flags)
    return facts


def isa_level(flags):
    """Return the highest x86-64 level of the psABI that `flags` holds ("x86-64-v4"), null where it is not even the first."""
    level = None
    for name, needed in _ISA_LEVELS:
        if not flags.issuperset(needed.split()):
            break
        level = name
    return level


def int8_path(flags, architecture):
    """Return the best instruction set for INT8 dot products in `flags`, "none" where there is no such, null where it is not known."""
    if not flags:
        # POWER, RISC-V and others write no flags, and have none of these.
        return "none" if architecture and not architecture.startswith(("x86", "i686", "aarch64", "arm")) else None
    return next((path for path, needed in _INT8_PATHS if needed <= flags), "none")


def _architecture(root, info):
    told = root.read("/proc/sys/kernel/arch")
    if told:
        return told
    first = info.first
    if "flags" in first and "cpu family" in first:
        return "x86_64" if "lm" in info.flags else "i686"
    if "CPU implementer" in first or "Processor" in first:
        return "aarch64" if "asimd" in info.flags or "AArch64" in first.get("Processor", "") + first.get("CPU architecture", "") else "arm"
    if first.get("vendor_id") == "IBM/S390":
        return "s390x" if "zarch" in info.flags else "s390"
    version = root.read("/proc/version") or ""
    if "pvr" in first.get("revision", ""):
        return "ppc64le" if re.search("ppc64(le|el)", version) else "ppc64"
    if first.get("isa", "").startswith("rv"):
        return first["isa"][:4].replace("rv", "riscv")
    others = (("ia-64", "ia64"), ("loongson", "loongarch64"), ("sun4u", "sparc64"), ("sun4v", "sparc64"))
    return _named(others, " ".join(first.get(name, "").lower() for name in ("arch", "CPU Family", "type")))


def _vendor(info):
    implementer = info.number("CPU implementer")
    return info.first.get("vendor_id") or info.first.get("vendor") or _ARM_IMPLEMENTERS.get(implementer) or None


def _hypervisor(root, info):
    """Return who runs this machine ("KVM", "VMware", "Xen", "Microsoft", …), "unknown" when only the CPU flag tells, null on bare metal."""
    if info.first.get("vendor_id") == "User Mode Linux":
        return "UML"
    if root.read("/sys/hypervisor/type") == "xen" or root.is_dir("/proc/xen"):
        return "Xen"
    names = ("sys_vendor", "product_name", "board_vendor", "bios_vendor")
    dmi = " ".join(filter(None, (root.read("/sys/class/dmi/id/" + name) for name in names))).lower()
    told = _paravirtual(root) or _named(_DMI_VIRTUAL, dmi) or _pci(root)
    if told:
        return told
    said = _firmware_says_virtual(root)
    if "hypervisor" in info.flags or said:
        return _named(_DMI_EITHER, dmi) or "unknown"
    if said is None and "CPU implementer" in info.first and not _DMI_METAL.search(dmi):
        # An arm64 CPU has no such flag, and the firmware's table is readable by root alone: whom the machine names must do. Microsoft builds laptops.
        return _named([mark for mark in _DMI_EITHER if mark[0] != "microsoft"], dmi)
    return None


def _firmware_says_virtual(root):
    """Return whether SMBIOS describes a virtual machine (DSP0134, type 0, "BIOS Characteristics Extension Byte 2", bit 4); None where it is not read."""
    table = root.read_bytes("/sys/firmware/dmi/entries/0-0/raw") or root.read_bytes("/sys/firmware/dmi/tables/DMI") or b""
    body = next((body for kind, body, _strings in smbios.structures(table) if kind == 0), b"")
    return bool(body[0x13] & 0x10) if len(body) > 0x13 else None


def _named(marks, text):
    return next((hypervisor for mark, hypervisor in marks if mark in text), None)


def _paravirtual(root):
    """Return the hypervisor that gave this machine a clock, a device tree or a control program of its own."""
    clocks = root.read("/sys/devices/system/clocksource/clocksource0/available_clocksource") or ""
    tree = root.read("/proc/device-tree/hypervisor/compatible") or ""
    # The board that QEMU and cloud-hypervisor make up, and QEMU's POWER machine.
    board = root.read("/proc/device-tree/compatible") or ""
    told = (
        _named((("kvm-clock", "KVM"), ("hyperv_", "Microsoft")), clocks)
        or _named((("kvm", "KVM"), ("xen", "Xen"), ("vmware", "VMware"), ("microsoft,hyperv", "Microsoft")), tree)
        or _named((("dummy-virt", "KVM"), ("qemu,", "KVM")), board)
    )
    if told:
        return told
    if root.exists("/proc/device-tree/ibm,partition-name") and not root.exists("/proc/device-tree/chosen/qemu,graphic-width"):
        return "pHyp"
    sysinfo = root.read("/proc/sysinfo") or ""
    program = re.search(r"^VM00 Control Program:\s*(\S+)", sysinfo, re.M)
    if program:
        return "KVM" if program.group(1).startswith("KVM") else program.group(1)
    return "PR/SM" if re.search(r"^LPAR Name:", sysinfo, re.M) else None


def _pci(root):
    vendors = {line.split()[1][:4] for line in (root.read("/proc/bus/pci/devices") or "").splitlines() if len(line.split()) > 1}
    return next((hypervisor for vendor, hypervisor in _PCI_VIRTUAL if vendor in vendors), None)
