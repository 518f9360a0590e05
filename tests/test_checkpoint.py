"""Checkpoint files: plain content, verified when read, replaced atomically."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import equal, make_fit
from torch import nn

from dlrun import checkpoint
from dlrun.errors import CheckpointError
from dlrun.train.callbacks.checkpoint import checkpoint as checkpoint_callback
from dlrun.train.loop import train
from dlrun.weights import load_weights

PAYLOAD: dict[str, Any] = {
    "config": {"seed": 0, "name": "x", "lr": 0.1, "on": True, "none": None, "list": [1, 2.5, "é"]},
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    "state": {"step": 3},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("data") / "a.pt"
    checkpoint.save(path, PAYLOAD)
    return path.read_bytes()


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# The format


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.pt"
    checkpoint.save(path, PAYLOAD)
    loaded = checkpoint.load(path)
    assert equal({key: loaded[key] for key in PAYLOAD}, PAYLOAD)
    assert loaded["format"] == checkpoint.FORMAT
    assert loaded["version"] == checkpoint.VERSION
    assert names(path.parent) == {"a.pt"}


def test_torch_alone_reads_it(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(data)
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert equal({key: loaded[key] for key in PAYLOAD}, PAYLOAD)


class _OnlyTensors(pickle.Unpickler):
    """Knows tensors and containers, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("torch", "LongStorage"),
            ("torch", "ByteStorage"),
            ("torch", "DoubleStorage"),
        }:
            return lambda *arguments: (module, name)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_writes_tensors_and_plain_values_only(tmp_path: Path, optimizer: str) -> None:
    fit = make_fit(tmp_path, f"optimizer={optimizer}", "callbacks.early_stopping={}", "trainer.precision=fp16")
    train(fit)
    for path in fit.run.checkpoints.glob("*.pt"):
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            _OnlyTensors(io.BytesIO(archive.read(name))).load()


def test_every_stateful_part_of_a_run_is_in_it(tmp_path: Path) -> None:
    fit = make_fit(tmp_path)
    assert set(fit.payload()) == {
        *("config", "model", "optimizer", "scaler", "state", "meters", "epoch_reading", "callbacks", "random", "data")
    }


# Damage


@settings(max_examples=300, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: float, mask: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    changed = bytearray(data)
    changed[int(where * len(data))] ^= mask
    path.write_bytes(changed)
    assert "is damaged" in refused(path)


def test_any_changed_byte_of_the_digest_is_noticed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pt"
    for i in range(1, 90):
        changed = bytearray(data)
        changed[-i] ^= 1
        path.write_bytes(changed)
        assert "is damaged" in refused(path)


@settings(max_examples=200, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_an_error_that_says_so(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.pt"
    path.write_bytes(data[: int(where * len(data))])
    refused(path)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 10, -1, -2, -64, -77, -78, -100])
def test_a_file_cut_off_at_its_ends(tmp_path: Path, data: bytes, length: int) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data[:length])
    refused(path)


def test_appended_bytes_are_noticed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data + b"\0")
    refused(path)


# Files of others


def test_a_missing_file_a_folder_and_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.pt")
    assert "cannot be read" in refused(tmp_path)


@pytest.mark.parametrize(
    "content", [b"hello", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(50), os.urandom(500)]
)
def test_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert "not a checkpoint file" in refused(path)


def write(path: Path, payload: Any, **options: Any) -> None:
    """A file with a correct digest and any content."""
    buffer = io.BytesIO()
    torch.save(payload, buffer, **options)
    path.write_bytes(b"".join(checkpoint._with_digest(buffer.getbuffer())))


def test_another_programs_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"state_dict": {}, "epoch": 3}, path)
    assert "was not written by dlrun (it holds: state_dict, epoch)" in refused(path)
    torch.save([1, 2], path)
    assert "was not written by dlrun (it holds: list)" in refused(path)
    torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    assert "was not written by dlrun" in refused(path)


def test_a_future_version(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, {"format": checkpoint.FORMAT, "version": 99, "dlrun": "9.9"})
    text = refused(path)
    assert "was written by dlrun 9.9 in format 99" in text
    assert "upgrade dlrun" in text


@pytest.mark.parametrize("version", [{}, {"version": "1"}, {"version": None}])
def test_no_version(tmp_path: Path, version: dict[str, Any]) -> None:
    write(tmp_path / "a.pt", {"format": checkpoint.FORMAT, **version})
    assert "names no format version" in refused(tmp_path / "a.pt")


class _Code:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["DLRUN_TEST_CANARY"],)


@pytest.mark.parametrize("form", ["torch", "torch, old", "pickle", "torch, with a digest"])
def test_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    canary = tmp_path / "canary"
    monkeypatch.setenv("DLRUN_TEST_CANARY", str(canary))
    path = tmp_path / "a.pt"
    payload = {"format": checkpoint.FORMAT, "version": 1, "dlrun": "0", "model": _Code()}
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload))
    elif form == "torch, with a digest":
        write(path, payload)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "torch")
    text = refused(path)
    assert "refused, because it holds more than tensors and plain values" in text
    assert "mkdir" in text or form == "pickle"
    assert not canary.exists()


# Writing


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int = 1, code: int = errno.ENOSPC) -> None:
    real, count = getattr(os, name), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize(("name", "call"), [("fsync", 1), ("replace", 1), ("replace", 2), ("replace", 3)])
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    path, best = tmp_path / "last.pt", tmp_path / "best.pt"
    checkpoint.save(path, {"state": 1}, links=(best,))
    fail_at(monkeypatch, name, call)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"state": 2}, links=(best,))
    monkeypatch.undo()
    assert checkpoint.load(path)["state"] == 1
    assert checkpoint.load(best)["state"] in (1, 2)
    assert names(tmp_path) <= {"last.pt", "best.pt", "previous_last.pt"}


def test_something_that_cannot_be_saved_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"state": 1})
    with pytest.raises(CheckpointError, match=r"state is a builtins\.function"):
        checkpoint.save(path, {"state": lambda: 0})
    assert checkpoint.load(path)["state"] == 1
    assert names(tmp_path) == {"last.pt"}


def test_no_space_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"state": 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    monkeypatch.setattr(Path, "open", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.save(path, {"state": 2})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert checkpoint.load(path)["state"] == 1


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for step in range(4):
        checkpoint.save(path, {"state": step})
    assert checkpoint.load(path)["state"] == 3
    assert checkpoint.load(checkpoint.previous_of(path))["state"] == 2


def test_a_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    path, best = tmp_path / "last.pt", tmp_path / "best.pt"
    checkpoint.save(path, {"state": 1}, links=(best,))
    with path.open("rb") as last, best.open("rb") as other:
        checkpoint.save(path, {"state": 2}, links=(best,))
        for file in (last, other):
            assert torch.load(file, weights_only=True)["state"] == 1


def test_links_receive_the_same_content_without_a_copy(tmp_path: Path) -> None:
    path, best = tmp_path / "last.pt", tmp_path / "best.pt"
    checkpoint.save(path, {"state": 1}, links=(best,))
    assert path.samefile(best)
    checkpoint.save(path, {"state": 2})
    assert checkpoint.load(best)["state"] == 1
    checkpoint.save(path, {"state": 3}, links=(best,))
    assert checkpoint.load(best)["state"] == 3


def test_without_hard_links_they_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    path, best = tmp_path / "last.pt", tmp_path / "best.pt"
    checkpoint.save(path, {"state": 1}, links=(best,))
    checkpoint.save(path, {"state": 2})
    assert not path.samefile(best)
    assert [checkpoint.load(tmp_path / name)["state"] for name in ("last.pt", "best.pt", "previous_last.pt")] == [
        2,
        1,
        1,
    ]
    assert names(tmp_path) == {"last.pt", "best.pt", "previous_last.pt"}


# The newest of a run


def test_the_newest_intact_one_of_a_run(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) is None
    path = tmp_path / "last.pt"
    for step in (10, 20, 30):
        checkpoint.save(path, {"state": step}, links=(tmp_path / f"step{step}.pt",))
    place, payload, complaints = checkpoint.load_newest(tmp_path) or pytest.fail("none")
    assert (place, payload["state"], complaints) == (path, 30, [])
    for expected, name in ((20, "last.pt"), (10, "previous_last.pt")):
        data = (tmp_path / name).read_bytes()
        for linked in tmp_path.glob("*.pt"):
            if linked.read_bytes() == data:
                linked.unlink()
                linked.write_bytes(data[:-1])
        place, payload, complaints = checkpoint.load_newest(tmp_path) or pytest.fail("none")
        assert payload["state"] == expected
        assert name in complaints[-2 if expected == 10 else -1] or name in complaints[0] or name in complaints[1]
    for linked in tmp_path.glob("*.pt"):
        linked.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint of the run can be used"):
        checkpoint.load_newest(tmp_path)


# Weights


def test_prefixes_of_wrappers_are_removed() -> None:
    own = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    for prefix in ("_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."):
        other = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
        load_weights(own, {f"{prefix}{name}": value for name, value in other.state_dict().items()})
        assert equal(own.state_dict(), other.state_dict())
    inside = {name.replace("1.0", "1._orig_mod.0"): value for name, value in other.state_dict().items()}
    load_weights(own, inside)


def test_a_module_that_is_called_module_keeps_its_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.head = nn.Linear(2, 2)

    own, other = Net(), Net()
    load_weights(own, other.state_dict())
    assert equal(own.state_dict(), other.state_dict())


def test_weights_that_do_not_fit_are_named() -> None:
    net = nn.Linear(2, 3)
    with pytest.raises(CheckpointError, match=r"missing bias; unexpected extra; weight: \(3, 5\) there, \(3, 2\)"):
        load_weights(net, {"weight": torch.zeros(3, 5), "extra": torch.zeros(1)})


def test_the_digest_is_the_comment_of_the_zip(data: bytes) -> None:
    (length,) = struct.unpack("<H", data[-79:-77])
    assert length == 77
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.comment.startswith(b"dlrun-sha256:")
        assert archive.testzip() is None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Path("x"), "pathlib"),
        (np.float64(1.0), "numpy.float64"),
        ({1, 2}, "builtins.set"),
        (object(), "builtins.object"),
    ],
)
def test_what_could_never_be_loaded_again_is_not_written(tmp_path: Path, value: object, kind: str) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(CheckpointError, match=rf"callbacks\.mine\.inner\[1\] is a {kind}"):
        checkpoint.save(path, {"callbacks": {"mine": {"inner": [0, value]}}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("unsynced_for", [0.0, 1e9])
def test_a_young_run_lets_the_disk_have_its_checkpoints_at_the_end(
    unsynced_for: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = make_fit(tmp_path, "callbacks.progress=null", "callbacks.tensorboard=null", "trainer.epochs=3")
    saving = fit.callbacks["checkpoint"]
    assert isinstance(saving, checkpoint_callback)
    saving.unsynced_for = unsynced_for
    synced: list[tuple[int, int]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((fit.state.step, os.fstat(descriptor).st_ino))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    train(fit)
    steps = [step for step, _ in synced]
    if unsynced_for:
        assert set(steps) == {fit.total_steps}
    else:
        assert set(steps) == {fit.total_steps // 3 * epoch for epoch in (1, 2, 3)}
    # The disk has whatever is there.
    nodes = {node for _, node in synced}
    assert {path.stat().st_ino for path in fit.run.checkpoints.glob("*.pt")} <= nodes
    assert fit.run.checkpoints.stat().st_ino in nodes
