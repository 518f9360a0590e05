"""NASNet-A. Shapes: B batch, C channels, H height, W width, K classes; N cells of a stage, F filters."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from dlrun.models.blocks import DropPath, GlobalAverage, classifier, conv_norm_act, pick_form
from dlrun.registry import MODELS
from dlrun.types import NonNegativeInt, PositiveInt, Rate

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]

NORMAL_OUT = 6
"""Channels of a normal cell's output, in multiples of F: the adjusted input and five blocks."""

REDUCTION_OUT = 4
"""Channels of a reduction cell's output, in multiples of F: the four blocks that no other block takes."""


def separable(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Make NASNet's separable convolution: twice ReLU, a convolution on each channel apart, 1x1, batch norm."""
    layers: list[nn.Module] = []
    for source, step in ((c_in, stride), (c_out, 1)):
        layers += [
            # Not in place: other branches take the same input.
            nn.ReLU(),
            nn.Conv2d(source, source, kernel, step, kernel // 2, groups=source, bias=False),
            *conv_norm_act(source, c_out, 1, act=False),
        ]
    return nn.Sequential(*layers)


def squeeze(c_in: int, c_out: int) -> nn.Sequential:
    """Make ReLU, 1x1 convolution and batch norm: (B, c_in, H, W) to (B, c_out, H, W)."""
    return nn.Sequential(nn.ReLU(), *conv_norm_act(c_in, c_out, 1, act=False))


def average(stride: int = 1) -> nn.AvgPool2d:
    """Make a 3x3 average pool that counts pixels of the image only."""
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


class Halve(nn.Module):
    """Halve height and width without losing pixels: two grids, one pixel apart, each by its own 1x1 convolution.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(c_in, c_out // 2, 1, bias=False)
        self.odd = nn.Conv2d(c_in, c_out - c_out // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/2, W/2), rounded up."""
        x = x.relu()
        shifted = functional.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
        result: Tensor = self.norm(torch.cat([self.even(x[:, :, ::2, ::2]), self.odd(shifted)], dim=1))
        return result


class Cell(nn.Module):
    """A cell: blocks that each add two branches; what no block takes is stacked.

    Args:
        adjust_left: brings the output of the cell before the last to F channels and to the right input's size.
        adjust_right: brings the output of the last cell to F channels.
        branches: the operations by the name of their block and side, such as ``0_left``.
        drop_path: probability of dropping a branch of a sample, in [0, 1).
    """

    def __init__(
        self, adjust_left: nn.Module, adjust_right: nn.Module, branches: dict[str, nn.Module], drop_path: float
    ) -> None:
        super().__init__()
        self.adjust_left = adjust_left
        self.adjust_right = adjust_right
        self.branches = nn.ModuleDict(branches)
        self.drop = DropPath(drop_path)

    def run(self, branch: str, x: Tensor) -> Tensor:
        """Run a branch, with drop-path."""
        result: Tensor = self.drop(self.branches[branch](x))
        return result


class Normal(Cell):
    """The normal cell of NASNet-A (figure 4, left): F to 6 F channels."""

    def __init__(self, adjust_left: nn.Module, c_right: int, filters: int, drop_path: float) -> None:
        branches = {
            "0_left": separable(filters, filters, 5),
            "0_right": separable(filters, filters, 3),
            "1_left": separable(filters, filters, 5),
            "1_right": separable(filters, filters, 3),
            "2_left": average(),
            "3_left": average(),
            "4_left": separable(filters, filters, 3),
        }
        super().__init__(adjust_left, squeeze(c_right, filters), branches, drop_path)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Map the outputs of the last but one and of the last cell to (B, 6 F, H, W)."""
        left, right = self.adjust_left(left), self.adjust_right(right)
        return torch.cat(
            [
                left,
                self.run("0_left", right) + self.run("0_right", left),
                self.run("1_left", left) + self.run("1_right", left),
                self.run("2_left", right) + left,
                # The block adds the average of the left input to itself.
                2 * self.run("3_left", left),
                self.run("4_left", right) + right,
            ],
            dim=1,
        )


class Reduction(Cell):
    """The reduction cell of NASNet-A (figure 4, right): halves height and width; F to 4 F channels."""

    def __init__(self, adjust_left: nn.Module, c_left: int, c_right: int, filters: int, drop_path: float) -> None:
        branches = {
            "0_left": separable(filters, filters, 5, 2),
            "0_right": separable(c_left, filters, 7, 2),
            "1_left": nn.MaxPool2d(3, stride=2, padding=1),
            "1_right": separable(c_left, filters, 7, 2),
            "2_left": average(2),
            "2_right": separable(c_left, filters, 5, 2),
            "3_left": average(),
            "4_left": separable(filters, filters, 3),
        }
        super().__init__(adjust_left, squeeze(c_right, filters), branches, drop_path)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Map the outputs of the last but one and of the last cell to (B, 4 F, H/2, W/2), rounded up."""
        left, right = self.adjust_left(left), self.adjust_right(right)
        first = self.run("0_left", right) + self.run("0_right", left)
        pooled = self.branches["1_left"](right)
        second = self.drop(pooled) + self.run("1_right", left)
        third = self.run("2_left", right) + self.run("2_right", left)
        return torch.cat(
            [second, third, self.run("3_left", first) + second, self.run("4_left", first) + self.drop(pooled)],
            dim=1,
        )


class NASNetFeatures(nn.Module):
    """Stem and cells, each of which takes the outputs of the two before it.

    Args:
        stem: to the first cells' input.
        cells: the cells in order.
    """

    def __init__(self, stem: nn.Module, cells: list[Cell]) -> None:
        super().__init__()
        self.stem = stem
        self.cells = nn.ModuleList(cells)
        self.pool = GlobalAverage()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, N)."""
        left = right = self.stem(x)
        for cell in self.cells:
            left, right = right, cell(left, right)
        result: Tensor = self.pool(right.relu())
        return result


@MODELS.register
def nasnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    form: Form = "auto",
    cells: NonNegativeInt | None = None,
    filters: PositiveInt | None = None,
    drop_path: Rate = 0.2,
    dropout: Rate = 0.0,
    init: Init = "he",
) -> nn.Module:
    """NASNet-A: three stages of N normal cells found by search, with a reduction cell before the second and third.

    Maps (B, C, H, W) to class scores (B, K); takes any image size. The first stage has F filters, and each
    reduction cell doubles them. The small form is the CIFAR-10 net NASNet-A (6 @ 768), after its 24 F = 768 last
    channels, on a 3x3 convolution of 3 F channels; the imagenet form is NASNet-A (4 @ 1056), the mobile one, with
    a 3x3 convolution of stride 2 and 32 channels and two reduction cells of F/4 and F/2 filters first.

    Deviations: no auxiliary head, and drop-path does not grow during training, only with depth.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        form: imagenet, small, or auto: small up to 64 pixels on the shorter side.
        cells: N, normal cells of each stage; null: the form's own (imagenet 4, small 6).
        filters: F of the first stage; in the imagenet form a multiple of 4; null: the form's own (imagenet 44,
            small 32).
        drop_path: probability of dropping a branch of the last cell for a sample, in [0, 1); it grows from near 0
            at the first cell in equal steps.
        dropout: probability of dropping a feature before the head, in [0, 1); the paper's ImageNet nets have 0.5.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the filters of the imagenet form are no multiple of 4.

    Source: Zoph, Vasudevan, Shlens and Le 2018, "Learning Transferable Architectures for Scalable Image
        Recognition", figures 2 and 4, appendix A
    """
    large = pick_form(form, input_shape) == "imagenet"
    count = (4 if large else 6) if cells is None else cells
    base = (44 if large else 32) if filters is None else filters
    if large and base % 4:
        raise ValueError(f"filters must be a multiple of 4 in the imagenet form, got {base}; try {base - base % 4 + 4}")
    # (filters, whether the cell reduces), cell by cell.
    plan = [(base // 4, True), (base // 2, True)] if large else []
    for stage in range(3):
        plan += [(base * 2**stage, True)] * (stage > 0) + [(base * 2**stage, False)] * count

    c_stem = 32 if large else 3 * base
    c_left = c_right = c_stem
    halved = False
    made: list[Cell] = []
    for number, (width, reduces) in enumerate(plan, start=1):
        rate = drop_path * number / len(plan)
        # The first cell of the imagenet form takes the stem as it is, as the authors' code does.
        raw = large and number == 1
        adjust = nn.Identity() if raw else Halve(c_left, width) if halved else squeeze(c_left, width)
        if reduces:
            made.append(Reduction(adjust, c_left if raw else width, c_right, width, rate))
        else:
            made.append(Normal(adjust, c_right, width, rate))
        c_left, c_right, halved = c_right, width * (REDUCTION_OUT if reduces else NORMAL_OUT), reduces
    stem = nn.Sequential(*conv_norm_act(input_shape[0], c_stem, 3, stride=2 if large else 1, act=False))
    parts: list[nn.Module] = [NASNetFeatures(stem, made)]
    if dropout > 0:
        parts.append(nn.Dropout(dropout))
    return classifier(parts, c_right, num_classes, init)
