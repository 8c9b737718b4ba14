# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A system root: the place that /proc, /sys and /etc are read from.

"/" is this machine. Any other directory is a recorded machine: the same files, and nothing but them.
"""

from __future__ import annotations

import fnmatch
import os
import re

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class RootError(ValueError):
    """The directory given as a root is none."""


class Root:
    """Read files below one system root by their absolute names ("/sys/devices/system/cpu/online").

    A file that is not there, or that the kernel refuses to read, is None: a host that does not tell is normal.
    """

    def __init__(self, path="/"):
        """Raise RootError unless `path` is an absolute directory that holds proc/ or sys/."""
        if not os.path.isabs(path):
            raise RootError(f"root '{path}' is not an absolute path: give '/' for this machine or the directory of a recorded one")
        if not os.path.isdir(path):
            raise RootError(f"root '{path}' is not a directory: give '/' for this machine or the directory of a recorded one")
        if not any(os.path.isdir(os.path.join(path, name)) for name in ("proc", "sys")):
            raise RootError(f"root '{path}' is not a system root: it holds neither proc/ nor sys/")
        self.top = os.path.realpath(path)
        self.is_live = self.top == "/"
        self._prefix = "" if self.is_live else self.top

    def path(self, name):
        """Return where the file `name` of this root lies on the machine that runs this code."""
        return self._prefix + name

    def read_bytes(self, name):
        """Return the content of `name` unchanged, or None."""
        # os.read and not open(): a large machine has ten thousand of these files, and open() costs three times as much.
        try:
            descriptor = os.open(self._prefix + name, _FLAGS)
        except OSError:
            return None
        try:
            content = os.read(descriptor, 65536)
            # sysfs gives an attribute whole or by the page: what is shorter was all, and needs no second read to say so.
            if len(content) < 4096 and name.startswith("/sys/"):
                return content
            chunks = [content]
            while chunks[-1]:
                chunks.append(os.read(descriptor, 65536))
            return b"".join(chunks)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def read(self, name):
        """Return the text of `name` without white space around it, or None."""
        content = self.read_bytes(name)
        return None if content is None else content.decode("utf-8", "replace").strip()

    def read_int(self, name):
        """Return the decimal integer in `name`, or None where there is none (the kernel writes none of more than 64 bits)."""
        text = self.read(name)
        return int(text) if text and len(text) <= 20 and re.match(r"-?[0-9]+\Z", text) else None

    def names(self, name, pattern="*"):
        """Return the sorted names in the directory `name` that match the shell `pattern`; [] where there is no such directory."""
        try:
            entries = os.listdir(self._prefix + name)
        except OSError:
            return []
        return sorted(fnmatch.filter(entries, pattern))

    def numbered(self, name, prefix):
        """Return the sorted numbers N of the entries `prefix`N in the directory `name`: cpu0, cpu10 but not cpufreq."""
        return sorted(int(entry[len(prefix) :]) for entry in self.names(name, prefix + "[0-9]*") if entry[len(prefix) :].isdigit())

    def exists(self, name):
        """Return whether `name` is there, be it a file or a directory."""
        return os.path.exists(self._prefix + name)

    def is_dir(self, name):
        """Return whether `name` is a directory."""
        return os.path.isdir(self._prefix + name)

    def link(self, name):
        """Return the last component of what the symbolic link `name` points to (a driver's name, say), or None."""
        try:
            return os.path.basename(os.readlink(self._prefix + name))
        except OSError:
            return None

    def resolve(self, name):
        """Return the name within this root of what `name` is after all symbolic links, or None where it leads out of it or nowhere."""
        path = os.path.realpath(self._prefix + name)
        if not os.path.exists(path) or not path.startswith(self._prefix + "/"):
            return None
        return path[len(self._prefix) :]
