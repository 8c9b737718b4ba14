#!/bin/sh
# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Resolve requirements/*.in anew into the hash-pinned *.txt, for every Python from 3.11 on. Needs uv (pip install uv).
set -eu

cd "$(dirname "$0")"
for name in node test clients; do
    uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --output-file "$name.txt" "$name.in"
done
