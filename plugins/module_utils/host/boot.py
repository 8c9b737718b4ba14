# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What the system's own configuration will set at the next boot, whoever wrote it.

Sources: sysctl.d(5) and tmpfiles.d(5), whose order of precedence is followed here; the kernel's command line
(https://docs.kernel.org/admin-guide/kernel-parameters.html); the kernel's build configuration, for what it starts with.
"""

from __future__ import annotations

import fnmatch
import shlex

# Highest first: a file hides those of the same name in the directories after it.
_SYSCTL_DIRS = ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"]
_TMPFILES_DIRS = ["/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d", "/lib/tmpfiles.d"]


class Boot:
    """The next boot of the system below a Root.

    `release` is the kernel's release (its build configuration is read), `cmdline` the command line it runs with, `systemd` whether
    systemd is the init: without it nothing applies tmpfiles.d and units.
    """

    def __init__(self, root, release, cmdline, systemd):
        self._root = root
        self._systemd = systemd
        self._sysctl = _sysctl(root, systemd)
        self._tmpfiles = _tmpfiles(root) if systemd else []
        self._release = release
        self._kernel_config = None
        self.cmdline = _split(cmdline or "")

    def file(self, path):
        """Return (value, source) that the boot writes to `path` in /proc/sys or /sys, or None when no configuration names it."""
        # systemd-tmpfiles runs after systemd-sysctl, line by line: the last one that fits the path is what stays.
        fitting = [(value, source) for name, value, source in self._tmpfiles if _fits(path, name)]
        if fitting:
            return fitting[-1]
        # systemd-sysctl lets the last line win, and a line with the whole name before any pattern.
        plain = [(value, source) for name, value, source in self._sysctl if name == path]
        pattern = [(value, source) for name, value, source in self._sysctl if name != path and _fits(path, name)]
        return (plain or pattern or [None])[-1]

    def parameter(self, name):
        """Return (value, source) of the last `name`=value on the kernel's command line, or None."""
        values = [value for key, value in self.cmdline if key == name]
        return (values[-1], f"kernel command line, {name}=") if values else None

    def kernel_option(self, name):
        """Return the value of CONFIG_`name` of the running kernel's build ("y", "n", text), or None where its configuration is not installed."""
        if self._kernel_config is None:
            text = self._root.read(f"/boot/config-{self._release}") or self._root.read(f"/usr/lib/modules/{self._release}/config") or ""
            self._kernel_config = dict(line[len("CONFIG_") :].split("=", 1) for line in text.splitlines() if line.startswith("CONFIG_") and "=" in line)
        if not self._kernel_config:
            return None
        return self._kernel_config.get(name, "n").strip('"')

    def unit_enabled(self, name):
        """Return whether systemd starts the unit `name` at boot: enabled means a link to it in some target's .wants or .requires."""
        if not self._systemd:
            return False
        for base in ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"):
            for directory in self._root.names(base, "*.wants") + self._root.names(base, "*.requires"):
                if name in self._root.names(f"{base}/{directory}"):
                    return True
        return False


def _fits(path, pattern):
    """Return whether the shell pattern matches `path`; as in glob(7), its * does not match a slash."""
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def _split(cmdline):
    """Return [(name, value)] of a kernel command line, in its order; the value of a bare word is ""."""
    try:
        words = shlex.split(cmdline)
    except ValueError:  # an odd quotation mark is nothing to the kernel
        words = cmdline.split()
    return [(name.replace("-", "_"), value) for name, _dummy, value in (word.partition("=") for word in words)]


def _conf_files(root, directories):
    """Return the paths of the *.conf files that count, in the order in which they are applied: by name, whatever the directory."""
    paths = {}
    for directory in directories:
        for name in root.names(directory, "*.conf"):
            paths.setdefault(name, f"{directory}/{name}")
    return [paths[name] for name in sorted(paths)]


def _sysctl(root, systemd):
    """Return [(path or pattern below /proc/sys, value, source)] in the order in which sysctl applies them."""
    files = _conf_files(root, _SYSCTL_DIRS)
    if not systemd:
        # systemd-sysctl does not read it; `sysctl --system`, which other inits call, reads it last.
        files.append("/etc/sysctl.conf")
    settings = []
    for path in files:
        for line in (root.read(path) or "").splitlines():
            line = line.strip()
            if not line or line[0] in "#;" or "=" not in line:
                continue
            name, value = (part.strip() for part in line.split("=", 1))
            settings.append(("/proc/sys/" + _sysctl_path(name.lstrip("-")), value, path))
    return settings


def _sysctl_path(name):
    """Return the path below /proc/sys of a sysctl name: the first separator decides whether dots or slashes separate."""
    separator = next((character for character in name if character in "./"), ".")
    return name if separator == "/" else name.translate(str.maketrans("./", "/."))


def _tmpfiles(root):
    """Return [(path or pattern, value, source)] of the lines of type w, in the order in which systemd-tmpfiles carries them out."""
    settings = {}
    for path in _conf_files(root, _TMPFILES_DIRS):
        for line in (root.read(path) or "").splitlines():
            # Six fields, then the argument with its spaces; a path may stand in quotation marks.
            fields = line.split(None, 6)
            if len(fields) == 7 and fields[0].startswith("w"):
                name, argument = fields[1].strip("\"'"), fields[6].replace("\\n", "").replace("%%", "%").strip()
                # Of two lines with the same path it takes the first and complains of the second.
                settings.setdefault(name, (name, argument, path))
    return list(settings.values())
