# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge one thing about the load balancer on this node: probe.py ROW, a row of the audit (in_force, servers).

Prints {"verdict", "live", "reason"} as JSON. Asks HAProxy at its administrator's socket (management guide, "show stat").
"""

import csv
import json
import os
import re
import socket
import sys

SOCKET = "/run/ainode-load-balancer/admin.sock"
CONFIGURATION = "/etc/ainode/load-balancer/current.cfg"
# A configuration carries its own digest.
DESCRIPTION = re.compile(r"^ +description (\S+)$", re.MULTILINE)


class Failed(Exception):
    """The row's verdict is fail; the text says why."""


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
    with open(CONFIGURATION, encoding="utf-8") as file:
        wanted = DESCRIPTION.findall(file.read())
    running = re.findall(r"^description: *(\S+)$", ask("show info"), re.MULTILINE)
    if running != wanted:
        raise Failed(
            f"HAProxy runs the configuration {''.join(running)}, not {''.join(wanted)} of {CONFIGURATION}: journalctl -u ainode-load-balancer says why"
        )
    return "pass", ", ".join(sorted(row["pxname"] for row in statistics() if row["svname"] == "FRONTEND")), ""


def servers():
    """Every instance behind the balancer answers HAProxy's checks."""
    # gRPC has no checks of its own: its servers are as ready as their REST sides.
    rows = [row for row in statistics() if row["type"] == "2" and row["pxname"].endswith("-rest")]
    down = [f"{row['svname']} at {row['addr']} ({row['last_chk'] or row['status']})" for row in rows if not row["status"].startswith("UP")]
    if down:
        raise Failed(f"{len(down)} of {len(rows)} instances do not answer: {', '.join(down)}")
    return "pass", f"{len(rows)} of {len(rows)} instances answer", ""


ROWS = {function.__name__: function for function in (in_force, servers)}


def main():
    """Print the verdict of the row that is named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in ROWS:
        sys.exit(f"usage: probe.py {{{','.join(ROWS)}}}")
    if not os.path.isdir("/run/systemd/system"):
        verdict, live, reason = "not_applicable", None, "systemd does not run here, so no balancer keeps running"
    else:
        try:
            verdict, live, reason = ROWS[sys.argv[1]]()
        except (Failed, OSError, KeyError) as error:
            verdict, live, reason = "fail", None, str(error)
    print(json.dumps({"verdict": verdict, "live": live, "reason": reason}))


if __name__ == "__main__":
    main()
