# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what in manifests KServe's API types do not know: kserve_schema.py MANIFESTS.yml, with a Python that has kserve.

The types are those of the packages kserve and kubernetes, generated from the projects' OpenAPI schemas. Prints a line for each field that a type does
not have, each value of another kind and each field that is required and missing; the types themselves pass over the first two.
"""

from __future__ import annotations

import re
import sys

import kserve
import yaml
from kubernetes import client

KINDS = {
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "V1alpha1ServingRuntime",
}
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def problems(value, kind, where):
    """Yield what is wrong with `value` as a `kind` of the API, a line each."""
    # kserve's generator writes list[…] and dict(…), that of kubernetes List[…] and Dict[…].
    inner = re.fullmatch(r"(list|dict)[\[(](?:str, )?(.*)[\])]", kind, re.IGNORECASE)
    if inner and inner.group(1).lower() == "list":
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, item in enumerate(value):
            yield from problems(item, inner.group(2), f"{where}[{number}]")
    elif inner:
        if not isinstance(value, dict):
            yield f"{where} is no map"
            return
        for key, item in value.items():
            yield from problems(item, inner.group(2), f"{where}.{key}")
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{where} is {value!r}, not {kind}"
    elif kind not in ("object", "ResourceQuantity", "IntOrString"):
        yield from typed(value, kind, where)


def typed(value, kind, where):
    """Yield what is wrong with `value` as an object of the type `kind`."""
    model = getattr(kserve, kind, None) or getattr(kserve.models, kind, None) or getattr(client, kind, None)
    if model is None or not isinstance(value, dict):
        yield f"{where} is {value!r}, not {kind}"
        return
    names = {wire: name for name, wire in model.attribute_map.items()}
    for key, item in value.items():
        if key not in names:
            yield f"{where}.{key} is no field of {kind}"
        else:
            yield from problems(item, model.openapi_types[names[key]], f"{where}.{key}")
    try:
        model(**{names[key]: item for key, item in value.items() if key in names})
    except (ValueError, TypeError) as error:
        yield f"{where}: {error}"


def main(path):
    with open(path, encoding="utf-8") as file:
        for document in yaml.safe_load_all(file):
            kind = KINDS.get((document.get("apiVersion"), document.get("kind")))
            if kind is None:
                print(f"{document.get('apiVersion')} {document.get('kind')} is not of KServe's")
                continue
            for problem in problems(document, kind, document["metadata"]["name"]):
                print(problem)


if __name__ == "__main__":
    main(*sys.argv[1:])
