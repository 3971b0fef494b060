"""Faces are found where they are, and hardly anywhere else: on LFW and photographs."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from dinoforge.scorers.faces import face_detector
from dinoforge.scorers.make import make_scorer


@pytest.fixture(scope="module")
def detector():
    from dinoforge.errors import UsageError

    try:
        return face_detector()
    except UsageError as error:
        pytest.skip(str(error))


def test_faces_of_lfw_are_found_and_other_crops_are_not(detector):
    crops = data.lfw_subset()  # 100 faces, 100 others, 25 pixels
    counts = []
    for crop in crops:
        pixels = np.asarray(Image.fromarray(np.uint8(crop * 255)).resize((100, 100)).convert("RGB"))
        counts.append(len(detector.find(np.pad(pixels, ((25, 25), (25, 25), (0, 0)), "edge"))))
    assert np.count_nonzero(counts[:100]) >= 98
    assert np.count_nonzero(counts[100:]) <= 1


def test_a_face_is_found_at_its_place_at_any_size(detector):
    photograph = data.astronaut()
    for factor in (0.5, 1, 3):
        size = round(512 * factor)
        image = np.asarray(Image.fromarray(photograph).resize((size, size)))
        ((left, top, right, bottom),) = detector.find(image)
        assert left / factor == pytest.approx(180, abs=15)
        assert top / factor == pytest.approx(61, abs=15)
        assert right / factor == pytest.approx(266, abs=15)
        assert bottom / factor == pytest.approx(174, abs=15)


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket"])
def test_cats_cups_and_rockets_have_no_face(detector, name):
    assert len(detector.find(getattr(data, name)())) == 0


@pytest.mark.parametrize("shape", [(1, 1), (19, 19), (20, 3000), (3000, 21)])
def test_images_of_any_shape_are_searched(detector, shape):
    assert detector.find(np.zeros((*shape, 3), np.uint8)).shape == (0, 4)


def test_the_scorer_counts_faces_and_measures_their_share(detector):
    scores = make_scorer("faces").score([data.astronaut(), data.chelsea()])
    assert scores[:, 0].tolist() == [1, 0]
    assert scores[0, 1] == pytest.approx(86 * 113 / 512**2, rel=0.2)
    assert scores[1, 1] == 0
