"""AlexNet. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from dlrun.models import blocks
from dlrun.models.blocks import conv_norm_act, linear_act, make_activation, scaled, window_out
from dlrun.registry import MODELS
from dlrun.types import PositiveFloat, Range

Form = Literal["auto", "imagenet", "small"]
Init = Literal["he", "xavier", "orthogonal", "small_gaussian", "constant", "lsuv", "default"]
Rate = Annotated[float, Range(ge=0, lt=1)]

REMEDY = "use images of at least 64x64 pixels, or form=small"


@dataclass(frozen=True)
class _Plan:
    """What differs between the forms: the first window, the border of the pools, hidden units, and LRN."""

    kernel: int
    stride: int
    pool_padding: int
    units: int
    lrn: bool


PLANS = {
    "imagenet": _Plan(kernel=11, stride=4, pool_padding=0, units=4096, lrn=True),
    "small": _Plan(kernel=5, stride=1, pool_padding=1, units=1024, lrn=False),
}


@MODELS.register
def alexnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    form: Form = "auto",
    lrn: bool | None = None,
    dropout: Rate = 0.5,
    width: PositiveFloat = 1.0,
    init: Init = "he",
) -> nn.Module:
    """AlexNet in one tower: five convolutions, three overlapping max pools, and two hidden layers.

    Maps (B, C, H, W) to class scores (B, K); the convolutions have 96, 256, 384, 384 and 256 channels. The
    imagenet form gives 55x55x96 after the first convolution (11x11, stride 4) for images of 227 pixels, where
    the windows tile the image, and of 224, where 2 zeros are added on each side; any other size follows the
    same rule. The small form, for about 8 to 64 pixels, keeps the resolution in the first convolution (5x5,
    stride 1), halves it in each pool and has 1024 hidden units.

    Deviations: one tower instead of two on two devices (so 62.4M instead of 61M parameters), pooling before
    local response normalisation (as in CaffeNet and the course material: fewer values to normalise).

    Args:
        input_shape: (C, H, W) of one image; the imagenet form needs at least 64 pixels on each side.
        num_classes: K.
        form: imagenet (4096 hidden units), small, or auto: small up to 64 pixels on the shorter side.
        lrn: local response normalisation after the first two pools; null: imagenet yes, small no.
        dropout: probability of dropping a unit of the two hidden layers, in [0, 1).
        width: factor on the channels and hidden units, > 0; rounded, at least 1 remains.
        init: initialisation of all but the last layer; that one starts small, so that the loss is ln K.

    Raises:
        ValueError: if the image is too small for the form.

    Source: Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep Convolutional Neural
        Networks", section 3
    """
    channels, height, breadth = input_shape
    plan = PLANS[blocks.pick_form(form, input_shape)]
    c1, c2, c3, c4, c5, units = (scaled(n, width) for n in (96, 256, 384, 384, 256, plan.units))
    border, edge = (_border(height, plan), _border(breadth, plan)), plan.pool_padding
    size = (height, breadth)
    size = window_out("conv1", size, plan.kernel, stride=plan.stride, padding=border, remedy=REMEDY)
    for pool in ("pool1", "pool2", "pool5"):
        size = window_out(pool, size, 3, stride=2, padding=(edge, edge), remedy=REMEDY)

    normed = plan.lrn if lrn is None else lrn
    layers = [
        *conv_norm_act(channels, c1, plan.kernel, stride=plan.stride, padding=border, batch_norm=False),
        *_pool_norm(edge, normed),
        *conv_norm_act(c1, c2, 5, batch_norm=False),
        *_pool_norm(edge, normed),
        *conv_norm_act(c2, c3, 3, batch_norm=False),
        *conv_norm_act(c3, c4, 3, batch_norm=False),
        *conv_norm_act(c4, c5, 3, batch_norm=False),
        *_pool_norm(edge, False),
        nn.Flatten(),
        *linear_act(c5 * size[0] * size[1], units, make_activation("relu"), dropout=dropout),
        *linear_act(units, units, make_activation("relu"), dropout=dropout),
    ]
    return blocks.classifier(layers, units, num_classes, init)


def _border(side: int, plan: _Plan) -> int:
    if plan.stride == 1:
        return plan.kernel // 2
    return 0 if (side - plan.kernel) % plan.stride == 0 else 2


def _pool_norm(padding: int, lrn: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.MaxPool2d(3, stride=2, padding=padding)]
    if lrn:
        layers.append(blocks.local_response_norm())
    return layers
