"""The averaged network of a training run: a copy of the model that follows it at a distance."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.data.feed import BatchLoader
from dlrun.optim.averaging import Averaging, move
from dlrun.tasks.base import Task
from dlrun.train.batch_norm import norms_of, recompute_statistics
from dlrun.weights import load_weights


class WeightAverage:
    """A copy of a model whose weights are an average of the model's along the training.

    Parameters and floating-point buffers (the statistics of batch norm) are averaged, counters are copied. What is
    frozen is not copied: the two networks share it.

    Args:
        model: the network that is trained.
        plan: when to look at its weights, and what each look counts.
        frozen: modules of the model that are not trained.

    Attributes:
        model: the averaged network, always in eval mode.
        evaluated: what evaluation calls: ``model``, or the head of it on cached features.
        looks: times that the weights were taken in; with 0 there is no average yet.
    """

    def __init__(self, model: nn.Module, plan: Averaging, frozen: Iterable[nn.Module] = ()) -> None:
        fixed = set(frozen)
        shared: list[Tensor] = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        shared += [buffer for module in fixed for buffer in module.buffers(recurse=False)]
        self.model = copy.deepcopy(model, {id(tensor): tensor for tensor in shared}).eval().requires_grad_(False)
        self.evaluated = self.model
        self.looks = 0
        self._plan = plan
        kept = model.state_dict(keep_vars=True)
        own = self.model.state_dict(keep_vars=True)
        # Tied weights have several names in a state dict, but move once.
        pairs = {id(own[name]): (own[name], kept[name]) for name in own if own[name] is not kept[name]}
        floating = [pair for pair in pairs.values() if pair[0].is_floating_point() or pair[0].is_complex()]
        counting = [pair for pair in pairs.values() if not (pair[0].is_floating_point() or pair[0].is_complex())]
        self._averages, self._weights = [one for one, _ in floating], [other for _, other in floating]
        self._copies, self._counters = [one for one, _ in counting], [other for _, other in counting]
        names = {name for name, module in model.named_modules() if module in fixed}
        self._norms = norms_of(self.model, (self.model.get_submodule(name) for name in names))
        self._settled = 0

    @torch.no_grad()
    def look(self, step: int) -> None:
        """Take in the weights after an optimizer step, if it is time; nothing waits for the device.

        Args:
            step: optimizer steps done, >= 1.
        """
        if not self._plan.due(step):
            return
        move(self._averages, self._weights, self._plan.share(self.looks))
        if self._copies:
            torch._foreach_copy_(self._copies, self._counters)
        self.looks += 1

    def settle(
        self,
        loader: Callable[[], AbstractContextManager[BatchLoader]],
        task: Task,
        precision: AbstractContextManager[object],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Make the averaged network ready for evaluation: where asked, take the statistics of batch norm anew.

        Without this the network has averaged statistics, as it has in a checkpoint that is written between two
        evaluations, which says so. See :func:`dlrun.train.batch_norm.recompute_statistics`.

        Args:
            loader: opens the batches of the training split, if they are needed.
            task: runs the network on a batch.
            precision: context of the forward passes.
            interrupted: asked before each batch whether to give up and leave all as it was.

        Returns:
            Whether it is ready.
        """
        if self._is_settled:
            return True
        with loader() as batches:
            done = recompute_statistics(
                self.model, self._norms, batches, self._plan.batches, task, precision, interrupted
            )
        if done:
            self._settled = self.looks
        return done

    @property
    def _is_settled(self) -> bool:
        return self._plan.batches == 0 or not self._norms or self._settled == self.looks

    def payload(self) -> dict[str, Any]:
        """What a checkpoint holds of it; nothing before the first look."""
        if not self.looks:
            return {}
        facts = {"looks": self.looks, "settled": self._is_settled}
        return {"averaged": self.model.state_dict(), "averaging": facts}

    def would_differ(self, step: int) -> bool:
        """Whether a training of another length would have looked at other weights in its first ``step`` steps."""
        return self._plan.of_whole and (self.looks > 0 or any(self._plan.due(number + 1) for number in range(step)))

    def resume(self, payload: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: if its averaged weights do not fit the model.
        """
        if "averaged" in payload:
            load_weights(self.model, payload["averaged"])
            self.looks = int(payload["averaging"]["looks"])
            self._settled = self.looks if payload["averaging"].get("settled", False) else 0
