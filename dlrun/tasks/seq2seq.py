"""Sequence to sequence: the next symbol of a target, and whole targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dlrun.data.pair_batches import PairBatch
from dlrun.data.pair_feed import PairFeed
from dlrun.losses import IGNORED, Loss
from dlrun.registry import TASKS
from dlrun.tasks.base import Carried, StepOutput, last_targets, longest_rows
from dlrun.types import Fraction, PositiveInt

EXAMINED = 1000
"""Pairs among which examples are looked for."""
SPARE = 10
"""Steps of decoding beyond twice the length of the longest target."""


class _Found(Protocol):
    """What ``decode`` of a model gives; see :class:`dlrun.models.seq2seq.Decoded`."""

    tokens: Tensor
    scores: Tensor
    weights: Tensor | None


@TASKS.register
class seq2seq:  # named as in YAML
    """Targets written symbol by symbol: loss per symbol in nats, their accuracy, and exact matches of whole targets.

    A batch is :class:`dlrun.data.pair_batches.PairBatch`. The model is called with the sources, their lengths, the
    decoder's inputs and where it must read these; it gives logits (B, T, V), and its ``decode`` whole targets.

    Loss and ``accuracy`` are means over the symbols of the targets, their ends included and their padding not; in
    evaluation the decoder reads the true beginnings. ``sequence_accuracy`` is the share of targets that the model,
    decoding by itself, gets right from the first symbol to the end; it is measured in evaluation only.

    Args:
        teacher_forcing: probability that the decoder reads the true symbol in training, and not its own guess, at the
            beginning of the training; 0..1. Below 1 it takes its steps one by one, which is slower.
        teacher_forcing_end: the same at the end of the training, linear in between; null: it stays.
        beam: hypotheses that decoding keeps in evaluation, >= 1; 1 takes the best symbol at each step. They are cut
            well behind the split's longest target: at twice its length and ten symbols more.

    Source: Sutskever, Vinyals and Le 2014, "Sequence to sequence learning with neural networks"; Bengio et al. 2015,
        "Scheduled sampling for sequence prediction with recurrent neural networks" (the schedule)
    """

    metrics: tuple[str, ...] = ("accuracy", "sequence_accuracy")

    def __init__(
        self,
        loss: Loss,
        target_size: int,
        *,
        teacher_forcing: Fraction = 1.0,
        teacher_forcing_end: Fraction | None = None,
        beam: PositiveInt = 1,
    ) -> None:
        self.loss = loss
        self.target_size = target_size
        self.beam = beam
        self._first = teacher_forcing
        self._last = teacher_forcing if teacher_forcing_end is None else teacher_forcing_end

    def size(self, batch: PairBatch) -> int:
        """Symbols of the targets."""
        return sum(batch.lengths)

    def split(self, batch: PairBatch, parts: int) -> Sequence[PairBatch]:
        """Whole pairs, dealt out in order."""
        cut, begin = [], 0
        tables = (tensor.tensor_split(min(parts, len(batch.lengths))) for tensor in batch[:4])
        for source, source_lengths, inputs, targets in zip(*tables, strict=True):
            lengths = batch.lengths[begin : begin + len(source)]
            cut.append(PairBatch(source, source_lengths, inputs, targets, lengths, batch.progress, batch.longest))
            begin += len(source)
        return cut

    def forward(self, model: nn.Module, batch: PairBatch, carried: Carried = None) -> StepOutput:
        """Scores of the next symbols, their loss, and in evaluation what the model writes by itself (with
        ``batch.longest=0`` nothing).

        Returns:
            The outputs are counts of each pair, int64 (B, 3): symbols that were right, whether the whole target was,
            and whether it was decoded at all; the targets are the lengths (B,).
        """
        teacher = self._teacher(batch) if model.training else None
        logits = model(batch.source, batch.source_lengths, batch.inputs, teacher)
        loss = self.loss(logits.flatten(0, 1), batch.targets.flatten())
        hits = (logits.detach().argmax(-1) == batch.targets).sum(1)
        decodes = not model.training and batch.longest > 0
        exact = self._exact(model, batch) if decodes else torch.zeros_like(hits)
        decoded = torch.full_like(hits, int(decodes))
        counts = torch.stack([hits, exact, decoded], 1)
        return StepOutput(loss, counts, torch.tensor(batch.lengths, device=counts.device))

    def _teacher(self, batch: PairBatch) -> Tensor | None:
        share = self._first + (self._last - self._first) * batch.progress
        # torch's own generator is in the checkpoint, so a resumed run draws the same.
        return None if share == 1 else torch.rand(batch.inputs.shape, device=batch.inputs.device) < share

    def _exact(self, model: Any, batch: PairBatch) -> Tensor:
        """Which targets are decoded exactly, int64 (B,)."""
        # Of one hypothesis what goes on behind the longest target of the batch is wrong.
        best = self._decoded(model, batch, batch.targets.shape[1] if self.beam == 1 else None).tokens[:, 0]
        wanted = batch.targets[:, : best.shape[1]]
        right = ((best[:, : wanted.shape[1]] == wanted) | (wanted == IGNORED)).all(1)
        # All were ended before the longest target was.
        missed = (batch.targets[:, best.shape[1] :] != IGNORED).any(1)
        return (right & ~missed).long()

    def _decoded(self, model: Any, batch: PairBatch, cut: int | None = None) -> _Found:
        """What the model writes, cut late and at the same step in all batches of a split: a hypothesis that is cut may
        look better than the one that would have won."""
        steps = 2 * batch.longest + SPARE if cut is None else cut
        found: _Found = model.decode(
            batch.source, batch.source_lengths, beam=self.beam, max_length=steps, best_only=True
        )
        return found

    def last_only(self, batch: PairBatch) -> PairBatch:
        """Of the pairs with the longest targets those with the longest sources, with the end of each target as the only
        prediction; nothing is decoded."""
        rows = longest_rows(batch.lengths, batch.source_lengths.tolist())
        source, source_lengths, inputs, targets = (tensor[rows] for tensor in batch[:4])
        width = int(source_lengths.max())
        return PairBatch(
            source[:, :width], source_lengths, inputs, last_targets(targets), (1,) * len(rows), batch.progress, 0
        )

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Numbers of symbols that were right, of targets that were, and of targets that were decoded."""
        hits, exact, decoded = outputs.sum(0).unbind()
        return {"accuracy": hits, "exact": exact, "decoded": decoded}

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Exact matches among the decoded targets; nothing where none was decoded, as in training."""
        return {"sequence_accuracy": means["exact"] / means["decoded"]} if means["decoded"] else {}

    @torch.inference_mode()
    def examples(self, model: Any, feed: PairFeed, split: Any, count: int) -> list[dict[str, Any]]:
        """What the model makes of some sources, errors first.

        Args:
            model: with ``decode``.
            feed: its pairs.
            split: the split they are taken from, its first :data:`EXAMINED` pairs.
            count: how many are wanted.

        Returns:
            Plain values: source, target, prediction, and attention (a row of weights for each predicted symbol and
            the end; None without attention).
        """
        loader = feed.eval_loader(split)
        assert loader is not None
        model.eval()
        found: list[dict[str, Any]] = []
        pairs = iter(feed.pairs(split))
        for batch in loader.epoch(0):
            decoded = self._decoded(model, batch)
            for row, tokens in enumerate(decoded.tokens[:, 0].tolist()):
                pair = next(pairs)
                prediction = feed.read(tokens)
                attention = None
                if decoded.weights is not None:
                    shown = decoded.weights[row, 0, : len(prediction) + 1, : len(pair.source)]
                    attention = [[round(weight, 4) for weight in line] for line in shown.tolist()]
                found.append({**pair._asdict(), "prediction": prediction, "attention": attention})
            if len(found) >= EXAMINED:
                break
        return sorted(found, key=lambda example: example["prediction"] == example["target"])[:count]
