"""Views of dense features: what a person who clicks and drags expects."""

import numpy as np
import pytest

from dinoforge.demo.views import (
    Box,
    Matches,
    color_features,
    draw_colors,
    draw_map,
    draw_matches,
    follow_frames,
    keep_one_motion,
    match_patches,
    object_vector,
    position_basis,
    region_vector,
    remove_position,
    segment_by_clicks,
    similarity_map,
)


@pytest.fixture
def scene():
    """Random features, 14 x 20 patches of 16 numbers."""
    return np.random.default_rng(0).normal(size=(14, 20, 16)).astype(np.float32)


def test_a_shifted_cutout_matches_at_its_shift_whatever_its_size(scene):
    cutout = scene[3:11, 5:18]
    matches = match_patches(cutout, scene)
    assert len(matches.a) == 8 * 13
    np.testing.assert_array_equal(matches.b - matches.a, np.tile([3, 5], (len(matches.a), 1)))
    np.testing.assert_allclose(matches.similarity, 1)
    assert matches.ratio.max() < 1e-3
    assert (np.diff(matches.similarity) <= 0).all()


def test_a_ratio_near_one_shows_that_a_patch_is_seen_twice(scene):
    twice = np.concatenate([scene, scene + 1e-4], axis=1)
    ratios = match_patches(scene, twice).ratio
    assert ratios.min() < 0.1  # exact, beside a copy that differs a little
    blurred = match_patches(scene + 1e-2, twice).ratio
    assert blurred.mean() > 0.9


def test_one_motion_is_found_among_wrong_matches():
    rng = np.random.default_rng(1)
    a = rng.permutation(np.stack(np.divmod(np.arange(400), 20), axis=1))[:120]
    z = a[:, 1] + 1j * a[:, 0]
    w = 0.8 * np.exp(0.3j) * z + (4 + 2j)
    b = np.rint(np.stack([w.imag, w.real], axis=1)).astype(np.int64)
    b[60:] = rng.integers(0, 20, (60, 2))
    kept = keep_one_motion(Matches(a, b, np.ones(120), np.zeros(120)))
    wanted = {tuple(place) for place in a[:60].tolist()}
    got = {tuple(place) for place in kept.a.tolist()}
    assert len(got & wanted) >= 57
    assert len(got - wanted) <= 4
    few = Matches(a[:2], b[:2], np.ones(2), np.zeros(2))
    assert keep_one_motion(few) is few


def test_a_selection_is_nearest_to_itself_and_far_from_what_is_subtracted(scene):
    box, other = Box(2, 3, 3, 4), Box(8, 9, 8, 9)
    scene[2:4, 3:5] += np.repeat([2.0, 0.0], 8)
    heat = similarity_map(scene, region_vector(scene, [box]))
    top = np.argsort(-heat.ravel())[:4]
    assert {tuple(np.divmod(at, 20)) for at in top} == {(2, 3), (2, 4), (3, 3), (3, 4)}
    less = similarity_map(scene, region_vector(scene, [box], without=[other]))
    assert less[8, 9] < heat[8, 9] - 0.1
    assert less[2, 3] > 0.2


@pytest.mark.parametrize("box", [Box(0, 0, 14, 3), Box(-1, 0, 2, 2), Box(3, 3, 2, 3)])
def test_a_box_beyond_the_image_is_an_error(scene, box):
    with pytest.raises(ValueError, match="on 14 x 20 patches"):
        region_vector(scene, [box])


def test_what_is_in_the_first_frame_is_followed_as_it_moves(scene):
    frames = [np.roll(scene, 2 * step, axis=1) for step in range(5)]
    inside = np.zeros(scene.shape[:2])
    inside[4:8, 3:7] = 1
    for step, followed in enumerate(follow_frames(frames, inside), 1):
        assert ((followed > 0.5) == np.roll(inside, 2 * step, axis=1).astype(bool)).mean() > 0.95
    with pytest.raises(ValueError, match="several sizes"):
        follow_frames([frames[0], scene[1:]], inside)


def test_clicks_segment_and_find_the_same_in_another_image(scene):
    painted = 0.2 * scene + np.repeat([1.0, 0.0], 8)
    painted[4:9, 6:12] += np.repeat([0.0, 3.0], 8)  # an object
    positive = painted[5, 7][None]
    for image, negative in ((painted, ()), (painted[::-1], painted[0, 0][None])):
        inside = segment_by_clicks(image, positive, negative) > 0.5
        expected = np.zeros((14, 20), bool)
        expected[4:9, 6:12] = True
        if image is not painted:
            expected = expected[::-1]
        assert (inside & expected).sum() / (inside | expected).sum() > 0.9
    with pytest.raises(ValueError, match="no positive click"):
        segment_by_clicks(painted, np.zeros((0, 16)))


def test_colors_are_the_same_for_a_set_and_do_not_depend_on_its_order(scene):
    painted = 0.2 * scene
    painted[4:9, 6:12] += np.linspace(2, 4, 16)
    other = np.flip(painted, 1)[:12]
    colors, again = color_features([painted, other]), color_features([other, painted])
    foreground = colors.foreground(painted)
    assert foreground[4:9, 6:12].mean() > 0.9
    assert foreground[:2].mean() < 0.1
    np.testing.assert_allclose(colors.color(painted), again.color(painted), atol=1e-6)
    np.testing.assert_allclose(colors.color(other), np.flip(colors.color(painted), 1)[:12])
    with pytest.raises(ValueError, match="at least 3 needed"):
        color_features([painted], threshold=1.0)


def test_without_a_threshold_every_patch_is_colored(scene):
    thin = np.concatenate([scene[:2], scene[:2] + 10])  # the first component is 4 rows high
    colors = color_features([thin[:1], thin[1:]], threshold=None)
    assert colors.foreground(thin).all()
    assert 0 < colors.explained[2] <= colors.explained[1] < 0.2 < colors.explained[0]
    red = colors.color(thin)[..., 0]
    assert abs(red[2:].mean() - red[:2].mean()) > 0.7
    assert (red.min(), red.max()) == (0, 1)


def test_pictures_have_a_pixel_per_patch(scene):
    colors = color_features([scene], threshold=None).color(scene)
    np.testing.assert_allclose(draw_colors(colors) / 255, colors, atol=0.5 / 255)
    heat = draw_map(similarity_map(scene, scene[3, 5]))
    assert heat.shape == (14, 20, 3)
    assert heat[3, 5].tolist() == [253, 231, 37]  # the highest
    assert len(np.unique(heat[..., 1])) > 50


def test_lines_lead_from_patch_to_patch(scene):
    image = np.full((14 * 8, 20 * 8, 3), 255, np.uint8)
    cutout = image[: 8 * 8, : 13 * 8]
    one = Matches(np.array([[1, 2]]), np.array([[6, 10]]), np.ones(1), np.zeros(1))
    drawn = draw_matches(cutout, image, one, patch=8)
    assert drawn.shape == (112, 104 + 8 + 160, 3)
    ys, xs = np.nonzero((drawn != 255).any(axis=2))
    assert [xs.min(), xs.max()] == pytest.approx([20, 112 + 84], abs=1)
    assert [ys.min(), ys.max()] == pytest.approx([12, 52], abs=1)


def test_what_depends_on_the_place_alone_is_removed():
    rng = np.random.default_rng(2)
    place = 3 * rng.normal(size=(6, 7, 16)) @ np.diag([1, 1, *[0] * 14])
    images = [place + rng.normal(size=place.shape) * [0.0, 0.0, *[1] * 14] for _ in range(50)]
    basis = position_basis(images, 2)
    np.testing.assert_allclose(np.abs(basis[:, :2]).sum(axis=1).min(), 1, atol=0.45)
    left = remove_position(images[0], basis)
    assert np.abs(left[..., :2]).mean() < 0.2 * np.abs(images[0][..., :2]).mean()
    assert np.abs(left[..., 2:]).mean() > 0.8 * np.abs(images[0][..., 2:]).mean()


def test_an_object_stands_out_from_the_background_in_its_box(scene):
    ground, thing = np.random.default_rng(1).normal(size=(2, 16))
    picture = ground + 0.1 * scene
    picture[4:8, 6:9] = thing + 0.1 * scene[4:8, 6:9]
    box = Box(2, 4, 9, 10)  # 12 of its 56 patches show it
    similar = similarity_map(picture, object_vector(picture, [box]))
    plain = similarity_map(picture, region_vector(picture, [box]))
    assert similar[4:8, 6:9].mean() > 0.5 > similar[0].mean()
    assert plain[4:8, 6:9].mean() < plain[0].mean()
    whole = Box(0, 0, 13, 19)
    np.testing.assert_array_equal(object_vector(picture, [whole]), region_vector(picture, [whole]))
