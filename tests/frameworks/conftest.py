# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest tests/frameworks                  the module, and OpenVINO on Debian 12; a few minutes
pytest tests/frameworks --all-frameworks  every framework on Debian 12, OpenVINO on Debian 13 too; about half an hour, 7 GB of packages
"""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption("--all-frameworks", action="store_true", help="install and prove every framework, not OpenVINO alone")
