"""Operations on colours and neighbourhoods: equal to torchvision's, one image at a time with the same parameters.

On float images both compute the same, up to float32's rounding. Of uint8 images torchvision's results may lie a level
lower: it cuts fractions off where dlrun rounds; two levels where it also cuts off the brightness that it mixes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, Dlrun
from hypothesis import given, settings
from hypothesis import strategies as st
from running import config as tiny_config
from running import make_fit
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dlrun import assembly
from dlrun.augment.autocontrast import stretch_levels
from dlrun.augment.colour_jitter import jitter
from dlrun.augment.draws import beta, on_host
from dlrun.augment.equalize import even_levels
from dlrun.augment.gaussian_blur import blur
from dlrun.augment.gaussian_noise import add
from dlrun.augment.grayscale import without_colour
from dlrun.augment.invert import negative
from dlrun.augment.pca_colour import offset
from dlrun.augment.policy import Operation, apply_each, operations
from dlrun.augment.posterize import keep_bits
from dlrun.augment.rand_augment import reach
from dlrun.augment.sharpness import sharpen
from dlrun.augment.solarize import invert_above
from dlrun.augment.torchvision import one_by_one, transforms
from dlrun.augment.trivial_augment import WIDE
from dlrun.data.colours import Colours, fit_colours
from dlrun.data.source import ArraySource
from dlrun.errors import UserError
from dlrun.registry import AUGMENTATIONS

FEW = settings(max_examples=25)
LAYOUTS = [torch.contiguous_format, torch.channels_last]

Batched = Callable[[Tensor, Tensor], Tensor]
OneImage = Callable[[Tensor, float], Tensor]

GRAY: Callable[[Tensor, float], Tensor] = lambda x, _: functional.rgb_to_grayscale(x, len(x)) if len(x) == 3 else x  # noqa: E731

OPERATIONS: dict[str, tuple[Batched, OneImage, tuple[float, float], int]] = {
    "brightness": (lambda x, a: jitter(x, a[:, None].expand(-1, 4), (0,)), functional.adjust_brightness, (0, 2.5), 1),
    "contrast": (lambda x, a: jitter(x, a[:, None].expand(-1, 4), (1,)), functional.adjust_contrast, (0, 2), 2),
    "saturation": (lambda x, a: jitter(x, a[:, None].expand(-1, 4), (2,)), functional.adjust_saturation, (0, 2), 2),
    "hue": (lambda x, a: jitter(x, a[:, None].expand(-1, 4), (3,)), functional.adjust_hue, (-0.5, 0.5), 1),
    "grayscale": (lambda x, a: without_colour(x), GRAY, (0, 1), 1),
    "sharpness": (sharpen, functional.adjust_sharpness, (0, 2), 1),
    "autocontrast": (lambda x, a: stretch_levels(x), lambda x, a: functional.autocontrast(x), (0, 1), 1),
    "invert": (lambda x, a: negative(x), lambda x, a: functional.invert(x), (0, 1), 0),
    "blur": (lambda x, a: blur(x, a, 3), lambda x, a: functional.gaussian_blur(x, [3, 3], [a, a]), (0.3, 3), 1),
}
"""Name -> batched, torchvision's, bounds of the parameter, levels that uint8 may differ by."""


@pytest.fixture
def dlrun(capsys: pytest.CaptureFixture[str]) -> Dlrun:
    return Dlrun(capsys)


def images(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, height, width), generator=random, dtype=torch.uint8)


@FEW
@given(
    name=st.sampled_from(sorted(OPERATIONS)),
    batch=st.integers(1, 6),
    channels=st.sampled_from([1, 3]),
    height=st.integers(2, 20),
    width=st.integers(2, 20),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 1000),
)
def test_equals_torchvision_image_by_image(
    name: str, batch: int, channels: int, height: int, width: int, layout: torch.memory_format, seed: int
) -> None:
    batched, one, (low, high), levels = OPERATIONS[name]
    given_images = images(batch, channels, height, width, seed).contiguous(memory_format=layout)
    before = given_images.clone()
    amounts = torch.rand(batch, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
    result, exact = batched(given_images, amounts), batched(given_images.float(), amounts)
    for i in range(batch):
        expected = one(before[i].contiguous() / 255, float(amounts[i])) * 255
        assert (exact[i] - expected).abs().max() < 0.01
        apart = (result[i].int() - one(before[i].contiguous(), float(amounts[i])).int()).abs().max()
        assert apart <= levels
    assert (result - exact).abs().max() <= 0.501
    assert result.dtype == torch.uint8
    assert exact.dtype == torch.float32
    assert result.is_contiguous(memory_format=layout)
    assert given_images.equal(before)


@FEW
@given(
    batch=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    side=st.integers(1, 24),
    seed=st.integers(0, 1000),
    spread=st.integers(0, 255),
    layout=st.sampled_from(LAYOUTS),
)
def test_whole_number_operations_equal_torchvision_exactly(
    batch: int, channels: int, side: int, seed: int, spread: int, layout: torch.memory_format
) -> None:
    given_images = (images(batch, channels, side, side + 1, seed) % (spread + 1)).contiguous(memory_format=layout)
    random = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 9, (batch,), generator=random)
    thresholds = torch.rand(batch, generator=random) * 255
    kept, inverted = keep_bits(given_images, bits), invert_above(given_images, thresholds)
    even = even_levels(given_images)
    for i in range(batch):
        image = given_images[i].contiguous()
        assert kept[i].equal(functional.posterize(image, int(bits[i])))
        assert inverted[i].equal(functional.solarize(image, float(thresholds[i])))
        assert even[i].equal(functional.equalize(image))
    for changed, made in (
        (kept, keep_bits(given_images.float(), bits)),
        (inverted, invert_above(given_images.float(), thresholds)),
        (even, even_levels(given_images.float())),
    ):
        assert made.equal(changed.float())
        assert changed.is_contiguous(memory_format=layout)


def test_several_changes_of_colour_are_rounded_once() -> None:
    batch, order = images(4, 3, 9, 7), (3, 1, 0, 2)
    amounts = torch.tensor([[1.3, 0.7, 1.2, 0.1], [0.6, 1.4, 0.5, -0.4], [1.0, 1.0, 1.0, 0.0], [0.9, 1.1, 1.4, 0.5]])
    result = jitter(batch, amounts, order)
    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for i in range(4):
        expected = batch[i] / 255
        for number in order:
            expected = changes[number](expected, float(amounts[i, number]))
        assert (result[i] - expected * 255).abs().max() < 0.51
    assert result[2].equal(batch[2])


def test_a_large_image_is_its_blocks() -> None:
    large = images(5, 3, 250, 240)
    amounts = torch.tensor([0.5, 0.8, 1.0, 1.3, 1.7])
    whole = sharpen(large, amounts)
    for i in range(5):
        assert whole[i : i + 1].equal(sharpen(large[i : i + 1], amounts[i : i + 1]))


def test_blur_refuses_images_that_it_cannot_mirror() -> None:
    with pytest.raises(ValueError, match="kernel_size=9 is too large for images of 4x8: use 7 or less"):
        blur(images(1, 3, 4, 8), torch.ones(1), 9)
    with pytest.raises(UserError, match="kernel_size=4 must be odd"):
        AUGMENTATIONS.build("gaussian_blur", {"kernel_size": 4})


def test_noise_is_added_in_the_units_of_the_pixels() -> None:
    gray = torch.full((50, 1, 40, 40), 128, dtype=torch.uint8)
    noisy = AUGMENTATIONS.build("gaussian_noise", {"std": 0.1})(gray, torch.Generator().manual_seed(0)).float()
    assert noisy.mean().item() == pytest.approx(128, abs=0.5)
    assert noisy.std().item() == pytest.approx(25.5, rel=0.01)
    loud = add(gray[:2], torch.tensor([1e6, 0.0]), torch.Generator())
    assert loud[0].unique().tolist() == [0, 255]
    assert loud[1].equal(gray[1])
    some = AUGMENTATIONS.build("gaussian_noise", {"std": 0.1, "p": 0.3})(gray, torch.Generator().manual_seed(1))
    assert 5 <= (some != gray).flatten(1).any(1).sum() <= 25


def factors_of(option: str, amount: float, level: int) -> Tensor:
    """What brightness multiplied each of many even images with."""
    even = torch.full((4000, 1, 2, 2), float(level))
    options = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, option: amount}
    changed = AUGMENTATIONS.build("colour_jitter", options)(even, torch.Generator().manual_seed(3))
    return changed[:, 0, 0, 0] / level


def test_factors_are_uniform_around_one() -> None:
    factors = factors_of("brightness", 0.4, 100)
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4
    shares = torch.histc(factors, 8, 0.6, 1.4) / 4000
    assert (shares - 1 / 8).abs().max() < 5 * (1 / 8 / 4000) ** 0.5
    # An amount above 1 stops at black.
    assert factors_of("brightness", 1.5, 50).min() < 0.01


def test_the_order_of_the_changes_varies_between_calls() -> None:
    # Brightness first cuts off at white; contrast first does not.
    batch = images(1, 1, 4, 4)
    augment = AUGMENTATIONS.build("colour_jitter", {"brightness": 1.0, "contrast": 1.0})
    seen = {float(augment(batch, torch.Generator().manual_seed(seed)).float().std()) for seed in range(6)}
    assert len(seen) == 6
    assert augment(batch, torch.Generator().manual_seed(0)).equal(augment(batch, torch.Generator().manual_seed(0)))


def test_a_jitter_of_nothing_is_a_copy() -> None:
    batch = images(2, 3, 4, 4)
    options = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    same = AUGMENTATIONS.build("colour_jitter", options)(batch, torch.Generator())
    assert same.equal(batch)
    assert same.data_ptr() != batch.data_ptr()


# The colours of the training split


@FEW
@given(seed=st.integers(0, 1000), count=st.integers(1, 30), channels=st.sampled_from([1, 3]))
def test_colours_equal_numpy(seed: int, count: int, channels: int) -> None:
    batch = images(count, channels, 5, 6, seed)
    # Channels that depend on each other.
    batch[:, 0] = batch[:, 0] // 2 + batch[:, -1] // 2
    found = fit_colours(ArraySource(batch, torch.zeros(count, dtype=torch.int64)))
    pixels = batch.numpy().transpose(1, 0, 2, 3).reshape(channels, -1) / 255
    covariance = np.cov(pixels, bias=True).reshape(channels, channels)
    rebuilt = found.axes.double() @ found.variances.double().diag() @ found.axes.double().T
    assert np.allclose(rebuilt.numpy(), covariance, atol=1e-7)
    assert np.allclose((found.axes.T @ found.axes).numpy(), np.eye(channels), atol=1e-6)
    assert (found.variances.diff() <= 0).all()
    assert all(found.axes[:, k].max() == found.axes[:, k].abs().max() for k in range(channels))


def test_the_offset_follows_the_axes() -> None:
    colours = Colours(torch.tensor([[0.6, 0.0, -0.8], [0.8, 0.0, 0.6], [0.0, 1.0, 0.0]]), torch.tensor([0.2, 0.1, 0.0]))
    gray = torch.full((4000, 3, 1, 1), 128.0)
    changed = AUGMENTATIONS.build("pca_colour", {"std": 0.1}, colours=colours)(gray, torch.Generator().manual_seed(0))
    along = (changed - 128)[:, :, 0, 0] @ colours.axes
    assert torch.allclose(along.std(0), torch.tensor([0.02, 0.01, 0.0]) * 255, rtol=0.05, atol=1e-4)
    assert along.mean(0).abs().max() < 0.3
    assert offset(gray[:1], torch.tensor([[1.0, 200.0, -200.0]])).flatten().tolist() == [129, 255, 0]


def test_colours_are_measured_once_and_lie_in_the_checkpoint(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = make_fit(tmp_path, "augment=[pca_colour]", callbacks={})
    saved = fit.payload()["data"]
    assert saved["colours"]["variances"].shape == (3,)
    monkeypatch.setattr("dlrun.assembly.data.fit_colours", lambda source: pytest.fail("measured again"))
    chosen = tiny_config("augment=[pca_colour]")
    cpu = torch.device("cpu")
    again = assembly.build_feed(chosen, cpu, earlier=saved)
    assert again.state_dict()["colours"]["axes"].equal(saved["colours"]["axes"])
    # An evaluation too rebuilds itself from the checkpoint.
    assert assembly.build_feed(chosen, cpu, stored=saved).sizes()["train"] > 0
    assert "colours" not in assembly.build_feed(tiny_config(), cpu).state_dict()


# Policies


class _Reference(v2.TrivialAugmentWide):
    def apply(self, image: Tensor, name: str, amount: float) -> Tensor:
        fill: dict[Any, Any] = {}
        changed: Tensor = self._apply_image_or_video_transform(image, name, amount, v2.InterpolationMode.NEAREST, fill)
        return changed


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("space", "own"), [(v2.TrivialAugmentWide, WIDE), (v2.RandAugment, reach(16, 20))])
def test_operations_of_policies_equal_those_of_torchvision(space: Any, own: Any, channels: int) -> None:
    smooth = functional.resize(images(3, channels, 6, 8), [16, 20])
    known = operations(own, "nearest", 0.0)
    assert list(known) == list(space._AUGMENTATION_SPACE)
    for name, operation in known.items():
        magnitudes, signed = space._AUGMENTATION_SPACE[name]
        values = magnitudes(31, 16, 20)
        assert operation.signed == signed
        for strength in (0, 7, 15, 30):
            amount = operation.start + (operation.end - operation.start) * strength / 30
            if values is not None:
                wanted = values[strength] * 255 if name == "Solarize" else values[strength]
                found = round(amount) if name == "Posterize" else amount
                assert found == pytest.approx(float(wanted), abs=1e-4)
            for sign in (1, -1) if signed else (1,):
                got = operation.apply(smooth, torch.full((3,), amount * sign))
                # In its own units torchvision counts solarising from 0 to 1, and cuts a shift of 15.99999 off.
                theirs = amount * sign / 255 if name == "Solarize" else round(amount, 4) * sign
                expected = torch.stack([_Reference().apply(image, name, theirs) for image in smooth])
                apart = (got.int() - expected.int()).abs()
                # A place right between two pixels may be read on either side.
                assert (apart > 2).float().mean() < 0.01, (name, strength, sign)


def test_each_image_gets_its_operation_and_amount() -> None:
    batch = images(7, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    known = [
        Operation(lambda some, amounts: some),
        Operation(lambda some, amounts: negative(some)),
        Operation(lambda some, amounts: torch.ones_like(some) * amounts.to(torch.uint8)[:, None, None, None]),
    ]
    choice = torch.tensor([2, 0, 1, 2, 0, 2, 1])
    result = apply_each(batch, choice, torch.arange(7.0), known)
    for i, operation in enumerate(choice.tolist()):
        assert result[i].equal((batch[i], ~batch[i], torch.full_like(batch[i], i))[operation])
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_operations_and_strengths_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Tensor, Tensor]] = []

    def note(batch: Tensor, choice: Tensor, amounts: Tensor, known: Any) -> Tensor:
        drawn.append((choice, amounts))
        return batch

    monkeypatch.setattr("dlrun.augment.policy.apply_each", note)
    batch = images(14_000, 1, 1, 1)
    AUGMENTATIONS.build("trivial_augment", {})(batch, torch.Generator().manual_seed(0))
    ((choice, amounts),) = drawn
    assert (choice.bincount(minlength=14) - 1000).abs().max() < 5 * 1000**0.5
    turns = amounts[choice == 5] / 135 * 30
    assert turns.round().unique().tolist() == list(range(-30, 31))
    assert abs((turns > 0).float().mean() - 30 / 62) < 0.08
    assert amounts[choice == 11].min() == 0
    assert amounts[choice == 11].max() == 255
    drawn.clear()
    AUGMENTATIONS.build("rand_augment", {"operations": 3, "magnitude": 15.0})(batch, torch.Generator())
    assert len(drawn) == 3
    assert drawn[0][1][drawn[0][0] == 5].abs().unique().tolist() == [15.0]
    assert not drawn[0][0].equal(drawn[1][0])


# torchvision, one by one


def test_every_transform_that_keeps_an_image_can_be_chosen() -> None:
    assert {"RandomPosterize", "ColorJitter", "ElasticTransform", "AutoAugment", "JPEG"} <= set(transforms())
    assert not {"MixUp", "CutMix", "Transform"} & set(transforms())


def test_a_transform_draws_for_each_image_and_leaves_the_global_randomness_alone() -> None:
    same = images(1, 3, 8, 8).expand(40, 3, 8, 8).contiguous()
    augment = AUGMENTATIONS.build(
        "torchvision", {"transform": "RandomHorizontalFlip", "options": {"p": 0.5}}, input_shape=(3, 8, 8)
    )
    state = torch.get_rng_state()
    flipped = (augment(same, torch.Generator().manual_seed(0)) != same).flatten(1).any(1)
    assert 8 <= flipped.sum() <= 32
    assert torch.get_rng_state().equal(state)
    seeds = torch.arange(3)
    transform = v2.ColorJitter(brightness=0.5)
    result = one_by_one(same[:3], transform, seeds)
    for i in range(3):
        torch.manual_seed(i)
        assert result[i].equal(transform(same[i]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"transform": "RandomPosterise"},
            "torchvision has no transform 'RandomPosterise'; did you mean RandomPosterize",
        ),
        ({"transform": "MixUp"}, "MixUp mixes labels too; use the augmentation mixup"),
        (
            {"transform": "RandomPosterize", "options": {"bitz": 4}},
            "torchvision's RandomPosterize has no option 'bitz'; did you mean bits",
        ),
        ({"transform": "RandomPosterize"}, "RandomPosterize refuses its options: .*bits"),
        (
            {"transform": "CenterCrop", "options": {"size": 4}},
            r"CenterCrop makes \(3, 4, 4\) torch.uint8 of images of \(3, 8, 8\) torch.uint8, but must keep",
        ),
        ({"transform": "ToPILImage"}, "ToPILImage makes Image of images"),
        (
            {"transform": "Normalize", "options": {"mean": [0.5], "std": [0.5]}},
            r"Normalize cannot take images of shape \(3, 8, 8\) and type uint8",
        ),
    ],
)
def test_a_transform_that_does_not_fit_is_refused_before_the_run(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AUGMENTATIONS.build("torchvision", options, input_shape=(3, 8, 8))


# Draws


def test_numbers_for_the_host_come_from_the_same_stream() -> None:
    generator = torch.Generator().manual_seed(1)
    assert on_host(generator) is generator


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_follow_the_beta_distribution(alpha: float) -> None:
    drawn = beta(20_000, alpha, torch.Generator().manual_seed(0))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.015)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.04)


@pytest.mark.parametrize("alpha", [1e-4, 0.01, 0.05])
def test_weights_of_a_small_alpha_are_at_the_ends(alpha: float) -> None:
    """Where both gamma variables are below the smallest number, too."""
    drawn = beta(20_000, alpha, torch.Generator().manual_seed(0)).double()
    assert drawn.isfinite().all()
    expected = stats.beta(alpha, alpha).cdf(0.9) - stats.beta(alpha, alpha).cdf(0.1)
    assert ((drawn > 0.1) & (drawn < 0.9)).double().mean().item() == pytest.approx(expected, rel=0.2, abs=1e-3)
    assert (drawn < 0.5).double().mean().item() == pytest.approx(0.5, abs=0.015)


# The contact sheet


def test_the_contact_sheet_shows_images_and_draws(tmp_path: Any, dlrun: Dlrun) -> None:
    from PIL import Image

    words = [word for word in TINY if not word.startswith("augment")]
    for augment, name in (("[colour_jitter]", "a.png"), ("[mixup]", "b.png")):
        path = tmp_path / name
        done = dlrun("show", "augment", *words, f"augment={augment}", f"output={path}", "images=3", "draws=2")
        assert (done.code, done.out) == (0, f"{path}\n"), done.err
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 3 * 90
            assert len(np.unique(np.asarray(picture))) > 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("augment=none",), "there is no augmentation to show"),
        (("augment=[colour_jiter]",), "did you mean colour_jitter"),
        (("augment=[invert]", "draws=0"), "draws=0: must be a whole number >= 1"),
        (("augment=[invert]", "output=no/such/folder/x.png"), "no/such/folder/x.png: cannot be written"),
    ],
)
def test_a_contact_sheet_that_cannot_be_drawn(words: tuple[str, ...], message: str, dlrun: Dlrun) -> None:
    kept = [word for word in TINY if not word.startswith("augment")]
    done = dlrun("show", "augment", *kept, *words)
    assert done.code == 2
    assert message in done.err


def test_a_component_is_shown_as_before(dlrun: Dlrun) -> None:
    done = dlrun("show", "augment", "colour_jitter")
    assert done.code == 0
    assert "hue" in done.out
    assert "means nothing here" in dlrun("show", "augment", "invert", "draws=3").err


# CUDA


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "name",
    [
        *("colour_jitter", "grayscale", "gaussian_noise", "gaussian_blur", "posterize", "solarize", "invert"),
        *("autocontrast", "equalize", "sharpness", "trivial_augment", "rand_augment", "pca_colour"),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_cuda_nothing_waits_for_the_device(name: str, layout: torch.memory_format) -> None:
    colours = Colours(torch.eye(3), torch.tensor([0.2, 0.1, 0.05]))
    values = AUGMENTATIONS.check(name, {})[0]
    augment = AUGMENTATIONS.build(name, values, colours=colours)
    batch = images(64, 3, 16, 16).contiguous(memory_format=layout).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    augment(batch, generator)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one, other = augment(batch, generator), augment(batch, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not one.equal(other)
    assert one.dtype == torch.uint8
    assert one.is_contiguous(memory_format=layout)
    again = torch.Generator("cuda").manual_seed(0)
    augment(batch, again)
    assert augment(batch, again).equal(one)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_operations_give_the_same_on_cuda() -> None:
    batch = images(6, 3, 12, 12)
    for batched, _, (low, high), _ in OPERATIONS.values():
        amounts = torch.linspace(low, high, 6)
        apart = (batched(batch, amounts).int() - batched(batch.cuda(), amounts.cuda()).cpu().int()).abs()
        assert apart.max() <= 1
    assert even_levels(batch.cuda()).cpu().equal(even_levels(batch))
