"""Classifiers of images, to be exported.

Letters used below: B samples in a batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dlrun.data.statistics import Statistics
from dlrun.data.whitening import whiten
from dlrun.export.subject import BATCH, Exportable, Port, Scores, Tensors, scored

Input = Literal["pixels", "normalized"]


class ImageClassifier(nn.Module):
    """A classifier with what stands before and behind it when it is served.

    Args:
        net: maps normalised images (B, C, H, W) to class scores (B, K).
        statistics: of the training images, to take pixels of 0..255; None to take normalised images.
        scores: what is given: logits, or their softmax.
    """

    offset: Tensor
    scale: Tensor
    matrix: Tensor

    def __init__(self, net: nn.Module, statistics: Statistics | None, scores: Scores) -> None:
        super().__init__()
        self.net = net
        self.scores = scores
        self.normalizes = statistics is not None
        self.contrast = None if statistics is None else statistics.contrast
        self.whitens = statistics is not None and statistics.matrix is not None
        if statistics is not None:
            offset, scale = statistics.affine
            self.register_buffer("offset", offset)
            self.register_buffer("scale", scale)
            if statistics.matrix is not None:
                self.register_buffer("matrix", statistics.matrix)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W), uint8 pixels or normalised float32, to scores (B, K) float32."""
        if self.normalizes:
            images = images.to(torch.float32)
            if self.contrast is not None:
                images = self.contrast.apply(images)
            images = (images - self.offset) * self.scale
            if self.whitens:
                images = whiten(images, self.matrix)
        return scored(self.net(images), self.scores)


def image_classifier(
    model: str,
    net: nn.Module,
    fresh: Callable[[], nn.Module],
    statistics: Statistics,
    input_shape: tuple[int, int, int],
    classes: Sequence[str],
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
        classes: names in the order of the scores.
        given: what goes in: ``pixels`` of 0..255 as uint8, or ``normalized`` images as float32.
        scores: what comes out.
        metadata: what every file says about itself, whatever the network.
    """
    pixels = given == "pixels"
    images = (
        Port("images", (BATCH, *input_shape), torch.uint8, 256, "pixels 0..255, normalised inside")
        if pixels
        else Port("images", (BATCH, *input_shape), torch.float32, meaning="normalised")
    )
    output = Port("scores", (BATCH, len(classes)), torch.float32, meaning=scores)
    described = {
        **metadata,
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "input_shape": json.dumps(list(input_shape)),
        "statistics": json.dumps(_told(statistics)),
    }

    def reference(net: nn.Module, inputs: Tensors) -> Tensors:
        (images,) = inputs
        return (scored(net(statistics.normalize(images) if pixels else images), scores),)

    net.eval().requires_grad_(False)
    return Exportable(
        model,
        net,
        fresh,
        ImageClassifier(net, statistics if pixels else None, scores).eval(),
        reference,
        (images,),
        (output,),
        metadata={**described, "input": given, "scores": scores},
        of_weights={**described, "input": "normalized", "scores": "logits"},
    )


def _told(statistics: Statistics) -> dict[str, Any]:
    """The statistics, but for the matrix of a whitening: it has millions of numbers, and pixels need it not."""
    told = {"kind": statistics.kind, "mean": _exact(statistics.mean), "std": _exact(statistics.std)}
    contrast = statistics.contrast
    return told if contrast is None else {**told, "contrast": {"scale": contrast.scale, "bias": contrast.bias}}


def _exact(values: Tensor) -> Any:
    """Nested lists with the shape of float32 values, in the fewest digits that give them back bit for bit."""
    rows = values.numpy()
    return [_exact(part) for part in values] if rows.ndim else float(str(rows))
