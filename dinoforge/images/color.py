"""From any mode of Pillow to 8-bit RGB, by fixed rules.

Alpha is composited on a gray level; 16-bit gray is divided by 257; wider integers and floats
follow `_eight_bits`; palette, gray, 1-bit, CMYK, YCbCr, HSV and Lab go through Pillow.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinoforge.images.policy import Undecodable

__all__ = ["has_alpha", "to_rgb"]


def has_alpha(image: Image.Image) -> bool:
    """Tell whether some pixels may be transparent (alpha band, palette entry, color key)."""
    return image.has_transparency_data


def to_rgb(image: Image.Image, background: int) -> NDArray[np.uint8]:
    """Convert a loaded image to RGB ``[H, W, 3]`` uint8, writable and contiguous.

    Parameters
    ----------
    image : PIL.Image.Image
        Loaded, any mode.
    background : int
        Gray level 0..255 that shows through transparent pixels.

    Raises
    ------
    Undecodable
        ``unsupported`` if there is no way from its mode to RGB.
    """
    if image.mode.startswith("I") or image.mode == "F":
        gray = _eight_bits(np.asarray(image))
        key = image.info.get("transparency")
        if isinstance(key, int):
            gray[np.asarray(image) == key] = background
        return np.repeat(gray[:, :, None], 3, axis=2)
    if has_alpha(image):
        return _composited(np.asarray(_convert(image, "RGBA")), background)
    return np.array(_convert(image, "RGB"))


def _eight_bits(values: NDArray) -> NDArray[np.uint8]:
    """Scale wide gray values: 0..65535 by 1/257, floats in 0..1 by 255, all else by min and max.

    Rounded to nearest. NaN and infinities become 0 and do not count for the range.
    """
    if values.dtype.kind in "ui" and values.min() >= 0 and values.max() <= 65_535:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    wide[~finite] = 0.0
    seen = wide[finite]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    if values.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    scaled = (wide - low) * (255.0 / (high - low)) if high > low else np.zeros_like(wide)
    scaled[~finite] = 0.0
    return np.rint(scaled).astype(np.uint8)


def _composited(rgba: NDArray[np.uint8], background: int) -> NDArray[np.uint8]:
    alpha = rgba[:, :, 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.array(rgba[:, :, :3])
    # At most 255 * 255 + 127: stays inside uint16.
    mixed = rgba[:, :, :3] * alpha + np.uint16(background) * (255 - alpha) + np.uint16(127)
    return (mixed // 255).astype(np.uint8)


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
