"""Pictures of maps: colors, sizes, masks, and what a sheet shows."""

import numpy as np
import pytest

from dinoforge.attention.drawing import draw_maps, make_sheet, stretched

DARKEST, BRIGHTEST = [68, 1, 84], [253, 231, 37]


@pytest.fixture
def attention():
    return np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)


def test_every_map_is_stretched_on_its_own_and_a_uniform_one_is_zero(attention):
    assert stretched(attention).reshape(2, -1)[:, [0, -1]].tolist() == [[0, 255], [0, 255]]
    assert not stretched(np.full((2, 2), 0.3)).any()


def test_patches_are_squares_of_one_color_from_dark_to_bright(picture, attention):
    image = picture(24, 40)
    drawn = draw_maps(image, attention)
    assert list(drawn) == ["head-00", "head-01", "mean", "overlay"]
    assert all(one.shape == image.shape for one in drawn.values())
    for name in ("head-00", "head-01", "mean"):
        squares = drawn[name].reshape(3, 8, 5, 8, 3)
        assert (squares == squares[:, :1, :, :1]).all()
        assert drawn[name][0, 0].tolist() == DARKEST
        assert drawn[name][-1, -1].tolist() == BRIGHTEST
        brightness = squares[:, 0, :, 0].reshape(15, 3) @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(brightness) > 0).all()
    half = (image.astype(int) + drawn["mean"]) // 2
    np.testing.assert_array_equal(drawn["overlay"], half)


def test_smooth_maps_change_between_patches_and_masks_do_not(picture, attention):
    masks = attention > 20
    drawn = draw_maps(picture(24, 40), attention, masks, smooth=True)
    assert len(np.unique(drawn["head-00"].reshape(-1, 3), axis=0)) > 2 * 15
    for number, mask in enumerate(masks):
        expected = np.kron(mask, np.full((8, 8), 255))
        np.testing.assert_array_equal(drawn[f"mask-{number:02d}"], expected)


@pytest.mark.parametrize("shape", [(24, 40), (480, 160), (8, 1600)])
@pytest.mark.parametrize("with_masks", [False, True])
def test_a_sheet_shows_every_picture_beside_a_name(picture, shape, with_masks):
    image = picture(*shape)
    attention = np.random.default_rng(0).random((2, shape[0] // 8, shape[1] // 8))
    masks = np.zeros(attention.shape, bool) if with_masks else None
    sheet = make_sheet(image, draw_maps(image, attention, masks))
    scale = min(1, 240 / max(shape))
    height, width = (max(1, round(side * scale)) for side in shape)
    row, column = height + 28, max(width, 72) + 8
    rows, columns = (sheet.shape[0] - 8) // row, (sheet.shape[1] - 8) // column
    assert sheet.shape == (rows * row + 8, columns * column + 8, 3)
    white = 0
    for at in range(rows * columns):
        top, left = 8 + at // columns * row, 8 + at % columns * column
        name = sheet[top + height : top + height + 20, left : left + column - 8]
        is_used = at < (7 if with_masks else 5)
        assert (name < 100).any() == is_used
        white += not is_used
    assert white < columns
    if scale == 1:
        np.testing.assert_array_equal(sheet[8 : 8 + height, 8 : 8 + width], image)
        if with_masks:
            top, left = 8 + 5 // columns * row, 8 + 5 % columns * column
            dark = sheet[top : top + height, left : left + width]
            np.testing.assert_array_equal(dark, image // 4)
