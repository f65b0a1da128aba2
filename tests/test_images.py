"""Image operations against Pillow, colorsys and closed forms; boxes by their statistics; padding by its absence."""

from __future__ import annotations

import colorsys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import images
from jaxmodels.core import Batch, InputError
from jaxmodels.data import Canvas, decode
from jaxmodels.preprocess import mix as mix_module

PIL = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'jaxmodels[images]'")
ImageEnhance = pytest.importorskip("PIL.ImageEnhance")

KEY = jax.random.key(0)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(height=45, width=60):
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 / width, y * 255 / height, 128 + 120 * np.sin(x / 5) * np.cos(y / 4)], -1)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 60)
    return pixels.astype(np.uint8)


def agrees(ours, pillow, tolerance=1.001):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(pillow).astype(float), atol=tolerance)


@pytest.fixture(scope="module")
def photographs(data_dir):
    paths = sorted((data_dir / "images" / "hymenoptera" / "val" / "ants").iterdir())[:3]
    return [decode.decode(path) for path in paths]


# Resizing


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(7, 11), (45, 60), (45, 20), (100, 130), (224, 224), (1, 1)])
@pytest.mark.parametrize("content", [picture(), noise(45, 60, 3)], ids=["picture", "noise"])
def test_resize_is_pillows(method, size, content):
    expected = PIL.fromarray(content).resize(size[::-1], PIL.Resampling[method.upper()])
    ours = images.resize(content[None], size, method=method)[0]
    assert ours.dtype == jnp.float32
    # Pillow rounds after each axis, and a cubic's weights, some negative, sum to 5/4 in magnitude.
    agrees(ours, expected, 1.001 if method == "bilinear" else 1.13)


def test_resize_and_crop_of_photographs_is_pillows(photographs):
    for pixels in photographs:
        height, width = pixels.shape[:2]
        short = min(height, width)
        assert short > 256
        size = tuple(256 if side == short else int(256 * side / short) for side in (height, width))
        ours = images.center_crop(images.resize(pixels[None], size), 224)[0]
        agrees(ours, decode.resize_and_crop(pixels))


def test_resize_without_antialiasing_is_jax_images():
    content = picture().astype(np.float32)
    for size in [(10, 13), (90, 120)]:
        ours = images.resize(content[None], size, antialias=False)[0]
        expected = jax.image.resize(content, (*size, 3), "bilinear", antialias=False, precision="highest")
        np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_resize_keeps_constants_and_batches():
    constant = jnp.full((2, 9, 5, 3), 37.0)
    np.testing.assert_allclose(images.resize(constant, 31, method="bicubic"), 37, rtol=1e-6)
    batch = np.stack([picture(), noise(45, 60, 3)])
    each = jnp.concatenate([images.resize(image[None], 16) for image in batch])
    np.testing.assert_allclose(images.resize(batch, 16), each, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_floats_keep_their_dtype(dtype):
    assert images.resize(jnp.ones((1, 4, 4, 3), dtype), 2).dtype == dtype
    assert images.IMAGENET(jnp.ones((1, 4, 4, 3), dtype)).dtype == dtype


def test_float64_is_worked_in_float64(x64):
    content = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3))
    assert images.IMAGENET(content).dtype == jnp.float64
    assert images.random_resized_crop(jax.random.key(0), content, 4).dtype == jnp.float64
    np.testing.assert_allclose(images.resize(content, 8), content, rtol=1e-12)


@pytest.mark.parametrize(("shape", "size"), [((7, 9), 4), ((7, 9), 7), ((8, 9), 3), ((3, 9), 5), ((2, 2), 7)])
def test_center_crop_is_the_hosts(shape, size):
    content = noise(*shape, 3)
    ours = images.center_crop(content[None], size)[0]
    assert ours.dtype == jnp.uint8
    np.testing.assert_array_equal(ours, decode._center_crop(content, size))


# Boxes


def boxes(aspect, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), n=4000, seed=1):
    aspect = jnp.broadcast_to(jnp.float32(aspect), n)
    return [np.asarray(side) for side in images._random_boxes(jax.random.key(seed), aspect, scale, ratio)]


def test_boxes_lie_inside_and_have_admitted_areas_and_ratios():
    aspect = np.tile(np.float32([0.3, 1.0, 1.5, 4.0]), 1000)
    top, left, height, width = boxes(aspect)
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6
    ratios = width * aspect / height
    assert ratios.min() >= 3 / 4 * 0.9999
    assert ratios.max() <= 4 / 3 * 1.0001
    areas = width * height
    assert areas.min() >= 0.08 * 0.9999


def test_small_boxes_have_uniform_areas_log_uniform_ratios_and_uniform_places():
    """Where every draw fits, the distributions are the ones asked for: compared by Kolmogorov's distance."""
    stats = pytest.importorskip("scipy.stats")
    top, left, height, width = boxes(1.5, scale=(0.05, 0.3))
    samples = {
        "area": (height * width - 0.05) / 0.25,
        "ratio": (np.log(width * 1.5 / height) - np.log(3 / 4)) / np.log(16 / 9),
        "top": top / (1 - height),
        "left": left / (1 - width),
    }
    for name, sample in samples.items():
        assert stats.kstest(sample, "uniform").pvalue > 1e-3, name


def test_impossible_boxes_become_the_largest_central_one():
    top, left, height, width = boxes(8.0, scale=(1.0, 1.0))
    np.testing.assert_allclose(height, 1)
    np.testing.assert_allclose(width * 8, 4 / 3, rtol=1e-5)
    np.testing.assert_allclose(left, (1 - width) / 2, rtol=1e-5)
    np.testing.assert_allclose(top, 0)
    top, left, height, width = boxes(1 / 8, scale=(1.0, 1.0))
    np.testing.assert_allclose(width, 1)
    np.testing.assert_allclose(height / (1 / 8), 4 / 3, rtol=1e-5)


def test_the_distribution_of_boxes_is_torchvisions():
    """``RandomResizedCrop.get_params``, written out with a loop, on a 4:3 image of a million pixels."""
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    aspect, height_px = 4 / 3, 866.0

    def draw():
        width_px = aspect * height_px
        for _ in range(10):
            area = width_px * height_px * generator.uniform(0.08, 1)
            ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
            width, height = np.sqrt(area * ratio), np.sqrt(area / ratio)
            if width <= width_px and height <= height_px:
                return width / width_px, height / height_px
        return 1.0, 1.0

    reference = np.array([draw() for _ in range(4000)]).T
    _, _, height, width = boxes(aspect)
    assert stats.ks_2samp(width, reference[0]).pvalue > 1e-3
    assert stats.ks_2samp(height, reference[1]).pvalue > 1e-3


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_random_resized_crop_is_pillows_resize_of_the_box(photographs, method):
    pixels = decode.canvas(photographs[0], size=96)
    n, size = 5, 32
    batch = jnp.asarray(np.repeat(pixels[None], n, 0))
    aspect = jnp.array([0.5, 0.75, 1.0, 1.5, 2.0])
    ours = images.random_resized_crop(KEY, batch, size, aspect=aspect, method=method)
    top, left, height, width = (96 * side for side in images._random_boxes(KEY, aspect, (0.08, 1.0), (3 / 4, 4 / 3)))
    corners = np.minimum(np.stack([left, top, left + width, top + height], 1), 96)
    for row in range(n):
        box = tuple(corners[row].tolist())
        expected = PIL.fromarray(pixels).resize((size, size), PIL.Resampling[method.upper()], box=box)
        agrees(ours[row], expected, 1.01 if method == "bilinear" else 1.2)


def test_boxes_on_a_canvas_keep_the_true_geometry():
    """A circle in a 2:1 photograph is a circle again after a crop of ratio 1, whatever the canvas did to it."""
    y, x = np.mgrid[0:200, 0:400]
    disc = np.repeat(((x - 199.5) ** 2 + (y - 99.5) ** 2 < 60**2)[..., None] * np.uint8(255), 3, 2)
    canvas = jnp.asarray(decode.canvas(disc, size=128)[None])
    cropped = images.random_resized_crop(KEY, canvas, 100, aspect=jnp.array([2.0]), scale=(0.5, 0.5), ratio=(1.0, 1.0))
    inside = np.asarray(cropped[0, :, :, 0]) > 127
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    # The whole height: 200 pixels become 100, unless the box cut the circle's sides off.
    assert rows == pytest.approx(60, abs=1)
    assert inside.sum() <= np.pi * 30**2 * 1.03
    assert columns <= 61


def test_crop_of_everything_is_a_resize():
    content = picture()[None]
    ours = images.random_resized_crop(KEY, content, 24, scale=(1.0, 1.0), ratio=(60 / 45, 60 / 45))
    np.testing.assert_allclose(ours, images.resize(content, 24), atol=0.05)


def test_random_crop_is_a_window_of_the_padded_image():
    content = noise(64, 8, 8, 3) | 1
    padded = np.pad(content, [(0, 0), (2, 2), (2, 2), (0, 0)])
    ours = np.asarray(images.random_crop(KEY, content, 8, padding=2))
    assert ours.dtype == np.uint8
    places = set()
    for row in range(64):
        found = [(i, j) for i in range(5) for j in range(5) if (padded[row, i : i + 8, j : j + 8] == ours[row]).all()]
        assert len(found) == 1
        places.add(found[0])
    assert {i for i, _ in places} == {j for _, j in places} == set(range(5))
    with pytest.raises(InputError, match="size=9 is more than the 8 x 8 pixels"):
        images.random_crop(KEY, content, 9)


def test_random_flip_mirrors_its_share():
    content = jnp.asarray(noise(1000, 2, 3, 3))
    ours = images.random_flip(KEY, content)
    flipped = np.asarray((ours == content[:, :, ::-1]).all((1, 2, 3)))
    kept = np.asarray((ours == content).all((1, 2, 3)))
    assert (flipped ^ kept).all()
    assert 430 < flipped.sum() < 570  # 4.4 standard deviations
    np.testing.assert_array_equal(images.random_flip(KEY, content, probability=0.0), content)


def test_random_erasing_paints_one_rectangle_on_its_share():
    content = jnp.full((600, 20, 30, 3), 200.0)
    ours = np.asarray(images.random_erasing(KEY, content, probability=0.5, value=(1.0, 2.0, 3.0)))
    erased = (ours == (1.0, 2.0, 3.0)).all(-1)
    assert ((ours == 200).all(-1) ^ erased).all()
    assert 240 < erased.any((1, 2)).sum() < 360
    for mask in erased[erased.any((1, 2))]:
        assert mask.sum() == mask.any(0).sum() * mask.any(1).sum()  # full rows by full columns: a rectangle
        assert 0.005 < mask.mean() < 0.42
    np.testing.assert_array_equal(images.random_erasing(KEY, content, probability=0.0), content)


def test_erased_pixels_normalise_to_zero():
    ours = images.IMAGENET(images.random_erasing(KEY, jnp.full((4, 16, 16, 3), 9.0), probability=1.0))
    assert (abs(np.asarray(ours)).max(-1) < 1e-5).any((1, 2)).all()


# Colour


@pytest.mark.parametrize(
    ("ours", "pillow"),
    [
        (images.adjust_brightness, ImageEnhance.Brightness),
        (images.adjust_contrast, ImageEnhance.Contrast),
        (images.adjust_saturation, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_colours_are_pillows(ours, pillow, factor):
    content = picture()
    expected = pillow(PIL.fromarray(content)).enhance(factor)
    # Pillow rounds its grey to a whole number before it is blended.
    agrees(ours(jnp.asarray(content[None], jnp.float32), jnp.array([factor]))[0], expected, 1.0 + 0.5 * abs(1 - factor))


@pytest.mark.parametrize("turns", [-0.5, -0.2, 0.0, 0.1, 1 / 3, 0.5])
def test_hue_is_that_of_hsv(turns):
    content = np.concatenate([noise(1, 6, 7, 3), np.full((1, 6, 1, 3), 90, np.uint8)], axis=2)
    ours = images.adjust_hue(jnp.asarray(content, jnp.float32), jnp.array([turns]))
    expected = []
    for pixel in content.reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value))
    np.testing.assert_allclose(ours, 255 * np.array(expected).reshape(content.shape), atol=1e-3)


def test_each_image_has_its_own_factors_within_their_range():
    content = jnp.full((500, 1, 1, 3), 100.0)
    bright = np.asarray(images.color_jitter(KEY, content, brightness=0.4))[:, 0, 0, 0] / 100
    assert 0.6 <= bright.min() < 0.62
    assert 1.38 < bright.max() <= 1.4
    assert bright.std() == pytest.approx(0.8 / np.sqrt(12), rel=0.1)


def test_jitter_of_strength_0_changes_nothing():
    content = jnp.asarray(picture()[None], jnp.float32)
    np.testing.assert_array_equal(images.color_jitter(KEY, content), content)


def test_jitter_is_its_changes_in_some_order():
    """Brightness and contrast do not commute: over many keys both orders turn up, and nothing else does."""
    content = jnp.asarray(picture(6, 8)[None], jnp.float32)
    orders = set()
    jitter = jax.jit(partial(images.color_jitter, brightness=0.8, contrast=0.8))
    for seed in range(12):
        key = jax.random.key(seed)
        ours = jitter(key, content)
        bright, contrast = 0.2 + 1.6 * jax.random.uniform(key, (2, 2))[:, :1]
        candidates = (
            images.adjust_contrast(images.adjust_brightness(content, bright), contrast),
            images.adjust_brightness(images.adjust_contrast(content, contrast), bright),
        )
        errors = [float(abs(ours - each).max()) for each in candidates]
        assert min(errors) < 1e-3
        orders.add(int(np.argmin(errors)))
    assert orders == {0, 1}


def test_jitter_stays_on_the_scale():
    ours = images.color_jitter(
        KEY, noise(16, 8, 8, 3).astype(np.float32), brightness=3.0, contrast=3.0, saturation=3.0, hue=0.5
    )
    assert ours.min() >= 0
    assert ours.max() <= 255


# Mixing


JITTED = {mix: jax.jit(partial(mix, alpha=1.0, num_classes=3)) for mix in (images.mixup, images.cutmix)}


def labelled(weights, num_features=4):
    """Row i is 10 i everywhere, its label i % 3; rows of weight 0 are NaN."""
    weights = np.asarray(weights, np.float32)
    n = len(weights)
    inputs = np.where(weights[:, None, None, None] > 0, 10.0 * np.arange(n)[:, None, None, None], np.nan)
    inputs = np.broadcast_to(inputs, (n, num_features, num_features, 3)).astype(np.float32)
    return Batch(jnp.asarray(inputs), jnp.arange(n) % 3, jnp.asarray(weights))


@pytest.mark.parametrize("mix", [images.mixup, images.cutmix])
@pytest.mark.parametrize(
    "weights", [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0], [0] * 6]
)
def test_padding_never_leaks_when_mixed(mix, weights):
    batch, real = labelled(weights), np.array(weights) > 0
    run = JITTED[mix]
    for seed in range(5):
        mixed = run(jax.random.key(seed), batch)
        assert np.isfinite(np.asarray(mixed.inputs)[real]).all()
        assert np.isnan(np.asarray(mixed.inputs)[~real]).all()
        np.testing.assert_array_equal(mixed.weights, batch.weights)
        np.testing.assert_allclose(np.asarray(mixed.targets).sum(1), 1, rtol=1e-6)
        if real.sum() == 1:
            np.testing.assert_array_equal(np.asarray(mixed.inputs)[real], np.asarray(batch.inputs)[real])
            np.testing.assert_array_equal(mixed.targets, jax.nn.one_hot(batch.targets, 3))


@pytest.mark.parametrize("n", [2, 3, 7])
def test_partners_are_one_cycle_of_the_real_rows(n):
    weights = jnp.array([1.0, 0.0] * n)
    for seed in range(5):
        ranks = jnp.asarray(np.random.default_rng(seed).uniform(size=2 * n), jnp.float32)
        partners = np.asarray(mix_module._partners(ranks, weights))
        assert (partners[1::2] == np.arange(1, 2 * n, 2)).all()
        visited, at = set(), 0
        while at not in visited:
            visited.add(at)
            at = int(partners[at])
        assert visited == set(range(0, 2 * n, 2))


def test_mixup_blends_pixels_and_targets_alike():
    n = 64
    inputs = jax.nn.one_hot(jnp.arange(n), n)
    batch = Batch(inputs, jnp.arange(n), None)
    mixed = images.mixup(KEY, batch, alpha=0.4, num_classes=n)
    assert mixed.weights is None
    # Inputs are their own targets here, so they must stay so.
    np.testing.assert_allclose(mixed.inputs, mixed.targets, atol=1e-6)
    assert ((np.asarray(mixed.targets) > 0).sum(1) <= 2).all()
    np.testing.assert_allclose(np.asarray(mixed.targets).sum(0).sum(), n, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.5, 1.0, 4.0])
def test_shares_are_scipys_beta(alpha):
    stats = pytest.importorskip("scipy.stats")
    n = 4000
    u, v = jax.random.uniform(KEY, (2, n))
    share = np.asarray(mix_module._symmetric_beta(u, v, alpha))
    assert ((share >= 0) & (share <= 1)).all()
    # float32 cannot tell 1 - 1e-9 from 1, where a small alpha has much of its mass: compare away from the ends.
    inner = np.linspace(0.01, 0.99, 99)
    empirical = (share[:, None] <= inner).mean(0)
    # Kolmogorov's distance is more than 1.95 / sqrt(n) once in a thousand samples.
    np.testing.assert_allclose(empirical, stats.beta(alpha, alpha).cdf(inner), rtol=0, atol=1.95 / np.sqrt(n))


def test_mixup_uses_its_alpha():
    """The mean of 4 lam (1 - lam) is 2 alpha / (2 alpha + 1)."""
    n = 1000
    for alpha in (0.2, 2.0):
        share = np.asarray(images.mixup(KEY, Batch(jnp.eye(n), jnp.arange(n)), alpha=alpha, num_classes=n).targets).max(
            1
        )
        assert (4 * share * (1 - share)).mean() == pytest.approx(2 * alpha / (2 * alpha + 1), abs=0.05)


def test_cutmix_targets_follow_the_pixels():
    n, side = 48, 12
    inputs = jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32)[:, None, None, None], (n, side, side, 3))
    mixed = images.cutmix(KEY, Batch(inputs, jnp.arange(n), jnp.ones(n)), alpha=1.0, num_classes=n)
    shown = np.asarray(mixed.inputs[..., 0])
    mixtures = 0
    for row in range(n):
        values, counts = np.unique(shown[row], return_counts=True)
        expected = np.zeros(n)
        expected[values.astype(int)] = counts / side**2
        np.testing.assert_allclose(mixed.targets[row], expected, atol=1e-6)
        pasted = shown[row] != row
        assert pasted.sum() == pasted.any(0).sum() * pasted.any(1).sum()
        mixtures += len(values) == 2
    assert mixtures > n / 2


@pytest.mark.parametrize("mix", [images.mixup, images.cutmix])
def test_weights_travel_with_their_rows(mix):
    """The weighted sum of targets is what it was: no class gains or loses weight on average over partners."""
    weights = jnp.array([1.0, 4.0, 0.0, 0.5])
    batch = Batch(jnp.zeros((4, 8, 8, 3)), jnp.array([0, 1, 2, 0]), weights)
    mixed = mix(KEY, batch, alpha=1.0, num_classes=3)
    assert mixed.weights[2] == 0
    contributions = np.asarray(mixed.targets * mixed.weights[:, None])
    assert contributions[:, 2].sum() == pytest.approx(0)
    assert (contributions >= 0).all()


@pytest.mark.parametrize("mix", [images.mixup, images.cutmix])
def test_mixing_takes_soft_targets_and_refuses_others(mix):
    inputs = jnp.zeros((4, 4, 4, 3))
    hard = Batch(inputs, jnp.array([0, 1, 2, 0]), None)
    soft = hard._replace(targets=jax.nn.one_hot(hard.targets, 3))
    jax.tree.map(
        np.testing.assert_array_equal,
        mix(KEY, hard, alpha=1.0, num_classes=3),
        mix(KEY, soft, alpha=1.0, num_classes=3),
    )
    with pytest.raises(InputError, match=r"targets have shape \(4, 3\) and dtype float32: give labels \[n\]"):
        mix(KEY, soft, alpha=1.0, num_classes=5)
    with pytest.raises(InputError, match=r"alpha=0\.0 is not above 0"):
        mix(KEY, hard, alpha=0.0, num_classes=3)


# Preprocess


def test_preprocess_is_torchvisions():
    pixels = noise(2, 4, 5, 3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(images.IMAGENET(pixels), (pixels / 255 - mean) / std, atol=2e-6)
    np.testing.assert_array_equal(images.IMAGENET(pixels), images.IMAGENET(pixels.astype(np.float32)))


def test_preprocess_is_kerass():
    pixels = noise(2, 4, 5, 3)
    np.testing.assert_allclose(
        images.KERAS_CAFFE(pixels), pixels[..., ::-1] - np.array([103.939, 116.779, 123.68]), atol=1e-4
    )
    np.testing.assert_allclose(images.KERAS_TF(pixels), pixels / 127.5 - 1, atol=1e-6)


def test_preprocess_is_hashable_and_static():
    traces = []

    @jax.jit
    def run(pixels):
        traces.append(1)
        return images.IMAGENET(pixels)

    pixels = noise(2, 4, 4, 3)
    for _ in range(2):
        np.testing.assert_allclose(run(pixels), images.IMAGENET(pixels), atol=1e-6)
    assert len(traces) == 1
    assert hash(images.IMAGENET) == hash(images.IMAGENET._replace())
    assert jax.jit(lambda spec, x: spec(x), static_argnums=0)(images.KERAS_TF, pixels).shape == pixels.shape
    with pytest.raises(InputError, match="channel_order='GBR' is not 'RGB' or 'BGR'"):
        images.IMAGENET._replace(channel_order="GBR")(pixels)


# Augmentation


def batch_of(n=6, side=20):
    return Batch(noise(n, side, side, 3), np.arange(n, dtype=np.int32) % 3, np.ones(n, np.float32))


def canvas_of(n=6):
    batch = batch_of(n)
    return batch._replace(inputs=Canvas(batch.inputs, np.linspace(0.5, 2, n, dtype=np.float32)))


EVERYTHING = {"image_size": 12, "color_jitter": 0.4, "erasing": 0.5, "mixup": 0.2, "cutmix": 1.0, "num_classes": 3}
TRACES = []


@jax.jit
def augmented(key, batch):
    TRACES.append(1)
    return images.augmentation(**EVERYTHING)(key, batch)


def assert_close(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2), first, second)


@pytest.mark.parametrize(("options", "batch"), [({"image_size": 12}, batch_of()), (EVERYTHING, canvas_of())])
def test_augmentation_is_pure_and_jit_changes_nothing(options, batch):
    augment = images.augmentation(**options)
    ours = augment(KEY, batch)
    assert ours.inputs.shape == (6, 12, 12, 3)
    assert ours.inputs.dtype == jnp.float32
    assert 0 <= ours.inputs.min() <= ours.inputs.max() <= 255.001
    assert ours.targets.shape == ((6, 3) if "num_classes" in options else (6,))
    assert_close(augment(KEY, batch), ours)
    assert_close(augmented(KEY, batch) if options is EVERYTHING else jax.jit(augment)(KEY, batch), ours)
    assert not np.allclose(augment(jax.random.key(1), batch).inputs, ours.inputs)


def test_augmentation_under_vmap_is_a_loop():
    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(augmented, in_axes=(0, None)))(keys, canvas_of())
    for lane, key in enumerate(keys):
        assert_close(jax.tree.map(lambda leaf, lane=lane: leaf[lane], together), augmented(key, canvas_of()))


def test_augmentation_is_cached_and_traced_once():
    assert images.augmentation(**EVERYTHING) is images.augmentation(**EVERYTHING)
    augmented(KEY, canvas_of())
    TRACES.clear()
    for seed in range(3):
        augmented(jax.random.key(seed), canvas_of())
    assert TRACES == []


def test_augmentation_with_nothing_on_is_a_resize():
    batch = batch_of()
    augment = images.augmentation(image_size=12, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    np.testing.assert_allclose(augment(KEY, batch).inputs, images.resize(batch.inputs, 12), atol=1e-2)


def test_augmentation_tosses_for_one_mixer():
    """Mixup blends pixels, CutMix never does: over many keys both turn up."""
    pixels = np.repeat(np.array([0, 255], np.uint8), 8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    batch = Batch(pixels, np.repeat(np.array([0, 1], np.int32), 8), np.ones(16, np.float32))
    augment = jax.jit(images.augmentation(image_size=16, mixup=1.0, cutmix=1.0, num_classes=2))
    blended = []
    for seed in range(16):
        inputs = np.asarray(augment(jax.random.key(seed), batch).inputs)
        blended.append(bool(((inputs > 5) & (inputs < 250)).any()))
    assert 2 <= sum(blended) <= 14


def test_augmentation_keeps_padding_out():
    batch = canvas_of()._replace(weights=np.array([1, 1, 1, 1, 0, 0], np.float32))
    pixels = batch.inputs.pixels
    spoiled = batch.inputs._replace(pixels=np.concatenate([pixels[:4], 255 - pixels[4:]]))
    for seed in range(4):
        first = augmented(jax.random.key(seed), batch)
        second = augmented(jax.random.key(seed), batch._replace(inputs=spoiled))
        np.testing.assert_array_equal(first.inputs[:4], second.inputs[:4])
        np.testing.assert_array_equal(first.targets[:4], second.targets[:4])


def test_unusable_arguments_are_refused():
    content = noise(1, 8, 8, 3)
    for match, function in (
        ("method='nearest' is not one of bilinear, bicubic", lambda: images.resize(content, 4, method="nearest")),
        (r"scale=\(0.5, 0.1\) is not a range", lambda: images.random_resized_crop(KEY, content, 4, scale=(0.5, 0.1))),
        (r"scale=\(0.5, 1.1\) is not a range", lambda: images.random_resized_crop(KEY, content, 4, scale=(0.5, 1.1))),
        (r"ratio=\(0, 1\) is not a range", lambda: images.random_erasing(KEY, content, ratio=(0, 1))),
        ("hue=0.6 is not in 0 to 0.5", lambda: images.color_jitter(KEY, content.astype(np.float32), hue=0.6)),
        ("brightness=-1 is not in 0", lambda: images.color_jitter(KEY, content.astype(np.float32), brightness=-1)),
        ("mixup and cutmix need num_classes", lambda: images.augmentation(mixup=0.2)),
    ):
        with pytest.raises(InputError, match=match):
            function()
