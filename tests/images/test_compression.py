"""The quality of a file from its quantization tables."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from dinoforge.images.compression import compression_quality

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def saved(image_format, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, image_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("quality", [25, 40, 50, 60, 75, 85, 90, 95, 98])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_libjpeg_has_the_quality_it_was_saved_with(quality, mode):
    assert compression_quality(saved("JPEG", mode, quality=quality), "JPEG") == pytest.approx(
        quality, abs=1
    )


def test_finer_tables_have_a_higher_quality_and_entropy_coding_changes_nothing():
    values = [compression_quality(saved("JPEG", quality=q), "JPEG") for q in range(1, 101, 3)]
    assert values == sorted(values)
    assert 1 <= values[0] < values[-1] <= 100
    progressive = saved("JPEG", quality=80, progressive=True, optimize=True, comment=b"x" * 70)
    assert compression_quality(progressive, "JPEG") == pytest.approx(80, abs=1)


def test_tables_of_16_bits_are_read():
    data = saved("JPEG", quality=50)
    at = data.index(b"\xff\xdb")
    table = b"".join(bytes([0, value]) for value in data[at + 5 : at + 69])
    wide = data[:at] + b"\xff\xdb\x00\x83\x10" + table + data[at + 69 :]
    assert compression_quality(wide, "JPEG") == pytest.approx(50)


@pytest.mark.parametrize(
    ("image_format", "options", "quality"),
    [
        ("PNG", {}, math.inf),
        ("BMP", {}, math.inf),
        ("WEBP", {"lossless": True}, math.inf),
        ("WEBP", {"quality": 90}, math.nan),
        ("GIF", {}, math.nan),
        ("TIFF", {}, math.nan),
    ],
)
def test_lossless_formats_are_the_best_and_the_loss_of_others_is_unknown(
    image_format, options, quality
):
    data = saved(image_format, **options)
    assert compression_quality(data, image_format) == pytest.approx(quality, nan_ok=True)


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 20, 30, 60, 100])
def test_a_file_that_ends_early_has_no_quality_or_that_of_the_whole(stop):
    data = saved("JPEG", quality=50)
    value = compression_quality(data[:stop], "JPEG")
    assert math.isnan(value) or value == compression_quality(data, "JPEG")
