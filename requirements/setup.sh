#!/bin/sh
# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Make .venv from the hash-pinned requirements: `setup.sh node` for the play alone, `setup.sh test` for the test suite too.
# `setup.sh clients` makes build/clients, of other projects' clients of the inference protocol, which want other versions.
# Installs Debian's python3-venv when it is missing and we are root; otherwise says what to install.
set -eu
unset CDPATH

kind=${1:?"usage: setup.sh node|test|clients"}
cd "$(dirname "$0")/.."
venv=.venv
[ "$kind" != clients ] || venv=build/clients
python=${PYTHON:-python3}
stamp=$venv/.$kind-$(sha256sum "requirements/$kind.txt" | cut -c1-16)

[ -e "$stamp" ] && exit 0

fail() {
    echo "setup: $*" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "$python is missing: install Python 3.11 or newer (Debian: apt-get install python3 python3-venv), or name one with PYTHON=…"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" -V 2>&1): ansible-core 2.19 needs Python 3.11 or newer (name another with PYTHON=…)"

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing python3-venv"
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv; } >"/tmp/ainode-setup.$$" 2>&1 ||
            { cat "/tmp/ainode-setup.$$" >&2; fail "apt-get could not install python3-venv"; }
        rm -f "/tmp/ainode-setup.$$"
    else
        fail "the Python module venv is missing: install it as root (Debian: apt-get install python3-venv) and run this again"
    fi
fi

echo "setup: making $venv ($kind) with $("$python" -V)"
# A half-made environment has no stamp and is laid anew over the old one.
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes --only-binary :all: -r "requirements/$kind.txt"
touch "$stamp"
# The environment of the tests holds the controller's too.
[ "$kind" != test ] || touch "$venv/.node-$(sha256sum requirements/node.txt | cut -c1-16)"
