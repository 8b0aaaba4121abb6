"""The state of a run: a handful of numbers and names, which JSON carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from dsx.errors import InvalidRequestError
from dsx.protocol.globs import Patterns, make_filter
from dsx.protocol.text import shown


class Choice(NamedTuple):
    """Which samples a run is over.

    Attributes:
        dataset: Name of the dataset.
        include: Patterns of which a path has to match one; None for all.
        exclude: Patterns of which a path must match none; None for none.
        revision: The revision that was asked for; None for the newest.
    """

    dataset: str
    include: tuple[str, ...] | None
    exclude: tuple[str, ...] | None
    revision: str | None

    @classmethod
    def make(cls, dataset: str, include: Patterns | None, exclude: Patterns | None, revision: str | None) -> Choice:
        """Hold what was asked for in a form that can be compared.

        Raises:
            InvalidRequestError: Something is no pattern.
        """
        make_filter(include, exclude)
        return cls(dataset, _hold_patterns(include), _hold_patterns(exclude), revision)


class StreamState(BaseModel):
    """Where a run stands, and of what.

    Attributes:
        version: Of this form.
        dataset: Name of the dataset.
        revision: Revision that the samples are of.
        include: Patterns of the selection.
        exclude: Patterns of what is left out of it.
        chosen: What tells a subset of these from another; None for all of them.
        shuffle: Whether the order is shuffled.
        seed: Its seed.
        epoch: The epoch.
        position: The next position in the order of the epoch, over all ranks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    dataset: str
    revision: str
    include: list[str] | None
    exclude: list[str] | None
    chosen: str | None = None
    shuffle: bool
    seed: int
    epoch: NonNegativeInt
    position: NonNegativeInt


def parse_state(state: Mapping[str, Any]) -> StreamState:
    """Read a state that somebody kept.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        return StreamState.model_validate(dict(state))
    except (ValidationError, TypeError, ValueError) as error:
        wrong = error.errors() if isinstance(error, ValidationError) else []
        where = ", ".join(".".join(map(str, each["loc"])) for each in wrong)
        advice = f"; look at {where}" if where else ""
        raise InvalidRequestError(f"that is no state that state_dict() has given{advice}") from error


def check_choice(state: StreamState, choice: Choice, *, shuffle: bool, chosen: str | None = None) -> None:
    """Make sure that a state is of the samples that were asked for, in the order that was.

    Raises:
        InvalidRequestError: It is of others; the message says what differs.
    """
    pairs: list[tuple[str, object, object]] = [
        ("dataset", state.dataset, choice.dataset),
        ("include", _shorten(state.include), _shorten(choice.include)),
        ("exclude", _shorten(state.exclude), _shorten(choice.exclude)),
        ("revision", state.revision, choice.revision or state.revision),
        ("subset", state.chosen, chosen),
        ("shuffle", state.shuffle, shuffle),
    ]
    differing = [
        f"{name} is {shown(theirs)} there and {shown(ours)} here" for name, theirs, ours in pairs if theirs != ours
    ]
    if differing:
        raise InvalidRequestError(f"the state is of another run: {'; '.join(differing)}")


def _hold_patterns(patterns: Patterns | None) -> tuple[str, ...] | None:
    """Hold patterns sorted, each once: their order says nothing."""
    if patterns is None:
        return None
    return (patterns,) if isinstance(patterns, str) else tuple(sorted(set(patterns)))


def _shorten(patterns: list[str] | tuple[str, ...] | None) -> list[str] | None:
    return None if patterns is None else list(patterns)
