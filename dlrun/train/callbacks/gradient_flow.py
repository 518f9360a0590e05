"""How far back through time the gradient reaches, while a recurrent network learns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from torch import Tensor

from dlrun.charts import draw_gradient_flow
from dlrun.gradients import Norms, gradient_norms, reach
from dlrun.models.recurrent import Recurrent
from dlrun.modes import modes_kept
from dlrun.registry import CALLBACKS
from dlrun.runfolder import finite
from dlrun.train.callbacks.tensorboard import tensorboard
from dlrun.train.fit import Callback, Fit, log
from dlrun.train.grown_file import GrownFile
from dlrun.types import Duration, PositiveDuration

FILE = "gradient_flow.jsonl"


@CALLBACKS.register
class gradient_flow(Callback):  # named as in YAML
    """Measure now and then the norm of the loss's gradient with respect to the hidden state at every time step.

    The loss is one for each sequence, at its end: that of its class, or of its last token alone, since a loss at every
    step would hide how little of the last one reaches the first. Of sequences of different lengths the longest are
    taken, since the end of a short one is near its beginning.

    At the beginning and each ``every`` it takes the first batch of the validation split (without one, of the training
    split, in its own order), in eval mode and fp32. It writes a row of ``gradient_flow.jsonl`` (step, epoch, norms by
    layer), draws all rows as ``gradient_flow.png``, and gives TensorBoard what is left at the first step of the norm at
    the last, as a ratio. The training does not notice. On resume the file is cut back to the checkpoint. Where the
    model has no recurrent layers, it says so and does nothing.

    Args:
        every: a measurement each so many epochs or steps.

    Raises:
        ValueError: if ``every`` is a wall-clock time.
    """

    def __init__(self, *, every: PositiveDuration = Duration(1, "ep")) -> None:
        if every.is_time:
            raise ValueError(f"every={every}: must be in epochs (ep) or steps (st)")
        self.every = every
        self._file = GrownFile(FILE)
        self._active = False

    def fit_start(self, fit: Fit) -> None:
        """Cut the file back to the checkpoint; measure before the first step."""
        self._active = any(isinstance(module, Recurrent) for module in fit.model.modules())
        if not self._active:
            log.warning("callbacks.gradient_flow: model %s has no recurrent layers to look at", fit.config.model.name)
            return
        self._file.cut_back(fit.run.path)
        self._beat = fit.timeline.beat(self.every)
        if fit.state.step == 0:
            self._measure(fit)

    def step_end(self, fit: Fit) -> None:
        """Measure when it is time."""
        if self._active and self._beat(fit.state.step):
            self._measure(fit)

    def state_dict(self) -> dict[str, Any]:
        """Length of the file in bytes."""
        return {"size": self._file.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._file.size = state["size"]

    def _measure(self, fit: Fit) -> None:
        norms = _norms(fit)
        left = {name: share for name, values in norms.items() if (share := reach(values)) is not None}
        for callback in fit.callbacks.values():
            if isinstance(callback, tensorboard):
                callback.scalars(fit, {f"gradient_flow/{name}": share for name, share in left.items()})
        told = ", ".join(f"{name} {share:.1e}" for name, share in left.items())
        log.info("gradient at the first step, of that at the last: %s (step %d)", told, fit.state.step)
        row = finite({"step": fit.state.step, "epoch": fit.state.epoch, "norms": norms})
        self._file.append(fit.run.path, json.dumps(row) + "\n")
        path = fit.run.path / FILE
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            draw_gradient_flow(path.with_suffix(".png"), rows)
        except OSError as error:
            self._file.complain(error)


def _norms(fit: Fit) -> Norms:
    """Of the same batch each time, with the network as it is in an evaluation, and one loss at each sequence's end."""
    loader = fit.feed.eval_loader("val") or fit.feed.eval_loader("train")
    assert loader is not None
    narrow = getattr(fit.task, "last_only", None)
    with closing(loader), modes_kept(fit.model):
        fit.model.eval()
        batch = next(iter(loader.epoch(0)))
        chosen = batch if narrow is None else narrow(batch)

        def loss() -> Tensor:
            return fit.task.forward(fit.model, chosen).loss

        return gradient_norms(fit.model, loss)
