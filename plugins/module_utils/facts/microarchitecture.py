# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Tables by CPU model: the microarchitecture, and how many 512-bit FMA units a core has.

Sources: the kernel's arch/x86/include/asm/intel-family.h and arch/x86/kernel/cpu/amd.c for x86 model numbers; Arm's and the vendors'
technical reference manuals for arm64 part numbers; for the FMA units Intel ARK ("# of AVX-512 FMA Units") and AMD's software
optimization guides, because no register tells them.
"""

from __future__ import annotations

import re

# Intel family 6 (and 15, 18, 19) by model. Where one number served several generations, _INTEL_BY_STEPPING tells them apart.
_INTEL = {
    6: {
        "Core": (15, 22),
        "Penryn": (23, 29),
        "Nehalem": (26, 30, 31, 46),
        "Westmere": (37, 44, 47),
        "Sandy Bridge": (42, 45),
        "Ivy Bridge": (58, 62),
        "Haswell": (60, 63, 69, 70),
        "Broadwell": (61, 71, 79, 86),
        "Skylake": (78, 94),
        "Kaby Lake": (142, 158),
        "Cannon Lake": (102,),
        "Comet Lake": (165, 166),
        "Ice Lake": (106, 108, 125, 126, 157),
        "Tiger Lake": (140, 141),
        "Rocket Lake": (167,),
        "Alder Lake": (151, 154),
        "Raptor Lake": (183, 186, 191),
        "Meteor Lake": (170, 172),
        "Arrow Lake": (181, 197, 198),
        "Lunar Lake": (189,),
        "Panther Lake": (204,),
        "Lakefield": (138,),
        "Sapphire Rapids": (143,),
        "Emerald Rapids": (207,),
        "Granite Rapids": (173, 174),
        "Sierra Forest": (175,),
        "Clearwater Forest": (221,),
        "Grand Ridge": (182,),
        "Knights Landing": (87,),
        "Knights Mill": (133,),
        "Bonnell": (28, 38, 39, 53, 54),
        "Silvermont": (55, 74, 77, 90, 93),
        "Airmont": (76, 117),
        "Goldmont": (92, 95),
        "Goldmont Plus": (122,),
        "Tremont": (134, 150, 156),
        "Gracemont": (190,),
    },
    15: {"NetBurst": (0, 1, 2, 3, 4, 6)},
    19: {"Diamond Rapids": (1,)},
}
_INTEL_BY_MODEL = {(family, model): title for family, titles in _INTEL.items() for title, models in titles.items() for model in models}
_INTEL_BY_STEPPING = {
    (6, 85): ((4, "Skylake"), (7, "Cascade Lake"), (11, "Cooper Lake")),
    # Stepping 11 and 12 are sold as Whiskey, Amber and Comet Lake.
    (6, 142): ((9, "Kaby Lake"), (10, "Coffee Lake"), (12, None)),
    (6, 158): ((9, "Kaby Lake"), (13, "Coffee Lake")),
}

# Icelake-Server of QEMU, versions 1 to 3, has the number of a Tremont, which has no AVX (target/i386/cpu.c).
_QEMU_ICE_LAKE = (6, 134)
# The models of hypervisors that stand for no processor: their numbers were somebody's once, and tell nothing.
_MADE_UP = re.compile(r"QEMU Virtual CPU|QEMU TCG CPU|Common (?:KVM|32-bit KVM) processor", re.I)

# AMD by family: (last model, name), ascending.
_AMD = {
    15: ((255, "K8"),),
    16: ((255, "K10"),),
    17: ((255, "K8"),),
    18: ((255, "K10"),),
    20: ((255, "Bobcat"),),
    21: ((1, "Bulldozer"), (47, "Piledriver"), (95, "Steamroller"), (127, "Excavator")),
    22: ((47, "Jaguar"), (63, "Puma")),
    23: ((7, "Zen"), (8, "Zen+"), (23, "Zen"), (24, "Zen+"), (47, "Zen"), (255, "Zen 2")),
    25: ((15, "Zen 3"), (31, "Zen 4"), (63, "Zen 3"), (79, "Zen 3+"), (95, "Zen 3"), (127, "Zen 4"), (159, None), (175, "Zen 4")),
    26: ((79, "Zen 5"), (95, "Zen 6"), (127, "Zen 5"), (175, "Zen 6"), (191, None), (207, "Zen 6")),
}

# arm64 by (implementer, part).
_ARM = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse N1",
    (0x41, 0xD40): "Neoverse V1",
    (0x41, 0xD49): "Neoverse N2",
    (0x41, 0xD4F): "Neoverse V2",
    (0x41, 0xD84): "Neoverse V3",
    (0x41, 0xD83): "Neoverse V3AE",
    (0x41, 0xD85): "Cortex-X925",
    (0x41, 0xD87): "Cortex-A725",
    (0x41, 0xD8E): "Neoverse N3",
    (0x41, 0xD4A): "Neoverse E1",
    (0x43, 0x0A1): "ThunderX",
    (0x43, 0x0AF): "ThunderX2",
    (0x46, 0x001): "A64FX",
    (0x48, 0xD01): "TaiShan v110",
    (0x48, 0xD02): "TaiShan v120",
    (0x50, 0x000): "X-Gene",
    (0xC0, 0xAC3): "Ampere-1",
    (0xC0, 0xAC4): "Ampere-1a",
    (0xC0, 0xAC5): "Ampere-1b",
    # Microsoft builds Arm's cores into Cobalt, NVIDIA into Grace (0x41) and its own into Vera.
    (0x6D, 0xD49): "Neoverse N2",
    (0x6D, 0xD84): "Neoverse V3",
    (0x4E, 0x010): "Olympus",
    (0x46, 0x003): "MONAKA",
    (0x61, 0x022): "Apple M1",
    (0x61, 0x023): "Apple M1",
}

# Cores that were built with one thread: a core with one thread says nothing of the firmware there.
WITHOUT_SMT = frozenset(
    (
        "Core",
        "Penryn",
        "Silvermont",
        "Airmont",
        "Goldmont",
        "Goldmont Plus",
        "Tremont",
        "Gracemont",
        "Sierra Forest",
        "Clearwater Forest",
        "Grand Ridge",
        "Lakefield",
        "Lunar Lake",
        "Arrow Lake",
        "Panther Lake",
        "K8",
        "K10",
        "Bobcat",
        "Jaguar",
        "Puma",
    )
)
# Built before turbo, or never with it: a CPU flag that is not there says nothing of the firmware.
WITHOUT_TURBO = frozenset(("NetBurst", "Core", "Penryn", "Bonnell", "K8", "Bobcat", "Jaguar"))
# Intel models whose firmware offers sub-NUMA clustering; Haswell and Broadwell call it Cluster-on-Die, Xeon Phi SNC-2 and SNC-4.
_WITH_SNC = frozenset((63, 79, 85, 87, 106, 133, 143, 173, 175, 207, 221))
# EPYC generations whose firmware offers nodes per socket. On Zen (Naples) each of the four dies is a node by its nature.
_WITH_NPS = frozenset(("Zen 2", "Zen 3", "Zen 4", "Zen 5", "Zen 6"))

_ARK = "Intel ARK, number of AVX-512 FMA units"


def name(facts, implementer=None, part=None):
    """Return the microarchitecture's name ("Ice Lake", "Zen 4", "Neoverse V1") of the CPU in `facts`, null where the tables do not know it.

    `facts` holds vendor, family, model, stepping, model_name and isa; `implementer` and `part` are arm64's.
    """
    if implementer is not None:
        return _ARM.get((implementer, part))
    vendor, family, model = facts["vendor"], facts["family"], facts["model"]
    if family is None or model is None or _MADE_UP.search(facts.get("model_name") or ""):
        return None
    if vendor == "GenuineIntel":
        if (family, model) == _QEMU_ICE_LAKE and "avx512f" in facts.get("isa", ()):
            return "Ice Lake"
        for last, title in _INTEL_BY_STEPPING.get((family, model), ()):
            if facts["stepping"] is not None and facts["stepping"] <= last:
                return title
        return _INTEL_BY_MODEL.get((family, model))
    if vendor == "AuthenticAMD":
        return next((title for last, title in _AMD.get(family, ()) if model <= last), None)
    if vendor == "HygonGenuine":
        return "Zen" if family == 24 else None
    return None


def sub_numa_kind(facts):
    """Return what this CPU's firmware calls splitting a socket into NUMA nodes, SNC or NPS; null where it has no such setting."""
    if facts["vendor"] == "GenuineIntel" and facts["family"] == 6 and facts["model"] in _WITH_SNC:
        return "SNC"
    desktop = re.search(r"Ryzen(?! Threadripper)|Athlon", facts["model_name"] or "")
    return "NPS" if facts["microarchitecture"] in _WITH_NPS and not desktop else None


def dies_that_are_nodes(facts, dies):
    """Return how many dies with memory of their own a socket has by its build; 0 where the socket is one node. `dies` is what the kernel counts."""
    vendor, family, model = facts["vendor"], facts["family"], facts["model"]
    if vendor == "GenuineIntel" and (family, model) == (6, 85) and (dies == 2 or re.search(r"Platinum 9\d{3}\b", facts["model_name"] or "")):
        return 2  # Cascade Lake-AP
    if (vendor == "AuthenticAMD" and family == 23 and model is not None and model <= 31) or vendor == "HygonGenuine":
        return 4  # Naples and its Threadrippers, Dhyana
    if vendor == "AuthenticAMD" and family in (16, 21):
        return 2  # Magny-Cours, Interlagos, Abu Dhabi
    return 0


def fma_units_512(facts, flags):
    """Return {value, source}: how many 512-bit FMA instructions a core can start a cycle: 2, 1, or null with why it is not known."""
    if not flags:
        return {"value": None, "source": "the CPU's instruction sets are not known"}
    if "avx512f" not in flags:
        return {"value": None, "source": "the CPU has no AVX-512"}
    title, model_name = facts["microarchitecture"], facts["model_name"] or ""
    if facts["vendor"] == "AuthenticAMD":
        return _amd_fma_units(facts, title)
    if (facts["family"], facts["model"]) == _QEMU_ICE_LAKE:
        return {"value": None, "source": "a CPU model of QEMU's: the processor beneath it may be any with these instructions"}
    if facts["vendor"] == "GenuineIntel":
        units = _intel_fma_units(facts, title, model_name)
        if units:
            return {"value": units[0], "source": units[1]}
    return {"value": None, "source": f"the table has no entry for '{model_name}'"}


def _amd_fma_units(facts, title):
    if title == "Zen 4":
        return {"value": 1, "source": "AMD 57647, Zen 4 software optimization guide: two 256-bit FMA pipes together start one 512-bit FMA a cycle"}
    if title == "Zen 5" and facts["model"] <= 31:
        return {"value": 2, "source": "AMD 58455, Zen 5 software optimization guide: two 512-bit FMA pipes in the server cores"}
    return {"value": None, "source": "AMD sells this core with 256-bit and with 512-bit data paths; the model number does not tell which"}


def _intel_fma_units(facts, title, model_name):
    """Return (units, source) or None."""
    if title in ("Sapphire Rapids", "Emerald Rapids", "Granite Rapids"):
        return 2, f"{_ARK}: all of {title} have 2"
    if title == "Ice Lake" and facts["model"] == 106:
        return 2, f"{_ARK}: all of Ice Lake-SP have 2"
    if title in ("Ice Lake", "Tiger Lake", "Rocket Lake", "Cannon Lake") and facts["model"] != 108:
        return 1, "Intel 64 and IA-32 optimization reference manual: client cores fuse port 0 and 1 into the one 512-bit FMA unit"
    if title in ("Knights Landing", "Knights Mill"):
        return 2, f"Intel Xeon Phi optimization manual: two 512-bit vector units a core in {title}"
    if facts["family"] == 6 and facts["model"] == 85:
        return _skylake_fma_units(title, model_name)
    return None


def _skylake_fma_units(title, model_name):
    """Skylake-SP, Cascade Lake and Cooper Lake: two units in Platinum, Gold 6xxx and Gold 5x22, one below."""
    xeon = re.search(r"\b(Platinum|Gold|Silver|Bronze)\b\D*(\d{4})", model_name)
    if not xeon:
        if re.search(r"\b(W-[23]\d{3}|i[79]-\d{4,5}X)", model_name):
            return 2, f"{_ARK}: all of Xeon W and Core X of {title} have 2"
        return None
    brand, number = xeon.group(1), xeon.group(2)
    if brand == "Platinum" or (brand == "Gold" and number[0] == "6"):
        return 2, f"{_ARK}: Platinum and Gold 6000 of {title} have 2"
    if brand == "Gold" and number in ("5122", "5222"):
        return 2, f"{_ARK}: Gold {number}"
    if title == "Cooper Lake":
        return 2, f"{_ARK}: all of {title} have 2"
    return 1, f"{_ARK}: Gold 5000 (but 5122 and 5222), Silver and Bronze of {title} have 1"
