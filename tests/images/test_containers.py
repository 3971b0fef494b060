"""Files whose first picture is not the picture are refused by name."""

import io
import struct

import numpy as np
import pytest
from image_files import chunk, tiff
from PIL import Image

from dinoforge.images.decode import decode, decode_image
from dinoforge.images.formats import SNIFF_BYTES, sniff
from dinoforge.images.policy import Undecodable

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def page(*tags, order="<", photometric=2):
    return tiff([PIXELS.tobytes()], (8, 6), [8] * 3, photometric, order=order, tags=tags)


def with_larger(file, order="<"):
    """Append a directory of a picture of 800 x 600; return the file and its offset."""
    entries = [(256, 4, 800), (257, 4, 600)]
    body = b"".join(
        struct.pack(order + "HHII", tag, kind, 1, value) for tag, kind, value in entries
    )
    return file + struct.pack(order + "H", len(entries)) + body + bytes(4), len(file)


def raw_of(*tags, order="<"):
    """A small first picture, and in a subdirectory a larger one."""
    _, at = with_larger(page((330, 4, [0]), *tags, order=order), order)
    return with_larger(page((330, 4, [at]), *tags, order=order), order)[0]


def refusal(data):
    with pytest.raises(Undecodable) as caught:
        decode(data)
    assert caught.value.reason == "unsupported"
    return caught.value.detail


@pytest.mark.parametrize("order", ["<", ">"])
def test_camera_raw_in_a_tiff_is_refused(order):
    nikon = (271, 2, b"NIKON CORPORATION\0")
    assert refusal(page((50706, 1, [1, 4, 0, 0]), order=order)) == "DNG camera raw"
    assert refusal(raw_of((254, 4, [1]), nikon, order=order)) == (
        "TIFF whose first page, 8 x 6, is a reduced copy of another picture (NIKON CORPORATION)"
    )
    assert refusal(raw_of(nikon, order=order)) == (
        "TIFF whose first picture, 8 x 6, previews one of 800 x 600 (NIKON CORPORATION)"
    )
    for photometric in (32803, 34892):
        assert "values of a sensor" in refusal(page(order=order, photometric=photometric))
    assert refusal(page((259, 3, [65535]), order=order)) == "TIFF with compression 65535"


def test_cr2_is_refused_by_its_signature():
    data = page()
    shifted = b"II*\0\x10\0\0\0CR\2\0\0\0\0\0" + data[8:]
    assert refusal(shifted) == "CR2 camera raw"


def test_a_thumbnail_before_the_picture_is_refused():
    data = page()
    shifted = b"II*\0\x14\0\0\0IIIITWAR\0\0\0\0" + data[8:]
    assert refusal(shifted) == "IIQ camera raw"
    for size, is_refused in ((8, False), (100, True)):
        file = io.BytesIO()
        second = Image.new("RGB", (size, size))
        Image.fromarray(PIXELS).save(file, "TIFF", save_all=True, append_images=[second])
        if is_refused:
            assert "previews one of 100 x 100" in refusal(file.getvalue())
        else:
            np.testing.assert_array_equal(decode(file.getvalue()), PIXELS)


def test_pages_that_are_no_pictures_are_refused():
    assert "a reduced copy of another" in refusal(page((254, 4, [1])))
    assert "a reduced copy of another" in refusal(page((255, 3, [2])))
    assert refusal(page((254, 4, [4]))) == "TIFF whose first page is a transparency mask"
    pages = page((254, 4, [2])), page((255, 3, [1])), page((255, 3, [3]))  # a page of several
    for data in pages:
        np.testing.assert_array_equal(decode(data), PIXELS)


def test_pyramids_and_later_thumbnails_do_not_cost_the_picture():
    smaller = (
        raw_of()[:-28] + struct.pack("<H", 2) + struct.pack("<HHIIHHII", 256, 4, 1, 4, 257, 4, 1, 3)
    )
    np.testing.assert_array_equal(decode(smaller + bytes(4)), PIXELS)
    circle = page((330, 4, [8]))
    np.testing.assert_array_equal(decode(circle), PIXELS)
    nowhere = page((330, 4, [0xFFFFFFF0]))
    np.testing.assert_array_equal(decode(nowhere), PIXELS)
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(
        file, "TIFF", save_all=True, append_images=[Image.new("RGB", (4, 3))]
    )
    assert decode_image(file.getvalue()).notes == ("first_frame",)


def test_no_more_entries_are_read_than_there_are_tags():
    entries = struct.pack("<HHQ8s", 271, 4, 1, bytes(8)) * 65_536
    entries += struct.pack("<HHQ8s", 50706, 4, 1, bytes(8))
    head = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 65_537)
    with pytest.raises(Undecodable, match="TIFF without width"):  # not: DNG
        decode(head + entries)


@pytest.mark.parametrize("is_real", [False, True])
def test_a_psd_without_its_flattened_picture_is_refused(is_real):
    version = struct.pack(">IB", 1, is_real) + struct.pack(">I", 0) * 2 + b"\0"
    resource = b"8BIM\x04\x21\0\0" + struct.pack(">I", len(version)) + version
    header = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 6, 8, 8, 3)
    planes = PIXELS.transpose(2, 0, 1).tobytes()
    data = header + bytes(4) + struct.pack(">I", len(resource)) + resource + bytes(6) + planes
    if is_real:
        np.testing.assert_array_equal(decode(data), PIXELS)
    else:
        assert refusal(data) == "PSD saved without its flattened picture"


@pytest.mark.parametrize(
    ("version", "depth", "mode", "detail"),
    [
        (1, 1, 0, "PSD in bitmap mode"),
        (1, 8, 7, "PSD in multichannel mode"),
        (1, 16, 3, "PSD of 16 bits per value"),
        (2, 8, 3, "PSB, the large variant of PSD"),
    ],
)
def test_modes_of_a_psd_that_are_not_read_are_named(version, depth, mode, detail):
    header = b"8BPS" + struct.pack(">H6xHIIHH", version, 3, 8, 8, depth, mode)
    assert refusal(header + bytes(500)) == detail


def ftyp(*brands):
    body = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", len(body) + 8) + b"ftyp" + body + b"\0\0\0\x08free"


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (b"IIRO\x08\0\0\0", "ORF camera raw"),
        (b"IIRS\x08\0\0\0", "ORF camera raw"),
        (b"MMOR\0\0\0\x08", "ORF camera raw"),
        (b"IIU\0\x18\0\0\0", "RW2 camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "RAF camera raw"),
        (b"II\x1a\0\0\0HEAPCCDR", "CRW camera raw"),
        (b"\0MRM\0\0\0\0", "MRW camera raw"),
        (b"FOVb\0\0\0\0", "X3F camera raw"),
        (ftyp(b"crx ", b"crx ", b"isom"), "CR3 camera raw"),
        (b"II\xbc\x01\x20\0\0\0", "JPEG XR is not read"),
        (b"v/1\x01\2\0\0\0", "OpenEXR is not read"),
        (b"#?RADIANCE\n", "Radiance HDR is not read"),
        (b"gimp xcf v011\0", "GIMP's XCF is not read"),
        (b"\xff\x0a\0\0", "JPEG XL is not read"),
        (b"P7\nWIDTH 1\n", "PAM is not read"),
    ],
)
def test_other_formats_are_refused_by_name_and_count_as_images(head, detail):
    assert refusal(head + bytes(200)) == detail
    assert sniff((head + bytes(200))[:SNIFF_BYTES]) is not None


def test_other_iso_media_are_named_but_are_no_images():
    for brand in (b"isom", b"mp42", b"qt  ", b"M4V "):
        data = ftyp(brand, b"isom") + bytes(200)
        assert sniff(data[:SNIFF_BYTES]) is None
        assert refusal(data) == f"ISO media of brand {brand.decode().strip()!r}, no picture"


def test_brands_are_found_behind_others_and_only_in_their_box():
    others = [b"mif1", b"miaf", b"MiHB", b"tmap", b"MA1B"]
    assert sniff(ftyp(b"mif1", *others, b"avif")) == "AVIF"
    assert sniff(ftyp(b"mif1", *others)) == "HEIF"
    assert sniff(ftyp(b"isom") + b"heicheicheicheic") is None


def test_color_portable_float_maps_and_iphone_pngs_are_unsupported():
    color = refusal(b"PF\n1 1\n-1.0\n" + bytes(12))
    assert color == "portable float map in color is not read"
    apple = b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", bytes(4)) + chunk(b"IHDR", bytes(13))
    assert refusal(apple) == "PNG in the CgBI variant of iPhone apps"
