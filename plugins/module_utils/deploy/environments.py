# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The environments of one name on a node: the one in service, the one before, and how a new one comes into service.

<directory>/<name>/<digest>    an environment, named by what it was made of; finished when it holds its marker
<directory>/<name>/current     the one in service, a symbolic link
<directory>/<name>/previous    the one before it
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import json
import os
import re
import shutil
import subprocess

from ..host.host import UNITS, Host
from ..host.host import link as link_to
from . import pip, venv
from .pip import Failed, read, write

_UNITS = f"{UNITS}/ainode-*.service"
# Written last: an environment without it was never finished.
_MARKER = "ainode.json"


class Environments:
    """The environments of one name: the version in service, the one before, and the making of a new one."""

    def __init__(self, parameters):
        self.want = parameters
        self.home = os.path.join(parameters["directory"], parameters["name"])

    def ensure(self, check_mode):
        """Bring the environments to want["state"] ("present", "previous", "absent"), or tell what that would change; return the module's result."""
        state = {"present": ensure_present, "previous": ensure_previous, "absent": ensure_absent}[self.want["state"]]
        if check_mode:
            return state(self, check_mode)
        if self.want["state"] == "present":
            os.makedirs(self.home, exist_ok=True)
        if not os.path.isdir(self.home):
            return state(self, check_mode)
        # Two plays at a time would build the same version; the kernel lets go of the lock with the process.
        lock = os.open(self.home, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return state(self, check_mode)
        finally:
            os.close(lock)
            if os.path.isdir(self.home) and not os.listdir(self.home):
                os.rmdir(self.home)

    def link(self, name):
        return os.path.join(self.home, name)

    def directory(self, link):
        """Return where `link` ("current" or "previous") leads, be it there or not, or None."""
        try:
            return os.path.join(self.home, os.readlink(self.link(link)))
        except OSError:
            return None

    def marker(self, link):
        """Return what was noted when the environment behind `link` was finished, or {}."""
        try:
            with open(os.path.join(self.directory(link) or "", _MARKER), encoding="utf-8") as stream:
                return json.load(stream)
        except (OSError, ValueError):
            return {}

    def point(self, link, directory):
        """Let `link` lead to `directory` in one step."""
        Host("/").put(self.link(link), link_to(os.path.basename(directory)))

    def switch(self, directory):
        """Put `directory` into service and keep the one that was, unless it is damaged; remove all others."""
        before, marker = self.directory("current"), self.marker("current")
        self.point("current", directory)
        if before and marker and venv.damage(before, marker["files"]) is None and before != directory:
            self.point("previous", before)
        self.sweep()

    def sweep(self):
        """Remove every environment that is not in service and not kept: what an interrupted run left, and the last but one.

        One that a unit of ours starts its program from stays: where a new version did not become ready, the unit before is back.
        """
        kept = {os.path.basename(self.directory(link) or "") for link in ("current", "previous")}
        started = "".join(read(unit) or "" for unit in glob.glob(_UNITS))
        for name in os.listdir(self.home):
            path = os.path.join(self.home, name)
            if name not in kept and re.match(r"[0-9a-f]{16}(\.\d+)?\Z", name) and f"{path}/" not in started:
                shutil.rmtree(path)
        if self.directory("previous") and not os.path.isdir(self.directory("previous")):
            os.unlink(self.link("previous"))

    def free_directory(self, digest):
        """Return a directory of that digest that does not exist: a damaged one in service keeps its name until it is replaced."""
        names = [digest] + [f"{digest}.{number}" for number in range(1, 100)]
        return next(path for path in (os.path.join(self.home, name) for name in names) if not os.path.exists(path))

    def prove(self, directory, proof):
        """Return the verdict of the file `proof` run in `directory`, None without a proof. Raises Failed when it does not hold."""
        if not proof:
            return None
        try:
            done = subprocess.run(
                proof_command(directory, proof),
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=self.want["proof_timeout"],
                check=False,
                cwd="/",
                env=pip.clean(os.environ),
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"its proof took longer than {self.want['proof_timeout']} s") from None
        try:
            row = venv.verdict(done.stdout.decode("utf-8", "replace"))
        except ValueError as error:
            said = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing"])[-1]
            raise Failed(f"its proof ended with status {done.returncode}: {error}; its last word on stderr was: {said[:400]}") from None
        if row["verdict"] == "fail":
            raise Failed(f"its proof failed: {row['reason']} (found: {row['live']})")
        return row

    def build(self, directory, digest, lock, python):
        """Make and prove the environment `directory`; return its marker. Leaves nothing of it behind when it raises Failed."""
        scratch = os.path.join(directory, "tmp")
        try:
            pip.run([self.want["python"], "-m", "venv", "--without-pip", directory], "python -m venv failed: {0}")
            os.mkdir(scratch)
            pip.call("install", os.path.join(directory, "bin", "python"), python, lock, scratch, self.want, [] if self.want["compile"] else ["--no-compile"])
            for name, text in self.want["files"].items():
                write(os.path.join(directory, "share", "ainode", name), text)
            for packages in glob.glob(os.path.join(glob.escape(directory), "lib", "python3*", "site-packages")) if self.want["environment"] else []:
                # Read by the interpreter before anything is imported: https://docs.python.org/3/library/site.html
                write(os.path.join(packages, "ainode.pth"), venv.pth(self.want["environment"]))
            shutil.rmtree(scratch)
            verdict = self.prove(directory, self.want["proof"])
            marker = {
                "name": self.want["name"],
                "digest": digest,
                "python": python["version"],
                "packages": venv.packages(lock),
                "files": self.want["files"],
                "proof": self.want["proof"],
                "verdict": verdict,
            }
            # All that pip wrote must be on the disk before the marker says so.
            sync(directory)
            write(os.path.join(directory, _MARKER), json.dumps(marker, sort_keys=True))
            return marker
        except BaseException as error:
            shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, OSError):
                raise Failed(f"{error.strerror}: {error.filename}") from None
            raise


def proof_command(directory, proof):
    """Return the command that runs the file `proof` of the environment in `directory`."""
    return [os.path.join(directory, "bin", "python"), os.path.join(directory, "share", "ainode", proof)]


def sync(directory):
    """Have all that was written to the file system of `directory` on the disk (syncfs(2), which Python does not offer)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def audit_text(environments):
    """Return the text of the audit file, or None when none is wanted."""
    want = environments.want
    if not want["audit"] or not want["proof"]:
        return None
    command = proof_command(environments.link("current"), want["proof"])
    row = dict(want["audit"], id=f"framework-{want['name']}", command=command, timeout_s=want["proof_timeout"])
    return json.dumps(row, indent=2, sort_keys=True) + "\n"


def ensure_present(environments, check_mode):
    want = environments.want
    python = pip.about(want["python"])
    lock = pip.choose_lock(want, python["version"])
    digest = venv.digest(lock, dict(want["files"], environment=json.dumps(want["environment"], sort_keys=True)), python["version"])
    marker = environments.marker("current")
    current, previous = environments.directory("current"), environments.directory("previous")
    damaged = None
    if current:
        damaged = venv.damage(current, marker["files"]) if marker else f"{current} was never finished"
    install = marker.get("digest") != digest or damaged is not None
    audit_path = os.path.join(want["audit_directory"], f"framework-{want['name']}.json")
    audit = audit_text(environments)
    todo = (["install"] if install else []) + (["audit"] if audit is not None and read(audit_path) != audit else [])
    result = {
        "changed": bool(todo),
        "todo": todo,
        "repaired": damaged,
        "digest": digest,
        "previous": environments.marker("previous").get("digest"),
        "packages": venv.packages(lock),
        "python_version": python["version"],
        "can_install": python["pip"] is not None,
        "proof": marker.get("verdict"),
        "diff": difference(marker, {"digest": digest, "packages": venv.packages(lock)}),
    }
    if check_mode or not todo:
        return result
    if install:
        environments.sweep()
        kept = environments.marker("previous")
        if kept.get("digest") == digest and venv.damage(previous, kept["files"]) is None:
            result["proof"] = environments.prove(previous, want["proof"])
            environments.switch(previous)
        else:
            free = shutil.disk_usage(environments.home).free // 2**20
            if free < want["size_mb"]:
                raise Failed(f"{environments.home} has {free} MiB free where {want['size_mb']} MiB are needed: make room there or set another directory")
            directory = environments.free_directory(digest)
            result["proof"] = environments.build(directory, digest, lock, python)["verdict"]
            environments.switch(directory)
        result["previous"] = environments.marker("previous").get("digest")
    if "audit" in todo:
        write(audit_path, audit)
    return result


def ensure_previous(environments, check_mode):
    current, previous = environments.marker("current"), environments.marker("previous")
    if not previous:
        raise Failed("there is no version before this one to go back to")
    damaged = venv.damage(environments.directory("previous"), previous["files"])
    if damaged:
        raise Failed(f"the version before this one is damaged: {damaged}")
    result = {
        "changed": True,
        "digest": previous["digest"],
        "previous": current.get("digest"),
        "packages": previous["packages"],
        "proof": previous["verdict"],
        "diff": difference(current, previous),
    }
    if not check_mode:
        result["proof"] = environments.prove(environments.directory("previous"), previous["proof"])
        environments.switch(environments.directory("previous"))
    return result


def ensure_absent(environments, check_mode):
    want = environments.want
    paths = [environments.home, os.path.join(want["audit_directory"], f"framework-{want['name']}.json")]
    there = [path for path in paths if os.path.lexists(path)]
    result = {"changed": bool(there), "digest": None, "previous": None, "diff": difference(environments.marker("current"), {})}
    if not check_mode:
        for path in there:
            if os.path.isdir(path):
                # Out of service in one step, then the thousands of files.
                if os.path.lexists(environments.link("current")):
                    os.unlink(environments.link("current"))
                shutil.rmtree(path)
            else:
                os.unlink(path)
    return result


def difference(before, after):
    """Return Ansible's diff of two markers: the digest and a line a package."""

    def text(marker):
        return json.dumps({key: marker[key] for key in ("digest", "packages")}, indent=2, sort_keys=True) + "\n" if marker else ""

    return {"before": text(before), "after": text(after)}
