# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run `ansible-test sanity` and the documentation lint of antsibull-docs on the work tree as it would be installed.

  sanity [OPTION...]    options are passed on to ansible-test, for instance --test validate-modules

Both want the collection at .../ansible_collections/ainode/cpu, so they get a copy there (build/sanity). No ignore file: a finding is an error.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
COLLECTION = CHECKOUT / "build/sanity/ansible_collections/ainode/cpu"
VENV = CHECKOUT / ".venv/bin"
# The environments that ansible-test makes for its tests begin with get-pip.py, from a site that is no package registry. Where that cannot be
# reached, this does the same with the same version of pip, out of its wheel.
GET_PIP = '''"""Stands in for get-pip.py: installs pip from its wheel."""
import sys

sys.path.insert(0, {wheel!r})
from pip._internal.cli.main import main

sys.exit(main(["install"] + [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]))
'''


def copy():
    """Copy what git knows or would take of the work tree."""
    shutil.rmtree(COLLECTION, ignore_errors=True)
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=CHECKOUT, check=True, capture_output=True, text=True)
    for name in names.stdout.split("\0"):
        source, target = CHECKOUT / name, COLLECTION / name
        # collections/ only makes the checkout itself look like this copy.
        if name and not name.startswith("collections/") and (source.is_symlink() or source.exists()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    ignores = sorted(COLLECTION.glob("tests/sanity/ignore*.txt"))
    if ignores:
        sys.exit(f"sanity: this collection has no ignore file, and there is {ignores[0].relative_to(COLLECTION)}")


def provide_get_pip():
    """Have get-pip.py, or its stand-in, where ansible-test caches it."""
    find = (
        "import sys; from ansible_test._internal.python_requirements import get_venv_packages; from types import SimpleNamespace as S;"
        "print(get_venv_packages(S(version='%d.%d' % sys.version_info[:2]))['pip'])"
    )
    version = subprocess.run([VENV / "python", "-c", find], check=True, capture_output=True, text=True).stdout.strip()
    cache = Path.home() / ".ansible/test/cache"
    script = cache / f"get_pip_{version.replace('.', '_')}.py"
    wheel = cache / f"pip-{version}-py3-none-any.whl"
    if script.exists() and (wheel.exists() or str(wheel) not in script.read_text()):
        return
    cache.mkdir(parents=True, exist_ok=True)
    pinned = Path(__file__).with_name("pip.txt")
    lines = [line for line in pinned.read_text().replace("\\\n", "").splitlines() if line.startswith(f"pip=={version} ")]
    if not lines:
        sys.exit(f"sanity: this ansible-test wants pip {version}, of which {pinned} has no hash: add it")
    requirement = cache / "pip.txt"
    requirement.write_text(f"{lines[0]}\n")
    run(VENV / "python", "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--only-binary=:all:", "-d", cache, "-r", requirement)
    script.write_text(GET_PIP.format(wheel=str(wheel)))


def search_path():
    """PATH without directories whose Pythons do not all start (pyenv's shims), and with the Pythons of a pyenv themselves: every version counts."""
    kept = []
    for directory in os.environ["PATH"].split(os.pathsep):
        pythons = [path for path in Path(directory).glob("python3.*") if path.suffix[1:].isdigit()]
        if all(subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0 for path in pythons):
            kept.append(directory)
    return os.pathsep.join([str(VENV), *kept, *map(str, sorted(Path.home().glob(".pyenv/versions/3.*/bin")))])


def run(*command, **options):
    """Run a command; ends this one with its exit code when it fails."""
    words = [str(word) for word in command]
    print(f"+ {shlex.join(words)}", flush=True)
    code = subprocess.run(words, check=False, **options).returncode
    if code:
        sys.exit(code)


def main():
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print(__doc__)
        return
    copy()
    provide_get_pip()
    environment = {**os.environ, "PATH": search_path(), "ANSIBLE_COLLECTIONS_PATH": str(COLLECTION.parents[2])}
    # ansible-test asks git what belongs to the collection; the checkout around the copy ignores build/.
    run("git", "init", "-q", "-b", "main", COLLECTION)
    run("git", "-C", COLLECTION, "add", "--all")
    run(VENV / "ansible-test", "sanity", "--local", "--color", "no", *sys.argv[1:], cwd=COLLECTION, env=environment)
    run(VENV / "antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "self", COLLECTION, env=environment)


if __name__ == "__main__":
    main()
