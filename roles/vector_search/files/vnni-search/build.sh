#!/bin/sh
# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Build vnni-search from its sources, test it, and only then put the binary in place.
#   build.sh OUTPUT
#   build.sh --dependencies    only install what the build needs
# VNNI_SEARCH_BUILD names a directory of intermediate files to keep, for the next build to begin from.
# Installs what the build needs from Debian when it is missing and we are root; otherwise says what to install.
set -eu

# The same sources make the same program, whatever the caller has set for other builds.
unset CDPATH CFLAGS CPPFLAGS CXXFLAGS LDFLAGS MAKEFLAGS CMAKE_BUILD_TYPE CMAKE_GENERATOR CMAKE_PREFIX_PATH CMAKE_TOOLCHAIN_FILE DESTDIR

output=${1:?"usage: build.sh OUTPUT | --dependencies"}
source=$(cd "$(dirname "$0")" && pwd -P)
have() {
    case $1 in
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

# What is needed, and Debian's package for it.
missing=
while read -r needed package; do
    have "$needed" || missing="$missing $package"
done <<END
cmake cmake
g++ g++
make make
/usr/include/boost/beast.hpp boost
/usr/include/nlohmann/json.hpp nlohmann-json3-dev
/usr/include/doctest/doctest.h doctest-dev
END

if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "build.sh: missing:$missing (on Debian, install them as root: apt-get install$missing, where boost is libboost1.81-dev or newer)" >&2
        exit 1
    fi
    echo "build.sh: installing$missing" >&2
    apt-get -qq update
    # Debian 12's default Boost is 1.74, which lacks what the server uses; Debian 13's is 1.83.
    boost=libboost-dev
    apt-cache show libboost1.81-dev >/dev/null 2>&1 && boost=libboost1.81-dev
    # shellcheck disable=SC2046 # a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(echo "$missing" | sed "s/\bboost\b/$boost/") >&2
fi

[ "$output" = --dependencies ] && exit 0

# Whoever comes while another builds the same waits for it, and has nothing left to do.
lock=${VNNI_SEARCH_BUILD:-$output}.lock
mkdir -p "$(dirname "$output")" "$(dirname "$lock")"
exec 9>"$lock"
was=$(stat -c %i "$output" 2>/dev/null || :)
if ! flock --nonblock 9; then
    flock 9
    [ "$(stat -c %i "$output" 2>/dev/null || :)" = "$was" ] || exit 0
fi

build=${VNNI_SEARCH_BUILD:-}
if [ -z "$build" ]; then
    build=$(mktemp -d)
    trap 'rm -rf "$build"' EXIT
fi

cmake -S "$source" -B "$build" >&2
cmake --build "$build" --parallel "$(nproc)" >&2
ctest --test-dir "$build" --output-on-failure >&2
# A reader of the output sees the whole new binary or the whole old one.
install -m 0755 "$build/vnni-search" "$output.new"
mv "$output.new" "$output"
