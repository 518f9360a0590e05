"""Attention: the scores of the papers, masks, keys prepared once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlrun.models.attention import Additive, Dot

FORMS = ["additive", "dot"]


def make(form: str) -> Additive | Dot:
    """Attention for queries of size 4 and keys of size 4."""
    if form == "additive":
        return Additive(4, 4, 5).double()
    return Dot(4, 4).double()


def ask(
    net: Additive | Dot, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    context, weights = net(query, net.prepare(keys), values, mask)
    return context, weights


def tensors(batch: int = 3, places: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((batch, 4), (batch, places, 4), (batch, places, 2))
    query, keys, values = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return query, keys, values


@pytest.mark.parametrize("form", FORMS)
def test_weights_follow_the_equations(form: str) -> None:
    net = make(form)
    query, keys, values = tensors()
    context, weights = ask(net, query, keys, values)
    p = {name: value.detach().numpy() for name, value in net.named_parameters()}
    for sample in range(3):
        q = query[sample].numpy()
        scores = []
        for k in keys[sample].numpy():
            if form == "additive":
                score = p["score.weight"][0] @ np.tanh(p["query.weight"] @ q + p["key.weight"] @ k)
            else:
                score = q @ p["key.weight"] @ k
            scores.append(score)
        expected = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(weights[sample].detach().numpy(), expected)
        np.testing.assert_allclose(context[sample].detach().numpy(), expected @ values[sample].numpy())


@pytest.mark.parametrize("form", FORMS)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_a_masked_batch_gives_what_each_source_gives_alone(form: str, lengths: list[int]) -> None:
    net = make(form)
    query, keys, values = tensors(len(lengths))
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    context, weights = ask(net, query, keys, values, mask)
    for sample, length in enumerate(lengths):
        one = slice(sample, sample + 1)
        alone, own = ask(net, query[one], keys[one, :length], values[one, :length])
        torch.testing.assert_close(context[one], alone)
        torch.testing.assert_close(weights[one, :length], own)
        assert (weights[sample, length:] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_row_without_a_valid_place_gives_zeros(form: str) -> None:
    net = make(form)
    query, keys, values = (part.requires_grad_() for part in tensors())
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1] = False
    # It stops at a NaN even if a later operation hides it.
    with torch.autograd.set_detect_anomaly(True):
        context, weights = ask(net, query, keys, values, mask)
        context.sum().backward()
    assert (context[1] == 0).all()
    assert (weights[1] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    for part in (query, keys, values):
        assert part.grad is not None
        assert part.grad.isfinite().all()
        assert (part.grad[1] == 0).all()
        assert (part.grad[0] != 0).any()


@pytest.mark.parametrize("form", FORMS)
def test_gradients_agree_with_differences(form: str) -> None:
    net = make(form)
    mask = torch.tensor([[True, True, False], [False, True, True]])
    query, keys, values = (part.requires_grad_() for part in tensors(2, 3))
    assert torch.autograd.gradcheck(lambda q, k, v: ask(net, q, k, v, mask), (query, keys, values))


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_with_a_mask_is_finite(form: str) -> None:
    net = make(form).float()
    query, keys, values = (part.float() for part in tensors())
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0, :2] = True
    with torch.autocast("cpu", torch.bfloat16):
        context, weights = ask(net, query, keys, values, mask)
    assert context.isfinite().all()
    torch.testing.assert_close(weights.float().sum(-1), torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=0.02)


def test_queries_and_keys_may_have_other_sizes() -> None:
    query, keys, values = torch.randn(3, 4), torch.randn(3, 6, 7), torch.randn(3, 6, 2)
    for net in (Additive(4, 7, 5), Dot(4, 7)):
        context, weights = ask(net, query, keys, values)
        assert context.shape == (3, 2)
        assert weights.shape == (3, 6)


def test_keys_that_were_not_prepared_are_refused() -> None:
    query, keys, values = torch.randn(3, 4), torch.randn(3, 6, 7), torch.randn(3, 6, 2)
    for net in (Additive(4, 7, 5), Dot(4, 7)):
        with pytest.raises(ValueError, match=r"keys must be prepared: \(batch, source, [45]\), got \(3, 6, 7\)"):
            net(query, keys, values, None)
