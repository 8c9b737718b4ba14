#!/bin/sh
# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
# A million files for the loader and a million requests for the parsers: libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer.
#   fuzz.sh BUILD_DIRECTORY [RUNS]     what was found useful stays in BUILD_DIRECTORY/corpus for the next time; needs clang (Debian: clang, libclang-rt-14-dev)
# An input that breaks something is left in BUILD_DIRECTORY, and the exit status is not 0.
set -eu

build=${1:?"usage: fuzz.sh BUILD_DIRECTORY [RUNS]"}
runs=${2:-1000000}
source=$(cd "$(dirname "$0")/.." && pwd)
clang=$(command -v clang++ || command -v clang++-19 || command -v clang++-14) || { echo "fuzz.sh: there is no clang++" >&2; exit 1; }

cmake -S "$source" -B "$build" -DCMAKE_CXX_COMPILER="$clang" -DVNNI_SEARCH_FUZZ=ON -DVNNI_SEARCH_SERVE=OFF -DCMAKE_CXX_FLAGS_RELEASE=-O1 >&2
cmake --build "$build" --parallel "$(nproc)" --target load_fuzz serve_fuzz >&2
cd "$build"
mkdir -p corpus/load corpus/serve
for seed in 1 2 3 4; do
    [ -e corpus/load/seed-$seed ] || yes "seed $seed" | head -c $((600 * seed)) >corpus/load/seed-$seed
done
export ASAN_OPTIONS=malloc_context_size=1:quarantine_size_mb=16  # allocations are most of what these do
./load_fuzz -runs="$runs" -max_len=4096 -len_control=0 -reduce_inputs=0 -print_final_stats=1 corpus/load
./serve_fuzz -runs="$runs" -max_len=512 -dict="$source/tests/serve_fuzz.dict" -reduce_inputs=0 -print_final_stats=1 corpus/serve "$source/tests/serve_corpus"
