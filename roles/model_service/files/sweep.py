# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove what neither the version in service nor the one before needs, and say what it was: sweep.py HOME MODELS [UNITS]

HOME/current and HOME/previous lead to the two versions, directories of links to models below MODELS. HOME/server-* are the server's programs, of which the
units (the files UNITS/ainode-model-service-*.service) name one.
"""

import os
import shutil
import sys
from pathlib import Path


def superfluous(home, models, units):
    """Return the paths to remove, sorted."""
    versions = {(home / link).resolve() for link in ("current", "previous") if (home / link).exists()}
    used = {Path(os.path.realpath(link)) for version in versions for link in version.iterdir()}
    started = "".join(unit.read_text(encoding="utf-8") for unit in units.glob("ainode-model-service-*.service"))
    programs = {path for path in home.glob("server-*") if f"{path}/" in started}
    there = [path for path in (*home.iterdir(), *models.iterdir()) if path.is_dir() and not path.is_symlink()]
    return sorted(set(there) - versions - used - programs)


def main(home, models, units="/etc/systemd/system"):
    for path in superfluous(Path(home).resolve(), Path(models).resolve(), Path(units)):
        shutil.rmtree(path)
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
