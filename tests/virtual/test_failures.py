"""However a run in the virtual kernel ends, it says why in one line, keeps what it had, and leaves no process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lab.engines import uml, virtual
from lab.errors import RunFailed, UsageError
from lab.run import Run, run
from tests.virtual.machines import TROUBLE, CommandLine, wait_for

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(300)]


def trouble(how: str, folder: Path, **options: Any) -> Run:
    """A run that goes wrong."""
    return run(str(TROUBLE), on="virtual", seed=1, out=folder, parameters={"how": how}, **options)


def what_is_kept(folder: Path) -> dict[str, Any]:
    """run.json, after a look at what every failed run has to leave: the tunnel set up before, its packets, the log."""
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text())
    (trial,) = facts["trials"]
    assert [(record["kind"], record["outcome"]) for record in trial["records"]] == [("setup", "ready")]
    assert (folder / "laptop-eth0.pcap").stat().st_size > 1000
    assert "tunnel" in (folder / "log.jsonl").read_text()
    for name in ("journal.jsonl", "job.json", "result.json", ".uml"):
        assert not (folder / name).exists(), name
    return facts


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("init ends", "the virtual kernel panicked: Attempted to kill init! exitcode=0x00000300"),
        ("panic", "the virtual kernel panicked: sysrq triggered crash"),
    ],
)
def test_a_panic_is_told_and_what_was_recorded_is_kept(how: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as told:
        trouble(how, tmp_path / "run")
    assert str(told.value).startswith(reason)
    assert "\n" not in str(told.value)
    facts = what_is_kept(tmp_path / "run")
    assert (facts["status"], facts["message"]) == ("error", str(told.value))
    assert facts["trials"][0]["status"] == "interrupted"
    assert "Kernel panic" in (tmp_path / "run" / "guest-console").read_text()


@pytest.mark.parametrize("how", ["wait for ever", "sleep without await"])
def test_a_scenario_has_a_timeout_in_the_time_of_the_lab(how: str, tmp_path: Path) -> None:
    done = trouble(how, tmp_path / "run", timeout_s=5000)
    assert (done.status, done.message) == ("error", "the scenario did not end within 5000 s")
    assert what_is_kept(tmp_path / "run")["trials"][0]["scenario_s"] >= 5000


@pytest.mark.timeout(500)
def test_a_scenario_that_lets_no_time_pass_is_ended_by_the_clock_on_the_wall(tmp_path: Path) -> None:
    for limit_s in (6, 12, 25, 50, 100, 200):  # to boot takes a second or, on a busy machine, half a minute
        folder = tmp_path / f"within-{limit_s}"
        with pytest.raises(RunFailed, match=f"did not end within {limit_s} s of wall time"):
            trouble("spin", folder, wall_timeout_s=limit_s)
        if any(trial["records"] for trial in json.loads((folder / "run.json").read_text())["trials"]):
            break
    assert what_is_kept(folder)["status"] == "error"


def test_a_scenario_that_takes_all_memory_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "MEMORY_MB", 96)  # quicker to fill
    done = trouble("memory", tmp_path / "run")
    assert done.status == "error"
    assert done.message.startswith("the scenario took all memory (trouble.py:")
    what_is_kept(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_in_good_order(number: signal.Signals, tmp_path: Path) -> None:
    with CommandLine("spin", tmp_path / "run") as lab:
        lab.wait_until_under_way()
        os.kill(lab.pid, number)
        status, _, errors = lab.end()
        assert status == 130
        assert errors.splitlines()[-1] == "lab: interrupted"
        lab.wait_until_nothing_is_left()
    assert what_is_kept(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        ("tether", "lab: the process that watches the virtual kernel was killed (SIGKILL)"),
        ("kernel", "lab: the virtual kernel was killed (SIGKILL)"),
    ],
)
def test_a_killed_machine_is_told_and_leaves_no_process(victim: str, reason: str, tmp_path: Path) -> None:
    with CommandLine("spin", tmp_path / "run") as lab:
        lab.wait_until_under_way()
        os.kill(lab.find(victim).pid, signal.SIGKILL)
        status, _, errors = lab.end()
        assert status == 1
        assert errors.splitlines()[-1].startswith(reason)
        lab.wait_until_nothing_is_left()
    assert what_is_kept(tmp_path / "run")["status"] == "error"


def test_a_killed_command_line_takes_the_machine_with_it(tmp_path: Path) -> None:
    with CommandLine("spin", tmp_path / "run") as lab:
        lab.wait_until_under_way()
        os.kill(lab.pid, signal.SIGKILL)
        assert lab.end()[0] == -signal.SIGKILL
        lab.wait_until_nothing_is_left()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["status"], facts["message"]) == ("error", "the run did not end")


def test_a_killed_program_of_the_guest_leaves_no_process(tmp_path: Path) -> None:
    with CommandLine("spin", tmp_path / "run") as lab:
        lab.wait_until_under_way()
        os.kill(lab.find("stub").pid, signal.SIGKILL)
        assert lab.end()[0] == 1
        lab.wait_until_nothing_is_left()
    assert what_is_kept(tmp_path / "run")["status"] == "error"


@pytest.mark.kernel
def test_a_full_disk_is_told_and_what_was_recorded_is_kept(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=400k none "$1" && shift && "$@"; status=$?; cp -r "$0/run" "$0.copy"; exit $status'
    before = ["unshare", "--mount", "sh", "-c", script, str(small), str(small)]
    with CommandLine("disk", small / "run", before) as lab:
        status, _, errors = lab.end()
    assert status == 1
    assert errors.splitlines()[-1].startswith("lab: the disk of the run folder is full")
    assert "Traceback" not in errors
    facts = what_is_kept(tmp_path / "small.copy")
    assert facts["trials"][0]["error"]["message"] == "the run folder cannot be written: No space left on device"


@pytest.mark.kernel
def test_a_run_folder_that_cannot_be_written_is_told_before_anything_is_started(tmp_path: Path) -> None:
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path)]
    with CommandLine("none", tmp_path, before) as lab:
        status, _, errors = lab.end()
    assert status == 2
    (line,) = errors.splitlines()
    assert line.startswith("lab: cannot ")
    assert str(tmp_path) in line


def cache_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this name, with the kernels that there are."""
    kernels = uml.require().path.parent.parent
    (folder / "lab3653").mkdir(parents=True)
    (folder / "lab3653" / "kernels").symlink_to(kernels)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def test_the_cache_may_be_in_a_folder_with_blanks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_in(tmp_path / "a user's  folder à la carte", monkeypatch)
    done = run("direct_6in4", on="virtual", seed=1, out=tmp_path / "run")
    assert done.status == "ok", done.message
    assert done.facts["digest"]["depends_on"]["lab_path"].startswith(str(cache))


def test_a_cache_that_the_kernel_cannot_be_told_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_in(tmp_path / 'a "folder"', monkeypatch)
    with pytest.raises(UsageError, match="cannot be told the path .* use one without quotation marks"):
        run("direct_6in4", on="virtual", seed=1, out=tmp_path / "run")


def test_a_run_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "with  blanks" / "and 'single' \"double\" quotes, $HOME, ünïcode, a=b, -- -x"
    done = trouble("none", folder)
    assert (done.status, done.message) == ("ok", "")
    assert what_is_kept(folder)["status"] == "ok"
    wait_for(lambda: not (folder / "guest-console").exists(), "the console to go")
