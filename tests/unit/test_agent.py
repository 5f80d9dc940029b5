"""The agent's last word: however it ends, result.json says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab import agent


@pytest.mark.parametrize(
    "error", [SystemExit(5), RuntimeError("Event loop stopped"), PermissionError(1, "not allowed")]
)
def test_an_agent_that_something_ends_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def ended(run_dir: Path) -> agent.Job:
        raise error

    monkeypatch.setattr(agent, "_log_to", lambda path, began: None)
    monkeypatch.setattr(agent.Job, "load", ended)
    with pytest.raises(type(error)):
        agent.main([str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "error"
    assert type(error).__name__ in result["error"]["message"]
