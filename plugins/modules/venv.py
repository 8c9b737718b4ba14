#!/usr/bin/python
# Copyright (c) 2026, The ainode.cpu authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: venv
short_description: Install one locked Python environment that has proven itself
version_added: "0.1.0"
author: The ainode.cpu authors (@ainode)
description:
  - Makes a virtual environment out of a lock (pinned versions with hashes, wheels only) under C(DIRECTORY/NAME/DIGEST), runs its proof, and
    only then switches the link C(DIRECTORY/NAME/current) to it in one step. The digest names the lock, the proof and the Python version.
  - The environment that was in service before stays as C(previous). When anything fails, it stays in service and what was half made is removed.
    One that a unit C(ainode-*.service) starts its program from stays for as long as that unit names it.
  - An environment that lost files, or that a power cut left half installed, is made anew.
  - The proof is a program that prints one JSON object with V(verdict) (V(pass), V(fail), V(not_applicable) or V(advice)), V(live) and V(reason).
    It is written beside the packages, and a file below O(audit_directory) lets M(ainode.cpu.node_audit) run it again later.
attributes:
  check_mode:
    support: full
    description: Predicts what would change, without asking the index and without running the proof.
  diff_mode:
    support: full
    description: Shows the packages and the digest in service before and after.
  idempotent:
    support: partial
    description: With O(state=previous) each run changes to the other one of the two environments that are kept.
  platform:
    platforms: posix
    support: full
    description: Linux with Python 3.8 or newer.
options:
  name:
    description: The environment's name, a word of letters, digits, C(_) and C(-).
    type: str
    required: true
  state:
    description:
      - V(present) installs it, V(absent) removes it with all its versions and its audit file.
      - V(previous) puts the version that was in service before this one back, when its proof still passes.
      - V(collected) only downloads the wheels that the lock names into O(wheelhouse), for nodes without an index; it makes no environment.
        The directory then holds these wheels and no others.
    type: str
    choices: [present, absent, previous, collected]
    default: present
  directory:
    description: Where environments lie.
    type: path
    default: /opt/ainode/venvs
  python:
    description: The interpreter to make it with. A conda environment's C(bin/python) will do.
    type: path
    default: /usr/bin/python3
  python_version:
    description: With O(state=collected), the nodes' Python version (V(3.11)) where it is another than that of O(python).
    type: str
  locks:
    description:
      - The text of a lock by Python version, such as V(3.11). The one for the version of O(python) is installed; a version without a lock is refused.
      - Required with V(present) and V(collected).
    type: dict
    default: {}
  files:
    description: Texts to write to C(share/ainode/) in the environment, by file name; the proof among them.
    type: dict
    default: {}
  proof:
    description: The name of the file in O(files) that is the proof. Without it the environment counts as good when pip is through.
    type: str
  proof_timeout:
    description: Seconds that the proof may take.
    type: int
    default: 120
  environment:
    description:
      - Environment variables that the packages need. The environment's own interpreter sets them when it starts, where its caller did not.
    type: dict
    default: {}
  compile:
    description:
      - Whether all byte code is made at once, so that no user ever waits for it. It is half of an installation's processor time and a fifth of its size.
      - Where one program alone is run with it, run that once as root instead, and there is the byte code of what it imports.
    type: bool
    default: true
  audit:
    description: What the audit row says about the proof (V(section), V(what), V(expected), V(remedy)). Nothing is written for the audit without it.
    type: dict
  audit_directory:
    description: Where M(ainode.cpu.node_audit) looks for further rows.
    type: path
    default: /etc/ainode/audit.d
  size_mb:
    description: Mebibytes that the finished environment takes. With less than that free nothing is begun.
    type: int
    default: 0
  index_url:
    description: The package index. The node's own pip configuration counts where this is not set.
    type: str
  extra_index_urls:
    description: Further indexes; the hashes in the lock decide which file is taken.
    type: list
    elements: str
    default: []
  wheelhouse:
    description: A directory of wheels on the node. No index is asked then.
    type: path
  constraint:
    description: A pip constraints file on the node.
    type: path
  proxy:
    description: The proxy for the index, as V(http://user:password@host:port).
    type: str
  ca_bundle:
    description: A file of CA certificates to trust for the index.
    type: path
  cache:
    description: A directory for pip's cache. Nothing is cached without it.
    type: path
seealso:
  - name: pip's hash-checking mode
    description: What a lock's hashes protect from.
    link: https://pip.pypa.io/en/stable/topics/secure-installs/
"""

EXAMPLES = r"""
- name: Install OpenVINO
  ainode.cpu.venv:
    name: openvino
    locks:
      "3.11": "{{ lookup('ansible.builtin.file', 'locks/openvino-cp311.txt') }}"
    files:
      proof.py: "{{ lookup('ansible.builtin.file', 'proofs/openvino.py') }}"
    proof: proof.py

- name: Go back to the version before
  ainode.cpu.venv:
    name: openvino
    state: previous

- name: Collect its wheels on the builder
  ainode.cpu.venv:
    name: openvino
    state: collected
    python_version: "3.13"
    wheelhouse: /srv/wheels
    locks:
      "3.13": "{{ lookup('ansible.builtin.file', 'locks/openvino-cp313.txt') }}"

- name: Remove it
  ainode.cpu.venv:
    name: openvino
    state: absent
"""

RETURN = r"""
path:
  description: The link to the environment in service.
  returned: always
  type: str
  sample: /opt/ainode/venvs/openvino/current
directory:
  description: Where that link leads, for a unit that is to stay with this version; null when there is none.
  returned: always
  type: str
  sample: /opt/ainode/venvs/openvino/3f0c9b7a55d1e2f4
digest:
  description: The digest of the environment in service after the run; null when there is none.
  returned: always
  type: str
  sample: 3f0c9b7a55d1e2f4
previous:
  description: The digest of the environment kept for going back; null when there is none.
  returned: always
  type: str
packages:
  description: The versions of its packages.
  returned: state is present or previous
  type: dict
  sample: {openvino: 2026.4.1, nncf: 3.4.0}
proof:
  description: The verdict of the proof when it was last run for the environment.
  returned: state is present or previous, and there is a proof
  type: dict
  sample: {verdict: pass, live: brgconv_avx512_I8, reason: "INT8 convolution 3.7 times as fast as FP32, 2.1 times as fast as without VNNI"}
todo:
  description: What was to be done (in check mode, what is), of V(install) and V(audit).
  returned: state is present
  type: list
  elements: str
python_version:
  description: The version of O(python), which chose the lock.
  returned: state is present
  type: str
  sample: "3.11"
can_install:
  description: Whether O(python) brings the pip that an installation takes (Debian's C(python3-venv)).
  returned: state is present
  type: bool
repaired:
  description: What was wrong with the environment in service that was made anew; null when nothing was.
  returned: state is present
  type: str
wheels:
  description: The wheels in the wheelhouse that the lock names.
  returned: state is collected
  type: list
  elements: str
"""

import ctypes
import fcntl
import glob
import json
import os
import re
import shutil
import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils import settings, venv

_UNITS = f"{settings.UNITS}/ainode-*.service"
# Written last: an environment without it was never finished.
_MARKER = "ainode.json"
# What the interpreter says of itself; where its ensurepip keeps pip's wheel is the distribution's choice (Debian: WHEEL_PKG_DIR).
_ABOUT = """
import glob, json, os, sys, sysconfig
found = []
try:
    import ensurepip
    for directory in (sysconfig.get_config_var("WHEEL_PKG_DIR"), os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")):
        found += sorted(glob.glob(os.path.join(directory, "pip-*.whl"))) if directory else []
except ImportError:
    pass
print(json.dumps({"version": "%d.%d" % sys.version_info[:2], "pip": found[-1] if found else None}))
"""
# pip runs out of its wheel, as ensurepip itself runs it: an environment that holds what is locked and nothing else needs no pip inside.
_PIP = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('pip', run_name='__main__', alter_sys=True)"

# What wheels for Debian 12 and later may be tagged as (PEP 600; pip asks for exactly what it is told, not for what is compatible with it).
_GLIBC = ("2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
_PLATFORMS = [f"manylinux_{glibc}_x86_64" for glibc in _GLIBC] + ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64", "any"]


class Failed(Exception):
    """One sentence for the user; the environment in service is still the old one."""


class Environments:
    """The environments of one name: the version in service, the one before, and the making of a new one."""

    def __init__(self, parameters):
        self.want = parameters
        self.home = os.path.join(parameters["directory"], parameters["name"])

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
        settings.Host("/").put(self.link(link), settings.link(os.path.basename(directory)))

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
                env=venv.clean(os.environ),
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
            run([self.want["python"], "-m", "venv", "--without-pip", directory], "python -m venv failed: {0}")
            os.mkdir(scratch)
            pip("install", os.path.join(directory, "bin", "python"), python, lock, scratch, self.want, [] if self.want["compile"] else ["--no-compile"])
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


def run(command, message):
    """Return what `command` printed. Raises Failed with `message` and the last line of that when it ends with another status than 0."""
    environment = venv.clean(os.environ)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, env=environment)
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise Failed(venv.explain(output, "", {}) if "No space left" in output else message.format((output.strip().splitlines() or ["it said nothing"])[-1]))
    return output


def pip(action, interpreter, python, lock, scratch, index, arguments=()):
    """Let pip "install" or "download" the text `lock` with `interpreter`; raises Failed that says why it could not.

    pip comes out of the wheel of `python`, as about() found it. Its temporary files, as large as the packages, go to the directory `scratch`.
    """
    if not python["pip"]:
        raise Failed("Python cannot make environments: install Debian's python3-venv, or whatever brings the ensurepip of the interpreter named")
    requirements = os.path.join(scratch, "lock.txt")
    write(requirements, lock)
    # The lock is whole: what it leaves out of a package's dependencies it leaves out on purpose.
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", requirements]
    program = [interpreter, "-c", _PIP, python["pip"]]
    inherited = {**venv.clean(os.environ), "TMPDIR": scratch, "LC_ALL": "C.UTF-8"}
    told = subprocess.run([*program, "config", "list"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False, cwd="/", env=inherited)
    done = subprocess.run(
        [*program, action, *options, *arguments, *venv.pip_arguments(index)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, cwd="/",
        env=venv.pip_environment(inherited, told.stdout.decode("utf-8", "replace")),
    )  # fmt: skip
    if done.returncode:
        raise Failed(venv.explain(done.stdout.decode("utf-8", "replace"), python["version"], index))


def sync(directory):
    """Have all that was written to the file system of `directory` on the disk (syncfs(2), which Python does not offer)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def write(path, text):
    """Write `text` to `path`; its directory is made when it is missing."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    settings.Host("/").put(path, settings.file(text))


def read(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return None


def about(python):
    """Return {"version": "3.11", "ensurepip": bool} of the interpreter `python`. Raises Failed when it is none."""
    try:
        return json.loads(run([python, "-c", _ABOUT], "{0}"))
    except (OSError, ValueError, Failed) as error:
        raise Failed(f"'{python}' is no Python interpreter ({error}): install python3 or name another one") from None


def choose_lock(want, version):
    if version not in want["locks"]:
        raise Failed(
            f"there is no lock for Python {version}: its wheels exist for Python {', '.join(sorted(want['locks'])) or '(none)'}; "
            "name such an interpreter, or make a lock"
        )
    return want["locks"][version]


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
    python = about(want["python"])
    lock = choose_lock(want, python["version"])
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


def ensure_collected(environments, check_mode):
    want = environments.want
    if not want["wheelhouse"]:
        raise Failed("state 'collected' needs the directory to collect wheels in: set wheelhouse")
    python = about(want["python"])
    version = want["python_version"] or python["version"]
    lock = choose_lock(want, version)
    noted = os.path.join(want["wheelhouse"], f".{want['name']}-{version}-{venv.digest(lock, {}, version)}")
    wheels = json.loads(read(noted) or "null")
    complete = wheels is not None and all(os.path.isfile(os.path.join(want["wheelhouse"], wheel)) for wheel in wheels)
    result = {"changed": not complete, "digest": None, "previous": None, "wheels": wheels or []}
    if complete or check_mode:
        return result
    for name in os.listdir(want["wheelhouse"]) if os.path.isdir(want["wheelhouse"]) else []:
        if name.endswith(".whl"):
            os.unlink(os.path.join(want["wheelhouse"], name))
    scratch = os.path.join(want["wheelhouse"], f".collecting-{want['name']}-{version}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        os.makedirs(scratch)
        # Locks name no Python and no platform (they are made for one each), so another Python than the nodes' can download for them.
        target = ["--dest", scratch, "--python-version", version, "--implementation", "cp"]
        for abi in (f"cp{version.replace('.', '')}", "abi3", "none"):
            target += ["--abi", abi]
        for platform in _PLATFORMS:
            target += ["--platform", platform]
        pip("download", want["python"], dict(python, version=version), lock, scratch, dict(want, wheelhouse=None), target)
        result["wheels"] = sorted(name for name in os.listdir(scratch) if name.endswith(".whl"))
        for name in result["wheels"]:
            os.replace(os.path.join(scratch, name), os.path.join(want["wheelhouse"], name))
        write(noted, json.dumps(result["wheels"]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return result


def difference(before, after):
    """Return Ansible's diff of two markers: the digest and a line a package."""

    def text(marker):
        return json.dumps({key: marker[key] for key in ("digest", "packages")}, indent=2, sort_keys=True) + "\n" if marker else ""

    return {"before": text(before), "after": text(after)}


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "previous", "collected"], "default": "present"},
            "directory": {"type": "path", "default": "/opt/ainode/venvs"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "python_version": {"type": "str"},
            "locks": {"type": "dict", "default": {}},
            "files": {"type": "dict", "default": {}},
            "proof": {"type": "str"},
            "proof_timeout": {"type": "int", "default": 120},
            "environment": {"type": "dict", "default": {}},
            "audit": {"type": "dict"},
            "audit_directory": {"type": "path", "default": "/etc/ainode/audit.d"},
            "size_mb": {"type": "int", "default": 0},
            "index_url": {"type": "str"},
            "extra_index_urls": {"type": "list", "elements": "str", "default": []},
            "wheelhouse": {"type": "path"},
            "constraint": {"type": "path"},
            "proxy": {"type": "str", "no_log": True},
            "ca_bundle": {"type": "path"},
            "cache": {"type": "path"},
            "compile": {"type": "bool", "default": True},
        },
        required_if=[("state", "present", ["locks"]), ("state", "collected", ["locks", "wheelhouse"])],
        supports_check_mode=True,
    )
    want = module.params
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z", want["name"]):
        module.fail_json(msg=f"'{want['name']}' cannot name an environment: letters, digits, _ and - only")
    for name in want["files"]:
        if "/" in name:
            module.fail_json(msg=f"'{name}' in files is a path: file names only")
    if want["proof"] and want["state"] == "present" and want["proof"] not in want["files"]:
        module.fail_json(msg=f"the proof '{want['proof']}' is not in files: {', '.join(sorted(want['files'])) or 'there are none'}")
    for option in ("files", "environment"):
        want[option] = {name: str(value) for name, value in want[option].items()}
    environments = Environments(want)
    ensure = {"present": ensure_present, "previous": ensure_previous, "absent": ensure_absent, "collected": ensure_collected}[want["state"]]
    os.umask(0o022)
    lock = None
    try:
        if not module.check_mode and want["state"] == "present":
            os.makedirs(environments.home, exist_ok=True)
        if not module.check_mode and os.path.isdir(environments.home):
            # Two plays at a time would build the same version; the kernel lets go of it with the process.
            lock = os.open(environments.home, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
        result = ensure(environments, module.check_mode)
    except (Failed, OSError) as error:
        kept = environments.marker("current").get("digest")
        still = f"; the version in service is still {kept}" if kept and want["state"] != "collected" else ""
        module.fail_json(msg=f"{want['name']}: {error}{still}", path=environments.link("current"), digest=kept)
    finally:
        if lock is not None:
            os.close(lock)
            if os.path.isdir(environments.home) and not os.listdir(environments.home):
                os.rmdir(environments.home)
    module.exit_json(path=environments.link("current"), directory=environments.directory("current"), **result)


if __name__ == "__main__":
    main()
