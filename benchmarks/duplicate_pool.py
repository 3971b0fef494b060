"""A pool of photographs with planted edited copies: what `duplicates.py` measures on.

400 of 1,300 photographs (clothing on few backgrounds, imagenet-sample) get 600 copies, 24 of each
kind of edit and 48 insets. Everything is drawn by the seed.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

__all__ = ["KINDS", "PooledImage", "edit", "make_pool", "read_photographs", "write_pool"]

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]

NUM_CLOTHING, NUM_IMAGENET, NUM_ORIGINALS = 1000, 300, 400
PER_KIND, INSETS = 24, 48
_SHORT_SIDE = 160  # of the photographs of imagenet-sample in the pool
_WHITE = (255, 255, 255)
_WORDS = ("SALE", "sample", "photo 2026", "www.shop.test", "NEW!", "c) studio", "size M", "preview")
# Sets without copies of the pool; frames of one video resemble each other, not the pool.
_DISTRACTORS = (
    "animals4",
    "camvid",
    "davis2016-val-sample",
    "imagenette-144",
    "nyu-depth-v2-sample",
)


@dataclass(frozen=True)
class PooledImage:
    """One file of the pool: ``picture`` names its original, ``kind`` the edit ("" of none)."""

    name: str
    picture: str
    kind: str
    data: bytes


def make_pool(data: Path, *, rng_seed: int, distractors: bool) -> list[PooledImage]:
    """Make the pool from the folder of shared data sets, in a random order."""
    rng = np.random.default_rng(rng_seed)
    clothing, imagenet = (
        list(read_photographs(data / name)) for name in ("clothing", "imagenet-sample")
    )
    order = rng.permutation(len(clothing))
    chosen = [clothing[at] for at in order[:NUM_CLOTHING]]
    spare = [clothing[at] for at in order[NUM_CLOTHING:]]
    order = rng.permutation(len(imagenet))
    chosen += [_with_short_side(*imagenet[at]) for at in order[:NUM_IMAGENET]]
    pool = [PooledImage(name, name, "", content) for name, content in chosen]
    pool += _copies(pool, [content for _, content in spare[:INSETS]], rng)
    if distractors:
        rest = spare[INSETS:] + [imagenet[at] for at in order[NUM_IMAGENET:]]
        for name in _DISTRACTORS:
            rest += read_photographs(data / name)
        pool += [PooledImage(name, name, "distractor", content) for name, content in rest]
    return [pool[at] for at in rng.permutation(len(pool))]


def read_photographs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Read the JPEG files of the shards of a folder: name and bytes."""
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    content = tar.extractfile(member).read()
                    yield f"{shard.stem}-{member.name.removesuffix('.jpg')}", content


def write_pool(pool: list[PooledImage], folder: Path) -> None:
    """Write one file per image, named by its position, and ``truth.json`` beside the folder."""
    folder.mkdir(parents=True)
    for at, image in enumerate(pool):
        (folder / f"{at:06d}.jpg").write_bytes(image.data)
    truth = [{"name": i.name, "picture": i.picture, "kind": i.kind} for i in pool]
    folder.with_name("truth.json").write_text(json.dumps(truth), encoding="utf-8")


def _copies(
    pool: list[PooledImage], backgrounds: list[bytes], rng: np.random.Generator
) -> Iterator[PooledImage]:
    kinds = [kind for kind in KINDS for _ in range(INSETS if kind == "inset" else PER_KIND)]
    originals = rng.choice(len(pool), NUM_ORIGINALS, replace=False)
    # Every original once, then half of them again.
    of = np.concatenate([rng.permutation(originals), rng.permutation(originals)])[: len(kinds)]
    left = list(backgrounds)
    for at, (kind, row) in enumerate(zip(kinds, of, strict=True)):
        original = pool[row]
        background = left.pop() if kind == "inset" else b""
        content = edit(kind, original.data, rng, background)
        yield PooledImage(f"copy-{at:03d}-{kind}", original.picture, kind, content)


def edit(kind: str, data: bytes, rng: np.random.Generator, background: bytes = b"") -> bytes:
    """Return a copy with one of the `KINDS` of edit; ``background`` is the picture of an inset."""
    if kind == "exact":
        return data
    if kind.startswith("jpeg_q"):
        return _jpeg(_opened(data), int(kind.removeprefix("jpeg_q")))
    if kind == "inset":
        return _jpeg(_inset(_opened(data), _opened(background), rng))
    return _jpeg(_EDITS[kind](_opened(data), rng), 20 if kind.endswith("_q20") else 90)


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _with_short_side(name: str, data: bytes) -> tuple[str, bytes]:
    image = _opened(data)
    return name, _jpeg(_scaled(image, _SHORT_SIDE / min(image.size)))


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, Image.Resampling.BICUBIC)


def _resize(scale: float) -> Edit:
    return lambda image, _: _scaled(image, scale)


def _crop(share: float) -> Edit:
    """Cut a rectangle of this share of the area, of the same aspect."""

    def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = (round(side * share**0.5) for side in image.size)
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    return crop


def _mirror(image: Image.Image, _: Any = None) -> Image.Image:
    return ImageOps.mirror(image)


def _rotate_5(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    angle = 5 * float(rng.choice([-1, 1]))
    return image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=_WHITE)


def _rotate_90(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    turn = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)[int(rng.integers(2))]
    return image.transpose(turn)


def _brightness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = rng.uniform(1.3, 1.7) if rng.random() < 0.5 else rng.uniform(0.5, 0.75)
    return ImageEnhance.Brightness(image).enhance(float(factor))


def _contrast_color(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = rng.uniform(1.3, 1.7) if rng.random() < 0.5 else rng.uniform(0.5, 0.75)
    return ImageEnhance.Color(ImageEnhance.Contrast(image).enhance(float(factor))).enhance(
        float(rng.uniform(0.3, 2.0))
    )


def _gray(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image.convert("L").convert("RGB")


def _blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(1.2, 2.0))))


def _noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    values = np.asarray(image, np.float64)
    noisy = values + rng.normal(0, rng.uniform(12, 22), values.shape)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def _text(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 4))):
        font = ImageFont.load_default(size=float(rng.uniform(0.1, 0.2) * min(image.size)))
        at = float(rng.uniform(0, 0.6) * image.width), float(rng.uniform(0, 0.85) * image.height)
        draw.text(at, str(rng.choice(_WORDS)), fill=_color(rng), font=font)
    return image


def _logo(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    image = image.copy()
    radius = float(rng.uniform(0.12, 0.2) * min(image.size))
    x, y = (float(rng.uniform(radius, side - radius)) for side in image.size)
    draw = ImageDraw.Draw(image)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_color(rng))
    inner = 0.55 * radius
    draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill=_color(rng))
    return image


def _border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.expand(image, int(rng.integers(12, 25)), _color(rng))


def _inset(image: Image.Image, background: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Paste the picture, shrunk to half of the sides of another one, somewhere on it."""
    background = background.copy()
    share = float(rng.uniform(0.45, 0.6))
    scale = share * min(b / a for a, b in zip(image.size, background.size, strict=True))
    small = _scaled(image, scale)
    at = tuple(
        int(rng.integers(outer - inner + 1))
        for outer, inner in zip(background.size, small.size, strict=True)
    )
    background.paste(small, at)
    return background


def _chain(*edits: Edit) -> Edit:
    def edit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for step in edits:
            image = step(image, rng)
        return image

    return edit


def _color(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(0, 256, 3))


def _any_resize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _scaled(image, float(rng.uniform(0.5, 1.5)))


_EDITS: dict[str, Edit] = {
    "resize_50": _resize(0.5),
    "resize_150": _resize(1.5),
    "crop_90": _crop(0.9),
    "crop_60": _crop(0.6),
    "crop_30": _crop(0.3),
    "mirror": _mirror,
    "rotate_5": _rotate_5,
    "rotate_90": _rotate_90,
    "brightness": _brightness,
    "contrast_color": _contrast_color,
    "gray": _gray,
    "blur": _blur,
    "noise": _noise,
    "text": _text,
    "logo": _logo,
    "border": _border,
    "text_resize": _chain(_text, _any_resize),
    "mirror_contrast": _chain(_mirror, _contrast_color),
    "crop_60_q20": _crop(0.6),
}
KINDS = ("exact", "jpeg_q60", "jpeg_q20", "jpeg_q5", *_EDITS, "inset")
