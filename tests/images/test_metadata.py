"""Metadata of any size, broken or in any number, makes no image undecodable and takes no memory."""

import io
import resource
import struct
import warnings
import zlib

import numpy as np
import pytest
from image_files import chunk, png, tiff
from PIL import Image, PngImagePlugin, features

from dinoforge.images.decode import decode, decode_image
from dinoforge.images.metadata import read_avif
from dinoforge.images.policy import DecodePolicy, Undecodable

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
ROWS = [row.tobytes() for row in PIXELS]
BOMB = zlib.compress(bytes(50_000_000), 9)  # 49 kB


def encoded(format_, **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format_, **options)
    return file.getvalue()


def exif_of(orientation, comment=b""):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if comment:
        exif[0x9286] = comment
    return exif.tobytes()


def xmp_of(orientation, length=0):
    return b'<x:xmpmeta tiff:Orientation="%d"/>' % orientation + b" " * length


def itxt(text, packed=False, keyword=b"XML:com.adobe.xmp"):
    body = zlib.compress(text) if packed else text
    return chunk(b"iTXt", keyword + b"\0" + bytes([packed]) + b"\0\0\0" + body)


PNG_CHUNKS = {
    "long text": chunk(b"tEXt", b"parameters\0" + b"a" * 70_000_000),
    "much text": chunk(b"tEXt", b"parameters\0" + b"a" * 900_000) * 80,
    "many chunks": chunk(b"tEXt", b"a\0b") * 20_000,
    "long packed text": chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"b" * 2_000_000)),
    "packed bomb": chunk(b"zTXt", b"parameters\0\0" + BOMB),
    "international bomb": itxt(b"", keyword=b"c")
    + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "large XMP": itxt(xmp_of(1, 2_000_000), packed=True),
    "bomb of a profile": chunk(b"iCCP", b"icc\0\0" + BOMB),
    "odd profile": chunk(b"iCCP", b"no end"),
    "profile, other method": chunk(b"iCCP", b"icc\0\7" + BOMB),
    "broken EXIF": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20),
    "wrong checksum": chunk(b"tEXt", b"a\0b", wrong=1) + chunk(b"eXIf", exif_of(6), wrong=1),
    "text without keyword": chunk(b"iTXt", b"\xff" * 9) + chunk(b"zTXt", b"") + chunk(b"tEXt", b""),
    "short fields": b"".join(
        chunk(k) for k in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"acTL", b"fcTL")
    ),
    "broken animation": chunk(b"fcTL", b"\xff" * 26) + chunk(b"fdAT", b"\xff"),
    "private": chunk(b"prVt", b"\0" * 1000) * 100,
}


@pytest.mark.parametrize("name", PNG_CHUNKS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_no_chunk_costs_the_pixels_of_a_png(name, place):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = png(ROWS, 8, 2, **{place: PNG_CHUNKS[name]})
    image = decode_image(data)
    np.testing.assert_array_equal(image.pixels, PIXELS)
    assert image.notes == ()
    if "bomb" in name:
        # Nothing is uncompressed: 50 MB would show.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000


def test_a_png_that_breaks_off_inside_text_is_complete():
    data = png(ROWS, 8, 2, after=chunk(b"tEXt", b"a\0" + b"b" * 100))[:-60]
    image = decode_image(data)
    np.testing.assert_array_equal(image.pixels, PIXELS)
    assert image.notes == ("missing_end_marker",)


def test_a_png_whose_data_is_interrupted_by_text_is_complete():
    whole = png(ROWS, 8, 2)
    at = whole.index(b"IDAT") - 4
    body = whole[at + 8 : at + 8 + int.from_bytes(whole[at : at + 4], "big")]
    parts = chunk(b"IDAT", body[:20]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", body[20:])
    np.testing.assert_array_equal(decode(whole[:at] + b"".join(parts) + chunk(b"IEND")), PIXELS)


@pytest.mark.parametrize(
    "source",
    [
        chunk(b"eXIf", exif_of(6)),
        itxt(xmp_of(6)),
        itxt(b"<x:xmpmeta tiff:Orientation = '6'/>"),
        itxt(xmp_of(6, 3_000_000)),
        itxt(xmp_of(6, 3_000_000), packed=True),
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n%8d\n" % 32 + exif_of(6).hex().encode()),
        ),
        chunk(b"eXIf", exif_of(6)) + itxt(xmp_of(3)),
        chunk(b"eXIf", b"broken") + itxt(xmp_of(6)),
    ],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_the_orientation_of_a_png_is_found_wherever_it_is(source, place):
    image = decode_image(png(ROWS, 8, 2, **{place: source}))
    np.testing.assert_array_equal(image.pixels, np.rot90(PIXELS, -1))
    assert image.notes == ("rotated",)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


JPEG_SEGMENTS = {
    "16 MB": segment(0xE5, bytes(65_000)) * 250,
    "a large profile": segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 100,
    "a broken index of pictures": segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff"),
    "broken resources": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\xff\xff\xff\xff"),
    "broken EXIF": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    "comments": segment(0xFE, b"c" * 60_000) * 50 + segment(0xFE, b""),
    "short JFIF and Adobe": segment(0xE0, b"JFIF\0\1") + segment(0xEE, b"Adobe\0"),
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_no_segment_costs_the_pixels_of_a_jpeg(name, mode):
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "JPEG")
    whole = file.getvalue()
    rotated = segment(0xE1, b"Exif\0\0" + exif_of(6).removeprefix(b"Exif\0\0"))
    for more, turns in ((b"", 0), (rotated, -1)):
        with warnings.catch_warnings(record=True, action="always") as caught:
            image = decode_image(whole[:2] + more + JPEG_SEGMENTS[name] + whole[2:])
        assert caught == []
        expected = np.rot90(decode(whole), turns)
        np.testing.assert_array_equal(image.pixels, expected)


def webp(*chunks):
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def test_no_chunk_costs_the_pixels_of_a_webp():
    plain = encoded("WEBP", lossless=True)
    canvas = b"\0\0\0\0" + (7).to_bytes(3, "little") + (5).to_bytes(3, "little")
    stream = (plain[12:16], plain[20:])
    for flags, before, after in [
        (0x2C, [(b"ICCP", bytes(3_000_000))], [(b"EXIF", bytes(99)), (b"XMP ", bytes(3_000_001))]),
        (0x00, [(b"ICCP", b"odd")], [(b"EXIF", b"odd"), (b"junk", b"1")]),  # not announced
        (0x2C, [], []),  # announced, absent
        (0x08, [], [(b"EXIF", exif_of(1)[:30])]),
    ]:
        data = webp((b"VP8X", bytes([flags]) + canvas[1:]), *before, stream, *after)
        np.testing.assert_array_equal(decode(data), PIXELS)
    broken_off = webp((b"VP8X", b"\x08" + canvas[1:]), stream, (b"EXIF", bytes(1000)))[:-500]
    with pytest.raises(Undecodable, match="truncated: WebP that ends after"):
        decode(broken_off)
    rotated = webp((b"VP8X", b"\x08" + canvas[1:]), stream, (b"EXIF", exif_of(6)))
    np.testing.assert_array_equal(decode(rotated), np.rot90(PIXELS, -1))


TIFF_TAGS = {
    "a large profile": [(34675, 7, bytes(5_000_000))],
    "a profile of letters": [(34675, 2, b"letters\0" * 9)],
    "XMP and resources": [(700, 1, bytes(5_000_000)), (34377, 7, b"8BIM" * 100_000)],
    "no resolution": [(282, 5, bytes(8)), (283, 5, bytes(8)), (296, 3, [9])],
    "a resolution of text": [(282, 2, b"300 dpi\0"), (283, 2, b"300 dpi\0")],
    "EXIF elsewhere": [(34665, 4, [0xFFFFFFF0]), (34853, 4, [8]), (40965, 4, [9])],
    "EXIF in a circle": [(34665, 4, [8])],
    "private": [(60_000 + at, 7, bytes(100)) for at in range(2_000)],
}


@pytest.mark.parametrize("name", TIFF_TAGS)
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_no_tag_costs_the_pixels_of_a_tiff(name, compression, order):
    kinds = {"order": order, "compression": compression, "tags": TIFF_TAGS[name]}
    image = decode_image(tiff([PIXELS.tobytes()], (8, 6), [8] * 3, 2, **kinds))
    np.testing.assert_array_equal(image.pixels, PIXELS)
    kinds["tags"] = [*TIFF_TAGS[name], (274, 3, [6])]
    image = decode_image(tiff([PIXELS.tobytes()], (8, 6), [8] * 3, 2, **kinds))
    np.testing.assert_array_equal(image.pixels, np.rot90(PIXELS, -1))
    assert image.notes == ("rotated",)


def test_the_orientation_in_xmp_counts_where_a_tiff_has_no_other():
    for tags, turns in [
        ([(700, 1, xmp_of(6, 2_000_000))], -1),
        ([(700, 1, xmp_of(6)), (274, 3, [1])], 0),
        ([(700, 1, b"odd"), (274, 3, [77])], 0),
    ]:
        data = tiff([PIXELS.tobytes()], (8, 6), [8] * 3, 2, tags=tags)
        np.testing.assert_array_equal(decode(data), np.rot90(PIXELS, turns))


def test_comments_do_not_cost_the_pixels_of_a_gif():
    whole = encoded("GIF")
    at = 13 + 3 * 256  # behind the palette
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 60_000 + b"\0"
    odd = b"!\xff\x0bXMP DataXMP" + b"\x03abc" * 1000 + b"\0" + b"!\x01\0"
    assert whole[at : at + 1] in b"!,"
    for more in (comment, odd):
        image = decode_image(whole[:at] + more + whole[at:])
        np.testing.assert_array_equal(image.pixels, decode(whole))
    for after in (b"!", b"!\xf9", b",\0\0", b"!\xfe\xff" + b"c" * 20):  # what follows breaks off
        image = decode_image(whole[:-1] + after)
        np.testing.assert_array_equal(image.pixels, decode(whole))


def test_comments_do_not_cost_the_pixels_of_a_portable_map():
    body = PIXELS.tobytes()
    for between in (b"\n", b" # " + b"c" * 5_000_000 + b"\n", b"\n#\n#\r\n"):
        np.testing.assert_array_equal(
            decode(b"P6" + between + b"8 6" + between + b"255\n" + body), PIXELS
        )


def test_resources_do_not_cost_the_pixels_of_a_psd():
    header = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 6, 8, 8, 3)
    planes = PIXELS.transpose(2, 0, 1).tobytes()
    for resources in (b"", b"\xff" * 3_000_001, b"8BIM\x04\x0f\0\0\xff\xff\xff\xff"):
        sections = bytes(4) + struct.pack(">I", len(resources)) + resources + bytes(6)
        np.testing.assert_array_equal(decode(header + sections + planes), PIXELS)


def test_text_does_not_cost_the_pixels_of_an_icon():
    square = PIXELS[:6, :6]
    inner = png([row.tobytes() for row in square], 8, 2, before=PNG_CHUNKS["long packed text"])
    entry = struct.pack("<BBBBHHII", 6, 6, 0, 0, 1, 32, len(inner), 22)
    np.testing.assert_array_equal(decode(b"\0\0\1\0\1\0" + entry + inner), square)
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    inner = png([row.tobytes() for row in pixels], 8, 2, before=PNG_CHUNKS["long packed text"])
    block = b"ic07" + struct.pack(">I", len(inner) + 8) + inner
    data = b"icns" + struct.pack(">I", len(block) + 8) + block
    np.testing.assert_array_equal(decode(data), pixels)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow without OpenJPEG")
def test_boxes_do_not_cost_the_pixels_of_a_jpeg_2000():
    whole = encoded("JPEG2000")
    at = whole.index(b"jp2c") - 4
    box = struct.pack(">I4s", 3_000_024, b"uuid") + bytes(3_000_016)
    np.testing.assert_array_equal(decode(whole[:at] + box + whole[at:]), PIXELS)
    head, end = whole.index(b"jp2h") - 4, whole.index(b"jp2c") - 4
    for box in (b"", b"\0\0\0\x0aresc\0\1", b"\0\0\0\x12resc" + bytes(10)):
        resolution = struct.pack(">I4s", len(box) + 8, b"res ") + box
        for odd in (resolution, struct.pack(">I4s", 9999, b"zzzz") + b"ab"):
            boxes = whole[head + 8 : end] + odd
            header = struct.pack(">I4s", len(boxes) + 8, b"jp2h") + boxes
            np.testing.assert_array_equal(decode(whole[:head] + header + whole[end:]), PIXELS)


def test_large_metadata_does_not_cost_the_pixels_of_an_avif():
    plain = decode(encoded("AVIF", quality=90))
    data = encoded("AVIF", quality=90, exif=exif_of(6, bytes(2_000_000)), xmp=bytes(2_000_000))
    np.testing.assert_array_equal(decode(data), np.rot90(plain, -1))
    data = encoded("AVIF", quality=90, icc_profile=bytes(100_000))
    np.testing.assert_array_equal(decode(data), plain)


def test_broken_metadata_does_not_cost_the_pixels_of_an_avif():
    plain = decode(encoded("AVIF", quality=90))
    data = encoded("AVIF", quality=90, exif=exif_of(1, b"comment"), xmp=xmp_of(6))
    at = data.index(b"*\0\0\0\x08") if b"*\0\0\0\x08" in data else data.index(b"II*\0") + 2
    for wrong in (data, data[: at - 2] + b"????" + data[at + 2 :]):
        image = decode_image(wrong)
        np.testing.assert_array_equal(image.pixels, plain)  # only the container's turns count
        assert image.notes == ()


def test_the_bits_of_an_avif_are_those_of_its_configuration():
    data = bytearray(encoded("AVIF"))
    assert not read_avif(bytes(data)).storage.wide
    data[data.index(b"av1C") + 6] |= 0x40
    assert read_avif(bytes(data)).storage.wide


def test_pictures_inside_are_limited_as_the_file_is():
    """A small header may stand before a large picture: an icon, a tile, a codestream."""
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND")
    inner = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    icon = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 6, 6, 0, 0, 1, 32, len(inner), 22) + inner
    tiled = tiff([b"\0"], (8, 6), [8], 1, tags=[(322, 4, [9000]), (323, 4, [9000])])
    canvas = webp((b"VP8X", bytes(4) + (8999).to_bytes(3, "little") * 2), (b"VP8L", bytes(9)))
    codestream = encoded("JPEG2000")
    at = codestream.index(b"\xff\x4f\xff\x51") + 8
    codestream = codestream[:at] + struct.pack(">II", 9000, 9000) + codestream[at + 8 :]
    for data in (icon, tiled, canvas, codestream):
        with pytest.raises(Undecodable) as caught:
            decode(data, DecodePolicy(max_pixels=80_000_000))
        assert caught.value.reason == "too_many_pixels"
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1 << 20  # Pillow's own limits are left alone
