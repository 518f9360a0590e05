"""What is exported: a trained network with what goes into it and what comes out.

Letters used below: B samples in a batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.data.statistics import Statistics

Input = Literal["pixels", "normalized"]
Scores = Literal["logits", "probabilities"]
Tensors = tuple[Tensor, ...]
BATCH = "batch"
"""Name of the axis that counts samples: any number from 1 on."""


@dataclass(frozen=True)
class Port:
    """One input of an exported network.

    Attributes:
        name: as the file knows it.
        shape: sizes of the axes; a name stands for an axis of any size from 1 on.
        dtype: of its values.
        below: whole numbers lie in [0, below); without meaning for floating-point values.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype
    below: int = 0


@dataclass(frozen=True)
class Exportable:
    """A trained network, ready to be written.

    Attributes:
        model: registered name, for messages.
        net: the network in evaluation mode on the CPU, with its trained weights.
        fresh: builds the same network with other weights.
        module: what a graph is traced from: takes the inputs one by one, gives a tensor or a tuple of them.
        reference: (net, inputs) -> what an exported file must give, computed as dlrun itself evaluates.
        inputs: what goes in, in the order of the arguments.
        outputs: names of what comes out, in order; the first are the scores.
        metadata: what the file says about itself; texts only, for that is what all formats hold.
    """

    model: str
    net: nn.Module = field(repr=False)
    fresh: Callable[[], nn.Module] = field(repr=False)
    module: nn.Module = field(repr=False)
    reference: Callable[[nn.Module, Tensors], Tensors] = field(repr=False)
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str] = field(repr=False)


def example_inputs(ports: Sequence[Port], sizes: Mapping[str, int], seed: int) -> Tensors:
    """Random inputs, the only place that knows what a port's values look like.

    Args:
        ports: what the network takes.
        sizes: size of every named axis, >= 1.
        seed: of the values.

    Returns:
        One tensor per port: whole numbers uniform in [0, below), or standard normal values.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(port: Port) -> Tensor:
        shape = [sizes[side] if isinstance(side, str) else side for side in port.shape]
        if port.dtype.is_floating_point:
            return torch.randn(shape, generator=generator, dtype=port.dtype)
        return torch.randint(port.below, shape, generator=generator, dtype=port.dtype)

    return tuple(draw(port) for port in ports)


class ImageClassifier(nn.Module):
    """A classifier with what stands before and behind it when it is served.

    Args:
        net: maps normalised images (B, C, H, W) to class scores (B, K).
        statistics: of the training images, to take pixels of 0..255; None to take normalised images.
        scores: what is given: logits, or their softmax.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, net: nn.Module, statistics: Statistics | None, scores: Scores) -> None:
        super().__init__()
        self.net = net
        self.scores = scores
        self.normalizes = statistics is not None
        if statistics is not None:
            offset, scale = statistics.affine
            self.register_buffer("offset", offset)
            self.register_buffer("scale", scale)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W), uint8 pixels or normalised float32, to scores (B, K) float32."""
        if self.normalizes:
            images = (images.to(torch.float32) - self.offset) * self.scale
        logits: Tensor = self.net(images)
        return logits.softmax(1) if self.scores == "probabilities" else logits


def image_classifier(
    model: str,
    net: nn.Module,
    fresh: Callable[[], nn.Module],
    statistics: Statistics,
    input_shape: tuple[int, int, int],
    *,
    given: Input,
    scores: Scores,
    metadata: Mapping[str, str],
) -> Exportable:
    """A classifier of images, to be exported.

    Pixels are uint8, because that is what image decoders give, at a quarter of the bytes; and because a runtime refuses
    an image of another type, where it would silently take floating-point pixels scaled to 0..1.

    Args:
        model: registered name of the network.
        net: the network with its trained weights, on the CPU; put into evaluation mode.
        fresh: builds the same network with other weights.
        statistics: of the training images.
        input_shape: (C, H, W) of one image.
        given: what goes in: ``pixels`` of 0..255 as uint8, or ``normalized`` images as float32.
        scores: what comes out.
        metadata: what the file says about itself.
    """
    pixels = given == "pixels"
    port = Port("images", (BATCH, *input_shape), torch.uint8 if pixels else torch.float32, 256 if pixels else 0)

    def reference(net: nn.Module, inputs: Tensors) -> Tensors:
        (images,) = inputs
        logits: Tensor = net(statistics.normalize(images) if pixels else images)
        return (logits.softmax(1) if scores == "probabilities" else logits,)

    net.eval().requires_grad_(False)
    module = ImageClassifier(net, statistics if pixels else None, scores).eval()
    return Exportable(model, net, fresh, module, reference, (port,), ("scores",), metadata)
