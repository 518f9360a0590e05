"""FractalNet. Shapes: B batch, C channels, H height, W width, K classes; M paths that meet in a join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from dlrun.models.blocks import GlobalAverage, classifier, conv_norm_act, pick_form, scaled, window_out
from dlrun.registry import MODELS
from dlrun.types import Fraction, PositiveFloat, PositiveInt, Range, Rate

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]

CHANNELS = {"imagenet": (128, 256, 512, 1024), "small": (64, 128, 256, 512, 512)}
COLUMNS = {"imagenet": 4, "small": 3}
"""The paper's nets of 34 and of 20 layers."""

REMEDY = "use images of at least 61x61 pixels, or form=small"


class Join(nn.Module):
    """The mean of the paths that meet, and in training drop-path.

    Each sample draws for itself. With local sampling each path is dropped with probability ``rate``; where all
    would be, one drawn at random stays. With global sampling the sample keeps one column of the whole net.

    Args:
        rate: probability of dropping a path in local sampling, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, paths: list[Tensor], column: Tensor | None) -> Tensor:
        """Map M maps (B, C, H, W), the shallowest path first, to their mean (B, C, H, W).

        Args:
            paths: the maps.
            column: (B,) the sample's column, 0 for the deepest, or -1 for local sampling; ``None`` for all paths.
        """
        if len(paths) == 1:
            return paths[0]
        if column is None:
            return torch.stack(paths).mean(0)
        weights = self.weights(len(paths), column).to(paths[0].dtype)
        return torch.einsum("mb,mbchw->bchw", weights, torch.stack(paths))

    def weights(self, paths: int, column: Tensor) -> Tensor:
        """Draw the weights (M, B) of the paths' mean; see :meth:`forward`. Their sum over the paths is 1."""
        indices = torch.arange(paths, device=column.device)[:, None]
        order = torch.rand(paths, column.shape[0], device=column.device)
        # The path of the largest draw is never dropped, so that at least one stays.
        kept = (order >= self.rate) | (indices == order.argmax(0))
        # A column that is no path of this join does not pass it at all: any weights will do.
        chosen = (indices == paths - 1 - column) | (column >= paths)
        kept = torch.where(column < 0, kept, chosen)
        return kept / kept.sum(0)


class Fractal(nn.Module):
    """The fractal of some columns: f_1 is a convolution; f_{n+1}(x) joins f_n(f_n(x)) and a convolution of x.

    Args:
        columns: number of columns; the deepest has 2^(columns - 1) convolutions.
        c_in: channels of the input.
        c_out: channels of the output.
        rate: probability of dropping a path, in [0, 1).
    """

    def __init__(self, columns: int, c_in: int, c_out: int, rate: float) -> None:
        super().__init__()
        self.shallow = nn.Sequential(*conv_norm_act(c_in, c_out, 3))
        self.deep = nn.ModuleList(
            Fractal(columns - 1, source, c_out, rate) for source in ([c_in, c_out] if columns > 1 else [])
        )
        self.join = Join(rate)

    def paths(self, x: Tensor, column: Tensor | None) -> list[Tensor]:
        """Map (B, C, H, W) to the paths' maps (B, C', H, W) before their join, the shallowest first."""
        found: list[Tensor] = [self.shallow(x)]
        if len(self.deep) > 0:
            first, second = self.deep
            assert isinstance(first, Fractal)
            assert isinstance(second, Fractal)
            # A join at the end of an inner fractal and the outer one are one join, of all their paths.
            found += second.paths(first(x, column), column)
        return found

    def forward(self, x: Tensor, column: Tensor | None) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W); ``column`` as in :meth:`Join.forward`."""
        result: Tensor = self.join(self.paths(x, column), column)
        return result


class FractalFeatures(nn.Module):
    """Stem, then blocks of a fractal and what follows it; see :func:`fractalnet`.

    Args:
        stem: layers before the first block.
        fractals: the fractals.
        ends: pool and dropout behind each of them.
        columns: number of columns.
        rate: probability of dropping a path, in [0, 1); at 0 no sample has a column of its own either.
        global_share: share of the samples that keep a single column.
    """

    def __init__(
        self,
        stem: nn.Module,
        fractals: list[Fractal],
        ends: Sequence[nn.Module],
        columns: int,
        rate: float,
        global_share: float,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.fractals = nn.ModuleList(fractals)
        self.ends = nn.ModuleList(ends)
        self.pool = GlobalAverage()
        self.columns = columns
        self.rate = rate
        self.global_share = global_share

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, N)."""
        column = self.draw_columns(x) if self.training and self.rate > 0 else None
        x = self.stem(x)
        for fractal, end in zip(self.fractals, self.ends, strict=True):
            x = end(fractal(x, column))
        result: Tensor = self.pool(x)
        return result

    def draw_columns(self, x: Tensor) -> Tensor:
        """Draw a column for each sample of x (B, ...): (B,), -1 for those with local sampling."""
        column = torch.randint(self.columns, (x.shape[0],), device=x.device)
        alone = torch.rand(x.shape[0], device=x.device) < self.global_share
        return torch.where(alone, column, -1)


@MODELS.register
def fractalnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    form: Form = "auto",
    columns: Annotated[int, Range(ge=1, le=8)] | None = None,
    channels: tuple[PositiveInt, ...] | None = None,
    drop_path: Rate = 0.15,
    global_share: Fraction = 0.5,
    dropout: Rate = 0.4,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """FractalNet: blocks of paths of 1, 2, 4, ... convolutions that meet in means; deep without residuals.

    Maps (B, C, H, W) to class scores (B, K). Each block is a fractal of convolution, batch norm and ReLU, and a
    2x2 max pool. Drop-path in training: of the samples a share keeps a single column of the net, drawn at random
    (global sampling), the others lose single paths at the joins (local sampling).

    Deviations: drop-path draws for each sample, not for each batch: it takes no time to wait for the draw, and a
    step's gradient reaches every column. The small form leaves out the pools that would go below one pixel, and
    a global average follows the last block, which at 32x32 is one pixel anyway.

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 61 pixels on each side.
        num_classes: K.
        form: imagenet (7x7 stride 2 and a max pool first; four blocks), small (five blocks), or auto: small up to
            64 pixels on the shorter side.
        columns: paths of each block; the deepest has 2^(columns - 1) convolutions; 1 to 8; 1 gives a plain net;
            null: the form's own (imagenet 4, small 3).
        channels: of each block; null: the form's own (imagenet 128, 256, 512, 1024; small 64, 128, 256, 512, 512).
        drop_path: probability of dropping a path in local sampling, in [0, 1); 0 for no drop-path of either kind.
        global_share: share of the samples that keep a single column, in [0, 1].
        dropout: probability of dropping a value behind the last block, in [0, 1); it grows from 0 at the first
            block in equal steps.
        width: factor on the channels, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if there is no block, or the image is too small for the form.

    Source: Larsson, Maire and Shakhnarovich 2017, "FractalNet: Ultra-Deep Neural Networks without Residuals",
        sections 2, 3 and 4.2
    """
    picked = pick_form(form, input_shape)
    paths = COLUMNS[picked] if columns is None else columns
    widths = CHANNELS[picked] if channels is None else channels
    if not widths:
        raise ValueError("channels must have at least one block, got []")
    size, c_in = (input_shape[1], input_shape[2]), input_shape[0]
    stem: list[nn.Module] = []
    if picked == "imagenet":
        c_first = scaled(64, width)
        stem = [*conv_norm_act(c_in, c_first, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)]
        size = window_out("conv0", size, 7, stride=2, padding=(3, 3), remedy=REMEDY)
        size = window_out("pool0", size, 3, stride=2, padding=(1, 1), remedy=REMEDY)
        c_in = c_first
    fractals, ends = [], []
    for number, base in enumerate(widths, start=1):
        c_out = scaled(base, width)
        fractals.append(Fractal(paths, c_in, c_out, drop_path))
        end: list[nn.Module] = []
        if picked == "imagenet" or min(size) > 1:
            end.append(nn.MaxPool2d(2))
            size = window_out(f"pool{number}", size, 2, stride=2, remedy=REMEDY)
        rate = dropout * (number - 1) / max(1, len(widths) - 1)
        if rate > 0:
            end.append(nn.Dropout(rate))
        ends.append(nn.Sequential(*end))
        c_in = c_out
    features = FractalFeatures(nn.Sequential(*stem), fractals, ends, paths, drop_path, global_share)
    return classifier(features, c_in, num_classes, init)
