# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command, such as `make test`, as on a CPU with AVX2 and neither AVX-512 nor VNNI: without_vnni COMMAND...

What reads /proc/cpuinfo finds no such flag, here and in the containers that the lab starts meanwhile; oneDNN, and with it OpenVINO, PyTorch and TensorFlow,
leaves these instructions alone (ONEDNN_MAX_CPU_ISA), and so does the search engine (VNNI_SEARCH_KERNEL). cpuid itself cannot be masked without a
hypervisor: what a program makes of that is seen under QEMU, in the engine's own tests and in the VM.
"""

import os
import re
import sys

import lab

ENVIRONMENT = {"ONEDNN_MAX_CPU_ISA": "AVX2", "VNNI_SEARCH_KERNEL": "avx2"}
HIDDEN = re.compile(r" (avx512|avx_vnni|amx|avx10)\w*")


def main():
    command = sys.argv[1:]
    if not command or command[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if command else 2
    lab.own_mounts()
    shown = lab.BUILD / "without-vnni"
    shown.parent.mkdir(parents=True, exist_ok=True)
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        shown.write_text(HIDDEN.sub("", cpuinfo.read()))
    lab.run("mount", "--bind", shown, "/proc/cpuinfo")
    return lab.run(*command, check=False, env={**os.environ, **ENVIRONMENT}).returncode


if __name__ == "__main__":
    lab.main(main)
