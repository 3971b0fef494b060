"""Decode the bytes of a file to RGB pixels by the rules of `DecodePolicy`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.images.jpeg import (
    END_MARKER,
    JpegHeader,
    Outcome,
    decode_leniently,
    decode_strictly,
    read_header,
)
from dinoforge.images.pillow import check_pixels, decode_through_pillow, orientation_of, upright
from dinoforge.images.policy import DecodePolicy, Undecodable

__all__ = ["DecodedImage", "decode", "decode_image"]

_DEFAULT = DecodePolicy()


@dataclass(frozen=True)
class DecodedImage:
    """Upright RGB ``[H, W, 3]`` uint8, Pillow's name of the format, and notes (see `NOTES`)."""

    pixels: NDArray[np.uint8]
    format: str
    notes: tuple[str, ...]


def decode(data: bytes, policy: DecodePolicy = _DEFAULT) -> NDArray[np.uint8]:
    """Decode a file to upright RGB pixels.

    Parameters
    ----------
    data : bytes
        The whole file; its content determines the format.
    policy : DecodePolicy
        Rules for unusual and damaged files.

    Returns
    -------
    numpy.ndarray
        uint8 ``[H, W, 3]``, contiguous and writable.

    Raises
    ------
    Undecodable
        With one of `REASONS`.
    """
    return decode_image(data, policy).pixels


def decode_image(data: bytes, policy: DecodePolicy = _DEFAULT) -> DecodedImage:
    """Decode as `decode` does; also return the format and what was unusual."""
    if not data:
        raise Undecodable("empty", "0 bytes")
    header = read_header(data) if data[:3] == b"\xff\xd8\xff" else None
    if header is None:
        pixels, name, notes = decode_through_pillow(data, policy)
        return DecodedImage(pixels, name, tuple(notes))
    check_pixels(header.width, header.height, policy)
    return _decode_jpeg(data, header, policy)


def _decode_jpeg(data: bytes, header: JpegHeader, policy: DecodePolicy) -> DecodedImage:
    outcome = decode_strictly(data, header)
    notes: list[str] = []
    if outcome.fault == "truncated" and _lacks_only_end_marker(data, header, policy):
        notes.append("missing_end_marker")
        data += END_MARKER
        outcome = decode_strictly(data, header)
    if outcome.fault == "truncated":
        return _truncated_jpeg(data, header, policy, outcome)
    if outcome.fault == "damaged":
        if policy.damaged_jpeg == "refuse":
            raise Undecodable("damaged", outcome.message)
        notes.append("damaged")
    if outcome.pixels is None:  # damaged, or a kind that only Pillow decodes (CMYK, ...)
        pixels, _, more = decode_through_pillow(data, policy)
        return DecodedImage(pixels, "JPEG", (*notes, *more))
    return _upright_jpeg(data, header, outcome.pixels, notes)


def _lacks_only_end_marker(data: bytes, header: JpegHeader, policy: DecodePolicy) -> bool:
    """Return whether an end marker alone makes the file valid.

    Only for single-scan files: in others a whole scan may be missing, too.
    """
    if policy.missing_end == "refuse" or not header.is_single_scan:
        return False
    return decode_strictly(data + END_MARKER, header).fault is None


def _truncated_jpeg(
    data: bytes, header: JpegHeader, policy: DecodePolicy, outcome: Outcome
) -> DecodedImage:
    if policy.truncated == "refuse":
        raise Undecodable("truncated", outcome.message)
    if not header.is_common:
        pixels, _, notes = decode_through_pillow(data, policy)
        return DecodedImage(pixels, "JPEG", ("truncated", *notes))
    try:
        pixels = decode_leniently(data)
    except ValueError as error:
        raise Undecodable("truncated", str(error)) from error
    return _upright_jpeg(data, header, pixels, ["truncated"])


def _upright_jpeg(
    data: bytes, header: JpegHeader, pixels: NDArray[np.uint8], notes: list[str]
) -> DecodedImage:
    orientation = orientation_of(data) if header.has_app1 else 1
    if orientation != 1:
        notes.append("rotated")
        pixels = upright(pixels, orientation)
    return DecodedImage(pixels, "JPEG", tuple(notes))
