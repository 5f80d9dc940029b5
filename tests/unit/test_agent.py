"""The agent's last word: however it ends, result.json says why."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Awaitable
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


async def _work() -> None: ...


async def _forgets() -> None:
    _work()  # type: ignore[unused-coroutine]


async def _forgets_and_fails() -> None:
    _work()  # type: ignore[unused-coroutine]
    raise ValueError("first of all")


async def _warns() -> None:
    await _work()
    warnings.warn("something else", RuntimeWarning, stacklevel=1)


def _run(scenario: Awaitable[None]) -> None:
    async def main() -> None:
        broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await agent._run_scenario(scenario, __file__, 10, broken)

    asyncio.run(main())


def test_a_scenario_that_forgets_to_wait_is_told_where() -> None:
    with pytest.raises(agent.ForgottenAwait, match=r"^test_agent\.py:\d+: _work\(\) needs an await before it$"):
        _run(_forgets())


def test_what_a_scenario_raises_comes_before_what_it_forgot() -> None:
    with pytest.raises(ValueError, match="first of all") as caught:
        _run(_forgets_and_fails())
    (note,) = caught.value.__notes__
    assert note.endswith("_work() needs an await before it")


def test_other_warnings_of_a_scenario_are_passed_on() -> None:
    with pytest.warns(RuntimeWarning, match="something else"):
        _run(_warns())
