"""From a topology's name to a folder of facts: prepare, run in a kernel, check, read back.

`run` does all of it; `Run` is the folder seen from Python.  run.json in the folder is complete: it holds the
parameters, the kernel and what it can do, what was asked of links and what they did, every record of every trial and
the verdict.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import lab
from lab import journal, wire
from lab.errors import LabError, UsageError
from lab.results import (
    CommandRecord,
    CrossingRecord,
    DatagramRecord,
    ExperienceRecord,
    ExplainRecord,
    MoveRecord,
    PingRecord,
    Record,
    SetupRecord,
    TransferRecord,
    parse_record,
)
from lab.scratch import scratch_folder
from lab.sources import error_in_file, explain_assertion

if TYPE_CHECKING:
    from lab.detect import Report
    from lab.tables import Tables

if TYPE_CHECKING:
    from lab.engines.choice import Engine
    from lab.ladder.picture import Picture

Progress = Callable[[str], None]
_R = TypeVar("_R", bound=Record)


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A run folder, read back."""

    path: Path
    """The folder."""
    facts: Mapping[str, Any]
    """run.json, whole."""
    trial: int = 0
    """The trial that the accessors below speak of."""

    @classmethod
    def load(cls, path: Path | str) -> Run:
        """The run in the folder `path`; UsageError when it holds none."""
        file = Path(path) / "run.json"
        try:
            facts = json.loads(file.read_text())
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise UsageError(f"{path} is no run folder: it has no run.json") from exc
        except OSError as exc:
            raise UsageError(f"cannot read {file}: {exc.strerror}") from exc
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"{file} is damaged: {exc}") from exc
        if not isinstance(facts, dict) or not {"status", "parameters", "nodes", "trials"} <= facts.keys():
            raise UsageError(f"{file} is no record of a run")
        return cls(Path(path), facts)

    def __repr__(self) -> str:
        trials = f"{len(self.facts['trials'])} trials" if len(self.facts["trials"]) != 1 else "1 trial"
        return f"<Run of {self.facts.get('topology')}: {self.status}, {trials}, in {self.path}>"

    @property
    def status(self) -> str:
        """ok, check failed, error or interrupted."""
        return str(self.facts["status"])

    @property
    def message(self) -> str:
        """Why the status is not ok; empty when it is."""
        return str(self.facts.get("message", ""))

    @property
    def trial_status(self) -> str:
        """How the trial ended: ok, error or interrupted."""
        return str(self._trial.get("status", self.status))

    @property
    def trial_message(self) -> str:
        """Why the trial did not end well; empty when it did."""
        return str(self._trial.get("error", {}).get("message", ""))

    @property
    def noisy(self) -> bool:
        """Whether times hold what else the machine did: true of all but virtual time."""
        return bool(self.facts["engine"] != "virtual" or self.facts["kernel"].get("real_time"))

    @property
    def tables(self) -> Tables:
        """What all trials recorded, as pandas tables: `run.tables.setups`, `.phases`, `.packets` ..."""
        from lab.tables import Tables

        return Tables(self)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of `build`, defaults included."""
        return dict(self.facts["parameters"])

    @property
    def nats(self) -> list[Mapping[str, Any]]:
        """What every NAT was asked to be and was found to be before the first trial (`lab.rules.nat_found`)."""
        first = self.facts["trials"][:1]
        return list(first[0].get("nats", [])) if first else []

    @property
    def records(self) -> list[Record]:
        """Everything the trial recorded, in order."""
        return [parse_record(value) for value in self._trial["records"]]

    @property
    def trials(self) -> list[Run]:
        """One view of this run per trial."""
        return [Run(self.path, self.facts, number) for number in range(len(self.facts["trials"]))]

    @property
    def captures(self) -> list[tuple[str, str]]:
        """Node and interface of every capture of the trial."""
        return [(value["node"], value["iface"]) for value in self._trial.get("captures", ())]

    @property
    def up_at_s(self) -> float | None:
        """The clock of the captures when the network was up, in seconds since 1970; None in older run folders."""
        clock = self._trial.get("up_at_s")
        return None if clock is None else float(clock)

    @property
    def _trial(self) -> Mapping[str, Any]:
        trials = self.facts["trials"]
        return trials[self.trial] if trials else {"records": [], "counters": {}, "captures": []}

    def _of(self, kind: type[_R], node: str) -> list[_R]:
        self._must_exist(node)
        return [record for record in self.records if isinstance(record, kind) and record.node == node]

    def _must_exist(self, node: str) -> Mapping[str, Any]:
        nodes = {value["name"]: value for value in self.facts["nodes"]}
        if node not in nodes:
            raise UsageError(f"there is no node {node!r} in this run; the nodes are {', '.join(nodes)}")
        found: Mapping[str, Any] = nodes[node]
        return found

    def tunnels(self, node: str) -> list[SetupRecord]:
        """Every attempt of `node` to get a tunnel, in order."""
        return self._of(SetupRecord, node)

    def tunnel(self, node: str) -> SetupRecord:
        """The last attempt of `node` to get a tunnel; UsageError when it made none."""
        return _last(self.tunnels(node), f"{node} tried no tunnel in this run")

    def pings(self, node: str, to: str | None = None) -> list[PingRecord]:
        """Every ping that `node` sent (to `to`), in order."""
        return [record for record in self._of(PingRecord, node) if to in (None, record.to)]

    def ping(self, node: str, to: str) -> PingRecord:
        """The last ping from `node` to `to`; UsageError when there was none."""
        return _last(self.pings(node, to), f"{node} did not ping {to} in this run")

    def datagrams(self, node: str, to: str | None = None) -> list[DatagramRecord]:
        """Every datagram that `node` sent by itself (to `to`), in order."""
        return [record for record in self._of(DatagramRecord, node) if to in (None, record.to)]

    def datagram(self, node: str, to: str) -> DatagramRecord:
        """The last datagram from `node` to `to`; UsageError when there was none."""
        return _last(self.datagrams(node, to), f"{node} sent no datagram to {to} in this run")

    def transfer(self, node: str, to: str) -> TransferRecord:
        """The last transfer from `node` to `to`; UsageError when there was none."""
        found = [record for record in self._of(TransferRecord, node) if record.to == to]
        return _last(found, f"{node} transferred nothing to {to} in this run")

    def commands(self, node: str) -> list[CommandRecord]:
        """Every program that `node` ran, in order, with its status and what it printed."""
        return self._of(CommandRecord, node)

    def counter(self, node: str, name: str) -> int:
        """Packets that a rule of `node`, or a reason of a broker, counted by the end; 0 when it counted none."""
        self._must_exist(node)
        return int(self._trial["counters"].get(node, {}).get(name, 0))

    def counters(self, node: str) -> dict[str, int]:
        """Packets by the name of the rule, or a broker's reason, that counted them; empty for a node without rules."""
        self._must_exist(node)
        return {name: int(packets) for name, packets in self._trial.get("counters", {}).get(node, {}).items()}

    def address(self, node: str, iface: str) -> str:
        """The IPv4 address of an interface (its IPv6 address when it has no other), without prefix length."""
        for value in self._must_exist(node)["interfaces"]:
            if value["name"] == iface:
                return str(value["ipv4"] or value["ipv6"]).split("/")[0]
        raise UsageError(f"{node} has no interface {iface!r}")

    def capture(self, node: str, iface: str) -> Path:
        """The pcap file of an interface; UsageError when nothing was captured there."""
        for value in self._trial["captures"]:
            if (value["node"], value["iface"]) == (node, iface):
                folder = self.path if len(self.facts["trials"]) == 1 else self.path / f"trial-{self.trial:03d}"
                return folder / str(value["file"])
        have = ", ".join(f"{c['node']} {c['iface']}" for c in self._trial["captures"]) or "none"
        raise UsageError(f"there is no capture of {node} {iface}; there are: {have}")

    def wire(self, node: str, iface: str) -> Counter[str]:
        """How many packets of each kind (`lab.wire.LABELS`) an interface saw; 0 for a kind it did not see."""
        return wire.count(self.capture(node, iface))

    def detect(self, node: str, iface: str) -> Report:
        """The transition mechanisms an interface saw, as `lab detect` finds them."""
        from lab.detect import detect

        return detect(self.capture(node, iface))

    def moves(self, node: str) -> list[MoveRecord]:
        """Every move of a client to another place, in order."""
        return self._of(MoveRecord, node)

    def experiences(self) -> list[ExperienceRecord]:
        """What clients got to know of a firewall's policies, in order."""
        return [record for record in self.records if isinstance(record, ExperienceRecord)]

    def crossings(self, node: str) -> list[CrossingRecord]:
        """What got past each policy that was tried on a firewall, in order."""
        return self._of(CrossingRecord, node)

    def explain(self, sender: str, receiver: str, **packet: Any) -> ExplainRecord:
        """Build the run's network anew, send one packet through it and tell what became of it (`lab.why.explain`)."""
        from lab.why import explain

        engine = {"on": self.facts["engine"], "seed": self.facts["seed"]}
        return explain(self.facts["file"], sender, receiver, parameters=self.parameters, **{**engine, **packet})

    def ladder(self, node: str | None = None, attempt: int | None = None) -> Picture:
        """Who sent what when in a set-up of `node` (the first that tried one), its last or number `attempt` from 0.

        It shows itself in a notebook; `.save(PATH)` draws it into a .svg, .png or .pdf file.  UsageError when there
        was no such set-up, or nothing was captured.
        """
        from lab.ladder.picture import Picture

        return Picture.of(self, node, attempt)

    def report(self, out: Path | str | None = None) -> Path:
        """Write the run as one HTML file, `out` or report.html in its folder; the path.  Raises UsageError."""
        from lab.report import write

        return write(self, out)

    def to_json(self) -> dict[str, Any]:
        """run.json with the folder's path."""
        return {"path": str(self.path), **self.facts}

    def summary(self) -> list[str]:
        """The outcome for a person, a line each."""
        from lab.summary import summarise

        return summarise(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the drawing, the verdict and what happened."""
        from lab.html import run_html

        return run_html(self)


def _last(found: Sequence[_R], otherwise: str) -> _R:
    if not found:
        raise UsageError(otherwise)
    return found[-1]


def run(
    name: str,
    *,
    on: str | Engine = "auto",
    seed: int | None = None,
    trials: int = 1,
    out: Path | str | None = None,
    parameters: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    wall_timeout_s: float | None = None,
    start_time_s: int | None = None,
    real_time: bool = False,
    capture: bool = True,
    verify: bool = True,
    check: bool = True,
    keep_going: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run a topology and check it; the run folder as a `Run`, whatever its status.

    `name` is a topology's name or file.  `parameters` are those of its `build`, as values or as text.  Without
    `capture` no packets are recorded, which saves time where only the figures count; without `check` the topology's own
    check is not asked.  A trial that fails ends the run, unless `keep_going`.  `timeout_s` bounds each scenario
    in the lab's time (default: what the topology says, else 600 s), `wall_timeout_s` the whole run by the wall clock;
    they differ in virtual time, which may pass quickly, or not at all.  Without `verify` nothing is measured before the
    first scenario, neither links nor NATs.  `on` may be an engine itself.

    Raises UsageError and TopologyError for what cannot be built, MissingFeature for what this kernel cannot do, both
    before anything is made, and RunFailed when the kernel or the agent broke down.
    """
    from lab.engines.choice import choose
    from lab.kernel.programs import require_programs
    from lab.planned import planned

    say = progress or (lambda text: None)
    if trials < 1:
        raise UsageError(f"trials must be at least 1, not {trials}")
    topology, values, plan = planned(name, parameters or {})
    require_programs(topology.programs)
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    timeout_s = topology.timeout_s if timeout_s is None else timeout_s
    if isinstance(on, str):
        engine = choose(
            on, plan, seed=seed, start_time_s=start_time_s, real_time=real_time, scenario_s=timeout_s, say=say
        )
    else:
        engine = on
    capabilities = engine.capabilities()
    if wall_timeout_s is None:
        wall_timeout_s = engine.patience_s(timeout_s * trials, trials)

    folder = _run_folder(plan.name, out)
    facts: dict[str, Any] = {
        "format": 1,
        "topology": plan.name,
        "file": str(topology.path),
        "title": topology.title,
        "status": "error",
        "message": "the run did not end",
        "parameters": values,
        "seed": seed,
        "trials_asked": trials,
        "timeout_s": timeout_s,
        "capture": capture,
        "verify": verify,
        "keep_going": keep_going,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine": engine.name,
        "kernel": {**_kernel(), **engine.facts()},
        "capabilities": {c.name: c.ok for c in capabilities},
        "nodes": plan.to_json()["nodes"],
        "trials": [],
    }
    _write(folder / "run.json", facts)
    _write(folder / "plan.json", plan.to_json())
    _write(
        folder / "job.json",
        {
            "plan": plan.to_json(),
            "module": str(topology.path),
            "parameters": values,
            "seed": seed,
            "trials": trials,
            "timeout_s": timeout_s,
            "capture": capture,
            "verify": verify,
            "timers": engine.repeatable,  # in virtual time, waiting costs nothing
            "keep_going": keep_going,
        },
    )
    say(f"{plan.name}: {len(plan.nodes)} nodes on the {engine.name} kernel, recorded in {folder}")
    began = time.monotonic()
    try:
        status = engine.run(folder, wall_timeout_s=wall_timeout_s)
        _fold_in(folder, facts, f"the agent ended with status {status} and left no result")
    except KeyboardInterrupt:
        _fold_in(folder, facts, "interrupted")
        facts.update(status="interrupted", message="interrupted; what was recorded so far is kept")
        raise
    except LabError as exc:
        _fold_in(folder, facts, str(exc))
        facts["message"] = str(exc)
        raise
    finally:
        facts["seconds"] = time.monotonic() - began
        _write(folder / "run.json", facts)
    done = Run(folder, facts)
    if check and done.status == "ok":
        _check(topology, done, facts)
    if engine.repeatable:
        from lab.replay import depends_on, digests

        facts["digest"] = {
            "files": digests(folder, facts["trials"]),
            "depends_on": depends_on(facts, topology.path),
        }
    _write(folder / "run.json", facts)
    return Run(folder, facts)


def shell(name: str, node: str | None, parameters: Mapping[str, Any], argv: Sequence[str] | None = None) -> int:
    """Bring a topology up and run `argv` (an interactive shell) on `node` (the first client); its exit status."""
    from lab.engines import host
    from lab.engines.choice import require
    from lab.kernel.caps import probe
    from lab.planned import planned

    topology, values, plan = planned(name, parameters)
    names = [n.name for n in plan.nodes]
    if node is None:
        node = next((n.name for n in plan.nodes if n.kind == "client"), names[0])
    if node not in names:
        raise UsageError(f"there is no node {node!r}; the nodes are {', '.join(names)}")
    require(plan, probe())
    with scratch_folder("shell") as folder:
        job = {
            "plan": plan.to_json(),
            "module": str(topology.path),
            "parameters": values,
            "seed": random.SystemRandom().randrange(2**32),
            "shell": {"node": node, "argv": list(argv or [])},
        }
        _write(folder / "job.json", job)
        return host.run_agent(folder, interactive=True)


def _run_folder(name: str, out: Path | str | None) -> Path:
    """A new, empty folder: `out`, or runs/NAME-TIME under the working directory."""
    if out is not None:
        folder = Path(out)
        _make(folder)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} exists and is not empty; name a new folder with --out")
        return folder.resolve()
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for count in range(100):
        folder = Path("runs") / (f"{name}-{stamp}" + (f"-{count}" if count else ""))
        if not folder.exists():
            _make(folder)
            return folder.resolve()
    raise UsageError(f"there are already 100 run folders called {folder}; name another with --out")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileExistsError as exc:
        raise UsageError(f"{folder} exists and is no folder; name a new one with --out") from exc
    except OSError as exc:
        raise UsageError(f"cannot make the run folder {folder}: {exc.strerror}; name another with --out") from exc


def _fold_in(folder: Path, facts: dict[str, Any], otherwise: str) -> None:
    """Move what the agent left into `facts`, and the agent's own files away."""
    facts["trials"] = journal.read(folder)
    (folder / journal.FILE).unlink(missing_ok=True)
    file = folder / "result.json"
    if file.exists():
        result = json.loads(file.read_text())
        facts["status"] = result["status"]
        facts["message"] = result.get("error", {}).get("message", "")
        if "error" in result:
            facts["error"] = result["error"]
        file.unlink()
    else:
        facts.update(status="error", message=otherwise)
        if "error" in (last := facts["trials"][-1] if facts["trials"] else {}):
            facts.update(message=last["error"]["message"], error=last["error"])
    (folder / "job.json").unlink(missing_ok=True)


def _check(topology: Any, done: Run, facts: dict[str, Any]) -> None:
    """Ask the topology's `check` about every trial and put the verdict into `facts`."""
    for trial in done.trials:
        try:
            topology.check(trial)
        except AssertionError as exc:
            facts.update(status="check failed", message=explain_assertion(exc, topology.path))
        except LabError as exc:
            facts.update(status="check failed", message=str(exc))
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a person's check raises
            facts.update(status="check failed", message=error_in_file(exc, topology.path))
        if facts["status"] != "ok":
            if len(done.trials) > 1:
                facts["message"] = f"trial {trial.trial}: {facts['message']}"
            return


def _kernel() -> dict[str, Any]:
    """What the figures of a run depend on besides the topology."""
    checkout = Path(__file__).parent.parent
    commit = None
    if (checkout / ".git").exists():
        asked = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
        commit = asked.stdout.strip() or None
    return {
        "release": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "lab": lab.__version__,
        "commit": commit,
    }


def _write(path: Path, value: Any) -> None:
    """Write a whole file or none.  Raises UsageError when it cannot be written."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(value, indent=1, default=str) + "\n")
        part.replace(path)
    except OSError as exc:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {exc.strerror}") from exc
