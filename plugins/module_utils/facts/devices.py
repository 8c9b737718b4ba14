# Copyright (c) 2026, The ainode.cpu authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Network interfaces, disks, and memory that is a device: persistent memory, CXL, DAX. Physical ones alone: no bridges, VLANs, loops.

Sources: Documentation/ABI/testing/sysfs-class-net, Documentation/ABI/stable/sysfs-block, sysfs-bus-nvdimm, sysfs-bus-cxl, sysfs-bus-dax.
"""

from __future__ import annotations

import os
import re

# A part of the device's path in sysfs, and the transport it means; the first that fits.
_TRANSPORTS = (
    ("/nvme", "nvme"),
    ("/virtio", "virtio"),
    ("/usb", "usb"),
    ("/ata", "sata"),
    ("/end_device-", "sas"),
    ("/mmc", "mmc"),
    ("/vbd-", "xen"),
    ("/rport-", "fc"),
    ("/session", "iscsi"),
)
# Controllers of SCSI disks by their driver, where the path does not tell (SATA before Linux 2.6.39).
_CONTROLLERS = {
    "ahci": "sata",
    "ata_piix": "sata",
    "mpt2sas": "sas",
    "mpt3sas": "sas",
    "megaraid_sas": "sas",
    "aacraid": "sas",
    "hpsa": "sas",
    "smartpqi": "sas",
    "hv_storvsc": "scsi",
    "pvscsi": "scsi",
    "vmw_pvscsi": "scsi",
}
_NOT_DISKS = ("sr", "fd", "pmem", "mtdblock")


def read(root):
    """Return facts.devices: nics [{name, speed_mbps, numa_node, driver}] and disks [{name, rotational, transport, numa_node, size_bytes}]."""
    return {"nics": nics(root), "disks": disks(root)}


def nics(root):
    """Return the network interfaces that have a device behind them. speed_mbps is null while the link is down or does not tell."""
    found = []
    for name in root.names("/sys/class/net"):
        base = "/sys/class/net/" + name
        if _is_physical(root, base):
            speed = root.read_int(base + "/speed")
            found.append(
                {
                    "name": name,
                    "speed_mbps": speed if speed and speed > 0 else None,
                    "numa_node": numa_node(root, base),
                    "driver": root.link(base + "/device/driver"),
                }
            )
    return found


def disks(root):
    """Return the block devices that are disks. rotational is null where the kernel does not tell, transport where its bus has no name here."""
    found = []
    top = _block_class(root)
    names = root.names(top)
    for name in names:
        base = f"{top}/{name}"
        # A partition lies in its disk's directory.
        if name.startswith(_NOT_DISKS) or not _is_physical(root, base) or os.path.basename(os.path.dirname(root.resolve(base))) in names:
            continue
        sectors = root.read_int(base + "/size")
        found.append(
            {
                "name": name,
                "rotational": {"0": False, "1": True}.get(root.read(base + "/queue/rotational")),
                "transport": transport(root, base),
                "numa_node": numa_node(root, base),
                # The kernel counts sectors of 512 bytes, whatever the disk's own are.
                "size_bytes": sectors * 512 if sectors is not None and sectors >= 0 else None,
            }
        )
    return found


def _block_class(root):
    return "/sys/class/block" if root.is_dir("/sys/class/block") else "/sys/block"


def transport(root, base):
    """Return nvme, virtio, usb, sata, sas, scsi, … by the place of the block device `base` in the device tree; null where that says nothing."""
    if os.path.basename(base).startswith("nvme"):
        return "nvme"
    path = root.resolve(base) or ""
    told = next((name for mark, name in _TRANSPORTS if mark in path), None)
    while told is None and path.startswith("/sys/devices/"):
        told = _CONTROLLERS.get(root.link(path + "/driver"))
        path = os.path.dirname(path)
    return told


def numa_node(root, name):
    """Return the NUMA node of the device `name`: its own or that of the nearest parent that has one; null where none is told (-1)."""
    path = root.resolve(name) or ""
    # NVMe under native multipath: the disk lies in a virtual subsystem, which links to its controllers.
    controllers = root.names(os.path.dirname(path), "nvme[0-9]*") if path.startswith("/sys/devices/virtual/nvme-subsystem/") else []
    paths = [path] + [root.resolve(f"{os.path.dirname(path)}/{controller}") or "" for controller in controllers]
    for path in paths:
        while path.startswith("/sys/devices/"):
            node = root.read_int(path + "/numa_node")
            if node is not None and node >= 0:
                return node
            path = os.path.dirname(path)
    return None


def _is_physical(root, base):
    """Return whether a device stands behind the class entry `base`: bridges, loops, RAID and mappings lie below /sys/devices/virtual."""
    path = root.resolve(base) or "/sys/devices/virtual/"
    return not path.startswith("/sys/devices/virtual/") or path.startswith("/sys/devices/virtual/nvme-subsystem/")


def memory_devices(root):
    """Return {persistent_memory, cxl, dax}, lists of the devices that bring memory beside the DIMMs:

    persistent_memory [{name, size_bytes, numa_node}] by namespace, or by block device where the bus is not told;
    cxl [{name, ram_bytes, pmem_bytes, numa_node}];
    dax [{name, size_bytes, numa_node, target_node, driver}], where driver kmem means that it is the memory of node target_node.
    """
    persistent = []
    for name in root.names("/sys/bus/nd/devices", "namespace*"):
        base = "/sys/bus/nd/devices/" + name
        size = root.read_int(base + "/size")
        if size:
            persistent.append({"name": name, "size_bytes": size, "numa_node": numa_node(root, base)})
    if not root.is_dir("/sys/bus/nd"):
        for name in root.names(_block_class(root), "pmem*"):
            base = f"{_block_class(root)}/{name}"
            sectors = root.read_int(base + "/size")
            if sectors:
                persistent.append({"name": name, "size_bytes": sectors * 512, "numa_node": numa_node(root, base)})
    cxl = []
    for name in root.names("/sys/bus/cxl/devices", "mem[0-9]*"):
        base = "/sys/bus/cxl/devices/" + name
        cxl.append(
            {
                "name": name,
                "ram_bytes": _hexadecimal(root, base + "/ram/size"),
                "pmem_bytes": _hexadecimal(root, base + "/pmem/size"),
                "numa_node": numa_node(root, base),
            }
        )
    dax = []
    for name in root.names("/sys/bus/dax/devices"):
        base = "/sys/bus/dax/devices/" + name
        target = root.read_int(base + "/target_node")
        dax.append(
            {
                "name": name,
                "size_bytes": root.read_int(base + "/size"),
                "numa_node": numa_node(root, base),
                "target_node": target if target is not None and target >= 0 else None,
                "driver": root.link(base + "/driver"),
            }
        )
    return {"persistent_memory": persistent, "cxl": cxl, "dax": dax}


def _hexadecimal(root, name):
    text = root.read(name) or ""
    return int(text, 16) if re.match(r"0x[0-9a-fA-F]{1,16}\Z", text) else None
