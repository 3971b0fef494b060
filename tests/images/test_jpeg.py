"""simplejpeg is used only where it gives Pillow's pixels: compared here, bit for bit."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dinoforge.images.decode import decode, decode_image, decode_strictly, read_header
from dinoforge.images.policy import Undecodable

SIZES = [(1, 1), (7, 3), (8, 8), (9, 17), (31, 29), (64, 48), (65, 49)]


def through_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def noisy(width, height, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("subsampling", [0, 1, 2])  # 4:4:4, 4:2:2, 4:2:0
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_generated_jpegs_decode_as_in_pillow(subsampling, progressive, mode):
    for seed, (width, height) in enumerate(SIZES):
        file = io.BytesIO()
        options = {"subsampling": subsampling, "progressive": progressive, "quality": 70 + seed * 4}
        noisy(width, height, seed).convert(mode).save(file, "JPEG", **options)
        data = file.getvalue()
        header = read_header(data)
        assert (header.width, header.height, header.is_common) == (width, height, True)
        assert decode_strictly(data, header).pixels is not None  # simplejpeg's own
        np.testing.assert_array_equal(decode(data), through_pillow(data))


@pytest.mark.parametrize(
    "options", [{"restart_marker_blocks": 2}, {"keep_rgb": True}, {"optimize": True}]
)
def test_rarer_kinds_decode_as_in_pillow(options):
    file = io.BytesIO()
    noisy(61, 45, 5).save(file, "JPEG", **options)
    data = file.getvalue()
    assert decode_image(data).notes == ()
    np.testing.assert_array_equal(decode(data), through_pillow(data))


def test_whatever_bits_flip_an_unnoted_jpeg_decodes_as_in_pillow():
    file = io.BytesIO()
    noisy(40, 40, 1).save(file, "JPEG", quality=85)
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(300):
        data = bytearray(file.getvalue())
        data[rng.integers(300, len(data))] ^= 1 << rng.integers(8)
        try:
            image = decode_image(bytes(data))
        except Undecodable:
            continue
        if not image.notes:
            compared += 1
            np.testing.assert_array_equal(image.pixels, through_pillow(bytes(data)))
    assert compared > 20


def test_fill_bytes_and_bare_markers_before_the_scan_are_read_over():
    file = io.BytesIO()
    noisy(16, 16, 2).save(file, "JPEG")
    data = file.getvalue()
    padded = data[:2] + b"\xff\xff\xff" + data[3:]
    np.testing.assert_array_equal(decode(padded), decode(data))
    assert read_header(data[:2] + b"junk" + data[2:]) is None
    assert read_header(data[:2] + b"\xff\xd9" + data[2:]) is None


@pytest.mark.parametrize(
    "name",
    [
        "imagenet-sample/imagenet-sample-000000.tar",  # gray originals, odd sizes
        "nyu-depth-v2-sample/nyu-test-000000.tar",
        "imagenette-144/imagenette144-val-000000.tar",
        "cifar10/cifar10-test-000000.tar.gz",
    ],
)
def test_real_photographs_decode_as_in_pillow(shared, name):
    compared = 0
    with tarfile.open(shared / "data" / name) as tar:
        for member in tar:
            if not member.name.endswith(".jpg"):
                continue
            data = tar.extractfile(member).read()
            header = read_header(data)
            assert decode_strictly(data, header).pixels is not None
            np.testing.assert_array_equal(decode(data), through_pillow(data))
            compared += 1
            if compared == 150:
                break
    assert compared >= 80
