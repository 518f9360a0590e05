"""A run that is killed and resumed ends bit for bit like one that was left alone."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from running import ForkServer, equal, fork_server, make_fit, run_folder

from dlrun import checkpoint
from dlrun.reproducibility import seed_all
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train

TRAIN = (
    "train",
    "device=cpu",
    "trainer.threads=1",
    "data=digits",
    "data.batch_size=64",
    "augment=[{name: random_crop, padding: 1}, horizontal_flip]",
    "optimizer.lr=0.05",
    "schedule.warmup=4st",
    "trainer.epochs=3",  # of 21 steps
    "trainer.log_every=8",
    "callbacks.progress=null",
    "callbacks.tensorboard=null",
    "callbacks.checkpoint={every: 5st, keep: 2, top_k: 2, monitor: val/loss, mode: min}",
)
MLP = ("model=mlp", "model.hidden=[32]", "model.norm=batch", "model.dropout=0.3", "optimizer=adamw")
RESNET = ("model=resnet", "model.depth=8", "model.width=0.25", "trainer.clip_norm=2", "trainer.accumulate=2")
FEEDING = {
    "resident": ("data.resident=true",),
    "streaming-0": ("data.resident=false", "data.workers=0"),
    "streaming-2": ("data.resident=false", "data.workers=2"),
}
CHUNK = 4 * 64 * 64
"""Four batches in a chunk, so that an epoch has six and most resumes enter one in its middle."""
DIGITS = (*TRAIN, *MLP)


CONVNET = (
    *("model=convnet", "model.channels=[4]", "model.convs=1", "model.hidden=[8]"),
    *("model.activation=maxout", "model.pool=fractional", "model.drop_connect=0.5"),
)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with fork_server() as server:
        yield server


@pytest.fixture(scope="module")
def whole(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is left alone."""
    place = tmp_path_factory.mktemp("whole")
    assert server.run(place, *DIGITS, chunk=CHUNK) == 0
    return place


def resume(place: Path) -> tuple[str, str]:
    return "train", f"resume={run_folder(place)}"


def output(place: Path) -> str:
    return (place / "output.txt").read_text()


def assert_same(place: Path, whole: Path) -> None:
    """Everything that the seed determines is the same, bit for bit."""
    a, b = run_folder(place), run_folder(whole)
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    one, other = json.loads((a / "results.json").read_text()), json.loads((b / "results.json").read_text())
    del one["seconds"], other["seconds"]
    assert one == other
    names = sorted(path.name for path in (b / "checkpoints").iterdir())
    assert sorted(path.name for path in (a / "checkpoints").iterdir()) == names
    for name in names:
        if name != "previous_last.pt":
            one, other = checkpoint.load(a / "checkpoints" / name), checkpoint.load(b / "checkpoints" / name)
            for payload in (one, other):
                # Where and how it runs may differ, and the lengths of the timings' texts do.
                del payload["config"], payload["callbacks"]["metrics_jsonl"]["sizes"]["timings.jsonl"]
            assert equal(one, other), name
    steps = [json.loads(line)["step"] for line in (a / "timings.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


# Kills at chosen moments


def test_the_run_left_alone_repeats_and_does_not_depend_on_how_the_data_are_fed(
    server: ForkServer, whole: Path, tmp_path: Path
) -> None:
    for name in ("streaming-0", "streaming-2"):
        assert server.run(tmp_path / name, *DIGITS, *FEEDING[name], chunk=CHUNK) == 0
        assert_same(tmp_path / name, whole)


@pytest.mark.parametrize("feeding", FEEDING)
def test_kills_in_mid_epoch(server: ForkServer, whole: Path, tmp_path: Path, feeding: str) -> None:
    words = (*DIGITS, *FEEDING[feeding])
    assert server.run(tmp_path, *words, step=19, chunk=CHUNK) == -signal.SIGKILL
    # The lock of a killed process is free at once, though its data workers live on for some seconds.
    assert server.run(tmp_path, *resume(tmp_path), step=23, chunk=CHUNK) == -signal.SIGKILL
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 0
    assert_same(tmp_path, whole)


def test_the_way_the_data_are_fed_may_change_at_a_resume(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert server.run(tmp_path, *DIGITS, step=27, chunk=CHUNK) == -signal.SIGKILL
    assert server.run(tmp_path, *resume(tmp_path), "data.resident=false", "data.workers=1", chunk=CHUNK) == 0
    assert_same(tmp_path, whole)


def test_killed_before_the_first_checkpoint(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert server.run(tmp_path, *DIGITS, step=4, chunk=CHUNK) == -signal.SIGKILL
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 0
    assert "there is no checkpoint yet" in output(tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(RESNET, id="clipping-accumulation", marks=pytest.mark.slow),
        pytest.param(CONVNET, id="random-layers"),
    ],
)
def test_a_network_with_convolutions(server: ForkServer, tmp_path: Path, model: tuple[str, ...]) -> None:
    words = (*TRAIN, *model, "trainer.epochs=2")
    assert server.run(tmp_path / "whole", *words, chunk=CHUNK) == 0
    assert server.run(tmp_path / "killed", *words, step=33, chunk=CHUNK) == -signal.SIGKILL
    assert server.run(tmp_path / "killed", *resume(tmp_path / "killed"), chunk=CHUNK) == 0
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_a_growing_batch_and_a_rate_that_depends_on_what_was_measured(server: ForkServer, tmp_path: Path) -> None:
    growing = ("data.batch_growth=2", "trainer.eval_every=4st", "loss.class_weights=balanced")
    plateau = ("schedule=plateau", "schedule.patience=1", "schedule.min_delta=0.3", "schedule.factor=0.5")
    words = (*DIGITS, *plateau, *growing)
    assert server.run(tmp_path / "whole", *words, chunk=CHUNK) == 0
    assert server.run(tmp_path / "killed", *words, step=29, chunk=CHUNK) == -signal.SIGKILL
    assert server.run(tmp_path / "killed", *resume(tmp_path / "killed"), chunk=CHUNK) == 0
    assert_same(tmp_path / "killed", tmp_path / "whole")
    rows = (run_folder(tmp_path / "whole") / "metrics.jsonl").read_text().splitlines()
    assert len({json.loads(row)["lr"] for row in rows if "lr" in json.loads(row)}) > 5


# Kills while a checkpoint is written

EVALUATED = 5
"""The checkpoint of step 21, after those of steps 5, 10, 15 and 20: the first that is also among the best."""
CALLS = ("fsync", *("link", "replace") * 3, "replace", "open", "fsync", "close")
"""The file, then best.pt, step21.pt, previous_last.pt, then last.pt, then the folder."""
TELLING = (1, 3, 5, 7, 8, 10)


@pytest.mark.parametrize(
    "call",
    [pytest.param(i, marks=() if i in TELLING else pytest.mark.slow, id=f"{i}-{n}") for i, n in enumerate(CALLS, 1)],
)
def test_kills_in_mid_checkpoint(server: ForkServer, whole: Path, tmp_path: Path, call: int) -> None:
    assert server.run(tmp_path, *DIGITS, before_call=(EVALUATED, call), chunk=CHUNK) == -signal.SIGKILL
    for path in (run_folder(tmp_path) / "checkpoints").glob("*.pt"):
        checkpoint.load(path)
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 0
    assert_same(tmp_path, whole)


@pytest.mark.slow
def test_no_call_of_a_checkpoint_is_left_out_above(server: ForkServer, tmp_path: Path) -> None:
    assert server.run(tmp_path, *DIGITS, before_call=(EVALUATED, len(CALLS) + 1), chunk=CHUNK) == 0


def test_kill_in_the_middle_of_writing_the_file(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert server.run(tmp_path, *DIGITS, half_write=4, chunk=CHUNK) == -signal.SIGKILL
    folder = run_folder(tmp_path) / "checkpoints"
    (half,) = folder.glob(".*.tmp")
    assert 0 < half.stat().st_size < (folder / "last.pt").stat().st_size
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 0
    assert not list(folder.glob(".*.tmp"))
    assert_same(tmp_path, whole)


def test_kills_in_the_first_checkpoint_of_all(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert server.run(tmp_path, *DIGITS, half_write=1, chunk=CHUNK) == -signal.SIGKILL
    assert server.run(tmp_path, *resume(tmp_path), before_call=(1, 3), chunk=CHUNK) == -signal.SIGKILL
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 0
    assert_same(tmp_path, whole)


# Kills at random moments


def kill_at_random(
    server: ForkServer, place: Path, words: tuple[str, ...], moments: random.Random, kills: int, seconds: float
) -> None:
    """Kill a run and its resumptions at random moments within ``seconds`` each, then let it end."""
    for _ in range(kills):
        code = server.run_killed_after(moments.uniform(0, seconds), place, *_next_words(place, words), chunk=CHUNK)
        assert code in (0, -signal.SIGKILL), output(place)
    assert server.run(place, *_next_words(place, words), chunk=CHUNK) == 0, output(place)


def _next_words(place: Path, words: tuple[str, ...]) -> tuple[str, ...]:
    for folder in (place / "runs").glob("*"):
        if (folder / "config.yaml").is_file():
            return "train", f"resume={folder}"
        # Killed before there was anything to resume.
        folder.rename(place / f"unborn {folder.name}")
    return words


@pytest.mark.parametrize("feeding", ["resident", pytest.param("streaming-2", marks=pytest.mark.slow)])
def test_kills_at_random_moments(server: ForkServer, whole: Path, tmp_path: Path, feeding: str) -> None:
    kill_at_random(server, tmp_path, (*DIGITS, *FEEDING[feeding]), random.Random(1), kills=4, seconds=0.8)
    assert_same(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("feeding", FEEDING)
def test_twenty_kills_at_random_moments_on_digits(
    server: ForkServer, whole: Path, tmp_path: Path, feeding: str
) -> None:
    moments = random.Random(feeding)
    for i in range(5):
        kill_at_random(server, tmp_path / str(i), (*DIGITS, *FEEDING[feeding]), moments, kills=4, seconds=0.8)
        assert_same(tmp_path / str(i), whole)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 60 training and 20 test images of every class."""
    archive = Path(__file__).parents[2] / "shared/data/cifar10-jpeg.tar.gz"
    if not archive.is_file():
        pytest.skip(f"needs the real CIFAR-10 images in {archive}")
    folder = tmp_path_factory.mktemp("cifar")
    counts: dict[str, int] = {}
    with tarfile.open(archive) as file:
        for member in file:
            split, _, label = member.name.removeprefix("cifar10/").partition("/")
            key = f"{split}/{label.split('/')[0]}"
            counts[key] = counts.get(key, 0) + member.isfile()
            if member.isfile() and counts[key] <= (60 if split == "train" else 20):
                file.extract(member, folder, filter="data")
    return folder / "cifar10"


@pytest.mark.slow
@pytest.mark.parametrize("feeding", FEEDING)
def test_twenty_kills_at_random_moments_on_cifar10(
    server: ForkServer, cifar: Path, tmp_path: Path, feeding: str
) -> None:
    words = (
        *(word for word in TRAIN if not word.startswith(("data", "augment"))),
        *RESNET,
        "data=image_folder",
        f"data.root={cifar}",
        f"data.cache={tmp_path}/cache",
        "data.batch_size=30",  # 18 steps in an epoch
        "augment=crop_flip",
    )
    began = time.monotonic()
    assert server.run(tmp_path / "whole", *words, chunk=CHUNK) == 0
    seconds = time.monotonic() - began
    words = (*words, *FEEDING[feeding])
    moments = random.Random(feeding)
    for i in range(5):
        kill_at_random(server, tmp_path / str(i), words, moments, kills=4, seconds=seconds / 2)
        assert_same(tmp_path / str(i), tmp_path / "whole")


# What a resume finds


def test_a_finished_run_is_not_trained_again(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    assert server.run(tmp_path, *resume(tmp_path), step=1, chunk=CHUNK) == 0
    assert_same(tmp_path, whole)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    path.unlink()  # best.pt and the others may be the same file
    if how == "flipped":
        data[len(data) // 2] ^= 1
    elif how == "cut off":
        del data[len(data) // 2 :]
    else:
        data = bytearray()
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "cut off", "empty"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_previous_one_used(
    server: ForkServer, whole: Path, tmp_path: Path, how: str
) -> None:
    assert server.run(tmp_path, *DIGITS, step=48, chunk=CHUNK) == -signal.SIGKILL
    damage(run_folder(tmp_path) / "checkpoints/last.pt", how)
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 0
    assert re.search(r"warning: checkpoint .*last\.pt: is (damaged|truncated|not a checkpoint)", output(tmp_path))
    assert "going on from previous_last.pt" in output(tmp_path)
    assert "at step 42 of 63 (epoch 2)" in output(tmp_path)
    assert_same(tmp_path, whole)


def test_all_checkpoints_damaged_is_an_error(server: ForkServer, tmp_path: Path) -> None:
    assert server.run(tmp_path, *DIGITS, step=12, chunk=CHUNK) == -signal.SIGKILL
    for path in (run_folder(tmp_path) / "checkpoints").glob("*.pt"):
        damage(path, "cut off")
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 2
    assert "no checkpoint of the run can be used" in output(tmp_path)


def test_a_change_of_the_experiment_is_refused(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    words = ("optimizer.lr=0.01", "data.batch_size=32", "trainer.log_every=3", "seed=1")
    assert server.run(tmp_path, *resume(tmp_path), *words) == 2
    text = output(tmp_path).split("Traceback")[1].split("error: ")[1]
    assert "3 problems" in text
    for path in ("optimizer.lr: was 0.05, now 0.01", "data.batch_size: was 64, now 32", "seed: was 0, now 1"):
        assert path in text
    assert "start a new run" in text
    assert_same(tmp_path, whole)


def test_an_edited_configuration_is_not_resumed_silently(server: ForkServer, tmp_path: Path) -> None:
    assert server.run(tmp_path, *DIGITS, step=30, chunk=CHUNK) == -signal.SIGKILL
    path = run_folder(tmp_path) / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.05", "lr: 0.7"))
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 2
    assert "optimizer.lr: was 0.05, now 0.7" in output(tmp_path)


def test_options_that_a_newer_dlrun_added_do_not_stop_a_resume(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert server.run(tmp_path, *DIGITS, step=30, chunk=CHUNK) == -signal.SIGKILL
    folder = run_folder(tmp_path)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    payload = checkpoint.load(folder / "checkpoints/last.pt")
    del payload["config"]["model"]["negative_slope"], payload["config"]["trainer"]["clip_value"]
    # A whole section too.
    del payload["config"]["regularization"], tree["regularization"]
    checkpoint.save(folder / "checkpoints/last.pt", payload)
    del tree["model"]["negative_slope"]
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    assert server.run(tmp_path, *resume(tmp_path), chunk=CHUNK) == 0, output(tmp_path)
    # The files differ in the configuration that they record, not in what was learned.
    assert (folder / "metrics.jsonl").read_bytes() == (run_folder(whole) / "metrics.jsonl").read_bytes()
    last, other = (checkpoint.load(run / "checkpoints/last.pt") for run in (folder, run_folder(whole)))
    assert equal(last["model"], other["model"])


def test_fewer_epochs_than_trained_are_refused(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    assert server.run(tmp_path, *resume(tmp_path), "trainer.epochs=1", chunk=CHUNK) == 2
    assert "trainer.epochs=1 is less than the 3 epochs already trained" in output(tmp_path)


def test_a_finished_run_is_extended(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    # With a rate that does not depend on the length of the training, it ends like a run that was long from the start.
    words = (*DIGITS, "schedule=constant")
    assert server.run(tmp_path / "long", *words, chunk=CHUNK) == 0
    assert server.run(tmp_path / "short", *words, "trainer.epochs=2", chunk=CHUNK) == 0
    assert server.run(tmp_path / "short", *resume(tmp_path / "short"), "trainer.epochs=3", chunk=CHUNK) == 0
    assert_same(tmp_path / "short", tmp_path / "long")
    saved = yaml.safe_load((run_folder(tmp_path / "short") / "config.yaml").read_text())
    assert saved["trainer"]["epochs"] == 3


def test_auto_takes_the_newest_run_and_a_resume_is_recorded(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert server.run(tmp_path, *DIGITS, "trainer.epochs=1", chunk=CHUNK) == 0
    (older,) = (tmp_path / "runs").iterdir()
    assert server.run(tmp_path, *DIGITS, step=30, chunk=CHUNK) == -signal.SIGKILL
    assert server.run(tmp_path, "train", "resume=auto", chunk=CHUNK) == 0
    shutil.rmtree(older)
    assert_same(tmp_path, whole)
    env = json.loads((run_folder(tmp_path) / "env.json").read_text())
    assert [(entry["step"], entry["overrides"]) for entry in env["resumed"]] == [(25, [])]


def test_early_stopping_and_the_best_score_survive(server: ForkServer, tmp_path: Path) -> None:
    words = (*DIGITS, "trainer.epochs=30", "trainer.eval_every=10st", "callbacks.checkpoint.every=null")
    words += ("callbacks.early_stopping={monitor: val/loss, patience: 4, min_delta: 0.3}",)
    assert server.run(tmp_path / "whole", *words, chunk=CHUNK) == 0
    results = json.loads((run_folder(tmp_path / "whole") / "results.json").read_text())
    assert "has not improved for 4 evaluations" in results["stop"]
    last = results["step"]
    assert 60 < last < 30 * 21
    # Killed while it is waiting, and again after the stop was saved but before the run had ended.
    place = tmp_path / "killed"
    assert server.run(place, *words, step=last - 15, chunk=CHUNK) == -signal.SIGKILL
    saves = last // 10 - (last - 15) // 10
    assert server.run(place, *resume(place), before_call=(saves, 10), chunk=CHUNK) == -signal.SIGKILL
    assert server.run(place, *resume(place), step=1, chunk=CHUNK) == 0
    assert_same(place, tmp_path / "whole")


@pytest.mark.parametrize(
    "words",
    [
        ("trainer.precision=fp16", "trainer.clip_norm=1"),
        ("trainer.precision=bf16", "optimizer=adam"),
        ("model={name: resnet, depth: 8, width: 0.25}", "trainer.channels_last=true"),
        ("schedule=multistep", "schedule.warmup=5st", "trainer.accumulate=3"),
        ("data.val_fraction=0", "callbacks.checkpoint={monitor: train/loss, mode: min}"),
        ("data.drop_last=true", "trainer.eval_every=4st", "trainer.log_every=1000"),
        ("trainer.limit_batches=4", "trainer.epochs=4"),
        ("regularization={l2: 1e-3, l1: 1e-4, max_norm: 1, gradient_noise: 0.1}", "trainer.precision=fp16"),
        ("optimizer=sam", "trainer.precision=fp16", "optimizer.layer_decay=0.5"),
    ],
)
def test_whatever_is_trained_goes_on_exactly(tmp_path: Path, words: tuple[str, ...]) -> None:
    class Stop(Callback):
        def step_end(self, fit: Fit) -> None:
            if fit.state.step == 11:
                fit.state.request_stop("signal", "received SIGTERM")

    words = ("model={name: mlp, hidden: [16], dropout: 0.3}", *words, "augment=crop_flip", "callbacks.tensorboard=null")
    whole, broken, resumed = (make_fit(tmp_path, *words) for _ in range(3))
    broken.callbacks = {**broken.callbacks, "stop": Stop()}
    resumed.run = broken.run
    seed_all(0)
    train(whole)
    seed_all(0)
    train(broken)
    resumed.resume(checkpoint.load(broken.run.checkpoints / "last.pt"))
    train(resumed)
    one, other = whole.payload(), resumed.payload()
    for payload in (one, other):
        del payload["callbacks"]["metrics_jsonl"]
    assert equal(one, other)
    assert (whole.run.path / "metrics.jsonl").read_bytes() == (resumed.run.path / "metrics.jsonl").read_bytes()


def test_a_run_without_checkpoints_says_so_when_it_is_interrupted(server: ForkServer, tmp_path: Path) -> None:
    words = [word for word in DIGITS if not word.startswith("callbacks.checkpoint")]
    assert server.run(tmp_path, *words, "callbacks.checkpoint=null", step=5, signal_name="SIGTERM") == 75
    assert "at step 5 of 63; no checkpoint is saved" in output(tmp_path)


def test_two_processes_in_one_folder(server: ForkServer, tmp_path: Path) -> None:
    pid = server.start(tmp_path, *DIGITS, "trainer.epochs=10000")
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "runs").glob("*/config.yaml")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.run(tmp_path, *resume(tmp_path)) == 2
        assert f"another dlrun process (pid {pid}) is training in it" in output(tmp_path)
    finally:
        os.kill(pid, signal.SIGKILL)
        server.wait(pid)
