# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/kserve.yml: what it writes is of KServe's API types, and names what it ships. There is no cluster here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import BUILD, CHECKOUT, ROLE

SERVER = ROLE / "files/server/serve.py"


def play(*options, **variables):
    """Run playbooks/kserve.yml; return (exit status, number of changed tasks, all that was printed)."""
    given = {"model_service_builder_directory": str(BUILD / "builder"), **variables}
    command = [Path(sys.executable).with_name("ansible-playbook"), *options, "-e", json.dumps(given), CHECKOUT / "playbooks/kserve.yml"]
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=600)
    changed = re.search(r"changed=(\d+)", done.stdout)
    return done.returncode, int(changed.group(1)) if changed else None, " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def unknown(python):
    """A function that returns what KServe's API types do not know in a file of manifests."""

    def ask(path):
        command = [python("server"), Path(__file__).with_name("kserve_schema.py"), path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    return ask


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(the directory, what the play was told)"""
    directory = tmp_path_factory.mktemp("kserve") / "out"
    told = {"model_service_kserve": {"directory": str(directory), "storage": "s3://bucket/ainode", "image": "registry.test/server:2"}}
    told |= {"model_service_cores_per_instance": 4, "model_service_hint": "throughput"}
    status, changed, text = play(**told)
    assert status == 0, text[-3000:]
    assert changed
    return directory, told


def test_a_second_run_and_a_check_run_change_nothing(written):
    _directory, told = written
    assert play(**told)[:2] == (0, 0)
    assert play("--check", **told)[:2] == (0, 0)


def test_the_manifests_are_of_kserves_types(written, unknown):
    assert unknown(written[0] / "manifests.yml") == []


def test_a_wrong_manifest_would_be_seen(written, unknown, tmp_path):
    text = (written[0] / "manifests.yml").read_text()
    for right, wrong, seen in (
        ("storageUri", "storageURI", "no field"), ("minReplicas: 2", "minReplicas: two", "not int"), ("- name: kserve-container", "- nom: x", "Field required"),
        ("serving.kserve.io/v1beta1", "serving.kserve.io/v1", "not of KServe's"),
    ):  # fmt: skip
        assert right in text
        (tmp_path / "wrong.yml").write_text(text.replace(right, wrong))
        assert any(seen in line for line in unknown(tmp_path / "wrong.yml")), wrong


def test_they_name_what_is_there(written):
    directory, _told = written
    runtime, service = yaml.safe_load_all((directory / "manifests.yml").read_text())
    (container,) = runtime["spec"]["containers"]
    predictor = service["spec"]["predictor"]
    assert container["image"] == "registry.test/server:2"
    assert {"name": "GLIBC_TUNABLES", "value": "glibc.malloc.hugetlb=1"} in container["env"]
    assert {"--threads=4", "--hint=throughput"} <= set(container["args"])
    # The options are those of the server.
    known = SERVER.read_text()
    assert all(f'"{argument.partition("=")[0]}"' in known for argument in container["args"])
    assert container["resources"]["requests"] == container["resources"]["limits"] and container["resources"]["limits"]["cpu"] == "4"
    assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
    assert predictor["model"]["modelFormat"]["name"] in [it["name"] for it in runtime["spec"]["supportedModelFormats"]]
    storage = predictor["model"]["storageUri"]
    assert storage.startswith("s3://bucket/ainode/") and storage.endswith("-int8")
    assert "cpu-cpuid.AVX512VNNI" in str(predictor["affinity"])
    # What is behind storageUri is the server's --repository: a directory a model.
    model = directory / "models" / storage.rpartition("/")[2] / "digits"
    assert (model / "model.xml").stat().st_size and (model / "model.bin").stat().st_size
    image = directory / "image"
    assert (image / "serve.py").read_text().strip() == SERVER.read_text().strip()
    assert "--require-hashes" in (image / "Containerfile").read_text() and "kserve==" in (image / "requirements.txt").read_text()


@pytest.mark.parametrize("wrong", [{"minimum": 3, "maximum": 2}, {"storage": "models"}, {"replicas": 2}])
def test_bad_values_are_one_error_and_write_nothing(wrong, tmp_path):
    status, changed, text = play(model_service_kserve={"directory": str(tmp_path / "out"), **wrong})
    assert status and changed == 0 and "model_service_kserve is" in text
    assert not (tmp_path / "out").exists()
