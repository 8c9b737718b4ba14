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
_TRANSPORTS = (("/nvme", "nvme"), ("/virtio", "virtio"), ("/usb", "usb"), ("/ata", "sata"), ("/end_device-", "sas"), ("/mmc", "mmc"), ("/vbd-", "xen"),
               ("/rport-", "fc"), ("/session", "iscsi"))
# Controllers of SCSI disks by their driver, where the path does not tell (SATA before Linux 2.6.39).
_CONTROLLERS = {"ahci": "sata", "ata_piix": "sata", "mpt2sas": "sas", "mpt3sas": "sas", "megaraid_sas": "sas", "aacraid": "sas", "hpsa": "sas",
                "smartpqi": "sas", "hv_storvsc": "scsi", "pvscsi": "scsi", "vmw_pvscsi": "scsi"}
_NOT_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "rbd", "drbd", "pmem", "mtdblock")


def read(root):
    """Return facts.devices: nics [{name, speed_mbps, numa_node, driver}] and disks [{name, rotational, transport, numa_node, size_bytes}]."""
    return {"nics": nics(root), "disks": disks(root)}


def nics(root):
    """Return the network interfaces that have a device behind them. speed_mbps is null while the link is down or does not tell."""
    found = []
    for name in root.names("/sys/class/net"):
        base = "/sys/class/net/" + name
        if root.exists(base + "/device"):
            speed = root.read_int(base + "/speed")
            found.append({"name": name, "speed_mbps": speed if speed and speed > 0 else None, "numa_node": numa_node(root, base + "/device"),
                          "driver": root.link(base + "/device/driver")})
    return found


def disks(root):
    """Return the block devices that are disks. rotational is null where the kernel does not tell; transport null where its bus has no name here."""
    found = []
    top = "/sys/block" if root.is_dir("/sys/block") else "/sys/class/block"
    for name in root.names(top):
        base = f"{top}/{name}"
        if name.startswith(_NOT_DISKS) or root.exists(base + "/partition") or not root.exists(base + "/device"):
            continue
        sectors = root.read_int(base + "/size")
        found.append({
            "name": name,
            "rotational": {"0": False, "1": True}.get(root.read(base + "/queue/rotational")),
            "transport": transport(root, base),
            "numa_node": numa_node(root, base + "/device"),
            # The kernel counts sectors of 512 bytes, whatever the disk's own are.
            "size_bytes": sectors * 512 if sectors is not None and sectors >= 0 else None,
        })
    return found


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
    path = root.resolve(name)
    while path and path.startswith("/sys/devices/"):
        node = root.read_int(path + "/numa_node")
        if node is not None and node >= 0:
            return node
        path = os.path.dirname(path)
    # NVMe under native multipath: the disk belongs to a subsystem, whose controllers are the devices.
    controllers = root.names(name, "nvme[0-9]*")
    return numa_node(root, f"{name}/{controllers[0]}/device") if controllers and root.exists(f"{name}/{controllers[0]}/device") else None


def memory_devices(root):
    """Return {persistent_memory, cxl, dax}, lists of the devices that bring memory beside the DIMMs:

    persistent_memory [{name, size_bytes, numa_node}] by namespace; cxl [{name, ram_bytes, pmem_bytes, numa_node}];
    dax [{name, size_bytes, numa_node, target_node, driver}], where driver kmem means that it is the memory of node target_node.
    """
    persistent = []
    for name in root.names("/sys/bus/nd/devices", "namespace*"):
        base = "/sys/bus/nd/devices/" + name
        size = root.read_int(base + "/size")
        if size:
            persistent.append({"name": name, "size_bytes": size, "numa_node": numa_node(root, base)})
    cxl = []
    for name in root.names("/sys/bus/cxl/devices", "mem[0-9]*"):
        base = "/sys/bus/cxl/devices/" + name
        cxl.append({"name": name, "ram_bytes": _hexadecimal(root, base + "/ram/size"), "pmem_bytes": _hexadecimal(root, base + "/pmem/size"),
                    "numa_node": numa_node(root, base)})
    dax = []
    for name in root.names("/sys/bus/dax/devices"):
        base = "/sys/bus/dax/devices/" + name
        target = root.read_int(base + "/target_node")
        dax.append({"name": name, "size_bytes": root.read_int(base + "/size"), "numa_node": numa_node(root, base),
                    "target_node": target if target is not None and target >= 0 else None, "driver": root.link(base + "/driver")})
    return {"persistent_memory": persistent, "cxl": cxl, "dax": dax}


def _hexadecimal(root, name):
    text = root.read(name) or ""
    return int(text, 16) if re.match(r"0x[0-9a-fA-F]{1,16}\Z", text) else None
