"""Geometric augmentations: equal to torchvision's functions, applied image by image with the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from dlrun.augment.affine import RandomAffine, affine_matrices
from dlrun.augment.base import Place, change_where
from dlrun.augment.elastic import displace, smooth
from dlrun.augment.erase import erase
from dlrun.augment.horizontal_flip import coin
from dlrun.augment.lens_distortion import distort
from dlrun.augment.perspective import corner_matrices
from dlrun.augment.random_resized_crop import resized_crop
from dlrun.augment.resample import BLOCK_NUMBERS, warp
from dlrun.augment.translate import shift
from dlrun.augment.windows import Windows, draw_windows
from dlrun.errors import UserError
from dlrun.registry import AUGMENTATIONS

FEW = settings(derandomize=True, deadline=None, max_examples=25)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]

Reference = Callable[[int, Tensor], Tensor]
"""What image number ``i``, float (C, H, W), should become."""


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


@st.composite
def pictures(draw: st.DrawFn) -> Tensor:
    """Smooth images, so that a reading that is off by a little is not off by much: (B, C, H, W)."""
    batch, channels = draw(st.integers(1, 6)), draw(st.sampled_from([1, 3]))
    height, width = draw(st.integers(3, 20)), draw(st.integers(3, 20))
    dtype, layout = draw(st.sampled_from([torch.uint8, torch.float32])), draw(st.sampled_from(LAYOUTS))
    random = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    coarse = torch.rand(batch, channels, 4, 4, generator=random) * 255
    smooth_image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth_image.round().to(dtype).contiguous(memory_format=layout)


def numbers(count: int, low: float, high: float, seed: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def check(result: Tensor, images: Tensor, reference: Reference, nearest: bool = False, share: float = 0.0) -> None:
    """Compare with the reference, image by image, and check what every augmentation keeps.

    With ``nearest``, a place half-way between two pixels may be read on either side: a ``share`` of the pixels.
    """
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert result.stride() == images.stride() or 1 in images.shape
    for i in range(len(images)):
        expected = reference(i, images[i].float().contiguous()).to(result.device)
        wrong = (result[i].float() - expected).abs() > (0.51 if images.dtype == torch.uint8 else 0.02)
        if nearest:
            assert wrong.float().mean() <= share
        else:
            assert not wrong.any()


@FEW
@given(
    images=pictures(),
    seed=st.integers(0, 99),
    mode=st.sampled_from(["nearest", "bilinear"]),
    fill=st.sampled_from([0.0, 90.0]),
)
def test_warp_equals_torchvisions_affine(images: Tensor, seed: int, mode: Any, fill: float) -> None:
    before, count = images.clone(), len(images)
    height, width = images.shape[2:]
    limits = {
        "angle": (-180, 180),
        "translate_x": (-width / 2, width / 2),
        "translate_y": (-height / 2, height / 2),
        "scale": (0.5, 2),
        "shear_x": (-50, 50),
        "shear_y": (-50, 50),
    }
    drawn = {name: numbers(count, *ends, seed + i) for i, (name, ends) in enumerate(limits.items())}
    size = drawn.pop("scale")
    matrices = affine_matrices(count, **drawn, scale_x=size, scale_y=size)  # type: ignore[arg-type]

    def reference(i: int, image: Tensor) -> Tensor:
        value = {name: given_numbers[i].item() for name, given_numbers in drawn.items()}
        return (
            functional.affine(
                image - fill,
                value["angle"],
                [value["translate_x"], value["translate_y"]],
                size[i].item(),
                [value["shear_x"], value["shear_y"]],
                InterpolationMode(mode),
            )
            + fill
        )

    check(warp(images, matrices, interpolation=mode, fill=fill), images, reference, mode == "nearest", 0.02)
    assert images.equal(before)


def test_axes_are_scaled_before_they_are_sheared_and_turned() -> None:
    numbers_of_one = {"scale_x": 2.0, "scale_y": 0.5, "shear_x": 20.0, "angle": 30.0, "translate_x": 3.0}
    whole = affine_matrices(1, **numbers_of_one)[0]
    square = torch.cat((whole, torch.tensor([[0.0, 0.0, 1.0]])))
    lean, turn = math.tan(math.radians(20)), math.radians(30)
    steps = [
        torch.tensor([[2, 0, 0], [0, 0.5, 0], [0, 0, 1]]),
        torch.tensor([[1, -lean, 0], [0, 1, 0], [0, 0, 1]]),
        torch.tensor([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]]),
        torch.tensor([[1.0, 0, 3], [0, 1, 0], [0, 0, 1]]),
    ]
    product = torch.eye(3)
    for step in steps:
        product = step @ product
    torch.testing.assert_close(square @ product, torch.eye(3), atol=1e-5, rtol=0)


@FEW
@given(images=pictures(), mode=st.sampled_from(["nearest", "bilinear"]), fill=st.sampled_from([0.0, 90.0, "edge"]))
def test_the_identity_changes_nothing(images: Tensor, mode: Any, fill: Any) -> None:
    count, (height, width) = len(images), images.shape[2:]
    corners = torch.tensor([[-1.0, -1.0], [1, -1], [1, 1], [-1, 1]]) * torch.tensor([width / 2, height / 2])
    nothing = torch.zeros(count, dtype=torch.int64)
    whole = Windows(nothing, nothing, nothing + height, nothing + width)
    how = {"interpolation": mode, "fill": fill}
    results = [
        warp(images, affine_matrices(count), **how),
        warp(images, corner_matrices(corners.expand(count, 4, 2), (height, width)), **how),
        distort(images, torch.zeros(count), **how),
        displace(images, torch.zeros(count, 2, 3, 3), **how),
        shift(images, nothing, nothing, (2, 1), fill=fill),
        resized_crop(images, whole, interpolation=mode),
        erase(images, Windows(nothing, nothing, nothing, nothing + 1), 7.0),
    ]
    for result in results:
        check(result, images, lambda i, image: image)
        assert result.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_the_edge_goes_on_outside(mode: Any) -> None:
    ramp = torch.arange(8, dtype=torch.uint8).mul(30).view(1, 1, 1, 8).expand(2, 3, 8, 8).contiguous()
    moved = warp(ramp, affine_matrices(2, translate_x=torch.tensor([3.0, -3.0])), interpolation=mode, fill="edge")
    assert moved[0, 0, 4].tolist() == [0, 0, 0, 0, 30, 60, 90, 120]
    assert moved[1, 0, 4].tolist() == [90, 120, 150, 180, 210, 210, 210, 210]


@FEW
@given(images=pictures(), seed=st.integers(0, 99), mode=st.sampled_from(["nearest", "bilinear"]))
def test_warp_equals_torchvisions_perspective(images: Tensor, seed: int, mode: Any) -> None:
    count, (height, width) = len(images), images.shape[2:]
    inward = numbers(count * 8, 0.4, 1, seed).view(count, 4, 2)
    corners = torch.tensor([[-1.0, -1.0], [1, -1], [1, 1], [-1, 1]]) * torch.tensor([width / 2, height / 2]) * inward
    matrices = corner_matrices(corners, (height, width))
    # torchvision counts pixels from the outer corner of the image.
    move = torch.tensor([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]]).double()

    def reference(i: int, image: Tensor) -> Tensor:
        # The eight equations, solved: each corner of the result is read at a corner of the image.
        rows, right = [], []
        for (x, y), (u, v) in zip(
            (corners[i].double() + move[:2, 2]).tolist(),
            [(0, 0), (width, 0), (width, height), (0, height)],
            strict=True,
        ):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            right += [u, v]
        coefficients = torch.linalg.solve(
            torch.tensor(rows, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)
        )
        return functional.perspective(
            image, None, None, interpolation=InterpolationMode(mode), coefficients=coefficients.tolist()
        )

    # Far outside of the corners the two differ where torchvision reads behind the horizon; here there is none.
    check(warp(images, matrices, interpolation=mode), images, reference, mode == "nearest", 0.03)


def test_nothing_is_seen_behind_the_horizon() -> None:
    corners = torch.tensor([[[-16.0, -16.0], [16, -1], [16, 1], [-16, 16]]])
    seen = warp(torch.full((1, 1, 32, 64), 200.0), corner_matrices(corners, (32, 32)))
    assert seen[0, 0, 15, 16:48].min() == pytest.approx(200, abs=0.01)
    # The lines of the upper and the lower edge meet right of the image: there the picture ends.
    assert seen[..., 51:].eq(0).all()


@FEW
@given(images=pictures(), seed=st.integers(0, 99), mode=st.sampled_from(["nearest", "bilinear"]))
def test_displace_equals_torchvisions_elastic(images: Tensor, seed: int, mode: Any) -> None:
    count, (height, width) = len(images), images.shape[2:]
    points = numbers(count * 2 * 16, -2, 2, seed).view(count, 2, 4, 4)
    everywhere = torch.nn.functional.interpolate(points, (height, width), mode="bicubic", align_corners=True)
    torch.testing.assert_close(smooth(points, (height, width)), everywhere, atol=1e-4, rtol=0)

    def reference(i: int, image: Tensor) -> Tensor:
        share = everywhere[i].permute(1, 2, 0)[None] * torch.tensor([2 / width, 2 / height])
        return functional.elastic(image, share, InterpolationMode(mode))

    check(displace(images, points, interpolation=mode), images, reference, mode == "nearest", 0.03)


@FEW
@given(images=pictures(), seed=st.integers(0, 99))
def test_distort_equals_torchvisions_elastic_with_the_radial_displacement(images: Tensor, seed: int) -> None:
    height, width = images.shape[2:]
    strength = numbers(len(images), -0.3, 0.5, seed)

    def reference(i: int, image: Tensor) -> Tensor:
        y, x = torch.meshgrid(
            torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
        )
        growth = strength[i] * (x**2 + y**2) / ((height / 2) ** 2 + (width / 2) ** 2)
        return functional.elastic(image, torch.stack((x * growth * 2 / width, y * growth * 2 / height), -1)[None])

    check(distort(images, strength), images, reference)


def test_a_barrel_shrinks_the_corners_and_a_pincushion_pulls_them_out() -> None:
    white = torch.full((2, 1, 33, 33), 255, dtype=torch.uint8)
    barrel, pincushion = distort(white, torch.tensor([0.3, -0.3]))
    assert barrel[0, 0, 0] == 0
    assert barrel[0, 16, 16] == 255
    assert pincushion.eq(255).all()


@FEW
@given(images=pictures(), seed=st.integers(0, 99), mode=st.sampled_from(["nearest", "bilinear"]))
def test_resized_crop_equals_torchvision(images: Tensor, seed: int, mode: Any) -> None:
    shape = (images.shape[2], images.shape[3])
    windows = draw_windows(shape, len(images), (0.1, 1), (0.5, 2), (3, 3), torch.Generator().manual_seed(seed))
    exact = InterpolationMode.NEAREST_EXACT if mode == "nearest" else InterpolationMode.BILINEAR

    def reference(i: int, image: Tensor) -> Tensor:
        place = [int(each[i]) for each in windows]
        return functional.resized_crop(image, *place, list(shape), interpolation=exact, antialias=False)

    check(resized_crop(images, windows, interpolation=mode), images, reference)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_images_are_cropped_and_resized_alike(layout: torch.memory_format) -> None:
    coarse = torch.rand(3, 3, 6, 6) * 255
    images = (
        torch.nn.functional.interpolate(coarse, (120, 130), mode="bilinear").byte().contiguous(memory_format=layout)
    )
    windows = draw_windows((120, 130), 3, (0.1, 1), (0.5, 2), (3, 3), torch.Generator().manual_seed(0))
    result = resized_crop(images, windows)
    assert result.stride() == images.stride()
    # The whole numbers are rounded twice, after the rows and after the columns.
    assert (result.float() - resized_crop(images.float(), windows)).abs().max() <= 1.01
    for i in range(3):
        place = [int(each[i]) for each in windows]
        assert result[i].equal(functional.resized_crop(images[i], *place, [120, 130], antialias=True))


@FEW
@given(images=pictures(), seed=st.integers(0, 99), fill=st.sampled_from([0.0, 90.0]))
def test_shift_equals_torchvisions_affine(images: Tensor, seed: int, fill: float) -> None:
    count = len(images)
    reach = (min(5, images.shape[2]), min(4, images.shape[3]))
    down, right = (numbers(count, -m - 0.5, m + 0.5, seed + m).round().clamp(-m, m).long() for m in reach)

    def reference(i: int, image: Tensor) -> Tensor:
        return functional.affine(image, 0, [int(right[i]), int(down[i])], 1, [0, 0], fill=[fill])

    check(shift(images, right, down, reach, fill=fill), images, reference)


@FEW
@given(images=pictures(), seed=st.integers(0, 99))
def test_erase_equals_torchvision(images: Tensor, seed: int) -> None:
    count, height, width = len(images), images.shape[2], images.shape[3]
    windows = draw_windows((height, width), count, (0.02, 0.6), (0.3, 3.3), (0, 0), torch.Generator().manual_seed(seed))
    paint = numbers(images.numel(), 0, 255, seed).round().view(images.shape).to(images.dtype)

    def reference(i: int, image: Tensor) -> Tensor:
        top, left, high, wide = (int(each[i]) for each in windows)
        value = paint[i, :, top : top + high, left : left + wide].float()
        return functional.erase(image, top, left, high, wide, value)

    check(erase(images, windows, paint), images, reference)


def test_windows_that_stick_out_paint_what_is_inside() -> None:
    ones = torch.ones(2, 1, 4, 4, dtype=torch.uint8)
    at = torch.tensor([-1, 3])
    painted = erase(ones, Windows(at, at, torch.tensor([2, 2]), torch.tensor([2, 2])), 0)
    assert painted[0, 0].eq(0).nonzero().tolist() == [[0, 0]]
    assert painted[1, 0].eq(0).nonzero().tolist() == [[3, 3]]


def test_windows_are_distributed_as_torchvisions() -> None:
    count, shape, area, ratio = 20_000, (30, 40), (0.1, 0.5), (0.5, 2.0)
    windows = draw_windows(shape, count, area, ratio, (1, 1), torch.Generator().manual_seed(0))
    top, left, height, width = (each.double() for each in windows)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 30).all()
    assert (left + width <= 40).all()
    share = height * width / 1200
    # Rounding to pixels moves an area by up to half a row and half a column.
    assert share.min() > 0.08
    assert share.max() < 0.53
    # With these ranges nearly all fit, so the first try's distribution is that of the result.
    assert share.mean() == pytest.approx(0.3, abs=0.01)
    assert (width / height).log().mean() == pytest.approx(0, abs=0.03)
    assert (width / height).log().std() == pytest.approx(2 * math.log(2) / math.sqrt(12), abs=0.03)
    for first, free in ((top, 30 - height), (left, 40 - width)):
        assert (first / free.clamp(min=1)).mean() == pytest.approx(0.5, abs=0.01)
        assert (first == 0).any()
        assert (first == free).any()


@pytest.mark.parametrize(
    ("shape", "ratio", "expected"),
    [((10, 40), (0.75, 1.5), (10, 15)), ((40, 10), (0.5, 1.5), (20, 10)), ((8, 8), (1.0, 1.0), (8, 8))],
)
def test_the_middle_is_taken_where_no_part_fits(
    shape: tuple[int, int], ratio: tuple[float, float], expected: tuple[int, int]
) -> None:
    ramp = torch.arange(shape[0] * shape[1]).view(1, 1, *shape).float()
    # The whole area with a ratio that the image does not have can never fit.
    augment = AUGMENTATIONS.build(
        "random_resized_crop", {"scale": (1.0, 1.0), "ratio": ratio, "p": 1.0, "interpolation": "bilinear"}
    )
    high, wide = expected
    middle = functional.resized_crop(
        ramp, (shape[0] - high) // 2, (shape[1] - wide) // 2, high, wide, list(shape), antialias=False
    )
    assert (augment(ramp, torch.Generator().manual_seed(0)) - middle).abs().max() < 0.01


def test_affine_draws_what_its_options_say() -> None:
    def options(**given_options: Any) -> RandomAffine:
        return RandomAffine(p=1.0, interpolation="nearest", fill=0.0, **given_options)

    count, like = 20_000, torch.empty(20_000, 1, 20, 10)

    def drawn(**given_options: Any) -> Tensor:
        return options(**given_options).draw(like, torch.Generator().manual_seed(0)).double()

    angle = torch.rad2deg(torch.atan2(drawn(degrees=30.0)[:, 0, 1], drawn(degrees=30.0)[:, 0, 0]))
    assert angle.abs().max() <= 30.001
    assert angle.mean().abs() < 0.5
    assert angle.std() == pytest.approx(60 / math.sqrt(12), rel=0.02)
    moved = -drawn(translate=(0.2, 0.1))[:, :, 2]
    assert moved.abs().amax(0).tolist() == pytest.approx([2, 2], abs=0.01)
    assert moved.mean(0).abs().max() < 0.05
    assert moved.T.corrcoef()[0, 1].abs() < 0.05
    size = -drawn(scale=(0.5, 2.0))[:, 0, 0].log2()
    assert size.abs().max() <= 1.001
    assert size.mean().abs() < 0.02
    assert size.std() == pytest.approx(2 / math.sqrt(12), rel=0.02)
    assert drawn(scale=(0.5, 2.0))[:, 0, 0].equal(drawn(scale=(0.5, 2.0))[:, 1, 1])
    sides = -torch.stack((drawn(stretch=(0.5, 2.0))[:, 0, 0], drawn(stretch=(0.5, 2.0))[:, 1, 1])).log2()
    assert sides.corrcoef()[0, 1].abs() < 0.05
    lean = torch.rad2deg(torch.atan(drawn(shear=(20.0, 0.0))[:, 0, 1]))
    assert lean.abs().max() <= 20.001
    assert lean.std() == pytest.approx(40 / math.sqrt(12), rel=0.02)
    assert drawn().equal(torch.eye(2, 3).double().expand(count, 2, 3))


CHANGES: dict[str, dict[str, Any]] = {
    "affine": {},
    "cutout": {"fill": 0.0},
    "elastic": {},
    "lens_distortion": {},
    "perspective": {},
    "random_erasing": {},
    "random_resized_crop": {"scale": [0.1, 0.5]},
    "rotate": {},
    "scale": {},
    "shear": {},
    "stretch": {},
    "translate": {"x": 0.4, "y": 0.4},
    "vertical_flip": {},
}
"""Options with which nearly every image is changed visibly, but for p."""


def built(name: str, **options: Any) -> Any:
    values, problems = AUGMENTATIONS.check(name, options)
    assert not problems
    return AUGMENTATIONS.build(name, values)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("count", "size"), [(1000, 12), (40, 106)], ids=["small", "large"])
def test_share_of_changed_images(name: str, layout: torch.memory_format, count: int, size: int, device: str) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, 3, size, size), generator=random, dtype=torch.uint8).to(device)
    images = images.contiguous(memory_format=layout)
    before, some = images.clone(), 4 * (0.3 * 0.7 / count) ** 0.5
    for p, least, most in ((0.0, 0.0, 0.0), (0.3, 0.3 - some, 0.3 + some), (1.0, 0.95, 1.0)):
        result = built(name, **CHANGES[name], p=p)(images, torch.Generator(device).manual_seed(1))
        share = (result != images).flatten(1).any(1).float().mean().item()
        assert least <= share <= most
        assert result.is_contiguous(memory_format=layout)
        assert result.data_ptr() != images.data_ptr()
        assert images.equal(before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", -1), ("vertical_flip", -2)])
def test_large_images_are_mirrored_or_left(name: str, axis: int, layout: torch.memory_format) -> None:
    images = torch.randint(0, 256, (12, 3, 105, 106), dtype=torch.uint8).contiguous(memory_format=layout)
    result = built(name)(images, torch.Generator().manual_seed(0))
    mirrored = [image.equal(before.flip(axis)) for image, before in zip(result, images, strict=True)]
    left = [image.equal(before) for image, before in zip(result, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, left, strict=True))
    assert any(mirrored)
    assert any(left)
    assert result.stride() == images.stride()


def test_a_changed_large_image_keeps_its_place() -> None:
    images = torch.arange(1, 9, dtype=torch.uint8).view(8, 1, 1, 1).repeat(1, 1, 200, 200)
    mask = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1], dtype=torch.bool)
    tens = torch.arange(8, dtype=torch.uint8) * 10
    result = change_where(images, mask, lambda chosen, ten: chosen + ten[:, None, None, None], tens)
    assert result[:, 0, 7, 7].tolist() == [1, 12, 23, 4, 5, 56, 7, 78]


@pytest.mark.parametrize("name", CHANGES)
def test_no_images_and_one_pixel_are_images_too(name: str) -> None:
    augment = built(name)
    assert augment(torch.empty(0, 3, 8, 8, dtype=torch.uint8), torch.Generator()).shape == (0, 3, 8, 8)
    assert augment(torch.full((4, 1, 1, 1), 9, dtype=torch.uint8), torch.Generator()).shape == (4, 1, 1, 1)


def test_blocks_are_not_seen_in_the_result() -> None:
    images = torch.randint(0, 256, (2 * BLOCK_NUMBERS // (3 * 64 * 64) + 3, 3, 64, 64), dtype=torch.uint8)
    matrices = affine_matrices(len(images), angle=numbers(len(images), -90, 90, 0))
    whole = warp(images, matrices)
    for i in (0, len(images) // 2, len(images) - 1):
        assert whole[i].equal(warp(images[i : i + 1], matrices[i : i + 1])[0])


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.cuda
def test_no_augmentation_waits_for_the_device(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, device="cuda")
    random, augment = torch.Generator("cuda").manual_seed(0), built(name, p=0.5)
    augment(images, random)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(images, random)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("fill", "low", "high"), [("noise", 0, 255), ("mean", 99, 101), (7, 7, 7)])
def test_what_cutout_paints_with(fill: Any, low: int, high: int) -> None:
    images = torch.full((500, 3, 8, 8), 100, dtype=torch.uint8)
    images[:, :, ::2] += 50
    images[:, :, 1::2] -= 50
    augment = built("cutout", fill=fill, size=0.5)
    for given_images in (images, images.float(), images.contiguous(memory_format=torch.channels_last)):
        result = augment(given_images, torch.Generator().manual_seed(0))
        changed = result[result != given_images].float()
        assert changed.min() >= low
        assert changed.max() <= high
        # The square is 4x4, and its middle any pixel: rows 0..7 see 2, 3, 4, 4, 4, 4, 4, 3 of it.
        assert (result != given_images).float().mean() == pytest.approx((28 / 8 / 8) ** 2, rel=0.05)
        if fill == "noise":
            assert changed.mean() == pytest.approx(127.5, abs=1)


def alternating(epoch: int, samples: Tensor, seed: int = 3) -> Tensor:
    arrow = torch.tensor([1, 0], dtype=torch.uint8).view(1, 1, 1, 2).repeat(len(samples), 1, 1, 1)
    augment = built("horizontal_flip", alternate=True)
    return augment.at(arrow, torch.Generator(), Place(seed, epoch, samples))[:, 0, 0, 1].bool()


def test_alternating_flips_show_both_sides_in_any_two_epochs() -> None:
    samples = torch.randperm(10_000)
    first = alternating(0, samples)
    assert alternating(1, samples).equal(~first)
    assert alternating(2, samples).equal(first)
    # A sample keeps its side wherever it is in the batch.
    assert alternating(0, samples.flip(0)).equal(first.flip(0))
    assert first.float().mean() == pytest.approx(0.5, abs=0.02)
    assert (alternating(0, samples, seed=4) == first).float().mean() == pytest.approx(0.5, abs=0.02)


def test_neighbouring_samples_flip_independently() -> None:
    flips = coin(0, torch.arange(20_000)).float()
    for distance in (1, 2, 3, 8):
        assert (flips[distance:] == flips[:-distance]).float().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "random_resized_crop",
            {"scale": [1.0, 0.5]},
            r"scale: \[1, 0.5\] is no range: write the smaller number first",
        ),
        ("random_erasing", {"ratio": [3.0, 0.3]}, r"ratio: \[3, 0.3\] is no range"),
        ("stretch", {"factor": [2.0, 1.0]}, r"factor: \[2, 1\] is no range"),
        ("horizontal_flip", {"alternate": True, "p": 0.3}, r"which p=0.3 contradicts: remove p"),
    ],
)
def test_options_that_contradict_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rotate", {"degrees": 181}),
        ("shear", {"x": 90}),
        ("translate", {"x": 1.1}),
        ("affine", {"scale": [0, 1]}),
        ("lens_distortion", {"strength": 0.4}),
        ("perspective", {"distortion": 1}),
        ("elastic", {"points": 1}),
        ("cutout", {"size": 0}),
        ("cutout", {"fill": 256}),
        ("cutout", {"fill": "edge"}),
        ("rotate", {"fill": "mean"}),
        ("rotate", {"interpolation": "bicubic"}),
        ("random_erasing", {"scale": [0.1, 1.5]}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    assert [key for key, _ in AUGMENTATIONS.check(name, options)[1]] == list(options)
