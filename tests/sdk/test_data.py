"""`dsx.data.HubDataset`: samples by number, with labels, without any framework."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import dsx.data
from dsx import ConflictError, DatasetHubClient, DatasetNotFoundError, InvalidRequestError, UnreadableError
from dsx.data import HubDataset
from tests.sdk.conftest import Dataset, files_below, wait_until
from tests.sdk.proxy import Proxy

Connect = Callable[..., DatasetHubClient]

FILES = {f"train/{name}/{number}.bin": f"{name}{number}".encode() * 20 for name in ("b", "a") for number in range(5)}
PATHS = sorted(FILES)


def draw(color: tuple[int, int, int], mode: str = "RGB", form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), color).convert(mode).save(file, form)
    return file.getvalue()


@pytest.fixture
def letters(dataset: Dataset) -> Dataset:
    """A dataset of two classes."""
    dataset.write(FILES)
    return dataset


@pytest.fixture
def samples(letters: Dataset, connect: Connect) -> HubDataset:
    """The samples of it."""
    return HubDataset(connect(letters.url), letters.name)


def test_item_is_data_and_the_label_of_its_innermost_folder(samples: HubDataset) -> None:
    assert len(samples) == len(FILES)
    assert samples.classes == ["a", "b"]
    assert samples.class_to_idx == {"a": 0, "b": 1}
    assert samples.targets == [0] * 5 + [1] * 5
    assert [samples[number] for number in range(10)] == [(FILES[path], int("/b/" in path)) for path in PATHS]


def test_list_of_items_is_one_request(letters: Dataset, connect: Connect, start_proxy: Callable[[int], Proxy]) -> None:
    proxy = start_proxy(letters.port)
    samples = HubDataset(connect(proxy.url), letters.name)
    asked = len(proxy.requests)
    numbers = [3, 3, -1, 0, np.int64(7), 3]
    assert samples.__getitems__(numbers) == [(FILES[PATHS[int(number)]], samples.targets[number]) for number in numbers]  # type: ignore[arg-type]
    assert [request.method for request in proxy.requests[asked:]] == ["POST"]
    assert samples.__getitems__([]) == []


@pytest.mark.parametrize("number", [10, -11, 10**9])
def test_number_outside_is_an_index_error(samples: HubDataset, number: int) -> None:
    with pytest.raises(IndexError, match=f"sample {number} of 10"):
        samples[number]
    with pytest.raises(TypeError):
        samples["1"]  # type: ignore[index]


def test_sequence_ends(samples: HubDataset) -> None:
    assert len(list(samples)) == 10  # type: ignore[call-overload]  # old-style iteration, which IndexError ends


def test_target_may_be_a_function_or_none(letters: Dataset, connect: Connect) -> None:
    client = connect(letters.url)
    by_name = HubDataset(client, letters.name, target=lambda path: path[-5], include="*1.bin")
    assert by_name[0] == (FILES["train/a/1.bin"], "1")
    assert by_name.targets == ["1", "1"]
    assert not hasattr(by_name, "classes")
    alone = HubDataset(client, letters.name, target=None, transform=len, exclude="*1.bin")
    assert alone[0] == len(FILES["train/a/0.bin"])
    assert not hasattr(alone, "targets")
    assert "no labels" in repr(alone)


@pytest.mark.parametrize("wrong", [{"target": "label"}, {"transform": 3}, {"include": 7}])
def test_wrong_arguments_are_refused(letters: Dataset, connect: Connect, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        HubDataset(connect(letters.url), letters.name, **wrong)  # type: ignore[arg-type]


def test_sample_in_no_folder_is_said_with_what_to_do(dataset: Dataset, connect: Connect) -> None:
    dataset.write(FILES | {"README.txt": b"read me"})
    client = connect(dataset.url)
    with pytest.raises(InvalidRequestError, match=r"'README.txt' lies in no folder.*include='\*/\*\*'"):
        HubDataset(client, dataset.name)
    assert len(HubDataset(client, dataset.name, include="*/**")) == 10
    with pytest.raises(DatasetNotFoundError):
        HubDataset(client, "none")


def test_images_come_as_rgb(dataset: Dataset, connect: Connect) -> None:
    red = (255, 0, 0)
    dataset.write(
        {
            "x/1.png": draw(red),
            "x/2.PNG": draw(red, "P"),
            "x/3.jpg": draw((9, 9, 9), "L", "JPEG"),
            "x/4.png": draw(red, "RGBA"),
            "x/5.txt": b"text",
        }
    )
    client = connect(dataset.url)
    images = HubDataset(client, dataset.name, target=None)
    assert [images[number].mode for number in range(4)] == ["RGB"] * 4
    assert images[1].getpixel((2, 2)) == images[0].getpixel((2, 2)) == red
    assert images[4] == b"text"
    plain = HubDataset(client, dataset.name, target=None, decode=False)
    assert plain[0] == draw(red)
    sizes = HubDataset(client, dataset.name, target=None, include="*.png", transform=lambda image: image.size)
    assert sizes[0] == (8, 6)


def test_file_that_is_no_image_is_named(dataset: Dataset, connect: Connect) -> None:
    dataset.write({"x/1.png": b"no image", "x/2.png": draw((1, 2, 3))[:-30]})
    images = HubDataset(connect(dataset.url), dataset.name)
    for number in range(2):
        with pytest.raises(UnreadableError, match=rf"x/{number + 1}.png.*decode=False"):
            images[number]


def test_without_pillow_images_are_bytes(dataset: Dataset, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw((1, 2, 3))
    dataset.write({"x/1.png": data})
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert HubDataset(connect(dataset.url), dataset.name)[0] == (data, 0)


def test_threads_share_it(samples: HubDataset) -> None:
    numbers = list(range(10)) * 20
    with ThreadPoolExecutor(8) as pool:
        assert [item[0] for item in pool.map(samples.__getitem__, numbers)] == [FILES[PATHS[n]] for n in numbers]


def test_it_pickles_and_other_processes_read(samples: HubDataset) -> None:
    again = pickle.loads(pickle.dumps(samples))
    assert repr(again) == repr(samples)
    assert again[4] == samples[4]
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[4][0].decode())"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(samples), capture_output=True, check=True)
    assert done.stdout.decode().strip() == FILES[PATHS[4]].decode()


def test_repr_tells_what_it_is_and_no_key(samples: HubDataset) -> None:
    assert repr(samples) == (
        f"<dsx.data.HubDataset of '{samples.dataset}': 10 samples, 2 classes, revision {samples.revision}>"
    )


def test_samples_are_of_one_revision(letters: Dataset, connect: Connect) -> None:
    client = connect(letters.url)
    samples = HubDataset(client, letters.name)
    old = samples.revision
    letters.write({PATHS[0]: b"changed", "train/c/0.bin": b"new"})
    assert len(samples) == 10
    with pytest.raises(ConflictError, match=PATHS[0]):
        samples[0]
    assert samples[1][0] == FILES[PATHS[1]]
    wait_until(lambda: client.get_revision(letters.name) != old, "the change is seen")
    assert HubDataset(client, letters.name).classes == ["a", "b", "c"]
    assert HubDataset(client, letters.name, revision=old).classes == ["a", "b"]


def test_kept_samples_are_in_the_cache(
    letters: Dataset, connect: Connect, start_proxy: Callable[[int], Proxy], cache_dir: object
) -> None:
    proxy = start_proxy(letters.port)
    samples = HubDataset(connect(proxy.url), letters.name, cache=True, target=None)
    assert samples.__getitems__(range(10)) == [FILES[path] for path in PATHS]
    asked = len(proxy.requests)
    assert samples[3] == FILES[PATHS[3]]
    assert len(proxy.requests) == asked
    assert files_below(cache_dir / letters.name) == FILES  # type: ignore[operator]


def test_module_needs_no_framework() -> None:
    code = "import sys, dsx.data; sys.exit('torch' in sys.modules or 'PIL' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert dsx.data.__doc__


def test_grain_reads_it(samples: HubDataset) -> None:
    grain = pytest.importorskip("grain", reason="grain is not installed")
    assert isinstance(samples, grain.sources.RandomAccessDataSource)
    pipeline = grain.MapDataset.source(samples).shuffle(seed=1).map(lambda item: item[0].decode())
    assert sorted(pipeline) == sorted(data.decode() for data in FILES.values())
