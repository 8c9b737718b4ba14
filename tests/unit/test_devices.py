# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import machines
import pytest
from ansible_collections.ainode.cpu.plugins.module_utils.facts import devices
from ansible_collections.ainode.cpu.plugins.module_utils.host.root import Root


@pytest.fixture
def host(tmp_path):
    """A function that lays a described tree of files and returns its Root."""

    def write(files):
        (tmp_path / "sys").mkdir()
        machines._lay(tmp_path, files)
        return Root(str(tmp_path))

    return write


def disk(path, name, rotational=0, gib=1, **more):
    """Return the files of a disk whose block device lies at `path`/block/`name`."""
    block = f"/sys/devices/{path}/block/{name}"
    return {f"/sys/class/block/{name}": f"-> {block}", f"{block}/queue/rotational": rotational, f"{block}/size": gib << 21, **more}


def test_the_guides_own_machine(described):
    assert devices.read(Root(described("xeon-8380-2s"))) == {
        "nics": [
            {"name": "ens1f0", "speed_mbps": 100000, "numa_node": 0, "driver": "ice"},
            {"name": "ens2f0", "speed_mbps": 100000, "numa_node": 1, "driver": "ice"},
        ],
        "disks": [
            {"name": "nvme0n1", "rotational": False, "transport": "nvme", "numa_node": 0, "size_bytes": 1788 << 30},
            {"name": "nvme1n1", "rotational": False, "transport": "nvme", "numa_node": 1, "size_bytes": 1788 << 30},
        ],
    }


def test_a_virtual_machine(described):
    assert devices.read(Root(described("vm-without-cpufreq"))) == {
        "nics": [{"name": "ens3", "speed_mbps": None, "numa_node": None, "driver": "virtio_net"}],
        "disks": [{"name": "vda", "rotational": True, "transport": "virtio", "numa_node": None, "size_bytes": 40 << 30}],
    }


def test_what_is_not_physical(host):
    files = {f"/sys/class/net/{name}": f"-> /sys/devices/virtual/net/{name}" for name in ("lo", "br0", "eth0.100", "veth1", "bond0")}
    files.update({f"/sys/devices/virtual/net/{name}/type": 1 for name in ("lo", "br0", "eth0.100", "veth1", "bond0")})
    for name in ("loop0", "dm-0", "md0", "zram0", "ram0"):
        files.update(disk("virtual", name))
    sda = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0"
    files.update(
        {
            **disk(sda, "sda", 1),
            "/sys/class/block/sda1": f"-> /sys/devices/{sda}/block/sda/sda1",
            f"/sys/devices/{sda}/block/sda/sda1/partition": 1,
            **disk("pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0", "sr0"),
        }
    )
    found = devices.read(host(files))
    assert found["nics"] == []
    assert [(disk["name"], disk["rotational"]) for disk in found["disks"]] == [("sda", True)]


@pytest.mark.parametrize(
    ("path", "name", "transport"),
    [
        ("pci0000:00/0000:01:00.0/nvme/nvme0", "nvme0n1", "nvme"),
        ("pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0", "sda", "sata"),
        ("pci0000:00/0000:02:00.0/host1/port-1:0/end_device-1:0/target1:0:0/1:0:0:0", "sdb", "sas"),
        ("pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0", "sdc", "usb"),
        ("pci0000:00/0000:00:04.0/virtio1", "vda", "virtio"),
        ("pci0000:00/0000:00:05.0/virtio2/host2/target2:0:0/2:0:0:0", "sdd", "virtio"),
        ("vbd-51712", "xvda", "xen"),
        ("pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:0001", "mmcblk0", "mmc"),
        ("pci0000:00/0000:03:00.0/host7/target7:0:0/7:0:0:0", "sde", None),
    ],
)
def test_transport(host, path, name, transport):
    assert devices.disks(host(disk(path, name)))[0]["transport"] == transport


def test_transport_by_the_controllers_driver(host):
    pci = "/sys/devices/pci0000:00/0000:03:00.0"
    files = {
        **disk("pci0000:00/0000:03:00.0/host7/target7:0:0/7:0:0:0", "sda"),
        f"{pci}/driver": "-> /sys/bus/pci/drivers/megaraid_sas",
        "/sys/bus/pci/drivers/megaraid_sas/": None,
    }
    assert devices.disks(host(files))[0]["transport"] == "sas"


def test_nvme_multipath_has_the_node_of_its_controller(host):
    subsystem, controller = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0", "/sys/devices/pci0000:80/0000:81:00.0"
    files = {
        "/sys/class/block/nvme0n1": f"-> {subsystem}/nvme0n1",
        f"{subsystem}/nvme0n1/size": 2048,
        f"{subsystem}/nvme0n1/queue/rotational": 0,
        f"{controller}/numa_node": 1,
        f"{controller}/nvme/nvme0/state": "live",
        f"{subsystem}/nvme0": f"-> {controller}/nvme/nvme0",
    }
    assert devices.disks(host(files)) == [{"name": "nvme0n1", "rotational": False, "transport": "nvme", "numa_node": 1, "size_bytes": 1 << 20}]


@pytest.mark.parametrize(("own", "parent", "expected"), [(1, 0, 1), (-1, 1, 1), ("x", 0, 0), (-1, -1, None)])
def test_numa_node_of_the_nearest_parent(host, own, parent, expected):
    root = host({"/sys/devices/pci0000:00/numa_node": parent, "/sys/devices/pci0000:00/0000:01:00.0/numa_node": own})
    assert devices.numa_node(root, "/sys/devices/pci0000:00/0000:01:00.0") == expected


@pytest.mark.parametrize(("speed", "expected"), [("25000", 25000), ("-1", None), ("0", None), ("", None), (None, None)])
def test_speed(host, speed, expected):
    files = machines.nic("eth0", "0000:01:00.0", "mlx5_core", speed)
    if speed is None:
        files = {name: value for name, value in files.items() if not name.endswith("/speed")}
    assert devices.nics(host(files)) == [{"name": "eth0", "speed_mbps": expected, "numa_node": 0, "driver": "mlx5_core"}]


def test_a_link_out_of_the_root_is_none(host, tmp_path):
    root = host({"/sys/class/net/": None})
    (tmp_path / "sys/class/net/eth0").symlink_to("/sys/class/net/lo")
    assert devices.nics(root) == []
    assert root.resolve("/sys/class/net/eth0") is None


def test_memory_devices(described, host):
    assert devices.memory_devices(Root(described("cxl-memory"))) == {
        "persistent_memory": [],
        "cxl": [{"name": "mem0", "ram_bytes": 128 << 30, "pmem_bytes": 0, "numa_node": 0}],
        "dax": [{"name": "dax0.0", "size_bytes": 128 << 30, "numa_node": None, "target_node": 2, "driver": "kmem"}],
    }
    base = "/sys/devices/ndbus0/region1/namespace1.0"
    root = host(
        {
            "/sys/bus/nd/devices/namespace1.0": f"-> {base}",
            f"{base}/size": 1 << 30,
            f"{base}/numa_node": 1,
            "/sys/bus/nd/devices/namespace1.1": "-> /sys/devices/ndbus0/region1/namespace1.1",
            "/sys/devices/ndbus0/region1/namespace1.1/size": 0,
        }
    )
    assert devices.memory_devices(root)["persistent_memory"] == [{"name": "namespace1.0", "size_bytes": 1 << 30, "numa_node": 1}]
