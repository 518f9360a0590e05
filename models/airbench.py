"""The airbench net: a small wide net for fast CIFAR training. Shapes: B batch, C channels, H, W pixels, K classes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.models.blocks import make_activation, window_out
from dlrun.models.init import INITS, lsuv
from dlrun.registry import MODELS
from dlrun.types import Annotated, PositiveFloat, PositiveInt, Range

Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid"]
Start = Literal["dirac", "he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]


class ScaledLinear(nn.Linear):
    """``factor * (W x)``: (B, inputs) to (B, outputs)."""

    def __init__(self, inputs: int, outputs: int, factor: float) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs) to (B, outputs)."""
        return self.factor * super().forward(x)


@MODELS.register
def airbench(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    widths: tuple[PositiveInt, ...] = (64, 256, 256),
    activation: Activation = "gelu",
    whiten: bool = True,
    batch_norm_momentum: Annotated[float, Range(gt=0, le=1)] = 0.4,
    score_scale: PositiveFloat = 0.111,
    init: Start = "dirac",
) -> nn.Module:
    """The airbench net: a fixed whitening convolution, then a stage of two 3x3 convolutions for each width.

    Maps (B, C, H, W) to class scores (B, K). The first layer holds 2x2 filters, the eigenvectors of the training
    images' patches divided by the root of their eigenvalues, each with both signs; it is set once from training images
    and not trained. Each stage is convolution, 2x2 max pool, batch norm, activation, convolution, batch norm,
    activation; a global maximum and one linear layer follow.

    Deviation: batch norms have trainable scales.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        widths: channels of each stage; each halves the image, as long as there are two pixels to halve.
        activation: nonlinearity after each norm.
        whiten: set and freeze the first layer as described; false: random and trained.
        batch_norm_momentum: share of the newest batch in the running statistics, in (0, 1]; large, because a fast
            training has few steps.
        score_scale: factor on the scores, > 0; it also slows the last layer down, which this net's large rates need.
        init: initialisation of the convolutions: dirac passes the first inputs on unchanged and is random beyond.

    Raises:
        ValueError: if the image is smaller than 2x2 pixels, or there is no stage.

    Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3
    """
    channels, height, breadth = input_shape
    if not widths:
        raise ValueError("widths must have at least one stage, got []")
    size = window_out("whitening", (height, breadth), 2, remedy="use images of at least 2x2 pixels")
    pools = []
    for _ in widths:
        pools.append(min(size) >= 2)
        if pools[-1]:
            size = window_out("pool", size, 2, stride=2, remedy="")
    stages = tuple(zip(widths, pools, strict=True))
    return Airbench(channels, num_classes, stages, activation, whiten, batch_norm_momentum, score_scale, init)


class Airbench(nn.Module):
    """See :func:`airbench`."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        stages: tuple[tuple[int, bool], ...],
        activation: str,
        whiten: bool,
        momentum: float,
        score_scale: float,
        init: str,
    ) -> None:
        super().__init__()
        filters = 2 * 4 * channels
        self.whitens = whiten
        self.init = init
        first = nn.Conv2d(channels, filters, 2)
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(first, make_activation(activation)))
        previous = filters
        for number, (width, pool) in enumerate(stages, start=1):
            parts[f"stage{number}"] = nn.Sequential(
                nn.Conv2d(previous, width, 3, padding=1, bias=False),
                *([nn.MaxPool2d(2)] if pool else []),
                nn.BatchNorm2d(width, momentum=momentum),
                make_activation(activation),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width, momentum=momentum),
                make_activation(activation),
            )
            previous = width
        self.features = nn.Sequential(parts)
        self.head = ScaledLinear(previous, num_classes, score_scale)
        for layer in self.features.modules():
            if isinstance(layer, nn.Conv2d) and layer is not first:
                if init == "dirac":
                    nn.init.dirac_(layer.weight.data[: layer.in_channels])
                else:
                    INITS[init](layer)
        if whiten:
            first.requires_grad_(False)

    def init_from_data(self, images: Tensor) -> None:
        """Set the whitening layer from training images, and with init=lsuv the scale of the others.

        Args:
            images: (B, C, H, W) normalised training images, a few thousand.

        Source: Page 2019, "How to train your ResNet", part 8
        """
        if self.whitens:
            self._whiten(images)
        if self.init == "lsuv":
            lsuv(self.features, images)

    def _whiten(self, images: Tensor) -> None:
        first = self.features.get_submodule("stem.0")
        assert isinstance(first, nn.Conv2d)
        with torch.no_grad():
            patches = images.float().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5)
            patches = patches.reshape(-1, first.weight[0].numel()).double()
            values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
            # The small constant keeps the directions that hold nothing but rounding from being blown up.
            filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(-1, *first.weight.shape[1:])
            first.weight.copy_(torch.cat([filters, -filters]))
            assert first.bias is not None
            first.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to class scores (B, K)."""
        return self.head(self.features(x).amax((2, 3)))  # type: ignore[no-any-return]
