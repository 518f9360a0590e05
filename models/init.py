"""Initialisation by name.

For a layer with weights of shape (n_out, n_in) or, convolutional, (c_out, c_in, F, F): ``n_in`` is the number
of inputs of one output value (c_in F F), ``n_out`` that of outputs of one input value (c_out F F).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dlrun.models.layers import Maxout, maxout_mean_square

HEAD_GAIN = 0.05
"""Standard deviation of a class score at initialisation, relative to the root mean square of the features."""


def he(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw weights from N(0, 2 / n_in) and set the bias to zero: keeps the scale of activations under ReLU.

    torchvision's ResNet takes n_out (fan-out) instead; the paper finds both sufficient, and n_in is the form
    that keeps the activations, which is what can be watched.

    Source: He et al. 2015, "Delving Deep into Rectifiers", section 2.2, forward propagation case
    """
    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def xavier(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw weights from N(0, 2 / (n_in + n_out)) and set the bias to zero: keeps the scale under tanh.

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural
        networks", equation 12
    """
    nn.init.xavier_normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def default(layer: nn.Conv2d | nn.Linear) -> None:
    """Leave what torch has drawn: weights and bias uniform in +-1 / sqrt(n_in)."""


def orthogonal(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw a matrix (c_out, n_in) with orthogonal rows, or columns if they are fewer, and set the bias to zero.

    c_out is the number of channels or units of the output. The rows (columns) have the length sqrt(2), which makes
    up for what ReLU cuts off, as in :func:`he`.

    Source: Saxe, McClelland and Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear
        neural networks", section 4
    """
    nn.init.orthogonal_(layer.weight, gain=2**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def small_gaussian(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw weights from N(0, 0.01^2) and set the bias to zero: enough for shallow nets or nets with norms alone.

    In deep nets without norm the activations, and with them the gradients, shrink to nothing.

    Source: Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
        section 5
    """
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def constant(layer: nn.Conv2d | nn.Linear) -> None:
    """Set every weight to 1 / n_in, so that every unit gives the mean of its inputs, and the bias to zero.

    For demonstrations: it breaks no symmetry. All units of a layer are alike, get one gradient and stay alike, so that
    the net learns no more than one with a single unit in each layer would. Only dropout and shortcuts padded with
    zeros tell some of them apart.
    """
    nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


INITS: dict[str, Callable[[nn.Conv2d | nn.Linear], None]] = {
    "he": he,
    "xavier": xavier,
    "orthogonal": orthogonal,
    "small_gaussian": small_gaussian,
    "constant": constant,
    "lsuv": orthogonal,
    "default": default,
}
"""Initialisation of a convolution or linear layer by the name that the models' option ``init`` takes.

``lsuv`` goes on from training images, with :func:`lsuv`.
"""

MADE_FOR_RELU = ("he", "orthogonal", "lsuv")
"""The names whose scale makes up for what ReLU cuts off; before a maxout they make up for what that adds."""

LSUV_IMAGES = 128
"""Training images that :func:`lsuv` measures with."""


def lsuv(features: nn.Module, images: Tensor) -> None:
    """Scale the weights of each layer so that its outputs for a batch of images have variance one.

    The layers that are not frozen are scaled in the order in which they run, each on what the scaled layers before it
    give. Without bias the outputs are proportional to the weights, so one pass through the net gives what the paper
    finds in iterations. Norms and dropout are in eval mode: fresh batch norms are the identity then, and the sizes are
    right without them too.

    Args:
        features: layers whose weights have been drawn, biases zero.
        images: (B, C, H, W) normalised training images; the first 128 are used.

    Source: Mishkin and Matas 2016, "All you need is a good init", algorithm 1
    """
    hooks: dict[nn.Module, RemovableHandle] = {}

    def rescale(layer: nn.Module, _inputs: tuple[Tensor], out: Tensor) -> Tensor:
        hooks.pop(layer).remove()
        scale = out.std()
        assert isinstance(layer.weight, nn.Parameter)
        if not (layer.weight.requires_grad and scale > 0):
            return out
        layer.weight.div_(scale)
        return out / scale

    for layer in features.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            hooks[layer] = layer.register_forward_hook(rescale)
    training = features.training
    try:
        with torch.no_grad():
            features.eval()(images[:LSUV_IMAGES])
    finally:
        features.train(training)
        for hook in hooks.values():
            hook.remove()


def with_data(net: nn.Module, init: str) -> nn.Module:
    """Give a classifier the method ``init_from_data`` that dlrun calls with training images, if ``init`` needs them.

    Args:
        net: a classifier whose ``features`` have been initialised.
        init: a key of :data:`INITS`.
    """
    if init == "lsuv":
        net.init_from_data = partial(lsuv, net.get_submodule("features"))  # type: ignore[assignment]
    return net


def initialise(features: nn.Module, head: nn.Linear, init: str) -> None:
    """Initialise a classifier in place.

    The head is drawn from N(0, 0.0025 / n_in), bias zero, whatever ``init`` says; under ``constant`` its weights are
    equal, as it would break the symmetry of the layer before it otherwise. The mean square of its inputs is about one
    at best; max pools, dropout and residual additions make it tens, and with a gain of one the scores would start as
    confident guesses and the loss far above ln K. Not zero: then no gradient would reach the features in the first
    step. Norm layers keep torch's weight 1 and bias 0.

    Where a maxout follows a layer, ReLU's half in the scale of he and orthogonal gives way to the maxout's mean square:
    without that the values would double in each such layer.

    Args:
        features: everything before the head.
        head: the layer that gives the class scores.
        init: a key of :data:`INITS`.
    """
    last: nn.Conv2d | nn.Linear | None = None
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            INITS[init](layer)
            last = layer
        elif isinstance(layer, Maxout) and last is not None and init in MADE_FOR_RELU:
            with torch.no_grad():
                last.weight.mul_((2 * maxout_mean_square(layer.pieces)) ** -0.5)
    scale = HEAD_GAIN / head.in_features**0.5
    if init == "constant":
        nn.init.constant_(head.weight, scale)
    else:
        nn.init.normal_(head.weight, std=scale)
    nn.init.zeros_(head.bias)
