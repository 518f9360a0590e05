"""Random numbers beyond the uniform ones of ``base``: weights of a mixture, and what the host has to know.

B is the number of images in one call.
"""

from __future__ import annotations

import torch
from torch import Tensor


def beta(count: int, alpha: float, generator: torch.Generator) -> Tensor:
    """float32 (B,), each from Beta(alpha, alpha), in 0..1, on the generator's device.

    Args:
        count: B.
        alpha: > 0; below 1 most are near 0 or 1, 1 is the uniform distribution.
        generator: the source of all randomness.
    """
    # torch.distributions takes no generator; the share of one of two gamma variables is what it computes too. With a
    # small alpha both are too small for a number, but their logarithms are not: Gamma(a) is Gamma(a + 1) u^(1/a).
    shape = torch.full((2, count), alpha + 1, device=generator.device)
    gammas: Tensor = torch._standard_gamma(shape, generator=generator)
    even = torch.rand(2, count, generator=generator, device=generator.device)
    tiny = torch.finfo(torch.float32).tiny
    one, other = (gammas.clamp_(min=tiny).log_() + even.clamp_(min=tiny).log_() / alpha).unbind()
    return torch.sigmoid(one - other)


def on_host(generator: torch.Generator) -> torch.Generator:
    """A generator for what the program's flow depends on, such as which operation comes first.

    Numbers drawn on an accelerator could decide that only after waiting for it. Where it stands in its stream is known
    to the host, though, and gives such a generator of its own.

    Args:
        generator: on any device; it moves on.

    Returns:
        ``generator`` itself if it is on the CPU; otherwise one on the CPU that depends on its seed and position.
    """
    if generator.device.type == "cpu":
        return generator
    # Of a CUDA generator both are plain numbers on the host, and an offset counts in steps of four.
    position = generator.get_offset()
    generator.set_offset(position + 4)
    return torch.Generator().manual_seed((generator.initial_seed() + 0x9E3779B97F4A7C15 * (position + 1)) % 2**63)
