"""Views of dense features against reference values."""

import numpy as np
import pytest

from dinoforge.demo.views import (
    Box,
    color_features,
    match_patches,
    region_vector,
    segment_by_clicks,
    similarity_map,
)

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def demo(golden_eval):
    return golden_eval("demo")


def test_mutual_nearest_patches(demo):
    facts, arrays = demo
    first, second = arrays["features"][:2]
    matches = match_patches(first, second)
    pairs = np.stack([places @ [facts["grid"][1], 1] for places in (matches.a, matches.b)], axis=1)
    order = np.argsort(pairs[:, 0])
    np.testing.assert_array_equal(pairs[order], arrays["mutual_pairs"])
    np.testing.assert_allclose(
        matches.similarity[order], arrays["mutual_similarity"], rtol=0, atol=1e-5
    )


def test_a_click_and_a_region_on_another_image(demo):
    facts, arrays = demo
    first, second = arrays["features"][:2]
    row, column = facts["click_rc"]
    click = similarity_map(second, first[row, column])
    np.testing.assert_allclose(click, arrays["click_heat"], rtol=0, atol=1e-5)
    region = region_vector(first, [Box(*facts["region_rc_inclusive"])])
    heat = similarity_map(second, region)
    np.testing.assert_allclose(heat, arrays["region_heat"], rtol=0, atol=1e-5)


def test_colors_of_two_stages(demo):
    facts, arrays = demo
    images, labels = arrays["features"], arrays["labels"] > 0
    colors = color_features(images, foreground=labels)
    kept = np.stack([colors.foreground(image) for image in images])
    np.testing.assert_array_equal(kept, arrays["pca_foreground"].astype(bool))
    overlap = (kept & labels).sum() / (kept | labels).sum()
    assert overlap == pytest.approx(facts["fg_vs_label_iou"])
    rgb = np.stack([colors.color(image) for image in images])
    np.testing.assert_allclose(rgb, arrays["pca_rgb"], rtol=0, atol=1e-5)


def test_segments_by_clicks(demo):
    facts, arrays = demo
    first = arrays["features"][0]
    flat = first.reshape(-1, first.shape[2])
    result = segment_by_clicks(first, flat[facts["pos_patches"]], flat[facts["neg_patches"]])
    np.testing.assert_allclose(result, arrays["click_segment_prob"], rtol=0, atol=1e-5)
