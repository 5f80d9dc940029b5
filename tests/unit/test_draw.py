"""A drawing shows every node and address, nothing overlaps, and kinds differ without colour."""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.transforms import Bbox

import lab.draw
from lab.draw import draw, figure
from lab.errors import UsageError
from lab.icons import icon
from lab.topology.network import Network
from lab.topology.planner import make_plan
from tests.unit.shapes import ALL

KINDS = ("client", "host", "nat", "firewall", "router", "switch", "broker")


TITLE = "A title that is rather long, so that it decides how wide the page of a small topology has to be at least"


@functools.cache
def drawing(name: str) -> Figure:
    """One of the shapes, drawn and rendered once for all tests."""
    made = figure(ALL[name](), title=TITLE)
    FigureCanvasAgg(made).draw()  # type: ignore[no-untyped-call]
    return made


@pytest.fixture(params=list(ALL))
def shape(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def texts(made: Figure) -> dict[str, Bbox]:
    """What is written, with the place it takes in pixels; a repeated text gets a number."""
    found: dict[str, Bbox] = {}
    for text in made.axes[0].texts:
        name, count = text.get_text(), 2
        while name in found:
            name, count = f"{text.get_text()} #{count}", count + 1
        found[name] = text.get_window_extent()
    return found


def outlines(made: Figure) -> dict[str, Bbox]:
    """The icons' outlines by node, in pixels."""
    patches = [patch for patch in made.axes[0].patches if patch.get_gid() is not None]
    return {str(patch.get_gid()): patch.get_window_extent() for patch in patches}


def lines(made: Figure) -> list[Patch]:
    return [patch for patch in made.axes[0].patches if isinstance(patch, PathPatch) and patch.get_zorder() == 1]


def smaller(box: Bbox, pixels: float = 1.0) -> Bbox:
    return Bbox.from_extents(box.x0 + pixels, box.y0 + pixels, box.x1 - pixels, box.y1 - pixels)


def test_no_two_texts_or_icons_overlap(shape: str) -> None:
    made = drawing(shape)
    boxes = {**texts(made), **outlines(made)}
    overlapping = [
        (one, two) for (one, a), (two, b) in combinations(boxes.items(), 2) if smaller(a).overlaps(smaller(b))
    ]
    assert overlapping == []


def test_no_line_runs_through_an_address(shape: str) -> None:
    made = drawing(shape)
    paths = [line.get_transform().transform_path(line.get_path()) for line in lines(made)]
    labels = [text for text in made.axes[0].texts if text.get_bbox_patch() is None]
    assert labels
    struck = [
        text.get_text()
        for text in labels
        for path in paths
        if path.intersects_bbox(smaller(text.get_window_extent()), filled=False)
    ]
    assert struck == []


def test_everything_is_on_the_page(shape: str) -> None:
    made = drawing(shape)
    boxes = {**texts(made), **outlines(made)}
    width, height = made.get_size_inches() * made.dpi
    assert [name for name, b in boxes.items() if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height] == []


def test_every_node_kind_and_address_is_written(shape: str) -> None:
    plan = make_plan(ALL[shape]())
    made = drawing(shape)
    written = "\n".join(text.get_text() for text in made.axes[0].texts)
    assert set(outlines(made)) == {f"node-{node.name}" for node in plan.nodes}
    for node in plan.nodes:
        assert node.name in written
        assert node.kind in written.lower()
        for interface in node.interfaces:
            for address in (interface.ipv4, interface.ipv6):
                assert address is None or address in written


def test_every_link_is_drawn_once(shape: str) -> None:
    assert len(lines(drawing(shape))) == len(ALL[shape]().links)


def test_links_to_where_nobody_is_at_first_are_dashed() -> None:
    dashed = [line for line in lines(drawing("roaming")) if line.get_linestyle() not in ("-", "solid")]
    assert len(dashed) == 2


def test_impairments_are_written_on_their_link() -> None:
    net = Network("impaired")
    net.link(net.client("laptop"), net.broker("broker"), delay_ms=20, jitter_ms=2, loss_pct=0.5, rate_mbit=10)
    written = [text.get_text() for text in figure(net).axes[0].texts]
    assert "20±2 ms, 0.5 % loss, 10 Mbit/s" in written


def test_icons_differ_by_shape_alone() -> None:
    def geometry(kind: str) -> bytes:
        patches = icon(kind, 0.0, 0.0)
        paths = (patch.get_patch_transform().transform_path(patch.get_path()) for patch in patches)
        return b"".join(np.round(np.asarray(path.vertices), 3).tobytes() for path in paths)

    assert len({geometry(kind) for kind in KINDS}) == len(KINDS)


def test_an_svg_has_a_group_for_each_node_and_its_text_as_text(tmp_path: Path) -> None:
    net = ALL["home_nat"]()
    file = draw(net, tmp_path / "home_nat.svg", title="A laptop behind a NAT.")
    root = ET.parse(file).getroot()
    ids = {element.get("id") for element in root.iter()}
    assert {f"node-{node.name}" for node in net.nodes} <= ids
    said = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"laptop", "wan0 192.0.2.2/24", "20 ms", "A laptop behind a NAT"} <= said


def test_a_drawing_is_the_same_every_time(tmp_path: Path) -> None:
    net = ALL["home_nat"]()
    for suffix in ("svg", "png"):
        one, two = (draw(net, tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        draw(ALL["direct"](), tmp_path / "direct.pdf")


def test_a_picture_is_never_larger_than_programs_can_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.draw, "_MOST_PIXELS", 700)
    header = draw(ALL["home_nat"](), tmp_path / "home_nat.png").read_bytes()[16:24]
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:])
    assert 650 < width <= 700
    assert 0 < height < width
