# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine as a test host, emulated (no KVM): two sockets, two NUMA nodes, real governors, C-states and hugepages.

  vm up               boot from a clean disk and wait until that is done; writes the inventory build/lab/vm.yml
  vm up --show DIR    the same, with the files of a directory of this machine read-only below /mnt
  vm up --no-wait     boot in the background; `vm wait` later
  vm wait             until the boot is done
  vm reboot           restart the guest, which keeps its disk, and wait until the new boot is done
  vm ssh -- COMMAND   run a command in it, or a shell
  vm down             end it; its disk is gone

Each takes --name for a VM of another name.

The frequency driver is loaded late in the boot, after sshd's start, as drivers sometimes are: what sets governors must cope.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lab
import ssdt

NODES = 2
CPUS = 4
MEMORY_MIB = 4096
DISK = "6G"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
MODULES = ["drivers/cpufreq", "drivers/virtio", "drivers/block/virtio_blk.ko", "drivers/net/virtio_net.ko", "drivers/net/net_failover.ko",
           "net/core/failover.ko", "arch/x86/kernel/msr.ko", "fs/overlayfs", "net/ipv6"]  # fmt: skip
# Loaded by the initrd, in this order.
BOOT_MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk", "failover", "net_failover", "virtio_net"]
# Needless here, and slow under emulation.
MASKED = ["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "haproxy.service",
          "getty.target", "getty@tty1.service", "getty-static.service", "ldconfig.service", "serial-getty@ttyS0.service", "systemd-firstboot.service",
          "systemd-hwdb-update.service", "systemd-journal-catalog-update.service", "systemd-logind.service", "systemd-pcrphase.service",
          "systemd-pcrphase-initrd.service", "systemd-pcrphase-sysinit.service", "systemd-pstore.service", "systemd-random-seed.service",
          "systemd-update-done.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service"]  # fmt: skip

INIT = """#!/bin/busybox sh
# Mount the disk, bring the network up, hand over.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in {modules}; do insmod /$module.ko; done
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
mount -t ext4 -o noatime /dev/vda /root
[ ! -b /dev/vdb ] || mount -t ext4 -o ro /dev/vdb /root/mnt
cp -a /guest/. /root/
umount /proc
exec switch_root /root /sbin/init
"""

LATE_DRIVER = """[Unit]
Description=Load the frequency driver late (a test host's own)
After=ssh.service

[Service]
Type=oneshot
ExecStart=/sbin/modprobe --all cpufreq_powersave cpufreq_ondemand cpufreq_conservative cpufreq_userspace
ExecStart=/sbin/modprobe acpi-cpufreq

[Install]
WantedBy=multi-user.target
"""

FILES = {
    "/etc/fstab": "/dev/vda / ext4 noatime 0 1\n",
    "/etc/hostname": "vm\n",
    "/etc/hosts": "127.0.0.1 localhost vm\n",
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/etc/resolv.conf": "nameserver 10.0.2.3\n",
    "/etc/modprobe.d/late.conf": "# late-driver.service loads it\nblacklist acpi_cpufreq\n",
    "/etc/systemd/system/late-driver.service": LATE_DRIVER,
    "/etc/ssh/sshd_config.d/lab.conf": "UseDNS no\nUsePAM no\nHostKey /etc/ssh/ssh_host_ed25519_key\n",
}


def kernel():
    """The directory with Debian's cloud kernel unpacked (boot/, lib/modules/), and its release."""
    lab.unpacked(KERNEL_PACKAGE)
    # The package of that name is empty and depends on the one of the newest release.
    package = re.search(r"Depends: (linux-image-\S+)", lab.output("apt-cache", "depends", KERNEL_PACKAGE))[1]
    return lab.unpacked(package), package.removeprefix("linux-image-")


def disk():
    """The directory in the cache with disk, vmlinuz, initrd and ssdt.aml, made when their recipe is new."""
    lab.need_root()
    lab.need("apt-config", "cpio", "depmod", "iasl", "mke2fs", "qemu-system-x86_64", "ssh")
    base = lab.base_tarball("bookworm-services")
    with lab.locked("vm"):
        tree, release = kernel()
        made = lab.CACHE / f"vm-{lab.digest(base.name, tree.name, Path(__file__).read_text(), Path(ssdt.__file__).read_text())}"
        if not made.exists():
            print(f"tests/lab: making {made.name}", file=sys.stderr)
            with tempfile.TemporaryDirectory(dir=lab.CACHE) as work:
                make_disk(Path(work), base, tree, release)
                for old in lab.CACHE.glob("vm-????????????"):
                    shutil.rmtree(old)
                Path(work, "out").rename(made)
    return made


def make_disk(work, base, tree, release):
    """Make work/out/{disk, vmlinuz, initrd, ssdt.aml}."""
    root, out, boot = work / "root", work / "out", work / "initrd"
    for directory in (root, out, boot / "bin", boot / "dev", boot / "proc", boot / "root"):
        directory.mkdir(parents=True)
    lab.run("tar", "-C", root, "-xf", base)
    modules = f"lib/modules/{release}"
    target = root / "usr" / modules
    for name in MODULES:
        source = tree / modules / "kernel" / name
        (target / "kernel" / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / "kernel" / name)
        elif source.exists():
            shutil.copyfile(source, target / "kernel" / name)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copyfile(tree / modules / name, target / name)
    lab.run("depmod", "-b", root / "usr" if not (root / "lib").is_symlink() else root, release)
    shutil.copyfile(tree / f"boot/config-{release}", root / f"boot/config-{release}")
    files, shown = lab.host_files()
    if shown:
        # pip's configuration names directories of this machine.
        del files["/etc/pip.conf"]
    lab.lay({**FILES, **files}, root)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (root / "etc/systemd/system/multi-user.target.wants/late-driver.service").symlink_to("/etc/systemd/system/late-driver.service")
    shutil.rmtree(root / "var/lib/apt/lists")
    lab.run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-d", root, out / "disk", DISK, stdout=subprocess.DEVNULL)

    for name in BOOT_MODULES:
        shutil.copyfile(next((tree / modules).rglob(f"{name}.ko")), boot / f"{name}.ko")
    shutil.copy(lab.unpacked("busybox-static") / "bin/busybox", boot / "bin/busybox")
    (boot / "init").write_text(INIT.format(modules=" ".join(BOOT_MODULES)))
    (boot / "init").chmod(0o755)
    archive(boot, out / "initrd")
    shutil.copyfile(tree / f"boot/vmlinuz-{release}", out / "vmlinuz")

    (work / "ssdt.asl").write_text(ssdt.source(CPUS))
    lab.run("iasl", "-p", out / "ssdt", work / "ssdt.asl", stdout=subprocess.DEVNULL)


def archive(directory, path):
    """Pack a directory as an initrd."""
    names = "\n".join(sorted(str(name.relative_to(directory)) for name in directory.rglob("*")))
    with path.open("wb") as handle:
        lab.run("cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", cwd=directory, input=names, stdout=handle)


def free_port():
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def state(name):
    """The directory of the running VM `name`."""
    return lab.BUILD / "vm" / name


def process(name):
    """The process id of the running VM `name`, or None."""
    try:
        pid = int((state(name) / "pid").read_text())
        # A number alone could be somebody else's by now.
        return pid if str(state(name) / "pid") in Path(f"/proc/{pid}/cmdline").read_text() else None
    except (OSError, ValueError):
        return None


def start(name, show=None):
    """Start the VM from a clean disk, in the background, with the files of the directory `show` on a second one."""
    made = disk()
    stop(name)
    directory = state(name)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        # The keys come with the initrd, so that the disk holds none. The kernel takes archives one after another.
        lab.lay(lab.guest_ssh_files(), Path(work) / "guest")
        for path in Path(work).rglob("*"):
            path.chmod(0o600 if path.is_file() else 0o755)
        (Path(work) / "guest/root/.ssh").chmod(0o700)
        (Path(work) / "guest/root").chmod(0o700)
        archive(Path(work), directory / "keys")
    (directory / "initrd").write_bytes((made / "initrd").read_bytes() + (directory / "keys").read_bytes())
    shown = []
    if show:
        # Room for each file's last block and for the file system itself.
        size = sum(path.stat().st_size + 4096 for path in Path(show).rglob("*")) * 5 // 4 + 2**24
        lab.run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", show, directory / "shown", f"{size // 1024}K", stdout=subprocess.DEVNULL)
        shown = ["-drive", f"file={directory / 'shown'},format=raw,if=virtio,readonly=on"]
    port = free_port()
    memory, cpus = MEMORY_MIB // NODES, CPUS // NODES
    numa = [option for node in range(NODES) for option in (
        "-object", f"memory-backend-ram,id=m{node},size={memory}M",
        "-numa", f"node,nodeid={node},memdev=m{node},cpus={node * cpus}-{(node + 1) * cpus - 1}",
    )]  # fmt: skip
    distances = [option for here in range(NODES) for there in range(NODES) if here != there for option in ("-numa", f"dist,src={here},dst={there},val=21")]
    lab.run(
        "qemu-system-x86_64", "-name", f"ainode-lab-{name}", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "Cascadelake-Server",
        "-smp", f"{CPUS},sockets={NODES},cores={cpus}", "-m", f"{MEMORY_MIB}", *numa, *distances,
        "-acpitable", f"file={made / 'ssdt.aml'}", "-device", "pc-testdev",
        "-drive", f"file={made / 'disk'},format=raw,if=virtio,snapshot=on,cache=unsafe", *shown,
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net,romfile=",
        "-kernel", made / "vmlinuz", "-initrd", directory / "initrd",
        "-append", "console=ttyS0 panic=-1 mitigations=off quiet tsc=reliable net.ifnames=0 cpufreq.default_governor=powersave",
        "-display", "none", "-vga", "none", "-monitor", "none", "-serial", f"file:{directory / 'console'}", "-daemonize", "-pidfile", directory / "pid",
        stderr=(directory / "qemu.log").open("w"),
    )  # fmt: skip
    return lab.write_inventory(name, {name: {"address": "127.0.0.1", "port": port}})


def ssh_command(name):
    """The words of an ssh command to the VM `name`, from its inventory."""
    try:
        port = re.search(r'"ansible_port": (\d+)', (lab.BUILD / f"{name}.yml").read_text())[1]
    except OSError:
        raise lab.LabError(f"no VM '{name}' is up: start it with 'tests/lab/vm up --name {name}'") from None
    return ["ssh", *lab.ssh_options(), "-p", port, "root@127.0.0.1"]


def wait(name, seconds=900, not_boot=None):
    """Return the boot id of the VM once all of its boot is done; `not_boot` is one that does not count. LabError after `seconds`."""
    deadline = time.monotonic() + seconds
    # `--wait` returns when no unit is left to start: the late driver too.
    question = "systemctl is-system-running --wait; cat /proc/sys/kernel/random/boot_id"
    while time.monotonic() < deadline:
        if not process(name):
            raise lab.LabError(f"VM '{name}' is not running; its last words are in {state(name) / 'console'}")
        result = lab.run(*ssh_command(name), "-o", "ConnectTimeout=15", question, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        lines = result.stdout.split()
        if len(lines) == 2 and lines[1] != not_boot:
            if lines[0] != "running":
                failed = lab.output(*ssh_command(name), "systemctl --failed --plain --no-legend", check=False)
                raise lab.LabError(f"VM '{name}' is '{lines[0]}' after its boot, expected 'running'. Failed units: {failed or 'none'}")
            return lines[1]
        time.sleep(1)
    raise lab.LabError(f"VM '{name}' did not boot within {seconds} s; its console is {state(name) / 'console'}")


def stop(name):
    """End the VM `name`, if it runs, and forget its disk."""
    pid = process(name)
    if pid:
        os.kill(pid, signal.SIGTERM)
        for _dummy in range(100):
            if not process(name):
                break
            time.sleep(0.1)
        else:
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(state(name), ignore_errors=True)
    (lab.BUILD / f"{name}.yml").unlink(missing_ok=True)


def up(options):
    """Boot from a clean disk."""
    path = start(options.name, options.show)
    if not options.no_wait:
        wait(options.name)
    print(path)


def reboot(options):
    """Restart the guest; its disk stays."""
    before = wait(options.name)
    lab.run(*ssh_command(options.name), "systemctl start --no-block reboot.target", check=False)
    wait(options.name, not_boot=before)


def down(options):
    """End the VM; its disk is gone."""
    stop(options.name)


def wait_for(options):
    """Wait until the boot is done."""
    wait(options.name)


def ssh(options):
    """Run a command in the VM, or a shell; its exit code is ours."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    return lab.run(*ssh_command(options.name), *command, check=False).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True, metavar="up|wait|reboot|ssh|down")
    for action, function in (("up", up), ("wait", wait_for), ("reboot", reboot), ("ssh", ssh), ("down", down)):
        command = actions.add_parser(action, help=function.__doc__)
        command.add_argument("--name", default="vm", help="default: vm")
        command.set_defaults(function=function)
        if action == "up":
            command.add_argument("--show", metavar="DIR", help="a directory that the guest finds below /mnt")
            command.add_argument("--no-wait", action="store_true", help="return while it boots")
        if action == "ssh":
            command.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    return options.function(options)


if __name__ == "__main__":
    lab.main(main)
