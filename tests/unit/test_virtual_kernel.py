"""What is decided about the virtual kernel without booting one: its options, its memory, how a guest's end is told."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.engines import guest, uml, verdict, virtual
from lab.errors import LabError, MissingFeature, RunFailed


def configured(folder: Path, without: str = "") -> Path:
    """A kernel's configuration, as the build leaves it, that took every option of ours but one."""
    asked = [line for line in uml.CONFIG.read_text().splitlines() if line.startswith("CONFIG_")]
    lines = [f"# {line[:-2]} is not set" if line.endswith("=n") else line for line in asked]
    config = folder / ".config"
    config.write_text("\n".join(line for line in lines if not line.startswith(without or "none")))
    return config


def test_a_kernel_with_every_option_is_taken(tmp_path: Path) -> None:
    uml._check_options(configured(tmp_path))


def test_an_option_that_the_source_does_not_take_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not take CONFIG_NET_SCH_NETEM=y"):
        uml._check_options(configured(tmp_path, without="CONFIG_NET_SCH_NETEM="))


def test_an_option_that_newer_kernels_have_built_in_may_be_missing(tmp_path: Path) -> None:
    uml._check_options(configured(tmp_path, without="CONFIG_NFT_OBJREF="))


def test_a_change_of_options_or_patch_is_another_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = ("6.1.192-2", "6.12.117-1~deb12u1")
    before = [uml._recipe(version) for version in versions]
    changed = {first: tmp_path / path.name for first, path in uml.PATCHES.items()}
    for first, path in changed.items():
        path.write_bytes(uml.PATCHES[first].read_bytes() + b"\n")
    options = tmp_path / "options"
    options.write_bytes(uml.CONFIG.read_bytes() + b"\n")
    for name, new in (("CONFIG", options), ("PATCHES", changed)):
        with monkeypatch.context() as patch:
            patch.setattr(uml, name, new)
            assert not {uml._recipe(version) for version in versions} & set(before)
    assert [uml._recipe(version) for version in versions] == before


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("6.1.192-2", (6, 1)),
        ("6.8.0-31.31", (6, 1)),
        ("6.12.117-1~deb12u1", (6, 12)),
        ("linux-source-6.12-0123abcd", (6, 12)),
        ("7.0.1-1", (6, 12)),
    ],
)
def test_a_source_is_changed_by_the_newest_patch_that_is_not_newer(source: str, first: tuple[int, int]) -> None:
    assert uml._patch(source) == uml.PATCHES[first]


def test_the_patches_make_the_same_changes_to_the_same_files() -> None:
    """They differ in what surrounds a change, and in a second place of it that newer sources do without."""
    old, new = (
        {line for line in path.read_text().splitlines() if line[:1] in "+-" and "PTRACE" not in line}
        for path in uml.PATCHES.values()
    )
    assert old == new
    assert all("PTRACE_O_EXITKILL)) < 0" in path.read_text() for path in uml.PATCHES.values())


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing of a build, and an apt that has packages once its lists are renewed; a log of its calls.

    The lists know linux-source-6.1 and 6.12; tmp_path/default, if it is there, holds the name of one more package.
    """
    tools, log, sources = tmp_path / "tools", tmp_path / "log", tmp_path / "src"
    for folder in (tools, sources):
        folder.mkdir()
    scripts = {
        "apt-get": f"""
            echo "$*" >>"{log}"
            case $1 in
            update) echo >"{tmp_path}/renewed" ;;
            *) [ -e "{tmp_path}/renewed" ] || {{ echo "E: Unable to locate package" >&2; exit 100; }}
               echo >"{sources}/linux-source-6.1.tar.xz" ;;
            esac""",
        "apt-cache": f"""
            [ -e "{tmp_path}/renewed" ] || exit 0
            echo linux-source-6.12; echo linux-source-6.1
            [ ! -e "{tmp_path}/default" ] || echo linux-source""",
    }
    for name, code in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{code}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(uml, "_SOURCES", sources)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return log


@pytest.mark.parametrize(("default", "taken"), [(True, "linux-source"), (False, "linux-source-6.12")])
def test_with_old_package_lists_the_source_is_found_once_they_are_renewed(
    apt: Path, tmp_path: Path, default: bool, taken: str
) -> None:
    """The distribution's own choice: Debian 12 has 6.1, and among its updates a newer one for other hardware."""
    if default:
        (tmp_path / "default").touch()
    assert uml._source_tarball(lambda text: None) == tmp_path / "src" / "linux-source-6.1.tar.xz"
    calls = apt.read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["install", "update", "install"]
    assert calls[-1].split()[-1] == taken


def test_who_may_not_install_the_source_is_told_what_to_type(
    apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "renewed").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingFeature, match=r"run: sudo apt-get update && sudo apt-get install .*bison.*-6\.12"):
        uml._source_tarball(lambda text: None)
    assert not apt.exists()


def test_the_memory_goes_where_there_is_room_for_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = {"/dev/shm": 30 << 20, str(tmp_path): 1 << 30}
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(
        os, "statvfs", lambda folder: SimpleNamespace(f_flag=0, f_bavail=room[folder] >> 12, f_frsize=1 << 12)
    )
    monkeypatch.setattr(os, "access", lambda folder, mode: True)
    assert virtual._memory_folder() == str(tmp_path)
    room["/dev/shm"] = 1 << 30
    assert virtual._memory_folder() == "/dev/shm"
    room.update(dict.fromkeys(room, 30 << 20))
    with pytest.raises(MissingFeature, match="512 MB to spare; set TMPDIR"):
        virtual._memory_folder()


def told(folder: Path, ended: int, console: str = "", errors: str = "") -> str:
    (folder / verdict.CONSOLE).write_text(console)
    (folder / guest.ERRORS).write_text(errors)
    assert verdict.exit_status(folder) is None
    with pytest.raises(RunFailed) as failed:
        verdict.explain(folder, ended, 2.34, 512)
    assert failed.value.folder == str(folder)
    return str(failed.value)


@pytest.mark.parametrize(
    ("ended", "console", "errors", "words"),
    [
        (134, "x\nKernel panic - not syncing: oops\nCPU: 0", "", "the virtual kernel panicked: oops"),
        (
            134,
            "Kernel panic - not syncing: System is deadlocked on memory",
            "",
            "the guest ran out of memory (it has 512",
        ),
        (128 + signal.SIGKILL, "", "", "the virtual kernel was killed (SIGKILL)"),
        (-signal.SIGTERM, "", "", "the process that watches the virtual kernel was killed (SIGTERM)"),
        (0, "reboot: System halted", "", "the guest ended without a result, status 0: reboot: System halted"),
        (1, "", "Traceback\nValueError: x", "the guest ended without a result: ValueError: x"),
        (1, "", f"OSError: [Errno 28] {os.strerror(28)}", "the disk of the run folder is full"),
    ],
)
def test_how_a_guest_ended_is_told_in_a_sentence(
    ended: int, console: str, errors: str, words: str, tmp_path: Path
) -> None:
    sentence = told(tmp_path, ended, console, errors)
    assert sentence.startswith(words)
    assert sentence.endswith("after 2.3 s")
    assert "\n" not in sentence


def test_a_guest_that_left_its_status_leaves_nothing_else(tmp_path: Path) -> None:
    for name in (guest.ERRORS, verdict.CONSOLE):
        (tmp_path / name).write_text("reboot: System halted\n")
    (tmp_path / guest.STATUS).write_text("1\n")
    assert verdict.exit_status(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
