"""Sharpness-aware minimisation: the gradient at the worst weights nearby, for the update of another optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from dlrun.optim import eager
from dlrun.optim.base import Groups, Perturbing, with_gradients
from dlrun.registry import OPTIMIZERS
from dlrun.types import NonNegativeFloat, PositiveFloat, Rate


@OPTIMIZERS.register
def sam(
    params: Groups,
    fused: bool,
    *,
    base: Literal["sgd", "adamw"] = "sgd",
    lr: PositiveFloat = 0.1,
    rho: PositiveFloat = 0.05,
    weight_decay: NonNegativeFloat = 5e-4,
    momentum: Rate | None = None,
    nesterov: bool | None = None,
    betas: tuple[Rate, Rate] | None = None,
    eps: PositiveFloat | None = None,
) -> Optimizer:
    """Sharpness-aware minimisation: update by the gradient at w + rho g / |g|; two passes for each batch.

    Both passes see the same batch and the same dropout masks, and batch norm counts the first one only. Penalties are
    those of w; clipping and noise are for the gradient that the update takes.

    Args:
        params: parameter groups.
        fused: use the base optimizer's fused kernel.
        base: what makes the update.
        lr: learning rate of the base optimizer, > 0; 1e-3 is usual with adamw.
        rho: how far away the gradient is taken, in the L2 norm over all weights, > 0.
        weight_decay: of the base optimizer, >= 0: an L2 penalty with sgd, decoupled with adamw.
        momentum: of base sgd, in [0, 1); null: 0.9.
        nesterov: of base sgd; null: true.
        betas: of base adamw, each in [0, 1); null: [0.9, 0.999].
        eps: of base adamw, > 0; null: 1e-8.

    Raises:
        ValueError: if an option is not one of the base optimizer.

    Source: Foret et al. 2021, "Sharpness-aware minimization for efficiently improving generalization", algorithm 1.
    """
    foreign = {"betas": betas, "eps": eps} if base == "sgd" else {"momentum": momentum, "nesterov": nesterov}
    for name, value in foreign.items():
        if value is not None:
            other = "adamw" if base == "sgd" else "sgd"
            raise ValueError(f"{name} is an option of base={other}, but base is {base}; leave it null")
    chosen: Optimizer
    if base == "adamw":
        chosen = eager.AdamW(
            params,
            lr=lr,
            betas=(0.9, 0.999) if betas is None else betas,
            eps=1e-8 if eps is None else eps,
            weight_decay=weight_decay,
            fused=fused or None,
        )
        return _SharpnessAware(chosen, rho)
    kept = 0.9 if momentum is None else momentum
    if nesterov and kept == 0:
        raise ValueError("nesterov=true needs momentum > 0; set nesterov=false")
    chosen = eager.SGD(
        params,
        lr=lr,
        momentum=kept,
        nesterov=kept > 0 if nesterov is None else nesterov,
        weight_decay=weight_decay,
        fused=fused or None,
    )
    return _SharpnessAware(chosen, rho)


class _SharpnessAware(Perturbing):
    """Shares groups and state with its base, so that checkpoints hold what they hold of the base."""

    def __init__(self, base: Optimizer, rho: float) -> None:
        super().__init__(base.param_groups, base.defaults)
        self._base = base
        self._rho = rho
        self._moved: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self._base.param_groups, self._base.state

    @torch.no_grad()
    def perturb(self) -> None:
        """Move to w + rho g / |g|. The norm of the gradient is over all groups, so its scale does not matter."""
        self._moved, grads = with_gradients(p for group in self.param_groups for p in group["params"])
        if not self._moved:
            return
        # Taken back by copying, since (w + e) - e is not w in floating point, and e may not be finite.
        self._kept = [parameter.clone() for parameter in self._moved]
        norm = torch.nn.utils.get_total_norm(grads)
        steps = torch._foreach_mul(grads, self._rho / (norm + 1e-12))
        torch._foreach_add_(self._moved, steps)

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the weights back."""
        if self._moved:
            torch._foreach_copy_(self._moved, self._kept)
        self._moved, self._kept = [], []

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update by the base optimizer; ``closure`` is not called."""
        self._base.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._base.load_state_dict(state_dict)
        self._share()
