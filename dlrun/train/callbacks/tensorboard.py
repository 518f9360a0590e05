"""TensorBoard event files."""

from __future__ import annotations

import logging
import textwrap
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dlrun.contact_sheet import grid
from dlrun.registry import CALLBACKS
from dlrun.train.fit import Callback, Fit
from dlrun.types import NonNegativeInt

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("dlrun")

_AUGMENTED, _DRAWS = 8, 7
"""Training images that are shown augmented, and how often each."""


@CALLBACKS.register
class tensorboard(Callback):  # named as in YAML
    """Write TensorBoard events: metrics, learning rate, gradient norm, hyperparameters and examples of the data.

    Args:
        images: training images shown at the start, >= 0, some of them also augmented; of text, its beginning is shown
            if this is not 0.
    """

    def __init__(self, *, images: NonNegativeInt = 16) -> None:
        self.images = images
        self._writer: SummaryWriter | None = None
        self._failed = False

    def log(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """Scalars of the last steps."""
        self._scalars(fit, metrics)

    def eval_end(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        """Validation metrics; the training metrics of the epoch beside them."""
        self._scalars(fit, {key.replace("train/", "train_epoch/"): value for key, value in metrics.items()})

    def fit_end(self, fit: Fit) -> None:
        """Hyperparameters with the final metrics; close."""
        try:
            self._hparams(fit)
            self._get(fit).close()
        except OSError as error:
            self._complain(error)

    def exception(self, fit: Fit, error: BaseException) -> None:
        """Close what was opened."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as failure:
                self._complain(failure)

    def scalars(self, fit: Fit, values: Mapping[str, float]) -> None:
        """Add numbers of this step, for another callback."""
        self._scalars(fit, values)

    def text(self, fit: Fit, name: str, text: str) -> None:
        """Add a text (Markdown) of this step, for another callback."""
        if self._failed:
            return
        try:
            self._get(fit).add_text(name, text, fit.state.step)
        except OSError as error:
            self._complain(error)

    def _get(self, fit: Fit) -> SummaryWriter:
        if self._writer is None:
            # Importing tensorboard takes a quarter of a second: not before the first step.
            from torch.utils.tensorboard import SummaryWriter

            first = fit.state.first_step
            # Events after the step that was resumed from are hidden, so curves have no second branch; so are all
            # those of a process that was killed before its first checkpoint.
            again = fit.run.tensorboard.is_dir()
            self._writer = SummaryWriter(str(fit.run.tensorboard), purge_step=first + 1 if again else None)
            _quiet_writer_threads()
            if first == 0:
                self._example(fit, self._writer)
        return self._writer

    def _scalars(self, fit: Fit, metrics: Mapping[str, float]) -> None:
        if self._failed:
            return
        try:
            writer = self._get(fit)
            for name, value in metrics.items():
                writer.add_scalar(name, value, fit.state.step)
        except OSError as error:
            self._complain(error)

    def _example(self, fit: Fit, writer: SummaryWriter) -> None:
        if not self.images:
            return
        example = fit.feed.example(self.images)
        if isinstance(example, str):
            # Indented, Markdown leaves it as it is.
            writer.add_text("train/text", textwrap.indent(example, "    ", lambda line: True), 0)
        else:
            writer.add_images("train/images", example, 0)
        augmented = fit.feed.augmented(min(self.images, _AUGMENTED), _DRAWS)
        if augmented is not None:
            # Each row is an image and some draws of it.
            writer.add_image("train/augmented", grid(augmented.images), 0)

    def _hparams(self, fit: Fit) -> None:
        from torch.utils.tensorboard.summary import hparams

        writer = self._get(fit)
        values = {
            name: value for name, value in _flat(fit.config.to_tree()) if isinstance(value, (bool, int, float, str))
        }
        results = {f"final/{name}": value for name, value in fit.state.metrics.items()}
        file_writer = writer._get_file_writer()  # type: ignore[no-untyped-call]
        for summary in hparams(values, results):  # type: ignore[no-untyped-call]
            file_writer.add_summary(summary)
        for name, value in results.items():
            writer.add_scalar(name, value, fit.state.step)

    def _complain(self, error: OSError) -> None:
        if not self._failed:
            log.warning("TensorBoard events cannot be written: %s. The run goes on without them", error.strerror)
        self._failed = True


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _quiet_writer_threads() -> None:
    """Keep TensorBoard's writer thread from printing a traceback of what it also reports to the next write."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if getattr(arguments.thread, "exception", None) is not arguments.exc_value:
            before(arguments)

    if getattr(before, "__module__", None) != __name__:
        threading.excepthook = hook
