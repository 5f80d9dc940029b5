"""A scratch folder goes with its block, or with its process as soon as another is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.scratch import scratch_folder

KILLED = """
import os, signal
from lab.scratch import scratch_folder
with scratch_folder("test") as folder:
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_the_folder_goes_with_the_block() -> None:
    with scratch_folder("test") as folder:
        (folder / "deep").mkdir()
        assert folder.is_dir()
    assert not folder.exists()


def test_a_killed_process_leaves_a_folder_that_the_next_one_removes() -> None:
    checkout = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False, cwd=checkout)
    left = Path(done.stdout.strip())
    assert left.is_dir()
    with scratch_folder("test"):
        assert not left.exists()


def test_a_folder_in_use_is_left_alone() -> None:
    with scratch_folder("one") as first, scratch_folder("two"):
        assert first.is_dir()
