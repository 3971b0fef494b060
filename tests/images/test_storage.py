"""Each mode of Pillow and each common storage: known values at both ends."""

import io
import struct

import numpy as np
import pytest
from image_files import chunk, png, tiff
from PIL import Image

from dinoforge.images.color import to_rgb
from dinoforge.images.decode import decode, decode_image
from dinoforge.images.policy import DecodePolicy, Undecodable

WHITE, BLACK, RED = [255] * 3, [0] * 3, [255, 0, 0]


def row(data, **policy):
    """Decode to one list of colors."""
    return decode(data, DecodePolicy(**policy)).reshape(-1, 3).tolist()


def gray(data, **policy):
    return [red for red, _, _ in row(data, **policy)]


def swapped(values, order):
    return np.asarray(values).astype(np.asarray(values).dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize(
    ("mode", "pixels", "colors"),
    [
        ("1", [0, 255], [BLACK, WHITE]),
        ("L", [0, 1, 255], [BLACK, [1] * 3, WHITE]),
        ("LA", [(0, 255), (255, 255), (9, 0)], [BLACK, WHITE, WHITE]),
        ("La", [(0, 255), (255, 255), (0, 0)], [BLACK, WHITE, WHITE]),
        ("RGB", [(0, 0, 0), (255, 0, 0), (255, 255, 255)], [BLACK, RED, WHITE]),
        ("RGBX", [(0, 0, 0, 0), (255, 0, 0, 0)], [BLACK, RED]),
        ("RGBA", [(0, 0, 0, 255), (255, 0, 0, 255), (9, 9, 9, 0)], [BLACK, RED, WHITE]),
        ("RGBa", [(0, 0, 0, 255), (255, 0, 0, 255), (0, 0, 0, 0)], [BLACK, RED, WHITE]),
        ("CMYK", [(0, 0, 0, 255), (0, 255, 255, 0), (0, 0, 0, 0)], [BLACK, RED, WHITE]),
        ("YCbCr", [(0, 128, 128), (76, 85, 255), (255, 128, 128)], [BLACK, [254, 0, 0], WHITE]),
        ("HSV", [(0, 0, 0), (0, 255, 255), (0, 0, 255)], [BLACK, RED, WHITE]),
        ("I;16", [0, 65_535], [BLACK, WHITE]),
        ("I;16B", [0, 65_535], [BLACK, WHITE]),
        ("I", [0, 65_535], [BLACK, WHITE]),
        ("I", [-7, 93], [BLACK, WHITE]),
        ("F", [0.0, 1.0], [BLACK, WHITE]),
        ("F", [-3.0, 9.0], [BLACK, WHITE]),
    ],
)
def test_each_mode_of_pillow(mode, pixels, colors):
    if mode in ("I;16", "I;16B"):
        raw = struct.pack((">" if mode == "I;16B" else "<") + "2H", *pixels)
        image = Image.frombytes(mode, (2, 1), raw)
    else:
        image = Image.new(mode, (len(pixels), 1))
        image.putdata(pixels)
    rgb = to_rgb(image, DecodePolicy())
    assert rgb.reshape(-1, 3).tolist() == colors
    assert rgb.flags.writeable
    assert rgb.flags.c_contiguous


def test_lab_has_its_ends():
    lab = Image.new("LAB", (2, 1))
    lab.putdata([(0, 128, 128), (255, 128, 128)])
    rgb = to_rgb(lab, DecodePolicy()).astype(int)
    assert np.abs(rgb - [[BLACK, WHITE]]).max() <= 1
    data = tiff([bytes([0, 0, 0, 255, 0, 0])], (2, 1), [8] * 3, 8)
    assert np.abs(np.array(row(data)) - [BLACK, WHITE]).max() <= 1


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_palettes_with_and_without_alpha(mode):
    image = Image.new(mode, (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putdata([0, 1] if mode == "P" else [(0, 0), (1, 255)])
    assert to_rgb(image, DecodePolicy())[0].tolist() == (
        [BLACK, RED] if mode == "P" else [WHITE, RED]
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("is_white_zero", [False, True])
@pytest.mark.parametrize(
    ("dtype", "format_", "values", "expected"),
    [
        (np.uint8, 1, [0, 1, 255], [0, 1, 255]),
        (np.uint16, 1, [0, 257, 32_896, 65_535], [0, 1, 128, 255]),
        (np.int16, 2, [-32_768, 32_767], [0, 255]),
        (np.uint32, 1, [0, 65_535], [0, 255]),
        (np.uint32, 1, [0, 2**31, 2**32 - 1], [0, 128, 255]),
        (np.int32, 2, [-(2**31), 2**31 - 1], [0, 255]),
        (np.float32, 3, [0.0, 0.25, 1.0], [0, 64, 255]),
        (np.float32, 3, [-1.0, 1.0, 3.0], [0, 128, 255]),
    ],
)
def test_gray_tiffs(order, compression, is_white_zero, dtype, format_, values, expected):
    data = tiff(
        [swapped(np.array(values, dtype), order)],
        (len(values), 1),
        [np.dtype(dtype).itemsize * 8],
        0 if is_white_zero else 1,
        order=order,
        compression=compression,
        tags=[(339, 3, [format_])],
    )
    decoded = np.array(gray(data))
    # Rounding to nearest is not symmetric for halves (floats of 0.5).
    assert np.abs((255 - decoded if is_white_zero else decoded) - expected).max() <= is_white_zero
    assert decoded[0] == (255 if is_white_zero else 0)
    assert decoded[-1] == (0 if is_white_zero else 255)


@pytest.mark.parametrize(("bits", "raw"), [(1, 0b01000000), (2, 0b00110000), (4, 0b00001111)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_few_bits_of_gray(bits, raw, order):
    for photometric, expected in ((0, [255, 0]), (1, [0, 255])):
        assert gray(tiff([bytes([raw])], (2, 1), [bits], photometric, order=order)) == expected
    assert gray(png([bytes([raw])], bits, 0, width=2)) == [0, 255]


def test_12_bits_span_0_to_4095():
    for compression in (1, 8):
        data = tiff([bytes([0x00, 0x0F, 0xFF])], (2, 1), [12], 1, compression=compression)
        assert gray(data) == [0, 255]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_color_tiffs(order, compression):
    def one(values, dtype, photometric, *tags):
        values = np.array(values, dtype)
        bits = [values.dtype.itemsize * 8] * values.shape[-1]
        size = (len(values), 1)
        kinds = {"order": order, "compression": compression, "tags": tags}
        return row(tiff([swapped(values, order)], size, bits, photometric, **kinds))

    ends = [[0, 0, 0], [65_535, 0, 0], [65_535] * 3]
    assert one(ends, np.uint16, 2) == [BLACK, RED, WHITE]
    assert one([[0, 127, 128], [129, 257, 386]], np.uint16, 2) == [[0, 0, 0], [1, 1, 2]]
    alpha = [[0, 0, 0, 65_535], [65_535, 0, 0, 65_535], [0, 0, 0, 0]]
    assert one(alpha, np.uint16, 2, (338, 3, [2])) == [BLACK, RED, WHITE]
    assert one(alpha, np.uint16, 2, (338, 3, [1])) == [BLACK, RED, WHITE]
    assert one(alpha, np.uint16, 2, (338, 3, [0])) == [BLACK, RED, BLACK]
    inks = [[0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert one(np.array(inks) * 255, np.uint8, 5) == [BLACK, RED, WHITE]
    assert one(np.array(inks) * 65_535, np.uint16, 5) == [BLACK, RED, WHITE]
    colors = [[0, 128, 128], [76, 85, 255], [255, 128, 128]]
    assert one(colors, np.uint8, 6, (530, 3, [1, 1])) == [BLACK, [254, 0, 0], WHITE]
    assert one([[0, 255], [255, 255], [9, 0]], np.uint8, 1, (338, 3, [2])) == [BLACK, WHITE, WHITE]
    palette = [0, 65_535] + [0] * 254 + [0] * 512
    assert one([[0], [1]], np.uint8, 3, (320, 3, palette)) == [BLACK, RED]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", [2, 5])
def test_planes_one_after_the_other(order, compression, dtype, photometric):
    top = np.iinfo(dtype).max
    colors = np.array(
        [[0, 0, 0, top], [0, top, top, 0], [0, 0, 0, 0]]
        if photometric == 5
        else [[0, 0, 0], [top, 0, 0], [top] * 3],
        dtype,
    )
    planes = [swapped(plane, order) for plane in colors.T]
    bits = [top.bit_length()] * len(planes)
    kinds = {"order": order, "compression": compression, "tags": [(284, 3, [2])]}
    assert row(tiff(planes, (3, 1), bits, photometric, **kinds)) == [BLACK, RED, WHITE]


@pytest.mark.parametrize(
    ("bits", "photometric", "tags", "words"),
    [
        ([8], 1, [(339, 3, [2])], "8-bit values with a sign"),
        ([8] * 4, 5, [(332, 3, [2])], "inks other than"),
        ([8] * 3, 6, [], "subsampled colors"),
        ([64], 1, [(339, 3, [3])], "TIFF of 64-bit floats, 1 per pixel, photometric 1"),
        ([16] * 2, 1, [(338, 3, [2])], "TIFF of 16-bit unsigned integers, 2 per pixel"),
    ],
)
def test_storage_that_pillow_would_misread_is_unsupported(bits, photometric, tags, words):
    data = tiff([bytes(8 * sum(bits))], (8, 8), bits, photometric, tags=tags)
    with pytest.raises(Undecodable, match=f"unsupported: .*{words}"):
        decode(data)


def test_16_bits_of_a_png():
    colors = struct.pack(">6H", 0, 32_768, 65_535, 128, 129, 65_535)
    assert row(png([colors], 16, 2)) == [[0, 128, 255], [0, 1, 255]]
    alpha = struct.pack(">8H", 0, 32_768, 65_535, 65_535, 9, 9, 9, 0)
    assert row(png([alpha], 16, 6)) == [[0, 128, 255], WHITE]
    assert gray(png([struct.pack(">2H", 0, 65_535)], 16, 0)) == [0, 255]
    assert gray(png([struct.pack(">4H", 0, 65_535, 65_535, 65_535)], 16, 4)) == [0, 255]


@pytest.mark.parametrize(
    ("rows", "depth", "key", "expected"),
    [
        ([0b01000000], 1, [0], [9, 255]),
        ([0b00011011], 2, [2], [0, 85, 9, 255]),
        ([0x0F, 0x7E], 4, [7], [0, 255, 9, 238]),
        ([0, 7, 255], 8, [7], [0, 9, 255]),
        ([0, 7, 255], 8, [0x107], [0, 9, 255]),  # only the lowest bits count
    ],
)
def test_the_transparent_gray_of_a_png_is_that_of_its_depth(rows, depth, key, expected):
    key = chunk(b"tRNS", struct.pack(">H", *key))
    data = png([bytes(rows)], depth, 0, before=key, width=len(expected))
    assert gray(data, alpha_background=9) == expected


def test_the_transparent_color_of_a_png_is_that_of_its_depth():
    colors = struct.pack(">6H", 1000, 2000, 3000, 1000, 2000, 3001)
    data = png([colors], 16, 2, before=chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000)))
    assert row(data) == [WHITE, [4, 8, 12]]
    data = png(
        [bytes([1, 2, 3, 1, 2, 4])], 8, 2, before=chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))
    )
    assert row(data) == [WHITE, [1, 2, 4]]
    short = png([bytes([1, 2, 3])], 8, 2, before=chunk(b"tRNS", b"\0\1"))
    assert row(short) == [[1, 2, 3]]
    wrong = png([bytes([1, 2, 3])], 8, 2, before=chunk(b"tRNS", bytes(6), wrong=1))
    with pytest.raises(Undecodable, match="damaged"):
        decode(wrong)


@pytest.mark.parametrize("top", [1, 15, 255, 1023, 4095, 65_535])
def test_portable_maps_span_their_maximum(top):
    size = 1 if top < 256 else 2
    values = [0, top]
    binary = b"".join(value.to_bytes(size, "big") for value in values)
    head = b"\n# comment\n2 1\n%d\n" % top
    assert gray(b"P5" + head + binary) == [0, 255]
    assert gray(b"P2" + head + b"0 %d\n" % top) == [0, 255]
    assert row(b"P6" + head + binary * 3) == [[0, 255, 0], [255, 0, 255]]
    if top > 255:  # a range is in values of the file
        assert gray(b"P5" + head + binary, range=(0, 2 * top)) == [0, 128]


def test_portable_bit_and_float_maps():
    assert gray(b"P4\n2 1\n\x40") == [255, 0]
    for scale, order in ((b"-1.0", "<"), (b"1.0", ">")):
        body = struct.pack(order + "2f", 0.0, 1.0)
        assert gray(b"Pf\n2 1\n" + scale + b"\n" + body) == [0, 255]
        assert gray(b"Pf\n1 2\n" + scale + b"\n" + body) == [255, 0]  # from the bottom


def test_cmyk_jpegs_are_inverted_with_and_without_the_marker_of_adobe():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=100, subsampling=0)
    data = file.getvalue()
    at = data.index(b"\xff\xee")
    unmarked = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    for inverted in (data, unmarked):
        assert np.abs(decode(inverted).astype(int) - RED).max() <= 2


def test_jpeg_2000_of_12_bits_spans_its_depth():
    file = io.BytesIO()
    values = np.array([[0, 65_535]] * 2, np.uint16)
    Image.fromarray(values).save(file, "JPEG2000")
    assert gray(file.getvalue())[:2] == [0, 255]


@pytest.mark.parametrize("alpha_bits", [0, 8])
def test_a_tga_without_bits_of_alpha_is_opaque(alpha_bits):
    head = bytes([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 32, 0x20 | alpha_bits])
    image = decode_image(head + bytes([0, 0, 0, 0, 0, 0, 255, 0]))
    assert image.format == "TGA"
    assert image.pixels[0].tolist() == ([WHITE, WHITE] if alpha_bits else [BLACK, RED])


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_range_maps_12_bits_in_16(order):
    values = np.array([[0, 1024, 2048, 4095, 9000]], np.uint16)
    data = tiff([swapped(values, order)], (5, 1), [16], 1, order=order)
    assert gray(data) == [0, 4, 8, 16, 35]
    assert gray(data, range=(0, 4095)) == [0, 64, 128, 255, 255]
    assert gray(data, range=(1024, 2048)) == [0, 0, 255, 255, 255]
    inverted = tiff([swapped(values, order)], (5, 1), [16], 0, order=order)
    assert gray(inverted, range=(0, 4095)) == [255, 191, 127, 0, 0]
    colors = np.repeat(values[:, :, None], 3, 2)
    data = tiff([swapped(colors, order)], (5, 1), [16] * 3, 2, order=order)
    assert gray(data, range=(0, 4095)) == [0, 64, 128, 255, 255]


def test_a_range_maps_wide_integers_and_floats_and_no_8_bits():
    for dtype, format_ in ((np.int32, 2), (np.uint32, 1), (np.float32, 3)):
        values = np.array([[0, 60, 100, 10**6]], dtype)
        data = tiff([values.tobytes()], (4, 1), [32], 1, tags=[(339, 3, [format_])])
        assert gray(data, range=(0, 100)) == [0, 153, 255, 255]
    broken = np.array([[np.nan, -1, 0.5, np.inf]], np.float32)
    broken.view(np.uint32)[0, 0] = 0x7F800001  # a signaling NaN
    data = tiff([broken.tobytes()], (4, 1), [32], 1, tags=[(339, 3, [3])])
    assert gray(data, range=(-1, 1)) == [0, 0, 191, 0]
    eight = np.array([[0, 100, 255]], np.uint8)
    assert gray(tiff([eight.tobytes()], (3, 1), [8], 1), range=(0, 100)) == [0, 100, 255]
    key = png([struct.pack(">3H", 0, 7, 4095)], 16, 0, before=chunk(b"tRNS", b"\0\7"))
    assert gray(key, range=(0, 4095), alpha_background=9) == [0, 9, 255]


def test_a_range_applies_to_16_bit_gray_with_alpha():
    values = struct.pack(">8H", 0, 65_535, 1024, 65_535, 4095, 65_535, 4095, 0)
    data = png([values], 16, 4)
    assert gray(data, range=(0, 4095)) == [0, 64, 255, 255]
    assert gray(data, range=(0, 4095), alpha_background=9) == [0, 64, 255, 9]
    rounded = png([struct.pack(">8H", 128, 65_535, 129, 65_535, 386, 65_535, 0, 32_896)], 16, 4)
    assert gray(rounded) == [0, 1, 2, 127]


PLANES = np.full((3, 2), 4095, np.uint16)
DDS_HEADER = struct.pack("<4s7I44x2I4s40x", b"DDS ", 124, 0x1007, 4, 4, 16, 0, 1, 32, 4, b"DX10")
WIDE = {
    "map": b"P6\n2 1\n65535\n" + PLANES.tobytes(),
    "text": b"P3\n2 1\n4095\n" + b"4095 " * 6,
    "SGI": struct.pack(">HBBHHHH", 474, 0, 2, 3, 2, 1, 3).ljust(512, b"\0") + PLANES.tobytes(),
    "SGI gray": struct.pack(">HBBHHHH", 474, 0, 2, 2, 2, 1, 1).ljust(512, b"\0") + PLANES.tobytes(),
    "planes": tiff(list(map(bytes, PLANES)), (2, 1), [16] * 3, 2, tags=[(284, 3, [2])]),
    "tiles": tiff(
        [bytes(512)] * 3,
        (16, 16),
        [16] * 3,
        2,
        tags=[(284, 3, [2]), (322, 3, [16]), (323, 3, [16]), (324, 4, [8] * 3)],
    ),
    "CMYK": tiff([bytes(16)], (2, 1), [16] * 4, 5),
    "floats": DDS_HEADER + struct.pack("<5I", 95, 3, 0, 1, 0) + bytes(16),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_range_that_cannot_be_applied_refuses_the_file(name):
    with pytest.raises(Undecodable, match=r"unsupported: decode\.range cannot be applied"):
        decode(WIDE[name], DecodePolicy(range=(0, 4095)))


def test_a_range_does_not_refuse_8_bits():
    sgi = struct.pack(">HBBHHHH", 474, 0, 1, 3, 2, 1, 3).ljust(512, b"\0") + bytes(6)
    for data in (b"P6\n1 1\n255\n\xff\0\0", sgi, tiff([bytes(8)], (2, 1), [8] * 4, 5)):
        np.testing.assert_array_equal(decode(data, DecodePolicy(range=(0, 4095))), decode(data))


@pytest.mark.parametrize(
    ("mode", "depths", "words"),
    [
        ("RGB", [16] * 3, "3 channels of 16 bits"),
        ("RGBA", [8, 8, 8, 1], "4 channels of 1 and 8 bits"),
        ("LA", [12, 12], "2 channels of 12 bits"),
        ("L", [1], "1 channel of 1 bits"),
        ("L", [24], "1 channel of 24 bits"),
    ],
)
def test_depths_of_a_jpeg_2000_that_pillow_shifts_are_refused(mode, depths, words):
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, "JPEG2000")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\x4f\xff\x51") + 42
    data[at : at + 3 * len(depths) : 3] = bytes(depth - 1 for depth in depths)
    with pytest.raises(Undecodable, match=f"unsupported: JPEG 2000 of {words}"):
        decode(bytes(data))


PIXELS_32 = bytes([0, 0, 255, 0, 255, 255, 255, 0])  # red, white, with 0 as alpha


@pytest.mark.parametrize("size", [56, 108, 124])
@pytest.mark.parametrize("alpha", [0, 255])
def test_a_bitmap_whose_alpha_is_0_everywhere_is_opaque(size, alpha):
    header = struct.pack("<IiiHHIIiiII", size, 2, 1, 1, 32, 3, 8, 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    body = header.ljust(size, b"\0") + PIXELS_32[:7] + bytes([alpha])
    data = b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + size) + body
    assert row(data) == ([WHITE, WHITE] if alpha else [RED, WHITE])


@pytest.mark.parametrize(("masked", "expected"), [(0, [RED, WHITE]), (0x80, [[9] * 3, WHITE])])
def test_an_icon_whose_alpha_is_0_everywhere_has_its_mask(masked, expected):
    body = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 32, 0, 8, 0, 0, 0, 0) + PIXELS_32
    body += bytes([masked, 0, 0, 0])
    entry = struct.pack("<BBBBHHII", 2, 1, 0, 0, 1, 32, len(body), 22)
    assert row(b"\0\0\1\0\1\0" + entry + body, alpha_background=9) == expected
    if not masked:
        assert row(b"\0\0\2\0\1\0" + entry + body) == expected  # a cursor
    visible = body[:43] + b"\xff" + body[44:]
    assert row(b"\0\0\1\0\1\0" + entry + visible) == [RED, WHITE]
