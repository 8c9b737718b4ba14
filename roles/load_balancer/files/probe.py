# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge one thing about the load balancer on this node: probe.py ROW, a row of the audit (in_force, servers).

Asks HAProxy at its administrator's socket (management guide, "show stat").
"""

import csv
import re
import socket
import time

from unit_probe import Failed, main, read

SOCKET = "/run/ainode-load-balancer/admin.sock"
CONFIGURATION = "/etc/ainode/load-balancer/current.cfg"
# An instance that was found down is asked for as long again before it counts as down.
PATIENCE_S = 10
# A configuration carries its own digest.
DESCRIPTION = re.compile(r"^ +description (\S+)$", re.MULTILINE)


def ask(command):
    """Return what HAProxy answers to a command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(SOCKET)
        connection.sendall(command.encode() + b"\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def statistics():
    """Return a dictionary for each frontend, server and backend that HAProxy runs."""
    return list(csv.DictReader(ask("show stat").lstrip("# ").splitlines()))


def in_force():
    """HAProxy runs the configuration that the last run put into service."""
    wanted = DESCRIPTION.findall(read(CONFIGURATION))
    running = re.findall(r"^description: *(\S+)$", ask("show info"), re.MULTILINE)
    if running != wanted:
        raise Failed(
            f"HAProxy runs the configuration {''.join(running)}, not {''.join(wanted)} of {CONFIGURATION}: journalctl -u ainode-load-balancer says why"
        )
    return "pass", ", ".join(sorted(row["pxname"] for row in statistics() if row["svname"] == "FRONTEND")), ""


def servers():
    """Every instance behind the balancer answers HAProxy's checks; one that is busy may miss some."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        # gRPC has no checks of its own: its servers are as ready as their REST sides.
        rows = [row for row in statistics() if row["type"] == "2" and row["pxname"].endswith("-rest")]
        down = [f"{row['svname']} at {row['addr']} ({row['last_chk'] or row['status']})" for row in rows if not row["status"].startswith("UP")]
        if not down or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if down:
        raise Failed(f"{len(down)} of {len(rows)} instances do not answer: {', '.join(down)}")
    return "pass", f"{len(rows)} of {len(rows)} instances answer", ""


if __name__ == "__main__":
    rows = {row.__name__: row for row in (in_force, servers)}
    main(rows, lasting=rows)
