"""What pixels show: the measures order real pictures as a person would."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from skimage import data

from dinoforge.scorers.make import PIXELS, make_scorer
from dinoforge.scorers.measures import MEASURES


def measures(image):
    (row,) = make_scorer(PIXELS).score([np.ascontiguousarray(image, np.uint8)])
    return dict(zip(MEASURES, row.tolist(), strict=True))


@pytest.fixture(scope="module")
def photographs():
    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]


@pytest.fixture(scope="module")
def card():
    image = Image.new("RGB", (300, 200), (250, 240, 200))
    drawing = ImageDraw.Draw(image)
    for line in range(4):
        drawing.text((20, 20 + 40 * line), "SALE 50 % OFF", (160, 0, 0), ImageFont.load_default(30))
    return np.asarray(image)


def test_one_gray_value_has_no_detail_and_no_information():
    gray = measures(np.full((64, 48, 3), 51))
    assert gray["brightness"] == pytest.approx(0.2)
    assert gray["dark"] == pytest.approx(0.8, abs=0.005)
    assert gray["light"] == pytest.approx(0.2, abs=0.005)
    assert np.isnan(gray["blur"])
    assert (gray["entropy"], gray["color"], gray["text"]) == (0, 0, 0)


def test_darker_and_lighter_pictures_are_so_in_every_measure(photographs):
    for photograph in photographs:
        plain, dark = measures(photograph), measures(photograph // 5)
        light = measures(255 - (255 - photograph) // 5)
        assert dark["brightness"] < plain["brightness"] < light["brightness"]
        assert plain["dark"] < 0.5
        assert dark["dark"] > 0.75
        assert plain["light"] < 0.5
        assert light["light"] > 0.75
        assert dark["entropy"] < plain["entropy"]


def test_blur_is_found_whatever_the_contrast_and_the_resolution(photographs):
    for photograph in photographs:
        blurred = np.asarray(Image.fromarray(photograph).filter(ImageFilter.GaussianBlur(3)))
        sharp, blurry = measures(photograph)["blur"], measures(blurred)["blur"]
        assert sharp < 1.2 < blurry
        assert measures(photograph // 3)["blur"] == pytest.approx(sharp, rel=0.1)
        twice = np.asarray(
            Image.fromarray(photograph).resize([2 * n for n in photograph.shape[1::-1]])
        )
        assert measures(twice)["blur"] == pytest.approx(sharp, rel=0.3)


def test_gray_pictures_have_no_color(photographs):
    gray = np.repeat(data.camera()[..., None], 3, axis=2)
    assert measures(gray)["color"] == 0
    assert min(measures(photograph)["color"] for photograph in photographs) > 0.3


def test_cards_of_text_are_told_from_photographs(photographs, card):
    page = np.repeat(data.page()[..., None], 3, axis=2)
    assert min(measures(card)["text"], measures(page)["text"]) > 0.33
    assert max(measures(photograph)["text"] for photograph in photographs) < 0.33


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (2, 2), (900, 3)])
def test_pictures_of_any_shape_are_measured(shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    assert 0 <= measures(image)["brightness"] <= 1


def test_the_scores_of_an_image_do_not_depend_on_the_others(photographs):
    scorer = make_scorer(PIXELS)
    together = scorer.score(photographs)
    for row, photograph in zip(together, photographs, strict=True):
        assert np.array_equal(scorer.score([photograph])[0], row, equal_nan=True)
    assert scorer.score([]).shape == (0, len(MEASURES))
