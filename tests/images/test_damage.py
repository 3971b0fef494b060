"""Files cut short, and files that lie about their contents: no wrong pixels, reasons of our own."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from image_files import chunk, png, tiff
from PIL import Image

from dinoforge.images.decode import decode, decode_image
from dinoforge.images.policy import DecodePolicy, Undecodable

RGB = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
ACCEPT = DecodePolicy(truncated="accept")


def encoded(format_, image=None, **options):
    file = io.BytesIO()
    (image or Image.fromarray(RGB)).save(file, format_, **options)
    return file.getvalue()


def refusal(data, reason, policy=DecodePolicy()):  # noqa: B008 - frozen
    with pytest.raises(Undecodable) as caught:
        decode(data, policy)
    assert caught.value.reason == reason, caught.value.detail
    return caught.value.detail


def gray(order="<"):
    """32-bit values: their directory gains a tag and must move."""
    values = np.arange(32 * 48, dtype=np.uint32) * 1000
    return tiff([values.astype(order + "u4").tobytes()], (48, 32), [32], 1, order=order)


PALETTE = Image.fromarray(RGB).quantize(200)
ENDS = {
    "TIFF": tiff([RGB.tobytes()], (48, 32), [8] * 3, 2),
    "16-bit TIFF": tiff([RGB[:, :, :2].tobytes()], (48, 32), [16], 1),
    "32-bit TIFF": gray(),
    "32-bit TIFF, big-endian": gray(">"),
    "BigTIFF": encoded("TIFF", big_tiff=True),
    "packed TIFF": tiff([RGB.tobytes()], (48, 32), [8] * 3, 2, compression=8),
    "palette TIFF": encoded("TIFF", PALETTE),
    **{f"{name} TIFF": encoded("TIFF", compression=name) for name in ("jpeg", "zstd", "tiff_lzw")},
    "packbits TIFF": encoded("TIFF", compression="packbits"),
    "icon": encoded("ICO", Image.fromarray(RGB).resize((64, 64)), sizes=[(16, 16), (64, 64)]),
    "palette PCX": encoded("PCX", PALETTE),
    **{name: encoded(name) for name in ("WEBP", "AVIF", "DDS", "BMP", "JPEG2000", "PPM", "SGI")},
}


@pytest.mark.parametrize("name", ENDS)
def test_a_file_cut_anywhere_is_truncated(name):
    whole = ENDS[name]
    decode(whole)
    assert "Undecodable" not in refusal(whole[: len(whole) // 2], "truncated")
    for lost in (*range(4, 200, 7), 230, 270, 300):
        detail = refusal(whole[:-lost], "truncated")
        assert f"{len(whole) - lost} bytes" in detail or "its palette" in detail


@pytest.mark.parametrize("name", ["TIFF", "16-bit TIFF", "BigTIFF"])
def test_a_tiff_cut_short_is_accepted_on_request(name):
    whole = ENDS[name]
    image = decode_image(whole[:-100], ACCEPT)
    assert image.notes == ("truncated",)
    np.testing.assert_array_equal(image.pixels[:25], decode(whole)[:25])
    assert not image.pixels[-1, -20:].any()


@pytest.mark.parametrize(
    "head", [b"GIF89a", b"8BPS", b"DDS ", b"\x59\xa6\x6a\x95", b"II*\0", b"icns"]
)
def test_a_bare_header_is_truncated(head):
    detail = f"after {len(head)} bytes|its {len(head)} bytes"
    with pytest.raises(Undecodable, match=f"truncated: .*({detail})"):
        decode(head)


def short_png(num_rows, is_interlaced=False, fill=7):
    header = struct.pack(">IIBBBBB", 30, 40, 8, 2, 0, 0, is_interlaced)
    data = zlib.compress((b"\0" + bytes([fill]) * 90) * num_rows)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("num_rows", [0, 20, 39])
@pytest.mark.parametrize("is_interlaced", [False, True])
def test_a_png_with_too_few_rows_is_truncated(num_rows, is_interlaced):
    data = short_png(num_rows, is_interlaced, fill=0 if is_interlaced else 7)
    refusal(data, "truncated")
    assert decode_image(data, ACCEPT).notes == ("truncated",)


def test_a_png_that_ends_black_is_complete():
    assert not decode(short_png(40, fill=0)).any()
    for width, height in ((1, 1), (2, 3), (5, 5), (8, 9), (33, 17)):
        sizes = [(width - x + dx - 1) // dx for x, dx in ((0, 8), (4, 8), (0, 4), (2, 4))]
        sizes += [(width - x + dx - 1) // dx for x, dx in ((0, 2), (1, 2), (0, 1))]
        rows = [(height - y + dy - 1) // dy for y, dy in ((0, 8), (0, 8), (4, 8), (0, 4))]
        rows += [(height - y + dy - 1) // dy for y, dy in ((2, 4), (0, 2), (1, 2))]
        data = b"".join(bytes(1 + w) * h for w, h in zip(sizes, rows, strict=True) if w)
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
        parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND")
        whole = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
        assert decode_image(whole).notes == (), (width, height)


def test_palettes_that_are_missing_are_named():
    no_map = tiff([bytes(256)], (16, 16), [8], 3)
    assert refusal(no_map, "damaged") == "TIFF of palette colors without its palette"
    no_colors = png([bytes(8)] * 8, 8, 3)
    assert refusal(no_colors, "damaged") == "PNG of palette colors without its palette"


def test_a_palette_of_8_bits_in_a_tiff_is_not_black():
    levels = list(range(256))
    for factor in (1, 257):
        colors = (320, 3, [level * factor for level in levels] * 3)
        decoded = decode(tiff([bytes(levels)], (16, 16), [8], 3, tags=[colors]))
        np.testing.assert_array_equal(decoded.reshape(256, 3), np.repeat(levels, 3).reshape(256, 3))


@pytest.mark.parametrize(
    ("num_layers", "is_selection"), [(None, True), (0, True), (1, True), (-1, False)]
)
def test_the_fourth_channel_of_a_psd_is_transparency_only_if_it_says_so(num_layers, is_selection):
    layers = b"" if num_layers is None else struct.pack(">Ih2x", 4, num_layers)
    header = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 4, 32, 48, 8, 3) + bytes(8)
    planes = RGB.transpose(2, 0, 1).tobytes() + bytes(32 * 48)
    image = decode_image(header + struct.pack(">I", len(layers)) + layers + bytes(2) + planes)
    assert image.notes == (() if is_selection else ("alpha",))
    expected = RGB if is_selection else np.full_like(RGB, 255)
    np.testing.assert_array_equal(image.pixels, expected)


@pytest.mark.parametrize("format_", ["TIFF", "GIF", "BMP"])
def test_what_pillow_calls_a_bomb_is_refused_with_its_size(format_):
    data = bytearray(encoded(format_))
    side = 50_000
    if format_ == "TIFF":
        data = tiff([bytes(9)], (side, side), [8], 1)
    elif format_ == "GIF":
        struct.pack_into("<HH", data, 6, side, side)
    else:
        struct.pack_into("<ii", data, 18, side, side)
    detail = refusal(bytes(data), "too_many_pixels")
    assert detail == "50000 x 50000 pixels, limit 100000000"


def test_an_icns_of_palette_pictures_is_read():
    image = Image.fromarray(RGB).resize((64, 64)).quantize(200)
    decoded = decode(encoded("ICNS", image, sizes=[(64, 64)]))
    stored = Image.open(io.BytesIO(encoded("ICNS", image)))
    np.testing.assert_array_equal(decoded, np.asarray(stored.icns.getimage().convert("RGB")))


@pytest.mark.parametrize("prefix", [b"", b"junk"])  # junk: only Pillow reads the headers
def test_a_jpeg_of_very_many_scans_is_refused_in_time(prefix):
    data = encoded("JPEG", Image.new("RGB", (4000, 4000)), progressive=True)
    assert decode_image(data).notes == ()
    scan = data[data.rindex(b"\xff\xda") : -2]
    behind = decode_image(data + b"\xff\xda" * 1000)  # the picture ends before
    assert behind.notes == ()
    many = data[:20] + prefix + data[20:-2] + scan * 990 + data[-2:]
    before = time.process_time()
    assert refusal(many, "unsupported") == "JPEG of more than 187 scans at 4000 x 4000"
    assert time.process_time() - before < 1


def test_kinds_that_no_library_reads_are_unsupported():
    in_tiff = tiff([bytes(9)], (3, 1), [8] * 3, 2, tags=[(259, 3, [50001])])
    assert refusal(in_tiff, "unsupported") == "TIFF with compression 50001"
    lossless = b"\xff\xd8\xff\xf7\0\x0b\x08\0\x10\0\x10\1\1\x11\0\xff\xda\0\x08\1\1\0\0\0\0"
    assert refusal(lossless + bytes(99), "unsupported") == "JPEG-LS is not read"


def test_two_thumbnails_before_the_picture_are_refused():
    small = [Image.new("RGB", (8, 6))] * 2
    data = encoded(
        "TIFF", small[0], save_all=True, append_images=[small[1], Image.new("RGB", (99, 99))]
    )
    assert "previews one of 99 x 99" in refusal(data, "unsupported")


def test_bytes_behind_a_palette_pcx_do_not_change_its_colors():
    np.testing.assert_array_equal(decode(ENDS["palette PCX"]), np.asarray(PALETTE.convert("RGB")))
    refusal(ENDS["palette PCX"] + bytes(50), "truncated")
