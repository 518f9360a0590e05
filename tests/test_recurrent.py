"""The recurrent layers: equations written out in numpy, gradients, padding, carried states, initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dlrun.models import rnn, seq2seq
from dlrun.models.cells import CELLS, SPECS, Cell
from dlrun.models.recurrent import Recurrent
from dlrun.models.recurrent_weights import INITS

Array = npt.NDArray[np.float64]
FORMS = [(cell, norm) for cell in CELLS for norm in (False, True)]
QUICK_TO_EXPORT: list[tuple[Cell, bool]] = [("lstm", False), ("mut1", False)]
"""A kernel and steps; the other forms are exported in the slow suite."""
EPS = 1e-5


def test_the_names_of_options_are_those_of_the_layers() -> None:
    # Options are read from the file of a model without importing others, so that each has lists of its own.
    for module in (rnn, seq2seq):
        assert get_args(module.CellName) == CELLS
        assert get_args(module.RecurrentInit) == INITS
        assert get_args(module.Number) == get_args(rnn.Number)


def sigm(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def make(cell: Cell, inputs: int = 3, size: int = 4, **options: Any) -> Recurrent:
    """A layer in float64 whose parameters, biases and gains too, are all drawn from N(0, 0.5^2)."""
    net = Recurrent(inputs, size, cell=cell, **options).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.5)
    return net


def inputs_for(net: Recurrent, batch: int = 3, steps: int = 5) -> Tensor:
    return torch.randn(batch, steps, net.input_size, dtype=torch.float64)


def random_state(net: Recurrent, batch: int = 3) -> tuple[Tensor, ...]:
    return tuple(torch.randn_like(part) for part in net.initial_state(batch, "cpu", torch.float64))


def parameters(net: nn.Module) -> dict[str, Array]:
    """The parameters by the last part of their names."""
    return {name.rpartition(".")[2]: value.detach().numpy() for name, value in net.named_parameters()}


# The steps, as the papers write them: x (D), h (H), c (H) and the parameters of one layer.


def tanh_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    return np.tanh(p["weight_ih_l0"] @ x + p["bias_ih_l0"] + p["weight_hh_l0"] @ h + p["bias_hh_l0"]), c


def relu_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    return np.maximum(0, p["weight_ih_l0"] @ x + p["bias_ih_l0"] + p["weight_hh_l0"] @ h + p["bias_hh_l0"]), c


def lstm_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    pre = p["weight_ih_l0"] @ x + p["bias_ih_l0"] + p["weight_hh_l0"] @ h + p["bias_hh_l0"]
    i, f, g, o = np.split(pre, 4)
    c = sigm(f) * c + sigm(i) * np.tanh(g)
    return sigm(o) * np.tanh(c), c


def gru_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    w_r, w_z, w_n = np.split(p["weight_ih_l0"] @ x + p["bias_ih_l0"], 3)
    u_r, u_z, u_n = np.split(p["weight_hh_l0"] @ h + p["bias_hh_l0"], 3)
    r, z = sigm(w_r + u_r), sigm(w_z + u_z)
    return (1 - z) * np.tanh(w_n + r * u_n) + z * h, c


def mut1_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    w_z, w_r = np.split(p["weight_ih"], 2)
    u_r, u_h = np.split(p["weight_hh"], 2)
    b_z, b_r, b_h = np.split(p["bias"], 3)
    direct = p["embedding"] @ x if "embedding" in p else x
    z = sigm(w_z @ x + b_z)
    r = sigm(w_r @ x + u_r @ h + b_r)
    return np.tanh(u_h @ (r * h) + np.tanh(direct) + b_h) * z + h * (1 - z), c


def mut2_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    w_z, w_h = np.split(p["weight_ih"], 2)
    u_z, u_r, u_h = np.split(p["weight_hh"], 3)
    b_z, b_r, b_h = np.split(p["bias"], 3)
    direct = p["embedding"] @ x if "embedding" in p else x
    z = sigm(w_z @ x + u_z @ h + b_z)
    r = sigm(direct + u_r @ h + b_r)
    return np.tanh(u_h @ (r * h) + w_h @ x + b_h) * z + h * (1 - z), c


def mut3_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    w_z, w_r, w_h = np.split(p["weight_ih"], 3)
    u_z, u_r, u_h = np.split(p["weight_hh"], 3)
    b_z, b_r, b_h = np.split(p["bias"], 3)
    z = sigm(w_z @ x + u_z @ np.tanh(h) + b_z)
    r = sigm(w_r @ x + u_r @ h + b_r)
    return np.tanh(u_h @ (r * h) + w_h @ x + b_h) * z + h * (1 - z), c


def highway_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    pre_n, pre_t = np.split(p["weight_ih"] @ x + p["weight_hh"] @ h + p["bias"], 2)
    return np.tanh(pre_n) * sigm(pre_t) + h * (1 - sigm(pre_t)), c


def normed(x: Array) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + EPS)


def normed_blocks(x: Array, gain: Array, blocks: int) -> list[Array]:
    return [normed(part) * own for part, own in zip(np.split(x, blocks), np.split(gain, blocks), strict=True)]


def normed_parts(p: dict[str, Array], x: Array, h: Array, blocks: int) -> list[tuple[Array, Array]]:
    """What the input (bias included) and the state give to each gate."""
    from_x = normed_blocks(p["weight_ih"] @ x, p["gain_ih"], blocks)
    from_h = normed_blocks(p["weight_hh"] @ h, p["gain_hh"], blocks)
    return [(w + b, u) for w, u, b in zip(from_x, from_h, np.split(p["bias"], blocks), strict=True)]


def normed_tanh_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    ((w, u),) = normed_parts(p, x, h, 1)
    return np.tanh(w + u), c


def normed_lstm_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    i, f, g, o = (w + u for w, u in normed_parts(p, x, h, 4))
    c = sigm(f) * c + sigm(i) * np.tanh(g)
    return sigm(o) * np.tanh(normed(c) * p["gain_cell"] + p["bias_cell"]), c


def normed_gru_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    (w_r, u_r), (w_z, u_z), (w_n, u_n) = normed_parts(p, x, h, 3)
    r, z = sigm(w_r + u_r), sigm(w_z + u_z)
    return (1 - z) * np.tanh(w_n + r * (u_n + p["bias_candidate"])) + z * h, c


def normed_highway_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    (w_n, u_n), (w_t, u_t) = normed_parts(p, x, h, 2)
    t = sigm(w_t + u_t)
    return np.tanh(w_n + u_n) * t + h * (1 - t), c


def normed_mut2_step(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    w_z, w_h = normed_blocks(p["weight_ih"] @ x, p["gain_ih"], 2)
    u_z, u_r, u_h = np.split(p["weight_hh"], 3)
    g_z, g_r, g_h = np.split(p["gain_hh"], 3)
    b_z, b_r, b_h = np.split(p["bias"], 3)
    direct = p["embedding"] @ x if "embedding" in p else x
    z = sigm(w_z + normed(u_z @ h) * g_z + b_z)
    r = sigm(direct + normed(u_r @ h) * g_r + b_r)
    return np.tanh(normed(u_h @ (r * h)) * g_h + w_h + b_h) * z + h * (1 - z), c


StepFunction = Callable[[dict[str, Array], Array, Array, Array], tuple[Array, Array]]
WRITTEN_OUT: list[tuple[Cell, bool, StepFunction]] = [
    ("tanh", False, tanh_step),
    ("relu", False, relu_step),
    ("lstm", False, lstm_step),
    ("gru", False, gru_step),
    ("mut1", False, mut1_step),
    ("mut2", False, mut2_step),
    ("mut3", False, mut3_step),
    ("highway", False, highway_step),
    ("tanh", True, normed_tanh_step),
    ("lstm", True, normed_lstm_step),
    ("gru", True, normed_gru_step),
    ("mut2", True, normed_mut2_step),
    ("highway", True, normed_highway_step),
]


@pytest.mark.parametrize("inputs", [3, 4])
@pytest.mark.parametrize(("cell", "norm", "step"), WRITTEN_OUT)
def test_cells_follow_their_equations(cell: Cell, norm: bool, step: StepFunction, inputs: int) -> None:
    net = make(cell, inputs, layer_norm=norm)
    x, state = inputs_for(net), random_state(net)
    out, final = net(x, state)
    weights = parameters(net)
    for sample in range(len(x)):
        h, c = state[0][0, sample].numpy(), state[-1][0, sample].numpy()
        for time in range(x.shape[1]):
            h, c = step(weights, x[sample, time].numpy(), h, c)
            np.testing.assert_allclose(out[sample, time].detach().numpy(), h, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(final[0][0, sample].detach().numpy(), h, rtol=1e-9, atol=1e-12)
        if len(final) == 2:
            np.testing.assert_allclose(final[1][0, sample].detach().numpy(), c, rtol=1e-9, atol=1e-12)


def test_mut1_and_mut2_take_the_input_itself_where_it_has_the_size_of_the_state() -> None:
    for cell in ("mut1", "mut2"):
        assert "embedding" in parameters(make(cell, 3, 4))
        assert "embedding" not in parameters(make(cell, 4, 4))
        assert "embedding" not in parameters(make("mut3", 3, 4))


@pytest.mark.parametrize(("cell", "norm"), FORMS)
def test_gradients_agree_with_differences_through_five_steps(cell: Cell, norm: bool) -> None:
    net = make(cell, 2, 3, layer_norm=norm)
    names = [name for name, _ in net.named_parameters()]

    def run(x: Tensor, first: Tensor, second: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        state = (first, second)[: SPECS[cell].states]
        out, final = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x, state))
        return out, *final

    x = inputs_for(net, batch=2).requires_grad_()
    first, second = (torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    values = [value.detach().clone().requires_grad_() for value in net.parameters()]
    assert torch.autograd.gradcheck(run, (x, first, second, *values))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "norm"), FORMS)
def test_gates_are_those_of_forward(cell: Cell, norm: bool, bidirectional: bool) -> None:
    """For the cells with a kernel this also holds the steps against the kernel."""
    net = make(cell, layers=2, layer_norm=norm, bidirectional=bidirectional, dropout=0.5).eval()
    x, state = inputs_for(net), random_state(net)
    out, final = net(x, state)
    seen = net.gates(x, state)
    ways = 2 if bidirectional else 1
    assert len(seen) == 2 * ways
    torch.testing.assert_close(torch.cat([each["hidden"] for each in seen[-ways:]], -1), out)
    states = ("hidden", "cell")[: SPECS[cell].states]
    for index, each in enumerate(seen):
        assert set(each) == {*states, *SPECS[cell].gates}
        assert {tuple(series.shape) for series in each.values()} == {(3, 5, 4)}
        last = 0 if index % ways == 1 else -1
        for name, part in zip(states, final, strict=True):
            torch.testing.assert_close(each[name][:, last], part[index])
        for name in SPECS[cell].gates:
            low = -1 if name == "candidate" else 0
            assert each[name].min() >= low
            assert each[name].max() <= 1


def test_gates_have_their_meaning() -> None:
    net = make("lstm")
    x = inputs_for(net)
    (seen,) = net.gates(x)
    before = torch.cat([torch.zeros(3, 1, 4), seen["cell"][:, :-1]], 1)
    torch.testing.assert_close(seen["cell"], seen["forget"] * before + seen["input"] * seen["candidate"])
    torch.testing.assert_close(seen["hidden"], seen["output"] * torch.tanh(seen["cell"]))
    (seen,) = make("highway").gates(x)
    before = torch.cat([torch.zeros(3, 1, 4), seen["hidden"][:, :-1]], 1)
    gate = seen["transform"]
    torch.testing.assert_close(seen["hidden"], gate * seen["candidate"] + (1 - gate) * before)


def test_gates_leave_the_way_through_dropout_alone() -> None:
    net = make("gru", layers=2, dropout=0.5)
    x = inputs_for(net)
    in_training = net.gates(x)[-1]["hidden"]
    torch.testing.assert_close(in_training, net.eval()(x)[0])


@given(
    form=st.sampled_from(FORMS),
    bidirectional=st.booleans(),
    carried=st.booleans(),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    extra=st.integers(0, 2),
)
@settings(max_examples=40)
def test_padding_changes_nothing(
    form: tuple[Cell, bool], bidirectional: bool, carried: bool, lengths: list[int], extra: int
) -> None:
    """Each sequence of a padded batch has the outputs and the state that it has alone."""
    net = make(form[0], layers=2, layer_norm=form[1], bidirectional=bidirectional)
    x = inputs_for(net, len(lengths), max(lengths) + extra)
    state = random_state(net, len(lengths)) if carried else None
    out, final = net(x, state, torch.tensor(lengths))
    for sample, length in enumerate(lengths):
        one = slice(sample, sample + 1)
        own = None if state is None else tuple(part[:, one] for part in state)
        alone, own_final = net(x[one, :length], own)
        torch.testing.assert_close(out[one, :length], alone)
        assert (out[sample, length:] == 0).all()
        for part, own_part in zip(final, own_final, strict=True):
            torch.testing.assert_close(part[:, one], own_part)


@pytest.mark.parametrize(("cell", "norm"), [("lstm", False), ("lstm", True), ("mut2", False)])
def test_no_gradient_comes_from_the_padding(cell: Cell, norm: bool) -> None:
    net = make(cell, layers=2, layer_norm=norm, bidirectional=True)
    x = inputs_for(net).requires_grad_()
    out, final = net(x, None, torch.tensor([2, 5, 3]))
    (out.sum() + sum(part.sum() for part in final)).backward()
    assert x.grad is not None
    assert (x.grad[0, 2:] == 0).all()
    assert (x.grad[0, :2] != 0).all()


@given(form=st.sampled_from(FORMS), chunks=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=30)
def test_a_carried_state_makes_chunks_one_sequence(form: tuple[Cell, bool], chunks: list[int]) -> None:
    net = make(form[0], layers=2, layer_norm=form[1])
    x = inputs_for(net, 2, sum(chunks))
    whole, whole_state = net(x)
    state, outs = None, []
    for part in x.split(chunks, 1):
        out, state = net(part, state)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole)
    assert state is not None
    for part, whole_part in zip(state, whole_state, strict=True):
        torch.testing.assert_close(part, whole_part)


@pytest.mark.parametrize(("cell", "norm"), FORMS)
def test_the_initial_state_is_zeros(cell: Cell, norm: bool) -> None:
    net = make(cell, layers=2, layer_norm=norm, bidirectional=True)
    x = inputs_for(net)
    state = net.initial_state(3, "cpu", torch.float64)
    assert len(state) == (2 if cell == "lstm" else 1)
    for part in state:
        assert part.shape == (4, 3, 4)
        assert part.dtype == torch.float64
        assert (part == 0).all()
    torch.testing.assert_close(net(x, state)[0], net(x)[0], rtol=0, atol=0)
    assert net.output_size == net(x)[0].shape[-1] == 8


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_the_forget_gate_starts_at_its_bias(norm: bool, bidirectional: bool) -> None:
    """With weights at zero a gate is the sigmoid of its bias, however many biases make it up."""
    for recurrent_init in ("orthogonal", "default"):
        net = Recurrent(
            3,
            4,
            layers=2,
            layer_norm=norm,
            bidirectional=bidirectional,
            forget_bias=2.5,
            recurrent_init=recurrent_init,  # type: ignore[arg-type]
        )
        with torch.no_grad():
            for name, weight in net.named_parameters():
                if "weight" in name:
                    weight.zero_()
        for seen in net.gates(torch.randn(2, 3, 3)):
            torch.testing.assert_close(seen["forget"], torch.full((2, 3, 4), 2.5).sigmoid())
            if recurrent_init == "orthogonal":
                torch.testing.assert_close(seen["output"], torch.full((2, 3, 4), 0.5))


def test_highway_starts_by_carrying() -> None:
    (seen,) = Recurrent(3, 4, cell="highway", forget_bias=3.0, recurrent_init="identity").gates(torch.zeros(2, 1, 3))
    torch.testing.assert_close(seen["transform"], torch.full((2, 1, 4), -3.0).sigmoid())


@pytest.mark.parametrize(("cell", "norm"), FORMS)
def test_recurrent_matrices_are_orthogonal_gate_by_gate(cell: Cell, norm: bool) -> None:
    net = Recurrent(5, 6, cell=cell, layers=2, layer_norm=norm, bidirectional=True)
    matrices = [weight for name, weight in net.named_parameters() if "weight_hh" in name]
    assert len(matrices) == 4
    for matrix in matrices:
        assert len(matrix) == 6 * sum(SPECS[cell].recurrent)
        for block in matrix.split(6):
            torch.testing.assert_close(block @ block.T, torch.eye(6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "mut3"])
def test_the_other_initialisations(cell: Cell) -> None:
    def drawn(init: Any, part: str) -> Tensor:
        net = Recurrent(40, 60, cell=cell, recurrent_init=init)
        return torch.cat([weight.detach() for name, weight in net.named_parameters() if part in name])

    for block in drawn("identity", "weight_hh").split(60):
        torch.testing.assert_close(block, torch.eye(60))
    assert drawn("xavier", "weight_hh").std().item() == pytest.approx(60**-0.5, rel=0.03)
    for init in ("orthogonal", "xavier", "identity"):
        assert drawn(init, "weight_ih").std().item() == pytest.approx((2 / 100) ** 0.5, rel=0.03)
    for part in ("weight_hh", "weight_ih"):
        uniform = drawn("default", part)
        assert uniform.abs().max() <= 60**-0.5
        assert uniform.std().item() == pytest.approx(60**-0.5 / 3**0.5, rel=0.03)


def test_an_irnn_copies_its_state() -> None:
    """Identity and rectifiers: without input a positive state stays as it is."""
    net = Recurrent(2, 3, cell="relu", recurrent_init="identity")
    state = (torch.rand(1, 2, 3),)
    out, _ = net(torch.zeros(2, 20, 2), state)
    torch.testing.assert_close(out[:, -1], state[0][0])


@pytest.mark.parametrize(("cell", "norm"), [("lstm", False), ("lstm", True), ("highway", False)])
def test_dropout_acts_between_layers_alone(cell: Cell, norm: bool) -> None:
    net = make(cell, 8, 64, layers=2, layer_norm=norm, dropout=0.5)
    x = inputs_for(net)
    out, state = net(x)
    plain, plain_state = net.eval()(x)
    # The first layer's steps know nothing of it; the second layer's inputs are cut, its outputs are not.
    torch.testing.assert_close(state[0][0], plain_state[0][0])
    assert not torch.allclose(state[0][1], plain_state[0][1])
    assert (out != 0).all()
    net.train()
    torch.manual_seed(5)
    first, _ = net(x)
    torch.manual_seed(5)
    again, _ = net(x)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, plain)


@pytest.mark.parametrize("cell", ["gru", "mut1"])
def test_a_single_layer_has_nothing_to_drop(cell: Cell) -> None:
    net = make(cell, dropout=0.5)
    x = inputs_for(net)
    torch.testing.assert_close(net(x)[0], net.eval()(x)[0])


@pytest.mark.parametrize(("cell", "norm"), FORMS)
def test_weights_come_back_from_a_state_dict(cell: Cell, norm: bool) -> None:
    options: dict[str, Any] = {"layers": 2, "layer_norm": norm, "bidirectional": True}
    net, other = make(cell, **options), make(cell, **options)
    x = inputs_for(net)
    assert not torch.allclose(net(x)[0], other(x)[0])
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x)[0], other(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize(("cell", "norm"), FORMS)
def test_bfloat16_stays_near(cell: Cell, norm: bool) -> None:
    net = Recurrent(8, 16, cell=cell, layers=2, layer_norm=norm)
    x = torch.randn(4, 20, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out, state = net(x[:, :10])
        rest, _ = net(x[:, 10:], state)
    (out.float().sum() + rest.float().sum()).backward()
    exact, _ = net(x)
    torch.testing.assert_close(torch.cat([out, rest], 1).float(), exact, rtol=0.1, atol=0.1)
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_steps_keep_the_digits_of_small_changes_under_autocast() -> None:
    """A gate of 1/1000 moves the state at each step, which is below the last digit of a bfloat16 near one."""
    net = Recurrent(1, 1, cell="highway", forget_bias=7.0)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "weight" in name:
                weight.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = net(torch.zeros(1, 500, 1), (torch.ones(1, 1, 1),))
    kept = 1 - torch.tensor(-7.0).sigmoid().item()
    assert out[0, -1].item() == pytest.approx(kept**500, rel=1e-3)


# torch says so of its own list of an nn.RNNBase's parameters; what is exported is right, as the test sees.
@pytest.mark.filterwarnings("ignore:The tensor attributes self.kernel._flat_weights")
@pytest.mark.parametrize(
    ("cell", "norm"),
    [
        ("lstm", False),
        ("mut1", False),
        *(
            pytest.param(*form, marks=pytest.mark.slow)
            for form in FORMS
            if form not in (("lstm", False), ("mut1", False))
        ),
    ],
)
def test_forward_exports_with_a_free_batch_size(cell: Cell, norm: bool) -> None:
    net = Recurrent(5, 6, cell=cell, layers=2, layer_norm=norm).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(net, (torch.randn(3, 3, 5),), dynamic_shapes={"x": {0: batch}})
    for size in (1, 7):
        x = torch.randn(size, 3, 5)
        out, state = exported.module()(x)
        expected, expected_state = net(x)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(state, expected_state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cell": "elman"}, "cell must be one of tanh"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1"),
        ({"recurrent_init": "zeros"}, "recurrent_init must be one of orthogonal"),
        ({"cell": "gru", "forget_bias": 0.0}, "forget_bias=0 has no effect with cell=gru"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recurrent(3, 4, **options)


@pytest.mark.parametrize("cell", ["lstm", "mut1"])
def test_wrong_inputs_are_named(cell: Cell) -> None:
    net = Recurrent(3, 4, cell=cell)
    x = torch.randn(2, 5, 3)
    with pytest.raises(ValueError, match=r"inputs must be \(batch, steps >= 1, 3\), got \(2, 5, 4\)"):
        net(torch.randn(2, 5, 4))
    with pytest.raises(ValueError, match=r"got \(2, 0, 3\)"):
        net(x[:, :0])
    with pytest.raises(ValueError, match=r"the state of (lstm|mut1) must be \d x \(1, 2, 4\) for these inputs"):
        net(x, net.initial_state(3, "cpu", torch.float32))
    with pytest.raises(ValueError, match=r"must be \d x \(1, 2, 4\)"):
        net.gates(x, (torch.zeros(1, 2, 4),) * 3)
    with pytest.raises(ValueError, match=r"lengths must be from 1 to 5, got \[0, 5\]"):
        net(x, None, torch.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"lengths must be from 1 to 5, got \[6, 5\]"):
        net(x, None, torch.tensor([6, 5]))
    with pytest.raises(ValueError, match="lengths must be 2 values of int64"):
        net(x, None, torch.tensor([1.0, 2.0]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("cell", "norm"), FORMS)
def test_a_cuda_device_gives_the_same(cell: Cell, norm: bool) -> None:
    net = make(cell, layers=2, layer_norm=norm, bidirectional=True)
    x, lengths = inputs_for(net), torch.tensor([2, 5, 3])
    out, state = net(x, None, lengths)
    net.cuda()
    there, state_there = net(x.cuda(), None, lengths)
    torch.testing.assert_close(there.cpu(), out)
    for part, part_there in zip(state, state_there, strict=True):
        torch.testing.assert_close(part_there.cpu(), part)
