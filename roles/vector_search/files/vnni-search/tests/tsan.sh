#!/bin/sh
# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Search, upsert, consolidate, snapshot and swap at a time under ThreadSanitizer: the engine's own test of that, then the server with its clients.
#   tsan.sh BUILD_DIRECTORY [PYTHON]     PYTHON has pytest and numpy (python3)
# A race ends the program with status 66 and a report, which no test takes for a pass. Ten minutes on two cores, most of them to compile.
set -eu

build=${1:?"usage: tsan.sh BUILD_DIRECTORY [PYTHON]"}
source=$(cd "$(dirname "$0")/.." && pwd)
export TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1"

cmake -S "$source" -B "$build" -DVNNI_SEARCH_SANITIZE=thread -DCMAKE_BUILD_TYPE=RelWithDebInfo >&2
cmake --build "$build" --parallel "$(nproc)" --target vnni-search engine_test serve_protocol_test >&2
"$build/engine_test" --test-case='readers*,upserts*'
"$build/serve_protocol_test"
VNNI_SEARCH=$build/vnni-search VNNI_SEARCH_KILLS=10 "${2:-python3}" -m pytest -q "$source/tests/serve_test.py" \
    -k "writes or kill_at or swap or drains or keep_alive or metrics or full_queue"
