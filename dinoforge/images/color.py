"""Convert loaded images of any mode to 8-bit RGB.

Alpha is composited on a gray level; values of 16 bits are divided by 257; wider integers and floats
follow `_eight_bits`; palette, gray, 1-bit, CMYK, YCbCr, HSV and Lab go through Pillow.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinoforge.images.container import Storage
from dinoforge.images.policy import DecodePolicy, Undecodable

__all__ = ["to_rgb"]

_STRIP_ROWS = 64  # rows converted to float64 at a time


def to_rgb(
    image: Image.Image,
    policy: DecodePolicy,
    storage: Storage = Storage(),  # noqa: B008 - frozen
    low: Image.Image | None = None,
) -> NDArray[np.uint8]:
    """Convert a loaded image of any mode to RGB ``[H, W, 3]`` uint8, writable and contiguous.

    ``low`` holds the lower bytes of 16-bit colors, ``image`` then the upper ones.

    Raises
    ------
    Undecodable
        ``unsupported`` if its mode cannot be converted to RGB, or a range cannot be applied to it.
    """
    if storage.gray_alpha:
        return _from_gray_alpha(image, policy)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_gray(image, policy, storage)
    if low is not None and image.mode in ("RGB", "RGBA"):
        return _from_wide_colors(image, low, policy)
    if storage.wide and policy.range is not None:
        detail = "decode.range cannot be applied to this storage of more than 8 bits"
        raise Undecodable("unsupported", detail)
    if not image.has_transparency_data:
        return np.array(_convert(image, "RGB"))
    rgba = np.asarray(_convert(image, "RGBA"))
    return _composite(rgba[:, :, :3], rgba[:, :, 3], policy.alpha_background)


def _from_gray(image: Image.Image, policy: DecodePolicy, storage: Storage) -> NDArray[np.uint8]:
    values = np.asarray(image)
    key = image.info.get("transparency")
    is_transparent = values == key if isinstance(key, int) else None
    if storage.unsigned:
        values = values.view(np.uint32)
    ends = policy.range or ((0, storage.high) if storage.high is not None else None)
    if ends is None:
        gray = _eight_bits(values, storage.inverted)
    else:
        low, high = (float(end) * storage.unit for end in ends)
        gray = _scaled(values, low, high, storage.inverted)
    if is_transparent is not None:
        gray[is_transparent] = policy.alpha_background
    return np.repeat(gray[:, :, None], 3, axis=2)


def _from_gray_alpha(image: Image.Image, policy: DecodePolicy) -> NDArray[np.uint8]:
    values = np.asarray(image).view(">u2")
    gray, alpha = (_eight_bits(values[:, :, at], False) for at in (0, 1))
    if policy.range is not None:
        gray = _scaled(values[:, :, 0], *policy.range, False)
    return _composite(np.repeat(gray[:, :, None], 3, axis=2), alpha, policy.alpha_background)


def _eight_bits(values: NDArray, is_inverted: bool) -> NDArray[np.uint8]:
    """Scale wide gray values: 0..65535 by 1/257, floats in 0..1 by 255, others by min and max.

    Rounded to nearest. NaN and infinities become 0 and are excluded from the range.
    """
    if values.dtype.kind in "ui" and values.min() >= 0 and values.max() <= 65_535:
        gray = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return 255 - gray if is_inverted else gray
    inside = values[np.isfinite(values)]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 1.0)
    if values.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    return _scaled(values, low, high, is_inverted)


def _scaled(values: NDArray, low: float, high: float, is_inverted: bool) -> NDArray[np.uint8]:
    """Map ``low``..``high`` to 0..255 (inverted: to 255..0), clipped; 0 if they are equal."""
    gray = np.zeros(values.shape, np.uint8)
    for start in range(0, len(values) if high > low else 0, _STRIP_ROWS):
        with np.errstate(invalid="ignore"):  # signaling NaN
            strip = values[start : start + _STRIP_ROWS].astype(np.float64)
        finite = np.isfinite(strip)
        strip[~finite] = low
        scaled = np.rint(np.clip((strip - low) * (255.0 / (high - low)), 0, 255))
        scaled = 255 - scaled if is_inverted else scaled
        scaled[~finite] = 0
        gray[start : start + _STRIP_ROWS] = scaled
    return gray


def _from_wide_colors(
    high: Image.Image, low: Image.Image, policy: DecodePolicy
) -> NDArray[np.uint8]:
    """Convert 16-bit colors, given as an image of upper and one of lower bytes."""
    upper, lower = np.asarray(high), np.asarray(low)
    key = high.info.get("transparency")
    if policy.range is None:
        # (256 u + l) / 257 is u + (l - u) / 257.
        difference = lower.astype(np.int16) - upper
        levels = (upper + (difference >= 129) - (difference <= -129)).astype(np.uint8)
    else:
        colors = lower[:, :, :3] + (upper[:, :, :3].astype(np.uint16) << 8)
        levels = upper.copy()
        levels[:, :, :3] = _scaled(colors, *policy.range, False)
    if high.mode == "RGBA":
        return _composite(levels[:, :, :3], levels[:, :, 3], policy.alpha_background)
    if isinstance(key, tuple):
        is_transparent = (upper == [k >> 8 for k in key]).all(2) & (
            lower == [k & 255 for k in key]
        ).all(2)
        levels[is_transparent] = policy.alpha_background
    return levels


def _composite(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: int
) -> NDArray[np.uint8]:
    if alpha.min() == 255:
        return np.array(rgb)
    alpha = alpha[:, :, None].astype(np.uint16)
    # At most 255 * 255 + 127, which fits uint16.
    mixed = rgb * alpha + np.uint16(background) * (255 - alpha) + np.uint16(127)
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
