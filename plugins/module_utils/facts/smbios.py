# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The structures of an SMBIOS table (DMTF DSP0134, https://www.dmtf.org/standards/smbios)."""

from __future__ import annotations


def structures(table):
    """Yield (type, formatted part, strings) of each structure in an SMBIOS table; stop quietly where the table is cut or broken."""
    offset = 0
    while offset + 4 <= len(table):
        kind, length = table[offset], table[offset + 1]
        end = table.find(b"\0\0", offset + length)
        if length < 4 or end < 0:
            return
        strings = [part.decode("ascii", "replace").strip() for part in table[offset + length : end].split(b"\0")]
        yield kind, table[offset : offset + length], strings
        offset = end + 2
