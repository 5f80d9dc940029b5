#!/usr/bin/env python3
"""How fast virtual time goes: set-ups in the virtual kernel, against the same ones in real time on this kernel.

    scripts/bench/run virtual [--count 1000] [--delay-ms 50]

Prints virtual seconds per wall second, set-ups per second, and the seconds from boot to the first packet.  The peer
is the host's kernel with the same topology without delay, in the same run: the ratio says what the virtual kernel
costs in processor time where nothing has to be waited for.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from lab.run import Run, run

TOPOLOGY = Path(__file__).parent / "topologies" / "many_setups.py"


def timed(on: str, count: int, delay_ms: float, folder: Path, capture: bool = False) -> tuple[Run, float, float]:
    """(the run, its wall seconds, the processor seconds of its processes)."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = run(
        str(TOPOLOGY),
        on=on,
        seed=1,
        out=folder,
        capture=capture,
        parameters={"count": count, "delay_ms": delay_ms},
        timeout_s=24 * 3600,
    )
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.status != "ok":
        sys.exit(f"the run failed: {done.message}")
    return done, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast virtual time goes, against real time on this kernel.")
    parser.add_argument("--count", type=int, default=1000, help="set-ups [default: 1000]")
    parser.add_argument("--delay-ms", type=float, default=50, help="one way, between NAT and internet [default: 50]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as scratch:
        folder = Path(scratch)
        _, boot_wall, _ = timed("virtual", 1, 0, folder / "boot")
        done, wall, processor = timed("virtual", options.count, options.delay_ms, folder / "virtual")
        _, host_wall, host_processor = timed("host", options.count, 0, folder / "host")
    virtual_s = done.facts["trials"][0]["scenario_s"]
    print(f"boot, one set-up with its first packet, power off: {boot_wall:.2f} s")
    print(
        f"{options.count} set-ups at {2 * options.delay_ms:g} ms round trip: "
        f"{virtual_s:.0f} virtual seconds in {wall:.1f} s ({processor:.1f} s of processor time)"
    )
    print(f"virtual seconds per wall second: {virtual_s / wall:.1f}")
    print(f"set-ups per wall second:         {options.count / wall:.1f}")
    print(
        f"against the host's kernel without delay ({host_wall:.1f} s): {wall / host_wall:.1f} times the wall time, "
        f"{processor / host_processor:.1f} times the processor time"
    )


if __name__ == "__main__":
    main()
