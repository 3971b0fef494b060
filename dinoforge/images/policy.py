"""How the decoder treats unusual and damaged files, and its reasons for rejecting a file.

Not for limits on size, aspect or content: see the curation's filter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Literal

import PIL
import simplejpeg

from dinoforge.config.ranges import Range
from dinoforge.errors import Fault

__all__ = ["DECODER_VERSION", "NOTES", "PIXEL_CEILING", "REASONS", "DecodePolicy", "Undecodable"]


def _heif_version() -> str:
    try:
        return f".heif-{metadata.version('pillow-heif')}"
    except metadata.PackageNotFoundError:
        return ""


# Part of every fingerprint that depends on pixels. Raise the first number when a rule changes; the
# versions of the decoders are included because they also change pixels. pillow-heif is an extra and
# is included only where it is installed: nobody else's fingerprints change, and installing it makes
# a run read the images that it had counted as unsupported. (No stage knows before it has read its
# images whether one of them is HEIF, so a run without HEIF is inspected again, too.)
DECODER_VERSION = f"3.simplejpeg-{simplejpeg.__version__}.pillow-{PIL.__version__}{_heif_version()}"

# Pillow refuses more pixels (2 x its warning limit) under any policy.
PIXEL_CEILING = 178_956_970

REASONS: Mapping[str, str] = {
    "empty": "the file has no bytes",
    "not_an_image": "not a known image format: text, random bytes, something else",
    "unsupported": "an image of an unsupported kind (camera raw, EPS, 5 channels, ...)",
    "too_many_pixels": "more pixels than decode.max_pixels, according to the header",
    "truncated": "the data ends before the image is complete",
    "damaged": "checksum or stream error: the pixels cannot be trusted",
    "animated": "several frames or pages, but the policy accepts still images only",
    "unreadable": "the file is gone, shorter than indexed, or not permitted to be read",
}

NOTES: Mapping[str, str] = {
    "missing_end_marker": "only the end marker is missing; the image is complete",
    "damaged": "a JPEG with corrupt data, accepted as decoded",
    "truncated": "a part is missing, accepted as decoded",
    "rotated": "rotated upright by its EXIF orientation",
    "first_frame": "first of several frames or pages",
    "alpha": "may have transparent pixels; composited on the background",
}


class Undecodable(Exception):  # noqa: N818 - a fact about a sample, not an error of the program
    """A sample that cannot be decoded: callers count it by ``reason`` (of `REASONS`) and continue.

    ``detail`` is for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, kw_only=True)
class DecodePolicy:
    """How files become RGB pixels: embeddings are comparable only under one policy.

    Not configurable: EXIF orientation is applied, ICC profiles are ignored, and the content, not
    the name, determines the format.
    """

    # images with more pixels (width x height in the header) are refused before decoding
    max_pixels: Annotated[int, Range(1, PIXEL_CEILING)] = 100_000_000
    # several frames or pages (GIF, APNG, WebP, AVIF, TIFF): take the first, or refuse
    animated: Literal["first", "reject"] = "first"
    truncated: Literal["refuse", "accept"] = "refuse"  # accept: what is missing becomes gray
    # JPEG or PNG that lacks its end marker only, the picture being complete
    missing_end: Literal["accept", "refuse"] = "accept"
    # JPEG whose data libjpeg complains about but decodes (flipped bits, stray bytes)
    damaged_jpeg: Literal["accept", "refuse"] = "accept"
    # gray level under transparent pixels; 255 is white
    alpha_background: Annotated[int, Range(0, 255)] = 255
    # values shown as black and white in images of more than 8 bits or floats, e.g. [0,4095] for 12
    # bits in 16; null: 16 bits span 0 to 65535, floats 0 to 1, all others their own range. Refuses
    # images to which it cannot be applied
    range: tuple[float, float] | None = None

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a range that is empty or reversed."""
        if self.range is not None and not self.range[0] < self.range[1]:
            low, high = self.range
            yield Fault(f"`{at}.range` is [{low}, {high}]", "recipe", "give [LOW,HIGH], LOW < HIGH")
