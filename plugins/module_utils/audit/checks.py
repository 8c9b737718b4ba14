# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Audit rows that roles bring along: /etc/ainode/audit.d/<name>.json, a command (or a list of them) that judges one thing on the node.

    {"id": "framework.openvino", "section": "…", "what": "…", "expected": "…", "command": ["/opt/…/python", "-m", "…"],
     "timeout_s": 60, "remedy": "…"}

The id is <group>.<name>, and a hyphen counts as a dot. The command changes nothing and prints one JSON object:
{"verdict": "pass|fail|not_applicable|advice", "live": "…", "reason": "…"}, the reason being optional. It is run without a shell, and only out
of a file that nobody but root can have written.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess

DIRECTORY = "/etc/ainode/audit.d"
VERDICTS = ("fail", "advice", "pass", "not_applicable")
_OWNER = 0
_ID = re.compile(r"[a-z0-9_]+([.-][a-z0-9_]+)+\Z")
_DEFAULT_TIMEOUT_S = 60
_LONGEST_TIMEOUT_S = 3600


class CheckError(ValueError):
    """A check cannot be run, or did not answer as it must; the text says why."""


def rows(root):
    """Return an audit row for each check below the Root `root`, in the order of the file names. Never raises: what is wrong is a failed row."""
    return [row for name in root.names(DIRECTORY, "*.json") for row in _rows(root, name[: -len(".json")])]


def _rows(root, name):
    path = f"{DIRECTORY}/{name}.json"
    try:
        content = _json(_trusted_text(root, path))
    except CheckError as error:
        return [_failed(path, error)]
    if not isinstance(content, list) or not content:
        return [_row(root, path, content)]
    return [_row(root, path, check, number) for number, check in enumerate(content, 1)]


def _row(root, path, content, number=None):
    row = _failed(path, "")
    if number:
        row["id"] += f".{number}"
    try:
        check = _parse(content)
        row.update((key, check[key]) for key in ("id", "section", "what", "expected", "remedy"))
        if root.is_live:
            row.update(_answer(check))
        else:
            row.update(verdict="not_applicable", reason="on a recorded machine no command is run")
    except CheckError as error:
        row["reason"] = f"{path}: {error}"
    return row


def _failed(path, problem):
    """Return the row of a check that could not even be read."""
    return {
        "id": "audit_d." + re.sub(r"[^a-z0-9_]", "_", os.path.basename(path)[: -len(".json")].lower()),
        "section": "collection",
        "what": f"The check {path} can be trusted and run",
        "expected": None,
        "live": None,
        "after_reboot": None,
        "verdict": "fail",
        "reason": f"{path}: {problem}",
        "remedy": f"Put {path} right, or remove it",
    }


def _trusted_text(root, path):
    """Return the text of the check `path`; raise CheckError when anybody but root could have written it."""
    try:
        problem = untrusted(os.stat(root.path(DIRECTORY)))
        if problem:
            raise CheckError(f"its directory {problem}; its command was not run")
        with open(root.path(path), "rb") as file:
            # Of the open file, not of its name: nobody can put another one in its place in between.
            status = os.fstat(file.fileno())
            problem = "is no regular file" if not stat.S_ISREG(status.st_mode) else untrusted(status)
            if problem:
                raise CheckError(f"it {problem}; its command was not run")
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        raise CheckError(f"it cannot be read ({error.strerror}); run the audit as root") from error


def untrusted(status):
    """Return what keeps a file of this os.stat_result from being root's word, or None."""
    if status.st_uid != _OWNER:
        return f"belongs to uid {status.st_uid}, not to root"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others than root (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def _json(text):
    """Return what the JSON `text` holds."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise CheckError(f"it is not JSON: {error}") from error


def _parse(check):
    """Return the check described by a file's JSON, complete."""
    if not isinstance(check, dict):
        raise CheckError("it is not a JSON object")
    check = dict({"timeout_s": _DEFAULT_TIMEOUT_S, "remedy": ""}, **check)
    for key in ("id", "section", "what", "expected", "remedy"):
        if not isinstance(check.get(key), str):
            raise CheckError(f"its '{key}' is {check.get(key)!r}, expected is a text")
    if not _ID.match(check["id"]):
        raise CheckError(f"its id '{check['id']}' is no id: write it as power.governor is written")
    check["id"] = check["id"].replace("-", ".")
    command, timeout = check.get("command"), check["timeout_s"]
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command) or not os.path.isabs(command[0]):
        raise CheckError(f"its command is {command!r}, expected is a list of texts that begins with a program's absolute path")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= _LONGEST_TIMEOUT_S:
        raise CheckError(f"its timeout_s is {timeout!r}, expected is a number of seconds up to {_LONGEST_TIMEOUT_S}")
    return check


def _answer(check):
    """Run the command of `check` and return {verdict, live, reason} from what it prints."""
    output = _run(check["command"], check["timeout_s"])
    try:
        answer = json.loads(output)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("verdict") not in VERDICTS or not isinstance(answer.get("live"), (str, type(None))):
        raise CheckError(f"its command printed {_clip(output)!r}, expected is one JSON object with a verdict ({', '.join(VERDICTS)}) and a text 'live'")
    return {"verdict": answer["verdict"], "live": answer.get("live"), "reason": str(answer.get("reason") or "")}


def _run(command, timeout_s):
    """Return what `command` prints on its standard output; raise CheckError when it does not start, fails or takes too long."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", env=environment, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise CheckError(f"its command does not start: {error}") from error
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        # The whole session: a helper that it started must not outlive it, nor keep the pipes open.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise CheckError(f"its command was not done after {timeout_s:g} s") from None
    if process.returncode:
        raise CheckError(f"its command ended with status {process.returncode}: {_clip(errors.decode('utf-8', 'replace').strip()) or 'it said nothing'}")
    return output.decode("utf-8", "replace").strip()


def _clip(text, length=300):
    """Return the end of `text`, where a program says what went wrong."""
    return text if len(text) <= length else "…" + text[-length:]
