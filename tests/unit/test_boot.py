# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import shutil
import subprocess

import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.host.boot import Boot
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root

SWAPPINESS = "/proc/sys/vm/swappiness"
THP = "/sys/kernel/mm/transparent_hugepage/enabled"


def boot(tmp_path, files, cmdline="", systemd=True):
    (tmp_path / "proc").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Boot(Root(str(tmp_path)), "6.1.0", cmdline, systemd)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"/etc/sysctl.d/90-a.conf": "vm.swappiness = 1\n"}, ("1", "/etc/sysctl.d/90-a.conf")),
        # The name alone orders the files, not the directory.
        ({"/etc/sysctl.d/10-a.conf": "vm.swappiness=1", "/usr/lib/sysctl.d/50-b.conf": "vm.swappiness=2"}, ("2", "/usr/lib/sysctl.d/50-b.conf")),
        ({"/etc/sysctl.d/90-a.conf": "vm.swappiness=1", "/usr/lib/sysctl.d/50-b.conf": "vm.swappiness=2"}, ("1", "/etc/sysctl.d/90-a.conf")),
        ({"/etc/sysctl.d/a.conf": "\n[Section]\nnonsense\nvm.swappiness=1\n"}, ("1", "/etc/sysctl.d/a.conf")),
        # A file hides the one of the same name in a lower directory, even when it is empty.
        ({"/etc/sysctl.d/50-b.conf": "", "/usr/lib/sysctl.d/50-b.conf": "vm.swappiness=2"}, None),
        ({"/run/sysctl.d/50-b.conf": "vm.swappiness=3", "/usr/lib/sysctl.d/50-b.conf": "vm.swappiness=2"}, ("3", "/run/sysctl.d/50-b.conf")),
        ({"/etc/sysctl.d/a.conf": "vm/swappiness=1\n# vm.swappiness=2\n; vm.swappiness=3\n"}, ("1", "/etc/sysctl.d/a.conf")),
        ({"/etc/sysctl.d/a.conf": "-vm.swappiness=4"}, ("4", "/etc/sysctl.d/a.conf")),
        # A pattern never takes the place of the whole name.
        ({"/etc/sysctl.d/a.conf": "vm.swappiness=1", "/etc/sysctl.d/b.conf": "vm.swap*=2"}, ("1", "/etc/sysctl.d/a.conf")),
        ({"/etc/sysctl.d/b.conf": "vm.swap*=2"}, ("2", "/etc/sysctl.d/b.conf")),
        # A star is part of one name.
        ({"/etc/sysctl.d/b.conf": "v*=2"}, None),
        ({"/etc/sysctl.d/a.txt": "vm.swappiness=1", "/etc/sysctl.conf": "vm.swappiness=9"}, None),
    ],
)
def test_sysctl(tmp_path, files, expected):
    assert boot(tmp_path, files).file(SWAPPINESS) == expected


def test_only_other_inits_read_sysctl_conf(tmp_path):
    files = {"/etc/sysctl.conf": "vm.swappiness=9", "/etc/sysctl.d/99-z.conf": "vm.swappiness=1", "/etc/tmpfiles.d/a.conf": f"w {THP} - - - - never"}
    without = boot(tmp_path, files, systemd=False)
    assert without.file(SWAPPINESS) == ("9", "/etc/sysctl.conf")
    assert without.file(THP) is None
    assert boot(tmp_path, files).file(SWAPPINESS) == ("1", "/etc/sysctl.d/99-z.conf")


TMPFILES = [
    ({"a.conf": "w {path} - - - - madvise"}, "madvise"),
    ({"a.conf": "w! {path} - - - - madvise\\n"}, "madvise"),
    ({"b.conf": "w {path} - - - - never", "a.conf": "w {path} - - - - madvise"}, "madvise"),
    # Lines with other words for the path are carried out in their order.
    ({"a.conf": "w {directory}/* - - - - madvise", "b.conf": "w {path} - - - - always!"}, "always!"),
    ({"a.conf": "w {path} - - - - never", "b.conf": "w {directory}/* - - - - always"}, "always"),
    ({"a.conf": "w {path}\nw {path} - - - - madvise"}, "madvise"),
    ({"a.conf": "# w {path} - - - - never\nd {directory} - - - - -"}, None),
]


@pytest.mark.parametrize(("files", "expected"), TMPFILES)
def test_tmpfiles(tmp_path, files, expected):
    texts = {f"/etc/tmpfiles.d/{name}": text.format(path=THP, directory=THP.rsplit("/", 1)[0]) for name, text in files.items()}
    found = boot(tmp_path, texts).file(THP)
    assert (found and found[0]) == expected


@pytest.mark.skipif(not shutil.which("systemd-tmpfiles"), reason="systemd-tmpfiles, the judge of this test, is not installed")
@pytest.mark.parametrize(("files", "expected"), TMPFILES)
def test_systemd_reads_tmpfiles_as_we_do(tmp_path, files, expected):
    target = tmp_path / "x" / "enabled"
    target.parent.mkdir()
    target.touch()
    (tmp_path / "etc/tmpfiles.d").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "etc/tmpfiles.d" / name).write_text(text.format(path="/x/enabled", directory="/x") + "\n")
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--create", "--boot"], check=False, capture_output=True)
    assert target.read_text().strip() == (expected or "")


def test_command_line_and_kernel_build(tmp_path):
    files = {"/boot/config-6.1.0": 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="text=x"\n'}
    found = boot(tmp_path, files, 'quiet hugepages=4 hugepages=8 x="a b" transparent-hugepage=never')
    assert found.parameter("hugepages")[0] == "8"
    assert found.parameter("transparent_hugepage")[0] == "never"
    assert found.parameter("quiet") == ("", "kernel command line, quiet=")
    assert found.parameter("missing") is None
    assert [found.kernel_option(name) for name in "ABC"] == ["y", "n", "text=x"]
    assert boot(tmp_path / "other", {"/sys/x": ""}).kernel_option("A") is None
    assert boot(tmp_path / "fedora", {"/usr/lib/modules/6.1.0/config": "CONFIG_A=y\n"}).kernel_option("A") == "y"


def test_a_host_that_tells_no_command_line_has_no_parameters(tmp_path):
    assert boot(tmp_path, {}, cmdline=None).parameter("quiet") is None


def test_a_broken_command_line_is_read_all_the_same(tmp_path):
    assert boot(tmp_path, {}, "a=1 'b=2").parameter("a")[0] == "1"


@pytest.mark.parametrize("base", ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"])
def test_enabled_units(tmp_path, base):
    found = boot(tmp_path, {f"{base}/multi-user.target.wants/a.service": ""})
    assert found.unit_enabled("a.service")
    assert not found.unit_enabled("b.service")
    assert not boot(tmp_path, {}, systemd=False).unit_enabled("a.service")
