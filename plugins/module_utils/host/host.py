# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A host that is written to: kernel files, files and links, directories, and systemd's units.

On a recorded machine the kernel's files are plain ones. There a write renders the value as the kernel would: it moves the brackets of
`always [madvise] never`, and leaves the white space around a value alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import subprocess

from .root import Root

_CHOSEN = re.compile(r"\[([^\]\s]+)\]")
_DRAFT = ".ainode-new"
UNITS = "/etc/systemd/system"


class SettingsError(ValueError):
    """The wanted state cannot be had; the message names the value, what was expected and what to do."""


def file(content, mode=0o644):
    """Return the state of a regular file."""
    return {"content": content, "mode": f"{mode:04o}"}


def link(target):
    """Return the state of a symbolic link."""
    return {"link": target}


def current(text):
    """Return the value that the text of a kernel file stands for: `madvise` of `always [madvise] never`; None for None."""
    chosen = _CHOSEN.search(text or "")
    return chosen.group(1) if chosen else text


def choices(text):
    """Return the values that a choice file such as `always [madvise] never` offers."""
    return text.replace("[", " ").replace("]", " ").split()


def rendered(text, value):
    """Return `text`, the content of a kernel file, as the kernel would show it after `value` was written.

    Raises OSError (EINVAL), as the kernel does, for a value that a choice file does not offer.
    """
    if _CHOSEN.search(text):
        if value not in choices(text):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return re.sub(r"(?<!\S)" + re.escape(value) + r"(?!\S)", f"[{value}]", _CHOSEN.sub(r"\1", text), count=1)
    return text.replace(text.strip(), value, 1) if text.strip() else value + "\n"


class Host(Root):
    """A Root that is written to. Every write to a host is one of these methods."""

    def has_systemd(self):
        """Return whether systemd runs this host, so that units can be stopped and started."""
        return self.is_live and self.is_dir("/run/systemd/system")

    def locked_because(self, name):
        """Return why nobody on this host may write the kernel file `name`, or None.

        Not being root is no such reason: that is an error of the play.
        """
        path = self.path(name)
        if not self.is_live or os.access(path, os.W_OK):
            return None
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return "it is mounted read-only: this is a container, and the setting belongs to the machine it runs on"
        if os.geteuid() != 0:
            return None
        if not os.stat(path).st_mode & 0o222:
            return "this kernel does not let it be changed"
        return "this container has no right to it: the setting belongs to the machine it runs on"

    def may_write(self, name):
        """Return whether this process may write the kernel file `name`."""
        return os.access(self.path(name), os.W_OK)

    def set_value(self, name, value):
        """Write `value` to the kernel file `name`. Raises OSError with the kernel's errno."""
        text = value + "\n" if self.is_live else rendered(self.read_bytes(name).decode("utf-8"), value)
        descriptor = os.open(self.path(name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def file_state(self, name):
        """Return the state of the file or link `name`, None where there is none."""
        try:
            status = os.lstat(self.path(name))
        except OSError:
            return None
        if stat.S_ISLNK(status.st_mode):
            return link(os.readlink(self.path(name)))
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(f"{name} is there and is no regular file: move it away")
        content = self.read_bytes(name)
        if content is None:
            raise SettingsError(f"{name} cannot be read: run as root (become)")
        return file(content.decode("utf-8", "surrogateescape"), stat.S_IMODE(status.st_mode))

    def put(self, name, state):
        """Bring the file `name` to `state`; None removes it. Another process sees the old file or the new one, never half of one."""
        path = self.path(name)
        if state is None:
            os.unlink(path)
            return
        self.remove_draft(name)
        draft = path + _DRAFT
        if "link" in state:
            os.symlink(state["link"], draft)
        else:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(state["content"].encode("utf-8", "surrogateescape"))
                stream.flush()
                os.fchmod(descriptor, int(state["mode"], 8))
                os.fsync(descriptor)
        os.rename(draft, path)

    def remove_draft(self, name):
        """Remove what a `put` that was killed may have left beside the file `name`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name) + _DRAFT)

    def make_directory(self, name):
        """Make the directory `name`, readable by all."""
        os.mkdir(self.path(name))
        os.chmod(self.path(name), 0o755)

    def remove_directory(self, name):
        """Remove the directory `name` if it is there and empty."""
        try:
            os.rmdir(self.path(name))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise

    def systemctl(self, *arguments):
        """Run systemctl and return its output. Raises SettingsError with what it said when it fails."""
        done = subprocess.run(("systemctl", "--no-ask-password", *arguments), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SettingsError(f"systemctl {' '.join(arguments)} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def unit_states(self, names):
        """Return {name: {"active", "enabled"}} of those of the systemd units `names` that run or start at boot."""
        if not names or not self.has_systemd():
            return {}
        states = {}
        for block in self.systemctl("show", "--property=Id,ActiveState,UnitFileState", *names).split("\n\n"):
            shown = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            state = {
                "active": shown.get("ActiveState") in ("active", "activating", "reloading"),
                "enabled": shown.get("UnitFileState") in ("enabled", "enabled-runtime", "generated", "alias", "linked"),
            }
            if any(state.values()):
                states[shown["Id"]] = state
        return states

    def rated_units(self, names):
        """Return {name: its exposure as `systemd-analyze security` rates it, 0 to 10} of those of the systemd units `names` that it rates."""
        if not names or not self.has_systemd():
            return {}
        try:
            said = subprocess.run(("systemd-analyze", "security", "--no-pager", *names), capture_output=True, text=True, check=False).stdout
        except OSError:
            return {}
        return {name: float(level) for name, level in re.findall(r"exposure level for (\S+): ([\d.]+)", said)}
