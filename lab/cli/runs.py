"""Verbs about runs: run, sweep, replay, ladder, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli.common import (
    EXIT_DONE,
    EXIT_FAILED,
    Json,
    Name,
    Set,
    positive,
    print_json,
    print_table,
    say,
    settings_of,
    verb,
)
from lab.errors import UsageError


@verb("lab run home_nat --set delay_ms=50 --seed 7 --out home_nat_50")
def run(
    name: Name,
    settings: Set = None,
    on: Annotated[str, typer.Option(help="The kernel to run on: auto, host, virtual or mininet.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; a fresh one is drawn and kept.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="How often to repeat the scenario.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A new folder for the run [default: runs/NAME-TIME].")] = None,
    start_time: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Virtual kernel: its clock at the start, since 1970.")
    ] = None,
    real_time: Annotated[bool, typer.Option("--real-time", help="Virtual kernel: keep to real time.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Of the lab's time, for the scenario [default: the topology's, else 600]."
        ),
    ] = None,
    wall_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of the clock on the wall, for the whole run.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Measure impaired links and classify NATs before the scenario.")] = True,
    as_json: Json = False,
) -> int:
    """Build a topology, run its scenario, check the outcome.

    What happened is printed; the run folder keeps all figures (run.json) and a capture of every interface.
    """
    from lab.run import run as run_topology

    done = run_topology(
        name,
        on=on,
        seed=seed,
        trials=trials,
        out=out,
        parameters=settings_of(settings),
        start_time_s=start_time,
        real_time=real_time,
        timeout_s=positive("--timeout", timeout),
        wall_timeout_s=positive("--wall-timeout", wall_timeout),
        verify=verify,
        progress=say,
    )
    if as_json:
        print_json(done.to_json())
    else:
        print("\n".join(done.summary()))
    return EXIT_DONE if done.status == "ok" else EXIT_FAILED


@verb("lab sweep setup_time --vary delay_ms=5,20,80 --vary transport=udp,tcp --trials 5 --out setup.parquet")
def sweep(
    name: Name,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table, a Parquet file; goes on with one it began.")],
    vary: Annotated[
        list[str] | None, typer.Option(metavar="KEY=A,B,C", help="Vary a parameter over values; may be repeated.")
    ] = None,
    settings: Set = None,
    trials: Annotated[int, typer.Option(min=1, help="How often to repeat each cell, in one boot.")] = 10,
    seed: Annotated[int | None, typer.Option(help="Seed of the sweep; each cell's is derived from it.")] = None,
    on: Annotated[str, typer.Option(help="The kernel to run on: virtual or host.")] = "virtual",
    jobs: Annotated[int | None, typer.Option(min=1, help="Cells at a time [default: one for each CPU].")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, whose workers run the cells.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only the cells with this value; may be repeated.")
    ] = None,
    paired: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Give cells that differ only in this parameter the same seed."),
    ] = None,
    capture: Annotated[bool, typer.Option("--capture", help="Record packets and ask the topology's check.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run cells with failed trials again.")] = False,
    as_json: Json = False,
) -> int:
    """Run a topology over a grid of parameters, into one table.

    What was done is kept: the same command goes on where it was interrupted.  pandas.read_parquet(FILE) reads the
    table.  Exit status 1 when a trial failed; the table has its row, with the reason.
    """
    from lab import stats
    from lab.sweep import sweep as run_sweep

    values = {key: value.split(",") for key, value in settings_of(vary, "--vary").items()}
    done = run_sweep(
        name,
        values,
        trials=trials,
        seed=seed,
        on=on,
        out=out,
        scheduler=scheduler,
        jobs=jobs,
        parameters=settings_of(settings),
        paired=paired or (),
        only=settings_of(only, "--only"),
        capture=capture,
        retry_failed=retry_failed,
    )
    failures = done.failures.drop_duplicates(["cell", "trial"])
    found = stats.summary(done) if "setup_s" in done.table else None
    if as_json:
        rows = [] if found is None else json.loads(found.to_json(orient="records"))
        again = {cell: done.rerun(cell) for cell in failures["cell"].unique()}
        print_json({"path": str(out), "facts": done.facts, "summary": rows, "failed": again})
    else:
        if found is not None:
            print_table(
                list(found.columns), [[_figure(value) for value in row] for row in found.itertuples(index=False)]
            )
            print()
        print(done)
        for _, row in failures.drop_duplicates("cell").iterrows():
            print(f"failed: {row['reason']}\n  again, with captures: {done.rerun(row['cell'])}")
        print(f"table in {out}")
    return EXIT_DONE if failures.empty else EXIT_FAILED


def _figure(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


@verb("lab replay runs/home_nat-20260101-120000")
def replay(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run in virtual time.")],
    as_json: Json = False,
) -> int:
    """Run a run again in virtual time and compare to the last byte.

    Exit status 0 when the two are equal; 1 when they are not, with the first packet that differs.
    """
    from lab.replay import replay as run_again

    found = run_again(folder, progress=say)
    if as_json:
        print_json(found.to_json())
    else:
        for change in found.changed:
            print(f"changed since: {change}")
        print(f"equal: {found.after}" if found.equal else f"different at {found.difference}")
    return EXIT_DONE if found.equal else EXIT_FAILED


@verb("lab ladder runs/home_nat-20260101-120000 --out ladder.svg")
def ladder(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    node: Annotated[str | None, typer.Option(help="Whose set-up [default: the first client's].")] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Which of its attempts, counted from 1 [default: the last].")
    ] = None,
    trial: Annotated[int, typer.Option(min=0, help="Which trial, counted from 0.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Draw into this .svg, .png or .pdf file [default: RUN_DIR/ladder.svg].")
    ] = None,
) -> int:
    """Draw who sent what when in a set-up, from the captures.

    TSP is decoded, a NAT's rewriting is written on the arrow, and a packet that was dropped ends where it was, with
    the rule's name.  In an .svg file a packet that is pointed at tells all about itself.
    """
    from lab.run import Run

    trials = Run.load(folder).trials
    if trial >= len(trials):
        raise UsageError(f"{folder} has {len(trials)} trials, numbered from 0; there is no number {trial}")
    picture = trials[trial].ladder(node, None if attempt is None else attempt - 1)
    print(picture.save(folder / "ladder.svg" if out is None else out))
    return EXIT_DONE


@verb("lab report runs/home_nat-20260101-120000")
def report(
    source: Annotated[Path, typer.Argument(metavar="RUN_DIR|TABLE", help="A run's folder, or a sweep's Parquet file.")],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file [default: RUN_DIR/report.html, or beside the table].")
    ] = None,
) -> int:
    """Tell a run, or a sweep, in one HTML file.

    Of a run: topology, ladders, phases, tables, how to run it again.  Of a sweep: plots and figures.  The file needs
    nothing else, and can be sent to somebody.
    """
    from lab.run import Run

    if source.is_dir() or source.suffix != ".parquet":
        print(Run.load(source).report(out))
        return EXIT_DONE
    from lab.report.sweep import write_sweep
    from lab.sweep import Sweep

    print(write_sweep(Sweep.load(source), source.with_suffix(".html") if out is None else out))
    return EXIT_DONE
