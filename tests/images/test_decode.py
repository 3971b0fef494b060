"""The decoder's rules on small images made here."""

import dataclasses
import io
import pickle
import zlib
from importlib import metadata

import numpy as np
import pytest
from PIL import Image

from dinoforge.config.ranges import find_faults
from dinoforge.images.decode import decode, decode_image
from dinoforge.images.policy import DECODER_VERSION, NOTES, REASONS, DecodePolicy, Undecodable

POLICY = DecodePolicy()


def picture(width=24, height=16, seed=0):
    """A smooth picture, different in its corners."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 20, (height, width))
    bands = (x * 200 // width + noise, y * 200 // height + noise, (x + y) * 3 % 230)
    return np.stack(bands, axis=-1).astype(np.uint8)


def encoded(image, format_="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, format_, **options
    )
    return file.getvalue()


def reason_of(data, **policy):
    with pytest.raises(Undecodable) as caught:
        decode(data, DecodePolicy(**policy))
    assert caught.value.reason in REASONS
    return caught.value.reason


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "QOI"])
def test_lossless_formats_give_their_pixels(format_):
    pixels = picture(16, 16)
    options = {"sizes": [(16, 16)]} if format_ == "ICO" else {}
    data = encoded(pixels, format_, **options)
    image = decode_image(data)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.format == format_
    assert not {"first_frame", "truncated", "damaged"} & set(image.notes)


@pytest.mark.parametrize("format_", ["WEBP", "AVIF", "GIF"])
def test_lossy_formats_give_nearly_their_pixels(format_):
    decoded = decode(encoded(picture(), format_))
    assert np.abs(decoded.astype(int) - picture()).mean() < 12


def test_pixels_may_be_written_to():
    for data in (encoded(picture()), encoded(picture(), "JPEG"), encoded(picture()[:, :, 0])):
        pixels = decode(data)
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous
        assert pixels.dtype == np.uint8


def test_gray_one_bit_and_palette_become_rgb():
    gray = picture()[:, :, 0]
    np.testing.assert_array_equal(decode(encoded(gray)), np.repeat(gray[:, :, None], 3, 2))
    bit = Image.fromarray(gray).convert("1")
    np.testing.assert_array_equal(decode(encoded(bit))[:, :, 1], np.asarray(bit) * 255)
    palette = Image.fromarray(picture()).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bit_gray_is_divided_by_257(format_):
    values = np.linspace(0, 65_535, 24 * 16).reshape(16, 24).astype(np.uint16)
    decoded = decode(encoded(values, format_))
    np.testing.assert_array_equal(decoded[:, :, 0], np.rint(values / 257).astype(np.uint8))
    assert decoded.min() == 0
    assert decoded.max() == 255


def test_floats_in_0_to_1_are_times_255_and_others_span_their_range():
    unit = np.linspace(0.25, 0.75, 64, dtype=np.float32).reshape(8, 8)
    np.testing.assert_array_equal(decode(encoded(unit, "TIFF"))[:, :, 0], np.rint(unit * 255))
    wide = unit * 4000 - 7
    wide[0, 0] = np.nan
    decoded = decode(encoded(wide, "TIFF"))[:, :, 0]
    assert decoded[0, 0] == 0
    assert (decoded[0, 1], decoded[-1, -1]) == (0, 255)


def test_32_bit_integers_span_their_range():
    values = np.array([[-5, 95], [195, 295]], np.int32)
    np.testing.assert_array_equal(decode(encoded(values, "TIFF"))[:, :, 0], [[0, 85], [170, 255]])


def test_alpha_is_composited_on_the_background():
    pixels = np.dstack([picture(), np.linspace(0, 255, 16 * 24).reshape(16, 24).astype(np.uint8)])
    alpha = pixels[:, :, 3:] / 255
    for background in (255, 0, 128):
        expected = pixels[:, :, :3] * alpha + background * (1 - alpha)
        decoded = decode(encoded(pixels), DecodePolicy(alpha_background=background))
        assert np.abs(decoded - expected).max() <= 0.5
    assert decode_image(encoded(pixels)).notes == ("alpha",)


def test_opaque_alpha_changes_nothing():
    opaque = np.dstack([picture(), np.full((16, 24), 255, np.uint8)])
    np.testing.assert_array_equal(decode(encoded(opaque)), picture())


def test_gray_with_alpha_and_transparent_palette_entries_are_composited():
    la = np.dstack([picture()[:, :, 0], np.zeros((16, 24), np.uint8)])
    assert (decode(encoded(Image.fromarray(la, "LA"))) == 255).all()
    palette = Image.fromarray(np.zeros((4, 4), np.uint8), "P")
    palette.putpalette([10, 20, 30] * 256)
    assert (decode(encoded(palette)) == (10, 20, 30)).all()
    assert (decode(encoded(palette, transparency=0)) == 255).all()
    assert (decode(encoded(palette, transparency=bytes([0, 255]))) == 255).all()


def test_a_transparent_16_bit_gray_shows_the_background():
    values = np.array([[1000, 2000]], np.uint16)
    assert decode(encoded(values, transparency=2000))[0].tolist() == [[4] * 3, [255] * 3]


def test_cmyk_resembles_its_original():
    cmyk = Image.fromarray(picture()).convert("CMYK")
    for data in (encoded(cmyk, "JPEG", quality=95), encoded(cmyk, "TIFF")):
        assert np.abs(decode(data).astype(int) - picture()).mean() < 12


def test_lab_becomes_rgb():
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert decode(encoded(lab, "TIFF")).min() >= 250


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format_, orientation):
    # What a viewer does to turn the stored pixels upright, undone here.
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = Image.fromarray(picture())
    for move in undo.get(orientation, []):
        stored = stored.transpose(move)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encoded(stored, format_, exif=exif, **options)
    decoded = decode_image(data)
    tolerance = 14 if format_ == "JPEG" else 0  # 4:2:0 of a noisy picture
    assert np.abs(decoded.pixels.astype(int) - picture()).mean() <= tolerance
    assert decoded.pixels.shape == (16, 24, 3)
    if format_ != "TIFF":  # Pillow turns those before we see them
        assert ("rotated" in decoded.notes) == (orientation > 1)


def test_broken_exif_and_icc_blocks_do_not_matter():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20
    whole = encoded(picture(), "JPEG")
    for extra in ({"exif": exif}, {"icc_profile": b"no profile"}):
        np.testing.assert_array_equal(decode(encoded(picture(), "JPEG", **extra)), decode(whole))
    exif = Image.Exif()
    exif[0x0112] = 77
    np.testing.assert_array_equal(decode(encoded(picture(), exif=exif)), picture())


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_taken_or_the_file_refused(format_):
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
    image = decode_image(data)
    assert "first_frame" in image.notes
    assert np.abs(image.pixels.astype(int) - picture()).mean() < 12
    assert reason_of(data, animated="reject") == "animated"


def test_a_second_picture_for_the_phone_is_no_animation():
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(2)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert decode(data, DecodePolicy(animated="reject")).shape == (16, 24, 3)
    assert "first_frame" not in decode_image(data).notes


def test_too_many_pixels_are_refused_from_the_header():
    def chunk(kind, body):
        return (
            len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        )

    for side in (11_000, 50_000):  # below and above what Pillow itself refuses
        header = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + b"\x08\2\0\0\0")
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))
        assert reason_of(bomb + chunk(b"IEND", b"")) == "too_many_pixels"
    for data in (encoded(picture()), encoded(picture(), "JPEG"), encoded(picture(), "GIF")):
        assert reason_of(data, max_pixels=383) == "too_many_pixels"
        with pytest.raises(Undecodable, match="24 x 16 pixels, limit 383"):
            decode(data, DecodePolicy(max_pixels=383))
        assert decode(data, DecodePolicy(max_pixels=384)).shape == (16, 24, 3)


def test_a_truncated_jpeg_is_refused_whatever_was_cut():
    whole = encoded(picture(64, 48), "JPEG", quality=90)
    progressive = encoded(picture(64, 48), "JPEG", quality=90, progressive=True)
    for data in (whole, progressive):
        for stop in range(3, len(data) - 2, 7):
            assert reason_of(data[:stop]) == "truncated"


def test_a_truncated_jpeg_with_an_end_marker_put_on_is_refused():
    whole = encoded(picture(64, 48), "JPEG", quality=90)
    assert reason_of(whole[: len(whole) // 2 + 100] + b"\xff\xd9") == "truncated"


def test_a_jpeg_that_lacks_its_end_marker_only_is_complete():
    whole = encoded(picture(), "JPEG")
    for cut in (1, 2):
        image = decode_image(whole[:-cut])
        np.testing.assert_array_equal(image.pixels, decode(whole))
        assert image.notes == ("missing_end_marker",)
        assert reason_of(whole[:-cut], missing_end="refuse") == "truncated"


def test_a_cmyk_jpeg_that_lacks_its_end_marker_only_is_complete():
    whole = encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG")
    image = decode_image(whole[:-2])
    np.testing.assert_array_equal(image.pixels, decode(whole))
    assert image.notes == ("missing_end_marker",)
    assert reason_of(whole[: len(whole) - 40]) == "truncated"


def test_a_progressive_jpeg_without_its_end_is_refused():
    # Its last scan may be missing as well: nothing in the file would show it.
    data = encoded(picture(), "JPEG", progressive=True)
    assert reason_of(data[:-2]) == "truncated"


def test_truncated_images_are_accepted_on_request():
    whole = encoded(picture(64, 48), "JPEG", quality=90)
    image = decode_image(whole[: len(whole) * 2 // 3], DecodePolicy(truncated="accept"))
    assert image.notes == ("truncated",)
    np.testing.assert_array_equal(image.pixels[:8], decode(whole)[:8])
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    whole = encoded(noise)
    image = decode_image(whole[: len(whole) * 2 // 3], DecodePolicy(truncated="accept"))
    assert image.notes == ("truncated",)
    np.testing.assert_array_equal(image.pixels[:100], noise[:100])
    assert reason_of(whole[: len(whole) * 2 // 3]) == "truncated"


def test_a_jpeg_that_libjpeg_complains_about_is_noted_or_refused():
    whole = encoded(picture(64, 48), "JPEG", quality=90)
    data = whole[:-2] + b"stray" + whole[-2:]
    image = decode_image(data)
    np.testing.assert_array_equal(image.pixels, decode(whole))
    assert image.notes == ("damaged",)
    assert reason_of(data, damaged_jpeg="refuse") == "damaged"


def test_bytes_after_the_end_of_a_jpeg_are_ignored():
    whole = encoded(picture(), "JPEG")
    image = decode_image(whole + b"PK\x03\x04" + bytes(range(256)))
    np.testing.assert_array_equal(image.pixels, decode(whole))
    assert image.notes == ()


def test_png_checksums_count():
    data = bytearray(encoded(picture()))
    at = data.index(b"IDAT") + 4 + int.from_bytes(data[data.index(b"IDAT") - 4 :][:4], "big")
    data[at] ^= 1  # the checksum itself: the pixels would decode
    assert reason_of(bytes(data)) == "damaged"


def test_a_png_without_its_end_chunk_is_complete():
    data = encoded(picture())[:-12]
    assert decode_image(data).notes == ("missing_end_marker",)
    assert reason_of(data, missing_end="refuse") == "truncated"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "not_an_image"),
        (b"BMW is no bitmap", "not_an_image"),
        (np.random.default_rng(0).bytes(3000), "not_an_image"),
        (b"\xff\xd8\xff\xe0", "truncated"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported"),
        (b"8BPS" + b"\xff" * 60, "damaged"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(data, reason):
    assert reason_of(data) == reason


def test_a_truncated_gif_is_refused():
    assert reason_of(encoded(picture(), "GIF")[:-60]) == "truncated"


def test_the_content_decides_not_the_name():
    # There is no name to look at: only that PNG bytes and JPEG bytes go their own ways.
    assert decode_image(encoded(picture())).format == "PNG"
    assert decode_image(encoded(picture(), "JPEG")).format == "JPEG"


def test_undecodable_travels_between_processes():
    bad = pickle.loads(pickle.dumps(Undecodable("damaged", "why")))
    assert (bad.reason, bad.detail, str(bad)) == ("damaged", "why", "damaged: why")
    with pytest.raises(ValueError, match="unknown reason"):
        Undecodable("odd", "")


def test_policy_faults_are_named():
    assert list(find_faults(POLICY, "decode")) == []
    wrong = DecodePolicy(max_pixels=0, alpha_background=256)
    assert [fault.what for fault in find_faults(wrong, "decode")] == [
        "`decode.max_pixels` is 0",
        "`decode.alpha_background` is 256",
    ]
    assert dataclasses.is_dataclass(POLICY)


def test_version_names_the_libraries_that_set_the_pixels():
    assert f"pillow-{metadata.version('pillow')}" in DECODER_VERSION
    assert f"simplejpeg-{metadata.version('simplejpeg')}" in DECODER_VERSION


def test_each_note_has_a_name_of_its_own():
    assert set(NOTES) & set(REASONS) == {"damaged", "truncated"}
