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

import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ainode.cpu.plugins.module_utils.deploy.environments import Environments
from ansible_collections.ainode.cpu.plugins.module_utils.deploy.pip import Failed
from ansible_collections.ainode.cpu.plugins.module_utils.deploy.wheelhouse import collect


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
    os.umask(0o022)
    try:
        result = collect(want, module.check_mode) if want["state"] == "collected" else environments.ensure(module.check_mode)
    except (Failed, OSError) as error:
        kept = environments.marker("current").get("digest")
        still = f"; the version in service is still {kept}" if kept and want["state"] != "collected" else ""
        module.fail_json(msg=f"{want['name']}: {error}{still}", path=environments.link("current"), digest=kept)
    module.exit_json(path=environments.link("current"), directory=environments.directory("current"), **result)


if __name__ == "__main__":
    main()
