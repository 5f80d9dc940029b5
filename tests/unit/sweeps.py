"""Tables as a sweep gives them, made up."""

from __future__ import annotations

import random
from typing import Any

import pandas as pd

PHASES = ("version", "auth", "create", "accept")


def table(
    delays_ms: tuple[float, ...] = (5, 50), trials: int = 12, failing: int = 1, noisy: bool = False
) -> pd.DataFrame:
    """Set-ups over UDP and TCP at each delay; in `failing` trials of each cell no tunnel comes up over TCP.

    A trial has the same luck over either transport, and TCP takes 1 ms longer.
    """
    rows: list[dict[str, Any]] = []
    for delay_ms in delays_ms:
        for transport in ("udp", "tcp"):
            for trial in range(trials):
                luck = random.Random(f"{delay_ms}/{trial}").choice((0.0, 0.0, 0.0, 1.0))
                jitter = random.Random(trial).random() / 100
                phases = {f"{phase}_s": 2 * delay_ms / 1000 + jitter for phase in PHASES}
                phases["auth_s"] += luck + (0.001 if transport == "tcp" else 0)
                ready = transport == "udp" or trial >= failing
                total = sum(phases.values())
                rows.append(
                    {
                        "cell": f"{delay_ms}{transport}",
                        "delay_ms": delay_ms,
                        "transport": transport,
                        "seed": int(delay_ms),
                        "trial": trial,
                        "engine": "host" if noisy else "virtual",
                        "noisy": noisy,
                        "status": "ok",
                        "reason": "",
                        "node": "laptop",
                        "attempt": 1,
                        "outcome": "ready" if ready else "timeout",
                        "ready": ready,
                        "setup_s": total if ready else None,
                        "total_s": total,
                        **phases,
                        "connect_s": 0.0,
                        "first_packet_s": 2 * delay_ms / 1000,
                    }
                )
    made = pd.DataFrame(rows)
    return made.astype({"setup_s": float})
