"""Which kernel runs a topology: the host's own, with or without Mininet, or the virtual one.

`auto` takes the host's kernel when it has all that the plan asks for, else the virtual one, and says which and why.
What neither can do is a MissingFeature that names the feature and the way out, before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from lab.engines import host, mininet, uml, virtual
from lab.errors import MissingFeature, UsageError
from lab.kernel import stock_mininet
from lab.kernel.caps import Capabilities, Capability, probe
from lab.topology.plan import LoadRules, Plan, Shape

LONG_S: Final = 3600.0
"""A scenario that may take longer belongs into virtual time."""

ENGINES: Final = ("host", "virtual", "mininet")

LATEST_START_S: Final = 4_000_000_000
"""The latest start of the virtual clock, in 2096: the times of captures are 32 bits of seconds."""


class Engine(Protocol):
    """A way to get a Linux kernel and run the agent in it."""

    name: str
    repeatable: bool
    """Whether the same seed gives the same run, byte for byte."""

    def capabilities(self) -> Capabilities:
        """What its kernel can do."""
        ...

    def facts(self) -> dict[str, object]:
        """What a run's figures depend on besides the host: for run.json."""
        ...

    def patience_s(self, scenarios_s: float, trials: int) -> float:
        """How long to wait, by the wall clock, for scenarios that may take `scenarios_s` in the lab's time."""
        ...

    def run(self, folder: Path, *, wall_timeout_s: float) -> int:
        """Run the agent on the job in `folder`; its exit status."""
        ...


class HostEngine:
    """The machine's own kernel, real time."""

    name = "host"
    repeatable = False

    def capabilities(self) -> Capabilities:
        return probe()

    def facts(self) -> dict[str, object]:
        return {}

    def patience_s(self, scenarios_s: float, trials: int) -> float:
        return scenarios_s + 60

    def run(self, folder: Path, *, wall_timeout_s: float) -> int:
        return host.run_agent(folder, timeout_s=wall_timeout_s)


class VirtualEngine:
    """User-mode Linux; virtual time unless `real_time`."""

    name = "virtual"

    def __init__(self, seed: int, start_time_s: int | None = None, real_time: bool = False) -> None:
        self.seed = seed
        self.start_time_s = virtual.START_TIME_S if start_time_s is None else start_time_s
        if not 0 <= self.start_time_s <= LATEST_START_S:  # the kernel would take the host's clock instead
            raise UsageError(f"--start-time is 0 (1970) to {LATEST_START_S} (2096) seconds, not {start_time_s}")
        self.real_time = real_time
        self.repeatable = not real_time

    def capabilities(self) -> Capabilities:
        return virtual.capabilities()

    def facts(self) -> dict[str, object]:
        kernel = uml.require()
        return {
            "source": kernel.source,
            "key": kernel.key,
            "sha256": kernel.sha256,
            "start_time_s": self.start_time_s,
            "real_time": self.real_time,
        }

    def patience_s(self, scenarios_s: float, trials: int) -> float:
        return scenarios_s + 60 if self.real_time else 600.0 + 2 * trials

    def run(self, folder: Path, *, wall_timeout_s: float) -> int:
        return virtual.run_agent(
            folder,
            seed=self.seed,
            start_time_s=self.start_time_s,
            real_time=self.real_time,
            timeout_s=wall_timeout_s,
        )


def choose(
    on: str,
    plan: Plan,
    *,
    seed: int,
    start_time_s: int | None = None,
    real_time: bool = False,
    scenario_s: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> Engine:
    """The engine called `on`, able to do all that `plan` needs.

    "auto" is also the virtual one where the scenario may take, with its `scenario_s`, longer than a person waits.
    Raises UsageError for a name that does not exist and MissingFeature for what the kernel lacks.
    """
    if on not in ("auto", *ENGINES):
        raise UsageError(f"there is no kernel {on!r}; choose from auto, {', '.join(ENGINES)}")
    in_virtual = VirtualEngine(seed, start_time_s, real_time)
    only_virtual = [
        option for option, given in (("--start-time", start_time_s is not None), ("--real-time", real_time)) if given
    ]
    if on in ("host", "mininet") and only_virtual:
        raise UsageError(f"{only_virtual[0]} is for the virtual kernel; the host's clock is what it is")
    if on == "mininet":
        require(plan, probe(), "this kernel")
        stock_mininet.require()
        return mininet.MininetEngine()
    too_long = on == "auto" and not only_virtual and scenario_s > LONG_S
    if on == "virtual" or only_virtual or too_long:
        hours = f"the scenario may take {scenario_s / 3600:.0f} hours"
        try:
            uml.require()
            able = in_virtual.capabilities()
        except MissingFeature as lacking:
            if not too_long:
                raise
            raise MissingFeature(
                f"{lacking.feature}, and {hours} in real time", instead=f"{lacking.instead}, or wait: --on host"
            ) from None
        if too_long:
            say(f"the virtual kernel is used, because {hours}")
        require(plan, able, "the virtual kernel")
        return in_virtual
    try:
        require(plan, probe(), "this kernel")
    except MissingFeature as lacking:
        if on == "host":
            raise
        if uml.find() is None:  # the way out names the virtual kernel already
            raise
        say(f"the virtual kernel is used, because this one lacks {lacking.feature}")
        require(plan, in_virtual.capabilities(), "the virtual kernel")
        return in_virtual
    return HostEngine()


def require(plan: Plan, capabilities: Capabilities, which: str = "this kernel") -> None:
    """Raise MissingFeature, before anything is built, for the first thing the plan needs and the kernel lacks."""
    shapes = [step for step in plan.steps if isinstance(step, Shape)]
    delayed = [shape for shape in shapes if shape.needs_netem]
    needs = ["namespaces", "veth"]
    if any(isinstance(step, LoadRules) for step in plan.steps):
        needs.append("nft")
    if delayed:
        needs.append("netem")
    if any(shape.rate_mbit for shape in shapes):
        needs.append("tbf")
    for name in needs:
        capability = capabilities[name]
        if not capability.ok:
            raise MissingFeature(f"{name} on {which}", instead=_way_out(capability, delayed))


def _way_out(capability: Capability, delayed: list[Shape]) -> str:
    if capability.name != "netem":
        return capability.instead
    asked = ", ".join(sorted({f"{shape.node} {shape.iface}" for shape in delayed}))
    return f"impairments are asked for on {asked}: run without (--set delay_ms=0), {capability.instead}"
