"""Images that buildah builds and podman runs, without Docker and without a registry, in a folder of their own.

Nothing is left outside the folder: storage, locks and volumes are below it, and what is mounted is mounted for the
process that needs it alone.
"""

import ast
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ROOT

_PROGRAMS = ("buildah", "podman", "crun", "debootstrap", "unshare", "nsenter", "tar")
_SYSTEM = {"PATH": f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"}
_APART = [
    *("unshare", "--mount", "sh", "-c"),
    # Caches have fixed places. And crun refuses machines with cgroups of both versions; it needs neither here.
    "for place in /var/lib/containers /run/containers; do mkdir -p $place; mount -t tmpfs none $place; done\n"
    'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"',
    "sh",
]
_PLAIN = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SOURCES = {"index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "client-cert"}
_SOURCES |= {"constraint", "timeout", "default-timeout", "retries"}
_ENGINE = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "crun"
tmp_dir = "{0}/tmp"
"""
_STORAGE = """[storage]
driver = "{1}"
graphroot = "{0}/graph"
runroot = "{0}/run"
"""


class Storage:
    """Where images and volumes are; skips the tests where there cannot be any.

    `STORAGE_DRIVER`, which buildah and podman read themselves, says how layers are stored: `overlay` is taken where it
    works, else `vfs`, which works everywhere and copies whole images.

    Args:
        folder: For all files; empty.
    """

    def __init__(self, folder):
        missing = [name for name in _PROGRAMS if not shutil.which(name, path=_SYSTEM["PATH"])]
        if missing:
            pytest.skip(f"{', '.join(missing)} not installed (Debian: apt-get install buildah podman crun debootstrap)")
        if os.geteuid() != 0:
            pytest.skip("images are built as root")
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
            pytest.skip("this process may not mount anything, which building and running images takes")
        self.folder = folder
        self._environment = {
            **os.environ,
            **_SYSTEM,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "TMPDIR": str(folder / "scratch"),
        }
        (folder / "scratch").mkdir()
        (folder / "containers.conf").write_text(_ENGINE.format(folder))
        given = os.environ.get("STORAGE_DRIVER")
        for self.driver in [given] if given else ["overlay", "vfs"]:
            (folder / "storage.conf").write_text(_STORAGE.format(folder, self.driver))
            if self.run("buildah", "info", check=False).returncode == 0:
                break
        else:
            pytest.fail("buildah can store nothing here")
        self._pip = _pip_settings(folder / "pip.conf")

    def run(self, *command, check=True, seconds=900, cwd=None, beside=None):
        """Runs a program on this storage; output and errors come as one text.

        `beside` is a process of which it sees the mounts.
        """
        where = ["nsenter", "--mount", f"--target={beside.pid}"] if beside else _APART
        done = subprocess.run(
            [*where, *command],
            env=self._environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)[:200]}\n{done.stdout[-6000:]}"
        return done

    def make_base(self):
        """Runs docker/base.sh; skips where no mirror of Debian's packages is reached."""
        done = self.run(str(ROOT / "docker/base.sh"), check=False)
        if "Failed getting release file" in done.stdout:
            pytest.skip("no mirror of Debian's packages is reached; DEBIAN_MIRROR names one")
        assert done.returncode == 0, done.stdout[-4000:]

    def build(self, kind, **arguments):
        """Builds a Dockerfile of ours from the working tree, every step of it; the name of the image, and the log.

        pip reads this machine's settings, from files that are mounted while it builds and are not in the image.
        """
        if "TORCH_INDEX_URL" in os.environ:
            arguments["TORCH_INDEX_URL"] = os.environ["TORCH_INDEX_URL"]
        name = f"icmformer:{kind}"
        options = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        options += [word for mount in self._pip for word in ("--volume", mount)]
        # docker's own format: images of the other one have no HEALTHCHECK
        command = ["buildah", "bud", "--isolation", "chroot", "--pull=never", "--format", "docker", *options]
        done = self.run(*command, "-f", f"Dockerfile.{kind}", "-t", name, ".", cwd=ROOT)
        return name, done.stdout

    def inspect(self, name):
        """What podman says of an image."""
        (found,) = json.loads(self.run("podman", "image", "inspect", name).stdout)
        return found

    def inside(self, image, *command, options=()):
        """What a command prints in a container that ends with it."""
        return self.run(*_podman(options), image, *command).stdout

    def start(self, image, log, *command, name, options=()):
        """A container that goes on."""
        return Container(self, [*_podman(options), "--name", name, image, *command], name, log)

    def remove(self):
        """Ends what is still running and deletes everything."""
        for program in (["podman", "rm", "--all", "--force", "--time", "0"], ["buildah", "rm", "--all"]):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.run(*program, check=False, seconds=120)
        shutil.rmtree(self.folder, ignore_errors=True)


class Container:
    """A running container. podman stays in the foreground and hands signals on."""

    def __init__(self, storage, command, name, log):
        self.name, self.log, self._storage = name, log, storage
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*_APART, *command],
                env=storage._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._begun = time.monotonic()

    def wait_for(self, url):
        """Seconds until an address answered."""
        while True:
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() - self._begun < 120, self.log.read_text()  # the start period of HEALTHCHECK
            with contextlib.suppress(OSError), _PLAIN.open(url, timeout=5):
                return time.monotonic() - self._begun
            time.sleep(0.05)

    def ended(self):
        """Waits until it has ended by itself; its exit status."""
        return self._process.wait(120)

    def succeeds(self, command):
        """Whether a command does, run inside, as Docker runs a HEALTHCHECK."""
        return (
            self._storage.run("podman", "exec", self.name, *command, check=False, beside=self._process).returncode == 0
        )

    def stop(self):
        """Asks it to end, as `docker stop` does; its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._storage.run("podman", "kill", self.name, check=False, beside=self._process)
                self._process.wait(30)
        return self._process.returncode


def ask(url, body=None, login=None):
    """A reply's JSON; `login` is a user and a password."""
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
    call = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with _PLAIN.open(call, timeout=60) as reply:
        return json.load(reply)


def need_a_cpu_build_of_torch():
    """Skips where pip would fetch the CUDA build, or finds no packages."""
    if os.environ.get("TORCH_INDEX_URL"):
        return
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--report", "-", "--constraint", str(ROOT / "constraints/cpu.txt"), "torch"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip("pip finds no torch: no package index is reached")
    found = json.loads(done.stdout)["install"][0]["metadata"]["version"]
    if not found.endswith("+cpu"):
        pytest.skip(f"pip would fetch torch {found}, gigabytes of CUDA: TORCH_INDEX_URL names an index of CPU builds")


def _podman(options):
    # The network is the machine's: Label Studio's stand-in serves there. Cgroups cannot be made everywhere, and podman
    # repeats a health check by systemd.
    return ["podman", "run", "--rm", "--network=host", "--cgroups=disabled", "--no-healthcheck", *options]


def _pip_settings(file):
    """Puts where pip on this machine gets packages from, by its files and the environment, into one file.

    Returns:
        Mounts for a build: that file, and the files and folders that it names.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if key in _SOURCES and section in ("global", "install", ":env:"):
            value = " ".join(ast.literal_eval(value).split())
            found[key] = value if section == ":env:" else found.get(key, value)
    file.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in found.items()))
    mounts = {"/etc/pip.conf": file}
    for word in " ".join(found.values()).split():
        place = Path(word.removeprefix("file://"))
        if word.startswith("file://") and len(place.parts) > 2:
            place = place.parent  # pages of an index lead to files beside it
        if place.is_absolute() and place.exists():
            mounts[str(place)] = place
    return [f"{source}:{target}:ro" for target, source in mounts.items()]
