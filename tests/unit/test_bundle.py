"""The copy of the lab that the guest imports, in a cache that may be shared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.engines import bundle, uml
from lab.errors import UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lab3653"


def _forbidden(path: Path) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_copy_that_another_user_made_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle.compiled()
    assert (made / "lab" / "agent.pyc").exists()
    monkeypatch.setattr(os, "utime", _forbidden)
    assert bundle.compiled() == made


def test_a_cache_of_another_user_without_a_copy_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != cache / "guest")
    with pytest.raises(UsageError, match=r"cannot write .*guest; set XDG_CACHE_HOME to a folder of yours"):
        bundle.compiled()


def test_a_cache_that_cannot_be_made_is_told(cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot make .*guest: .*; set XDG_CACHE_HOME"):
        bundle.compiled()
    with pytest.raises(UsageError, match=r"cannot make .*kernels: .*; set XDG_CACHE_HOME"):
        uml.find()


def test_old_copies_are_dropped_and_one_that_another_process_dropped_is_no_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle.compiled()
    for name in ("old", "young"):
        (cache / "guest" / name).mkdir()
    os.utime(cache / "guest" / "old", (0, 0))
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([self / "gone", self / "old", self / "young", made]))
    bundle._drop_old(cache / "guest")
    assert sorted(os.listdir(cache / "guest")) == sorted(["young", made.name])
