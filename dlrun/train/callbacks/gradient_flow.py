"""How far back through time the gradient reaches, while a recurrent network learns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dlrun.charts import draw_gradient_flow
from dlrun.gradients import Norms, gradient_norms, reach
from dlrun.models.recurrent import Recurrent
from dlrun.registry import CALLBACKS
from dlrun.runfolder import finite
from dlrun.train.callbacks.tensorboard import tensorboard
from dlrun.train.fit import Callback, Fit, log
from dlrun.types import Duration, PositiveDuration

FILE = "gradient_flow.jsonl"


@CALLBACKS.register
class gradient_flow(Callback):  # named as in YAML
    """Measure now and then the norm of the loss's gradient with respect to the hidden state at every time step.

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
        self._size = 0
        self._active = False
        self._failed = False

    def fit_start(self, fit: Fit) -> None:
        """Cut the file back to the checkpoint; measure before the first step."""
        self._active = any(isinstance(module, Recurrent) for module in fit.model.modules())
        if not self._active:
            log.warning("callbacks.gradient_flow: model %s has no recurrent layers to look at", fit.config.model.name)
            return
        path = fit.run.path / FILE
        try:
            if path.is_file() and path.stat().st_size > self._size:
                with path.open("r+b") as file:
                    file.truncate(self._size)
        except OSError as error:
            self._complain(error)
        self._beat = fit.timeline.beat(self.every)
        if fit.state.step == 0:
            self._measure(fit)

    def step_end(self, fit: Fit) -> None:
        """Measure when it is time."""
        if self._active and self._beat(fit.state.step):
            self._measure(fit)

    def state_dict(self) -> dict[str, Any]:
        """Length of the file in bytes."""
        return {"size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._size = state["size"]

    def _measure(self, fit: Fit) -> None:
        norms = _norms(fit)
        left = {name: share for name, values in norms.items() if (share := reach(values)) is not None}
        for callback in fit.callbacks.values():
            if isinstance(callback, tensorboard):
                callback.scalars(fit, {f"gradient_flow/{name}": share for name, share in left.items()})
        told = ", ".join(f"{name} {share:.1e}" for name, share in left.items())
        log.info("gradient at the first step, of that at the last: %s (step %d)", told, fit.state.step)
        row = finite({"step": fit.state.step, "epoch": fit.state.epoch, "norms": norms})
        path = fit.run.path / FILE
        try:
            with path.open("ab") as file:
                file.write((json.dumps(row) + "\n").encode())
                self._size = file.tell()
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            draw_gradient_flow(path.with_suffix(".png"), rows)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._failed:
            log.warning("%s cannot be written: %s. The run goes on without it", FILE, error.strerror)
        self._failed = True


def _norms(fit: Fit) -> Norms:
    """Of the same batch each time, with the network as it is in an evaluation."""
    loader = fit.feed.eval_loader("val") or fit.feed.eval_loader("train")
    assert loader is not None
    # Frozen parts are in eval mode all the time.
    modes = {module: module.training for module in fit.model.modules()}
    fit.model.eval()
    try:
        batch = next(iter(loader.epoch(0)))

        def loss() -> Tensor:
            return fit.task.forward(fit.model, batch).loss

        return gradient_norms(fit.model, loss)
    finally:
        loader.close()
        for module, training in modes.items():
            module.training = training
