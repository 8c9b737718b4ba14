# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.host import cpulist
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "ids"),
    [("", []), ("0", [0]), ("0-3,8", [0, 1, 2, 3, 8]), ("8,0-3\n", [0, 1, 2, 3, 8]), ("0-1,1-2", [0, 1, 2]), (" 3 , 5-6 ", [3, 5, 6]), ("65535", [65535])],
)
def test_parse(text, ids):
    assert cpulist.parse(text) == ids


@pytest.mark.parametrize("text", ["a", "0-", "-1", "3-1", "0,,1", "0-3:2", "1.5", "0-99999999", "65536", "all"])
def test_parse_names_what_is_no_cpulist(text):
    with pytest.raises(ValueError, match="is not a cpulist") as error:
        cpulist.parse(text)
    assert f"'{text}'" in str(error.value)


@given(st.sets(st.integers(0, 2000)))
def test_render_is_the_inverse_of_parse(ids):
    assert cpulist.parse(cpulist.render(ids)) == sorted(ids)


def test_render_is_the_shortest_form():
    assert cpulist.render([8, 3, 2, 1, 0, 9]) == "0-3,8-9"
    assert cpulist.render([]) == ""
