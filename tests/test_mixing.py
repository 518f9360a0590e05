"""Mixing: golden values, soft targets through loss, task and run, exact resume, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import equal, make_fit
from torch import Tensor, nn
from torch.nn import functional

from dlrun import checkpoint as files
from dlrun.augment.base import Mixing
from dlrun.augment.cutmix import boxes, paste
from dlrun.augment.horizontal_flip import horizontal_flip
from dlrun.augment.mixup import blend, blend_targets
from dlrun.augment.pipeline import Pipeline
from dlrun.data import plan
from dlrun.data.loaders import make_loader
from dlrun.data.source import ArraySource
from dlrun.data.statistics import fit as fit_statistics
from dlrun.errors import UserError
from dlrun.registry import AUGMENTATIONS, LOSSES, TASKS
from dlrun.tasks.classification import classification
from dlrun.train.fit import Callback, Fit
from dlrun.train.loop import train

FEW = settings(max_examples=25)
LAYOUTS = [torch.contiguous_format, torch.channels_last]
NAMES = ("mixup", "cutmix")


def images(batch: int, channels: int = 3, height: int = 6, width: int = 8) -> Tensor:
    random = torch.Generator().manual_seed(batch)
    return torch.randint(0, 256, (batch, channels, height, width), generator=random, dtype=torch.uint8)


def built(name: str, **options: Any) -> Mixing:
    mixing: Mixing = AUGMENTATIONS.build(name, AUGMENTATIONS.check(name, options)[0])
    return mixing


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return functional.one_hot(labels, classes).float()


def test_mixup_of_two() -> None:
    black_and_white = torch.tensor([0, 200], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    share, partners = torch.tensor([0.75, 0.3]), torch.tensor([1, 0])
    assert blend(black_and_white, partners, share)[:, 0, 0, 0].tolist() == [50, 60]
    targets = blend_targets(torch.eye(3)[:2], partners, share)
    assert torch.allclose(targets, torch.tensor([[0.75, 0.25, 0.0], [0.7, 0.3, 0.0]]))


def test_cutmix_of_two() -> None:
    black_and_white = torch.tensor([0, 200], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 4, 5)
    box = torch.tensor([[1, 0], [3, 4], [0, 2], [3, 5]])
    mixed, kept = paste(black_and_white, torch.tensor([1, 0]), box)
    assert mixed[0, 0].tolist() == [[0] * 5, [200] * 3 + [0] * 2, [200] * 3 + [0] * 2, [0] * 5]
    assert mixed[1, 0].tolist() == [[200, 200, 0, 0, 0]] * 4
    assert kept.tolist() == [pytest.approx(1 - 6 / 20), pytest.approx(1 - 12 / 20)]


@FEW
@given(
    name=st.sampled_from(NAMES),
    batch=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    layout=st.sampled_from(LAYOUTS),
    weights=st.sampled_from(["sample", "batch"]),
    seed=st.integers(0, 1000),
)
def test_contract_of_every_mixing(
    name: str, batch: int, channels: int, height: int, width: int, layout: torch.memory_format, weights: str, seed: int
) -> None:
    mixing = built(name, alpha=1.0, weights=weights)
    given_images = images(batch, channels, height, width).contiguous(memory_format=layout)
    targets = one_hot(torch.arange(batch) % 5, 5)
    before, labels, state = given_images.clone(), targets.clone(), torch.get_rng_state()
    mixed, shares = mixing.mix(given_images, targets, torch.Generator().manual_seed(seed))
    assert mixed.shape == before.shape
    assert mixed.dtype == torch.uint8
    assert mixed.is_contiguous(memory_format=layout)
    assert shares.dtype == torch.float32
    assert torch.allclose(shares.sum(1), torch.ones(batch))
    assert ((shares >= 0) & (shares <= 1.0001)).all()
    assert given_images.equal(before)
    assert targets.equal(labels)
    assert torch.get_rng_state().equal(state)
    again = mixing.mix(before.contiguous(), targets, torch.Generator().manual_seed(seed))
    assert again[0].equal(mixed)
    assert again[1].equal(shares)
    exact = mixing.mix(before.float(), targets, torch.Generator().manual_seed(seed))[0]
    assert (exact - mixed).abs().max() <= 0.501
    unchanged = built(name, p=0.0).mix(given_images, targets, torch.Generator().manual_seed(seed))
    assert unchanged[0].equal(before)
    assert unchanged[1].equal(labels)


@pytest.mark.parametrize("name", NAMES)
def test_images_and_labels_are_mixed_alike(name: str) -> None:
    # Every image is of one brightness that is its class, so that its mean tells the shares.
    levels = torch.arange(0, 250, 5)
    count = len(levels)
    even = levels.view(-1, 1, 1, 1).expand(count, 1, 20, 20).float()
    mixed, shares = built(name, alpha=1.0).mix(even, one_hot(torch.arange(count), count), torch.Generator())
    assert torch.allclose(mixed.mean((1, 2, 3)), shares @ levels.float(), atol=0.01)
    # Every image is the partner of one: all shares of a class add up to what its image gave away and kept.
    assert len({float(share) for share in shares.amax(1)}) > count / 2
    assert (shares > 0).sum(1).max() == 2
    once = built(name, alpha=1.0, weights="batch").mix(even, one_hot(torch.arange(count), count), torch.Generator())
    own = once[1].diagonal()
    if name == "mixup":
        assert len({round(float(share), 5) for share in own if share < 1}) == 1


def test_boxes_keep_proportions_and_stay_inside() -> None:
    share = torch.tensor([0.75, 0.0, 1.0, 0.75])
    middle = torch.tensor([[0.5, 0.5, 0.5, 0.0], [0.5, 0.5, 0.5, 0.99]])
    assert boxes(share, middle, 8, 16).T.tolist() == [[2, 6, 4, 12], [0, 8, 0, 16], [4, 4, 8, 8], [0, 2, 11, 16]]


def test_areas_follow_the_distribution() -> None:
    count = 4000
    middle = torch.full((2, count), 0.5)
    box = boxes(torch.linspace(0, 1, count), middle, 200, 200)
    area = (box[1] - box[0]) * (box[3] - box[2]) / 200**2
    assert (area - torch.linspace(1, 0, count)).abs().max() < 0.011


# Soft targets in the loss, the task and the loader


def test_cross_entropy_of_shares() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    shares = torch.rand(5, 4, dtype=torch.float64)
    shares /= shares.sum(1, keepdim=True)
    log = logits.log_softmax(1)
    for smoothing in (0.0, 0.1):
        loss = LOSSES.build("cross_entropy", {"label_smoothing": smoothing})
        smooth = (1 - smoothing) * shares + smoothing / 4
        assert loss(logits, shares).item() == pytest.approx(-(smooth * log).sum(1).mean().item())
        labels = torch.tensor([0, 3, 1, 2, 2])
        assert loss(logits, one_hot(labels, 4).double()).item() == pytest.approx(loss(logits, labels).item())
    assert loss(torch.zeros(2, 4), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]])).item() == pytest.approx(
        math.log(4)
    )


def test_the_task_counts_the_class_with_the_largest_share() -> None:
    task = TASKS.build("classification", {}, loss=LOSSES.build("cross_entropy", {}), num_classes=3)
    assert isinstance(task, classification)
    batch = (torch.eye(3), torch.tensor([[0.6, 0.4, 0.0], [0.7, 0.3, 0.0], [0.0, 0.0, 1.0]]))
    output = task.forward(nn.Identity(), batch)
    assert output.targets.tolist() == [0, 0, 2]
    assert task.score(output.outputs, output.targets)["accuracy"] == 2
    assert [part[1].shape for part in task.split(batch, 2)] == [(2, 3), (1, 3)]
    assert output.loss.item() == pytest.approx(functional.cross_entropy(*batch).item())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches in a chunk."""
    monkeypatch.setattr(plan, "CHUNK_NUMBERS", 3 * 4 * 3 * 6 * 8)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("channels_last", [False, True])
def test_resident_and_streaming_mix_alike_from_any_batch(channels_last: bool) -> None:
    source = ArraySource(images(30), torch.arange(30) % 4)
    options: dict[str, Any] = {
        "batch_size": 4,
        "seed": 0,
        "shuffle": True,
        "augment": [horizontal_flip(), built("mixup"), built("cutmix")],
        "num_classes": 4,
        "statistics": fit_statistics(source, "channel"),
        "device": torch.device("cpu"),
        "channels_last": channels_last,
    }
    resident = make_loader(source, resident=True, **options)
    whole = list(resident.epoch(1))

    def same(batches: Iterator[tuple[Tensor, Tensor]], start: int) -> bool:
        pairs = list(zip(batches, whole[start:], strict=True))
        return all(x.equal(u) and y.equal(v) for (x, y), (u, v) in pairs)

    for workers in (0, 1):
        streaming = make_loader(source, resident=False, workers=workers, **options)
        assert same(streaming.epoch(1), 0)
        assert same(streaming.epoch(1, 4), 4)
        streaming.close()
    assert same(resident.epoch(1, 5), 5)
    assert [len(inputs) for inputs, _ in whole] == [len(targets) for _, targets in whole]
    assert whole[-1][1].shape == (2, 4)
    with pytest.raises(ValueError, match="need the number of classes"):
        make_loader(source, **(options | {"num_classes": None}))


def test_a_pipeline_without_mixing_leaves_labels() -> None:
    labels = torch.tensor([2, 0])
    assert not Pipeline([])
    pipeline = Pipeline([horizontal_flip()])
    assert not pipeline.soft
    assert pipeline(images(2), labels, torch.Generator())[1] is labels


def test_images_with_several_labels_mix_them_all() -> None:
    several = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 0]])
    shares = Pipeline([built("mixup", p=0.0)], 3)(images(3), several, torch.Generator())[1]
    assert shares.equal(several.float())


# Runs


class _StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def step_end(self, fit: Fit) -> None:
        if fit.state.step == self.step:
            fit.state.request_stop("signal", "received SIGTERM")

    def checkpoint(self, fit: Fit) -> None:
        files.save(fit.run.checkpoints / "last.pt", fit.payload())


@pytest.mark.parametrize("resident", ["true", "false"])
def test_a_run_that_was_stopped_in_mid_epoch_goes_on_exactly(
    tmp_path: Path, resident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "CHUNK_NUMBERS", 3 * 16 * 3 * 8 * 8)
    words = ("augment=[horizontal_flip,mixup,{name: cutmix, p: 0.5}]", f"data.resident={resident}", "data.workers=0")
    words = (*words, "loss.label_smoothing=0.1", "trainer.accumulate=2")
    whole = make_fit(tmp_path, *words, callbacks={})
    train(whole)
    stopped = make_fit(tmp_path, *words, callbacks={"stop": _StopAt(whole.steps_per_epoch + 4)})
    train(stopped)
    again = make_fit(tmp_path, *words, callbacks={})
    again.resume(files.load(stopped.run.checkpoints / "last.pt"))
    assert 0 < again.state.batch < again.steps_per_epoch
    train(again)
    assert equal(again.model.state_dict(), whole.model.state_dict())
    assert again.state.metrics == whole.state.metrics
    assert all(math.isfinite(value) for value in whole.state.metrics.values())


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse"])
@pytest.mark.parametrize("name", NAMES)
def test_images_with_several_labels_are_mixed_in_a_run(tmp_path: Path, name: str, loss: str) -> None:
    words = ("data.several_labels=true", "task=multilabel_classification", f"loss={loss}", f"augment=[{name}]")
    fit = make_fit(tmp_path, *words, callbacks={})
    targets = next(iter(fit.train.epoch(0)))[1]
    assert targets.shape == (16, 10)
    assert ((targets > 0) & (targets < 1)).any()
    train(fit)
    assert all(math.isfinite(value) for value in fit.state.metrics.values())
    # Labels are still labels where nothing is augmented.
    assert fit.val is not None
    assert set(next(iter(fit.val.epoch(0)))[1].unique().tolist()) <= {0, 1}


def test_a_task_or_loss_of_labels_only_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_fit(tmp_path, "augment=[invert]", callbacks={})
    monkeypatch.setattr(classification, "soft_targets", False)
    with pytest.raises(UserError, match=r"which task 'classification' cannot take; set task=classification, or leave"):
        make_fit(tmp_path, "augment=[mixup]", callbacks={})
    monkeypatch.undo()
    hard = classification(functional.cross_entropy, 10)
    monkeypatch.setattr("dlrun.assembly.run.build_task", lambda config, arguments: hard)
    with pytest.raises(UserError, match=r"which loss 'cross_entropy' cannot take; set loss=cross_entropy, or leave"):
        make_fit(tmp_path, "augment=[cutmix]", callbacks={})
    make_fit(tmp_path, "augment=[invert]", callbacks={})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_mixing_on_cuda_waits_for_nothing(name: str) -> None:
    pipeline = Pipeline([built(name)], 5)
    batch, labels = images(32).cuda(), (torch.arange(32) % 5).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    pipeline(batch, labels, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        mixed, shares = pipeline(batch, labels, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not mixed.equal(batch)
    assert torch.allclose(shares.sum(1), torch.ones(32, device="cuda"))
