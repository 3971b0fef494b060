"""Every format that Pillow reads, as upright 8-bit RGB; its failures become `Undecodable`.

Alpha is composited on a gray level; 16-bit gray is divided by 257; wider integers and floats
follow `_eight_bits`; palette, gray, 1-bit, CMYK, YCbCr, HSV and Lab go through Pillow.
"""

import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from dinoforge.images.formats import SNIFF_BYTES, sniff
from dinoforge.images.policy import DecodePolicy, Undecodable

__all__ = [
    "check_pixels",
    "decode_through_pillow",
    "orientation_of",
    "quiet_pillow",
    "read_orientation",
    "to_rgb",
    "upright",
]

# EPS starts another program; the others are not images in themselves, or only identified.
_NOT_READ = frozenset({"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS", "IPTC"})
_NEVER_READ_BY_PILLOW = frozenset({"HEIF", "JXL"})
# Further images in these are a gain map, a preview or layers, not frames.
_NOT_ANIMATED = frozenset({"MPO", "PSD"})
_UNSUPPORTED_MESSAGES = ("unknown pixel mode", "unsupported", "not support", "cannot handle")

_ORIENTATION = 0x0112  # EXIF tag
# Orientation -> (exchange rows and columns, then flip rows, flip columns).
_MOVES = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

# Bad bytes are counted and reported as `Undecodable`, with their sample, not in Pillow's log.
logging.getLogger("PIL").setLevel(logging.CRITICAL)

_truncation_lock = threading.RLock()


class _Quiet:
    """Ignore warnings raised inside Pillow while any thread is inside.

    ``warnings.catch_warnings`` alone restores the wrong filters when threads overlap: here the
    first to enter saves them and the last to leave restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *raised: Any) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(*raised)


quiet_pillow = _Quiet()


def check_pixels(width: int, height: int, policy: DecodePolicy) -> None:
    """Refuse too large an image by its header, before anything is decoded."""
    if width * height > policy.max_pixels:
        detail = f"{width} x {height} pixels, limit {policy.max_pixels}"
        raise Undecodable("too_many_pixels", detail)


def orientation_of(data: bytes) -> int:
    """Read the EXIF orientation of a file without decoding it."""
    with quiet_pillow:
        try:
            return read_orientation(Image.open(io.BytesIO(data)))
        except Exception:  # noqa: BLE001 - unreadable metadata must not cost the pixels
            return 1


def read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation of an opened image, 1 (upright) if missing or invalid.

    TIFF is always 1: Pillow itself rotates its pixels and its size.
    """
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a broken EXIF block may raise anything
        return 1
    return value if isinstance(value, int) and value in _MOVES else 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation to ``[H, W, 3]`` pixels; lossless."""
    if orientation not in _MOVES:
        return pixels
    exchange, flip_rows, flip_columns = _MOVES[orientation]
    if exchange:
        pixels = pixels.transpose(1, 0, 2)
    if flip_rows:
        pixels = pixels[::-1]
    if flip_columns:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def decode_through_pillow(
    data: bytes, policy: DecodePolicy
) -> tuple[NDArray[np.uint8], str, list[str]]:
    """Decode the first frame to upright RGB; also the format and the notes (`NOTES`)."""
    notes: list[str] = []
    with quiet_pillow, _as_undecodable(data):
        image = _open(data, policy)
        has_end = image.format != "PNG" or _check_png(data)
        if image.format not in _NOT_ANIMATED and getattr(image, "is_animated", False):
            if policy.animated == "reject":
                frames = getattr(image, "n_frames", 1)  # walks a GIF: only now
                raise Undecodable("animated", f"{frames} frames or pages")
            notes.append("first_frame")
        orientation = read_orientation(image)
        image = _load(image, data, policy, notes)
        if not has_end and "truncated" not in notes:
            if policy.missing_end == "refuse":
                raise Undecodable("truncated", "no end chunk")
            notes.append("missing_end_marker")
        if image.has_transparency_data:
            notes.append("alpha")
        pixels = to_rgb(image, policy.alpha_background)
        if orientation != 1:
            notes.append("rotated")
        return upright(pixels, orientation), image.format or "", notes


def _open(data: bytes, policy: DecodePolicy) -> Image.Image:
    name = sniff(data[:SNIFF_BYTES])
    if name in _NOT_READ | _NEVER_READ_BY_PILLOW:
        raise Undecodable("unsupported", f"{name} is not read")
    formats = _readable_formats()
    image = Image.open(io.BytesIO(data), formats=[name] if name in formats else formats)
    check_pixels(*image.size, policy)
    return image


@cache
def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


def _load(image: Image.Image, data: bytes, policy: DecodePolicy, notes: list[str]) -> Image.Image:
    try:
        image.load()
    except (OSError, EOFError, SyntaxError) as error:
        if policy.truncated == "refuse" or not _is_truncation(error):
            raise
        notes.append("truncated")
        # Pillow has one switch for the whole process; it is on for this image only.
        with _truncation_lock:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                image = _open(data, policy)
                image.load()
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
    return image


def _check_png(data: bytes) -> bool:
    """Verify critical chunks (Pillow skips those of pixels); return whether an end chunk exists."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if kind[:1].isupper() and zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise Undecodable("damaged", f"checksum of chunk {kind.decode('latin-1')!r} at {at}")
        if kind == b"IEND":
            return True
        at = end + 4
    return False


def _is_truncation(error: BaseException) -> bool:
    return isinstance(error, EOFError) or "truncated" in str(error).lower()


@contextmanager
def _as_undecodable(data: bytes) -> Iterator[None]:
    """Translate whatever Pillow raises on bad bytes into `Undecodable`."""
    try:
        yield
    except Undecodable:
        raise
    except Image.DecompressionBombError as error:
        raise Undecodable("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except (OSError, EOFError) as error:
        reason = "truncated" if _is_truncation(error) else "damaged"
        raise Undecodable(reason, _first_line(error)) from error
    except Exception as error:
        # Plugins index, unpack and divide by values of the file: any exception is possible.
        raise Undecodable("damaged", _first_line(error)) from error


def _unidentified(data: bytes) -> Undecodable:
    name = sniff(data[:SNIFF_BYTES])
    if name is None or name not in Image.OPEN:
        return Undecodable("not_an_image", f"begins with {data[:12]!r}")
    # Image.open hides why the plugin failed: call the plugin itself.
    try:
        Image.OPEN[name][0](io.BytesIO(data), "")
    except (IndexError, struct.error, EOFError) as error:
        return Undecodable("truncated", f"{name} header: {_first_line(error)}")
    except Exception as error:  # noqa: BLE001 - see _as_undecodable
        text = _first_line(error)
        unsupported = any(message in text.lower() for message in _UNSUPPORTED_MESSAGES)
        return Undecodable("unsupported" if unsupported else "damaged", f"{name}: {text}")
    return Undecodable("damaged", f"{name} that Pillow refuses")


def _first_line(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0]
    return text or type(error).__name__


def to_rgb(image: Image.Image, background: int) -> NDArray[np.uint8]:
    """Convert a loaded image of any mode to RGB ``[H, W, 3]`` uint8, writable and contiguous.

    ``background`` is the gray level 0..255 under transparent pixels.

    Raises
    ------
    Undecodable
        ``unsupported`` if its mode cannot be converted to RGB.
    """
    if image.mode.startswith("I") or image.mode == "F":
        gray = _eight_bits(np.asarray(image))
        key = image.info.get("transparency")
        if isinstance(key, int):
            gray[np.asarray(image) == key] = background
        return np.repeat(gray[:, :, None], 3, axis=2)
    if not image.has_transparency_data:
        return np.array(_convert(image, "RGB"))
    rgba = np.asarray(_convert(image, "RGBA"))
    alpha = rgba[:, :, 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.array(rgba[:, :, :3])
    # At most 255 * 255 + 127, which fits uint16.
    mixed = rgba[:, :, :3] * alpha + np.uint16(background) * (255 - alpha) + np.uint16(127)
    return (mixed // 255).astype(np.uint8)


def _eight_bits(values: NDArray) -> NDArray[np.uint8]:
    """Scale wide gray values: 0..65535 by 1/257, floats in 0..1 by 255, others by min and max.

    Rounded to nearest. NaN and infinities become 0 and are excluded from the range.
    """
    if values.dtype.kind in "ui" and values.min() >= 0 and values.max() <= 65_535:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    wide[~finite] = 0.0
    inside = wide[finite]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 1.0)
    if values.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    scaled = (wide - low) * (255.0 / (high - low)) if high > low else np.zeros_like(wide)
    scaled[~finite] = 0.0
    return np.rint(scaled).astype(np.uint8)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode in ("La", "RGBa"):  # premultiplied: Pillow converts them in two steps
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    try:
        return _from_lab(image) if image.mode == "LAB" else image.convert(mode)
    except ValueError as error:
        raise Undecodable("unsupported", f"mode {image.mode}: {error}") from error


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    if converted is None:
        raise ValueError("no conversion from Lab")
    return converted
