"""Include and exclude patterns over the paths of a dataset, the same on both sides. Pure.

- ``*`` stands for any characters of one name, ``?`` for one, ``[a-z]`` and ``[!a-z]`` for one of or not of a set;
- ``**`` stands for any characters across folders, and ``**/`` for any number of folders, also none;
- a pattern without ``/`` is for the file name, at any depth; one that begins with ``/`` begins at the dataset's top;
- a pattern that ends in ``/`` is for all that lies below that folder.

All patterns of a set become one automaton: the time for a path grows with its length and with that of the patterns,
whatever they are. Regular expressions would try some patterns of many stars for years.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from dsx.errors import InvalidRequestError
from dsx.protocol.text import shown

Patterns: TypeAlias = str | Sequence[str]

# The first character inside may be a closing bracket; without a closing one, a bracket is a character like others.
_SET = re.compile(r"\[([!^]?[^/][^\]/]*)\]")

STATES_KEPT = 2000
"""How many states of an automaton are remembered before it starts to remember anew."""


def make_filter(include: Patterns | None, exclude: Patterns | None) -> Callable[[str], bool]:
    """Return the function that tells whether a path is wanted.

    Args:
        include: Patterns of which a wanted path matches one; None for every path.
        exclude: Patterns of which a wanted path matches none.

    Raises:
        InvalidRequestError: Something is no pattern.
    """
    wanted = None if include is None else Globs(include)
    unwanted = None if exclude is None else Globs(exclude)

    def is_wanted(path: str) -> bool:
        return (wanted is None or wanted.match(path)) and not (unwanted is not None and unwanted.match(path))

    return is_wanted


class Globs:
    """A set of patterns; a path matches it when it matches one of them.

    Args:
        patterns: One pattern or several.

    Raises:
        InvalidRequestError: Something is no pattern.
    """

    def __init__(self, patterns: Patterns) -> None:
        # Bit i of each number is about place i, which is before token i of all patterns, one after the other.
        self._tokens: list[_Token | None] = []
        self._start = self._ends = self._skips = self._maybes = self._stays = self._stays_in_name = self._sure = 0
        for pattern in _check_patterns(patterns):
            self._add(_parse(pattern))
        self._start = self._follow(self._start)
        self._matching: dict[str, int] = {}
        self._steps: dict[int, dict[str, int]] = {}

    def match(self, path: str) -> bool:
        """Tell whether ``path``, one that the gate admits, matches one of the patterns."""
        state = self._start
        for char in path:
            known = self._steps.get(state)
            after = None if known is None else known.get(char)
            state = self._step(state, char) if after is None else after
            if not state:
                return False
            if state & self._sure:
                return True
        return bool(state & self._ends)

    def _add(self, tokens: list[_Token]) -> None:
        first = len(self._tokens)
        self._start |= 1 << first
        for place, token in enumerate(tokens, first):
            bit = 1 << place
            self._skips |= bit if token.kind in ("name", "any", "maybe") else 0
            self._maybes |= bit if token.kind == "maybe" else 0
            self._stays |= bit if token.kind == "any" else 0
            self._stays_in_name |= bit if token.kind == "name" else 0
        if tokens and tokens[-1].kind == "any":
            self._sure |= 1 << first + len(tokens)
        self._ends |= 1 << first + len(tokens)
        self._tokens += [*tokens, None]

    def _step(self, state: int, char: str) -> int:
        """Work out where ``char`` leads from ``state``, and remember it."""
        if char not in self._matching:
            matching = (1 << n for n, token in enumerate(self._tokens) if token is not None and token.takes(char))
            self._matching[char] = sum(matching)
        stays = self._stays if char == "/" else self._stays | self._stays_in_name
        after = self._follow((state & self._matching[char]) << 1 | state & stays)
        if len(self._steps) > STATES_KEPT or len(self._matching) > STATES_KEPT:
            self._steps.clear()
            self._matching.clear()
        self._steps.setdefault(state, {})[char] = after
        return after

    def _follow(self, state: int) -> int:
        """Add the places that are reached without a character: past stars, and past folders that may be left out."""
        while True:
            more = state | (state & self._skips) << 1 | (state & self._maybes) << 3
            if more == state:
                return state
            state = more


class _Token(NamedTuple):
    """A piece of a pattern: this ``char``, ``one`` of a set, a star within a ``name`` or for ``any`` characters.

    ``maybe`` takes no character: the two tokens after it, which stand for folders, may be left out.
    """

    kind: str
    chars: frozenset[str] = frozenset()
    ranges: tuple[tuple[str, str], ...] = ()
    is_negated: bool = False

    def takes(self, char: str) -> bool:
        """Tell whether this is a token for one character and takes ``char``."""
        if self.kind == "char":
            return char in self.chars
        if self.kind != "one" or char == "/":
            return False
        return self.is_negated != (char in self.chars or any(low <= char <= high for low, high in self.ranges))


def _check_patterns(patterns: object) -> list[str]:
    if not isinstance(patterns, Sequence) or isinstance(patterns, (bytes, bytearray)):
        raise InvalidRequestError(f"patterns are one string or a list of them, like '*.png'; got {shown(patterns)}")
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in listed:
        if not isinstance(pattern, str) or pattern in ("", "/") or "\\" in pattern:
            raise InvalidRequestError(
                f"{shown(pattern)} is no pattern; patterns are like '*.png' or 'train/**', with / between folders"
            )
    return listed


def _parse(pattern: str) -> list[_Token]:
    """Turn one pattern into tokens."""
    is_name = "/" not in pattern
    if is_name:
        pattern = f"**/{pattern}"
    pattern = pattern.removeprefix("/") + ("**" if pattern.endswith("/") else "")
    tokens: list[_Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            tokens += [_Token("maybe"), _Token("any"), _Token("char", frozenset("/"))]
            at += 3
        elif char == "*":
            stop = at + len(pattern[at:]) - len(pattern[at:].lstrip("*"))
            tokens.append(_Token("any" if stop - at > 1 and not is_name else "name"))
            at = stop
        elif char == "?":
            tokens.append(_Token("one", is_negated=True))
            at += 1
        elif char == "[" and (found := _SET.match(pattern, at)):
            tokens.append(_parse_set(found[1]))
            at = found.end()
        else:
            tokens.append(_Token("char", frozenset(char)))
            at += 1
    return tokens


def _parse_set(inside: str) -> _Token:
    """Read what stands between brackets."""
    is_negated = inside[0] in "!^"
    inside = inside[is_negated:]
    chars: set[str] = set()
    ranges: list[tuple[str, str]] = []
    at = 0
    while at < len(inside):
        if inside[at + 1 : at + 2] == "-" and at + 2 < len(inside):
            ranges.append((inside[at], inside[at + 2]))
            at += 3
        else:
            chars.add(inside[at])
            at += 1
    return _Token("one", frozenset(chars), tuple(ranges), is_negated)
