"""Weights to start from: read from a file of dlrun, torch or safetensors, or asked of a library by name."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from dlrun import checkpoint
from dlrun.config.schema import ModelConfig
from dlrun.data.statistics import Statistics
from dlrun.errors import CheckpointError, UserError
from dlrun.logs import log
from dlrun.registry import MODELS
from dlrun.types import looks_like_path


@dataclass(frozen=True)
class Weights:
    """A state dict, and what its file or library tells of the training that it comes from.

    Attributes:
        source: how messages name it.
        state: name -> tensor.
        classes: names of the classes it was trained for; None if they are not told.
        statistics: what its images were normalised with; None if that is not told.
    """

    source: str
    state: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None
    statistics: Statistics | None = None


T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Library:
    named: Callable[..., Weights]
    statistics: Callable[..., Statistics | None]


_LIBRARIES: dict[Callable[..., Any], _Library] = {}


def brings_weights(named: Callable[..., Weights], statistics: Callable[..., Statistics | None]) -> Callable[[T], T]:
    """Tell how the factory of a library's models gets weights by name (decorator).

    Args:
        named: (name of the weights, the factory's options by name) -> the weights.
        statistics: (the factory's options by name) -> what the library's weights are normalised with, for those that
            were saved to a file; None if that depends on the weights.
    """

    def register(factory: T) -> T:
        _LIBRARIES[factory] = _Library(named, statistics)
        return factory

    return register


Choice = Literal["auto", "averaged", "raw"]
"""Which weights of a checkpoint are wanted."""


def saved_weights(payload: Mapping[str, Any], choice: Choice = "auto") -> tuple[Mapping[str, Tensor], str]:
    """The weights of a checkpoint of dlrun that everything but the training itself uses.

    Args:
        payload: content of the checkpoint.
        choice: auto takes the averaged weights if there are any and the run evaluated them, else those of its step.

    Returns:
        The state dict and what it is: ``averaged`` or ``raw``; an empty text if the checkpoint has only one kind.

    Raises:
        CheckpointError: if averaged weights are wanted and there are none.
    """
    held = "averaged" in payload
    settings = payload["config"].get("averaging", {})
    if choice == "averaged" and not held:
        why = (
            "the run was trained without averaging (averaging=ema and averaging=swa do)"
            if settings.get("name", "none") == "none"
            else "it was saved before the average began"
        )
        raise CheckpointError(f"weights=averaged: the checkpoint holds no averaged weights: {why}")
    if held and (choice == "averaged" or (choice == "auto" and settings.get("evaluate", True))):
        return payload["averaged"], "averaged"
    return payload["model"], "raw" if held else ""


def unsettled(payload: Mapping[str, Any], kind: str) -> bool:
    """Whether weights have averaged statistics of batch norm where the run takes them anew to evaluate.

    So they are in a checkpoint that was written between two evaluations.

    Args:
        payload: content of the checkpoint.
        kind: of the weights, as :func:`saved_weights` says.
    """
    return kind == "averaged" and not payload["averaging"].get("settled", True)


UNSETTLED = (
    "the averaged weights of %s, which was written between two evaluations, have averaged statistics of batch norm in "
    "place of recomputed ones; take last.pt of the finished run"
)
"""What to say of them where the statistics cannot be taken anew."""


def read_weights(config: ModelConfig) -> Weights | None:
    """What ``model.weights`` names; None if it is null.

    Raises:
        CheckpointError: if there is no such file, or it holds no weights.
        UserError: if the model's library knows no such name, or the model has no library.
    """
    wanted = config.weights
    if wanted is None:
        return None
    library = _LIBRARIES.get(MODELS.get(config.name))
    if looks_like_path(wanted):
        found = _read_file(checkpoint.find(Path(wanted), "model.weights"))
        if library is None or found.statistics is not None:
            return found
        return Weights(found.source, found.state, found.classes, library.statistics(**config.params))
    if library is None:
        raise UserError(
            f"model.weights={wanted}: the model {config.name!r} has no weights by name; give a file or a run folder "
            f"(./{wanted} if it is one), or take a model of a library (model=torchvision/resnet50)"
        )
    try:
        return library.named(wanted, **config.params)
    except ValueError as error:
        raise UserError(f"model.weights={wanted}: {error}") from error


def _read_file(path: Path) -> Weights:
    if path.suffix == ".safetensors":
        return Weights(str(path), _read_safetensors(path))
    if checkpoint.is_ours(path):
        payload = checkpoint.load(path)
        data = payload["data"]
        # Of text, a model scores the symbols of its vocabulary; it has no statistics.
        if "target" in data:
            classes: tuple[str, ...] | None = (*data["target"]["symbols"], "<end>")
        else:
            classes = tuple(data["vocabulary"]["symbols"]) or None if "vocabulary" in data else tuple(data["classes"])
        statistics = Statistics.from_state(data["statistics"]) if "statistics" in data else None
        state, kind = saved_weights(payload)
        if unsettled(payload, kind):
            log.warning(UNSETTLED, path)
        return Weights(f"{path}{kind and f', {kind} weights'}", state, classes, statistics)
    return Weights(str(path), _state_dict_in(_read_torch(path), path))


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"model.weights={path}: needs the package safetensors: pip install safetensors") from None
    try:
        state: Mapping[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"model.weights={path}: is not a safetensors file: {error}") from None
    return state


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not _is_pickle(path):
            raise CheckpointError(f"model.weights={path}: is not a file of weights") from None
        raise CheckpointError(
            f"model.weights={path}: refused, because it is not a file of tensors and plain values only, and loading it "
            "could run code; save the state dict alone with torch.save(model.state_dict(), ...)"
        ) from None
    except OSError as error:
        raise CheckpointError(f"model.weights={path}: cannot be read: {error.strerror}") from None
    except Exception:
        raise CheckpointError(f"model.weights={path}: is truncated or not a file of weights") from None


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "net", "weights", "params", "model_ema")


def _state_dict_in(content: Any, path: Path) -> Mapping[str, Tensor]:
    """The state dict itself, or the one that a training script put under a usual key."""
    candidates = [content, *(content.get(key) for key in _WRAPPERS)] if isinstance(content, dict) else []
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return candidate
    held = ", ".join(str(key) for key in list(content)[:5]) if isinstance(content, dict) else type(content).__name__
    raise CheckpointError(f"model.weights={path}: holds no state dict (it holds: {held})")


def load_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Load a state dict, whatever wrapper wrote it.

    Args:
        model: receives the weights.
        weights: parameter name -> tensor; the prefixes of torch.compile and of data-parallel wrappers are removed.

    Raises:
        CheckpointError: if names or shapes do not fit, naming the first few.
    """
    own = model.state_dict()
    clean = unwrapped(weights, own)
    refuse_misfits(misfits(clean, own), "the checkpoint")
    model.load_state_dict(clean)


def unwrapped(weights: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The weights under the names that the model has.

    A model may have a part that is itself called "module": only names that do not fit are changed.
    """
    clean = {name: value for name, value in weights.items() if name in own}
    for name, value in weights.items():
        if name in own:
            continue
        bare = name.replace("_orig_mod.", "")
        shorter = (bare.removeprefix(prefix) for prefix in ("module.", "model.", "net.", "backbone."))
        # What has its own name already keeps it; a second claim stays a misfit.
        clean[next((known for known in (bare, *shorter) if known in own and known not in clean), name)] = value
    return clean


def misfits(weights: Mapping[str, Any], own: Mapping[str, Any], optional: Sequence[str] = ()) -> dict[str, str]:
    """Names that do not fit, each with what is wrong.

    Args:
        weights: name -> tensor.
        own: the model's state dict.
        optional: names that may be missing.
    """
    problems = {name: f"missing {name}" for name in own if name not in weights and name not in optional}
    problems.update({name: f"unexpected {name}" for name in weights if name not in own})
    problems.update(
        {
            name: f"{name}: {tuple(weights[name].shape)} there, {tuple(own[name].shape)} in the model"
            for name in own
            if name in weights and own[name].shape != weights[name].shape
        }
    )
    return problems


def refuse_misfits(problems: Mapping[str, str], source: str) -> None:
    """Raise a CheckpointError that names the first few problems, if there are any."""
    if problems:
        shown = list(problems.values())[:5]
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"the weights of {source} do not fit the model: {'; '.join(shown)}{more}")
