"""The engine `mininet`: the host's kernel, with the nodes and links made by Mininet.

The agent runs in the same private namespaces as on the host engine, so whatever is killed, nothing is left; only the
network is built by Mininet's own classes (`lab.mininet.plans`).
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import lab
from lab.engines import host
from lab.errors import MissingFeature, UsageError
from lab.kernel import stock_mininet
from lab.kernel.caps import Capabilities, probe


class MininetEngine:
    """Mininet's nodes and links on the machine's own kernel, real time."""

    name = "mininet"
    repeatable = False

    def capabilities(self) -> Capabilities:
        return probe()

    def facts(self) -> dict[str, object]:
        return {"mininet": stock_mininet.version()}

    def patience_s(self, scenarios_s: float, trials: int) -> float:
        return scenarios_s + 60 + 10 * trials

    def run(self, folder: Path, *, wall_timeout_s: float) -> int:
        job = folder / "job.json"
        job.write_text(json.dumps({**json.loads(job.read_text()), "builder": "mininet"}))
        return host.run_agent(folder, timeout_s=wall_timeout_s)


def run_program(arguments: Sequence[str]) -> int:
    """Run `mn` with `arguments` and the lab's topologies, or the Mininet script they begin with; its exit status.

    It has this terminal, and namespaces that end with it.  Raises MissingFeature.
    """
    stock_mininet.require()
    words = list(arguments)
    if not words or not words[0].endswith(".py"):
        program = shutil.which("mn")
        if program is None:
            raise MissingFeature("the program mn", instead=stock_mininet.HOW_TO_INSTALL)
        words = [program, "--custom", str(Path(lab.__file__).parent / "mn.py"), *words]
    elif not Path(words[0]).is_file():
        raise UsageError(f"there is no file {words[0]}")
    # Ctrl-C belongs to the program on the terminal: Mininet interrupts a node's command with it, and goes on.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return host.launch([sys.executable, "-P", "-m", "lab.mininet", *words], Path.cwd(), True, None)
    finally:
        signal.signal(signal.SIGINT, before)
