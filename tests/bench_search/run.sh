#!/bin/sh
# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# tests/bench_search/run.sh [options of bench_search.py]: builds vnni-search, installs the peers beside it, compares them.
# Without options the table and the plot in docs/vector-search.md are written anew.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${BENCH_SEARCH_WORK:-$root/build/bench_search}
mkdir -p "$work"
cmake -S "$root/roles/vector_search/files/vnni-search" -B "$work/engine" -DVNNI_SEARCH_SERVE=OFF >"$work/cmake.log"
cmake --build "$work/engine" --target vnni-search -j "$(nproc)" >"$work/build.log"
[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --require-hashes -r "$here/requirements.txt"
[ $# -gt 0 ] || set -- --docs "$root/docs/vector-search.md"
exec "$work/venv/bin/python" "$here/bench_search.py" --binary "$work/engine/vnni-search" --out "$work" "$@"
