"""What is due of `transfer.py`, and which rows each figure is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, TypeAlias

from measuring import Due, Results
from slow_link import LINK_BYTES_PER_S
from transfer_table import MEGABYTE, get_rates

Samples: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]


COLD = "small/cold-iter"
"""Key of the row during which ``/health`` is asked for."""

LINK = "link"
"""What stands in the place of a row where a figure is held against the slow link itself."""


class Figure(NamedTuple):
    """What is made of rows.

    Attributes:
        due: What is due.
        row: Key of the row that is measured; empty for what is made of several.
        base: Key of the row that it is held against.
    """

    due: Due
    row: str = ""
    base: str = ""


def _due(name: str, limit: float, base: str, unit: str = "files/s") -> Due:
    return Due(name, limit, unit, base, is_least=True)


FIGURES = {
    "iter_small_plain": Figure(_due("`iter_file_bytes`, 2.6 KB", 80, "plain loop"), "small/iter", "small/plain"),
    "iter_small_local": Figure(
        _due("`iter_file_bytes`, 2.6 KB", 1.5, "local, 0 workers"), "small/iter", "small/local-0"
    ),
    "iter_medium_plain": Figure(_due("`iter_file_bytes`, 95 KB", 12, "plain loop"), "medium/iter", "medium/plain"),
    "iter_medium_local": Figure(
        _due("`iter_file_bytes`, 95 KB", 1.2, "local, 0 workers"), "medium/iter", "medium/local-0"
    ),
    "contract_small": Figure(_due("the contract's loop, 2.6 KB", 40, "plain loop"), "small/contract", "small/plain"),
    "contract_medium": Figure(_due("the contract's loop, 95 KB", 8, "plain loop"), "medium/contract", "medium/plain"),
    "download_rsync": Figure(_due("`download_dataset`, 2.6 KB", 1, "`rsync`"), "small/download", "small/rsync"),
    "download_rclone": Figure(_due("`download_dataset`, 2.6 KB", 5, "`rclone copy`"), "small/download", "small/rclone"),
    "download_large": Figure(
        _due("`download_dataset`, 1 GiB", 0.6, "`curl` from nginx", "MB/s"), "large/download", "large/curl"
    ),
    "link_small": Figure(
        _due("`iter_file_bytes`, 2.6 KB, slow link", 0.9, "the link", "MB/s"), "small/link-iter", LINK
    ),
    "link_medium": Figure(
        _due("`iter_file_bytes`, 95 KB, slow link", 0.9, "the link", "MB/s"), "medium/link-iter", LINK
    ),
    "cold": Figure(_due("`iter_file_bytes`, 2.6 KB, cold disk", 20, "plain loop"), COLD, "small/cold-plain"),
    "cold_health": Figure(Due("`/health` meanwhile, 99th percentile", 0.05)),
    "hub_memory": Figure(Due("memory of the hub above idle, the most in any row", 200, "MB")),
    "client_memory": Figure(Due("memory of the SDK above idle, the most in any row", 200, "MB")),
}


def choose_figures(keys: Sequence[str], ours: Sequence[str]) -> dict[str, Figure]:
    """Return the figures that can come of a run.

    Args:
        keys: Keys of its rows.
        ours: Those of this project.
    """
    there = {*keys, LINK, ""}
    unable = set() if ours else {"hub_memory", "client_memory"}
    if COLD not in there:
        unable.add("cold_health")
    return {
        key: figure
        for key, figure in FIGURES.items()
        if figure.row in there and figure.base in there and key not in unable
    }


def fill_results(results: Results, samples: Samples, failed: Mapping[str, str], ours: Sequence[str]) -> None:
    """Set the figures.

    Args:
        results: Where they go.
        samples: What was measured, by key of the row.
        failed: Why the others were not.
        ours: Keys of the rows of this project.
    """
    figures = choose_figures(list(samples), ours)
    for key, figure in figures.items():
        if figure.row:
            _fill_speed(results, key, samples, failed)
    values = {
        "cold_health": [sample["health_s"] for sample in samples.get(COLD, [])],
        "hub_memory": _find_most("server_memory", samples, ours),
        "client_memory": _find_most("memory", samples, ours),
    }
    for key in values.keys() & figures:
        if values[key]:
            results.measure(key, *values[key])
        else:
            results.give_up(key, failed.get(COLD, "no row gave it"))


def _fill_speed(results: Results, key: str, samples: Samples, failed: Mapping[str, str]) -> None:
    due, row, base = FIGURES[key]
    needed = [row] if base == LINK else [row, base]
    missing = [name for name in needed if not samples.get(name)]
    if missing:
        results.give_up(key, failed.get(missing[0], "its row was not reached"))
        return
    rates = get_rates(samples[row], due.unit)
    held_against = LINK_BYTES_PER_S / MEGABYTE if base == LINK else median(get_rates(samples[base], due.unit))
    results.measure(key, *rates, base=held_against)


def _find_most(name: str, samples: Samples, ours: Sequence[str]) -> list[float]:
    """Return the most memory of any reading of ours, in MB, or nothing."""
    found = [sample[name] for key in ours for sample in samples[key] if sample.get(name) is not None]
    return [max(found) / MEGABYTE] if found else []
