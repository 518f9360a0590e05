"""Muon: orthogonalised momentum for the hidden weight matrices, AdamW for everything else."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dlrun.optim import eager
from dlrun.optim.base import Groups
from dlrun.registry import OPTIMIZERS
from dlrun.types import NonNegativeFloat, PositiveFloat, Range, Rate


@OPTIMIZERS.register
def muon(
    params: Groups,
    fused: bool,
    hidden: Collection[nn.Parameter],
    *,
    lr: PositiveFloat = 0.02,
    momentum: Rate = 0.95,
    nesterov: bool = True,
    iterations: Annotated[int, Range(ge=1, lt=100)] = 5,
    scale: Literal["original", "match_rms_adamw"] = "original",
    weight_decay: NonNegativeFloat = 0.01,
    adamw_lr: PositiveFloat = 3e-4,
    adamw_betas: tuple[Rate, Rate] = (0.9, 0.95),
    adamw_eps: PositiveFloat = 1e-8,
) -> Optimizer:
    """Muon: momentum made orthogonal for hidden weight matrices, and AdamW for all other parameters.

    Hidden matrices are weights with two axes or more, but for those of the input layer (the model's first weight), the
    head, embeddings, and convolutions in groups, which are many small matrices. Convolution kernels (O, I, H, W) are
    taken as matrices (O, I H W).

    Args:
        params: parameter groups.
        fused: use AdamW's fused kernel.
        hidden: the hidden matrices.
        lr: learning rate of the matrices, > 0; each step changes a matrix by about this spectral norm.
        momentum: fraction of the last update that is kept, in [0, 1).
        nesterov: look ahead along the momentum.
        iterations: Newton-Schulz iterations, 1 to 99, which make the update orthogonal, in bfloat16.
        scale: factor on lr. original: sqrt(max(1, rows / columns)); match_rms_adamw: 0.2 sqrt(max(rows, columns)), so
            that rates of adamw can be used.
        weight_decay: decoupled decay of all decayed parameters, >= 0.
        adamw_lr: learning rate of all other parameters, > 0; the schedule acts on both.
        adamw_betas: decay rates of AdamW's moments, each in [0, 1).
        adamw_eps: added to AdamW's denominator, > 0.

    Raises:
        ValueError: if the model has no hidden matrices.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks",
        https://kellerjordan.github.io/posts/muon/
    """
    inside = {id(parameter) for parameter in hidden}
    matrices: Groups = []
    others: Groups = []
    for group in params:
        factor = group.get("lr", lr) / lr
        for part, rate, target in ((True, lr, matrices), (False, adamw_lr, others)):
            chosen = [parameter for parameter in group["params"] if (id(parameter) in inside) is part]
            if chosen:
                target.append({**group, "params": chosen, "lr": rate * factor})
    if not matrices:
        raise ValueError(
            "the model has no trained weight matrix between its input layer and its head; use optimizer=adamw"
        )
    options = {"momentum": momentum, "nesterov": nesterov, "ns_steps": iterations, "adjust_lr_fn": scale}
    return _MuonWithAdamW(
        matrices,
        others,
        {"lr": lr, "weight_decay": weight_decay, **options},
        {"lr": adamw_lr, "weight_decay": weight_decay, "betas": adamw_betas, "eps": adamw_eps, "fused": fused or None},
    )


class _MuonWithAdamW(eager.EagerOptimizer):
    """Two of torch's optimizers as one: its groups are those of the matrices, then those of AdamW.

    torch's Muon takes matrices only: it is given views of the kernels, which share their memory.
    """

    def __init__(
        self, matrices: Groups, others: Groups, muon_options: dict[str, Any], adamw_options: dict[str, Any]
    ) -> None:
        super().__init__([*matrices, *others], {})
        self._matrices = self.param_groups[: len(matrices)]
        views = [{**group, "params": [_view(p) for p in group["params"]]} for group in self._matrices]
        self._muon = eager.Muon(views, **muon_options)
        for group, options in zip(self._matrices, self._muon.param_groups, strict=True):
            group.update({key: value for key, value in options.items() if key != "params"})
        self._adamw = None if not others else eager.AdamW(others, **adamw_options)
        self._join()

    def _join(self) -> None:
        adamw = self._adamw
        self.param_groups = [*self._matrices, *([] if adamw is None else adamw.param_groups)]
        self.state = ChainMap(self._muon.state, {} if adamw is None else adamw.state)  # type: ignore[assignment]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the weights; ``closure`` is not called."""
        for own, inner in zip(self._matrices, self._muon.param_groups, strict=True):
            inner["lr"], inner["momentum"] = own["lr"], own["momentum"]
            for parameter, view in zip(own["params"], inner["params"], strict=True):
                view.grad = None if parameter.grad is None else _matrix(parameter.grad, parameter)
        self._muon.step()  # type: ignore[no-untyped-call]
        for inner in self._muon.param_groups:
            for view in inner["params"]:
                view.grad = None
        if self._adamw is not None:
            self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"muon": self._muon.state_dict(), "adamw": None if self._adamw is None else self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._muon.load_state_dict(state_dict["muon"])
        for own, inner in zip(self._matrices, self._muon.param_groups, strict=True):
            own.update({key: value for key, value in inner.items() if key != "params"})
        if self._adamw is not None:
            self._adamw.load_state_dict(state_dict["adamw"])
        self._join()


def _matrix(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """(O, ...) as (O, N), a view of the parameter itself: so the columns are in the order of its memory, which does not
    matter to an orthogonal update."""
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten(1)


def _view(parameter: nn.Parameter) -> nn.Parameter:
    view = nn.Parameter(_matrix(parameter.detach(), parameter))
    assert parameter.is_meta or view.data_ptr() == parameter.data_ptr()
    return view
