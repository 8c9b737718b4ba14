# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""systemd units of pinned services: one unit an instance of the placement, sandboxed, bound to its CPUs and memory nodes.

Source: systemd.exec(5), systemd.service(5), systemd.resource-control(5).
"""

from __future__ import annotations

import re

from ..host.host import UNITS

WANTS = UNITS + "/multi-user.target.wants"

# What a network service that computes needs of the kernel: its own files, its sockets, its threads, and nothing else.
# `systemd-analyze security` rates it 1.1 on systemd 252.
_SANDBOX = """\
CapabilityBoundingSet=
DevicePolicy=closed
KeyringMode=private
LockPersonality=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
UMask=0077
"""

# What a unit may use up. A core file would hold what clients asked for, and keys.
_LIMITED = ("LimitCORE", "MemoryHigh", "MemoryMax", "TasksMax")
_LIMITS = {"LimitCORE": "0", "TasksMax": "4096"}

# The line that names the data a service serves: the only one that may change without a restart.
_DATA_LINE = re.compile(r"^X-AinodeData=.*\n", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./%$-]+\Z")


class Service:
    """What all instances of one service have in common.

    `command` is an argument list; in each argument {name}, {index}, {port}, {cpus}, {threads} and {credentials}
    stand for the instance's own values, and {runtime} for a directory below /run that the unit then makes for it.
    Memory is bound as each instance says.
    """

    def __init__(
        self,
        name,
        description,
        command,
        *,
        port,
        notify=False,
        user="ainode",
        environment=None,
        credentials=None,
        writable=(),
        jit=False,
        loopback=True,
        limits=None,
        data="",
        start_timeout=90,
    ):
        self.name = name
        self.description = description
        self.command = command
        self.port = port
        self.notify = notify
        self.user = user
        self.environment = environment or {}
        self.credentials = credentials or {}
        self.writable = writable
        self.jit = jit
        self.loopback = loopback
        self.limits = {**_LIMITS, **{key: str(value) for key, value in (limits or {}).items()}}
        self.data = data
        self.start_timeout = start_timeout

    def unit_name(self, index):
        """Return the name of the unit of instance number `index`."""
        return f"ainode-{self.name}-{index}.service"

    def owns(self, file_name):
        """Return whether a unit file of this name is one of this service's instances, of this run or an earlier one."""
        return re.fullmatch(rf"ainode-{re.escape(self.name)}-\d+\.service", file_name) is not None

    def problems(self, count):
        """Return what is wrong with the options for `count` instances, as sentences."""
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            yield f"name '{self.name}' is no service name: use lower case letters, digits and hyphens, a letter first"
        if count and not (self.command and self.command[0].startswith("/")):
            yield f"command {self.command} does not begin with an absolute path"
        if self.port < 1 or self.port + max(count, 1) - 1 > 65535:
            yield f"port {self.port} with {count} instances leaves the range 1 to 65535"
        for key, path in self.credentials.items():
            if not (re.fullmatch(r"[A-Za-z0-9._-]+", key) and str(path).startswith("/")):
                yield f"credential '{key}: {path}' is not a plain name and an absolute path"
        for key, value in self.limits.items():
            if key not in _LIMITED:
                yield f"limit '{key}' is none of {', '.join(_LIMITED)}"
            elif not re.fullmatch(r"[0-9]+[KMGT%]?|infinity", value):
                yield f"limit '{key}: {value}' is neither a number (with K, M, G, T or % behind it) nor infinity"
        for key in self.environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                yield f"environment '{key}' is not a variable's name"
        if self.data and not self.notify:
            yield "data is given without notify: only a service that reloads on SIGHUP can change its data without a restart"

    def values(self, index, instance):
        """Return what the placeholders stand for in instance number `index`."""
        return {
            "name": instance["name"],
            "index": index,
            "port": self.port + index,
            "cpus": instance["cpus"],
            "threads": instance["threads"],
            "credentials": "%d",
            "runtime": f"/run/ainode-{self.name}-{index}",
        }

    def arguments(self, index, instance):
        """Return the argument list of one instance, % as systemd wants it; ValueError for a placeholder that does not exist."""
        values = self.values(index, instance)
        arguments = []
        for argument in self.command:
            if "\n" in argument or "\0" in argument:
                raise ValueError(f"the argument {argument!r} holds a line break or a NUL: systemd cannot run it")
            try:
                # The user's own % is literal; {credentials} becomes a specifier of systemd's.
                arguments.append(argument.replace("%", "%%").format_map(values))
            except (KeyError, IndexError, ValueError) as error:
                known = ", ".join("{" + key + "}" for key in values)
                raise ValueError(f"the argument '{argument}' has a placeholder that does not exist ({error}): use {known}") from None
        return arguments

    def unit(self, index, instance):
        """Return the text of the unit of instance number `index`, placed as `instance` (of the placement) says."""
        environment = {**instance.get("env", {}), **self.environment}
        lines = [
            "# Written by ainode.cpu; changes here are lost with the next run.",
            "[Unit]",
            f"Description={_escape(self.description)}, {instance['name']}",
            "After=network.target ainode-cpu-power.service",
            "StartLimitIntervalSec=0",
            f"X-AinodeData={self.data}",
            "",
            "[Service]",
            "Type=notify" if self.notify else "Type=exec",
            f"User={self.user}",
            f"Group={self.user}",
            "ExecStart=" + " ".join(_quote(argument.replace("$", "$$")) for argument in self.arguments(index, instance)),
        ]
        if self.notify:
            lines += ["ExecReload=/bin/kill -HUP $MAINPID", "WatchdogSec=30"]
        lines += [f"Environment={_quote(_escape(f'{key}={value}'))}" for key, value in sorted(environment.items())]
        lines += [f"LoadCredential={key}:{path}" for key, path in sorted(self.credentials.items())]
        if any("{runtime}" in argument for argument in self.command):
            lines += [f"RuntimeDirectory=ainode-{self.name}-{index}", "RuntimeDirectoryMode=0750"]
        lines += [f"TimeoutStartSec={self.start_timeout}", "TimeoutStopSec=60", "Restart=always", "RestartSec=2", f"CPUAffinity={instance['cpus']}"]
        if instance.get("memory_policy") and instance.get("memory_node") not in (None, ""):
            lines += [f"NUMAPolicy={instance['memory_policy']}", f"NUMAMask={instance['memory_node']}"]
        lines += [f"{key}={value}" for key, value in sorted(self.limits.items())]
        if self.writable:
            lines.append("ReadWritePaths=" + " ".join(_quote(path) for path in self.writable))
        if self.loopback:
            lines += ["IPAddressDeny=any", "IPAddressAllow=localhost"]
        if not self.jit:
            # What compiles at run time is an interpreter too, and those look into /proc/cpuinfo and /proc/meminfo.
            lines += ["MemoryDenyWriteExecute=yes", "ProcSubset=pid"]
        return "\n".join(lines) + "\n" + _SANDBOX + "\n[Install]\nWantedBy=multi-user.target\n"


def needed_action(before, after, active):
    """Return what a unit needs whose text was `before` (None: no unit) and is to be `after`: start, restart, reload or None."""
    if not active:
        return "start"
    if before is None or _DATA_LINE.sub("", before) != _DATA_LINE.sub("", after):
        return "restart"
    return "reload" if before != after else None


def _escape(text):
    return text.replace("%", "%%").replace("\n", " ")


def _quote(text):
    """Return `text` as one word of a systemd setting."""
    if _PLAIN.match(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
