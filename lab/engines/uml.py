"""The virtual kernel: user-mode Linux, built once from the distribution's kernel source and kept in a cache.

The source is Debian's `linux-source-*` package, the configuration data/virtual-kernel.config, the change
data/virtual-kernel.patch (no randomness from the host), or its form for newer sources beside it.  A build is kept
under a key made of these three, so a change of any of them makes another kernel beside the old one, and an
interrupted build leaves nothing that looks finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from lab.errors import LabError, MissingFeature, UsageError

_DATA: Final = Path(__file__).parent / "data"
CONFIG: Final = _DATA / "virtual-kernel.config"
PATCHES: Final = {(6, 1): _DATA / "virtual-kernel.patch", (6, 12): _DATA / "virtual-kernel-6.12.patch"}
"""The same changes to Linux, by the first version whose source has the lines that they change."""

_SOURCES: Final = Path("/usr/src")
_PACKAGES: Final = ("build-essential", "flex", "bison", "bc", "xz-utils")
_PROGRAMS: Final = ("make", "gcc", "flex", "bison", "bc", "xz", "patch")
_BUILT_IN_LATER: Final = frozenset({"CONFIG_NFT_OBJREF"})
"""Options of data/virtual-kernel.config that newer kernels have not because they always do it (since Linux 6.2)."""
_OBJECTS: Final = 1400
"""About how many objects a build makes; only the progress shown depends on it."""

WAY_OUT: Final = "build one with: scripts/lab kernel build (some minutes, once)"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class VirtualKernel:
    """A kernel in the cache."""

    path: Path
    """The program."""
    source: str
    """Version of the source package, e.g. 6.1.192-1."""
    key: str
    """What it was built from: source version, configuration and patch, hashed."""
    sha256: str
    """Of the program."""
    options: tuple[str, ...]
    """The options of data/virtual-kernel.config that are set, e.g. CONFIG_NET_SCH_NETEM=y."""


def find() -> VirtualKernel | None:
    """The newest kernel in the cache that was built with the present configuration and patch, or None."""
    found = [kernel for kernel in _cached() if kernel.key.endswith(_recipe(kernel.source))]
    return max(found, key=lambda kernel: _version_key(kernel.source), default=None)


def require() -> VirtualKernel:
    """The kernel `find` gives; MissingFeature with the command that builds one when there is none."""
    _must_be_possible()
    kernel = find()
    if kernel is None:
        raise MissingFeature("a built virtual kernel", instead=WAY_OUT)
    return kernel


def build(*, jobs: int | None = None, progress: Progress = lambda text: None) -> VirtualKernel:
    """Build the virtual kernel, unless the cache has it, and return it.

    Installs Debian's source and compilers where that is allowed.  Raises MissingFeature with the exact command where
    it is not, or on a machine that cannot run user-mode Linux, and LabError with the compiler's last words when the
    build fails.
    """
    _must_be_possible()
    tarball = _source_tarball(progress)
    source = _package_version(tarball)
    key = f"{source}-{_recipe(source)}"
    cache = _cache()
    with _locked(cache / f"{key}.lock", progress):
        for kernel in _cached():
            if kernel.key == key:
                progress(f"the cache has it: {kernel.path}")
                return kernel
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"{key}.building-", dir=cache) as scratch:
            program = _compile(tarball, _patch(source), Path(scratch), jobs or os.cpu_count() or 1, progress)
            ready = Path(scratch) / "ready"
            ready.mkdir()
            shutil.copy2(program, ready / "linux")
            kernel = VirtualKernel(
                path=cache / key / "linux",
                source=source,
                key=key,
                sha256=hashlib.sha256((ready / "linux").read_bytes()).hexdigest(),
                options=tuple(_requested()),
            )
            (ready / "kernel.json").write_text(json.dumps({**asdict(kernel), "path": "linux"}, indent=1))
            ready.rename(cache / key)
        progress(f"built in {time.monotonic() - began:.0f} s: {kernel.path}")
        return kernel


def _must_be_possible() -> None:
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise MissingFeature("user-mode Linux", instead=f"it needs x86-64 Linux, and this is {machine} {system}")


def _patch(source: str) -> Path:
    """The changes in the form for this version of the source: the newest that is not newer."""
    version = tuple(_version_key(source)[:2])
    return PATCHES[max((first for first in PATCHES if first <= version), default=min(PATCHES))]


def _recipe(source: str) -> str:
    """A short hash of the configuration and the patch for this version of the source."""
    return hashlib.sha256(CONFIG.read_bytes() + b"\0" + _patch(source).read_bytes()).hexdigest()[:12]


def _requested() -> Iterator[str]:
    """The option lines of the configuration, comments left out."""
    for line in CONFIG.read_text().splitlines():
        if line.startswith("CONFIG_"):
            yield line.strip()


def cache_folder(part: str) -> Path:
    """A part of the user's cache folder of this project.  Raises UsageError when it cannot be made."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "lab3653" / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"cannot make {folder}: {exc.strerror}; set XDG_CACHE_HOME to a folder of yours") from exc
    return folder


def _cache() -> Path:
    return cache_folder("kernels")


def _cached() -> list[VirtualKernel]:
    kernels = []
    for file in _cache().glob("*/kernel.json"):
        try:
            kept = json.loads(file.read_text())
            kernel = VirtualKernel(**{**kept, "path": file.parent / "linux", "options": tuple(kept["options"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if os.access(kernel.path, os.X_OK):
            kernels.append(kernel)
    return kernels


def _version_key(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _source_tarball(progress: Progress) -> Path:
    """The newest kernel source of the distribution; installs it and the compilers when something is missing."""
    tarballs = list(_SOURCES.glob("linux-source-*.tar.xz"))
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if not tarballs or missing:
        _install(lambda: [*_PACKAGES, *([] if tarballs else [_source_package()])], progress)
        tarballs = list(_SOURCES.glob("linux-source-*.tar.xz"))
    if not tarballs:
        raise MissingFeature("kernel source", instead=f"no linux-source-*.tar.xz in {_SOURCES} after installing it")
    return max(tarballs, key=lambda path: _version_key(path.name))


def _source_package() -> str:
    """The kernel source of the distribution's own choice, else the newest that the package lists know."""
    if shutil.which("apt-cache") is None:
        raise MissingFeature(
            "Debian's kernel source", instead=f"put a linux-source-VERSION.tar.xz of kernel 6.1 or later in {_SOURCES}"
        )
    listed = subprocess.run(
        ["apt-cache", "pkgnames", "linux-source"], capture_output=True, text=True, check=False
    ).stdout.split()
    if "linux-source" in listed:
        return "linux-source"
    versions = [name for name in listed if re.fullmatch(r"linux-source-\d+\.\d+", name)]
    return max(versions, key=_version_key, default="linux-source")


def _install(packages: Callable[[], Sequence[str]], progress: Progress) -> None:
    """Install these packages; on a failure renew the package lists, ask again which ones they are, and try again."""
    lacking = "the kernel's source or a compiler"
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    install = ["apt-get", "install", "--yes", "--no-install-recommends"]

    def by_hand() -> str:
        sudo = "sudo " if as_root else ""
        return f"run: {sudo}apt-get update && {sudo}{shlex.join([*install, *packages()])}"

    def run(*command: str) -> str:
        """The last words of a command that failed, else nothing."""
        done = subprocess.run(
            [*as_root, *command],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if done.returncode == 0 else (done.stderr.strip().splitlines()[-1:] or ["no message"])[0]

    if shutil.which("apt-get") is None or (as_root and (shutil.which("sudo") is None or run("true"))):
        raise MissingFeature(lacking, instead=by_hand())
    progress(f"installing {', '.join(packages())}")
    if run(*install, *packages()):
        failed = run("apt-get", "update") or run(*install, *packages())
        if failed:
            raise MissingFeature(lacking, instead=f"apt-get failed ({failed}); {by_hand()}")


def _package_version(tarball: Path) -> str:
    """The version of the package that owns the tarball, else a hash of its content."""
    if shutil.which("dpkg-query") is not None:
        name = tarball.name.removesuffix(".tar.xz")
        asked = subprocess.run(
            ["dpkg-query", "--show", "--showformat", "${Version}", name], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0 and asked.stdout:
            return asked.stdout.strip()
    with tarball.open("rb") as file:
        return tarball.name.removesuffix(".tar.xz") + "-" + hashlib.file_digest(file, "sha256").hexdigest()[:8]


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of one build: two commands never build the same kernel at once."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is building this kernel; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(tarball: Path, patch: Path, scratch: Path, jobs: int, progress: Progress) -> Path:
    """Unpack, patch, configure and compile under `scratch`; the stripped program."""
    tree = scratch / "source"
    tree.mkdir()
    progress(f"unpacking {tarball.name}")
    _do(["tar", "-xf", str(tarball), "--strip-components=1", "-C", str(tree)], scratch)
    _do(["patch", "--quiet", "-p1", "-d", str(tree), "-i", str(patch)], scratch)
    progress("configuring")
    make = ["make", "-C", str(tree), "ARCH=um"]
    _do([*make, "defconfig"], scratch)
    _do(
        [str(tree / "scripts/kconfig/merge_config.sh"), "-m", "-O", str(tree), str(tree / ".config"), str(CONFIG)], tree
    )
    _do([*make, "olddefconfig"], scratch)
    _check_options(tree / ".config")
    # The build's own time, user and machine would make two builds of one source differ.
    identity = ["KBUILD_BUILD_TIMESTAMP=@0", "KBUILD_BUILD_USER=lab", "KBUILD_BUILD_HOST=lab", "KBUILD_BUILD_VERSION=1"]
    _do([*make, *identity, f"-j{jobs}", "linux"], scratch, progress)
    _do(["strip", str(tree / "linux")], scratch)
    return tree / "linux"


def _check_options(config: Path) -> None:
    """Raise LabError naming every option of ours that the kernel's configuration did not take."""
    got = set(config.read_text().splitlines())
    refused = []
    for line in _requested():
        name, _, value = line.partition("=")
        taken = line in got if value != "n" else not any(have.startswith(f"{name}=") for have in got)
        if not taken and name not in _BUILT_IN_LATER:
            refused.append(line)
    if refused:
        raise LabError(f"this kernel source does not take {', '.join(refused)}; see {CONFIG}")


def _do(command: Sequence[str], folder: Path, progress: Progress | None = None) -> None:
    """Run one step of the build; LabError with its last lines when it fails."""
    last: deque[str] = deque(maxlen=15)
    began, shown, objects = time.monotonic(), 0.0, 0
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            objects += line.startswith("  CC ")
            now = time.monotonic()
            if progress is not None and objects and now - shown >= 5:
                shown = now
                share = min(objects / _OBJECTS, 0.99)
                left = (now - began) * (1 - share) / share
                progress(f"compiling: {share:4.0%}, about {left:.0f} s left")
    if process.returncode != 0:
        raise LabError(f"building the virtual kernel failed at: {shlex.join(command)}\n" + "\n".join(last))
