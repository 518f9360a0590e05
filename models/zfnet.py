"""ZFNet. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from dlrun.models import blocks
from dlrun.models.blocks import conv_norm_act, linear_act, make_activation, scaled, window_out
from dlrun.registry import MODELS
from dlrun.types import PositiveFloat, PositiveInt, Range

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Rate = Annotated[float, Range(ge=0, lt=1)]

REMEDY = "use images of at least 53x53 pixels, or form=small"


@dataclass(frozen=True)
class _Plan:
    """What differs between the forms: (kernel, stride, padding) of two convolutions, the last pool, units, LRN."""

    conv1: tuple[int, int, int]
    conv2: tuple[int, int, int]
    pool5_padding: int
    units: int
    lrn: bool


PLANS = {
    "imagenet": _Plan(conv1=(7, 2, 1), conv2=(5, 2, 0), pool5_padding=0, units=4096, lrn=True),
    "small": _Plan(conv1=(3, 1, 1), conv2=(5, 1, 2), pool5_padding=1, units=1024, lrn=False),
}


@MODELS.register
def zfnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    form: Form = "auto",
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (512, 1024, 512),
    lrn: bool | None = None,
    dropout: Rate = 0.5,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """ZFNet: AlexNet with a first convolution of 7x7, stride 2, and more channels in the last three.

    Maps (B, C, H, W) to class scores (B, K). For images of 224 pixels the maps are 110x110x96 after the first
    convolution, 55x55 pooled, 26x26x256 after the second (5x5, stride 2), 13x13 pooled and through the three
    3x3 convolutions, and 6x6 pooled before two hidden layers. The small form, for about 8 to 64 pixels, has a
    first convolution of 3x3 and takes both at stride 1, halves the image in each pool and has 1024 hidden units.

    Deviation: local response normalisation (AlexNet's) in the place of local contrast normalisation.

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 53 pixels on each side.
        num_classes: K.
        form: imagenet (4096 hidden units), small, or auto: small up to 64 pixels on the shorter side.
        channels: of the last three convolutions; [384, 384, 256] is the net of the paper's figure 3.
        lrn: local response normalisation after the first two pools; null: imagenet yes, small no.
        dropout: probability of dropping a unit of the two hidden layers, in [0, 1).
        width: factor on the channels and hidden units, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form.

    Source: Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", figure 3 and table 2
    """
    plan = PLANS[blocks.pick_form(form, input_shape)]
    c1, c2, c3, c4, c5, units = (scaled(n, width) for n in (96, 256, *channels, plan.units))
    edge = plan.pool5_padding
    size = _conv("conv1", input_shape[1:], plan.conv1)
    size = window_out("pool1", size, 3, stride=2, padding=(1, 1), remedy=REMEDY)
    size = _conv("conv2", size, plan.conv2)
    size = window_out("pool2", size, 3, stride=2, padding=(1, 1), remedy=REMEDY)
    size = window_out("pool5", size, 3, stride=2, padding=(edge, edge), remedy=REMEDY)

    normed = plan.lrn if lrn is None else lrn
    layers: list[nn.Module] = []
    for c_in, c_out, (kernel, stride, padding) in ((input_shape[0], c1, plan.conv1), (c1, c2, plan.conv2)):
        layers += conv_norm_act(c_in, c_out, kernel, stride=stride, padding=padding, batch_norm=False)
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        if normed:
            layers.append(blocks.local_response_norm())
    for c_in, c_out in ((c2, c3), (c3, c4), (c4, c5)):
        layers += conv_norm_act(c_in, c_out, 3, batch_norm=False)
    layers += [
        nn.MaxPool2d(3, stride=2, padding=edge),
        nn.Flatten(),
        *linear_act(c5 * size[0] * size[1], units, make_activation("relu"), dropout=dropout),
        *linear_act(units, units, make_activation("relu"), dropout=dropout),
    ]
    return blocks.classifier(layers, units, num_classes, init)


def _conv(layer: str, size: tuple[int, int], window: tuple[int, int, int]) -> tuple[int, int]:
    kernel, stride, padding = window
    return window_out(layer, size, kernel, stride=stride, padding=(padding, padding), remedy=REMEDY)
