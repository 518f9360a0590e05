"""Folders of images: layouts, modes, damaged files, and the cache of decoded images."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dlrun.data import decode as decoding
from dlrun.data import image_folder as module
from dlrun.data.decode import FileSource, Form, decode
from dlrun.data.image_folder import image_folder
from dlrun.data.loaders import StreamingLoader, make_loader
from dlrun.data.source import ArraySource, ImageData, ImageSource, SubsetSource
from dlrun.data.statistics import fit
from dlrun.errors import DataError

RED, BLUE = (250, 10, 10), (10, 10, 250)


def fill(folder: Path, classes: dict[str, tuple[int, int, int]], n: int, suffix: str = "png") -> None:
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (12 + i, 10), colour).save(folder / name / f"{i:03d}.{suffix}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "images", {"red": RED, "blue": BLUE}, 10)
    return tmp_path / "images"


def load(root: Path, **options: Any) -> ImageData:
    options = {"size": 8, "cache": root.parent / "cache"} | options
    return image_folder(0, root=root, **options)


def pixels(source: ImageSource | None) -> torch.Tensor:
    assert source is not None
    return source.read(range(len(source)))


def names(source: ImageSource) -> list[str]:
    assert isinstance(source, SubsetSource)
    assert isinstance(source.source, FileSource)
    return [Path(source.source.path(i)).name for i in source.indices.tolist()]


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_one_folder_is_split_by_seed(root: Path) -> None:
    data = load(root, test_fraction=0.3)
    assert data.classes == ("blue", "red")
    assert data.input_shape == (3, 8, 8)
    assert data.val is None
    assert data.test is not None
    assert (len(data.train), len(data.test), data.skipped) == (14, 6, 0)
    assert data.test.labels.bincount().tolist() == [3, 3]
    for source in (data.train, data.test):
        for image, label in zip(pixels(source), source.labels.tolist(), strict=True):
            assert image[:, 4, 4].tolist() == list((BLUE, RED)[label])
    assert load(root, test_fraction=0).test is None


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_given_splits_are_kept(val: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    for split, n in (("train", 4), (val, 2), ("test", 3)):
        fill(root / split, {"red": RED, "blue": BLUE}, n)
    data = load(root)
    assert data.val is not None
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 6)
    assert data.test.labels.tolist() == [0] * 3 + [1] * 3
    assert pixels(data.test)[0, :, 0, 0].tolist() == list(BLUE)
    shutil.rmtree(root / "test")
    assert load(root).test is None


def test_hidden_foreign_and_nested_files(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / ".git").mkdir()
    (root / "red" / ".hidden.png").write_bytes(b"no")
    (root / "red" / "notes.txt").write_text("no")
    (root / "red" / "more" / "deeper").mkdir(parents=True)
    (root / "red" / "back").symlink_to(root / "red")
    shutil.copy(root / "red" / "000.png", root / "red" / "more" / "deeper" / "x.PNG")
    data = load(root, test_fraction=0)
    assert data.train.labels.bincount().tolist() == [10, 11]
    assert "1 files are not images" in caplog.text
    assert "notes.txt" in caplog.text


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist: set data.root"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is not a folder"):
        load(tmp_path / "file")


def test_no_class_folders_or_only_one(root: Path) -> None:
    with pytest.raises(DataError, match="red has no class folders"):
        load(root / "red")
    with pytest.raises(DataError, match=r"has only one class folder, images: give data.root the folder that holds"):
        load(root.parent)


def test_an_empty_class_is_named_with_what_it_holds(root: Path) -> None:
    (root / "green").mkdir()
    with pytest.raises(DataError, match="green holds no image: add images"):
        load(root)
    (root / "green" / "a.heic").touch()
    with pytest.raises(DataError, match=r"green holds no image; 1 files with \.heic: add images"):
        load(root)


def test_splits_with_different_classes(tmp_path: Path) -> None:
    root = tmp_path / "images"
    fill(root / "train", {"red": RED, "blue": BLUE}, 2)
    fill(root / "test", {"red": RED, "green": BLUE}, 2)
    with pytest.raises(DataError, match=r"only in train/: blue; only in test/: green"):
        load(root)
    (root / "train").rename(root / "training")
    with pytest.raises(DataError, match="has the split folder test but no class folders in a folder train/"):
        load(root)


def test_one_damaged_file_among_many_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "images"
    fill(root, {"red": RED, "blue": BLUE}, 20, suffix="jpg")
    damage(root / "red" / "007.jpg")
    with pytest.raises(DataError, match=r"red/007\.jpg: .*(?i:truncated).*data\.on_error=skip"):
        load(root)
    data = load(root, on_error="skip", test_fraction=0)
    assert data.skipped == 1
    assert data.train.labels.bincount().tolist() == [20, 19]
    assert pixels(data.train)[-1, 0, 0, 0] > 200
    assert "left out 1 of 40 files" in caplog.text
    # What was skipped before is still an error where errors are wanted.
    with pytest.raises(DataError, match=r"red/007\.jpg"):
        load(root)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "the file is empty"), (b"hello", "not an image"), (None, "No such file")]
)
def test_reasons_in_words(root: Path, content: bytes | None, reason: str) -> None:
    path = root / "blue" / "000.png"
    path.unlink()
    if content is None:
        path.symlink_to(root / "gone.png")
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"blue/000\.png: {reason}"):
        load(root)


def put_strange_name(folder: Path) -> Path:
    """A file whose name is not UTF-8."""
    path = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    try:
        shutil.copy(folder / "000.png", path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    return path


@pytest.mark.parametrize("lazy", [False, True])
def test_names_that_are_not_utf8(
    lazy: bool, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = put_strange_name(root / "red")
    path.rename(path.with_suffix(".txt"))
    put_strange_name(root / "red")
    if lazy:
        monkeypatch.setattr(module, "ARRAY_BYTES", 1)
    for _ in range(2):
        data = load(root, test_fraction=0)
        assert len(data.train) == 21
        assert pixels(data.train)[-1, :, 4, 4].tolist() == list(RED)
    assert "caf\\xe9.txt" in caplog.text
    damage(path)
    with pytest.raises(DataError, match=r"red/caf\\xe9\.png: ") as caught:
        pixels(load(root, test_fraction=0).train)
    assert str(caught.value).encode()
    assert load(root, on_error="skip", test_fraction=0).skipped == 1


def test_a_class_name_that_is_not_utf8_is_named(root: Path) -> None:
    try:
        (root / "red").rename(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DataError, match=r"images/caf\\xe9 is not UTF-8: rename it"):
        load(root)


def test_a_class_lost_to_damage_is_an_error(root: Path) -> None:
    for path in (root / "red").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="no file can be decoded of class red in the train split"):
        load(root, on_error="skip")


def modes() -> dict[str, Image.Image]:
    ramp = np.tile(np.arange(16, dtype=np.uint8) * 16, (16, 1))
    grey = Image.fromarray(ramp)
    clear = Image.new("L", (16, 16), 255)
    half = Image.fromarray(np.where(np.arange(16) < 8, 0, 255).astype(np.uint8)[None].repeat(16, 0))
    return {
        "L.png": grey,
        "LA.png": Image.merge("LA", (grey, clear)),
        "P.png": grey.convert("P"),
        "RGB.png": grey.convert("RGB"),
        "RGBA.png": Image.merge("RGBA", (grey, grey, grey, clear)),
        "CMYK.tif": Image.merge("CMYK", (Image.new("L", (16, 16)),) * 3 + (Image.fromarray(255 - ramp),)),
        "I;16.png": Image.fromarray(ramp.astype(np.uint16) * 257),
        "1.png": half.convert("1"),
    }


@pytest.mark.parametrize("name", modes())
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_gives_the_same_picture(name: str, channels: int, tmp_path: Path) -> None:
    modes()[name].save(tmp_path / name)
    result = decode(str(tmp_path / name), Form(16, "crop", channels))  # type: ignore[arg-type]
    assert (result.shape, result.dtype) == ((channels, 16, 16), np.uint8)
    expected = np.arange(16) * 16 if name != "1.png" else np.where(np.arange(16) < 8, 0, 255)
    assert np.abs(result.astype(int) - expected).max() <= 2


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    for mode in ("LA", "RGBA"):
        Image.new(mode, (4, 4), 0).save(tmp_path / f"{mode}.png")
        assert decode(str(tmp_path / f"{mode}.png"), Form(4, "crop", 3)).min() == 255
    Image.new("P", (4, 4), 0).save(tmp_path / "P.png", transparency=0)
    assert decode(str(tmp_path / "P.png"), Form(4, "crop", 1)).min() == 255


def test_photos_are_turned_as_the_camera_noted(tmp_path: Path) -> None:
    picture = Image.new("L", (16, 8))
    picture.paste(255, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif, quality=100)
    result = decode(str(tmp_path / "a.jpg"), Form(8, "resize", 1))[0]
    # Shown a quarter turned clockwise: the white left half becomes the upper half.
    assert result[:3].min() > 200
    assert result[5:].max() < 50


def test_crop_keeps_proportions_and_resize_keeps_everything(tmp_path: Path) -> None:
    picture = Image.new("L", (32, 8), 0)
    picture.paste(255, (0, 0, 8, 8))
    picture.save(tmp_path / "a.png")
    assert decode(str(tmp_path / "a.png"), Form(8, "crop", 1)).max() == 0
    squashed = decode(str(tmp_path / "a.png"), Form(8, "resize", 1))[0]
    assert squashed[:, 0].min() > 200
    assert squashed[:, 4:].max() == 0
    # A cut without scaling keeps every pixel.
    random = np.random.default_rng(0).integers(0, 256, (8, 13), dtype=np.uint8)
    Image.fromarray(random).save(tmp_path / "b.png")
    assert np.array_equal(decode(str(tmp_path / "b.png"), Form(8, "crop", 1))[0], random[:, 2:10])


def test_large_photos_are_scaled_without_aliasing(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (400, 200))
    Image.fromarray(stripes).save(tmp_path / "a.jpg", quality=95)
    result = decode(str(tmp_path / "a.jpg"), Form(16, "crop", 1)).astype(int)
    assert np.abs(result - 128).max() < 10


class Forbidden(Exception):
    pass


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise Forbidden

    monkeypatch.setattr(decoding, "decode", refuse)


def test_the_second_run_does_not_decode(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root)
    with monkeypatch.context() as patch:
        forbid(patch)
        second = load(root)
        assert pixels(first.train).equal(pixels(second.train))
        assert pixels(first.test).equal(pixels(second.test))
        # The folder may be moved.
        moved = root.rename(root.with_name("moved"))
        assert len(load(moved).train) == 16
        moved.rename(root)
        for other in ({"size": 6}, {"fit": "resize"}, {"channels": 1}):
            with pytest.raises(Forbidden):
                load(root, **other)
        # A changed file of the same name, size and date is a changed file.
        path = root / "red" / "003.png"
        status, content = path.stat(), path.read_bytes()
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(Forbidden):
            load(root)
    # A file more.
    shutil.copy(root / "red" / "003.png", root / "red" / "zzz.png")
    assert len(load(root, test_fraction=0).train) == 21


def test_newly_decoded_images_replace_the_older_ones_of_the_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = root.parent / "cache"
    other = root.parent / "other"
    shutil.copytree(root, other)
    load(other)
    load(root, size=6)
    (cache / "notes.txt").touch()
    kept = set(cache.iterdir())
    in_use = load(root, test_fraction=0).train
    before = pixels(in_use)
    (old,) = set(cache.iterdir()) - kept
    (root / "red" / "003.png").unlink()
    assert len(load(root, test_fraction=0).train) == 19
    (new,) = set(cache.iterdir()) - kept
    assert new != old
    # A run that has the older file open goes on.
    assert pixels(in_use).equal(before)
    # Nothing else was taken away.
    forbid(monkeypatch)
    assert len(load(other).train) == len(load(other, on_error="skip").train) == 16
    (root.parent / "link").symlink_to(root)
    for name in (root, root.parent / "link"):
        assert len(load(name, test_fraction=0).train) == 19
    assert set(cache.iterdir()) == kept | {new}


def test_writing_into_the_images_leaves_the_cache_alone(root: Path) -> None:
    load(root)
    data = load(root)
    assert isinstance(data.train, SubsetSource)
    assert isinstance(data.train.source, ArraySource)
    data.train.source.images.zero_()
    assert pixels(load(root).train).max() == 250


@pytest.mark.parametrize("how", ["truncated", "changed", "empty", "foreign", "header"])
def test_a_damaged_cache_is_noticed_and_made_anew(how: str, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = pixels(load(root).train)
    (path,) = (root.parent / "cache").iterdir()
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[:-100]
    elif how == "changed":
        content[5000] ^= 1
    elif how == "empty":
        content = bytearray()
    elif how == "foreign":
        content[:4] = b"\x93NUM"
    else:
        content[30:40] = b"\xff" * 10
    path.write_bytes(content)
    assert pixels(load(root).train).equal(expected)
    assert "is damaged" in caplog.text
    caplog.clear()
    assert pixels(load(root).train).equal(expected)
    assert caplog.text == ""


def test_a_cache_that_cannot_be_written_is_done_without(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root.parent / "file").touch()
    data = load(root, cache=root.parent / "file" / "cache")
    assert len(data.train) == 16
    assert "set data.cache to another folder" in caplog.text


def test_a_full_disk_leaves_nothing_behind(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert len(load(root).train) == 16
    assert "No space left on device" in caplog.text
    assert not list((root.parent / "cache").iterdir())


def test_the_default_cache_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "xdg"))
    load(root, cache=None)
    assert len(list((root.parent / "xdg" / "dlrun" / "images").iterdir())) == 1


def test_many_files_are_decoded_by_workers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pixels(load(root, test_fraction=0, cache=root.parent / "other").train)
    monkeypatch.setattr(decoding, "_INLINE", 4)
    monkeypatch.setattr(decoding, "_BLOCK", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert pixels(load(root, test_fraction=0).train).equal(expected)
    damage(root / "blue" / "004.png")
    with pytest.raises(DataError, match=r"blue/004\.png"):
        load(root)
    assert load(root, on_error="skip").skipped == 1


def test_large_sets_are_streamed(root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    array = load(root)
    monkeypatch.setattr(module, "ARRAY_BYTES", 20 * 3 * 8 * 8 - 1)
    data = load(root)
    assert len(set(names(data.train))) > 1
    assert pixels(data.train).equal(pixels(array.train))

    def batches(source: ImageSource, workers: int) -> list[torch.Tensor]:
        options = {"batch_size": 5, "seed": 0, "shuffle": True, "statistics": fit(array.train, "channel")}
        loader = make_loader(source, device=torch.device("cpu"), workers=workers, **options)  # type: ignore[arg-type]
        assert isinstance(loader, StreamingLoader) == (source is data.train)
        result = [inputs for inputs, _ in loader.epoch(0)]
        loader.close()
        return result

    expected = batches(array.train, 0)
    for workers in (0, 2):
        assert all(a.equal(b) for a, b in zip(batches(data.train, workers), expected, strict=True))
    damage(root / "red" / "007.png")
    with pytest.raises(DataError, match=r"red/007\.png"):
        pixels(load(root, test_fraction=0).train)
    skipping = load(root, on_error="skip", test_fraction=0)
    assert (len(skipping.train), skipping.skipped) == (19, 1)
    assert "007.png" not in names(skipping.train)[10:]
    caplog.set_level(logging.INFO)
    caplog.clear()
    load(root, on_error="skip")
    assert "decoding" not in caplog.text
