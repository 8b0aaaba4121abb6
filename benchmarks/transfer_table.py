"""From the document of a run of `transfer.py` to Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from measuring import render

MEGABYTE = 1_000_000

HEAD = """\
| what | how | files/s | first file | CPU s per 1,000 files | requests per 1,000 files | memory above idle |
|---|---|---|---|---|---|---|"""

LARGE_HEAD = """\
| what | how | MB/s | first file | CPU s | requests | memory above idle |
|---|---|---|---|---|---|---|"""


def render_transfer(document: Mapping[str, Any]) -> str:
    """Return a run as Markdown: the figures, then every row."""
    rows = [row for row in document["rows"] if row["samples"]]
    parts = [render(document), "", f"Held against: {', '.join(document['versions'])}.", "", HEAD]
    parts += [_render_row(row, "files/s") for row in rows if not _is_large(row)]
    if any(map(_is_large, rows)):
        parts += ["", LARGE_HEAD, *(_render_row(row, "MB/s") for row in rows if _is_large(row))]
    left_out = [f"- {row['payload']}, {row['label']}: {row['note']}" for row in document["rows"] if row["note"]]
    left_out += [f"- {note}" for note in document["notes"]]
    if left_out:
        parts += ["", "Left out, or broken off:", "", *left_out]
    return "\n".join(parts)


def _is_large(row: Mapping[str, Any]) -> bool:
    return bool(row["samples"][0]["files"] == 1)


def get_rates(samples: Sequence[Mapping[str, Any]], unit: str) -> list[float]:
    """Return how fast each reading was, in files/s or MB/s."""
    name, scale = ("files", 1) if unit == "files/s" else ("bytes", MEGABYTE)
    return [sample[name] / scale / sample["took_s"] for sample in samples]


def _render_row(row: Mapping[str, Any], unit: str) -> str:
    samples = row["samples"]
    rates = get_rates(samples, unit)
    thousands = 1 if _is_large(row) else 1000 / samples[0]["files"]
    first = _middle(samples, "first_s", 1000)
    requests = _middle(samples, "requests", thousands)
    cells = [
        row["payload"],
        row["label"],
        f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
        "-" if first is None else f"{first:.0f} ms",
        _pair(_middle(samples, "cpu_s", thousands), _middle(samples, "server_cpu_s", thousands), "{:.3f}"),
        "-" if requests is None else f"{requests:,.0f}" if requests >= 100 else f"{requests:.2g}",
        _pair(_middle(samples, "memory", 1 / MEGABYTE), _middle(samples, "server_memory", 1 / MEGABYTE), "{:.0f} MB"),
    ]
    return f"| {' | '.join(cells)} |"


def _middle(samples: Sequence[Mapping[str, Any]], key: str, scale: float) -> float | None:
    """Return the median of what is known, scaled; None when nothing is."""
    values = [sample[key] for sample in samples if sample.get(key) is not None]
    return median(values) * scale if values else None


def _pair(one: float | None, other: float | None, form: str) -> str:
    return " / ".join("-" if value is None else form.format(value) for value in (one, other))
