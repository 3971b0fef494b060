"""HEIF through pillow-heif: the primary picture, upright once, or the way to install it."""

import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest
from hidden_packages import hide
from image_files import MOVES
from PIL import Image

from dinoforge.images.decode import decode, decode_image
from dinoforge.images.policy import DecodePolicy, Undecodable

pillow_heif = pytest.importorskip("pillow_heif")

PIXELS = np.zeros((64, 96, 3), np.uint8)
PIXELS[:32, :48], PIXELS[:32, 48:], PIXELS[32:, 48:] = 200, (0, 255, 0), (0, 0, 255)


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


def heic(pixels=PIXELS, **options):
    return saved(pillow_heif.from_pillow(Image.fromarray(pixels)), **options)


def assert_close(pixels, expected):
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_pixels_and_gray():
    image = decode_image(heic())
    assert_close(image.pixels, PIXELS)
    assert (image.format, image.notes) == ("HEIF", ())
    assert image.pixels.flags.writeable
    gray = PIXELS[:, :, 1]
    assert_close(decode(heic(gray)), np.repeat(gray[:, :, None], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = heic(exif=exif.tobytes())  # written as rotation and mirroring of the container
    move = MOVES.get(orientation)
    image = Image.fromarray(PIXELS)
    assert_close(decode(data), np.asarray(image.transpose(move) if move is not None else image))


def test_alpha_is_composited():
    image = Image.fromarray(np.dstack([PIXELS, np.zeros((64, 96), np.uint8)]))
    decoded = decode_image(saved(pillow_heif.from_pillow(image)), DecodePolicy(alpha_background=9))
    assert (decoded.pixels == 9).all()
    assert decoded.notes == ("alpha",)


def test_the_primary_picture_is_taken_and_others_are_no_frames():
    file = pillow_heif.from_pillow(Image.fromarray(PIXELS))
    file.add_from_pillow(Image.fromarray(255 - PIXELS))
    for primary, expected in enumerate((PIXELS, 255 - PIXELS)):
        image = decode_image(saved(file, primary_index=primary), DecodePolicy(animated="reject"))
        assert_close(image.pixels, expected)


@pytest.mark.parametrize("bits", [10, 12])
def test_more_than_8_bits_keep_their_ends(bits, monkeypatch):
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    values = np.repeat(np.array([[0], [32_768], [65_535]], np.uint16), 64, 0)
    for mode, shape in (("RGB;16", (-1, 64, 3)), ("I;16", (-1, 64))):
        wide = np.broadcast_to(values.reshape((-1,) + (1,) * (len(shape) - 1)), (192, *shape[1:]))
        file = io.BytesIO()
        pillow_heif.encode(mode, (64, 192), wide.tobytes(), file, quality=-1, chroma=444)
        assert pillow_heif.open_heif(file.getvalue()).info["bit_depth"] == bits
        assert_close(decode(file.getvalue())[::64, 0, 0], np.array([0, 128, 255]))
        if mode == "RGB;16":
            with pytest.raises(Undecodable, match=r"decode\.range cannot be applied"):
                decode(file.getvalue(), DecodePolicy(range=(0, 100)))
    half = decode(file.getvalue(), DecodePolicy(range=(0, 2 ** (bits - 1))))
    assert half[::64, 0, 0].tolist() == [0, 255, 255]


def test_metadata_does_not_cost_the_pixels():
    data = heic(exif=b"Exif\0\0" + b"\xff" * 3_000_000, xmp=bytes(3_000_000))
    assert_close(decode(data), PIXELS)
    image = Image.fromarray(PIXELS)
    image.info["icc_profile"] = bytes(3_000_000)
    assert_close(decode(saved(pillow_heif.from_pillow(image))), PIXELS)


def test_what_cannot_be_decoded_has_a_reason():
    data = heic()
    with pytest.raises(Undecodable, match="too_many_pixels: 96 x 64 pixels, limit 6143"):
        decode(data, DecodePolicy(max_pixels=6143))
    for stop in (40, 200, len(data) // 2, len(data) - 10):
        with pytest.raises(Undecodable, match="truncated: HEIF"):
            decode(data[:stop])
    for at in range(28, len(data), 5):
        flipped = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        with contextlib.suppress(Undecodable):
            decode(flipped)


def test_without_the_package_the_reason_says_how_to_install_it(tmp_path):
    (tmp_path / "x.heic").write_bytes(heic())
    code = hide(["pillow_heif"]) + (
        "import pathlib, dinoforge.images as images\n"
        "assert 'heif' not in images.DECODER_VERSION\n"
        "try: images.decode(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "except images.Undecodable as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.heic")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = 'unsupported: HEIF: run `pip install "dinoforge[heic]"` to read it\n'
    assert (done.stdout, done.stderr) == (expected, "")
