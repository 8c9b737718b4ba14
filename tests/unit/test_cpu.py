# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts import cpu, microarchitecture
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root


def identity(root):
    root = Root(str(root))
    return cpu.read(root, cpu.CpuInfo(root))


@pytest.fixture
def host(tmp_path):
    """A function that writes {file: content} as a root and returns what cpu.read says of it."""

    def write(files):
        (tmp_path / "proc").mkdir(exist_ok=True)
        for name, content in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return identity(tmp_path)

    return write


def processor(flags="lm", vendor="GenuineIntel", family=6, model=106, stepping=6, name="Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz"):
    return machines.x86(vendor, family, model, stepping, name, flags)(machines.Cpu(0), 1, 1)


def test_the_guides_own_machine(described):
    facts = identity(described("xeon-8380-2s"))
    assert facts == {
        "architecture": "x86_64",
        "vendor": "GenuineIntel",
        "model_name": "Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz",
        "family": 6,
        "model": 106,
        "stepping": 6,
        "microarchitecture": "Ice Lake",
        "microcode": "0xd0003a5",
        "hypervisor": None,
        "isa_level": "x86-64-v4",
        "int8_path": "avx512_vnni",
        "isa": [
            "avx",
            "avx2",
            "avx512_bitalg",
            "avx512_vbmi2",
            "avx512_vnni",
            "avx512_vpopcntdq",
            "avx512bw",
            "avx512cd",
            "avx512dq",
            "avx512f",
            "avx512ifma",
            "avx512vbmi",
            "avx512vl",
            "bmi2",
            "f16c",
            "fma",
            "gfni",
            "pni",
            "popcnt",
            "sse2",
            "sse4_1",
            "sse4_2",
            "ssse3",
        ],
        "fma_units_512": {"value": 2, "source": "Intel ARK, number of AVX-512 FMA units: all of Ice Lake-SP have 2"},
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("epyc-nps4", ("x86_64", "AuthenticAMD", "Zen 4", None, "x86-64-v4", "avx512_vnni", 1)),
        ("cxl-memory", ("x86_64", "GenuineIntel", "Sapphire Rapids", None, "x86-64-v4", "amx_int8", 2)),
        ("hybrid-laptop", ("x86_64", "GenuineIntel", "Alder Lake", None, "x86-64-v3", "avx_vnni", None)),
        ("vm-without-cpufreq", ("x86_64", "GenuineIntel", "Cascade Lake", "KVM", "x86-64-v4", "avx512_vnni", 2)),
        ("sandbox-without-sys", ("x86_64", "GenuineIntel", "Cascade Lake", "unknown", "x86-64-v4", "avx512_vnni", 2)),
        ("sparse-nodes", ("x86_64", "GenuineIntel", "Nehalem", None, "x86-64-v2", "none", None)),
        ("arm-neoverse", ("aarch64", "ARM", "Neoverse V1", None, None, "asimddp", None)),
        ("s390x-books", ("s390x", "IBM/S390", None, None, None, "none", None)),
        ("ppc64-gpu-nodes", ("ppc64", None, None, None, None, "none", None)),
    ],
)
def test_described_machines(described, name, expected):
    facts = identity(described(name))
    keys = ("architecture", "vendor", "microarchitecture", "hypervisor", "isa_level", "int8_path")
    assert (*(facts[key] for key in keys), facts["fma_units_512"]["value"]) == expected


def test_without_cpuinfo(host):
    facts = host({})
    assert facts.pop("isa") == []
    assert facts.pop("fma_units_512") == {"value": None, "source": "the CPU's instruction sets are not known"}
    assert set(facts.values()) == {None}


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ("amx_int8 amx_tile avx512_vnni avx_vnni", "amx_int8"),
        ("amx_int8 avx512_vnni", "avx512_vnni"),  # a kernel that refused the tiles
        ("amx_tile avx_vnni avx512_vnni", "avx512_vnni"),
        ("avx_vnni avx2", "avx_vnni"),
        ("avx_vnni_int8 avx2", "none"),
        ("avx512f avx512bw avx2", "none"),  # INT8 without VNNI
        ("asimd asimddp i8mm", "asimddp"),
        ("asimd", "none"),
    ],
)
def test_int8_path(flags, path):
    assert cpu.int8_path(frozenset(flags.split()), "x86_64") == path


@pytest.mark.parametrize(
    ("missing", "level"),
    [
        (None, "x86-64-v4"),
        ("avx512vl", "x86-64-v3"),
        ("movbe", "x86-64-v2"),
        ("abm", "x86-64-v2"),
        ("xsave", "x86-64-v2"),
        ("sse4_2", "x86-64-v1"),
        ("pni", "x86-64-v1"),
        ("lm", None),
    ],
)
def test_isa_level(missing, level):
    flags = set(machines._V4.split())
    assert cpu.isa_level(flags - {missing}) == level


def test_flags_that_not_every_cpu_has(host):
    text = processor("lm avx2 avx512_vnni amx_int8 amx_tile") + "\n" + processor("lm avx2 avx_vnni")
    facts = host({"/proc/cpuinfo": text})
    assert facts["isa"] == ["avx2"]
    assert facts["int8_path"] == "none"


FLAG = {"/proc/cpuinfo": processor("lm hypervisor")}
METAL = {"/proc/cpuinfo": processor("lm")}
DMI = "/sys/class/dmi/id/"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (METAL, None),
        (FLAG, "unknown"),
        ({**FLAG, DMI + "sys_vendor": "Amazon EC2"}, "KVM"),
        ({**METAL, DMI + "sys_vendor": "Amazon EC2"}, None),  # c5.metal
        ({**FLAG, DMI + "sys_vendor": "Microsoft Corporation", DMI + "product_name": "Virtual Machine"}, "Microsoft"),
        ({**METAL, DMI + "sys_vendor": "Microsoft Corporation", DMI + "product_name": "Surface"}, None),
        ({**FLAG, DMI + "sys_vendor": "VMware, Inc."}, "VMware"),
        ({**METAL, DMI + "product_name": "VirtualBox"}, "Oracle"),  # hides its flag
        ({**FLAG, "/sys/hypervisor/type": "xen"}, "Xen"),
        ({**FLAG, "/sys/devices/system/clocksource/clocksource0/available_clocksource": "kvm-clock tsc acpi_pm"}, "KVM"),
        ({**FLAG, "/sys/devices/system/clocksource/clocksource0/available_clocksource": "hyperv_clocksource_tsc_page"}, "Microsoft"),
        ({**METAL, "/proc/bus/pci/devices": "0000\t80861237\t0\n0020\t80eecafe\t14\n"}, "Oracle"),
        ({"/proc/sysinfo": "VM00 Name: one\nVM00 Control Program: KVM/Linux\n"}, "KVM"),
        ({"/proc/sysinfo": "VM00 Control Program: z/VM    6.1.0\n"}, "z/VM"),
        ({"/proc/sysinfo": "LPAR Name:            P1\n"}, "PR/SM"),
        ({"/proc/device-tree/hypervisor/compatible": "linux,kvm\0"}, "KVM"),
        ({"/proc/device-tree/ibm,partition-name": "lpar1"}, "pHyp"),
    ],
)
def test_hypervisor(host, files, expected):
    assert host(files)["hypervisor"] == expected


ARM = {"/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"}


def named(vendor, product):
    return {**ARM, DMI + "sys_vendor": vendor, DMI + "product_name": product}


def firmware(virtual):
    """SMBIOS of type 0 alone, with or without its bit for a virtual machine; as the kernel gives each structure, and the whole table."""
    structure = bytes([0, 0x18, 0, 0, 1, 2, 0, 0, 3, 0, *bytes(8), 0, 0x10 if virtual else 0, 1, 0, 255, 255]) + b"x\0y\0z\0\0"
    return {"/sys/firmware/dmi/entries/0-0/raw": structure}, {"/sys/firmware/dmi/tables/DMI": structure}


@pytest.mark.parametrize("table", [0, 1])
@pytest.mark.parametrize(
    ("files", "virtual", "expected"),
    [
        (named("Amazon EC2", "c7g.4xlarge"), True, "KVM"),
        (named("Amazon EC2", "c7g.metal"), False, None),
        (named("Google", "Google Compute Engine"), True, "KVM"),
        (named("Google", "Google Compute Engine"), False, None),
        (named("Microsoft Corporation", "Virtual Machine"), True, "Microsoft"),
        (named("Nobody", "Whatever"), True, "unknown"),
        (named("Ampere(R)", "Mt. Jade"), False, None),
        ({**METAL, DMI + "sys_vendor": "Amazon EC2"}, True, "KVM"),  # an x86 CPU that hides its flag
    ],
)
def test_firmware_tells_a_virtual_machine_without_a_cpu_flag(host, table, files, virtual, expected):
    assert host({**files, **firmware(virtual)[table]})["hypervisor"] == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (named("Amazon EC2", "m8g.large"), "KVM"),
        (named("Amazon EC2", "m8g.metal-24xl"), None),
        (named("Microsoft Corporation", "Virtual Machine"), "Microsoft"),
        (named("Microsoft Corporation", "Surface Pro, 11th Edition"), None),
        (named("Alibaba Cloud", "Alibaba Cloud ECS"), "KVM"),
        (named("Hetzner", "vServer"), "KVM"),
        (named("QEMU", "KVM Virtual Machine"), "KVM"),
        (named("Apple Inc.", "Apple Virtualization Generic Platform"), "Apple"),
        (named("GIGABYTE", "R152-P30"), None),
        ({**ARM, "/proc/device-tree/compatible": "linux,dummy-virt\0"}, "KVM"),
        ({**ARM, "/proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"}, None),
    ],
)
def test_an_arm64_machine_whose_firmware_only_root_may_read(host, files, expected):
    assert host(files)["hypervisor"] == expected


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping", "expected"),
    [
        ("GenuineIntel", 6, 85, 4, "Skylake"),
        ("GenuineIntel", 6, 85, 7, "Cascade Lake"),
        ("GenuineIntel", 6, 85, 11, "Cooper Lake"),
        ("GenuineIntel", 6, 85, None, None),
        ("GenuineIntel", 6, 106, 6, "Ice Lake"),
        ("GenuineIntel", 6, 143, 8, "Sapphire Rapids"),
        ("GenuineIntel", 6, 207, 2, "Emerald Rapids"),
        ("GenuineIntel", 6, 173, 0, "Granite Rapids"),
        ("GenuineIntel", 6, 175, 3, "Sierra Forest"),
        ("GenuineIntel", 6, 999, 0, None),
        ("AuthenticAMD", 23, 1, 2, "Zen"),
        ("AuthenticAMD", 23, 49, 0, "Zen 2"),
        ("AuthenticAMD", 25, 1, 1, "Zen 3"),
        ("AuthenticAMD", 25, 17, 1, "Zen 4"),
        ("AuthenticAMD", 25, 0xA0, 2, "Zen 4"),
        ("AuthenticAMD", 26, 2, 1, "Zen 5"),
        ("AuthenticAMD", 99, 1, 1, None),
        ("HygonGenuine", 24, 1, 1, "Zen"),
        ("CentaurHauls", 6, 15, 1, None),
        (None, None, None, None, None),
    ],
)
def test_microarchitecture(vendor, family, model, stepping, expected):
    assert microarchitecture.name({"vendor": vendor, "family": family, "model": model, "stepping": stepping}) == expected


@pytest.mark.parametrize(
    ("vendor", "family", "model", "flags", "name", "expected"),
    [
        ("GenuineIntel", 6, 134, "avx512f avx512_vnni", "Intel Xeon Processor (Icelake)", "Ice Lake"),
        ("GenuineIntel", 6, 134, "sse4_2", "Intel Atom Processor (Snowridge, CLX)", "Tremont"),
        ("GenuineIntel", 15, 6, "", "Common KVM processor", None),
        ("AuthenticAMD", 15, 107, "", "QEMU Virtual CPU version 2.5+", None),
        ("AuthenticAMD", 15, 107, "avx2", "QEMU TCG CPU version 2.5+", None),
    ],
)
def test_numbers_that_a_hypervisor_made_up(host, vendor, family, model, flags, name, expected):
    text = f"processor: 0\nvendor_id: {vendor}\ncpu family: {family}\nmodel: {model}\nmodel name: {name}\nstepping: 0\nflags: lm hypervisor {flags}\n"
    facts = host({"/proc/cpuinfo": text})
    assert facts["microarchitecture"] == expected
    assert facts["fma_units_512"]["value"] is None


def intel(model, stepping, name):
    return ("GenuineIntel", 6, model, stepping, name)


@pytest.mark.parametrize(
    ("who", "units"),
    [
        (intel(85, 4, "Intel(R) Xeon(R) Platinum 8170M CPU @ 2.10GHz"), 2),
        (intel(85, 4, "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz"), 2),
        (intel(85, 4, "Intel(R) Xeon(R) Gold 5118 CPU @ 2.30GHz"), 1),
        (intel(85, 4, "Intel(R) Xeon(R) Gold 5122 CPU @ 3.60GHz"), 2),
        (intel(85, 7, "Intel(R) Xeon(R) Gold 5222 CPU @ 3.80GHz"), 2),
        (intel(85, 7, "Intel(R) Xeon(R) Gold 5218R CPU @ 2.10GHz"), 1),
        (intel(85, 7, "Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz"), 2),
        (intel(85, 7, "Intel(R) Xeon(R) Silver 4210 CPU @ 2.20GHz"), 1),
        (intel(85, 4, "Intel(R) Xeon(R) Bronze 3104 CPU @ 1.70GHz"), 1),
        (intel(85, 11, "Intel(R) Xeon(R) Gold 5318H CPU @ 2.50GHz"), 2),
        (intel(85, 7, "Intel(R) Xeon(R) W-2245 CPU @ 3.90GHz"), 2),
        (intel(85, 7, "Intel(R) Core(TM) i9-10980XE CPU @ 3.00GHz"), 2),
        (intel(85, 4, "Intel(R) Xeon(R) D-2183IT CPU @ 2.20GHz"), None),
        (intel(85, 4, "Intel Xeon Processor (Skylake, IBRS)"), None),  # what QEMU calls it
        (intel(106, 6, "Intel(R) Xeon(R) Silver 4309Y CPU @ 2.80GHz"), 2),
        (intel(108, 1, "Intel(R) Xeon(R) D-2796NT CPU @ 2.00GHz"), None),
        (intel(126, 5, "Intel(R) Core(TM) i7-1065G7 CPU @ 1.30GHz"), 1),
        (intel(143, 8, "Intel(R) Xeon(R) Platinum 8480+"), 2),
        (intel(173, 1, "Intel(R) Xeon(R) 6980P"), 2),
        (intel(87, 1, "Intel(R) Xeon Phi(TM) CPU 7250F @ 1.40GHz"), 2),
        (("AuthenticAMD", 25, 17, 1, "AMD EPYC 9354 32-Core Processor"), 1),
        (("AuthenticAMD", 26, 2, 1, "AMD EPYC 9755 128-Core Processor"), 2),
        (("AuthenticAMD", 26, 0x24, 0, "AMD Ryzen AI 9 HX 370"), None),
        (("CentaurHauls", 7, 91, 0, "VIA"), None),
    ],
)
def test_fma_units(host, who, units):
    vendor, family, model, stepping, name = who
    told = host({"/proc/cpuinfo": processor("lm avx512f", vendor, family, model, stepping, name)})["fma_units_512"]
    assert told["value"] == units
    assert told["source"]


def test_fma_units_without_avx512(host):
    assert host({"/proc/cpuinfo": processor("lm avx2")})["fma_units_512"] == {"value": None, "source": "the CPU has no AVX-512"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/sys/kernel/arch": "riscv64\n"}, "riscv64"),
        ({"/proc/cpuinfo": processor("fpu vme")}, "i686"),
        ({"/proc/cpuinfo": "processor\t: 0\nhart\t\t: 1\nisa\t\t: rv64imafdc\n"}, "riscv64"),
        ({"/proc/cpuinfo": machines.power(machines.Cpu(0), 1, 1), "/proc/version": "Linux version 5.4.0-ppc64le (gcc)"}, "ppc64le"),
        ({"/proc/cpuinfo": "Processor\t: ARMv7 Processor rev 1 (v7l)\n\nFeatures\t: swp half neon\nCPU implementer\t: 0x41\nCPU part\t: 0xc09\n"}, "arm"),
        ({"/proc/cpuinfo": "nonsense"}, None),
    ],
)
def test_architecture(host, files, expected):
    assert host(files)["architecture"] == expected
