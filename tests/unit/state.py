# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the state modules share: modules run in this process, trees compared, and a kernel with a will of its own."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import os
import re
import subprocess
from unittest import mock

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.ainode.cpu.plugins.module_utils.host.host import Host

# Every option of every state module, with values that differ from what a machine has by default.
EVERYTHING = {
    "cpu_power": {"governor": "performance", "turbo": False, "epb": "performance", "max_exit_latency_us": 2},
    "hugepages": {"pages": [{"size": "2M", "total": 7}]},
    "memory_policy": {
        "transparent_hugepage": "always",
        "thp_defrag": "never",
        "khugepaged_defrag": False,
        "numa_balancing": 0,
        "zone_reclaim_mode": 1,
        "swappiness": 11,
    },
}


def run(module, root, check=False, **options):
    """Run a module's main() on `root` and return its result, with the texts of its "warnings"; "failed" is in it when it failed."""
    answer, warnings = io.StringIO(), []
    arguments = {**options, "root": str(root), "_ansible_check_mode": check, "_ansible_diff": True}
    # Ansible keeps warnings for the whole process.
    warn = mock.patch.object(AnsibleModule, "warn", lambda self, text: warnings.append(text))
    with patch_module_args(arguments), warn, contextlib.redirect_stdout(answer), contextlib.suppress(SystemExit):
        importlib.import_module(f"ansible_collections.ainode.cpu.plugins.modules.{module}").main()
    return {**json.loads(answer.getvalue().splitlines()[-1]), "warnings": warnings}


def copied(machine, target):
    """Copy a machine to `target` and return it; without CPU caches and topology, half of its files, which no state module looks at."""
    target.mkdir(parents=True)
    out = subprocess.Popen(["tar", "-C", machine, "--exclude=cache", "--exclude=topology", "-cf", "-", "."], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-C", target, "-xf", "-"], stdin=out.stdout, check=True)
    assert out.wait() == 0
    return str(target)


_contents = {}


def tree(root):
    """Return all that is below `root`: {path: (mode, content or target of the link; None for a directory)}."""
    found, folders = {}, [str(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                content = None
                if entry.is_symlink():
                    content = os.readlink(entry.path)
                elif entry.is_dir():
                    folders.append(entry.path)
                else:
                    # A file is read once for each time it was written: the trees are large, and looked at often.
                    key = status.st_ino, status.st_dev, status.st_ctime_ns, status.st_size
                    if key not in _contents:
                        with open(entry.path, "rb") as stream:
                            _contents[key] = stream.read()
                    content = _contents[key]
                found[entry.path[len(str(root)) :]] = status.st_mode, content
    return found


def read(root, name):
    """Return the text of a file of a root, white space at its ends removed."""
    with open(f"{root}{name}", encoding="utf-8") as stream:
        return stream.read().strip()


def write(root, name, text):
    """Write a file of a root and the directories above it."""
    os.makedirs(os.path.dirname(f"{root}{name}"), exist_ok=True)
    with open(f"{root}{name}", "w", encoding="utf-8") as stream:
        stream.write(text)


class Kernel(Host):
    """A host whose files answer as the kernel's do. `log` has what was written, in order."""

    log = ()
    # Set by a test: firmware that locks turbo, the pages each node's memory has room for, the highest frequency that is taken.
    turbo_is_locked = False
    room = None
    ceiling_khz = None
    # As what the EPP that the CPU started with is read.
    default_epp = "balance_performance"

    def set_value(self, name, value):
        type(self).log = (*self.log, (name, value))
        folder, file = os.path.split(name)
        handler = getattr(self, f"_{file}", None)
        if handler:
            value = handler(folder, value)
        if value is not None:
            super().set_value(name, value)

    def _scaling_governor(self, policy, value):
        """intel_pstate in active mode: performance holds the EPP at performance, powersave brings the old one back."""
        epp, kept = f"{policy}/energy_performance_preference", f"{policy}/.epp"
        if self.exists(epp) and value == "performance" != self.read(f"{policy}/scaling_governor"):
            with open(self.path(kept), "w") as stream:
                stream.write(self.read(epp))
            super().set_value(epp, "performance")
        elif self.exists(kept) and value != "performance":
            super().set_value(epp, self.read(kept))
            os.unlink(self.path(kept))
        return value

    def _energy_performance_preference(self, policy, value):
        if self.read(f"{policy}/scaling_governor") == "performance" and value not in ("performance", "0"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        names = {"0": "performance", "128": "balance_performance", "192": "balance_power", "255": "power", "default": self.default_epp}
        return names.get(value, value)

    def _scaling_min_freq(self, policy, value):
        at_most = min(int(value), self.read_int(f"{policy}/scaling_max_freq"))
        return str(min((step for step in self._table(policy) if step >= at_most), default=at_most))

    def _scaling_max_freq(self, policy, value):
        if int(value) < self.read_int(f"{policy}/scaling_min_freq"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        at_most = min(int(value), self.ceiling_khz or int(value))
        return str(max((step for step in self._table(policy) if step <= at_most), default=at_most))

    def _table(self, policy):
        """A driver with a table of frequencies has limits at those alone."""
        return [int(word) for word in (self.read(f"{policy}/scaling_available_frequencies") or "").split()]

    def _no_turbo(self, _folder, value):
        if self.turbo_is_locked:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return value

    def _nr_hugepages(self, folder, value):
        """A node gives what its memory has room for; the host's own count is the sum."""
        node = re.search(r"/node(\d+)/", folder)
        given = min(int(value), self.room.get(int(node.group(1)) if node else None, 0)) if self.room is not None else int(value)
        change = given - self.read_int(f"{folder}/nr_hugepages")
        free = f"{folder}/free_hugepages"
        super().set_value(free, str(self.read_int(free) + change))
        return str(given)


class Broken(Host):
    """A host on which the write number `fails_at` (from 0) and all that follow fail, as if the run was killed there."""

    fails_at = 0
    writes = 0

    def _count(self):
        type(self).writes += 1
        if self.writes > self.fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def set_value(self, name, value):
        self._count()
        super().set_value(name, value)

    def put(self, name, state):
        self._count()
        super().put(name, state)

    def make_directory(self, name):
        self._count()
        super().make_directory(name)
