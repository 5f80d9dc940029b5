"""The report in a real browser: no error, every part drawn, readable on a telephone, in the light and in the dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.report import to_html
from lab.run import Run
from tests.unit.test_ladder import behind_a_nat
from tests.unit.test_tables import MOVE

pytestmark = [pytest.mark.needs("program chromium"), pytest.mark.timeout(300)]

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking --disable-sync "
    "--disable-component-update --disable-extensions --no-first-run --hide-scrollbars --enable-logging=stderr "
    "--virtual-time-budget=20000"
).split()

LOOKS = 4
"""A browser whose parts are kept waiting tells of a page before its frame is loaded: then it is asked again."""
OWN_PAGE = re.compile(r", source: chrome://\S+ \(\d+\)$")

MEASURE = """
function measure(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  const ladder = page.querySelector(".viewer svg"), message = ladder.querySelector(".message");
  const before = ladder.getBoundingClientRect().width;
  page.querySelector('[data-zoom="1.25"]').click();
  const after = ladder.getBoundingClientRect().width;
  message.dispatchEvent(new PointerEvent("pointerenter"));
  const colour = (what) => view.getComputedStyle(what);
  const found = {
    ready: root.dataset.ready, wide: root.scrollWidth, room: root.clientWidth, grew: after / before,
    messages: ladder.querySelectorAll(".message").length, told: page.querySelector(".told").textContent,
    nodes: page.querySelectorAll('.drawing [id^="node-"]').length, tables: page.querySelectorAll("table").length,
    phases: page.querySelector(".phases").getBoundingClientRect().width,
    ink: colour(page.body).color, paper: colour(page.body).backgroundColor,
    ladder_ink: colour(ladder.querySelector("text")).fill,
    label: ladder.querySelector(".message text").getBoundingClientRect().height,
    plot: page.querySelector(".plot svg").getBoundingClientRect().width,
    plot_dimmed: colour(page.querySelector(".plot .drawing")).filter,
    written: [...page.querySelectorAll(".plot text")].filter((one) => one.getBoundingClientRect().height >= 8)
      .map((one) => one.textContent),
    broken: [...ladder.querySelectorAll("text")].filter((one) => one.getBoundingClientRect().width === 0).length,
  };
  document.title = "measured";
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
}
"""


def look(tmp_path: Path, width: int, *more: str) -> dict[str, Any]:
    """What a browser makes of a report in a frame so many pixels wide; fails when its console has anything to say."""
    facts = json.loads((behind_a_nat(tmp_path).path / "run.json").read_text())
    facts["trials"][0]["records"].append(MOVE)
    facts["trials"][0]["scenario_s"] = 40.0  # so that it is at half of the time
    (tmp_path / "run.json").write_text(json.dumps(facts))
    report = to_html(Run.load(tmp_path))
    look = f'style="border:0;width:{width}px;height:700px" onload="measure(this)"'  # there before it can be loaded
    frame = f'<iframe {look} srcdoc="{html.escape(report)}"></iframe>'
    page = tmp_path / "page.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><body><script>{MEASURE}</script>{frame}</body>')
    chromium = shutil.which("chromium")
    assert chromium is not None
    command = [chromium, *OPTIONS, *more, f"--user-data-dir={tmp_path}/profile", "--window-size=1300,800"]
    for _ in range(LOOKS):
        done = subprocess.run(
            [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=180, check=False
        )
        # The browser's own pages, such as that of its address bar, have something to say when the machine is slow.
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and not OWN_PAGE.search(line)]
        assert said == []
        match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        if match is not None:
            found: dict[str, Any] = json.loads(html.unescape(match[1]))
            return found
    raise AssertionError(f"the page was never loaded to its end: {done.stdout[-500:]} {done.stderr[-2000:]}")


def lightness(colour: str) -> float:
    """Of "rgb(r, g, b)": 0 black, 1 white."""
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / (3 * 255)


def test_every_part_is_there_and_the_ladder_can_be_zoomed_and_pointed_at(tmp_path: Path) -> None:
    found = look(tmp_path, 1200)
    assert found["ready"] == "yes"
    assert (found["messages"], found["nodes"], found["broken"]) == (4, 5, 0)
    assert found["tables"] >= 2
    assert found["phases"] > 500
    assert found["grew"] == pytest.approx(1.25, abs=0.01)
    assert "VERSION=2.0.0" in found["told"]
    assert found["wide"] <= found["room"]
    assert {"192.168.1.2", "at cafe"} <= set(found["written"])
    assert found["plot_dimmed"] == "none"
    assert lightness(found["ink"]) < 0.3 < 0.9 < lightness(found["paper"])


def test_a_telephone_scrolls_down_and_not_sideways(tmp_path: Path) -> None:
    found = look(tmp_path, 360)
    assert found["room"] == 360
    assert found["wide"] <= 360 < found["plot"]  # a picture is not made too small to be read, but scrolled
    assert {"192.168.1.2", "at cafe"} <= set(found["written"])
    assert found["label"] >= 9  # pixels: a label that can be read


def test_in_the_dark_text_is_light_on_dark(tmp_path: Path) -> None:
    found = look(tmp_path, 900, "--blink-settings=preferredColorScheme=0")
    assert lightness(found["paper"]) < 0.2 < 0.8 < lightness(found["ink"])
    assert lightness(found["ladder_ink"]) > 0.6
    assert "invert" in found["plot_dimmed"]
