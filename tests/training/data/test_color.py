"""How often crops are blurred and solarized, measured on their pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dinoforge.training.data.color import augment_colors, draw_colors
from dinoforge.training.data.crops import CropsConfig

NUM_IMAGES = 4000
# Blur and solarize are left; everything else would change pixels, too.
QUIET = {"jitter_prob": 0.0, "grayscale_prob": 0.0, "blur_kernel": 3, "blur_sigma": (1.0, 2.0)}


def changed(config):
    """Share of crops whose pixels changed: global 1, global 2, local."""
    images = np.arange(NUM_IMAGES)
    drawn = draw_colors(config, 0, images, np.zeros_like(images))
    generator = torch.Generator().manual_seed(0)
    shares = []
    for draws, num_views in zip(drawn, (2, config.num_local), strict=True):
        noise = torch.randint(0, 256, (num_views * NUM_IMAGES, 3, 4, 4), generator=generator)
        crops = noise.to(torch.uint8)
        levels = replace(config, solarize_threshold=256, mean=(0, 0, 0), std=(1 / 255,) * 3)
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
    assert not of_globals.solarize[:NUM_IMAGES].any()
    assert of_globals.solarize[NUM_IMAGES:].mean() == pytest.approx(0.2, abs=0.02)
    assert not of_locals.solarize.any()


def test_jitter_and_gray_come_as_often_as_published():
    images = np.arange(NUM_IMAGES)
    of_globals, of_locals = draw_colors(CropsConfig(), 0, images, np.zeros_like(images))
    for draws in (of_globals, of_locals):
        assert (draws.order[:, 0] >= 0).mean() == pytest.approx(0.8, abs=0.02)
        assert draws.gray.mean() == pytest.approx(0.2, abs=0.02)
