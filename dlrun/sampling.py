"""Sampling from language models: one token after the other, each drawn from what the model expects after the last.

Letters: B texts at once, T steps, V symbols.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dlrun.data.vocabulary import Vocabulary
from dlrun.errors import UserError


def probabilities(
    scores: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    excluded: Sequence[int] = (),
) -> Tensor:
    """What the next token is drawn from.

    The temperature comes first, then ``top_k``, then ``top_p`` of what that left; the rest is scaled to sum to 1. Of
    tokens that are equally probable those with the smaller number come first.

    Args:
        scores: logits (B, V).
        temperature: divides the scores; 1 leaves the model as it is, less makes it surer; 0: the most probable token.
        top_k: only so many of the most probable tokens, >= 1; None: all.
        top_p: only the most probable tokens that together just reach this probability, in (0, 1]; None: all.
        excluded: numbers of tokens that must not come.

    Returns:
        float64 (B, V), each row sums to 1.

    Raises:
        ValueError: if an option is out of range, a score is not finite, or every token is excluded.

    Source: top_k: Fan, Lewis and Dauphin 2018, "Hierarchical neural story generation", section 5.2; top_p: Holtzman et
        al. 2020, "The curious case of neural text degeneration", section 3.1 (nucleus sampling)
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            f"temperature must be >= 0, top_k >= 1 and top_p in (0, 1], got {temperature=}, {top_k=}, {top_p=}"
        )
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("the scores of the model are not finite")
    scores = scores.double()
    if excluded:
        scores = scores.clone()
        scores[:, list(excluded)] = -torch.inf
        if not bool(torch.isfinite(scores).any(1).all()):
            raise ValueError("every token is excluded, so that none can be drawn")
    best = scores.max(1, keepdim=True)
    if temperature == 0:
        return torch.zeros_like(scores).scatter_(1, best.indices, 1.0)
    # Subtracted first: a small temperature would make infinities of the rest.
    chances = torch.softmax((scores - best.values) / temperature, 1)
    if top_k is None and top_p is None:
        return chances
    ordered, order = chances.sort(dim=1, descending=True, stable=True)
    if top_k is not None:
        ordered[:, top_k:] = 0
        ordered /= ordered.sum(1, keepdim=True)
    if top_p is not None and top_p < 1:
        before = ordered.cumsum(1) - ordered
        ordered[before >= top_p] = 0
        ordered /= ordered.sum(1, keepdim=True)
    return torch.zeros_like(chances).scatter_(1, order, ordered)


def generate(
    model: nn.Module,
    prompt: Tensor,
    length: int,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    excluded: Sequence[int] = (),
    window: int = 1,
) -> Iterator[list[int]]:
    """Let a language model write on.

    What the model carries from step to step is carried on, so each token costs one step. No gradient is kept, and no
    global generator is used.

    Args:
        model: in eval mode; maps tokens (B, T) and what it carried (None at first) to scores (B, T, V) and what it
            carries on, or to the scores alone.
        prompt: int64 (B, T), T at least 1, on the device of the model.
        length: tokens to draw, >= 1.
        generator: on the CPU, where the tokens are drawn: a seed gives the same text wherever the model is, as far as
            its scores are the same.
        temperature: see :func:`probabilities`, as for the three that follow.
        top_k: see there.
        top_p: see there.
        excluded: see there.
        window: newest tokens that a model which carries nothing is given, >= 1.

    Yields:
        The next token of each text, in [0, V); as soon as it is drawn.

    Raises:
        ValueError: if an option is out of range, or a score is not finite.
    """
    seen, given, carried = prompt, prompt, None
    for _ in range(length):
        # Not around the yield: the mode would reach into the code of the caller.
        with torch.inference_mode():
            result = model(given, carried)
            scores, carried = result if isinstance(result, tuple) else (result, None)
            chances = probabilities(
                scores[:, -1].cpu(), temperature=temperature, top_k=top_k, top_p=top_p, excluded=excluded
            )
            drawn = torch.multinomial(chances, 1, generator=generator)
            given = drawn.to(prompt.device)
            if carried is None:
                given = seen = torch.cat([seen, given], 1)[:, -window:]
        yield drawn[:, 0].tolist()


def start_tokens(vocabulary: Vocabulary, prompt: str, option: str = "prompt") -> Tensor:
    """What the model reads first: the prompt, or as at the start of a line, a line break.

    Args:
        vocabulary: that of the model.
        prompt: may be empty. A vocabulary without a line break then begins with its last symbol.
        option: how messages name the prompt.

    Returns:
        int64 (1, T), T at least 1.

    Raises:
        UserError: if the vocabulary lacks symbols of the prompt, naming them.
    """
    missing = vocabulary.missing(prompt)
    if missing:
        names = ", ".join(map(repr, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise UserError(f"{option}: the text that the model was trained on has no {names}; leave them out")
    begin = prompt
    if not begin:
        begin = "\n" if not vocabulary.missing("\n") else vocabulary.symbols[-1]
    # What is no UTF-8 on the command line comes as surrogates.
    text = begin.encode("utf-8", "surrogateescape") if vocabulary.level == "byte" else begin
    return vocabulary.encode(text).to(torch.int64)[None]
