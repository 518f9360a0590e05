"""Transfer learning: which layers are the head, what they start from, and which layers are not trained.

The *head* is found, not declared: it is what changes when the same model is built for one class more. That holds for
every model that can be built, of dlrun, of a library or of a plug-in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.data.feed import BatchLoader
from dlrun.errors import CheckpointError, UserError, did_you_mean
from dlrun.weights import Weights, misfits, refuse_misfits, unwrapped

ALL_BUT_HEAD = "all_but_head"


@dataclass(frozen=True)
class Head:
    """The layers that depend on the number of classes.

    Attributes:
        names: of their parameters and buffers whose shape depends on it, in the order of the net.
    """

    names: tuple[str, ...]

    @classmethod
    def between(cls, model: nn.Module, other: nn.Module) -> Head:
        """Compare a model with the same one built for another number of classes (its tensors may be on meta).

        Raises:
            UserError: if nothing depends on the number of classes.
        """
        shapes = {name: value.shape for name, value in other.state_dict().items()}
        names = tuple(name for name, value in model.state_dict().items() if shapes.get(name) != value.shape)
        if not names:
            raise UserError("the model has no head: nothing in it depends on the number of classes")
        return cls(names)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules that hold them."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.names))

    def __contains__(self, name: str) -> bool:
        return name.rpartition(".")[0] in self.modules


def start_from(
    model: nn.Module,
    weights: Weights,
    head: Head,
    keep: Literal["auto", "keep", "new"],
    classes: Sequence[str],
) -> str:
    """Load weights into a fresh model.

    Args:
        model: with fresh weights.
        weights: for the same model, but perhaps for other classes or another number of channels. A first convolution
            that was trained on colour images is summed up for grey ones and repeated for more channels.
        head: of the model.
        keep: load the head too, make a new one, or (auto) a new one if the weights are for other classes.
        classes: names of the classes of the data.

    Returns:
        What was loaded, for the log.

    Raises:
        CheckpointError: if the weights do not fit, but for a head that is replaced, or are not finite.
    """
    own = model.state_dict()
    for name, value in weights.state.items():
        if value.layout != torch.strided:
            raise CheckpointError(f"the weights of {weights.source} hold {name} as a sparse tensor; save it dense")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"the weights of {weights.source} are damaged: {name} holds NaN or infinity")
    state = _fit_channels(unwrapped(weights.state, own), own)
    inside = {name for name in own if name in head}
    fits = all(name in state and state[name].shape == own[name].shape for name in inside)
    same = fits and (weights.classes is None or weights.classes == tuple(classes))
    renew = keep == "new" or (keep == "auto" and not same)
    if renew:
        state = {name: value for name, value in state.items() if name not in inside}
    # Files of old torch versions have no such counters.
    counters = [name for name in own if name.endswith("num_batches_tracked")]
    optional = [*counters, *(inside if renew else ())]
    refuse_misfits(misfits(state, own, optional), weights.source)
    model.load_state_dict(state, strict=False)
    made = f"new head: {', '.join(head.modules)}" if renew else "head kept"
    return f"{weights.source} ({len(state)} of {len(own)} tensors; {made})"


def _fit_channels(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let a first convolution that was trained on 3 channels take as many as the model's.

    Source: Wightman's timm, ``adapt_input_conv``
    """
    fitted = dict(state)
    first = next((name for name, value in own.items() if value.dim() == 4), None)
    if first is None or first not in state:
        return fitted
    weight, (n_out, channels, *window) = state[first], own[first].shape
    if weight.dim() != 4 or weight.shape[1] != 3 or (weight.shape[0], *weight.shape[2:]) != (n_out, *window):
        return fitted
    if channels == 1:
        fitted[first] = weight.sum(1, keepdim=True)
    elif channels != 3:
        fitted[first] = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
    return fitted


def freeze(model: nn.Module, until: str | None, head: Head | None) -> tuple[nn.Module, ...]:
    """Exclude a part of a model from training.

    Args:
        model: its frozen parameters no longer require a gradient.
        until: a module's name, whose part is all that comes up to its end in the order in which the modules were made;
            or ``all_but_head``; or None.
        head: needed for ``all_but_head``.

    Returns:
        The frozen modules, which must stay in eval mode: batch norm then keeps the statistics that its weights were
        trained with, and dropout passes everything. They are those with parameters that are all frozen, with all that
        they hold, and those without parameters that come before the end.

    Raises:
        UserError: if there is no such module.
    """
    if until is None:
        return ()
    order = {module: i for i, module in enumerate(model.modules())}
    names = {name: module for name, module in model.named_modules() if name}
    if until == ALL_BUT_HEAD:
        assert head is not None
        chosen = {name for name, _ in model.named_parameters() if name not in head}
        last = max((order[_owner(model, name)] for name in chosen), default=-1)
    else:
        end = names[find_module(model, until, "model.freeze")]
        last = max(order[module] for module in end.modules())
        chosen = {name for name, _ in model.named_parameters() if order[_owner(model, name)] <= last}
    for name, parameter in model.named_parameters():
        if name in chosen:
            parameter.requires_grad_(False)
    silent: dict[nn.Module, None] = {}
    for module in names.values():
        parameters = list(module.parameters())
        if any(parameter.requires_grad for parameter in parameters):
            continue
        if parameters:
            silent.update(dict.fromkeys(module.modules()))
        elif order[module] <= last:
            silent[module] = None
    return tuple(silent)


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def find_module(model: nn.Module, wanted: str, option: str) -> str:
    """The whole name of a module: as given, or the only one whose last parts are.

    Raises:
        UserError: if there is none, or more than one.
    """
    names: list[str] = [name for name, _ in model.named_modules() if name]
    found = [name for name in names if name == wanted] or [name for name in names if name.endswith(f".{wanted}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{option}: {wanted!r} is not unique: {', '.join(found[:5])}; give the whole name")
    # Those near the root are the stages.
    near = {name: None for whole in names if whole.count(".") < 2 for name in (whole, whole.rpartition(".")[2])}
    raise UserError(f"{option}: the model has no module {wanted!r}; {did_you_mean(wanted, near)}")


def learning_rate_factors(model: nn.Module, factors: Mapping[str, float], head: Head | None) -> dict[str, float]:
    """Parameter name -> factor on its learning rate, 1 where nothing is said.

    Args:
        model: the network.
        factors: module -> factor; ``head`` and ``body`` stand for the head and everything else. Of several that hold
            for a parameter, the longest name counts, a module before head and body.
        head: needed if ``head`` or ``body`` is named.

    Raises:
        UserError: if there is no such module, or all that it holds is frozen.
    """
    general = {key: value for key, value in factors.items() if key in ("head", "body")}
    special = {
        find_module(model, key, "optimizer.lr_factors"): value for key, value in factors.items() if key not in general
    }
    result = {}
    trained: set[str] = set()
    for name, parameter in model.named_parameters():
        part = "head" if head is not None and name in head else "body"
        result[name] = general.get(part, 1.0)
        holders = [module for module in special if name.startswith(f"{module}.")]
        if parameter.requires_grad:
            trained.update((part, *holders))
        if holders:
            result[name] = special[max(holders, key=len)]
    for key in (*general, *special):
        if key not in trained:
            raise UserError(
                f"optimizer.lr_factors: {key!r} is frozen, so its rate has no effect; leave it out "
                "(optimizer.lr_factors=null leaves all out), or freeze less"
            )
    return result


def head_module(model: nn.Module, head: Head, images: Tensor) -> nn.Module:
    """The one module that makes the class scores from features, so that it can be trained on them alone.

    Args:
        model: in eval mode, on the device of the images.
        head: of the model.
        images: (B, C, H, W), to check that nothing follows the head.

    Raises:
        UserError: if the head is several modules, or something comes behind it.
    """
    refusal = "model.cache_features=true needs a model that ends in one layer that gives the class scores"
    if len(head.modules) != 1:
        raise UserError(f"{refusal}; this one has {', '.join(head.modules)}: set cache_features=false")
    module = model.get_submodule(head.modules[0])
    with torch.inference_mode():
        scores = model(images)
        if not torch.allclose(module(features_before(model, module, images)), scores, rtol=1e-3, atol=1e-4):
            raise UserError(f"{refusal}; behind {head.modules[0]} something else comes: set cache_features=false")
    return module


def features_before(model: nn.Module, module: nn.Module, images: Tensor) -> Tensor:
    """What ``module`` is given when ``model`` runs on images (B, C, H, W): (B, ...)."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        model(images)
    finally:
        handle.remove()
    return seen[0]


def is_random(model: nn.Module, module: nn.Module, images: Tensor) -> bool:
    """Whether what comes before ``module`` draws random numbers in the modes that the modules are in."""
    with torch.no_grad(), torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        torch.manual_seed(0)
        one = features_before(model, module, images)
        torch.manual_seed(1)
        return not torch.equal(one, features_before(model, module, images))


def compute_features(
    model: nn.Module, module: nn.Module, batches: BatchLoader, precision: AbstractContextManager[object]
) -> tuple[Tensor, Tensor]:
    """What ``module`` is given for every sample: features (N, ...) float32 and labels (N,), on the model's device.

    Args:
        model: in eval mode.
        module: the head.
        batches: of the samples in their order, not augmented.
        precision: context of the forward pass.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []
    with torch.no_grad(), precision:
        for images, targets in batches.epoch(0):
            features.append(features_before(model, module, images).float())
            labels.append(targets)
    return torch.cat(features), torch.cat(labels)
