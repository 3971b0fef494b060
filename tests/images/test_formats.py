"""Formats by first bytes, and names that promise an image."""

import io

import numpy as np
import pytest
from PIL import Image

from dinoforge.images.formats import SNIFF_BYTES, has_image_suffix, sniff


@pytest.mark.parametrize(
    "format_", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI"]
)
def test_what_pillow_writes_is_recognized(format_):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, format_)
    assert sniff(file.getvalue()[:SNIFF_BYTES]) == format_


@pytest.mark.parametrize(
    "head",
    [
        *(b"", b"BMW", b"P", b"Plain text", b"\0" * 32, b"RIFF\0\0\0\0WAVE"),
        *(b"P3 phone", b"P5\nmotorcycle", b"P6 3 wheels", b"Pf\tx", b"P1", b"P1 "),
    ],
)
def test_other_bytes_are_not(head):
    assert sniff(head) is None


@pytest.mark.parametrize(
    "head",
    [
        b"P1\n3 2\n",
        b"P2 # a",
        b"P3\n# a\n1 1",
        b"P5 \r\n 10\t20 255 ",
        b"Pf\n2 2\n-1",
        b"P6 3# a\n",
    ],
)
def test_headers_of_pnm_may_have_any_space_and_comments(head):
    assert sniff(head) == "PPM"
    assert sniff(head, "txt") is None


def test_names():
    assert all(map(has_image_suffix, ["a.jpg", "A.JPEG", "b/c.d.Png", "x.heic", "a.NEF", "a.RW2"]))
    assert not any(map(has_image_suffix, ["jpg", ".jpg", "a.txt", "a.jpg.json", "a.cls"]))
