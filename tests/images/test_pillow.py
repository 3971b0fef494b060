"""Around Pillow: orientation against its transpositions; its warnings stay inside."""

import sys
import threading
import warnings

import numpy as np
import pytest
from image_files import MOVES, tiff
from PIL import Image

from dinoforge.images.decode import decode
from dinoforge.images.orientation import read_orientation, upright
from dinoforge.images.policy import Undecodable
from dinoforge.images.quiet import quiet_pillow


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_move_as_in_pillow(orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    if orientation in MOVES:
        image = image.transpose(MOVES[orientation])
    moved = upright(pixels, orientation)
    np.testing.assert_array_equal(moved, np.asarray(image))
    assert moved.flags.c_contiguous


def test_a_senseless_orientation_is_upright():
    image = Image.new("RGB", (2, 2))
    for value in (0, 9, "6", (6,)):
        image.getexif()[0x0112] = value
        assert read_orientation(image) == 1
    image.getexif()[0x0112] = 6
    assert read_orientation(image) == 6


def warn_as(module):
    warnings.warn_explicit("odd file", UserWarning, f"{module}.py", 1, module=module)


def test_only_warnings_of_pillow_are_quiet():
    with quiet_pillow:
        warn_as("PIL.Image")
        with pytest.raises(UserWarning, match="odd file"):
            warn_as("elsewhere")
    with pytest.raises(UserWarning, match="odd file"):
        warn_as("PIL.Image")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libtiff is looked up in /proc")
def test_libtiff_prints_nothing(capfd):
    data = tiff([bytes(9)], (3, 1), [8] * 3, 6, compression=8)  # colors of half the size
    with pytest.raises(Undecodable, match="damaged: decoder error"):
        decode(data)
    assert capfd.readouterr() == ("", "")


def test_overlapping_threads_restore_the_filters():
    before = list(warnings.filters)
    entered, leave = threading.Event(), threading.Event()

    def other():
        with quiet_pillow:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with quiet_pillow:
        thread.start()
        assert entered.wait(10)
    warn_as("PIL.Image")  # the other thread is still inside
    leave.set()
    thread.join()
    assert warnings.filters == before
