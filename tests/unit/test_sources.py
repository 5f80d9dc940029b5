"""A topology file that fails is explained in terms of its own lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import sources
from lab.errors import UsageError
from lab.sources import error_in_file, explain_assertion, load_module


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(text)
    return file


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.py:2: "):
        load_module(written(tmp_path, "x = 1\ndef build(:\n"))


def test_a_file_that_is_no_text_is_told_without_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.py: .*null byte"):
        load_module(written(tmp_path, "x = 1\0\n"))


def test_an_error_at_import_names_file_line_and_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.py:2: ZeroDivisionError: "):
        load_module(written(tmp_path, "x = 0\ny = 1 / x\n"))


def test_a_file_that_wants_to_end_the_program_is_an_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.py:1: SystemExit: 9"):
        load_module(written(tmp_path, "raise SystemExit(9)\n"))


def test_a_file_that_python_before_3_11_4_calls_no_text_is_told_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ValueError("source code string cannot contain null bytes")

    monkeypatch.setattr(sources, "compile", refuse, raising=False)
    with pytest.raises(UsageError, match=r"mine\.py: source code string cannot contain null bytes"):
        load_module(written(tmp_path, "x = 1\0\n"))


def test_a_file_that_misses_another_one_is_not_told_as_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.py:1: FileNotFoundError: .*nowhere"):
        load_module(written(tmp_path, "open('/nowhere')\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        load_module(tmp_path / "nowhere.py")


def test_a_failed_assertion_shows_both_sides(tmp_path: Path) -> None:
    file = written(tmp_path, 'def check(run):\n    kind = "v6v4"\n    assert (\n        run\n        == kind\n    )\n')
    module = load_module(file)
    with pytest.raises(AssertionError) as caught:
        module.check("v6udpv4")
    text = explain_assertion(caught.value, file)
    assert "mine.py:" in text
    assert "run is 'v6udpv4'" in text
    assert "kind is 'v6v4'" in text


def test_an_operand_that_cannot_be_read_again_is_left_out(tmp_path: Path) -> None:
    file = written(tmp_path, "def check(items):\n    assert items.pop() == 2\n")
    with pytest.raises(AssertionError) as caught:
        load_module(file).check([1])
    assert explain_assertion(caught.value, file).endswith("assert items.pop() == 2")


def test_an_error_is_placed_at_the_last_line_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "import json\n\n\ndef check(text):\n    return json.loads(text)\n")
    with pytest.raises(ValueError, match="Expecting value") as caught:
        load_module(file).check("")
    assert error_in_file(caught.value, file).startswith("mine.py:5: JSONDecodeError: ")
