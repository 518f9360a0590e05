"""From one sequence to another: an encoder, a decoder, and attention in between.

Shapes: B batch, S steps of the source, T of the target, E embedding, H hidden units, D outputs of the encoder, K
hypotheses of a beam, V symbols of the target; the last of these ends a target, and stands before its first.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dlrun.models.attention import Additive, Dot
from dlrun.models.cells import valid
from dlrun.models.init import HEAD_GAIN
from dlrun.models.recurrent import Recurrent
from dlrun.registry import MODELS
from dlrun.types import PositiveInt, Range, Rate

CellName = Literal["tanh", "relu", "lstm", "gru", "mut1", "mut2", "mut3", "highway"]
RecurrentInit = Literal["orthogonal", "xavier", "identity", "default"]
Number = Annotated[float, Range(ge=-100, le=100)]
State = tuple[Tensor, ...]


class Encoded(NamedTuple):
    """What the decoder knows of the sources."""

    outputs: Tensor
    """(B, S, D), zero in the padding."""
    keys: Tensor | None
    """Of ``outputs``, prepared for the attention; None without attention."""
    mask: Tensor | None
    """Booleans (B, S), true within the sources; None where nothing is padded."""
    state: State
    """Of the decoder before its first step, (layers, B, H) each."""

    def rows(self, index: Tensor) -> Encoded:
        """Some of the sources, in any order and number."""
        keys, mask = (None if part is None else part[index] for part in (self.keys, self.mask))
        return Encoded(self.outputs[index], keys, mask, tuple(part[:, index] for part in self.state))


class Decoded(NamedTuple):
    """Targets that were found, best first."""

    tokens: Tensor
    """int64 (B, K, T); the end symbol from the end on."""
    scores: Tensor
    """(B, K): log-probability of each, its end included where it was reached; minus infinity for what is no
    hypothesis, where there are fewer than K."""
    weights: Tensor | None
    """(B, K, T, S): where the attention lay at each step; zero behind the end. None without attention."""


class SequenceToSequence(nn.Module):
    """Reads a source, then writes a target symbol by symbol.

    The decoder begins with the state in which the encoder ended: layer by layer, from both directions by a linear map
    (and tanh, but for the LSTM's cell). Its output h at a step asks the attention for the context c of that step, and
    tanh(W [c; h]) is scored; without attention h itself is.

    Args:
        source_size: symbols of the source.
        target_size: V.
        embedding_size: E.
        encoder: layers that take inputs of size E.
        decoder: one-way layers that take inputs of size E, as many as the encoder's and of the same size and cell.
        attention: queries of size H, keys and values of size D; None: the state alone tells of the source.
        dropout: probability of dropping an embedded symbol's number, and of what is scored.

    Source: Sutskever, Vinyals and Le 2014, "Sequence to sequence learning with neural networks"; Luong, Pham and
        Manning 2015, "Effective approaches to attention-based neural machine translation", section 3.1 (attention
        behind the cell, so that known targets are read in one go; without its input feeding)
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        embedding_size: int,
        encoder: Recurrent,
        decoder: Recurrent,
        attention: Additive | Dot | None,
        dropout: float,
    ) -> None:
        super().__init__()
        size = decoder.hidden_size
        self.end = target_size - 1
        self.source_embedding = nn.Embedding(source_size, embedding_size)
        self.target_embedding = nn.Embedding(target_size, embedding_size)
        self.encoder, self.decoder, self.attention = encoder, decoder, attention
        states = len(decoder.initial_state(1, "cpu", torch.float32))
        bridges = (nn.Linear(encoder.output_size, size) for _ in range(states if encoder.bidirectional else 0))
        self.bridges = nn.ModuleList(bridges)
        self.combine = None if attention is None else nn.Linear(encoder.output_size + size, size)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(size, target_size)
        nn.init.normal_(self.head.weight, std=HEAD_GAIN / size**0.5)
        nn.init.zeros_(self.head.bias)

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> Encoded:
        """Read the sources.

        Args:
            source: int64 (B, S).
            lengths: int64 (B,) on the CPU, each from 1 to S; None: all are S long.
        """
        embedded = self.dropout(self.source_embedding(source))
        outputs, state = self.encoder(embedded, lengths=lengths)
        mask = None if lengths is None else valid(lengths.to(source.device), source.shape[1])
        keys = None if self.attention is None else self.attention.prepare(outputs)
        return Encoded(outputs, keys, mask, self._bridged(state))

    def _bridged(self, state: State) -> State:
        if not self.encoder.bidirectional:
            return state
        bridged = []
        for number, (part, bridge) in enumerate(zip(state, self.bridges, strict=True)):
            # Forward and backward direction of a layer lie one after the other.
            both = torch.cat([part[0::2], part[1::2]], dim=2)
            bridged.append(torch.tanh(bridge(both)) if number == 0 else bridge(both))
        return tuple(bridged)

    def _step(self, symbols: Tensor, state: State, encoded: Encoded) -> tuple[Tensor, Tensor | None, State]:
        """Read symbols (B, T) in a row; gives scores (B, T, V), attention (B, T, S) and the state after."""
        outputs, state = self.decoder(self.dropout(self.target_embedding(symbols)), state)
        if self.attention is None or self.combine is None:
            return self.head(self.dropout(outputs)), None, state
        asked = [self.attention(query, encoded.keys, encoded.outputs, encoded.mask) for query in outputs.unbind(1)]
        contexts, weights = (torch.stack(parts, 1) for parts in zip(*asked, strict=True))
        mixed = torch.tanh(self.combine(torch.cat([contexts, outputs], -1)))
        return self.head(self.dropout(mixed)), weights, state

    def forward(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        inputs: Tensor | None = None,
        teacher: Tensor | None = None,
    ) -> Tensor:
        """Score the next symbol behind known beginnings of the targets.

        Args:
            source: int64 (B, S).
            lengths: as for :meth:`encode`.
            inputs: int64 (B, T): the end symbol, then the target; None: S end symbols, which only serve to count.
            teacher: booleans (B, T): where false, the decoder reads its own best guess of the step before instead of
                ``inputs`` (the first step is always given); None: true everywhere, which takes one pass.

        Returns:
            Scores (B, T, V).
        """
        encoded = self.encode(source, lengths)
        if inputs is None:
            inputs = torch.full_like(source, self.end)
        if teacher is None:
            return self._step(inputs, encoded.state, encoded)[0]
        state, read = encoded.state, inputs[:, :1]
        scores: list[Tensor] = []
        for step in range(inputs.shape[1]):
            if step > 0:
                given = inputs[:, step : step + 1]
                read = torch.where(teacher[:, step : step + 1], given, scores[-1].detach().argmax(-1))
            result, _, state = self._step(read, state, encoded)
            scores.append(result)
        return torch.cat(scores, 1)

    @torch.no_grad()
    def decode(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        beam: int = 1,
        max_length: int = 100,
        *,
        best_only: bool = False,
    ) -> Decoded:
        """Write the targets: the best hypotheses of a beam search, with ``beam=1`` the best symbol at each step.

        At each step the K most probable of all continuations are kept; one that has ended stays as it is. Hypotheses
        compete by log-probability, without a correction for their length.

        What is found of a source does not depend on the others, but for the columns of end symbols behind it.

        Args:
            source: int64 (B, S).
            lengths: as for :meth:`encode`.
            beam: K, >= 1.
            max_length: steps after which a hypothesis is cut, >= 1, its end included. One that is cut competes with the
                log-probability that it has so far, which may be more than that of a better one which has ended.
            best_only: stop as soon as the first hypothesis of each source has ended: log-probabilities only fall, so
                it stays the first. The others may then be cut short.

        Raises:
            ValueError: if ``beam`` or ``max_length`` is below 1.
        """
        if beam < 1 or max_length < 1:
            raise ValueError(f"beam and max_length must be at least 1, got {beam} and {max_length}")
        batch, device = len(source), source.device
        first = torch.arange(batch, device=device)[:, None] * beam
        encoded = self.encode(source, lengths).rows(first.expand(-1, beam).flatten() // beam)
        state, symbols = encoded.state, torch.full((batch, beam), self.end, device=device)
        # All begin alike: only one of them counts.
        scores = torch.full((batch, beam), -torch.inf, device=device)
        scores[:, 0] = 0
        ended = torch.zeros(batch, beam, dtype=torch.bool, device=device)
        tokens = symbols[:, :, None][:, :, :0]
        attention: list[Tensor] = []
        for _ in range(max_length):
            logits, weights, state = self._step(symbols.view(-1, 1), state, encoded)
            after = logits[:, 0].float().log_softmax(-1).view(batch, beam, -1)
            stays = torch.full_like(after[0, 0], -torch.inf)
            stays[self.end] = 0
            total = scores[:, :, None] + torch.where(ended[:, :, None], stays, after)
            scores, chosen = total.flatten(1).topk(beam)
            parent, symbols = chosen // after.shape[2], chosen % after.shape[2]
            rows = (first + parent).flatten()
            state = tuple(part[:, rows] for part in state)
            tokens = torch.cat([tokens.flatten(0, 1)[rows].view(batch, beam, -1), symbols[:, :, None]], 2)
            if weights is not None:
                seen = weights[:, 0].masked_fill(ended.flatten()[:, None], 0.0)
                attention = [part[rows] for part in (*attention, seen)]
            ended = ended.gather(1, parent) | (symbols == self.end)
            if bool((ended[:, 0] if best_only else ended).all()):
                break
        looked = torch.stack(attention, 1) if attention else None
        return Decoded(tokens, scores, None if looked is None else looked.view(batch, beam, *looked.shape[1:]))


@MODELS.register
def seq2seq(
    source_size: int,
    target_size: int,
    *,
    cell: CellName = "lstm",
    layers: PositiveInt = 1,
    hidden_size: PositiveInt = 128,
    embedding_size: PositiveInt | None = None,
    bidirectional: bool = True,
    attention: Literal["additive", "dot", "none"] = "additive",
    dropout: Rate = 0.0,
    layer_norm: bool = False,
    forget_bias: Number = 1.0,
    recurrent_init: RecurrentInit = "orthogonal",
) -> nn.Module:
    """Encoder-decoder with attention: recurrent layers read the source, others write the target.

    It maps sources (B, S) and the known beginning of the targets (B, T) to scores of the next symbols (B, T, V), and
    has ``decode``, a greedy or beam search.

    Args:
        source_size: symbols of the source.
        target_size: V, symbols of the target with its end.
        cell: what a step computes; tanh, relu, lstm and gru run in the library's kernels.
        layers: recurrent layers of the encoder, and of the decoder.
        hidden_size: H, units of each layer and direction.
        embedding_size: E, numbers that stand for a symbol; null: hidden_size.
        bidirectional: the encoder reads in both directions.
        attention: how the fit of a place of the source is scored: additive (a small network), dot (the product with a
            learnt matrix in between), or none: the source is known by the encoder's last state alone.
        dropout: probability of dropping a number of an embedding, of a layer's output on its way up, and of what is
            scored, in [0, 1).
        layer_norm: layer norm behind each product with a matrix; slower, as the steps are then taken one by one.
        forget_bias: bias of the gate of lstm and highway that keeps the state, at the start; 1 remembers at first.
        recurrent_init: matrices from step to step: orthogonal, xavier, identity (for relu), or default (torch's own).

    Raises:
        ValueError: if a target would have no symbol beside its end, or the forget bias is set for a cell without it.

    Source: Sutskever, Vinyals and Le 2014, "Sequence to sequence learning with neural networks"; Bahdanau, Cho and
        Bengio 2015, "Neural machine translation by jointly learning to align and translate" (additive, bidirectional);
        Luong, Pham and Manning 2015, "Effective approaches to attention-based neural machine translation" (dot)
    """
    if target_size < 2:
        raise ValueError(f"target_size={target_size}: a target needs a symbol beside its end")
    size = hidden_size if embedding_size is None else embedding_size

    def recurrent(both: bool) -> Recurrent:
        return Recurrent(
            size,
            hidden_size,
            cell=cell,
            layers=layers,
            dropout=dropout,
            layer_norm=layer_norm,
            bidirectional=both,
            forget_bias=forget_bias,
            recurrent_init=recurrent_init,
        )

    encoder, decoder = recurrent(bidirectional), recurrent(False)
    asked: Additive | Dot | None = None
    if attention == "additive":
        asked = Additive(hidden_size, encoder.output_size, hidden_size)
    elif attention == "dot":
        asked = Dot(hidden_size, encoder.output_size)
    return SequenceToSequence(source_size, target_size, size, encoder, decoder, asked, dropout)
