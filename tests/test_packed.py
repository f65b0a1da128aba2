"""Packed stores: the pixels of their folders, all or nothing when they are written, and what is found when read."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxmodels import cli, data
from jaxmodels.core import InputError
from jaxmodels.data import decode, packed, packing

PIL = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'jaxmodels[images]'")

SIZES = {"image_size": 10, "resize_size": 13}


def put(path: pathlib.Path, number: int) -> None:
    """A photograph of noise, as wide as its number says; JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (20, 14 + number, 3), np.uint8)
    PIL.fromarray(pixels).save(path, quality=90)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> pathlib.Path:
    """11 photographs to train on and 4 held out, of which all are of one class; a broken one, and one that is none."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    for number in range(11):
        put(root / "train" / ("ants" if number < 6 else "café") / f"{number:02}.{('jpg', 'png')[number % 2]}", number)
    for number in range(4):
        put(root / "val" / "café" / f"{number}.jpg", 20 + number)
    (root / "train" / "ants" / "03 broken.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "train" / "ants" / "notes.txt").touch()
    return root


@pytest.fixture(scope="module")
def store(photos) -> pathlib.Path:
    path = photos.parent / "photos.packed"
    data.pack(photos, path, **SIZES)
    return path


@pytest.fixture
def own(store, tmp_path) -> pathlib.Path:
    """A copy, to be damaged."""
    return pathlib.Path(shutil.copytree(store, tmp_path / "own"))


def epoch(images, **options):
    options = {"batch_size": 4, "workers": 2, **SIZES, **options}
    return [jax.tree.map(np.asarray, batch) for batch in data.batches(images, **options)]


def assert_same(first, second, **options):
    jax.tree.map(np.testing.assert_array_equal, epoch(first, **options), epoch(second, **options))


def names(images, root):
    return [os.path.relpath(path, root) for path in images.paths]


def test_a_store_gives_what_its_folder_gives(photos, store):
    folders, stores = ([data.check(each)[0] for each in data.read_folder(root)] for root in (photos, store))
    for part, folder, packed_folder in zip(("train", "val"), folders, stores, strict=True):
        assert names(folder, photos / part) == names(packed_folder, store / part)
        assert folder.labels.tolist() == packed_folder.labels.tolist()
        assert packed_folder.labels.dtype == np.int32
        assert folder.classes == packed_folder.classes == ("ants", "café")
        assert [each.reason for each in folder.skipped] == [each.reason for each in packed_folder.skipped]
        assert_same(folder, packed_folder, shuffle=False)
        assert_same(folder, packed_folder, seed=3, epoch=2, step=1, batch_size=3, prefetch=0)
    assert_same(folders[0], stores[0], mode="canvas", epoch=1, workers=3, prefetch=4)
    assert_same(folders[0], stores[0], mode="canvas", process_index=1, process_count=2)


def test_a_store_is_split_as_its_folder_is(photos, tmp_path):
    path = tmp_path / "all.packed"
    assert list(data.pack(photos / "train", path, **SIZES)) == [""]
    clean = data.check(data.scan(photos / "train"))[0]
    for folder, packed_folder in zip(data.split(clean, seed=1), data.read_folder(path, seed=1), strict=True):
        assert names(folder, photos / "train") == names(packed_folder, path)
        assert_same(folder, packed_folder, batch_size=2)


def test_labels_follow_the_classes_that_are_asked_for(photos, store):
    classes = ("wasps", "café", "ants")
    folder, packed_folder = (data.check(data.scan(root / "train", classes=classes))[0] for root in (photos, store))
    assert folder.labels.tolist() == packed_folder.labels.tolist() == [1] * 5 + [2] * 6
    assert_same(folder, packed_folder)
    with pytest.raises(InputError, match=r"'.*train/ants' is a class that training lacks \('café'\)"):
        data.scan(store / "train", classes=("café",))


def test_numpy_reads_the_arrays(store):
    """What the module's documentation says of the files."""
    content = json.loads((store / "train" / "packed.json").read_text())["content"]
    crops, canvases = (np.load(store / "train" / f"{mode}.npy", mmap_mode="r") for mode in ("crop", "canvas"))
    assert crops.shape == (11, 10, 10, 3)
    assert canvases.shape == (11, 13, 13, 3)
    assert [content["classes"][label] for label in content["labels"]] == ["ants"] * 6 + ["café"] * 5
    np.testing.assert_allclose(content["arrays"]["canvas"]["aspect"], (14 + np.arange(11)) / 20, rtol=1e-6)
    assert sorted(os.listdir(store / "val")) == ["crop.npy", "packed.json"]


def test_another_size_than_was_packed_is_refused(store):
    train, val = data.read_folder(store)
    with pytest.raises(
        InputError, match="train' holds crops of 10 px after a bilinear resize to 13 and canvases of 13 px"
    ):
        data.batches(train, batch_size=4, image_size=11, resize_size=13)
    with pytest.raises(InputError, match="not crops of 10 px after a bicubic resize to 13: ask for what it holds, or"):
        data.batches(train, batch_size=4, interpolation="bicubic", **SIZES)
    with pytest.raises(InputError, match="not canvases of 13 px"):
        data.batches(val, batch_size=4, mode="canvas", **SIZES)
    # The size of what is cut from a canvas is the augmentation's affair.
    next(
        data.batches(train, batch_size=4, mode="canvas", image_size=5, resize_size=13)
    ).inputs.pixels.block_until_ready()


def test_what_cannot_be_decoded_may_be_an_error(photos, tmp_path):
    with pytest.raises(InputError, match=r"03 broken.jpg' is a JPEG file without a frame"):
        data.pack(photos, tmp_path / "store", strict=True, **SIZES)
    assert os.listdir(tmp_path) == []
    for name in ("a", "b"):
        put(tmp_path / "few" / name / "1.png", 1)
    (tmp_path / "few" / "a" / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"class 'a' has no image that decodes: '.*a/1.png' is empty"):
        data.pack(tmp_path / "few", tmp_path / "store", **SIZES)
    assert os.listdir(tmp_path) == ["few"]


def test_an_interrupted_packing_leaves_nothing(photos, tmp_path, monkeypatch):
    real, left = decode.decode, iter(range(5))

    def interrupted(path, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(path, **options)

    monkeypatch.setattr(decode, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.pack(photos, tmp_path / "store", **SIZES)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_packing_left_is_no_obstacle(photos, store, tmp_path):
    left = tmp_path / "store.partial" / "train"
    left.mkdir(parents=True)
    (left / "crop.npy").write_bytes(b"half")
    (left.parent / "old.npy").touch()
    data.pack(photos, tmp_path / "store", **SIZES)
    assert os.listdir(tmp_path) == ["store"]
    assert sorted(os.listdir(tmp_path / "store")) == ["train", "val"]
    assert_same(data.scan(tmp_path / "store" / "train"), data.scan(store / "train"))


def test_two_packings_at_once_are_refused(photos, tmp_path):
    partial = tmp_path / "store.partial"
    partial.mkdir()
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match=r"store.partial' is being written by another process"):
        data.pack(photos, tmp_path / "store", **SIZES)
    os.close(handle)
    assert partial.exists()


def flip(path: pathlib.Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_found(own):
    flip(own / "train" / "canvas.npy", 128 + 7 * 13 * 13 * 3 + 5)
    train, _ = data.read_folder(own)
    with pytest.raises(InputError, match=r"train/café/07.png' is damaged in canvas.npy, .* \(1 of 11 images are\)"):
        data.check(train)
    # Images that are not asked for do not matter.
    data.check(train._replace(paths=train.paths[:7], labels=train.labels[:7]))


def test_a_damaged_store_is_not_opened(own):
    def refuses(match):
        with pytest.raises(InputError, match=match) as error:
            data.scan(own / "train")
        assert "\n" not in str(error.value)

    index, crop = own / "train" / "packed.json", own / "train" / "crop.npy"
    written, pixels = index.read_text(), crop.read_bytes()
    index.write_text(written.replace("ants/00", "ants/99", 1))
    refuses(r"packed.json' is damaged, its sha256 differs: pack the folder anew")
    index.write_text(written[:100])
    refuses(r"packed.json' is damaged \(JSONDecodeError\)")
    index.write_text("[]")
    refuses(r"packed.json' is damaged \(TypeError\)")
    index.write_text(written.replace('"version": 1', '"version": 2'))
    refuses(r"packed.json' is packed photographs of jaxmodels, version 2, not .*, version 1: pack it anew")
    index.write_text(written)
    crop.write_bytes(pixels[:-1])
    refuses(r"crop.npy' is missing or truncated \(mmap length is greater than file size\)")
    crop.write_bytes(pixels[:50])
    refuses(r"crop.npy' is missing or truncated")
    crop.unlink()
    refuses(r"crop.npy' is missing or truncated \(.*No such file")
    np.save(crop, np.zeros((11, 10, 9, 3), np.uint8))
    refuses(r"crop.npy' holds uint8 \(11, 10, 9, 3\), not uint8 \(11, 10, 10, 3\)")


def test_a_store_is_left_alone_until_its_folder_changes(tmp_path):
    root, store = tmp_path / "photos", tmp_path / "store"
    for number in range(4):
        put(root / "ab"[number % 2] / f"{number}.png", number)

    def refuses(match, **options):
        with pytest.raises(InputError, match=match):
            data.pack(root, store, **{**SIZES, **options})

    data.pack(root, store, **SIZES)
    before = (store / "crop.npy").stat()
    assert names(data.pack(root, store, **SIZES)[""], store) == ["a/0.png", "a/2.png", "b/1.png", "b/3.png"]
    assert (store / "crop.npy").stat().st_mtime_ns == before.st_mtime_ns
    refuses("holds crops of 10 px.*not crops of 20 px", image_size=20)
    put(root / "b" / "5.png", 5)
    refuses(r"store' is out of date: '.*photos/b/5.png' was added since, one of 1 files: delete the store")
    (root / "b" / "5.png").unlink()
    put(root / "a" / "2.png", 9)
    refuses(r"photos/a/2.png' was changed since")
    (root / "a" / "2.png").unlink()
    refuses(r"photos/a/2.png' was removed since")


def test_places_that_cannot_be_written_are_refused(photos, store, tmp_path, monkeypatch):
    def refuses(match, directory, path, **options):
        with pytest.raises(InputError, match=match):
            data.pack(directory, path, **{**SIZES, **options})

    (tmp_path / "file").write_text("mine")
    refuses(r"file/train' is no packed store", photos, tmp_path / "file")
    refuses(r"file/store' cannot be written \(Not a directory\)", photos, tmp_path / "file" / "store")
    assert (tmp_path / "file").read_text() == "mine"
    refuses(r"photos.packed' is a packed store: give the folder", store, tmp_path / "again")
    refuses("modes: needs 'crop', 'canvas' or both, got none", photos, tmp_path / "none", modes=())
    refuses("mode='crops' is not 'crop' or 'canvas'", photos, tmp_path / "none", modes=("crops",))
    needed = 12 * 3 * (10**2 + 13**2) + 4 * 3 * 10**2
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    refuses(r"none' needs 0.0 GB, and 0.0 GB are free", photos, tmp_path / "none")
    monkeypatch.undo()

    def full(*args, **columns):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed.ArrayFile, "append", full)
    refuses(r"none' cannot be written \(No space left on device\)", photos, tmp_path / "none")
    assert os.listdir(tmp_path) == ["file"]


def test_the_command_packs(photos, tmp_path, monkeypatch, capsys):
    arguments = ["pack", photos, "--output", tmp_path / "store", "--image-size", "14", "--modes", "canvas"]
    monkeypatch.setattr(sys, "argv", ["jaxmodels", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert not ended.value.code
    assert json.loads(out) == {"store": str(tmp_path / "store"), "images": 15}
    assert "03 broken.jpg': is a JPEG file without a frame" in err
    parts = [packed.open_packed(str(tmp_path / "store" / part)) for part in ("train", "val")]
    assert [{mode: array.shape[1] for mode, array in part.arrays.items()} for part in parts] == [
        {"canvas": 16},
        {"crop": 14},
    ]
