"""A language model out of its checkpoint, for the commands that let it write or look at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.commands.request import Request
from dlrun.commands.saved import Saved, load_saved
from dlrun.config.rerun import EVAL_MAY_CHANGE
from dlrun.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dlrun.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class SavedLanguageModel:
    """A language model, rebuilt from its checkpoint.

    Attributes:
        saved: the checkpoint.
        model: in eval mode, on ``device``.
        vocabulary: of the text that it was trained on.
        device: where it is.
        kind: of its weights: averaged, raw, or an empty text if the checkpoint has only one kind.
    """

    saved: Saved
    model: nn.Module
    vocabulary: Vocabulary
    device: torch.device
    kind: str = ""


def load_language_model(request: Request, command: str) -> SavedLanguageModel:
    """The language model of ``checkpoint=``.

    Args:
        request: the command line.
        command: how messages name the command.

    Raises:
        UserError: if there is no such checkpoint, or it holds another kind of model.
    """
    from dlrun.assembly import build_model
    from dlrun.checkpoint import find
    from dlrun.data.vocabulary import Vocabulary
    from dlrun.reproducibility import resolve_device, set_determinism
    from dlrun.weights import load_weights

    path = find(Path(request.reserved["checkpoint"]), "checkpoint")
    why = f"the checkpoint was trained with it, so {command} cannot change it"
    saved = load_saved(path, request.overrides, EVAL_MAY_CHANGE, why)
    config, data = saved.config, saved.payload["data"]
    if config.task.name != "language_modeling" or "vocabulary" not in data:
        raise UserError(
            f"checkpoint {saved.path}: dlrun {command} is for language models, and this is model "
            f"{config.model.name!r} of data {config.data.name!r} with task {config.task.name!r}; give one trained with "
            "task=language_modeling"
        )
    vocabulary = Vocabulary.from_state(data["vocabulary"])
    set_determinism(deterministic=config.trainer.deterministic, threads=config.trainer.threads)
    device = resolve_device(config.device)
    arguments = {"vocabulary_size": len(vocabulary), "token": vocabulary.level}
    model = build_model(config, arguments, device)
    weights, kind = saved.weights(request)
    load_weights(model, weights)
    return SavedLanguageModel(saved, model.eval(), vocabulary, device, kind)
