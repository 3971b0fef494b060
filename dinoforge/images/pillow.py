"""Every format that Pillow reads, as upright 8-bit RGB; its failures become `Undecodable`."""

import io
import re
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from PIL import Image, ImageFile, ImagePalette, UnidentifiedImageError

from dinoforge.errors import first_line
from dinoforge.images.color import to_rgb
from dinoforge.images.container import Container, DecodedImage
from dinoforge.images.formats import SNIFF_BYTES, UNREAD, sniff
from dinoforge.images.metadata import READERS, is_cut
from dinoforge.images.orientation import read_orientation, upright
from dinoforge.images.png import lacks_rows, read_png
from dinoforge.images.policy import PIXEL_CEILING, DecodePolicy, Undecodable
from dinoforge.images.quiet import quiet_pillow, silence_libtiff
from dinoforge.images.tiff import describe_tiff, is_tiff_cut, read_tiff

__all__ = ["check_pixels", "check_scans", "decode_through_pillow"]

_READERS = {**READERS, "PNG": read_png, "TIFF": read_tiff}
# EPS starts another program; the others are not images in themselves, or only identified.
_NOT_READ = frozenset({"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS", "IPTC"})
# Further images in these are a gain map, a preview or layers, not frames.
_NOT_ANIMATED = frozenset({"MPO", "PSD"})
_UNSUPPORTED_MESSAGES = ("unsupported", "not support", "cannot handle")
_BITMAPS = frozenset({"BMP", "CUR", "DIB"})  # whose alpha many programs leave 0
_PCX_PALETTE = b"\x0c"  # byte before the 256 colors
# Raw modes of 16-bit colors, of which Pillow keeps the upper bytes.
_WIDE = re.compile("RGB[AX]?;16[BLN]")
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

# libtiff returns values in native byte order; Pillow unpacks these in the order of the file.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_BITS, _PLANAR, _COLOR_MAP = 258, 284, 320  # TIFF tags
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# Most scans of a JPEG, usually about 10, and most scans times pixels, which take 2 s.
_SCANS, _SCANNED_PIXELS = 1000, 3_000_000_000
# Messages of Pillow if there are too few bytes.
_TRUNCATION = re.compile(
    r"truncated|not enough image data|incomplete|reached eof|only got|chunk b'\w{0,3}'",
    re.IGNORECASE,
)

_truncation_lock = threading.RLock()


def check_pixels(width: int, height: int, policy: DecodePolicy) -> None:
    """Refuse too large an image by its header, before anything is decoded."""
    if width * height > policy.max_pixels:
        detail = f"{width} x {height} pixels, limit {policy.max_pixels}"
        raise Undecodable("too_many_pixels", detail)


def check_scans(data: bytes, width: int, height: int) -> None:
    """Refuse a JPEG whose scans, each of which passes over all pixels, would take too long."""
    limit = min(_SCANS, _SCANNED_PIXELS // max(1, width * height))
    if data.count(_START_OF_SCAN) <= limit:
        return
    scans, at = 0, 2  # count again: other files may follow
    while (marker := _MARKER.search(data, at)) and marker[0] != _END_OF_IMAGE:
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        scans += marker[0] == _START_OF_SCAN
        if scans > limit:
            detail = f"JPEG of more than {limit} scans at {width} x {height}"
            raise Undecodable("unsupported", detail)


def decode_through_pillow(
    data: bytes, policy: DecodePolicy, container: Container | None = None
) -> DecodedImage:
    """Decode the first frame to upright RGB.

    ``container`` is what a caller has read already.
    """
    notes: list[str] = []
    with quiet_pillow, _as_undecodable(data):
        name = sniff(data[:SNIFF_BYTES]) or ""  # in which case all formats are tried
        if name in UNREAD:
            raise Undecodable("unsupported", UNREAD[name])
        container = container or _READERS.get(name, Container)(data)
        for size in container.sizes:
            check_pixels(*size, policy)
        image = _open(container.data, name, policy)
        if container.fault is not None:
            raise Undecodable("damaged", container.fault)
        _check_frames(image, container, policy, notes)
        orientation = container.orientation or read_orientation(image)
        loaded, low = _load(image, container, name, policy, notes)
        if not container.has_end and "truncated" not in notes:
            if policy.missing_end == "refuse":
                raise Undecodable("truncated", "no end chunk")
            notes.append("missing_end_marker")
        if loaded.has_transparency_data:
            notes.append("alpha")
        pixels = to_rgb(loaded, policy, container.storage, low)
        if orientation != 1:
            notes.append("rotated")
        return DecodedImage(upright(pixels, orientation), image.format or "", tuple(notes))


def _open(data: bytes, name: str, policy: DecodePolicy) -> ImageFile.ImageFile:
    formats = _readable_formats()
    try:
        image = Image.open(io.BytesIO(data), formats=[name] if name in formats else formats)
    except Image.DecompressionBombError:
        if name:  # the plugin itself knows the size
            check_pixels(*Image.OPEN[name][0](io.BytesIO(data), "").size, policy)
        raise
    assert isinstance(image, ImageFile.ImageFile)
    check_pixels(*image.size, policy)
    if image.format == "TIFF":
        silence_libtiff()
        _repair(image)
    elif image.format in ("JPEG", "MPO"):
        check_scans(data, *image.size)
    elif image.format == "PCX":
        has_palette = (data[3], data[65]) == (8, 1)  # bits and planes
        if has_palette and data[-769:-768] != _PCX_PALETTE:
            raise Undecodable("truncated", "PCX without its palette at the end")
    return image


def _repair(image: Any) -> None:
    """Correct a TIFF: palettes of 8 bits, byte order of libtiff, planes of 16 bits."""
    colors = image.tag_v2.get(_COLOR_MAP, ())
    if image.palette and max(colors, default=256) < 256:  # instead of 16 bits, as in libtiff
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))
    tiles = image.tile
    is_planar = image.tag_v2.get(_PLANAR) == 2
    if is_planar and not image.use_load_libtiff and max(image.tag_v2[_BITS]) > 8:
        image.use_load_libtiff = True
        size = tuple(max(tile.extents[at] for tile in tiles) for at in (2, 3))
        args = (f"{image.mode};16N", False, image.tag_v2.offset)
        only = tiles[0]._replace(codec_name="libtiff", extents=(0, 0, *size), offset=0, args=args)
        image.tile = [only]
        return
    image.tile = [
        tile._replace(args=(_NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff"
        else tile
        for tile in tiles
    ]


@cache
def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


def _check_frames(
    image: ImageFile.ImageFile, container: Container, policy: DecodePolicy, notes: list[str]
) -> None:
    """Refuse or note further frames; the first one counts even if they are broken."""
    if image.format in _NOT_ANIMATED:
        return
    frames = container.num_frames or 1
    with suppress(Exception):  # plugins index and unpack values of the file
        if container.num_frames is None and getattr(image, "is_animated", False):
            frames = 2
            if policy.animated == "reject":
                frames = getattr(image, "n_frames", 2)  # walks a GIF: only now
    if frames > 1:
        if policy.animated == "reject":
            raise Undecodable("animated", f"{frames} frames or pages")
        notes.append("first_frame")


def _load(
    image: Any, container: Container, name: str, policy: DecodePolicy, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """Load the pixels, and the lower bytes of 16-bit colors as a second image."""
    data = container.data
    low = _open(data, name, policy) if _has_wide_colors(image) else None
    try:
        image.load()
        if low is not None:
            _take_lower_bytes(low)
            low.load()
        if name == "PNG":
            _check_rows(image, data)
    except (OSError, EOFError, SyntaxError) as error:
        if policy.truncated == "refuse" or not _is_truncation(error, data):
            raise
        notes.append("truncated")
        # Pillow has one switch for the whole process; it is on for this image only.
        with _truncation_lock:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                image, low = _open(data, name, policy), None
                image.load()
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
    if image.format == "ICNS":  # which copies neither palette nor transparency
        image = image.icns.getimage(image.best_size)
    is_opaque = container.is_opaque or _lacks_alpha(image, data)
    return image.convert("RGB") if is_opaque and image.mode == "RGBA" else image, low


def _check_rows(image: Image.Image, data: bytes) -> None:
    """Raise EOFError if rows of a PNG are missing, which Pillow leaves 0 without an error.

    Only if the last pixel and the last row are 0 are the data uncompressed once more.
    """
    if not image.info.get("interlace"):
        width, height = image.size
        if image.getpixel((width - 1, height - 1)) not in (0, (0, 0), (0, 0, 0), (0, 0, 0, 0)):
            return
        if image.crop((0, height - 1, width, height)).tobytes().strip(b"\0"):
            return
    if lacks_rows(data):
        raise EOFError


def _lacks_alpha(image: Any, data: bytes) -> bool:
    """Return whether all alpha values of a bitmap, or of a TGA that declares none, are 0."""
    may_lack = image.format in _BITMAPS or (image.format == "TGA" and not data[17] & 15)
    return image.mode == "RGBA" and may_lack and not any(image.getextrema()[3])


def _has_wide_colors(image: Any) -> bool:
    """Return whether the lower bytes can be read, too: not where libtiff reads planes."""
    if image.format == "TIFF" and image.tag_v2.get(_PLANAR) == 2:
        return False
    return bool(image.tile) and all(_WIDE.fullmatch(_raw_mode(tile)) for tile in image.tile)


def _take_lower_bytes(image: ImageFile.ImageFile) -> None:
    """Exchange the byte order of 16-bit colors: Pillow keeps the upper byte, now the lower one."""
    for at, tile in enumerate(image.tile):
        raw_mode = _raw_mode(tile)
        other = raw_mode[:-1] + _OTHER_ORDER[raw_mode[-1]]
        args = (other, *tile.args[1:]) if isinstance(tile.args, tuple) else other
        image.tile[at] = tile._replace(args=args)


def _raw_mode(tile: Any) -> str:
    args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    return args[0] if args and isinstance(args[0], str) else ""


def _is_truncation(error: BaseException, data: bytes) -> bool:
    if isinstance(error, EOFError | struct.error) or _TRUNCATION.search(str(error)):
        return True
    name = sniff(data[:SNIFF_BYTES]) or ""
    return is_tiff_cut(data) if name == "TIFF" else is_cut(name, data)


def _truncated(data: bytes) -> Undecodable:
    return Undecodable("truncated", f"ends before the image is complete, after {len(data)} bytes")


@contextmanager
def _as_undecodable(data: bytes) -> Iterator[None]:
    """Translate whatever Pillow raises on bad bytes into `Undecodable`."""
    try:
        yield
    except Undecodable:
        raise
    except Image.DecompressionBombError as error:
        raise Undecodable("too_many_pixels", f"more than {PIXEL_CEILING} pixels") from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Exception as error:
        # Plugins index, unpack and divide by values of the file: any exception is possible.
        if _is_truncation(error, data):
            raise _truncated(data) from error
        raise Undecodable("damaged", first_line(error)) from error


def _unidentified(data: bytes) -> Undecodable:
    name = sniff(data[:SNIFF_BYTES])
    if name is None and data[4:8] == b"ftyp":
        brand = data[8:12].decode("latin-1").strip()
        return Undecodable("unsupported", f"ISO media of brand {brand!r}, no picture")
    if name is None or name not in Image.OPEN:
        return Undecodable("not_an_image", f"begins with {data[:12]!r}")
    # Image.open hides why the plugin failed: call the plugin itself.
    try:
        Image.OPEN[name][0](io.BytesIO(data), "")
    except Exception as error:  # noqa: BLE001 - see _as_undecodable
        cause = error.__cause__ or error  # before Pillow made a SyntaxError of it
        if isinstance(cause, IndexError) or _is_truncation(cause, data):
            return _truncated(data)
        text = first_line(error)
        if text == "unknown pixel mode":
            return Undecodable("unsupported", describe_tiff(data))
        unsupported = any(message in text.lower() for message in _UNSUPPORTED_MESSAGES)
        return Undecodable("unsupported" if unsupported else "damaged", f"{name}: {text}")
    return Undecodable("damaged", f"{name} that Pillow refuses")
