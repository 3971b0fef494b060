"""Known transforms are recovered, copies are accepted, look-alikes are not."""

import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from dinoforge.verification.compare import compare_pictures, is_copy
from dinoforge.verification.features import extract_features


def features_of(image):
    return extract_features(np.asarray(image.convert("RGB")))


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def test_a_picture_is_a_copy_of_itself(leaves):
    features = features_of(leaves(0))
    comparison = compare_pictures(features, features)
    assert is_copy(comparison)
    assert comparison.places > 60
    assert comparison.correlation == pytest.approx(1, abs=0.01)
    assert comparison.overlap_a == comparison.overlap_b == 1
    c, t = comparison.transform
    assert abs(c - 1) < 1e-3
    assert abs(t) < 0.1
    assert not comparison.mirrored


def test_the_transform_of_a_crop_is_recovered(leaves):
    image = leaves(1, (400, 300))  # drawn with 200 / 300
    crop = image.crop((100, 60, 340, 240))  # 240 x 180, drawn with 200 / 180
    comparison = compare_pictures(features_of(image), features_of(crop))
    assert is_copy(comparison)
    assert comparison.scale == pytest.approx(300 / 180, rel=0.01)
    assert comparison.angle == pytest.approx(0, abs=0.01)
    assert comparison.shift_x == pytest.approx(-100 * 200 / 180, abs=1.5)
    assert comparison.shift_y == pytest.approx(-60 * 200 / 180, abs=1.5)
    assert comparison.overlap_a == pytest.approx(0.36, abs=0.02)
    assert comparison.overlap_b == pytest.approx(1, abs=0.02)


def test_a_rotation_is_recovered(leaves):
    image = leaves(2)
    comparison = compare_pictures(
        features_of(image), features_of(image.transpose(Image.Transpose.ROTATE_90))
    )
    assert is_copy(comparison)
    # Counterclockwise on the screen, where y points down.
    assert comparison.angle == pytest.approx(-math.pi / 2, abs=0.01)


def test_a_mirrored_picture_is_recognized(leaves):
    image = leaves(3)
    comparison = compare_pictures(features_of(image), features_of(ImageOps.mirror(image)))
    assert is_copy(comparison)
    assert comparison.mirrored
    assert abs(comparison.transform[0] - 1) < 1e-3


def test_matches_name_the_points_that_agree(leaves):
    image = leaves(4, (400, 300))
    a, b = features_of(image), features_of(image.crop((50, 50, 350, 275)))
    comparison = compare_pictures(a, b)
    c, t = comparison.transform
    z, w = (
        part.points[rows, 0] + 1j * part.points[rows, 1]
        for part, rows in ((a, comparison.matches[:, 0]), (b, comparison.matches[:, 1]))
    )
    assert len(z) >= comparison.places
    assert np.abs(c * z + t - w).max() < 4 * max(1, abs(c))


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: jpeg(image, 8),
        lambda image: image.resize((130, 110)),
        lambda image: image.rotate(5, expand=True, fillcolor=(255, 255, 255)),
        lambda image: ImageOps.expand(image, 30, (20, 200, 20)),
        lambda image: image.filter(ImageFilter.GaussianBlur(1)),
        lambda image: image.convert("L"),
        lambda image: Image.eval(image, lambda value: value // 2),
    ],
    ids=["jpeg", "resize", "rotate", "border", "blur", "gray", "dark"],
)
def test_an_edited_copy_is_accepted(leaves, edit):
    image = leaves(5)
    comparison = compare_pictures(features_of(image), features_of(edit(image)))
    assert is_copy(comparison), comparison


def test_a_picture_inside_another_is_accepted(leaves):
    inner, outer = leaves(6), leaves(7, (400, 340))
    outer.paste(inner.resize((195, 165)), (150, 80))
    comparison = compare_pictures(features_of(inner), features_of(outer))
    assert is_copy(comparison)
    assert comparison.overlap_a > 0.95
    assert comparison.overlap_b < 0.4


def test_different_pictures_are_not_copies(leaves):
    for seed in range(8, 12):
        comparison = compare_pictures(features_of(leaves(seed)), features_of(leaves(seed + 10)))
        assert not is_copy(comparison)
        assert comparison.places < 6


def test_another_object_on_the_same_background_is_not_a_copy(leaves):
    pictures = []
    for seed in (13, 14):
        background = leaves(12, (300, 260))
        background.paste(leaves(seed, (230, 200)), (35, 30))
        pictures.append(features_of(background))
    comparison = compare_pictures(*pictures)
    assert comparison.correlation < 0.5
    assert not is_copy(comparison)


def test_a_picture_without_keypoints_compares_to_nothing(leaves):
    flat = features_of(Image.new("RGB", (200, 200)))
    for pair in ((flat, flat), (flat, features_of(leaves(15))), (features_of(leaves(15)), flat)):
        comparison = compare_pictures(*pair)
        assert comparison.places == 0
        assert comparison.correlation == 0
        assert not is_copy(comparison)


def test_the_rule_reads_columns():
    columns = SimpleNamespace(
        places=np.array([6, 5, 30, 30, 12, 11]),
        correlation=np.array([0.7, 0.9, 0.5, 0.9, 0.6, 0.6]),
        overlap_a=np.array([0.2, 1.0, 1.0, 0.4, 1.0, 1.0]),
        overlap_b=np.array([0.9, 1.0, 1.0, 0.3, 1.0, 1.0]),
    )
    assert is_copy(columns).tolist() == [True, False, False, False, True, False]
    loose = is_copy(columns, min_places=5, min_correlation=0.45, min_overlap=0.3)
    assert loose.tolist() == [True, True, True, True, True, True]
