# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof of JupyterLab: its server application loads, and a kernel of this environment starts and computes."""

from __future__ import annotations

import sys

import ainode_proof as proof
import nbformat
from jupyterlab.labapp import LabApp
from nbclient import NotebookClient


def main():
    cell = nbformat.v4.new_code_cell("import sys; print(sys.prefix, 6 * 7)")
    NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=60, kernel_name="python3").execute()
    printed = "".join(output.get("text", "") for output in cell.outputs).strip()
    live = f"JupyterLab {LabApp.version}"
    if printed != f"{sys.prefix} 42":
        proof.say("fail", live, f"the kernel printed '{printed}' where '{sys.prefix} 42' was expected")
    proof.say("pass", live, "a kernel of this environment started and computed")


if __name__ == "__main__":
    proof.main(main)
