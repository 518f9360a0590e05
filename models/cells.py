"""The steps of recurrent cells, and their way through a sequence.

Shapes: B batch, T steps, D inputs, H hidden units. ``*`` is the elementwise product, ``sigm`` the logistic function.
Everything that the input contributes to the steps, biases included, is computed for all of them at once
(:func:`project`), so that a step is a product with the recurrent weights and a few elementwise operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Cell = Literal["tanh", "relu", "lstm", "gru", "mut1", "mut2", "mut3", "highway"]
CELLS: tuple[Cell, ...] = get_args(Cell)
"""The names of the cells."""

State = tuple[Tensor, ...]
"""What a cell carries: (h,), or (h, c) for the LSTM."""


class Recurrence(NamedTuple):
    """Recurrent weights that meet the same vector, one block of H rows for each gate.

    Args:
        matrix: (H, k H), transposed.
        gain: (k H) factors after layer norm; ``None`` without norm.
    """

    matrix: Tensor
    gain: Tensor | None

    def __call__(self, h: Tensor) -> Tensor:
        """Map (B, H) to (B, k H)."""
        product = h @ self.matrix
        return product if self.gain is None else norm_blocks(product, h.shape[-1]) * self.gain

    def onto(self, x: Tensor, h: Tensor) -> Tensor:
        """Add the same to x (B, k H)."""
        if self.gain is not None:
            return torch.addcmul(x, norm_blocks(h @ self.matrix, h.shape[-1]), self.gain)
        return x + h @ self.matrix


class Weights(NamedTuple):
    """The weights of one direction of one layer, made ready for the steps.

    Args:
        inputs: (n H, D), a block for each gate that the input reaches through a matrix.
        bias: (m H), a block for each gate.
        recurrent: the recurrent weights, in the groups that :class:`Spec` names.
        embedding: (H, D) of mut1 and mut2 if D is not H.
        bias_candidate: (H) of the GRU, inside the reset gate.
        gain_inputs: (n H) with layer norm.
        gain_cell: (H) of the LSTM with layer norm, and its bias.
        bias_cell: (H).
    """

    inputs: Tensor
    bias: Tensor
    recurrent: tuple[Recurrence, ...]
    embedding: Tensor | None = None
    bias_candidate: Tensor | None = None
    gain_inputs: Tensor | None = None
    gain_cell: Tensor | None = None
    bias_cell: Tensor | None = None


class Step(NamedTuple):
    """What a step gives: the new state, each (B, H), and the gates (B, H) in the order of ``Spec.gates``."""

    state: State
    gates: tuple[Tensor, ...]


def norm_blocks(x: Tensor, size: int) -> Tensor:
    """Give each block of ``size`` values the mean 0 and the variance 1: (..., k H) to (..., k H)."""
    return F.layer_norm(x.reshape(*x.shape[:-1], -1, size), (size,)).flatten(-2)


def tanh_step(x: Tensor, state: State, w: Weights) -> Step:
    """h' = tanh(W x + U h + b).

    Source: Elman 1990, "Finding Structure in Time"
    """
    return Step((torch.tanh(w.recurrent[0].onto(x, state[0])),), ())


def relu_step(x: Tensor, state: State, w: Weights) -> Step:
    """h' = max(0, W x + U h + b).

    Source: Le, Jaitly and Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units"
    """
    return Step((torch.relu(w.recurrent[0].onto(x, state[0])),), ())


def lstm_step(x: Tensor, state: State, w: Weights) -> Step:
    """(i, f, g, o) = (sigm, sigm, tanh, sigm)(W x + U h + b), c' = f * c + i * g, h' = o * tanh(c').

    With layer norm: h' = o * tanh(LN(c')).

    Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Gers et al. 2000, "Learning to Forget", for f;
        Ba, Kiros and Hinton 2016, "Layer Normalization", equations 20 to 22
    """
    h, c = state
    size = h.shape[-1]
    first, candidate, last = torch.split(w.recurrent[0].onto(x, h), [2 * size, size, size], -1)
    i, f = torch.sigmoid(first).chunk(2, -1)
    g, o = torch.tanh(candidate), torch.sigmoid(last)
    c = torch.addcmul(f * c, i, g)
    seen = c if w.gain_cell is None else F.layer_norm(c, (size,), w.gain_cell, w.bias_cell)
    return Step((o * torch.tanh(seen), c), (i, f, g, o))


def gru_step(x: Tensor, state: State, w: Weights) -> Step:
    """(r, z) = sigm(W x + U h + b), n = tanh(W_n x + b_n + r * (U_n h + c_n)), h' = (1 - z) * n + z * h.

    The reset gate acts after the product with U_n, as in the library's kernels: the form of the paper's first version
    (arXiv v1); its later ones reset h before the product.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
        Translation"; with layer norm: Ba, Kiros and Hinton 2016, equations 23 to 25
    """
    (h,) = state
    size = h.shape[-1]
    x_gates, x_candidate = torch.split(x, [2 * size, size], -1)
    h_gates, h_candidate = torch.split(w.recurrent[0](h), [2 * size, size], -1)
    r, z = torch.sigmoid(x_gates + h_gates).chunk(2, -1)
    if w.bias_candidate is not None:
        h_candidate = h_candidate + w.bias_candidate
    n = torch.tanh(torch.addcmul(x_candidate, r, h_candidate))
    return Step((torch.lerp(n, h, z),), (r, z, n))


def mut1_step(x: Tensor, state: State, w: Weights) -> Step:
    """z = sigm(W_z x + b_z), r = sigm(W_r x + U_r h + b_r), h' = z * tanh(U_h (r * h) + tanh(x) + b_h) + (1 - z) * h.

    As in the paper where x has the size of h. Where it has not, the sum is not defined: tanh(E x) stands for tanh(x),
    with a learnt matrix E (H, D) that the paper does not have.

    Source: Jozefowicz, Zaremba and Sutskever 2015, "An Empirical Exploration of Recurrent Network Architectures",
        section 5.2, MUT1
    """
    (h,) = state
    x_z, x_r, x_h = x.chunk(3, -1)
    z, r = torch.sigmoid(x_z), torch.sigmoid(w.recurrent[0].onto(x_r, h))
    candidate = torch.tanh(w.recurrent[1].onto(x_h, r * h))
    return Step((torch.lerp(h, candidate, z),), (z, r, candidate))


def mut2_step(x: Tensor, state: State, w: Weights) -> Step:
    """(z, r) = sigm((W_z x, x) + U h + b), h' = z * tanh(U_h (r * h) + W_h x + b_h) + (1 - z) * h.

    As in the paper where x has the size of h, so that r = sigm(x + U_r h + b_r); else E x stands for that x, as in
    :func:`mut1_step`.

    Source: Jozefowicz, Zaremba and Sutskever 2015, section 5.2, MUT2
    """
    (h,) = state
    x_gates, x_h = torch.split(x, [2 * h.shape[-1], h.shape[-1]], -1)
    z, r = torch.sigmoid(w.recurrent[0].onto(x_gates, h)).chunk(2, -1)
    candidate = torch.tanh(w.recurrent[1].onto(x_h, r * h))
    return Step((torch.lerp(h, candidate, z),), (z, r, candidate))


def mut3_step(x: Tensor, state: State, w: Weights) -> Step:
    """As :func:`mut2_step`, with z = sigm(W_z x + U_z tanh(h) + b_z) and r = sigm(W_r x + U_r h + b_r).

    As in the paper.

    Source: Jozefowicz, Zaremba and Sutskever 2015, section 5.2, MUT3
    """
    (h,) = state
    x_z, x_r, x_h = x.chunk(3, -1)
    z = torch.sigmoid(w.recurrent[0].onto(x_z, torch.tanh(h)))
    r = torch.sigmoid(w.recurrent[1].onto(x_r, h))
    candidate = torch.tanh(w.recurrent[2].onto(x_h, r * h))
    return Step((torch.lerp(h, candidate, z),), (z, r, candidate))


def highway_step(x: Tensor, state: State, w: Weights) -> Step:
    """n = tanh(W_n x + U_n h + b_n), t = sigm(W_t x + U_t h + b_t), h' = t * n + (1 - t) * h.

    A recurrent highway layer of depth 1, whose carry gate is coupled to the transform gate t, as in the paper's
    experiments.

    Source: Zilly et al. 2017, "Recurrent Highway Networks", section 4, equations 6 to 9
    """
    (h,) = state
    pre_n, pre_t = w.recurrent[0].onto(x, h).chunk(2, -1)
    n, t = torch.tanh(pre_n), torch.sigmoid(pre_t)
    return Step((torch.lerp(h, n, t),), (n, t))


@dataclass(frozen=True)
class Spec:
    """What sets a cell apart.

    Args:
        step: its equations; x is the input's contribution to the gates (B, m H), biases included.
        inputs: blocks of H rows in the input weights.
        recurrent: blocks in the recurrent weights, in groups that meet the same vector.
        gates: their names, in the order in which a step gives them.
        states: tensors that are carried.
        direct: the block of the input's contribution that is the input itself, without a matrix.
        keep: the block of the bias that decides what is kept of the old state, and the sign with which it does.
    """

    step: Callable[[Tensor, State, Weights], Step]
    inputs: int
    recurrent: tuple[int, ...]
    gates: tuple[str, ...] = ()
    states: int = 1
    direct: int | None = None
    keep: tuple[int, int] | None = None

    @property
    def biases(self) -> int:
        """Blocks of the bias: one for each gate that the input reaches."""
        return self.inputs + (self.direct is not None)


SPECS: dict[Cell, Spec] = {
    "tanh": Spec(tanh_step, 1, (1,)),
    "relu": Spec(relu_step, 1, (1,)),
    "lstm": Spec(lstm_step, 4, (4,), ("input", "forget", "candidate", "output"), states=2, keep=(1, 1)),
    "gru": Spec(gru_step, 3, (3,), ("reset", "update", "candidate")),
    "mut1": Spec(mut1_step, 2, (1, 1), ("update", "reset", "candidate"), direct=2),
    "mut2": Spec(mut2_step, 2, (2, 1), ("update", "reset", "candidate"), direct=1),
    "mut3": Spec(mut3_step, 3, (1, 1, 1), ("update", "reset", "candidate")),
    "highway": Spec(highway_step, 2, (2,), ("candidate", "transform"), keep=(1, -1)),
}


def split_recurrent(cell: Cell, matrix: Tensor, gain: Tensor | None = None) -> tuple[Recurrence, ...]:
    """Cut recurrent weights (k H, H), and their gains (k H), into the groups of the cell's steps."""
    rows = [blocks * matrix.shape[1] for blocks in SPECS[cell].recurrent]
    gains = [None] * len(rows) if gain is None else torch.split(gain, rows)
    return tuple(Recurrence(part.t(), own) for part, own in zip(torch.split(matrix, rows), gains, strict=True))


def project(cell: Cell, w: Weights, x: Tensor) -> Tensor:
    """Compute what the input contributes to each gate in all steps: (T, B, D) to (T, B, m H).

    The result has the type of the weights even under autocast, which would make it bfloat16: the steps add to it, and
    sums of many small steps need the digits.
    """
    spec, size = SPECS[cell], w.recurrent[0].matrix.shape[0]
    if spec.direct is None and w.gain_inputs is None:
        return F.linear(x, w.inputs, w.bias).to(w.bias.dtype)
    through = F.linear(x, w.inputs).to(w.bias.dtype)
    if w.gain_inputs is not None:
        through = norm_blocks(through, size) * w.gain_inputs
    if spec.direct is None:
        return through + w.bias
    direct = (x if w.embedding is None else F.linear(x, w.embedding)).to(w.bias.dtype)
    blocks = list(through.chunk(spec.inputs, -1))
    blocks.insert(spec.direct, torch.tanh(direct) if cell == "mut1" else direct)
    return torch.cat(blocks, -1) + w.bias


def steps(cell: Cell, w: Weights, x: Tensor, state: State, nudges: State | None = None) -> Iterator[Step]:
    """Take the steps of a sequence (T, B, D) one by one, from a state of (B, H) each.

    Args:
        nudges: for each part of the state (T, B, H), added to it after each step.
    """
    step = SPECS[cell].step
    for number, contribution in enumerate(project(cell, w, x).unbind(0)):
        taken = step(contribution, state, w)
        if nudges is not None:
            moved = tuple(part + nudge[number] for part, nudge in zip(taken.state, nudges, strict=True))
            taken = taken._replace(state=moved)
        state = taken.state
        yield taken


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn sequences (B, T, ...) round in time, each within its own length (B); the padding stays behind."""
    if lengths is None:
        return x.flip(1)
    time = torch.arange(x.shape[1], device=x.device)
    source = torch.where(valid(lengths, x.shape[1]), lengths[:, None] - 1 - time, time)
    return x.gather(1, source[:, :, None].expand_as(x))


def valid(lengths: Tensor, steps: int) -> Tensor:
    """Tell which steps are part of a sequence: lengths (B) to booleans (B, T)."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def run(
    cell: Cell,
    w: Weights,
    x: Tensor,
    state: State,
    *,
    lengths: Tensor | None,
    backward: bool,
    nudges: State | None = None,
) -> tuple[Tensor, State]:
    """Take one direction of one layer through whole sequences.

    Padding needs no care in the steps: it lies behind the last step of a sequence, whose state is picked afterwards.

    Args:
        cell: name of the cell.
        w: its weights.
        x: (B, T, D).
        state: (B, H) each, before the first step in the direction's order.
        lengths: (B) int64 on the device of x, each from 1 to T; ``None`` if all are T.
        backward: whether the sequence is read from its end.
        nudges: as for :func:`steps`.

    Returns:
        outputs (B, T, H) in the order of x, zero beyond the lengths, and the state (B, H) each after the last step.
    """
    if backward:
        x = reverse(x, lengths)
    taken = [step.state for step in steps(cell, w, x.transpose(0, 1), state, nudges)]
    out = torch.stack([own[0] for own in taken], 1)
    final = taken[-1]
    if lengths is not None:
        last = (lengths - 1)[:, None, None].expand(-1, 1, out.shape[-1])
        others = (torch.stack([own[part] for own in taken], 1) for part in range(1, len(final)))
        final = tuple(series.gather(1, last).squeeze(1) for series in (out, *others))
        out = out * valid(lengths, out.shape[1])[:, :, None]
    return reverse(out, lengths) if backward else out, final
