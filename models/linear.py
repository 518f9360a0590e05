"""The linear classifier. Shapes: B batch, C channels, H height, W width, K classes."""

from __future__ import annotations

from math import prod

from torch import nn

from dlrun.models.blocks import classifier
from dlrun.registry import MODELS


@MODELS.register
def linear(input_shape: tuple[int, int, int], num_classes: int, *, bias: bool = True) -> nn.Module:
    """Linear classifier (softmax regression with the cross entropy, linear SVM with the hinge loss): one layer.

    Maps (B, C, H, W) to class scores (B, K): s = W x + b on the flattened image x. Row k of W has the image's
    shape and can be looked at as the template of class k. The weights start small, so that the loss is ln K.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        bias: with b, a score of each class that does not depend on the image.

    Raises:
        Nothing: every image has a linear classifier.

    Source: Bishop 2006, "Pattern Recognition and Machine Learning", section 4.3.4
    """
    net = classifier([nn.Flatten()], prod(input_shape), num_classes, "default")
    if not bias:
        head = net.get_submodule("head")
        head.register_parameter("bias", None)
    return net
