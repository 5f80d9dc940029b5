"""A stand-in for the agent: has everything a run can leave behind, says so, and waits to be ended.

    python tests/kernel/stub_agent.py RUN_DIR

Two nodes and a link, a child process, a mount, a file under /run, a capture that is being written.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from lab.kernel import libc
from lab.kernel.build import build
from lab.kernel.capture import Capture
from lab.topology.plan import AddAddress, AddLink, AddNode, Plan, SetUp


def plan() -> Plan:
    return Plan(
        name="stub",
        nodes=(),
        steps=(
            AddNode("a"),
            AddNode("b"),
            AddLink("a", "eth0", 2, "02:00:00:00:00:01", "b", "eth0", 2, "02:00:00:00:00:02"),
            AddAddress("a", "eth0", 2, "192.0.2.1/30"),
            AddAddress("b", "eth0", 2, "192.0.2.2/30"),
            SetUp("a", "eth0", 2),
            SetUp("b", "eth0", 2),
        ),
    )


async def main(run_dir: Path) -> int:
    with build(plan()) as fabric:
        capture = Capture(fabric["a"], "eth0", run_dir / "a-eth0.pcap")
        capture.start()
        child = fabric["b"].popen(["sleep", "1000"])
        try:
            (run_dir / "ready").touch()
            return await child.wait()
        except asyncio.CancelledError:
            capture.stop()
            (run_dir / "tidy").touch()
            raise


def mount_something() -> None:
    mounted = Path("/run/mounted")
    mounted.mkdir()
    libc.mount("stub", str(mounted), "tmpfs", 0)
    (mounted / "file").write_text("private")


if __name__ == "__main__":
    mount_something()
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
