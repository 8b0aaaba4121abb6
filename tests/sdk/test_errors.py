"""The tree of errors, its table of codes, and the translation of what the libraries below raise."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle
import re
import types

import pytest
import requests
import urllib3

import dsx
import dsx._transport
from dsx import DownloadError, DsxError, errors

URL = "http://hub:8000"


def read_tree() -> dict[str, tuple[str, str | None, bool]]:
    """Read the tree that the module's docstring draws: name to parent, builtin and whether it is retryable."""
    assert errors.__doc__ is not None
    tree: dict[str, tuple[str, str | None, bool]] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+)(?: +(\w+Error))?( +retryable)?\Z", line)
        if match is None or not (match[1] or match[2] == "DsxError"):
            continue
        depth = len(match[1]) // 4
        above[depth:] = [match[2]]
        tree[match[2]] = (above[depth - 1] if depth else "Exception", match[3], match[4] is not None)
    return tree


TREE = read_tree()
CLASSES = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, DsxError)}


def test_tree_is_drawn_completely() -> None:
    assert TREE.keys() == CLASSES.keys()


@pytest.mark.parametrize("name", TREE)
def test_class_is_what_the_tree_says(name: str) -> None:
    parent, builtin, is_retryable = TREE[name]
    kind = CLASSES[name]
    assert kind.__bases__[0].__name__ == parent
    if builtin is not None:
        assert issubclass(kind, getattr(builtins, builtin))
    assert kind.retryable is is_retryable


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"DsxError"}))
def test_every_error_is_a_builtin_that_people_catch_already(name: str) -> None:
    assert issubclass(CLASSES[name], (OSError, ValueError, ImportError))


@pytest.mark.parametrize("name", CLASSES)
def test_error_is_public(name: str) -> None:
    assert getattr(dsx, name) is CLASSES[name]


@pytest.mark.parametrize("name", CLASSES)
def test_error_is_built_from_one_string(name: str) -> None:
    assert str(CLASSES[name]("what, where, what to do")) == "what, where, what to do"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", CLASSES)
def test_error_pickles_with_its_attributes(name: str, protocol: int) -> None:
    error = CLASSES[name]("what, where")
    error.retryable, error.retry_after_s, error.request_id = not error.retryable, 2.5, "ab12"
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


@pytest.mark.parametrize("name", CLASSES)
def test_error_is_copied_as_a_loader_does_it(name: str) -> None:
    error = copy.copy(CLASSES[name]("what, where"))
    assert (type(error), str(error)) == (CLASSES[name], "what, where")


def test_failures_of_a_download_are_pickled_with_it() -> None:
    error = DownloadError("2 of 3 failed")
    error.failures = {"a": errors.IntegrityError("wrong bytes"), "b": errors.CacheError("disk full")}
    again = pickle.loads(pickle.dumps(error))
    assert {path: (type(each).__name__, str(each)) for path, each in again.failures.items()} == {
        "a": ("IntegrityError", "wrong bytes"),
        "b": ("CacheError", "disk full"),
    }


def test_each_download_error_has_failures_of_its_own() -> None:
    one, other = DownloadError("1"), DownloadError("2")
    one.failures["a"] = ValueError()
    assert other.failures == {}


LOCAL = {
    "OfflineError",
    "DsxError",
    "HubUnreachableError",
    "HubTimeoutError",
    "IntegrityError",
    "CacheError",
    "DownloadError",
}
LOCAL |= {"MissingExtraError", "CacheDisabledError"}


def test_every_error_that_a_hub_can_send_has_a_code() -> None:
    assert {row.error.__name__ for row in errors.PROBLEMS.values()} == CLASSES.keys() - LOCAL


@pytest.mark.parametrize("code", errors.PROBLEMS)
def test_code_and_status_are_those_of_http(code: str) -> None:
    status, kind = errors.PROBLEMS[code]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert 400 <= status <= 599
    if issubclass(kind, PermissionError):
        assert status in (401, 403)
    if issubclass(kind, FileNotFoundError):
        assert status == 404
    if issubclass(kind, (ConnectionError, ValueError)):
        assert status in ((429, 503) if issubclass(kind, ConnectionError) else (400, 413, 416, 422))


def exceptions_of(library: types.ModuleType) -> list[type[Exception]]:
    """Return every exception class that a library's module of exceptions defines."""
    found = [kind for kind in vars(library.exceptions).values() if inspect.isclass(kind)]
    own = [kind for kind in found if issubclass(kind, Exception) and kind.__module__.startswith(library.__name__)]
    return sorted((kind for kind in own if not issubclass(kind, Warning)), key=lambda kind: kind.__name__)


ARGUMENTS: dict[str, tuple[object, ...]] = {
    "IncompleteRead": (1, 2),
    "InvalidChunkLength": (types.SimpleNamespace(tell=lambda: 1, length_remaining=2), b"zz"),
    "JSONDecodeError": ("said", "document", 0),
}


def build(kind: type[Exception]) -> Exception:
    """Make an exception as its constructor wants it."""
    for args in (ARGUMENTS.get(kind.__name__, ("said",)), (None, "said"), (None, "said", "said"), (1, 2), ()):
        try:
            return kind(*args)
        except TypeError:
            continue
    return kind.__new__(kind)


THEIRS = [*exceptions_of(requests), *exceptions_of(urllib3)]


def test_the_libraries_have_exceptions_to_walk() -> None:
    names = {kind.__name__ for kind in THEIRS}
    assert names >= {"ConnectTimeout", "ReadTimeout", "SSLError", "ProtocolError", "IncompleteRead", "DecodeError"}


@pytest.mark.parametrize("kind", THEIRS, ids=lambda kind: f"{kind.__module__.split('.')[0]}.{kind.__name__}")
def test_every_exception_of_the_libraries_is_in_the_table(kind: type[Exception]) -> None:
    rows = [theirs for theirs, _, _ in dsx._transport.TRANSLATIONS]
    assert any(issubclass(kind, theirs) for theirs in rows)


@pytest.mark.parametrize("kind", THEIRS, ids=lambda kind: f"{kind.__module__.split('.')[0]}.{kind.__name__}")
def test_every_exception_of_the_libraries_is_translated_naming_the_hub(kind: type[Exception]) -> None:
    error = dsx._transport.translate(build(kind), URL)
    assert isinstance(error, DsxError)
    assert URL in str(error)
    assert str(error).isprintable()


def test_no_row_of_the_table_hides_behind_an_earlier_one() -> None:
    rows = [theirs for theirs, _, _ in dsx._transport.TRANSLATIONS]
    hidden = [theirs for number, theirs in enumerate(rows) if any(issubclass(theirs, above) for above in rows[:number])]
    assert hidden == []


@pytest.mark.parametrize(
    ("theirs", "ours", "is_retryable"),
    [
        (requests.exceptions.ConnectTimeout(), ConnectionError, True),
        (requests.exceptions.ReadTimeout(), TimeoutError, True),
        (requests.exceptions.ConnectionError(), ConnectionError, True),
        (requests.exceptions.ChunkedEncodingError(), ConnectionError, True),
        (requests.exceptions.SSLError(), ConnectionError, False),
        (requests.exceptions.InvalidURL(), ValueError, False),
        (urllib3.exceptions.ReadTimeoutError(None, "x", "x"), TimeoutError, True),  # type: ignore[arg-type]
        (urllib3.exceptions.ProtocolError("x"), ConnectionError, True),
        (urllib3.exceptions.DecodeError("x"), errors.IntegrityError, True),
        (ConnectionResetError(104, "Connection reset by peer"), ConnectionError, True),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_translation_says_whether_trying_again_can_help(
    theirs: Exception, ours: type[Exception], is_retryable: bool
) -> None:
    error = dsx._transport.translate(theirs, URL)
    assert isinstance(error, ours)
    assert error.retryable is is_retryable
