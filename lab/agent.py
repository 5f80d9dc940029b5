"""The agent: carries out one job inside a kernel and leaves the facts in the run folder.

An engine starts `python -m lab.agent RUN_DIR` in a place where it may make namespaces.  The agent reads
RUN_DIR/job.json, builds the plan, runs the scenario once per trial and writes log.jsonl and the trials' journal as it
goes and result.json, the verdict, at the end; captures are NODE-IFACE.pcap, in trial-NNN/ when there is more than one
trial.  It decides nothing about addresses or rules and imports neither networkx nor a plotting library.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from lab.actors.nat_prober import classify_nats, refuse_mismatch
from lab.errors import LabError, RunFailed, UsageError
from lab.journal import Journal
from lab.kernel import nft
from lab.kernel.build import Fabric, build
from lab.kernel.capture import Capture
from lab.kernel.namespace import Namespace
from lab.kernel.verify import verify
from lab.scenario import Lab
from lab.sources import error_in_file, load_module
from lab.topology.plan import Plan

log = logging.getLogger(__name__)

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1


@dataclass(frozen=True, slots=True)
class Job:
    """What job.json asks for."""

    plan: Plan
    module: str
    """The topology file, whose `scenario` is run."""
    parameters: Mapping[str, Any]
    seed: int
    trials: int = 1
    capture: bool = True
    keep_going: bool = False
    """Whether the trials after one that failed are run too."""
    timeout_s: float = 600.0
    """For each trial's scenario."""
    builder: str = "kernel"
    """Who makes the nodes and links: "kernel", this lab, or "mininet"."""
    verify: bool = True
    """Whether links and NATs are measured before the first trial."""
    timers: bool = False
    """Whether the timeouts of NATs are measured too, which takes some multiples of them."""
    classify: bool = False
    """Only tell what the NATs of the plan are; there is no module to load."""
    shell: Mapping[str, Any] | None = None
    """Instead of the scenario: {"node": name, "argv": [...]} run with the terminal."""

    @classmethod
    def load(cls, run_dir: Path) -> Job:
        """The job of a run folder."""
        value = json.loads((run_dir / "job.json").read_text())
        return cls(**{**value, "plan": Plan.from_json(value["plan"])})


Builder = Callable[[Plan], Fabric]


def main(argv: list[str], *, builder: Builder | None = None) -> int:
    """Do the job of the run folder named in `argv[0]`; 0 when every trial's scenario ended by itself.

    `builder` makes the network of a trial, instead of the one that the job names.
    """
    run_dir = Path(argv[0])
    began = time.monotonic()
    result: dict[str, Any] = {"status": "error"}
    try:
        _log_to(run_dir / "log.jsonl", began)
        job = Job.load(run_dir)
        if job.shell is not None:
            return asyncio.run(_shell(job, run_dir))
        if job.classify:
            result["nats"] = asyncio.run(classify_nats(job.plan, timers=job.timers))
            result["status"] = "ok"
            return EXIT_DONE
        with contextlib.closing(Journal(run_dir)) as journal:
            asyncio.run(_trials(job, run_dir, journal, result, builder or _builder(job)))
        return EXIT_DONE if result["status"] == "ok" else EXIT_FAILED
    except LabError as exc:
        result["error"] = describe_error(exc)
        log.error("%s", exc)
        if (run_dir / "job.json").exists() and job.shell is not None:
            print(f"lab: {exc}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as exc:
        if not _is_of_the_disk(exc):
            result["error"] = _unexpected(exc)
            raise
        result["error"] = describe_error(_disk_error(run_dir, exc))
        return EXIT_FAILED
    except KeyboardInterrupt:
        result.update(status="interrupted", error={"type": "Interrupted", "message": "interrupted"})
        return EXIT_FAILED
    except BaseException as exc:  # a scenario that calls sys.exit, too: not without a word
        result["error"] = _unexpected(exc)
        raise
    finally:
        result["agent_s"] = time.monotonic() - began
        with contextlib.suppress(OSError):  # the disk is full: whoever started the agent finds the journal
            _write_json(run_dir / "result.json", result)


def _builder(job: Job) -> Builder:
    if job.builder == "mininet":
        from lab.mininet import plans

        return plans.build
    return build


async def _trials(job: Job, run_dir: Path, journal: Journal, result: dict[str, Any], builder: Builder) -> None:
    module = load_module(job.module)
    for number in range(job.trials):
        folder = run_dir if job.trials == 1 else run_dir / f"trial-{number:03d}"
        folder.mkdir(exist_ok=True)
        error = await _trial(job, module, folder, number, journal, builder)
        if error is not None:
            result.setdefault("error", error)
            if not job.keep_going:
                return
        log.info("trial %d of %d done", number + 1, job.trials)
    if "error" not in result:
        result["status"] = "ok"


async def _trial(
    job: Job, module: ModuleType, folder: Path, number: int, journal: Journal, builder: Builder
) -> dict[str, Any] | None:
    """Build, run and take down once; None, or the error that ended it."""
    started = time.monotonic()
    found: dict[str, Any] = {"status": "interrupted"}
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: journal.facts(number, {**found, "seconds": time.monotonic() - started}))
        fabric = builder(job.plan)
        stack.callback(fabric.close)
        found["build_s"] = time.monotonic() - started
        log.info("built %d nodes in %.1f ms", len(job.plan.nodes), found["build_s"] * 1000)
        captures: list[Capture] = []
        lab: Lab | None = None
        broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            if job.verify:
                # May raise ImpairmentError: nothing is measured over links that do not do what was asked.
                impairments = await verify(fabric, job.plan)
                journal.facts(number, {"impairments": impairments})
            if job.verify and number == 0:  # NATs are the same in every trial
                nats = await classify_nats(job.plan, timers=job.timers)
                journal.facts(number, {"nats": nats})
                refuse_mismatch(nats)
            if job.capture:
                captures = [_capture(fabric[node], iface, folder, broken) for node, iface in _wires(job.plan)]
            lab = Lab(
                job.plan,
                fabric,
                parameters=job.parameters,
                seed=f"{job.seed}/{number}",
                on_record=partial(journal.record, number),
            )
            found["up_at_s"] = time.time()
            await lab.start()
            await _run_scenario(module.scenario(lab), job.module, job.timeout_s, broken)
            found["status"] = "ok"
        except LabError as exc:
            found["status"] = "error"
            found["error"] = describe_error(exc)
        except Exception as exc:  # noqa: BLE001 - whatever a person's scenario raises
            found["status"] = "error"
            if _is_of_the_disk(exc):
                found["error"] = describe_error(_disk_error(folder, exc))
            else:
                log.error("%s", traceback.format_exc())
                found["error"] = {"type": type(exc).__name__, "message": _noted(error_in_file(exc, job.module), exc)}
        finally:
            if lab is not None:
                found["scenario_s"] = lab.now()
                try:
                    found["counters"] = _counters(job.plan, fabric, lab)
                    await lab.stop()
                except Exception as exc:  # noqa: BLE001 - captures and evidence are wanted all the more then
                    log.error("%s", traceback.format_exc())
                    if found["status"] == "ok":
                        found.update(status="error", error=_unexpected(exc))
            for capture in captures:
                capture.stop()
            if found["status"] == "ok" and broken.done():
                found.update(status="error", error=describe_error(_disk_error(folder, broken.exception())))
            found["captures"] = [
                {
                    "node": capture.namespace.name,
                    "iface": capture.iface,
                    "file": str(capture.path.relative_to(folder)),
                    "packets": capture.packets,
                    "dropped": capture.dropped,
                }
                for capture in captures
            ]
            if found["status"] != "ok":
                _keep_evidence(job.plan, fabric, folder)
    return found.get("error")


class Timeout(LabError):
    """A scenario took longer, in the lab's time, than it was given."""


class ForgottenAwait(LabError):
    """A scenario asked for something and did not wait for it, so that it never happened."""


class OutOfMemory(LabError):
    """A scenario wanted more memory than there is."""


async def _run_scenario(scenario: Awaitable[None], file: str, timeout_s: float, broken: asyncio.Future[None]) -> None:
    """Wait for the end of the scenario in `file`.

    Raises what it raises, ForgottenAwait, OutOfMemory, Timeout, or what was put into `broken` meanwhile.
    """
    task = asyncio.ensure_future(_within_memory(_nothing_forgotten(scenario), file))
    deadline = task.get_loop().time() + timeout_s
    try:
        await asyncio.wait({task, broken}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        # A scenario that waits without `await` ends before anybody can stop it.
        if task.done() and (task.exception() is not None or task.get_loop().time() < deadline):
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if broken.done():
        return broken.result()
    raise Timeout(f"the scenario did not end within {timeout_s:g} s")


async def _nothing_forgotten(scenario: Awaitable[None]) -> None:
    """Wait for the end of the scenario.  Raises ForgottenAwait for a coroutine it threw away.

    All that tells is a warning, when Python finds the coroutine unused: elsewhere a line that is easily overlooked.
    What the scenario raises itself is raised, with a note of what was thrown away: that may well be why.
    """
    failure: Exception | None = None
    with warnings.catch_warnings(record=True) as seen:
        warnings.filterwarnings("always", ".* was never awaited", RuntimeWarning)
        try:
            await scenario
        except Exception as exc:  # noqa: BLE001 - raised again below
            failure = exc
    for warning in seen:
        if "was never awaited" not in str(warning.message):
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
            continue
        what = str(warning.message).split("'")[1].rpartition(".")[2]
        forgotten = f"{Path(warning.filename).name}:{warning.lineno}: {what}() needs an await before it"
        if failure is None:
            raise ForgottenAwait(forgotten)
        failure.add_note(forgotten)
    if failure is not None:
        raise failure


async def _within_memory(scenario: Awaitable[None], file: str) -> None:
    try:
        await scenario
    except MemoryError as exc:
        where = error_in_file(exc, file).rstrip(": ")
        told = OutOfMemory(f"the scenario took all memory ({where})")
        traceback.clear_frames(exc.__traceback__)  # with its variables go the memory: the agent still needs some
        raise told from None


_OF_THE_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def _is_of_the_disk(exc: BaseException) -> bool:
    return isinstance(exc, OSError) and exc.errno in _OF_THE_DISK


def _disk_error(folder: Path, exc: BaseException | None) -> RunFailed:
    """What is told of a run folder that takes no more."""
    reason = exc.strerror if isinstance(exc, OSError) else exc
    return RunFailed(f"the run folder cannot be written: {reason}", folder=str(folder))


def _wires(plan: Plan) -> Iterator[tuple[str, str]]:
    """Every interface worth capturing on: all but a switch's ports, which other nodes' ends show already."""
    for node in plan.nodes:
        if node.kind != "switch":
            for iface in node.interfaces:
                yield node.name, iface.name


def _capture(namespace: Namespace, iface: str, folder: Path, broken: asyncio.Future[None]) -> Capture:
    def on_error(exc: OSError) -> None:
        if not broken.done():
            broken.set_exception(exc)

    capture = Capture(namespace, iface, folder / f"{namespace.name}-{iface}.pcap", on_error=on_error)
    capture.start()
    return capture


def _counters(plan: Plan, fabric: Mapping[str, Namespace], lab: Lab) -> dict[str, dict[str, int]]:
    """Packets counted, by node and by rule name or broker reason; nodes that count nothing are absent."""
    found = {
        node.name: {name: packets for name, (packets, _) in nft.counters(fabric[node.name]).items()}
        for node in plan.nodes
        if node.kind in ("nat", "firewall")
    }
    found |= {node.name: node.broker_counters() for node in lab if node.kind == "broker"}
    return {name: counts for name, counts in found.items() if counts}


def _keep_evidence(plan: Plan, fabric: Mapping[str, Namespace], folder: Path) -> None:
    """Write what each node's kernel looked like when the scenario failed, to evidence.json."""
    from concurrent.futures import ThreadPoolExecutor

    from lab.kernel.state import snapshot

    seen: dict[str, Any] = {}
    elsewhere = ThreadPoolExecutor(1)  # pyroute2 runs an event loop of its own
    for node in plan.nodes:
        try:
            seen[node.name] = elsewhere.submit(snapshot, fabric[node.name]).result(timeout=10)
            if node.kind in ("nat", "firewall"):
                seen[node.name]["rules"] = nft.list_ruleset(fabric[node.name])
        except (OSError, LabError, TimeoutError, ImportError) as exc:
            seen[node.name] = {"unreadable": str(exc)}
    elsewhere.shutdown(wait=False)
    _write_json(folder / "evidence.json", seen)


async def _shell(job: Job, run_dir: Path) -> int:
    """Build the network, start the brokers and hand the terminal to a program on one node."""
    from lab.shell import hand_over

    assert job.shell is not None
    with contextlib.closing(build(job.plan)) as fabric:
        lab = Lab(job.plan, fabric, parameters=job.parameters, seed=str(job.seed))
        await lab.start()
        try:
            return await hand_over(lab, str(job.shell["node"]), [str(word) for word in job.shell["argv"]])
        finally:
            await lab.stop()


def _unexpected(exc: BaseException) -> dict[str, Any]:
    return {"type": type(exc).__name__, "message": f"the agent was ended by {type(exc).__name__}: {exc}"}


def describe_error(exc: LabError) -> dict[str, Any]:
    """An error as run.json keeps it: its type, its sentence and its data."""
    data = {key: value for key, value in vars(exc).items() if isinstance(value, str | int | float | dict)}
    return {"type": type(exc).__name__, "message": _noted(str(exc), exc), **data}


def _noted(message: str, exc: BaseException) -> str:
    """A message with the notes of its exception."""
    return "; ".join([message, *getattr(exc, "__notes__", ())])


def _write_json(path: Path, value: Any) -> None:
    """Write a whole file or none: a reader never sees half a result."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(value, indent=1))
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


class _JsonLines(logging.Formatter):
    """One JSON object a line: seconds since the agent began, level, logger, node and message."""

    def __init__(self, began: float) -> None:
        super().__init__()
        self._offset = time.time() - (time.monotonic() - began)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "t": round(record.created - self._offset, 6),
            "level": record.levelname,
            "logger": record.name,
            "node": getattr(record, "node", None),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log_to(path: Path, began: float) -> None:
    handler = logging.StreamHandler(path.open("a", buffering=1))
    handler.setFormatter(_JsonLines(began))
    logging.raiseExceptions = False  # a full disk is told once, by the run, not for every line of the log
    logging.basicConfig(level=os.environ.get("LAB_LOG", "INFO"), handlers=[handler], force=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as exc:
        sys.exit(f"lab: {exc}")
