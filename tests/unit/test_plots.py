"""Plots: every sample is in them, axes have units, and they can be put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from lab import plots
from lab.errors import UsageError
from tests.unit import sweeps

BY = ["delay_ms", "transport"]
LIVES = pd.DataFrame(
    [
        {"keepalive_s": keepalive, "alive_s": 3600.0 * (1 + n) / keepalive * 10, "ended": keepalive > 10 and n < 6}
        for keepalive in (10, 30)
        for n in range(8)
    ]
)
ADDRESSES = pd.DataFrame(
    [
        {"node": "laptop", "what": "IPv4", "address": "192.0.2.7", "from_s": 0.0, "until_s": 60.0},
        {"node": "laptop", "what": "IPv4", "address": "198.51.100.9", "from_s": 65.0, "until_s": 150.0},
        {"node": "laptop", "what": "IPv6", "address": "2001:db8::1", "from_s": 1.0, "until_s": 150.0},
    ]
)
PINGS = pd.DataFrame({"at_s": [1.0, 62.0, 80.0], "answered": [True, False, True]})


def with_types() -> pd.DataFrame:
    table = sweeps.table()
    table["type"] = ["v6udpv4" if transport == "udp" else "v6v4" for transport in table["transport"]]
    return table


PLOTS: dict[str, Callable[[Axes | None], Axes]] = {
    "setup_phases": lambda ax: plots.setup_phases(sweeps.table(), BY, ax),
    "ecdf": lambda ax: plots.ecdf(sweeps.table(), BY, ax),
    "against": lambda ax: plots.against(sweeps.table(), "delay_ms", "transport", ax),
    "matrix": lambda ax: plots.matrix(with_types(), "delay_ms", "transport", ax),
    "survival": lambda ax: plots.survival(LIVES, "keepalive_s", ax),
    "timeline": lambda ax: plots.timeline(ADDRESSES, ax, pings=PINGS),
}


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """No window is opened and no figure stays."""
    before = mpl.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def marks(ax: Axes) -> int:
    """How many samples are drawn: points of lines that have no line, but for the caps of intervals."""
    return sum(len(y_of(line)) for line in ax.lines if line.get_linestyle() == "None" and line.get_marker() != "_")


def y_of(line: Any) -> list[float]:
    return list(line.get_ydata())


def texts(ax: Axes) -> str:
    found: list[Any] = [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()]
    legend = ax.get_legend()
    if legend is not None:
        found += [*legend.get_texts(), legend.get_title()]
    return " | ".join(text.get_text() for text in found)


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_goes_into_the_axes_it_is_given_and_gives_them_back(name: str) -> None:
    _, (left, right) = plt.subplots(1, 2)
    assert PLOTS[name](right) is right
    assert not left.has_data()
    assert plt.get_fignums() == [1]


@pytest.mark.parametrize("name", [name for name in PLOTS if name != "matrix"])
def test_the_axes_of_a_plot_have_units(name: str) -> None:
    ax = PLOTS[name](None)
    ax.figure.canvas.draw()
    assert any(f"({unit})" in ax.get_xlabel() for unit in ("ms", "s", "min", "h"))
    if name == "against":
        assert ax.get_ylabel() == "set-up time (ms)"


@pytest.mark.parametrize(
    ("name", "samples"), [("setup_phases", 46), ("ecdf", 46), ("against", 48), ("matrix", 48), ("survival", 16)]
)
def test_every_sample_is_drawn(name: str, samples: int) -> None:
    assert marks(PLOTS[name](None)) == samples


def test_the_phases_add_up_to_the_mean_of_the_totals() -> None:
    table = sweeps.table()
    ax = plots.setup_phases(table, "transport")
    means = table.groupby("transport", sort=False)["setup_s"].mean().tolist()
    bars: list[Any] = list(ax.patches)
    rows = [[bar for bar in bars if round(bar.get_y() + bar.get_height() / 2) == row] for row in (0, 1)]
    widths = [sum(bar.get_width() for bar in row[:-1]) for row in rows]  # the last is the first packet
    assert widths == pytest.approx([mean * 1000 for mean in means])


def test_what_never_got_ready_is_said() -> None:
    assert texts(PLOTS["setup_phases"](None)).count("1 of 12 never ready") == 2
    ecdf = PLOTS["ecdf"](None)
    assert "50 ms, tcp (11 of 12)" in texts(ecdf)
    curve = next(line for line in ecdf.lines if "50 ms, tcp" in str(line.get_label()))
    assert max(y_of(curve)) == pytest.approx(11 / 12)
    assert "never" in texts(PLOTS["against"](None))


def test_beyond_a_limit_every_sample_is_an_arrow() -> None:
    table = sweeps.table(delays_ms=(5,))
    slow = int((table["setup_s"] > 0.5).sum())
    ax = plots.setup_phases(table, "transport", limit_s=0.5)
    arrows = [line for line in ax.lines if line.get_marker() == ">"]
    assert slow > 0
    assert sum(len(y_of(line)) for line in arrows) == slow
    assert marks(ax) == int(table["setup_s"].notna().sum())
    assert f"up to {table['setup_s'].max() * 1000:.3g} ms" in texts(ax)


def test_a_matrix_tells_how_often_and_what() -> None:
    assert "12 of 12\nv6udpv4" in texts(PLOTS["matrix"](None))
    assert "11 of 12\nv6v4" in texts(PLOTS["matrix"](None))


def test_a_tunnel_that_outlived_the_watch_is_no_death() -> None:
    ax = PLOTS["survival"](None)
    lasting = next(line for line in ax.lines if "10 s (0 of 8 ended)" in str(line.get_label()))
    assert set(y_of(lasting)) == {1.0}


def test_twenty_groups_differ_in_colour_line_or_marker() -> None:
    ax = plots.ecdf(sweeps.table(delays_ms=tuple(range(10, 20))), BY)
    curves = [line for line in ax.lines if line.get_linestyle() != "None"]
    dots = [line for line in ax.lines if line.get_linestyle() == "None"]
    looks = {
        (curve.get_color(), str(curve._dash_pattern), dot.get_marker())  # type: ignore[attr-defined]
        for curve, dot in zip(curves, dots, strict=True)
    }
    assert len(looks) == len(curves) == 20


def test_a_survival_says_by_what_the_tunnels_are_told_apart() -> None:
    assert "keepalive\nband: 95%" in texts(PLOTS["survival"](None))


def test_figures_of_real_time_say_that_they_are_noisy() -> None:
    assert "noisy" in texts(plots.ecdf(sweeps.table(noisy=True)))
    assert "noisy" not in texts(plots.ecdf(sweeps.table()))


def test_bands_are_drawn_while_they_can_be_told_apart() -> None:
    assert len(plots.ecdf(sweeps.table(), "transport").collections) == 2
    assert len(plots.ecdf(sweeps.table(), BY).collections) == 0
    assert len(plots.ecdf(sweeps.table(), BY, band=True).collections) == 4


def test_colours_differ_in_lightness_or_hue_for_every_kind_of_vision() -> None:
    """Simulated with the matrices of Machado, Oliveira and Fernandes (2009), for full deficiency."""
    red_blind = ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052))
    green_blind = ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969))
    for vision in (red_blind, green_blind):
        seen = [
            [sum(m * c for m, c in zip(row, to_rgb(colour), strict=True)) for row in vision] for colour in plots.COLOURS
        ]
        for number, one in enumerate(seen):
            for other in seen[:number]:
                assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 0.1


def test_what_a_plot_lacks_is_named() -> None:
    with pytest.raises(UsageError, match="needs a column 'loss_pct'; there are cell"):
        plots.against(sweeps.table(), "loss_pct")
    with pytest.raises(UsageError, match="nothing to plot"):
        plots.ecdf(sweeps.table().iloc[:0])
