"""Which sample comes when: arithmetic without data.

An `Order` is a permutation of ``0 .. n-1`` that seed and epoch fix. It gives the sample at any position at once, in the
same time and memory for ten samples and for 10^9, so that a pass begins and resumes anywhere. A `Share` says which
positions of it one rank of several takes.

The permutation is a Feistel network over the smallest power of two that holds ``n``, with cycle walking: what falls
outside is sent through again until it falls inside. Eight rounds, each keyed from BLAKE2b of seed and epoch. Nothing in
it depends on random state, platform or version; with numpy blocks are computed at once, with the same result.

Source:
    Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom functions", 1988; Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002. The odd constant is 2^64 divided by the golden ratio (Knuth, TAOCP 3,
    6.4). Measured on 2 cores: 5 us an index in Python, 0.15 us in blocks with numpy.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dsx.errors import InvalidRequestError
from dsx.protocol.text import shown

Remainder = Literal["exact", "drop", "pad"]

ROUNDS = 8
LEAST_BITS = 6
"""A network over fewer bits than this has too few states to look random."""

MOST_SAMPLES = 2**62
FIRST_BLOCK = 64
BLOCK = 4096
"""How many positions are computed at once, at first and then, when many are wanted one after another."""

_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Order:
    """The order of one epoch.

    Args:
        length: How many samples there are.
        seed: Any integer; one seed is one sequence of orders.
        epoch: Number of the epoch, from 0; each has an order of its own.
        shuffle: Whether they are shuffled; else position ``i`` has sample ``i``.

    Raises:
        InvalidRequestError: One of them cannot be right.
    """

    def __init__(self, length: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> None:
        self.length = check_integer("length", length, most=MOST_SAMPLES)
        self.seed = check_integer("seed", seed, least=None)
        self.epoch = check_integer("epoch", epoch)
        self.shuffle = bool(shuffle)
        bits = max(LEAST_BITS, (self.length - 1).bit_length())
        self._left_bits = bits // 2
        self._right_bits = bits - self._left_bits
        self._keys = _derive_keys(self.seed, self.epoch) if self.shuffle else []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> int:
        """Return the number of the sample at a position, ``0 <= position < length``."""
        if not 0 <= position < self.length:
            raise IndexError(f"position {position} of {self.length}")
        return self._permute(position) if self.shuffle else position

    def __repr__(self) -> str:
        return f"Order({self.length}, seed={self.seed}, epoch={self.epoch}, shuffle={self.shuffle})"

    def take(self, positions: Sequence[int]) -> list[int]:
        """Return the numbers of the samples at some positions, each ``0 <= position < length``."""
        if not self.shuffle:
            return list(positions)
        numpy = find_numpy() if len(positions) > 8 else None
        if numpy is None:
            return [self._permute(position) for position in positions]
        return self._permute_block(numpy, positions)

    def _permute(self, value: int) -> int:
        left_bits, right_bits = self._left_bits, self._right_bits
        right_mask = (1 << right_bits) - 1
        left_shift, right_shift = 64 - left_bits, 64 - right_bits
        while True:
            left, right = value >> right_bits, value & right_mask
            for add, multiply, add_next, multiply_next in self._keys:
                mixed = (right + add) * multiply & _WORD
                left ^= ((mixed ^ mixed >> 32) * _GOLDEN & _WORD) >> left_shift
                mixed = (left + add_next) * multiply_next & _WORD
                right ^= ((mixed ^ mixed >> 32) * _GOLDEN & _WORD) >> right_shift
            value = left << right_bits | right
            if value < self.length:
                return value

    def _permute_block(self, numpy: Any, positions: Sequence[int]) -> list[int]:
        """Do what `_permute` does, to many at once; 64-bit integers of numpy wrap as the masks there do."""
        word = numpy.uint64
        if isinstance(positions, range):
            values = numpy.arange(positions.start, positions.stop, positions.step).astype(word)
        else:
            values = numpy.array(positions, dtype=word)
        outside = numpy.arange(len(values))
        while len(outside):
            values[outside] = self._run_network(word, values[outside])
            outside = outside[values[outside] >= word(self.length)]
        found: list[int] = values.tolist()
        return found

    def _run_network(self, word: Any, values: Any) -> Any:
        shift, half, golden = word(self._right_bits), word(32), word(_GOLDEN)
        left_shift, right_shift = word(64 - self._left_bits), word(64 - self._right_bits)
        left, right = values >> shift, values & word((1 << self._right_bits) - 1)
        for add, multiply, add_next, multiply_next in self._keys:
            mixed = (right + word(add)) * word(multiply)
            left = left ^ ((mixed ^ mixed >> half) * golden) >> left_shift
            mixed = (left + word(add_next)) * word(multiply_next)
            right = right ^ ((mixed ^ mixed >> half) * golden) >> right_shift
        return left << shift | right


@dataclass(frozen=True)
class Share:
    """Which positions of an order one rank takes, from where a pass begins.

    Position ``start + k`` is taken by rank ``k mod world_size``; so the ranks together take the order from its front,
    and where they stand is one number, whatever their count.

    Attributes:
        length: How many samples the order has.
        rank: Number of this rank, ``0 <= rank < world_size``.
        world_size: How many ranks there are.
        remainder: What is done when the ranks do not divide the samples: ``"exact"`` takes every one once, so that
            ranks may differ by one; ``"drop"`` leaves the last ones out; ``"pad"`` takes the first ones once more.
        start: The position from which the pass begins.

    Raises:
        InvalidRequestError: One of them cannot be right.
    """

    length: int
    rank: int = 0
    world_size: int = 1
    remainder: Remainder = "exact"
    start: int = 0

    def __post_init__(self) -> None:
        check_integer("world_size", self.world_size, least=1)
        check_integer("rank", self.rank, most=self.world_size - 1)
        check_integer("start", self.start, most=self.length)
        if self.remainder not in get_args(Remainder):
            raise InvalidRequestError(f"remainder is 'exact', 'drop' or 'pad', not {shown(self.remainder)}")

    @property
    def count(self) -> int:
        """How many samples this rank takes."""
        left = self.length - self.start
        if self.remainder == "drop":
            return left // self.world_size
        most = -(-left // self.world_size)
        is_short = self.remainder == "exact" and left % self.world_size and self.rank >= left % self.world_size
        return most - bool(is_short)

    def list_positions(self, begin: int, stop: int) -> Sequence[int]:
        """Return the positions of this rank's samples ``[begin, stop)``, as far as there are any."""
        stop = max(0, min(stop, self.count))
        first = self.start + self.rank
        positions = range(first + begin * self.world_size, first + stop * self.world_size, self.world_size)
        if not positions or positions[-1] < self.length:
            return positions
        return [position % self.length for position in positions]

    def iter_blocks(self) -> Iterator[Sequence[int]]:
        """Yield the positions of this rank, in order, some thousand at a time; the first few by themselves."""
        begin, size = 0, FIRST_BLOCK
        while begin < self.count:
            yield self.list_positions(begin, begin + size)
            begin, size = begin + size, BLOCK

    def find_reached(self, taken: int) -> int:
        """Return from where a pass has to go on when every rank has taken so many samples."""
        return min(self.length, self.start + taken * self.world_size)


def find_numpy() -> Any:
    """Return numpy if it is installed, else None."""
    try:
        import numpy as np
    except ImportError:
        return None
    return np


def check_integer(name: str, value: int, *, least: int | None = 0, most: int | None = None) -> int:
    """Return a number if it is an integer within bounds; numpy's are too.

    Raises:
        InvalidRequestError: It is not; the message calls it ``name``.
    """
    try:
        number = value.__index__()
    except (AttributeError, TypeError):
        number = None
    if number is None or isinstance(value, bool):
        raise InvalidRequestError(f"{name} is an integer, not {shown(value)}")
    if (least is not None and number < least) or (most is not None and number > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidRequestError(f"{name} is {bounds}, not {shown(number)}")
    return number


def _derive_keys(seed: int, epoch: int) -> list[tuple[int, int, int, int]]:
    """Return what two rounds each add and multiply by; the latter odd, so that no bit is lost."""
    name = f"dsx-order-1/{seed}/{epoch}".encode()
    words: list[int] = []
    for number in range(ROUNDS * 2 // 8):
        block = hashlib.blake2b(name, digest_size=64, salt=struct.pack("<Q", number)).digest()
        words += struct.unpack("<8Q", block)
    odd = [word | (place % 2) for place, word in enumerate(words)]
    return [(odd[at], odd[at + 1], odd[at + 2], odd[at + 3]) for at in range(0, len(odd), 4)]
