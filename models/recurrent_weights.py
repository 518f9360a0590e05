"""The weights of recurrent layers: what there are of them, and how they are drawn. Shapes as in ``recurrent``."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dlrun.models.cells import CELLS, SPECS, Cell, Weights, split_recurrent

RecurrentInit = Literal["orthogonal", "xavier", "identity", "default"]
INITS: tuple[RecurrentInit, ...] = get_args(RecurrentInit)


class Direction(nn.Module):
    """The weights of one direction of one layer whose steps are taken one by one.

    Args:
        cell: name of the cell.
        input_size: D.
        size: H.
        layer_norm: with gains (1 at first) and, for the LSTM, the norm of the cell state.
    """

    def __init__(self, cell: Cell, input_size: int, size: int, layer_norm: bool) -> None:
        super().__init__()
        spec = SPECS[cell]
        self.cell: Cell = cell
        self.weight_ih = _parameter(spec.inputs * size, input_size)
        self.weight_hh = _parameter(sum(spec.recurrent) * size, size)
        self.bias = _parameter(spec.biases * size)
        self.embedding = _parameter(size, input_size) if spec.direct is not None and input_size != size else None
        self.bias_candidate = _parameter(size) if cell == "gru" else None
        self.gain_ih = _parameter(spec.inputs * size) if layer_norm else None
        self.gain_hh = _parameter(sum(spec.recurrent) * size) if layer_norm else None
        self.gain_cell = _parameter(size) if layer_norm and cell == "lstm" else None
        self.bias_cell = _parameter(size) if layer_norm and cell == "lstm" else None

    def weights(self) -> Weights:
        """Make them ready for the steps."""
        return Weights(
            self.weight_ih,
            self.bias,
            split_recurrent(self.cell, self.weight_hh, self.gain_hh),
            self.embedding,
            self.bias_candidate,
            self.gain_ih,
            self.gain_cell,
            self.bias_cell,
        )


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


@torch.no_grad()
def initialise(layers: nn.Module, cell: Cell, size: int, forget_bias: float, recurrent_init: RecurrentInit) -> None:
    """Draw the weights of recurrent layers, as :class:`dlrun.models.recurrent.Recurrent` says.

    Args:
        layers: the library's kernel or :class:`Direction` modules, or a module that holds them.
        cell: name of the cell.
        size: H.
        forget_bias: of the gate that keeps the state.
        recurrent_init: how each gate's recurrent matrix is drawn.
    """
    for name, weight in layers.named_parameters():
        if "gain" in name:
            nn.init.ones_(weight)
        elif recurrent_init == "default":
            nn.init.uniform_(weight, -(size**-0.5), size**-0.5)
        elif weight.ndim == 1:
            nn.init.zeros_(weight)
        else:
            for block in torch.split(weight, size):
                if "weight_hh" not in name:
                    nn.init.xavier_normal_(block)
                else:
                    _draw_recurrent(block, recurrent_init)
    keep = SPECS[cell].keep
    if keep is None:
        return
    first, sign = keep[0] * size, keep[1]
    for name, weight in layers.named_parameters():
        if "bias_cell" not in name and "bias" in name:
            # The library adds two biases: the one beside the recurrent weights is left at zero.
            weight[first : first + size] = 0.0 if "bias_hh" in name else sign * forget_bias


def _draw_recurrent(block: Tensor, init: RecurrentInit) -> None:
    if init == "orthogonal":
        nn.init.orthogonal_(block)
    elif init == "xavier":
        nn.init.xavier_normal_(block)
    else:
        nn.init.eye_(block)


def check_options(
    input_size: int, hidden_size: int, cell: str, layers: int, dropout: float, forget_bias: float, recurrent_init: str
) -> None:
    """Check what recurrent layers are to be made with.

    Raises:
        ValueError: as :class:`dlrun.models.recurrent.Recurrent`.
    """
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("layers", layers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout:g}")
    if cell not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {cell}")
    if recurrent_init not in INITS:
        raise ValueError(f"recurrent_init must be one of {', '.join(INITS)}, got {recurrent_init}")
    if forget_bias != 1.0 and SPECS[cell].keep is None:
        raise ValueError(
            f"forget_bias={forget_bias:g} has no effect with cell={cell}; leave it at 1, or choose lstm or highway"
        )
