"""What ``dsx bench`` says of measures, made by hand as each kind of limit gives them."""

from __future__ import annotations

from typing import Any

import pytest

from dsx.cli.bench_measures import Extent, Measures, Pass, Way
from dsx.cli.bench_verdict import Verdict, format_seconds, judge

FILE_BYTES = 95_000
CATS = Extent(
    dataset="cats",
    files=12_000,
    bytes=12_000 * FILE_BYTES,
    small_files=12_000,
    small_bytes=12_000 * FILE_BYTES,
    largest_bytes=2 * FILE_BYTES,
)
MOVIES = Extent(dataset="movies", files=10, bytes=40 * 10**9, small_files=0, small_bytes=0, largest_bytes=4 * 10**9)


def way(round_trip_ms: float = 0.6, *, is_loopback: bool = False) -> Way:
    return Way(
        is_loopback=is_loopback, connect_ms=0.3, round_trip_ms=round_trip_ms, round_trip_p99_ms=2 * round_trip_ms
    )


def files(
    per_s: float, seconds: float = 2.0, *, each: int = FILE_BYTES, cpu: float = 0.2, first_s: float = 0.2
) -> Pass:
    count = int(per_s * seconds)
    return Pass(files=count, bytes=count * each, seconds=seconds, cpu_s=cpu * seconds, first_s=first_s)


def large(mb_per_s: float, *, cpu: float = 0.2) -> Pass:
    return Pass(files=0, bytes=int(mb_per_s * 2e6), seconds=2.0, cpu_s=2 * cpu)


def small_measures(rate: float, **others: Any) -> Measures:
    """Measures of a dataset of short files that come at one rate, on a cable; what differs is named."""
    usual: dict[str, Any] = {
        "extent": CATS,
        "way": way(),
        "one_stream": large(0.95 * rate * FILE_BYTES / 1e6),
        "answer_ms": 0.7,
        "answer_again_ms": 0.6,
        "one_by_one": files(rate / 2),
        "batches": files(rate),
        "batches_again": files(rate),
        "one_byte_each": files(30_000, rate * 2 / 30_000, each=1),
    }
    return Measures(**usual | others)


def told(verdict: Verdict) -> str:
    return "\n".join(verdict.sentences)


@pytest.mark.parametrize(
    ("mb_per_s", "named"),
    [
        (11.4, "about 100 Mbit/s"),
        (112.0, "about 1 Gbit/s"),
        (30.0, "about 240 Mbit/s"),
        (700.0, "about 5,600 Mbit/s"),
        (0.2, "about 1.6 Mbit/s"),
    ],
)
def test_batches_that_bring_what_a_long_file_does_are_held_up_by_bandwidth(mb_per_s: float, named: str) -> None:
    extent = CATS.model_copy(update={"largest_bytes": 10**9, "bytes": CATS.bytes + 10**9, "files": CATS.files + 1})
    rate = mb_per_s * 1e6 / FILE_BYTES
    measures = small_measures(rate, extent=extent, large=large(mb_per_s), large_again=large(0.9 * mb_per_s))
    verdict = judge(measures)
    assert verdict.limit == "bandwidth"
    assert named in told(verdict)


def test_gigabit_is_advised_where_the_link_is_a_tenth_of_it_only() -> None:
    slow, quick = (judge(small_measures(mb * 1e6 / FILE_BYTES)) for mb in (11.4, 112.0))
    assert "a gigabit cable" in told(slow)
    assert "a gigabit cable" not in told(quick)


def test_short_files_that_come_much_faster_without_their_bytes_are_held_up_by_bandwidth() -> None:
    assert judge(small_measures(600)).limit == "bandwidth"


def test_short_files_that_come_no_faster_without_their_bytes_are_held_up_by_the_hub() -> None:
    verdict = judge(small_measures(600, one_byte_each=files(700, each=1)))
    assert verdict.limit == "hub"
    assert "DSX_WORKERS" in told(verdict)


def test_batches_that_bring_half_of_what_a_long_file_does_are_not_held_up_by_bandwidth() -> None:
    extent = CATS.model_copy(update={"largest_bytes": 10**8})
    measures = small_measures(600, extent=extent, large=large(114), large_again=large(114))
    assert judge(measures).limit == "hub"


def test_process_that_computes_all_the_time_is_the_limit() -> None:
    verdict = judge(small_measures(600, batches=files(600, cpu=0.97)))
    assert verdict.limit == "machine"
    assert "97% of a core" in told(verdict)


def test_files_that_come_faster_the_second_time_were_waited_for_by_the_hub() -> None:
    verdict = judge(small_measures(320, batches_again=files(5_000, 640 / 5_000)))
    assert verdict.limit == "disk"
    assert "320 files a second" in told(verdict)
    assert "SSD" in told(verdict)
    assert verdict.epoch is not None
    assert verdict.epoch.seconds == pytest.approx(12_000 / 320)
    assert verdict.epoch.again_seconds == pytest.approx(12_000 / 5_000)
    assert "38 s" in told(verdict)
    assert "2.4 s once the hub has it in memory" in told(verdict)


def test_hub_that_waits_for_each_file_each_time_waits_for_its_disk() -> None:
    verdict = judge(small_measures(300, answer_again_ms=12.6, one_byte_each=files(310, each=1)))
    assert verdict.limit == "disk"
    assert "12.0 ms for each file" in told(verdict)


def test_first_pass_that_is_slower_for_a_moment_says_nothing_of_a_disk() -> None:
    measures = small_measures(1, batches=files(2_000, 0.1), batches_again=files(8_000, 0.025))
    assert judge(measures).limit != "disk"


def test_few_files_far_away_are_held_up_by_latency() -> None:
    few = Extent(dataset="few", files=20, bytes=20_000, small_files=20, small_bytes=20_000, largest_bytes=1_000)
    measures = small_measures(
        1,
        extent=few,
        way=way(180),
        answer_ms=181,
        answer_again_ms=180,
        one_stream=Pass(files=7, bytes=7_000, seconds=1.4, cpu_s=0.0),
        one_by_one=Pass(files=5, bytes=5_000, seconds=0.91, cpu_s=0.01),
        batches=Pass(files=20, bytes=20_000, seconds=0.37, cpu_s=0.01, first_s=0.36),
        batches_again=Pass(files=20, bytes=20_000, seconds=0.19, cpu_s=0.01, first_s=0.18),
        one_byte_each=Pass(files=20, bytes=20, seconds=0.19, cpu_s=0.01),
    )
    verdict = judge(measures)
    assert verdict.limit == "latency"
    assert "a round trip takes 180 ms" in told(verdict)
    assert "One by one, a file takes 182 ms, of which 180 are the way" in told(verdict)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"large": large(11), "large_again": large(11)}, "bandwidth"),
        ({"large": large(60), "large_again": large(600)}, "disk"),
        ({"large": large(300, cpu=0.99), "large_again": large(300, cpu=0.99)}, "machine"),
        ({"large": large(300), "large_again": large(300), "way": way(is_loopback=True)}, "hub"),
    ],
)
def test_long_files_have_their_limits(changes: dict[str, Any], limit: str) -> None:
    verdict = judge(Measures(**{"extent": MOVIES, "way": way(), "one_stream": large(11)} | changes))
    assert verdict.limit == limit
    assert verdict.epoch is not None
    assert verdict.epoch.seconds == pytest.approx(40e9 / 1e6 / changes["large"].mb_per_s)
    assert verdict.epoch.one_by_one_seconds is None


def test_the_part_of_the_dataset_that_takes_longer_decides() -> None:
    extent = Extent(
        dataset="mixed",
        files=101,
        bytes=40 * 10**9 + 100 * FILE_BYTES,
        small_files=100,
        small_bytes=100 * FILE_BYTES,
        largest_bytes=40 * 10**9,
    )
    busy = files(50, cpu=1.0)
    measures = small_measures(50, extent=extent, large=large(11), large_again=large(11), batches=busy)
    assert judge(measures).limit == "bandwidth"


def test_one_machine_has_no_network_to_wait_for() -> None:
    verdict = judge(small_measures(4_000, way=way(0.4, is_loopback=True)))
    assert verdict.limit == "hub"
    assert "Hub and this machine are one" in told(verdict)


def test_an_address_of_this_machine_that_takes_long_leads_on() -> None:
    verdict = judge(small_measures(60, way=way(42, is_loopback=True), answer_ms=42.0, answer_again_ms=42.0))
    assert verdict.limit == "bandwidth"
    assert "are one" not in told(verdict)
    assert "a tunnel or a proxy" in told(verdict)


def test_epoch_says_what_each_way_of_reading_takes() -> None:
    verdict = judge(small_measures(800, one_by_one=files(16)))
    line = "An epoch over cats (12,000 files, 1.1 GB) takes about 15 s, the first file after 0.2 s; "
    assert f"{line}one by one, with nothing read ahead, it would take 12 min." in verdict.sentences


def test_one_connection_that_brings_little_is_told() -> None:
    measures = Measures(extent=MOVIES, way=way(90), large=large(40), large_again=large(42), one_stream=large(5))
    assert "One connection alone brings 5.0 MB/s, the several of this SDK 42.0 MB/s" in told(judge(measures))


@pytest.mark.parametrize("size", [0, 3])
def test_dataset_without_bytes_has_no_limit(size: int) -> None:
    extent = Extent(dataset="none", files=size, bytes=0, small_files=size, small_bytes=0, largest_bytes=0)
    verdict = judge(Measures(extent=extent, way=way()))
    assert (verdict.limit, verdict.epoch) == (None, None)
    assert verdict.sentences == ["Dataset none has no bytes to read."]


def test_name_that_would_move_a_cursor_is_escaped() -> None:
    extent = CATS.model_copy(update={"dataset": "cats\x1b[2J"})
    assert "\x1b" not in told(judge(small_measures(600, extent=extent)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0.4 ms"),
        (0.032, "32 ms"),
        (0.2, "0.2 s"),
        (14.2, "14 s"),
        (720, "12 min"),
        (9_000, "2.5 hours"),
        (3.1 * 86_400, "3.1 days"),
    ],
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
