"""Recurrent layers for sequences of vectors. Shapes: B batch, T steps, D inputs, H hidden units."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dlrun.models.cells import SPECS, Cell, State, Weights, reverse, run, split_recurrent, steps
from dlrun.models.recurrent_weights import Direction, RecurrentInit, check_options, initialise


class Recurrent(nn.Module):
    """Layers of recurrent cells, in one or both directions.

    tanh, relu, lstm and gru without layer norm run in the library's kernels (cuDNN, oneDNN); the others take their
    steps one by one in :mod:`dlrun.models.cells`, which has their equations and sources.

    Layer norm stands behind each product with a matrix, on the H values of each gate apart, with a gain for each, and
    in the LSTM on the cell state that the output gate sees. The input's and the state's parts are normed apart, as the
    paper does in its LSTM and GRU (there over all gates at once; in plain cells it norms their sum). What mut1 and mut2
    take from the input directly is left alone.

    mut1 and mut2 add the input itself to a gate, which needs D = H, as in the paper. In a layer with another number
    of inputs a learnt matrix, without bias, stands in between.

    Args:
        input_size: D.
        hidden_size: H.
        cell: tanh, relu, lstm, gru, mut1, mut2, mut3 or highway.
        layers: layers; each but the first reads the outputs of the one below, of both directions if there are two.
        dropout: probability of dropping an output on its way to the next layer, in [0, 1); the way from step to step
            stays whole, and so does the output of the last layer.
        layer_norm: with layer norm.
        bidirectional: with a second set of cells that read the sequence from its end.
        forget_bias: bias of the LSTM's forget gate; of highway the carry gate's, which is minus the transform gate's.
        recurrent_init: how each gate's recurrent matrix (H, H) is drawn: orthogonal, xavier (N(0, 1/H)), identity
            (the IRNN with cell=relu), or default. The input weights are drawn by Xavier's rule for each gate, and the
            biases are zero; with default all of them are uniform in +-1 / sqrt(H), as torch draws them.

    Raises:
        ValueError: if a size is below 1, the dropout is not in [0, 1), a name is unknown, or the forget bias is set
            for a cell that has no such gate.

    Source: layers and dropout: Zaremba, Sutskever and Vinyals 2014, "Recurrent Neural Network Regularization", section
        3; layer norm: Ba, Kiros and Hinton 2016, "Layer Normalization", section 3.1 and supplement; both directions:
        Schuster and Paliwal 1997, "Bidirectional Recurrent Neural Networks"; forget bias: Jozefowicz, Zaremba and
        Sutskever 2015, section 2.2; identity: Le, Jaitly and Hinton 2015, section 3
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        cell: Cell = "lstm",
        layers: int = 1,
        dropout: float = 0.0,
        layer_norm: bool = False,
        bidirectional: bool = False,
        forget_bias: float = 1.0,
        recurrent_init: RecurrentInit = "orthogonal",
    ) -> None:
        super().__init__()
        check_options(input_size, hidden_size, cell, layers, dropout, forget_bias, recurrent_init)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.cell: Cell = cell
        self.layers = layers
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.output_size = hidden_size * (2 if bidirectional else 1)
        self._watched: list[list[State]] | None = None
        self.kernel = None if layer_norm else self._library_kernel()
        sizes = [input_size, *[self.output_size] * (layers - 1)]
        self.directions = nn.ModuleList(
            Direction(cell, size, hidden_size, layer_norm)
            for size in sizes
            for _ in range(self._per_layer)
            if self.kernel is None
        )
        initialise(self, cell, hidden_size, forget_bias, recurrent_init)

    @property
    def _per_layer(self) -> int:
        return 2 if self.bidirectional else 1

    def extra_repr(self) -> str:
        """Tell what the parts do not: cell, sizes."""
        return f"{self.input_size}, {self.hidden_size}, cell={self.cell}, layers={self.layers}"

    def initial_state(self, batch: int, device: torch.device | str, dtype: torch.dtype) -> State:
        """Make the state before the first step: zeros (layers x directions, B, H); (h,), or (h, c) for the LSTM.

        The order is that of the library: the first layer forward, its backward direction, the second layer.

        Args:
            batch: B.
            device: where the inputs are.
            dtype: that of the weights.
        """
        shape = (self.layers * self._per_layer, batch, self.hidden_size)
        return tuple(torch.zeros(shape, device=device, dtype=dtype) for _ in range(SPECS[self.cell].states))

    def forward(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over whole sequences.

        Args:
            x: (B, T, D), T at least 1.
            state: where to begin, as :meth:`initial_state` or a former call gives it; ``None`` for zeros. It is not
                detached.
            lengths: (B) int64 for sequences with padding behind them, each from 1 to T. The library's kernels need
                them on the CPU, and wait for a device that holds them.

        Returns:
            outputs (B, T, H), or (B, T, 2 H) for both directions, zero beyond the lengths; and the state of each layer
            and direction after its last step of each sequence. The backward direction begins at the sequence's end.

        Raises:
            ValueError: if a shape does not fit, or a length is not from 1 to T.
        """
        self._check(x, state, lengths)
        if self.kernel is not None and self._watched is None:
            return self._run_kernel(self.kernel, x, state, lengths)
        if state is None:
            state = self.initial_state(x.shape[0], x.device, next(self.parameters()).dtype)
        if lengths is not None:
            lengths = lengths.to(x.device)
        nudges = self._nudges(x, state) if self._watched is not None else None
        finals: list[State] = []
        for layer in range(self.layers):
            outs = []
            for index, backward in self._of_layer(layer):
                own = tuple(part[index] for part in state)
                nudge = None if nudges is None else nudges[index]
                out, final = run(
                    self.cell, self._weights(index), x, own, lengths=lengths, backward=backward, nudges=nudge
                )
                outs.append(out)
                finals.append(final)
            x = torch.cat(outs, -1) if self.bidirectional else outs[0]
            if self.dropout > 0 and layer < self.layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def gates(self, x: Tensor, state: State | None = None) -> list[dict[str, Tensor]]:
        """Look at the cells at work: what :meth:`forward` computes in eval mode, without its padding and dropout.

        Args:
            x: (B, T, D).
            state: as for :meth:`forward`.

        Returns:
            for each layer (and direction, as in the state) ``hidden``, for the LSTM ``cell``, and every gate by its
            name in :data:`dlrun.models.cells.SPECS`, each (B, T, H) in the order of x. Gates but ``candidate`` (-1 to
            1) are in 0 to 1.

        Raises:
            ValueError: if a shape does not fit.
        """
        self._check(x, state, None)
        spec = SPECS[self.cell]
        if state is None:
            state = self.initial_state(x.shape[0], x.device, next(self.parameters()).dtype)
        names = ("hidden", "cell")[: spec.states] + spec.gates
        seen = []
        for layer in range(self.layers):
            for index, backward in self._of_layer(layer):
                inputs = reverse(x, None) if backward else x
                own = tuple(part[index] for part in state)
                taken = list(steps(self.cell, self._weights(index), inputs.transpose(0, 1), own))
                series = (torch.stack(parts, 1) for parts in zip(*(s.state + s.gates for s in taken), strict=True))
                seen.append({name: reverse(s, None) if backward else s for name, s in zip(names, series, strict=True)})
            x = torch.cat([each["hidden"] for each in seen[-self._per_layer :]], -1)
        return seen

    @contextmanager
    def watched(self) -> Iterator[list[list[State]]]:
        """Let gradients with respect to the states be asked for, in the block.

        Every call of :meth:`forward` takes its steps one by one, and adds to the state after each step a tensor of
        zeros: the gradient with respect to that is the one with respect to the state.

        Yields:
            for each call, in their order: for each layer and direction, as in the state, tensors (T, B, H): one for h,
            for the LSTM another for c. The steps are in the order in which the direction takes them.
        """
        self._watched = []
        try:
            yield self._watched
        finally:
            self._watched = None

    def _nudges(self, x: Tensor, state: State) -> list[State]:
        assert self._watched is not None
        made = [
            tuple(part.new_zeros(x.shape[1], *part.shape[1:]).requires_grad_() for part in state)
            for _ in range(len(state[0]))
        ]
        self._watched.append(made)
        return made

    def _library_kernel(self) -> nn.RNNBase | None:
        # torch warns of dropout that finds no second layer.
        dropout = self.dropout if self.layers > 1 else 0.0
        sizes = (self.input_size, self.hidden_size, self.layers)
        if self.cell == "lstm":
            return nn.LSTM(*sizes, batch_first=True, dropout=dropout, bidirectional=self.bidirectional)
        if self.cell == "gru":
            return nn.GRU(*sizes, batch_first=True, dropout=dropout, bidirectional=self.bidirectional)
        if self.cell in ("tanh", "relu"):
            return nn.RNN(
                *sizes, nonlinearity=self.cell, batch_first=True, dropout=dropout, bidirectional=self.bidirectional
            )
        return None

    def _run_kernel(
        self, kernel: nn.RNNBase, x: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        carried = None if state is None else state if self.cell == "lstm" else state[0]
        if lengths is None:
            out, final = kernel(x, carried)
        else:
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            packed_out, final = kernel(packed, carried)
            out, _ = pad_packed_sequence(packed_out, batch_first=True, total_length=x.shape[1])
        return out, final if self.cell == "lstm" else (final,)

    def _of_layer(self, layer: int) -> Iterator[tuple[int, bool]]:
        """Give the index of each direction of a layer in the state, and whether it is the backward one."""
        return ((layer * self._per_layer + way, way == 1) for way in range(self._per_layer))

    def _weights(self, index: int) -> Weights:
        if self.kernel is None:
            return cast(Direction, self.directions[index]).weights()
        inputs, recurrent, bias, bias_state = self.kernel.all_weights[index]
        parts = split_recurrent(self.cell, recurrent)
        if self.cell != "gru":
            return Weights(inputs, bias + bias_state, parts)
        gates, inner = torch.split(bias_state, [2 * self.hidden_size, self.hidden_size])
        return Weights(inputs, bias + torch.cat([gates, torch.zeros_like(inner)]), parts, bias_candidate=inner)

    def _check(self, x: Tensor, state: State | None, lengths: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != self.input_size:
            raise ValueError(f"inputs must be (batch, steps >= 1, {self.input_size}), got {tuple(x.shape)}")
        if state is not None:
            count = SPECS[self.cell].states
            shape = (self.layers * self._per_layer, x.shape[0], self.hidden_size)
            if len(state) != count or any(tuple(part.shape) != shape for part in state):
                got = ", ".join(str(tuple(part.shape)) for part in state)
                raise ValueError(f"the state of {self.cell} must be {count} x {shape} for these inputs, got {got}")
        if lengths is not None:
            if tuple(lengths.shape) != (x.shape[0],) or lengths.dtype != torch.int64:
                raise ValueError(
                    f"lengths must be {x.shape[0]} values of int64, got {lengths.dtype} {tuple(lengths.shape)}"
                )
            # Elsewhere the look would wait for the device.
            if lengths.device.type == "cpu" and not bool(((lengths >= 1) & (lengths <= x.shape[1])).all()):
                raise ValueError(f"lengths must be from 1 to {x.shape[1]}, got {lengths.tolist()}")
