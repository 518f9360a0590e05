"""Attention: a mean of values, weighted by how well their keys fit a query.

Shapes: B batch, S places of the source, D_q query, D_k key and D_v value sizes. The keys of a source are prepared once
and asked many times::

    keys = attention.prepare(encoded)                           (B, S, D_k) -> (B, S, A)
    for each step of the decoder:
        context, weights = attention(query, keys, encoded, mask)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Additive(nn.Module):
    """Score a key by a small network: e = v . tanh(W q + U k).

    Args:
        query_size: D_q.
        key_size: D_k.
        hidden_size: A, units of the network.

    Source: Bahdanau, Cho and Bengio 2015, "Neural Machine Translation by Jointly Learning to Align and Translate",
        section 3.1 and appendix A.1.2
    """

    def __init__(self, query_size: int, key_size: int, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, hidden_size, bias=False)
        self.key = nn.Linear(key_size, hidden_size, bias=False)
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def prepare(self, keys: Tensor) -> Tensor:
        """Compute U k for all keys of a source: (B, S, D_k) to (B, S, A)."""
        projected: Tensor = self.key(keys)
        return projected

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Ask once.

        Args:
            query: (B, D_q).
            keys: (B, S, A), prepared.
            values: (B, S, D_v).
            mask: (B, S) booleans, true where there is a value; ``None`` for everywhere.

        Returns:
            the mean of the values (B, D_v) and the weights (B, S), which sum to 1; both are zero where no place of the
            source is valid.

        Raises:
            ValueError: if the keys were not prepared.
        """
        _check_prepared(keys, self.key.out_features)
        scores = self.score(torch.tanh(self.query(query)[:, None] + keys)).squeeze(-1)
        return attend(scores, values, mask)


class Dot(nn.Module):
    """Score a key by its product with the query, with a matrix in between: e = q . W k.

    Args:
        query_size: D_q.
        key_size: D_k.

    Source: Luong, Pham and Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation", section
        3.1 (there "general": without W, queries and keys would have to be of one size)
    """

    def __init__(self, query_size: int, key_size: int) -> None:
        super().__init__()
        self.query_size = query_size
        self.key = nn.Linear(key_size, query_size, bias=False)

    def prepare(self, keys: Tensor) -> Tensor:
        """Compute W k for all keys of a source: (B, S, D_k) to (B, S, D_q)."""
        projected: Tensor = self.key(keys)
        return projected

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Ask once; arguments and result as for :class:`Additive`, with A = D_q."""
        _check_prepared(keys, self.query_size)
        scores = torch.bmm(keys, query[:, :, None]).squeeze(-1)
        return attend(scores, values, mask)


def attend(scores: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Turn scores into weights by the softmax over the valid places, and give the mean of the values.

    Args:
        scores: (B, S).
        values: (B, S, D_v), finite in padding too.
        mask: (B, S) booleans, true where there is a value; ``None`` for everywhere.

    Returns:
        the mean (B, D_v) and the weights (B, S); zero in a row without a valid place.
    """
    if mask is None:
        weights = scores.softmax(-1)
    else:
        # Not minus infinity: a row without a valid place would be NaN on the way, at which a hunt for NaN stops.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~mask, 0.0)
    return torch.bmm(weights[:, None], values).squeeze(1), weights


def _check_prepared(keys: Tensor, size: int) -> None:
    if keys.shape[-1] != size:
        raise ValueError(f"keys must be prepared: (batch, source, {size}), got {tuple(keys.shape)}")
