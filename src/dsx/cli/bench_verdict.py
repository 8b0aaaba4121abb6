"""What the measures of ``dsx bench`` mean: which part is the limit, what would help, what an epoch takes. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from dsx.cli.amounts import format_bytes, format_files
from dsx.cli.bench_measures import Measures, Pass
from dsx.protocol.text import printable

Limit = Literal["latency", "bandwidth", "hub", "disk", "machine"]

BUSY_SHARE = 0.85
"""From this share of one core on, this process is the limit: its threads compute one at a time, and what is left of the
core goes into switching between them. A process that waits for a link or a disk stays far below."""

AGREES_SHARE = 0.8
"""Two rates of one link are within this: the same reading, made again, differs by up to a sixth on a quiet machine."""

FREED_RATIO = 2.0
"""Without their bytes, files come at least so many times as fast when it is the bytes that take the time. Where the hub
takes it, they come hardly faster: it opens each file either way."""

COLD_RATIO = 1.5
"""Files that come so many times as fast when they are read again were waited for the first time. The same pass, made
again, differs by a factor of 1.4 on a busy machine (docs/performance.md)."""

COLD_S = 0.25
COLD_ROUND_TRIPS = 10
"""And by as much time, in s, and so many round trips: the first pass also makes connections, which begin slowly."""

DISK_MS = 3.0
"""A hub that has a file in memory begins to answer as quickly as it answers ``/health``. One that takes so much longer,
in ms, waits: a disk that turns takes 8 to seek, a network share 2 and more for an open, an SSD below 0.2."""

DISK_SHARE = 0.25
"""And longer by this share of a round trip: those of a long way vary by more than `DISK_MS`."""

FAR_MS = 5.0
"""A round trip of so long, in ms, is a long way or poor Wi-Fi; on a cable it takes below 1, most of it the hub's."""

TUNNEL_MS = 10.0
"""An address of this machine whose round trip takes this long, in ms, leads on to another one."""

ETHERNET = (
    ("100 Mbit/s", 12.5, "a gigabit cable, with gigabit ports on both sides"),
    ("1 Gbit/s", 125.0, "a link of 2.5 or 10 Gbit/s"),
)
"""Usual links with their MB/s. TCP leaves 94% of it to the bytes, so that what brings `AGREES_SHARE` to all is one."""


class Epoch(BaseModel):
    """What an epoch over the dataset takes, by what was measured.

    Attributes:
        seconds: With files that the hub has to read from its disk, as far as it had to now, in s.
        again_seconds: With what the hub has in memory meanwhile, in s.
        first_s: Until the first file is there, in s.
        one_by_one_seconds: With a call for each file and nothing read ahead, in s; None without small files.
    """

    model_config = ConfigDict(frozen=True)

    seconds: float
    again_seconds: float
    first_s: float
    one_by_one_seconds: float | None


class Verdict(BaseModel):
    """What the measures mean.

    Attributes:
        limit: What an epoch waits for: the ``latency`` or the ``bandwidth`` of the network, the ``hub``, its ``disk``,
            or this ``machine``; None when there was nothing to read.
        epoch: What an epoch takes; None when there was nothing to read.
        sentences: All of it in words.
    """

    model_config = ConfigDict(frozen=True)

    limit: Limit | None
    epoch: Epoch | None
    sentences: list[str]


def judge(measures: Measures) -> Verdict:
    """Say what measures mean."""
    here = [_word_loopback(measures)] if measures.way.is_loopback else []
    epoch = _estimate(measures)
    if epoch is None:
        name = printable(measures.extent.dataset)
        return Verdict(limit=None, epoch=None, sentences=[f"Dataset {name} has no bytes to read.", *here])
    limit = find_limit(measures)
    words = [*_WORDS[limit](measures), _word_epoch(measures, epoch), *_word_one_by_one(measures)]
    return Verdict(limit=limit, epoch=epoch, sentences=[*words, *_word_streams(measures), *here])


def find_limit(measures: Measures) -> Limit:
    """Tell what an epoch waits for, by the part of it that takes longer: short files in batches, or long ones."""
    large, batches = measures.large, measures.batches
    if batches is None or (large is not None and _time_large(measures, large) > _time_small(measures, batches)):
        return _find_limit_of_large(measures)
    if batches.cpu_share >= BUSY_SHARE:
        return "machine"
    if not _is_here(measures) and _fills_link(measures, batches):
        return "bandwidth"
    if _waits_for_disk(measures):
        return "disk"
    if not _is_here(measures) and _waits_for_round_trips(measures, batches):
        return "latency"
    return "hub"


def _find_limit_of_large(measures: Measures) -> Limit:
    """Nothing but a link, a disk and this machine can hold up long files: a hub sends them at gigabytes a second."""
    first = measures.large or measures.one_stream
    if first is not None and first.cpu_share >= BUSY_SHARE:
        return "machine"
    again = measures.large_again
    if first is not None and again is not None:
        lost_s = first.seconds - first.bytes / 1e6 / again.mb_per_s if again.mb_per_s else 0.0
        if _is_cold(measures, again.mb_per_s, first.mb_per_s, lost_s):
            return "disk"
    return "hub" if _is_here(measures) else "bandwidth"


def _fills_link(measures: Measures, batches: Pass) -> bool:
    """Tell whether batches bring as many bytes as anything does, and those are what takes the time.

    A long file shows what the link gives. Without one, there is only the same reading without its bytes to tell.
    """
    if batches.mb_per_s < AGREES_SHARE * _find_link_mb_per_s(measures):
        return False
    freed = measures.one_byte_each
    is_freed = freed is not None and freed.files_per_s >= FREED_RATIO * batches.files_per_s
    return is_freed or measures.large is not None


def _find_link_mb_per_s(measures: Measures) -> float:
    """Return the most that came over the link in any way, in MB/s."""
    ways = (measures.large, measures.large_again, measures.one_stream, measures.batches, measures.batches_again)
    return max((way.mb_per_s for way in ways if way is not None), default=0.0)


def _waits_for_disk(measures: Measures) -> bool:
    """Tell whether the hub waits for its disk: less the second time, or each time before it begins to answer."""
    first, again = measures.batches, measures.batches_again
    if first is not None and again is not None:
        lost_s = first.seconds - again.seconds * first.files / max(1, again.files)
        if _is_cold(measures, again.files_per_s, first.files_per_s, lost_s):
            return True
    return _find_disk_ms(measures) >= max(DISK_MS, DISK_SHARE * measures.way.round_trip_ms)


def _is_cold(measures: Measures, again_rate: float, first_rate: float, lost_s: float) -> bool:
    least_s = COLD_S + COLD_ROUND_TRIPS * measures.way.round_trip_ms / 1000
    return again_rate >= COLD_RATIO * first_rate and lost_s >= least_s


def _find_disk_ms(measures: Measures) -> float:
    """Return how much longer than a round trip the hub takes for a file that it has just read, in ms."""
    again = measures.answer_again_ms
    return 0.0 if again is None else max(0.0, again - measures.way.round_trip_ms)


def _waits_for_round_trips(measures: Measures, batches: Pass) -> bool:
    """Tell whether the way is long, and the hub's own work less than half of the time: the rest is round trips."""
    freed, round_trip_s = measures.one_byte_each, measures.way.round_trip_ms / 1000
    hub_s = 0.0 if freed is None else max(0.0, freed.seconds - round_trip_s) * batches.files / max(1, freed.files)
    return measures.way.round_trip_ms >= FAR_MS and hub_s < 0.5 * batches.seconds


def _is_here(measures: Measures) -> bool:
    """Tell whether hub and this process share a machine."""
    return measures.way.is_loopback and measures.way.round_trip_ms < TUNNEL_MS


def _estimate(measures: Measures) -> Epoch | None:
    """Estimate what an epoch takes: all short files as batches brought some, all bytes of long ones as one came."""
    first, again = measures.large or measures.one_stream, measures.large_again or measures.one_stream
    batches, alone = measures.batches, measures.one_by_one
    if not measures.extent.bytes or (batches is None and first is None):
        return None
    large_s = _time_large(measures, first)
    small_s = _time_small(measures, batches)
    began_s = batches.first_s if batches is not None else measures.way.round_trip_ms / 1000
    return Epoch(
        seconds=small_s + large_s,
        again_seconds=_time_small(measures, measures.batches_again) + _time_large(measures, again),
        first_s=began_s,
        one_by_one_seconds=None if alone is None else _time_small(measures, alone) + large_s,
    )


def _time_small(measures: Measures, reading: Pass | None) -> float:
    """Return how long all short files take at the rate of a pass, in s; by bytes where it had only the shortest."""
    if reading is None:
        return 0.0
    by_files = measures.extent.small_files / reading.files_per_s if reading.files_per_s else 0.0
    by_bytes = measures.extent.small_bytes / 1e6 / reading.mb_per_s if reading.mb_per_s else 0.0
    return max(by_files, by_bytes)


def _time_large(measures: Measures, reading: Pass | None) -> float:
    size = measures.extent.bytes - measures.extent.small_bytes
    return size / 1e6 / reading.mb_per_s if reading is not None and reading.mb_per_s else 0.0


def format_seconds(seconds: float) -> str:
    """Write a duration as people say it: ``3.1 ms``, ``0.4 s``, ``12 min``, ``2.5 hours``, ``3.1 days``."""
    if seconds < 0.00995:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 0.095:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def format_rate(value: float) -> str:
    """Write a rate: with a decimal where it is small."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _word_bandwidth(measures: Measures) -> list[str]:
    link = _find_link_mb_per_s(measures)
    reading = measures.batches or measures.large or measures.one_stream
    idle = "" if reading is None else f", while this process has {max(0.0, 1 - reading.cpu_share):.0%} of a core left"
    rows = [row for row in ETHERNET if AGREES_SHARE * row[1] <= link <= row[1]]
    if rows:
        name, _, cure = rows[0]
    else:
        name = f"{8 * link:,.0f} Mbit/s" if link > 1 else f"{8 * link:.1f} Mbit/s"
        slow = "a gigabit cable, which gives 110 MB/s, where this is Wi-Fi or an adapter"
        cure = slow if link < ETHERNET[1][1] else "a faster network"
    return [
        f"The limit is the network's bandwidth: it gives {format_rate(link)} MB/s, about {name}{idle}.",
        f"What would help: {cure}; stream(cache=True) fetches each file once, for all epochs.",
    ]


def _word_latency(measures: Measures) -> list[str]:
    return [
        f"The limit is the network's latency: a round trip takes {format_rate(measures.way.round_trip_ms)} ms, and the "
        "time goes into waiting for the first bytes rather than into bytes.",
        "What would help: a hub nearer by; stream(cache=True) fetches each file once, for all epochs.",
    ]


def _word_disk(measures: Measures) -> list[str]:
    first, again = measures.batches, measures.batches_again
    unit = "files a second"
    rates = (0.0, 0.0) if first is None or again is None else (first.files_per_s, again.files_per_s)
    if measures.batches is None and measures.large is not None and measures.large_again is not None:
        unit, rates = "MB/s", (measures.large.mb_per_s, measures.large_again.mb_per_s)
    if rates[1] >= COLD_RATIO * rates[0]:
        found = (
            f"read for the first time, files come at {format_rate(rates[0])} {unit}, and at {format_rate(rates[1])} "
            "when they are read again, out of the hub's memory"
        )
        cure = "an SSD, or so much memory in the hub that the dataset stays in it"
    else:
        found = f"the hub waits {format_rate(_find_disk_ms(measures))} ms for each file, the second time too"
        cure = "a disk of its own instead of a network share"
    return [
        f"The limit is the hub's disk: {found}.",
        f"What would help: {cure}; stream(cache=True) fetches each file once, for all epochs.",
    ]


def _word_hub(measures: Measures) -> list[str]:
    rate = measures.batches
    most = "" if rate is None else f", which gives {format_rate(rate.files_per_s)} files a second"
    if _is_here(measures):
        return [f"The limit is the hub{most}; it shares this machine's processor with the reading process."]
    return [
        f"The limit is the hub{most}: neither the network nor this process is busy, nor does a disk hold it up.",
        "What would help: more processes, if the hub's machine has idle cores (DSX_WORKERS, dsx serve --workers); "
        "a faster processor; fewer and larger files.",
    ]


def _word_machine(measures: Measures) -> list[str]:
    reading = measures.batches or measures.large or measures.one_stream
    share = 1.0 if reading is None else reading.cpu_share
    return [
        f"The limit is this machine: the reading process computes on {share:.0%} of a core all the time.",
        "What would help: several processes, as DataLoader workers or ranks are; a faster processor.",
    ]


_WORDS = {
    "latency": _word_latency,
    "bandwidth": _word_bandwidth,
    "hub": _word_hub,
    "disk": _word_disk,
    "machine": _word_machine,
}


def _word_epoch(measures: Measures, epoch: Epoch) -> str:
    extent = measures.extent
    what = f"{printable(extent.dataset)} ({format_files(extent.files)}, {format_bytes(extent.bytes)})"
    line = f"An epoch over {what} takes about {format_seconds(epoch.seconds)}, the first file after "
    line += format_seconds(epoch.first_s)
    if epoch.again_seconds * COLD_RATIO <= epoch.seconds and epoch.seconds - epoch.again_seconds >= COLD_S:
        line += f"; {format_seconds(epoch.again_seconds)} once the hub has it in memory"
    if epoch.one_by_one_seconds is not None and epoch.one_by_one_seconds > epoch.seconds:
        line += f"; one by one, with nothing read ahead, it would take {format_seconds(epoch.one_by_one_seconds)}"
    return f"{line}."


def _word_one_by_one(measures: Measures) -> list[str]:
    """Say so when most of the time of a call for one file is the round trip, on a way that is one."""
    alone, round_trip_ms = measures.one_by_one, measures.way.round_trip_ms
    if alone is None or not alone.files or _is_here(measures):
        return []
    each_ms = 1000 * alone.seconds / alone.files
    if round_trip_ms < 0.5 * each_ms:
        return []
    return [
        f"One by one, a file takes {format_rate(each_ms)} ms, of which {format_rate(min(round_trip_ms, each_ms))} are "
        "the way to the hub and back: iter_file_bytes() and stream() ask for many at once."
    ]


def _word_streams(measures: Measures) -> list[str]:
    """Say so when one connection brings much less than several, which is what other programs would use."""
    several, one = measures.large_again, measures.one_stream
    if several is None or one is None or several.mb_per_s < FREED_RATIO * one.mb_per_s:
        return []
    return [
        f"One connection alone brings {format_rate(one.mb_per_s)} MB/s, the several of this SDK "
        f"{format_rate(several.mb_per_s)} MB/s: the way is long, or loses packets."
    ]


def _word_loopback(measures: Measures) -> str:
    if _is_here(measures):
        return "Hub and this machine are one: there is no network in these figures, and both share a processor."
    return (
        f"The address is this machine's, but a round trip takes {format_rate(measures.way.round_trip_ms)} ms: "
        "it leads on, through a tunnel or a proxy."
    )
