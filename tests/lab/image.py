# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make base systems: a tarball in the cache and a podman image localhost/ainode-lab:NAME.

What is there from the same recipe is kept, so a second call costs nothing. NAME is one of:
  bookworm       Debian 12 node: systemd, sshd, python3, numactl, cpupower; git and make
  trixie         the same of Debian 13
  bookworm-bare  Debian 12 with git, make and python3, and nothing else
"""

import argparse

import lab
import podman


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", default=["bookworm"], help="default: bookworm")
    for name in parser.parse_args().names:
        print(podman.image(name))


if __name__ == "__main__":
    lab.main(main)
