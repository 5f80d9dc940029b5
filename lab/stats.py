"""Statistics of sweeps and runs that can be trusted: what was left out is said, and how sure a figure is.

Medians and quantiles come with percentile bootstrap intervals (scipy.stats.bootstrap), which assume no distribution;
times of set-ups under loss have several modes, for which a mean and a standard deviation say nothing.  An interval
needs two values, and means little with fewer than ten.  Resampling is seeded: the same table gives the same figures.

A set-up that never got ready has no time.  It is counted in `n` and not in `ready`, and no quantile hides it: compare
`share_ready` before comparing medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.errors import UsageError
from lab.sweep import Sweep

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

RESAMPLES: Final = 2000
_AT_A_TIME: Final = 200
"""Resamples in memory at once."""


def table_of(data: Sweep | pd.DataFrame) -> pd.DataFrame:
    """The table of a sweep, or a table as it is."""
    return data.table if isinstance(data, Sweep) else data


def without_warm_up(data: Sweep | pd.DataFrame, trials: int = 1) -> pd.DataFrame:
    """The rows but those of the first `trials` trials of each cell or run.

    On the host's kernel the first one pays for imports, caches and neighbour tables.  In virtual time work takes no
    time, but neighbours are resolved for the first time there too.
    """
    table = table_of(data)
    return table[table["trial"] >= trials].reset_index(drop=True)


def interval(
    values: Sequence[float] | NDArray[np.float64],
    of: Callable[..., Any] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The bootstrap interval of a statistic, the median by default; (nan, nan) for fewer than two values.

    `of` takes values and an `axis`, as numpy's functions do.
    """
    import numpy as np
    from scipy.stats import bootstrap

    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return float("nan"), float("nan")
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    found = bootstrap(
        (sample,),
        of or np.median,
        n_resamples=RESAMPLES,
        batch=_AT_A_TIME,
        confidence_level=confidence,
        method="percentile",  # BCa's jackknife breaks down for medians and quantiles
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def summary(
    data: Sweep | pd.DataFrame,
    by: str | Sequence[str] | None = None,
    *,
    value: str = "setup_s",
    quantiles: Sequence[float] = (0.9,),
    confidence: float = 0.95,
) -> pd.DataFrame:
    """A row for each setting of `by` (of a sweep: what it varied): how many, the median and quantiles with intervals.

    Columns: n, ready (those with a value), share_ready, median, low, high, then q90, q90_low, q90_high for each
    quantile, and noisy, which is true where a value was taken in real time.  Values in the unit of `value`.
    """
    import numpy as np
    import pandas as pd

    table = table_of(data)
    names = _names(data, by)
    if value not in table:
        raise UsageError(f"there is no column {value!r}; there are {', '.join(table.columns)}")
    groups = table.groupby(names, sort=False, dropna=False) if names else [((), table)]
    rows = []
    for key, group in groups:
        sample = group[value].dropna().to_numpy(dtype=float)
        row: dict[str, Any] = dict(zip(names, key, strict=True))
        row |= {
            "n": len(group),
            "ready": len(sample),
            "share_ready": len(sample) / len(group) if len(group) else np.nan,
        }
        low, high = interval(sample, confidence=confidence)
        row |= {"median": float(np.median(sample)) if len(sample) else np.nan, "low": low, "high": high}
        for quantile in quantiles:
            name = f"q{quantile * 100:g}"

            def of(values: Any, axis: int = -1, quantile: float = quantile) -> Any:
                return np.quantile(values, quantile, axis=axis)

            low, high = interval(sample, of, confidence=confidence)
            row |= {name: float(of(sample)) if len(sample) else np.nan, f"{name}_low": low, f"{name}_high": high}
        row["noisy"] = bool(group["noisy"].any()) if "noisy" in group else False
        rows.append(row)
    return pd.DataFrame(rows)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two settings of one parameter, compared pair by pair.  Differences are `b` minus `a`, in the unit of `value`."""

    parameter: str
    a: Any
    b: Any
    value: str
    pairs: int
    """Trials that had a value under both settings."""
    left_out: int
    """Pairs of which one or both never got a value."""
    difference: float
    """Median of the differences."""
    low: float
    high: float
    ratio: float
    """Median of b / a."""
    ratio_low: float
    ratio_high: float
    confidence: float
    noisy: bool
    differences: tuple[float, ...]
    """All of them, in order of the table."""

    def __str__(self) -> str:
        unit = " s" if self.value.endswith("_s") else ""
        sure = f"{self.confidence:.0%} interval"
        text = (
            f"{self.value}: {self.parameter}={self.b} takes {self.difference:+.4g}{unit} "
            f"({sure} {self.low:+.4g} to {self.high:+.4g}), {self.ratio:.3g} times ({self.ratio_low:.3g} to "
            f"{self.ratio_high:.3g}) what {self.parameter}={self.a} takes; {self.pairs} pairs"
        )
        if self.left_out:
            text += f", {self.left_out} left out for want of a value"
        return text + ("; taken in real time, and noisy" if self.noisy else "")


def compare(
    data: Sweep | pd.DataFrame, parameter: str, a: Any, b: Any, *, value: str = "setup_s", confidence: float = 0.95
) -> Comparison:
    """How `value` changes when `parameter` goes from `a` to `b`, trial by trial under the same seed.

    The two rows of a pair agree in seed, trial, node, attempt and all other varied parameters.  Seeds agree when the
    sweep was made with paired=["PARAMETER"], else UsageError says so: unpaired trials differ in their luck, which
    under loss is the larger part.
    """
    import numpy as np

    table = table_of(data)
    for name in (parameter, value, "seed", "trial"):
        if name not in table:
            raise UsageError(f"there is no column {name!r}; there are {', '.join(table.columns)}")
    known = list(table[parameter].unique())
    for setting in (a, b):
        if setting not in known:
            raise UsageError(f"{parameter} is never {setting!r} here; it is {', '.join(map(str, known))}")
    others = [name for name in _names(data, None) if name != parameter]
    keys = [*others, "seed", "trial", *(name for name in ("node", "attempt") if name in table)]
    first, second = (table[table[parameter] == setting] for setting in (a, b))
    shared = set(zip(first["seed"], first["trial"], strict=True)) & set(
        zip(second["seed"], second["trial"], strict=True)
    )
    if not shared:
        raise UsageError(f"no two trials share a seed: sweep with paired=[{parameter!r}], --paired {parameter}")
    pairs = first.merge(second, on=keys, suffixes=("", "_b"))
    both = pairs[pairs[value].notna() & pairs[f"{value}_b"].notna()]
    before, after = both[value].to_numpy(dtype=float), both[f"{value}_b"].to_numpy(dtype=float)
    differences = after - before
    ratios = after[before != 0] / before[before != 0]
    low, high = interval(differences, confidence=confidence)
    ratio_low, ratio_high = interval(ratios, confidence=confidence)
    return Comparison(
        parameter=parameter,
        a=a,
        b=b,
        value=value,
        pairs=len(both),
        left_out=len(pairs) - len(both),
        difference=float(np.median(differences)) if len(both) else float("nan"),
        low=low,
        high=high,
        ratio=float(np.median(ratios)) if len(ratios) else float("nan"),
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        confidence=confidence,
        noisy=bool(pairs["noisy"].any()) if "noisy" in pairs else False,
        differences=tuple(float(value) for value in differences),
    )


def measuring_cost(
    name: str,
    *,
    on: str = "virtual",
    trials: int = 5,
    seed: int = 1,
    parameters: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
) -> pd.DataFrame:
    """What measuring itself costs: the same trials with and without captures, and what it does to set-up times.

    A row for each way (`capture` false, then true): wall_s (seconds of the whole run by the wall clock), median_s (of
    the set-ups), change_s (median over the trials of what captures add), noisy.  The first trial is left out where
    there is more than one.
    """
    import statistics
    import tempfile

    import pandas as pd

    from lab.run import run

    rows, seen = [], []
    with tempfile.TemporaryDirectory(prefix="lab-cost-") as scratch:
        for capture in (False, True):
            folder = Path(out or scratch) / ("with" if capture else "without")
            began = time.monotonic()
            done = run(
                name,
                on=on,
                seed=seed,
                trials=trials,
                out=folder,
                parameters=parameters,
                capture=capture,
                check=False,
            )
            wall_s = time.monotonic() - began
            setups = done.tables.setups
            setups = without_warm_up(setups) if trials > 1 else setups
            seen.append(setups["setup_s"].to_numpy(dtype=float))
            change = [b - a for a, b in zip(seen[0], seen[-1], strict=False) if b == b and a == a]
            rows.append(
                {
                    "capture": capture,
                    "engine": done.facts["engine"],
                    "wall_s": wall_s,
                    "median_s": float(setups["setup_s"].median()),
                    "change_s": statistics.median(change) if change else float("nan"),
                    "noisy": done.noisy,
                }
            )
    return pd.DataFrame(rows)


def _names(data: Sweep | pd.DataFrame, by: str | Sequence[str] | None) -> list[str]:
    """The columns that make the groups."""
    if by is None:
        return data.varied if isinstance(data, Sweep) else []
    names = [by] if isinstance(by, str) else list(by)
    table = table_of(data)
    for name in names:
        if name not in table:
            raise UsageError(f"there is no column {name!r}; there are {', '.join(table.columns)}")
    return names
