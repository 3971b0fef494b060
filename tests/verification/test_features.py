"""Local features: of a fixed size, in a fixed order, and free for the mirror image."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from dinoforge.verification.features import (
    LocalFeatures,
    extract_features,
    features_version,
    is_verifiable,
    mirrored,
    opencv,
    pack_features,
    unpack_features,
)


def features_of(image):
    return extract_features(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("size", "gray_shape"),
    [((400, 300), (200, 267)), ((100, 80), (200, 250)), ((900, 100), (53, 480))],
)
def test_the_gray_picture_has_a_fixed_size(leaves, size, gray_shape):
    features = features_of(leaves(0, size))
    assert features.gray.shape == gray_shape
    assert (features.width, features.height) == size
    assert features.points.shape == (len(features.descriptors), 4)
    assert features.points.dtype == np.float32


def test_the_gray_picture_is_luma():
    red = Image.new("RGB", (250, 200), (255, 0, 0))
    assert set(np.unique(features_of(red).gray)) == {76}  # 0.299 of 255


def test_features_are_the_same_every_time(leaves):
    first, second = (features_of(leaves(1)) for _ in range(2))
    for name in ("points", "descriptors", "gray"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_descriptors_have_norm_one_and_lose_nothing_by_rounding(leaves):
    features = features_of(leaves(2))
    assert len(features.points) == 300
    norms = np.linalg.norm(features.descriptors.astype(float), axis=1) / 512
    np.testing.assert_allclose(norms, 1, atol=0.01)
    cv2 = opencv()
    sift = cv2.SIFT_create(300, 3, 0.01, 12.0, 1.6, cv2.CV_32F, True)
    keypoints = [
        cv2.KeyPoint(float(x), float(y), float(size), float(np.degrees(angle)))
        for x, y, size, angle in features.points
    ]
    _, exact = sift.detectAndCompute(features.gray, None)
    exact = np.sqrt(exact / exact.sum(axis=1, keepdims=True))
    # The same set in another order: each has its exact counterpart within the rounding.
    nearest = (features.descriptors / 512.0 @ exact.T).max(axis=1)
    assert len(keypoints) == len(exact)
    assert nearest.min() > 0.995


def test_mirrored_features_are_those_of_the_mirrored_picture(leaves):
    image = leaves(3)
    free, computed = mirrored(features_of(image)), features_of(ImageOps.mirror(image))
    np.testing.assert_array_equal(free.gray, computed.gray)
    away = np.abs(free.points[:, None, :2] - computed.points[:, :2]).max(axis=2)
    turn = np.cos(free.points[:, None, 3] - computed.points[:, 3])
    products = (free.descriptors.astype(float) @ computed.descriptors.T.astype(float)) / 512**2
    is_same = (away < 0.5) & (turn > 0.99) & (products > 0.98)
    assert is_same.any(axis=1).mean() > 0.9


def test_mirroring_twice_changes_nothing(leaves):
    features = features_of(leaves(4))
    again = mirrored(mirrored(features))
    np.testing.assert_array_equal(again.descriptors, features.descriptors)
    np.testing.assert_array_equal(again.gray, features.gray)
    np.testing.assert_allclose(again.points, features.points, atol=1e-4)


def test_packed_features_come_back(leaves, tmp_path):
    flat = features_of(Image.new("RGB", (90, 60)))
    parts = [features_of(leaves(5)), flat, features_of(leaves(6, (120, 300)))]
    assert len(flat.points) == 0
    for name, array in pack_features(parts).items():
        np.save(tmp_path / f"{name}.npy", array)
    stored = {path.stem: np.load(path, mmap_mode="r") for path in tmp_path.glob("*.npy")}
    for row, part in enumerate(parts):
        again = unpack_features(stored, row)
        for name in LocalFeatures.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(again, name), getattr(part, name))


def test_no_pictures_are_packed_into_empty_arrays():
    arrays = pack_features([])
    assert arrays["points"].shape == (0, 4)
    assert arrays["shapes"].shape == (0, 4)
    assert arrays["point_offsets"].tolist() == [0]


def test_small_and_flat_pictures_cannot_be_verified(leaves):
    assert is_verifiable(features_of(leaves(7)))
    assert not is_verifiable(features_of(leaves(7).resize((32, 32))))
    assert not is_verifiable(features_of(Image.new("RGB", (300, 300), (9, 9, 9))))


def test_the_version_names_parameters_and_opencv():
    assert "200 480 48 300" in features_version()
    assert opencv().__version__ in features_version()
