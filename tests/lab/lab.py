# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands of the lab share: tools, base systems, keys, the machine's way to the package registries, inventories.

A test host is made by root on a Debian machine, and all of it stays below CACHE (base systems, kept between runs) and
build/lab (keys, inventories, the state of running hosts).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = CHECKOUT / "build" / "lab"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ainode-lab"

# command -> the Debian package that brings it
PACKAGES = {
    "curl": "curl",
    "apt-config": "apt",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "cpio": "cpio",
    "depmod": "kmod",
    "git": "git",
    "iasl": "acpica-tools",
    "ip": "iproute2",
    "iptables": "iptables",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "podman": "podman",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-x86_64": "qemu-user",
    "runc": "runc",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}
PACKAGE_FILES = {"netavark": "/usr/lib/podman/netavark", "aardvark-dns": "/usr/lib/podman/aardvark-dns"}

# What every node has. Left out on purpose: compilers, pip, venv, the kernel (a VM brings its own).
NODE = [
    "ca-certificates", "dbus", "git", "iproute2", "kmod", "linux-cpupower", "make", "numactl", "openssh-server",
    "procps", "python3", "sudo", "systemd", "systemd-sysv", "udev",
]  # fmt: skip
# What the roles would install from Debian for the services: under emulation that takes minutes.
SERVICES = ["haproxy", "python3-venv"]
# Someone's empty machine: what the README asks for and nothing else.
BARE = ["git", "make", "python3"]
IMAGES = {
    "bookworm": ("bookworm", NODE),
    "bookworm-bare": ("bookworm", BARE),
    "bookworm-services": ("bookworm", NODE + SERVICES),
    "trixie": ("trixie", NODE),
}


class LabError(Exception):
    """Something the lab needs is missing or did not happen; the text says what to do."""


def main(function):
    """Run a command's entry point; a LabError ends it as one line on stderr and exit code 1."""
    # What is laid into a host is read there by others than root.
    os.umask(0o022)
    try:
        sys.exit(function())
    except LabError as error:
        sys.exit(f"tests/lab: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"tests/lab: exit code {error.returncode} from: {shlex.join(map(str, error.cmd))}")
    except KeyboardInterrupt:
        sys.exit(130)


def run(*command, check=True, text=True, **options):
    """Run a command to its end and return the CompletedProcess (text); raises CalledProcessError unless check=False."""
    return subprocess.run([str(word) for word in command], check=check, text=text, **options)


def output(*command, **options):
    """What a command prints, stripped."""
    return run(*command, stdout=subprocess.PIPE, **options).stdout.strip()


def need(*commands):
    """Have these commands (keys of PACKAGES or PACKAGE_FILES): as root install what is missing, otherwise raise LabError naming it."""
    missing = sorted(
        {PACKAGES[name] for name in commands if name in PACKAGES and not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")}
        | {name for name in commands if not os.path.exists(PACKAGE_FILES.get(name, "/"))}
    )
    if not missing:
        return
    line = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() or not shutil.which("apt-get"):
        raise LabError(f"missing: {', '.join(missing)}. Install with (as root): {line}")
    print(f"tests/lab: installing {' '.join(missing)}", file=sys.stderr)
    apt("apt-get update", line)


def apt(*lines, **options):
    """Run these apt-get commands, one process at a time; LabError with the end of the output when one fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with locked("apt"):
        for line in lines:
            result = run(*line.split(), "-q", check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, **options)
            if result.returncode:
                raise LabError(f"'{line}' failed:\n{result.stdout[-2000:]}")


def candidate(package):
    """The version of a package that apt would install, or None."""
    shown = output("apt-cache", "show", "--no-all-versions", package, check=False, stderr=subprocess.DEVNULL)
    match = re.search(r"^Version: (.+)$", shown, re.MULTILINE)
    return match and match[1]


def unpacked(package):
    """The directory in the cache with the files of a Debian package, downloaded if this version is not there; nothing is installed."""
    version = candidate(package)
    if not version:
        apt("apt-get update")
        version = candidate(package)
    if not version:
        raise LabError(f"apt knows no package '{package}': the lab wants an amd64 Debian machine")
    directory = CACHE / f"deb-{digest(package, version)}"
    with locked("deb"):
        if not directory.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                try:
                    apt(f"apt-get download {package}", cwd=work)
                except LabError:
                    # The lists may be older than what the mirror still has.
                    apt("apt-get update", f"apt-get download {package}", cwd=work)
                run("dpkg-deb", "--extract", *Path(work).glob("*.deb"), f"{work}/tree")
                Path(work, "tree").rename(directory)
    return directory


def own_mounts():
    """Let this process have a mount namespace of its own: what it mounts from now on, it and its children see alone."""
    need_root()
    clone_newns = 0x00020000  # unshare(2); Python has it from 3.12 on
    if ctypes.CDLL(None, use_errno=True).unshare(clone_newns):
        raise LabError(f"no mount namespace can be made here: {os.strerror(ctypes.get_errno())}")
    run("mount", "--make-rprivate", "/")


def need_root():
    """Raise LabError unless this is root."""
    if os.geteuid():
        raise LabError("test hosts are made by root (mounts, namespaces, image ownership): run this command as root")


@contextlib.contextmanager
def locked(name):
    """One process of the lab at a time does what is called `name`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def digest(*parts):
    """Twelve hex digits that name these inputs (anything JSON can hold)."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


# --- base systems ---------------------------------------------------------------------------------------------------


def base_tarball(name):
    """The base system IMAGES[name] as a tarball in the cache, made by mmdebstrap (half a minute) if its recipe is not there yet."""
    if name not in IMAGES:
        raise LabError(f"no image '{name}': choose one of {', '.join(IMAGES)}")
    suite, packages = IMAGES[name]
    options = [
        "--variant=minbase",
        "--mode=root",
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/usr/share/{path}/*" for path in ("doc", "info", "locale", "man")),
        f"--include={','.join(packages)}",
    ]
    tarball = CACHE / f"{name}-{digest(suite, options)}.tar"
    with locked(name):
        if not tarball.exists():
            need_root()
            need("mmdebstrap", "apt-config")
            print(f"tests/lab: making {tarball.name}", file=sys.stderr)
            partial = tarball.with_suffix(".partial")
            log = CACHE / f"{name}.log"
            with log.open("w") as handle:
                result = run(
                    "mmdebstrap",
                    *options,
                    *(f"--aptopt={line}" for line in apt_transport()),
                    suite,
                    "-",
                    *debian_sources(suite),
                    check=False,
                    stdout=partial.open("wb"),
                    stderr=handle,
                )
            if result.returncode:
                partial.unlink()
                raise LabError(f"mmdebstrap of {suite} failed, the log is {log}:\n{log.read_text()[-2000:]}")
            for old in CACHE.glob(f"{name}-????????????.tar"):
                old.unlink()
            partial.rename(tarball)
    return tarball


# --- this machine's way to the package registries -------------------------------------------------------------------


def apt_transport():
    """This machine's own apt settings about fetching (proxy, certificates, dates) as apt.conf lines; never its sources."""
    keep = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv4")
    return [line for line in output("apt-config", "dump", "Acquire").splitlines() if line.startswith(keep) and '""' not in line]


def debian_sources(suite):
    """sources.list lines for `suite` from the mirror that this machine uses; none (mmdebstrap's default) when it is no Debian or has no lists yet."""
    # All of a repository's targets name the same place.
    fields = "$(SITE) $(REPO_URI) $(ORIGIN) $(LABEL)"
    targets = {tuple(line.split()) for line in output("apt-get", "indextargets", "--format", fields, "Created-By: Packages").splitlines()}
    main_archive = sorted(uri for _site, uri, *names in (target for target in targets if len(target) > 3) if names == ["Debian", "Debian"])
    return [f"deb {main_archive[0]} {suite} main"] if main_archive else []


def host_files():
    """What a guest needs from this machine to reach the package registries as this machine does.

    Returns ({path in the guest: content or source Path}, [local directories to show it read-only]): the certificate authorities,
    apt's transport settings and pip's configuration, whose file: URLs and paths are those directories.
    """
    files, shown = {}, set()
    bundle = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        files["/etc/ssl/certs/ca-certificates.crt"] = bundle
    for certificate in Path("/usr/local/share/ca-certificates").glob("**/*.crt"):
        files[str(certificate)] = certificate
    files["/etc/apt/apt.conf.d/90host"] = "".join(f"{line}\n" for line in apt_transport())
    settings = {}
    for line in output(sys.executable, "-m", "pip", "config", "list", check=False, stderr=subprocess.DEVNULL).splitlines():
        name, _dummy, value = line.partition("=")
        section, _dummy, key = name.rpartition(".")
        if section in ("global", ":env:") and key not in ("config-file", "cache-dir"):
            settings[key] = value.strip("'\"").replace("\\n", "\n")
    if bundle.exists():
        settings["cert"] = "/etc/ssl/certs/ca-certificates.crt"
    for value in settings.values():
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists() and str(path) not in files:
                # An index on disk links to files beside it.
                shown.add(path.parent if word.startswith("file://") or path.is_file() else path)
    files["/etc/pip.conf"] = "[global]\n" + "".join("{} = {}\n".format(key, value.replace("\n", "\n    ")) for key, value in sorted(settings.items()))
    return files, sorted(shown)


def lay(files, root):
    """Write host_files() below the directory `root`."""
    for name, content in files.items():
        path = Path(root) / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_text(content)


# --- ssh and inventories --------------------------------------------------------------------------------------------


def ssh_keys():
    """The directory with this checkout's keys for its test hosts, made once: id (the client's), host (every test host's), known_hosts."""
    directory = BUILD / "ssh"
    with locked("ssh"):
        if not (directory / "known_hosts").exists():
            need("ssh-keygen")
            directory.mkdir(parents=True, exist_ok=True)
            for name in ("id", "host"):
                (directory / name).unlink(missing_ok=True)
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"ainode-lab {name}", "-f", directory / name)
            (directory / "known_hosts").write_text(f"ainode-lab {(directory / 'host.pub').read_text()}")
    return directory


def ssh_options():
    """Options for ssh that trust the lab's host key alone and read nobody's configuration."""
    keys = ssh_keys()
    return ["-F", "none", "-i", str(keys / "id"), "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={keys / 'known_hosts'}",
            "-o", "HostKeyAlias=ainode-lab", "-o", "LogLevel=ERROR"]  # fmt: skip


def guest_ssh_files():
    """Paths and contents that make a guest's sshd ours."""
    keys = ssh_keys()
    return {
        "/root/.ssh/authorized_keys": (keys / "id.pub").read_text(),
        "/etc/ssh/ssh_host_ed25519_key": (keys / "host").read_text(),
    }


def write_inventory(name, hosts):
    """Write build/lab/<name>.yml for {host: {address, port}}: an Ansible inventory of the group ainode, reached by ssh as root."""
    path = BUILD / f"{name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    inventory = {
        "ainode": {
            "hosts": {host: {"ansible_host": where["address"], "ansible_port": where["port"]} for host, where in hosts.items()},
            "vars": {"ansible_user": "root", "ansible_python_interpreter": "/usr/bin/python3", "ansible_ssh_common_args": shlex.join(ssh_options())},
        }
    }
    # JSON is YAML, and needs no library.
    path.write_text(json.dumps(inventory, indent=2) + "\n")
    return path
