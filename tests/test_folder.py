"""Folders of images: layout, order, splits, and what is refused or passed over."""

from __future__ import annotations

import builtins
import os

import numpy as np
import pytest

from jaxmodels.core import InputError
from jaxmodels.data import folder

PIL = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'jaxmodels[images]'")


def write_image(path, colour=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new("RGB", (8, 6), colour).save(path, "PNG")
    return path


def make(root, counts):
    for name, count in counts.items():
        for index in range(count):
            write_image(root / name / f"{index:03}.png")
    return root


def names(images):
    return [os.path.basename(path) for path in images.paths]


def test_labels_follow_the_sorted_classes(tmp_path):
    make(tmp_path, {"bees": 2, "ants": 1})
    images = folder.scan(tmp_path)
    assert images.classes == ("ants", "bees")
    assert images.labels.tolist() == [0, 1, 1]
    assert images.labels.dtype == np.int32
    assert images.skipped == ()


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    make(tmp_path, {"a": 3, "b": 2, "b/nested": 2})
    expected = folder.scan(tmp_path)
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
    again = folder.scan(tmp_path)
    assert again.paths == expected.paths
    assert again.labels.tolist() == expected.labels.tolist() == [0] * 3 + [1] * 4


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    write_image(tmp_path / "train" / "caf\u00e9 au lait" / "é à.png")
    write_image(tmp_path / "train" / "tea" / "a.png")
    write_image(tmp_path / "val" / "cafe\u0301 au lait" / "b.png")
    write_image(tmp_path / "val" / "tea" / "b.png")
    train, val = folder.read_folder(tmp_path)
    assert train.classes == val.classes == ("caf\u00e9 au lait", "tea")
    assert val.labels.tolist() == [0, 1]


def test_extensions_in_any_case_and_what_is_passed_over(tmp_path):
    make(tmp_path, {"a": 1, "b": 1})
    for name in ("UPPER.JPG", "x.JpEg", "y.tiff", "z.avif"):
        write_image(tmp_path / "a" / name)
    for name in ("notes.txt", "README", ".DS_Store", "Thumbs.db"):
        (tmp_path / "a" / name).write_text("no image")
    write_image(tmp_path / "loose.png")
    (tmp_path / "labels.csv").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / "a" / "x.jpg").mkdir()
    write_image(tmp_path / "a" / "x.jpg" / "inside.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    images = folder.scan(tmp_path)
    assert set(names(images)) == {"000.png", "UPPER.JPG", "x.JpEg", "y.tiff", "z.avif"}
    assert {(os.path.relpath(path, tmp_path), reason) for path, reason in images.skipped} == {
        ("labels.csv", "has an extension that is not an image's: '.csv'"),
        ("loose.png", "is not inside a class folder"),
        ("a/README", "has no extension"),
        ("a/Thumbs.db", "has an extension that is not an image's: '.db'"),
        ("a/gone.png", "is a broken link"),
        ("a/notes.txt", "has an extension that is not an image's: '.txt'"),
        ("a/pipe.png", "is not a regular file"),
        ("a/x.jpg", "is a directory named like an image"),
    }


def test_links_are_followed_and_circles_end(tmp_path):
    root = make(tmp_path / "root", {"a": 1, "b": 1})
    make(tmp_path / "elsewhere", {"more": 2})
    (root / "a" / "linked").symlink_to(tmp_path / "elsewhere" / "more")
    (root / "a" / "round").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "other").symlink_to(root / "b")
    (root / "b" / "image.png").symlink_to(root / "a" / "000.png")
    images = folder.scan(root)
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    assert {os.path.basename(path) for path, _ in images.skipped} == {"round", "self", "other"}
    assert all("again" in reason for _, reason in images.skipped)


def test_a_class_that_is_a_link_to_another_is_refused(tmp_path):
    make(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "c").symlink_to(tmp_path / "b")
    with pytest.raises(InputError, match=r"class folder '.*/c' is the directory '.*/b' again"):
        folder.scan(tmp_path)


def refuses(match, function, *args, **kwargs):
    with pytest.raises(InputError, match=match) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_unusable_folders_are_refused_with_their_path(tmp_path):
    refuses(r"'.*missing' does not exist", folder.scan, tmp_path / "missing")
    refuses(r"'.*missing' does not exist", folder.read_folder, tmp_path / "missing")
    refuses(r"'.*image.png' is a file", folder.scan, write_image(tmp_path / "image.png"))
    refuses("holds no class folders", folder.scan, tmp_path)
    make(tmp_path / "one", {"a": 2})
    refuses("holds only one class, 'a'", folder.scan, tmp_path / "one")
    for name in "ab":
        (tmp_path / "empty" / name).mkdir(parents=True)
    refuses(r"'.*empty' holds no images in 2 class folders", folder.scan, tmp_path / "empty")
    make(tmp_path / "empty", {"a": 1})
    refuses(r"class folder '.*empty/b' holds no images", folder.scan, tmp_path / "empty")
    make(tmp_path / "both", {"train/a": 1, "train/b": 1, "val/a": 1})
    refuses("holds train and val, not classes: use read_folder", folder.scan, tmp_path / "both")
    make(tmp_path / "half", {"train/a": 1, "train/b": 1})
    refuses("has train but no val", folder.read_folder, tmp_path / "half")


@pytest.mark.parametrize("function", [folder.scan, folder.read_folder])
def test_unreadable_folders_are_refused_with_their_path(tmp_path, monkeypatch, function):
    make(tmp_path, {"a": 1, "b": 1})
    locked, listdir = str(tmp_path / "b"), os.listdir

    def deny(path):
        if path == locked:
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", deny)
    refuses(r"'.*/b' cannot be read \(Permission denied\): change its permissions", function, tmp_path)


def test_validation_has_the_classes_of_training(tmp_path):
    make(tmp_path, {"train/a": 1, "train/b": 1, "train/c": 1, "valid/c": 2, "test/zebra": 1})
    train, val = folder.read_folder(tmp_path)
    assert train.classes == val.classes == ("a", "b", "c")
    assert val.labels.tolist() == [2, 2]
    make(tmp_path, {"valid/wasps": 1})
    refuses(r"'.*valid/wasps' is a class that training lacks \('a', 'b', 'c'\)", folder.read_folder, tmp_path)


def test_validation_that_is_training_is_refused(tmp_path):
    make(tmp_path, {"train/a": 1, "train/b": 1})
    (tmp_path / "val").symlink_to(tmp_path / "train")
    refuses("validate on images that are not trained on", folder.read_folder, tmp_path)


def test_classes_named_train_are_classes(tmp_path):
    make(tmp_path, {"train": 2, "car": 2, "bus": 2})
    train, _ = folder.read_folder(tmp_path)
    assert train.classes == ("bus", "car", "train")


def test_split_is_stratified_disjoint_complete_and_seeded(tmp_path):
    make(tmp_path, {"a": 40, "b": 10, "c": 2})
    everything = folder.scan(tmp_path)
    train, val = folder.read_folder(tmp_path, validation_fraction=0.2, seed=0)
    assert np.bincount(val.labels).tolist() == [8, 2, 1]
    assert sorted(train.paths + val.paths) == sorted(everything.paths)
    assert train.classes == val.classes == everything.classes
    again, other = (folder.read_folder(tmp_path, seed=seed)[1] for seed in (0, 1))
    assert again.paths == val.paths
    assert other.paths != val.paths
    assert list(train.paths) == sorted(train.paths)


def test_split_does_not_depend_on_where_the_folder_is(tmp_path):
    counts = {"a": 20, "b": 20}
    one, two = make(tmp_path / "here", counts), make(tmp_path / "there" / "deeper", counts)
    first, second = (folder.read_folder(root, seed=3)[1] for root in (one, two))
    assert [os.path.relpath(path, one) for path in first.paths] == [os.path.relpath(path, two) for path in second.paths]


def test_a_new_file_moves_at_most_one_other(tmp_path):
    make(tmp_path, {"a": 50, "b": 50})
    before = set(folder.read_folder(tmp_path)[1].paths)
    new = str(write_image(tmp_path / "a" / "new.png"))
    assert len((set(folder.read_folder(tmp_path)[1].paths) ^ before) - {new}) <= 1


def test_split_refuses_what_it_cannot_split(tmp_path):
    images = folder.scan(make(tmp_path, {"a": 3, "b": 1}))
    refuses("class 'b' has 1 images", folder.split, images)
    refuses("validation_fraction=1.5 is not between 0 and 1", folder.split, images, validation_fraction=1.5)


def spoil(root):
    make(root, {"a": 4, "b": 3})
    whole = (root / "a" / "000.png").read_bytes()
    (root / "a" / "001.png").write_bytes(whole[: len(whole) // 2])
    (root / "a" / "002.png").write_bytes(b"")
    (root / "b" / "001.png").write_text("<html>404</html>")
    return folder.scan(root)


@pytest.mark.parametrize("workers", [1, 4, None])
def test_check_drops_what_does_not_decode(tmp_path, workers):
    images = spoil(tmp_path)
    kept, skipped = folder.check(images, workers=workers)
    assert names(kept) == ["000.png", "003.png", "000.png", "002.png"]
    assert kept.labels.tolist() == [0, 0, 1, 1]
    assert [os.path.relpath(path, tmp_path) for path, _ in skipped] == ["a/001.png", "a/002.png", "b/001.png"]
    reasons = [reason for _, reason in skipped]
    assert "truncated" in reasons[0]
    assert "zero bytes" in reasons[1]
    assert "not a JPEG" in reasons[2]
    assert kept.skipped == skipped
    assert names(folder.check(kept, strict=True)[0]) == names(kept)


def test_check_can_be_strict(tmp_path):
    refuses(
        r"'.*a/001.png' is a PNG file that is truncated.*\(3 of 7 files", folder.check, spoil(tmp_path), strict=True
    )
    make(tmp_path / "good", {"a": 2, "b": 2})
    good = folder.scan(tmp_path / "good")
    assert folder.check(good, strict=True)[0].paths == good.paths


def test_check_refuses_a_class_that_it_empties(tmp_path):
    make(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "b" / "000.png").write_bytes(b"")
    refuses(r"class 'b' has no image that decodes: '.*b/000.png' is empty", folder.check, folder.scan(tmp_path))


def test_unreadable_files_are_dropped(tmp_path, monkeypatch):
    images = folder.scan(make(tmp_path, {"a": 2, "b": 1}))
    locked = images.paths[0]
    real = builtins.open

    def deny(path, *args, **kwargs):
        if path == locked:
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", deny)
    kept, skipped = folder.check(images, workers=1)
    assert skipped == (folder.Skipped(locked, "cannot be read: Permission denied"),)
    assert kept.paths == images.paths[1:]


def test_real_photographs(data_dir):
    train, val = folder.read_folder(data_dir / "images" / "hymenoptera")
    assert train.classes == val.classes == ("ants", "bees")
    assert np.bincount(train.labels).tolist() == [124, 121]
    assert np.bincount(val.labels).tolist() == [70, 83]
    kept, skipped = folder.check(val)
    assert skipped == ()
    assert kept.paths == val.paths
