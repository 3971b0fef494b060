"""How often crops are blurred, solarized and equalized, measured on their pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dinoforge.training.data.color import augment_colors, draw_colors, equalize, solarize
from dinoforge.training.data.crops import CropsConfig

NUM_IMAGES = 4000
# Blur is left; everything else would change pixels, too.
QUIET = {"jitter_prob": 0.0, "grayscale_prob": 0.0, "blur_kernel": 3, "blur_sigma": (1.0, 2.0)}
QUIET |= {"solarize_prob": 0.0}


def changed(config):
    """Share of crops whose pixels changed: global 1, global 2, local."""
    images = np.arange(NUM_IMAGES)
    drawn = draw_colors(config, 0, images, np.zeros_like(images))
    generator = torch.Generator().manual_seed(0)
    shares = []
    for draws, num_views in zip(drawn, (2, config.num_local), strict=True):
        noise = torch.randint(0, 256, (num_views * NUM_IMAGES, 3, 4, 4), generator=generator)
        crops = noise.to(torch.uint8)
        levels = replace(config, mean=(0, 0, 0), std=(1 / 255,) * 3)
        result = augment_colors(crops, draws, levels)
        differs = (result - crops).abs().flatten(1).amax(dim=1) > 0.5
        shares += differs.view(num_views, NUM_IMAGES).double().mean(dim=1).tolist()
    return shares


@pytest.mark.parametrize(
    ("preset", "rates"), [("as_published", (0.0, 0.9, 0.5)), ("as_written", (1.0, 0.1, 0.5))]
)
def test_the_presets_blur_as_often_as_they_state(preset, rates):
    """4,000 draws: three standard deviations of a share of one half are 0.024."""
    config = CropsConfig(blur=preset, num_local=2, **QUIET)
    first, second, *local = changed(config)
    assert first == rates[0]  # never or always, not almost
    assert second == pytest.approx(rates[1], abs=0.015)
    assert local == pytest.approx([rates[2]] * 2, abs=0.024)


def test_the_published_rates_are_the_default():
    assert CropsConfig().blur_probs() == (0.0, 0.9, 0.5)


def test_blur_probabilities_of_ones_own():
    config = CropsConfig(blur="custom", custom_blur_probs=(0.5, 0.0, 1.0), num_local=1, **QUIET)
    first, second, local = changed(config)
    assert first == pytest.approx(0.5, abs=0.024)
    assert (second, local) == (0.0, 1.0)


def test_the_second_global_crop_alone_is_solarized():
    images = np.arange(NUM_IMAGES)
    of_globals, of_locals = draw_colors(CropsConfig(), 0, images, np.zeros_like(images))
    assert (of_globals.solarize[:NUM_IMAGES] == 256).all()
    inverted = of_globals.solarize[NUM_IMAGES:] < 256
    assert inverted.mean() == pytest.approx(0.2, abs=0.02)
    assert set(of_globals.solarize[NUM_IMAGES:][inverted]) == {128}
    assert (of_locals.solarize == 256).all()


def test_any_crop_is_solarized_and_equalized_from_a_level_of_its_own():
    images = np.arange(NUM_IMAGES)
    config = CropsConfig(solarize="every", solarize_prob=0.3, equalize_prob=0.1)
    for draws in draw_colors(config, 0, images, np.zeros_like(images)):
        thresholds = draws.solarize[draws.solarize < 256]
        assert len(thresholds) / len(draws.solarize) == pytest.approx(0.3, abs=0.02)
        assert thresholds.mean() == pytest.approx(128, abs=4)
        assert thresholds.std() == pytest.approx(256 / 12**0.5, abs=3)
        assert draws.equalize.mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("side", [16, 18, 32])
def test_equalize_and_solarize_give_the_bytes_of_pillow(side):
    """Noise in narrow ranges, and flat crops; below 255 pixels equalize changes nothing."""
    generator = np.random.default_rng(side)
    pixels = generator.integers(0, 256, (12, side, side, 3), dtype=np.uint8)
    pixels[3:9] //= np.array([2, 5, 20, 60, 100, 255], np.uint8)[:, None, None, None]
    pixels[9] = 7
    thresholds = generator.uniform(0, 256, len(pixels)).astype(np.float32)
    levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    equalized = equalize(levels.clone()).permute(0, 2, 3, 1).numpy()
    inverted = solarize(levels.clone(), torch.from_numpy(thresholds)).permute(0, 2, 3, 1).numpy()
    for at, crop in enumerate(pixels):
        image = Image.fromarray(crop)
        assert (equalized[at] == np.asarray(ImageOps.equalize(image))).all()
        wanted = ImageOps.solarize(image, float(thresholds[at]))
        assert (inverted[at] == np.asarray(wanted)).all()


def test_jitter_and_gray_come_as_often_as_published():
    images = np.arange(NUM_IMAGES)
    of_globals, of_locals = draw_colors(CropsConfig(), 0, images, np.zeros_like(images))
    for draws in (of_globals, of_locals):
        assert (draws.order[:, 0] >= 0).mean() == pytest.approx(0.8, abs=0.02)
        assert draws.gray.mean() == pytest.approx(0.2, abs=0.02)
