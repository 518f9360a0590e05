"""A checkpoint rebuilt for evaluation, and its scores on a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.commands.held_out import warn_if_seen
from dlrun.commands.request import Request
from dlrun.commands.saved import Saved, load_saved
from dlrun.config.rerun import EVAL_MAY_CHANGE
from dlrun.config.sources import display_path
from dlrun.errors import CheckpointError, UserError
from dlrun.logs import log

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dlrun.config.schema import Config
    from dlrun.data.feed import BatchLoader, Feed, Split
    from dlrun.data.image_feed import ImageFeed
    from dlrun.tasks.base import Probabilities, Task
    from dlrun.views import Views


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        saved: the checkpoint.
        kind: of its weights: averaged, raw, or an empty text if the checkpoint has only one kind.
        feed: the data, as its training saw them.
        task: its task.
        model: with these weights, on ``device``.
        device: where it is.
    """

    saved: Saved
    kind: str
    feed: Feed
    task: Task
    model: nn.Module
    device: torch.device

    @property
    def name(self) -> str:
        """The checkpoint as messages name it."""
        return display_path(self.saved.path.absolute())

    @property
    def step(self) -> int:
        """Training step of the checkpoint."""
        return int(self.saved.payload["state"]["step"])

    def loader(self, split: Split) -> BatchLoader:
        """The batches of a split.

        Raises:
            UserError: if the data have no such split.
        """
        return _there(self, self.feed.eval_loader(split), split)


def load(path: Path, request: Request) -> Saved:
    """The checkpoint at a path, with the overrides of the command line.

    Raises:
        UserError: if it cannot be used, or an override is wrong or changes what it was trained with.
    """
    why = "the checkpoint was trained with it, so eval cannot change it"
    return load_saved(path, request.overrides, EVAL_MAY_CHANGE, why)


def open_subject(saved: Saved, request: Request, split: Split) -> Subject:
    """Rebuild what a checkpoint describes, with its data; warn if the split holds what it was trained on.

    Raises:
        UserError: if the data are missing or do not fit, or the checkpoint lacks the weights that are asked for.
    """
    from dlrun.assembly import build_feed, build_model, build_task
    from dlrun.reproducibility import resolve_device, set_determinism, warn_of_slow_precision
    from dlrun.weights import load_weights, unsettled

    config, payload = saved.config, saved.payload
    weights, kind = saved.weights(request)
    set_determinism(deterministic=config.trainer.deterministic, threads=config.trainer.threads)
    device = resolve_device(config.device)
    warn_of_slow_precision(config.trainer.precision, device)
    try:
        feed = build_feed(config, device, payload["data"])
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {saved.path}: {error}") from None
    warn_if_seen(saved, feed, split)
    model, task = build_model(config, feed.arguments, device), build_task(config, feed.arguments)
    load_weights(model, weights)
    if unsettled(payload, kind):
        _settle(config, model, feed, task, device)
    return Subject(saved, kind, feed, task, model, device)


def _settle(config: Config, model: nn.Module, feed: Feed, task: Task, device: torch.device) -> None:
    """Take the statistics of batch norm of averaged weights anew, as the training would have before an evaluation."""
    from dlrun.assembly import find_head
    from dlrun.train.batch_norm import norms_of, recompute_statistics
    from dlrun.train.step import autocast
    from dlrun.transfer import freeze

    norms = norms_of(model, freeze(model, config.model.freeze, find_head(config, model, feed.arguments, feed.counted)))
    loader, precision = feed.train_loader(), autocast(config.trainer.precision, device)
    log.info("the checkpoint was written between two evaluations: statistics of batch norm from training batches")
    try:
        recompute_statistics(model.eval(), norms, loader, config.averaging.params["batches"], task, precision)
    finally:
        loader.close()


def plain_scores(subject: Subject, split: Split) -> tuple[int, dict[str, Any]]:
    """Loss and metrics as in training; where samples have classes, also those of each class.

    Returns:
        What was evaluated, in the unit of the feed, and the scores.

    Raises:
        UserError: if the data have no such split.
    """
    loader = subject.loader(split)
    try:
        return loader.num_samples, _scores(subject, loader)
    finally:
        loader.close()


def _scores(subject: Subject, loader: BatchLoader) -> dict[str, Any]:
    from dlrun.train.evaluate import evaluate

    config = subject.saved.config
    if config.task.name == "sequence_labeling":
        return _tag_scores(subject, loader)
    detail = getattr(subject.task, "detail", None)
    if subject.feed.classes is None and detail is None:
        return evaluate(subject.model, loader, subject.task, config.trainer.precision, subject.device) or {}
    outputs, targets = _predict(subject, subject.model, loader)
    loss = float(subject.task.loss(outputs, targets))
    return {**_rates(subject, outputs, targets, loss), **detailed(subject, outputs, targets)}


def _tag_scores(subject: Subject, loader: BatchLoader) -> dict[str, Any]:
    """Loss, accuracy, F1 of the tags and their mean; of BIO tags also the F1 of spans."""
    from dlrun.losses import IGNORED
    from dlrun.scores import confusion_matrix, is_bio, macro_f1, per_class, span_f1
    from dlrun.train.evaluate import evaluate

    names, precision = subject.feed.outputs, subject.saved.config.trainer.precision
    scores = evaluate(subject.model, loader, subject.task, precision, subject.device) or {}
    predicted, targets = _predict(subject, subject.model, loader)
    counted = targets != IGNORED
    predicted, targets = predicted[counted].long(), targets[counted]
    rows = per_class(confusion_matrix(predicted, targets, len(names)), names)
    report: dict[str, Any] = {**scores, "macro_f1": macro_f1(rows)}
    if is_bio(names):
        lengths = [count for batch in loader.epoch(0) for count in batch.counts]
        report["span_f1"] = span_f1(*(_apart(tags, lengths, names) for tags in (predicted, targets)))
    return {**report, "per_class": rows}


def _apart(tags: Tensor, lengths: Sequence[int], names: Sequence[str]) -> list[str]:
    """Names of the tags of sequences one after the other, with an O between each two."""
    joined: list[str] = []
    numbers = iter(tags.tolist())
    for length in lengths:
        joined += [*(names[tag] for tag in islice(numbers, length)), "O"]
    return joined


def classified(subject: Subject, split: Split, views: Views | None = None) -> tuple[Tensor, Tensor]:
    """Scores (N, K) and targets (N, ...) of a split on the CPU, in its order; with views, of mean probabilities.

    Raises:
        UserError: if the data have no such split, or their samples no classes.
    """
    if views is None:
        loader, model = subject.loader(split), subject.model
    else:
        from dlrun.combine import Viewed

        feed = images_of(subject)
        loader = _there(subject, feed.pixels(split), split)
        kind = probabilities_of(subject.task)
        assert kind is not None
        model = Viewed(subject.model, feed.statistics.to(subject.device), views, kind)
    try:
        return _predict(subject, model, loader)
    finally:
        loader.close()


def probabilities_of(task: object) -> Probabilities | None:
    """How the scores of a task's models stand for probabilities; None if they do not."""
    kind: Probabilities | None = getattr(task, "probabilities", None)
    return kind


def rated(subject: Subject, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """The mean negative log-likelihood in nats, a loss that all nets have in common, and all metrics of the split.

    Args:
        subject: whose task it is.
        outputs: scores (N, K) that stand for probabilities.
        targets: labels (N,), or of several labels each (N, K).
    """
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    if probabilities_of(subject.task) == "sigmoid":
        loss = binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))
    else:
        loss = cross_entropy(outputs, targets)
    known = _rates(subject, outputs, targets, float(loss))
    return known | {name: value for name, value in detailed(subject, outputs, targets).items() if type(value) is float}


def _rates(subject: Subject, outputs: Tensor, targets: Tensor, loss: float) -> dict[str, float]:
    from dlrun.tasks.base import complete

    counts = subject.task.score(outputs, targets).items()
    return complete(subject.task, {"loss": loss, **{name: float(count) / len(targets) for name, count in counts}})


def detailed(subject: Subject, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """Metrics of each class or label; of classes also their names and the confusion matrix."""
    from dlrun.scores import confusion_matrix, per_class

    detail = getattr(subject.task, "detail", None)
    if detail is not None:
        found: dict[str, Any] = detail(outputs, targets, subject.feed.outputs)
        return found
    classes = subject.feed.classes
    assert classes is not None
    confusion = confusion_matrix(outputs.argmax(1), targets, len(classes))
    return {"per_class": per_class(confusion, classes), "classes": list(classes), "confusion": confusion.tolist()}


def gain(better: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    """What each metric grew by."""
    return {name: value - base[name] for name, value in better.items() if name in base}


def images_of(subject: Subject) -> ImageFeed:
    """The data of a checkpoint that classifies images.

    Raises:
        UserError: if it does something else.
    """
    from dlrun.data.image_feed import ImageFeed

    if not isinstance(subject.feed, ImageFeed) or probabilities_of(subject.task) is None:
        raise UserError(
            f"tta= is for classifiers of images, and {subject.name} is model {subject.saved.config.model.name!r} of "
            f"data {subject.saved.config.data.name!r} ({subject.feed.kind}) with task "
            f"{subject.saved.config.task.name!r}; leave it out"
        )
    return subject.feed


def _predict(subject: Subject, model: nn.Module, loader: BatchLoader) -> tuple[Tensor, Tensor]:
    from dlrun.train.evaluate import predict

    return predict(model, loader, subject.task, subject.saved.config.trainer.precision, subject.device)


def _there(subject: Subject, loader: BatchLoader | None, split: Split) -> BatchLoader:
    if loader is not None:
        return loader
    remedies = [f"split={name}" for name in ("test", "val", "train") if name in subject.feed.sizes()][:1]
    if split == "test" and {"path", "test_fraction"} <= subject.saved.config.data.params.keys():
        remedies.append("other data as a whole (data.path=... data.test_fraction=1)")
    give = f"; give {', or '.join(remedies)}" if remedies else ""
    raise UserError(f"split={split}: the data have no {split} split{give}")
