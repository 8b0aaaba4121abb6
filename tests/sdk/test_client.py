"""The client as an object: its arguments, its secrets, its errors."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx import (
    AccessDeniedError,
    DatasetHubClient,
    DatasetNotFoundError,
    EntryNotFoundError,
    HubUnreachableError,
    InvalidRequestError,
)
from tests.conftest import KEY

from .conftest import Dataset, run_python
from .scripted import ScriptedHub, answer_json

SECRET = "a-very-secret-key-1f7e"
URL = "http://hub.example:8000"

Connect = Callable[..., DatasetHubClient]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSX_URL", raising=False)
    monkeypatch.delenv("DSX_API_KEY", raising=False)


def test_constructor_takes_what_the_contract_says() -> None:
    parameters = inspect.signature(DatasetHubClient).parameters
    by_position = [name for name, each in parameters.items() if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert by_position == ["base_url", "api_key", "cache_dir"]
    assert parameters["cache_dir"].default == "./cache"
    assert all(parameters[name].default is not inspect.Parameter.empty for name in parameters)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("list_datasets", {}),
        ("get_manifest", {"dataset": ...}),
        ("get_file", {"dataset": ..., "subpath": ...}),
        ("get_file_bytes", {"dataset": ..., "subpath": ...}),
        ("download_dataset", {"dataset": ..., "file_list": None}),
        ("clear_cache", {"dataset": None}),
        ("get_cache_size", {"dataset": None}),
    ],
)
def test_method_takes_what_the_contract_says(method: str, parameters: dict[str, object]) -> None:
    found = dict(inspect.signature(getattr(DatasetHubClient, method)).parameters)
    del found["self"]
    defaults = {name: ... if each.default is inspect.Parameter.empty else each.default for name, each in found.items()}
    added = {name for name, each in found.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert {name: value for name, value in defaults.items() if name not in added} == parameters
    assert {defaults[name] for name in added} <= {None, "auto", False}


def test_making_a_client_asks_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    DatasetHubClient("http://127.0.0.1:9", SECRET).close()
    assert list(tmp_path.iterdir()) == []


def test_variables_stand_in_for_arguments(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSX_URL", dataset.url)
    monkeypatch.setenv("DSX_API_KEY", KEY)
    with DatasetHubClient() as hub:
        assert dataset.name in hub.list_datasets()


def test_arguments_win_over_variables(connect: Connect, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("DSX_API_KEY", "another-key")
    assert dataset.name in connect(dataset.url).list_datasets()


def test_environment_is_read_when_a_client_is_made_not_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSX_URL", URL)
    monkeypatch.setenv("DSX_API_KEY", SECRET)
    assert URL in repr(DatasetHubClient())


@pytest.mark.parametrize(
    ("given", "missing"),
    [({}, "DSX_URL"), ({"base_url": URL}, "DSX_API_KEY"), ({"api_key": SECRET}, "DSX_URL")],
    ids=["nothing", "no key", "no URL"],
)
def test_what_is_missing_is_named(given: dict[str, str], missing: str) -> None:
    with pytest.raises(InvalidRequestError, match=missing):
        DatasetHubClient(**given)


@pytest.mark.parametrize("name", ["DSX_URL", "DSX_API_KEY"])
def test_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("DSX_URL", URL)
    monkeypatch.setenv("DSX_API_KEY", SECRET)
    monkeypatch.setenv(name, "")
    with pytest.raises(InvalidRequestError, match=name):
        DatasetHubClient()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hub",
        "hub:8000",
        "localhost:8000",
        "192.168.1.5:8000",
        "ftp://hub/",
        "file:///etc/passwd",
        "//hub:8000",
        "http://",
        "http://:8000",
        "http://hub:port",
        "http://hub:0",
        "http://hub:99999",
        "http://[::1",
        "http://user:pass@hub:8000",
        "http://hub:8000/?key=1",
        "http://hub:8000/#top",
    ],
)
def test_url_that_cannot_be_right_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="base_url"):
        DatasetHubClient(url, SECRET)


@pytest.mark.parametrize("url", [5, b"http://hub:8000", Path("hub")])
def test_url_that_is_no_text_is_refused(url: object) -> None:
    with pytest.raises(InvalidRequestError, match="base_url"):
        DatasetHubClient(url, SECRET)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["\n", " ", "\t"])
def test_space_at_the_end_of_a_url_is_refused_at_once_or_harmless(
    connect: Connect, dataset: Dataset, ending: str
) -> None:
    try:
        client = connect(dataset.url + ending)
    except InvalidRequestError as error:
        assert "base_url" in str(error)  # noqa: PT017 -- either is right
    else:
        assert dataset.name in client.list_datasets()


@pytest.mark.parametrize("ending", ["/", "//"])
def test_url_may_end_as_people_copy_it(connect: Connect, dataset: Dataset, ending: str) -> None:
    assert dataset.name in connect(dataset.url + ending).list_datasets()


def test_url_may_have_a_path(connect: Connect, start_scripted: Callable[..., ScriptedHub]) -> None:
    hub = start_scripted(lambda _: answer_json(["cats"]))
    connect(f"{hub.url}/data/").list_datasets()
    assert hub.requests[0].target == "/data/datasets"


@pytest.mark.parametrize(
    "key", ["", "über-secret", "secret\nX-Evil: 1", " secret", "secret ", "sec\x00ret", 5, b"secret"]
)
def test_key_that_cannot_be_right_is_refused_and_not_shown(key: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        DatasetHubClient(URL, key)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)
    assert "api_key" in str(caught.value) or "API key" in str(caught.value)


def test_url_and_key_in_the_wrong_order_do_not_show_the_key() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        DatasetHubClient(SECRET, URL)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "show", [repr, str, "{}".format, lambda client: repr(vars(client))], ids=["repr", "str", "format", "vars"]
)
def test_key_is_not_shown(show: Callable[[object], str]) -> None:
    assert SECRET not in show(DatasetHubClient(URL, SECRET))


def test_repr_says_where_and_whither() -> None:
    shown = repr(DatasetHubClient(URL, SECRET, "there"))
    assert URL in shown
    assert "there" in shown


def test_key_is_in_no_log_and_no_error(
    connect: Connect, start_scripted: Callable[..., ScriptedHub], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub = start_scripted(lambda _: answer_json({}, 401))
    with pytest.raises(AccessDeniedError) as caught:
        connect(hub.url, api_key=SECRET).list_datasets()
    assert SECRET not in caplog.text
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_with_closes_the_client_and_gives_it(connect: Connect, dataset: Dataset) -> None:
    client = connect(dataset.url)
    with client as hub:
        assert hub is client


def test_closed_client_may_be_used_again(connect: Connect, dataset: Dataset) -> None:
    dataset.write({"x": b"1"})
    client = connect(dataset.url)
    client.get_file(dataset.name, "x")
    client.close()
    client.close()
    assert client.get_file(dataset.name, "x").read_bytes() == b"1"


def test_client_that_nobody_closes_warns_of_nothing(dataset: Dataset, cache_dir: Path) -> None:
    dataset.write({"x": b"1"})
    code = """
        import gc, sys
        from dsx import DatasetHubClient
        DatasetHubClient(*sys.argv[1:4]).get_file(sys.argv[4], "x")
        gc.collect()
    """
    assert run_python(code, dataset.url, KEY, cache_dir, dataset.name) == ""


def test_two_clients_share_one_cache(connect: Connect, dataset: Dataset) -> None:
    dataset.write({"x": b"1", "y": b"2"})
    one, other = connect(dataset.url), connect(dataset.url)
    one.get_file(dataset.name, "x"), other.get_file(dataset.name, "y")
    dataset.write({"x": b"3"})
    assert [each.get_file(dataset.name, "x").read_bytes() for each in (one, other)] == [b"3", b"3"]
    assert one.get_cache_size() == other.get_cache_size() == 2


def test_datasets_are_listed(connect: Connect, start_scripted: Callable[..., ScriptedHub]) -> None:
    hub = start_scripted(lambda _: answer_json(["cifar10", "imagenet", "ü b"]))
    assert connect(hub.url).list_datasets() == ["cifar10", "imagenet", "ü b"]


CALLS: list[Callable[[DatasetHubClient, str], object]] = [
    lambda client, _: client.list_datasets(),
    lambda client, name: client.get_manifest(name),
    lambda client, name: client.get_file(name, "x"),
    lambda client, name: client.get_file_bytes(name, "x"),
    lambda client, name: client.download_dataset(name),
]
CALL_NAMES = ["list_datasets", "get_manifest", "get_file", "get_file_bytes", "download_dataset"]


@pytest.mark.parametrize("call", CALLS, ids=CALL_NAMES)
def test_connection_error_says_where_and_what_to_check(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, call: Callable[[DatasetHubClient, str], object]
) -> None:
    for module in ("dsx.client", "dsx._fetch", "dsx._manifests"):
        monkeypatch.setattr(f"{module}.FIRST_CONTACT_S", 0.1)
    with pytest.raises(HubUnreachableError, match=r"(?s)127\.0\.0\.1:9 .*running.*base_url"):
        call(connect("http://127.0.0.1:9"), "cats")


@pytest.mark.parametrize("call", CALLS, ids=CALL_NAMES)
def test_wrong_key_says_which_setting_to_compare(
    connect: Connect, dataset: Dataset, call: Callable[[DatasetHubClient, str], object]
) -> None:
    with pytest.raises(AccessDeniedError, match=r"api_key.*DSX_API_KEY") as caught:
        call(connect(dataset.url, api_key=SECRET), dataset.name)
    assert dataset.url in str(caught.value)


@pytest.mark.parametrize("call", CALLS[1:], ids=CALL_NAMES[1:])
def test_unknown_dataset_is_named_with_those_there_are(
    connect: Connect, dataset: Dataset, call: Callable[[DatasetHubClient, str], object]
) -> None:
    with pytest.raises(DatasetNotFoundError, match="no-such-dataset") as caught:
        call(connect(dataset.url), "no-such-dataset")
    assert dataset.name in str(caught.value)


@pytest.mark.parametrize("call", CALLS[2:4], ids=CALL_NAMES[2:4])
def test_unknown_file_is_named_with_its_dataset(
    connect: Connect, dataset: Dataset, call: Callable[[DatasetHubClient, str], object]
) -> None:
    with pytest.raises(EntryNotFoundError, match="'x'") as caught:
        call(connect(dataset.url), dataset.name)
    assert dataset.name in str(caught.value)
