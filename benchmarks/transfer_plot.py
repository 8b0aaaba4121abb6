"""The plot of a run of `transfer.py`: how many files a second each way of reading gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from measuring import BenchmarkError
from transfer_table import get_rates

PANELS = {
    "2.6 KB": ("small/", ("download", "rsync", "rclone", "link-iter", "link-plain", "cold-iter", "cold-plain")),
    "95 KB": ("medium/", ("link-iter", "link-plain")),
    "PNG files": ("clipart/", ()),
    "2.6 KB, to the disk": ("small/", None),
}
"""Title, what the keys of the rows begin with, and how they must not go on; None for the downloads alone."""

DOWNLOADS = ("small/download", "small/rsync", "small/rclone")
OURS, OTHERS = "#0b6e4f", "#a8b5bd"
WIDTH_IN, ROW_IN, PANEL_IN = 9.0, 0.24, 0.62


def write_plot(document: Mapping[str, Any], file: Path) -> None:
    """Draw a run as SVG; the same run gives the same file.

    Raises:
        BenchmarkError: There is nothing to draw with.
    """
    if find_spec("matplotlib") is None:
        raise BenchmarkError("the plot needs the package matplotlib: pip install -e '.[bench]'")
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "dsx", "font.size": 9}
    mpl.rcParams |= {"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Arial"]}
    from matplotlib import pyplot as plt

    panels = [(title, rows) for title in PANELS if (rows := _select(document["rows"], title))]
    heights = [len(rows) * ROW_IN + PANEL_IN for _, rows in panels]
    figure, axes = plt.subplots(
        len(panels), figsize=(WIDTH_IN, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for (title, rows), axis in zip(panels, axes[:, 0], strict=True):
        _draw(axis, title, rows)
    axes[-1, 0].set_xlabel("files per second (logarithmic)")
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def _select(rows: Sequence[Mapping[str, Any]], title: str) -> list[Mapping[str, Any]]:
    """Return the rows of a panel, the slowest one first: it is drawn at the bottom."""
    beginning, without = PANELS[title]
    if without is None:
        found = [row for row in rows if row["key"] in DOWNLOADS]
    else:
        keys = {beginning + end for end in without}
        found = [row for row in rows if row["key"].startswith(beginning) and row["key"] not in keys]
    return sorted((row for row in found if row["samples"]), key=_get_speed)


def _get_speed(row: Mapping[str, Any]) -> float:
    return median(get_rates(row["samples"], "files/s"))


def _draw(axis: Any, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    speeds = [_get_speed(row) for row in rows]
    labels = [row["label"].replace("*", "").replace("`", "") for row in rows]
    bars = axis.barh(labels, speeds, color=[OURS if row["ours"] else OTHERS for row in rows])
    axis.bar_label(bars, labels=[f"{speed:,.0f}" for speed in speeds], padding=3)
    axis.set_xscale("log")
    axis.minorticks_off()
    axis.set_xlim(100, max(speeds) * 4)
    axis.set_title(title, loc="left", fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
