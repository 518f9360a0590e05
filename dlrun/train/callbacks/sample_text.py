"""Texts that a language model writes while it learns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dlrun.data.vocabulary import UNKNOWN, Vocabulary
from dlrun.modes import modes_kept
from dlrun.registry import CALLBACKS
from dlrun.sampling import generate, start_tokens
from dlrun.train.callbacks.tensorboard import tensorboard
from dlrun.train.fit import Callback, Fit, log
from dlrun.train.grown_file import GrownFile
from dlrun.types import Duration, NonNegativeFloat, NonNegativeInt, PositiveDuration, PositiveInt


@CALLBACKS.register
class sample_text(Callback):  # named as in YAML
    """Let a language model write a short text now and then: to the log, ``samples.txt`` and TensorBoard.

    The training does not see it: it has a random generator of its own, and what the model carries along its streams
    stays as it is. Each text is drawn with the same seed, so that they differ by what was learned. On resume
    ``samples.txt`` is cut back to the checkpoint. Where the data are no text, it says so and does nothing.

    Args:
        every: a text each so many epochs or steps.
        length: tokens to write, >= 1.
        temperature: below 1 surer, above 1 bolder, 0 always the most probable token.
        prompt: what the texts begin with; empty: as after a line break.
        seed: of the random numbers, >= 0.

    Raises:
        ValueError: if ``every`` is a wall-clock time.
    """

    def __init__(
        self,
        *,
        every: PositiveDuration = Duration(1, "ep"),
        length: PositiveInt = 200,
        temperature: NonNegativeFloat = 1.0,
        prompt: str = "",
        seed: NonNegativeInt = 0,
    ) -> None:
        if every.is_time:
            raise ValueError(f"every={every}: must be in epochs (ep) or steps (st)")
        self.every = every
        self.length = length
        self.temperature = temperature
        self.prompt = prompt
        self.seed = seed
        self._file = GrownFile("samples.txt")
        self._vocabulary: Vocabulary | None = None
        self._beat: Callable[[int], bool] = bool

    def check(self, fit: Fit) -> None:
        """Look at the prompt.

        Raises:
            UserError: if the training text has no such symbols.
        """
        vocabulary = _vocabulary_of(fit)
        if vocabulary is not None:
            start_tokens(vocabulary, self.prompt, "callbacks.sample_text.prompt")

    def fit_start(self, fit: Fit) -> None:
        """Look at the data; cut the file back to the checkpoint."""
        self._vocabulary = _vocabulary_of(fit)
        if self._vocabulary is None:
            log.warning("callbacks.sample_text: this run trains no language model, so there is no text to sample")
            return
        self._beat = fit.timeline.beat(self.every)
        self._file.cut_back(fit.run.path)

    def step_end(self, fit: Fit) -> None:
        """Write a text when it is time."""
        if self._vocabulary is None or not self._beat(fit.state.step):
            return
        try:
            text = self._write_text(fit, self._vocabulary)
        except ValueError:
            # The loop will find the step at which the model broke.
            return
        indented = textwrap.indent(text, "    ", lambda line: True)
        log.info("sample at step %d\n%s", fit.state.step, indented)
        self._file.append(fit.run.path, f"--- step {fit.state.step}, epoch {fit.state.epoch + 1}\n{text}\n\n")
        for callback in fit.callbacks.values():
            if isinstance(callback, tensorboard):
                callback.text(fit, "sample", indented)

    def state_dict(self) -> dict[str, Any]:
        """Length of the file in bytes."""
        return {"size": self._file.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._file.size = state["size"]

    def _write_text(self, fit: Fit, vocabulary: Vocabulary) -> str:
        model = fit.model if fit.judged is None else fit.judged.model
        with modes_kept(model):
            model.eval()
            drawn = generate(
                model,
                start_tokens(vocabulary, self.prompt).to(fit.device),
                self.length,
                generator=torch.Generator().manual_seed(self.seed),
                temperature=self.temperature,
                excluded=() if vocabulary.level == "byte" else (UNKNOWN,),
                window=int(fit.config.data.params["sequence_length"]),
            )
            return self.prompt + vocabulary.decode([token for (token,) in drawn])


def _vocabulary_of(fit: Fit) -> Vocabulary | None:
    """Of the text; None if no language model is trained."""
    vocabulary = getattr(fit.feed, "vocabulary", None)
    return vocabulary if isinstance(vocabulary, Vocabulary) and fit.config.task.name == "language_modeling" else None
