# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small service for test_pinned_service.py: serves a file's content, reads it anew on SIGHUP, speaks sd_notify.

A file that says "not for PORT" is refused by the instance on that port: what it served before stays.
"""

import http.server
import os
import signal
import socket
import sys

port, path, readiness = int(sys.argv[1]), sys.argv[2], sys.argv[3]
content = b""


def load(*_):
    """Read the file that is served."""
    global content
    with open(path, "rb") as file:
        text = file.read()
    if text != b"not for %d" % port:
        content = text


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = self.path != "/ready" or readiness == "ready"
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(content)


load()
signal.signal(signal.SIGHUP, load)
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1\nWATCHDOG_USEC=0", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
server.serve_forever()
