# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command, such as `make check`, for a caller with settings of their own for everything: hostile COMMAND...

umask 077, another locale, a directory for temporary files with a space in its name where nothing can be executed, a /tmp like it, and variables that make
Python, pip, Ansible, CMake and the compiler work otherwise.
"""

import os
import sys
import tempfile
from pathlib import Path

import lab

NOWHERE = "/dev/null/nowhere"  # not even root can make it
ENVIRONMENT = {
    "LANG": "C", "LC_ALL": "C",
    "CDPATH": "/", "CMAKE_GENERATOR": "none", "CXXFLAGS": "-Dint=broken",
    "PYTHONDONTWRITEBYTECODE": "1", "PYTHONOPTIMIZE": "2", "PYTHONPATH": NOWHERE, "PYTHONWARNINGS": "error", "PYTHONPYCACHEPREFIX": NOWHERE,
    "PIP_DRY_RUN": "1", "PIP_PREFIX": NOWHERE, "PIP_REQUIRE_VIRTUALENV": "1", "PIP_ROOT": NOWHERE, "PIP_TARGET": NOWHERE, "PIP_USER": "1",
    "ANSIBLE_COLLECTIONS_PATH": NOWHERE, "ANSIBLE_CONFIG": f"{NOWHERE}.cfg", "ANSIBLE_FORKS": "1", "ANSIBLE_GATHERING": "implicit",
    "ANSIBLE_INVENTORY": NOWHERE, "ANSIBLE_JINJA2_NATIVE": "true", "ANSIBLE_ROLES_PATH": NOWHERE, "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
}  # fmt: skip


def main():
    command = sys.argv[1:]
    if not command or command[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if command else 2
    lab.own_mounts()
    if lab.CHECKOUT.is_relative_to("/tmp"):
        print("tests/lab: /tmp stays as it is: the checkout with its programs is in it", file=sys.stderr)
    else:
        lab.run("mount", "--bind", "/tmp", "/tmp")
        lab.run("mount", "-o", "remount,bind,noexec", "/tmp")
    with tempfile.TemporaryDirectory() as directory:
        temporary = Path(directory, "with a space")
        temporary.mkdir(mode=0o700)
        lab.run("mount", "-t", "tmpfs", "-o", "mode=0700,noexec", "tmpfs", temporary)
        os.umask(0o077)
        try:
            return lab.run(*command, check=False, env={**os.environ, **ENVIRONMENT, "TMPDIR": str(temporary)}).returncode
        finally:
            lab.run("umount", "--lazy", temporary)


if __name__ == "__main__":
    lab.main(main)
