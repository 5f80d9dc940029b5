"""The lab inside a Jupyter kernel: in its event loop, in a thread of it, and nothing left when it is restarted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("nft", "nft_nat", "tun_fallback", "raw", "packet"),
    pytest.mark.timeout(180),
    # Jupyter's client leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

DEADLINE_S = 60.0

SLEEPER = '''"""Waits for a long time.

    laptop --- broker
"""

from lab import Lab, Network, Run


def build(net: Network) -> None:
    net.link(net.client("laptop"), net.broker("broker"))


async def scenario(net: Lab) -> None:
    await net.sleep(500)


def check(run: Run) -> None:
    pass
'''


class Notebook:
    """A Jupyter kernel and what it shows."""

    def __init__(self, folder: Path) -> None:
        checkout = str(Path(__file__).parent.parent.parent)
        home = {"HOME": str(folder), "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder)}
        self.manager = KernelManager(transport="ipc", ip=str(folder / "ipc"))
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, **home, "PYTHONPATH": checkout})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE_S)

    def run(self, code: str) -> dict[str, Any]:
        """Execute a cell; the data of its result by media type.  Fails with the cell's traceback."""
        self.client.execute(code)
        data: dict[str, Any] = {}
        while True:
            message = self.client.get_iopub_msg(timeout=DEADLINE_S)
            kind, content = message["msg_type"], message["content"]
            assert kind != "error", "\n".join(content["traceback"])
            if kind == "execute_result":
                data = content["data"]
            if kind == "status" and content["execution_state"] == "idle":
                return data

    def start(self, code: str) -> None:
        """Begin a cell and do not wait for its end."""
        self.client.execute(code)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    started = Notebook(tmp_path)
    yield started
    started.close()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.05)


def processes_of(folder: Path) -> list[int]:
    """The processes that were started for a run folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_run_in_a_notebook_shows_its_drawing_and_gives_tables(notebook: Notebook) -> None:
    notebook.run("import asyncio, lab\nassert asyncio.get_running_loop().is_running()")
    shown = notebook.run("run = lab.run('home_nat', on='host', seed=1, parameters={'delay_ms': 0}); run")
    assert "<svg" in shown["text/html"]
    assert "v6udpv4 over udp" in shown["text/html"]
    notebook.run("assert run.status == 'ok', run.message")
    notebook.run("mapping = run.tables.mappings.iloc[0]; assert mapping['inside'] == '192.168.0.2', mapping")
    notebook.run("assert set(run.tables.packets['node']) == {'laptop', 'nat', 'internet', 'broker', 'server'}")


def test_a_run_in_a_thread_of_a_notebook_ends_like_any_other(notebook: Notebook) -> None:
    options = "'direct_6in4', on='host', seed=1, parameters={'delay_ms': 0}"
    notebook.run(f"import lab\nrun = await __import__('asyncio').to_thread(lambda: lab.run({options}))")
    notebook.run("assert run.status == 'ok', run.message")


@pytest.mark.parametrize("where", ["lab.run", "threading.Thread(target=lab.run, args=(name,), kwargs=options).start"])
def test_nothing_is_left_when_the_kernel_is_restarted_during_a_run(
    notebook: Notebook, tmp_path: Path, where: str
) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    folder = tmp_path / "run"
    call = "(name, **options)" if where == "lab.run" else "()"
    notebook.start(
        f"import threading, lab\nname = {str(tmp_path / 'sleeper.py')!r}\n"
        f"options = dict(on='host', out={str(folder)!r})\n{where}{call}"
    )
    log = folder / "log.jsonl"
    until(lambda: log.exists() and "built" in log.read_text(), "the network is up")
    assert processes_of(folder)
    notebook.manager.restart_kernel(now=True)
    until(lambda: not processes_of(folder), "the run's processes are gone")
    notebook.client.wait_for_ready(timeout=DEADLINE_S)
    notebook.run("import lab")


def test_stopping_a_cell_ends_its_run(notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    folder = tmp_path / "run"
    notebook.start(f"import lab\nlab.run({str(tmp_path / 'sleeper.py')!r}, on='host', out={str(folder)!r})")
    log = folder / "log.jsonl"
    until(lambda: log.exists() and "built" in log.read_text(), "the network is up")
    notebook.manager.interrupt_kernel()
    until(lambda: not processes_of(folder), "the run's processes are gone")
    until(lambda: '"interrupted"' in (folder / "run.json").read_text(), "the run folder is complete")
    assert "KeyboardInterrupt" in error_of(notebook)


def error_of(notebook: Notebook) -> str:
    """The name of the error that the cell ended with."""
    while True:
        message = notebook.client.get_iopub_msg(timeout=DEADLINE_S)
        if message["msg_type"] == "error":
            return str(message["content"]["ename"])
