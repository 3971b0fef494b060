"""The pools of `claim.py`: images that one wants, copies of some, and a crawl's worth of others.

A pool is three tars: ``pool.tar`` (dirty), ``seeds.tar`` (a few labeled images that are in no
other), ``clean.tar`` (what one wants, as it was before it got dirty). The truth is in the names:
``own-N``, ``copy-N-KIND-I`` of ``own-N``, ``foreign-SET-N``. Everything is drawn by the seed.
"""

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from duplicate_pool import edit, read_photographs
from PIL import Image

__all__ = ["Labeled", "Pool", "cifar10", "photographs", "read_labeled", "write_tar"]

SIDE = 32  # of foreign crops, as of CIFAR-10
# Edits that leave something to recognize in 32 pixels.
SMALL_KINDS = ("exact", "jpeg_q60", "jpeg_q20", "crop_90", "brightness", "contrast_color")
KINDS = (*SMALL_KINDS, "crop_60", "resize_50", "mirror", "gray", "text", "border")
OTHERS = ("clothing", "imagenet-sample", "camvid", "nyu-depth-v2-sample", "davis2016-val-sample")
FOREIGN = -1  # class of images that have none of the classes


@dataclass(frozen=True)
class Labeled:
    """One image, its name in the tars and its class."""

    name: str
    data: bytes
    label: int = FOREIGN


@dataclass(frozen=True)
class Pool:
    """What the arms are made of; ``held_out`` are further tars, by name."""

    pool: list[Labeled]
    seeds: list[Labeled]
    clean: list[Labeled]
    held_out: dict[str, list[Labeled]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the tars into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tars = {"seeds": self.seeds, "clean": self.clean, **self.held_out, "pool": self.pool}
        for name, images in tars.items():
            write_tar(folder / f"{name}.tar", images)


def cifar10(data: Path, *, foreign: float, imbalance: float, each: int, head: int = 2000) -> Pool:
    """Cut CIFAR-10 to a long tail, copy some images, and add 32-pixel crops of other sets.

    ``head`` images of the first class, fewer by a constant factor from class to class down to
    ``head / imbalance`` of the last. 500 of them have ``each`` edited copies. ``foreign`` is the
    share of crops in the pool. The clean set and the 500 seeds do not depend on any of this.
    """
    rng = np.random.default_rng(0)
    train = _numbered(read_labeled(sorted((data / "cifar10").glob("*-train-*"))))
    seeds, clean = split_seeds(train, 50, rng)
    own = long_tail(clean, head, imbalance, rng)
    copies = list(edited_copies(own, 500, each, SMALL_KINDS, rng))
    count = round((len(own) + len(copies)) * foreign / (1 - foreign))
    sets = (*OTHERS, "imagenette-144", "animals4")
    crops = list(random_crops([p for s in sets for p in _photographs(data / s, s)], count, rng))
    return Pool(_mixed([*own, *copies, *crops], rng), seeds, clean)


def photographs(data: Path) -> Pool:
    """Pool all photographs: Imagenette and half of animals4 are wanted, the rest is foreign.

    500 pictures of all sets have 3 edited copies each. The seeds are 10 pictures per class; the
    other half of animals4 is held out as its test set, and the validation images of Imagenette.
    """
    rng = np.random.default_rng(0)
    imagenette = read_labeled(sorted((data / "imagenette-144").glob("*-train-*.tar")))
    animals = _mixed(read_labeled(sorted((data / "animals4").glob("*.tar"))), rng)
    half = len(animals) // 2
    bank = [Labeled(a.name, a.data, a.label) for a in animals[:half]]
    wanted = [*imagenette, *(Labeled(a.name, a.data, 10 + a.label) for a in bank)]
    seeds, clean = split_seeds(_numbered(wanted), 10, rng)
    others = [p for s in (*OTHERS, "copydet") for p in _photographs(data / s, s)]
    every = [*clean, *others]
    copies = list(edited_copies(every, 500, 3, KINDS, rng))
    held_out = {"animals4-train": bank, "animals4-test": animals[half:]}
    return Pool(_mixed([*every, *copies], rng), seeds, clean, held_out)


def read_labeled(shards: Sequence[Path]) -> list[Labeled]:
    """Read images with their class from tars with members ``KEY.jpg`` and ``KEY.cls``."""
    images, labels = {}, {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, kind = member.name.rpartition(".")
                content = tar.extractfile(member).read()
                if kind == "cls":
                    labels[key] = int(content)
                else:
                    images[key] = content
    return [Labeled(key, content, labels.get(key, FOREIGN)) for key, content in images.items()]


def split_seeds(
    images: list[Labeled], per_class: int, rng: np.random.Generator
) -> tuple[list[Labeled], list[Labeled]]:
    """Hold out as many images of every class."""
    order = rng.permutation(len(images)).tolist()
    chosen, counts = set(), Counter()
    for at in order:
        if counts[images[at].label] < per_class:
            counts[images[at].label] += 1
            chosen.add(at)
    rest = [image for at, image in enumerate(images) if at not in chosen]
    return [images[at] for at in sorted(chosen)], rest


def long_tail(
    images: list[Labeled], head: int, imbalance: float, rng: np.random.Generator
) -> list[Labeled]:
    """Choose ``head * imbalance ** (-c / (classes - 1))`` images of class number c."""
    labels = np.array([image.label for image in images])
    classes = np.unique(labels)
    rows = []
    for number, label in enumerate(classes):
        count = round(head * imbalance ** (-number / max(len(classes) - 1, 1)))
        of_class = np.flatnonzero(labels == label)
        rows += rng.permutation(of_class)[:count].tolist()
    return [images[at] for at in rows]


def edited_copies(
    images: list[Labeled], count: int, each: int, kinds: Sequence[str], rng: np.random.Generator
) -> Iterator[Labeled]:
    """Copy ``count`` images ``each`` times, with the kinds of edit in turn."""
    turn = 0
    for at in rng.choice(len(images), min(count, len(images)), replace=False).tolist():
        original = images[at]
        for number in range(each):
            kind = kinds[turn % len(kinds)]
            turn += 1
            name = f"copy-{original.name.removeprefix('own-')}-{kind}-{number}"
            yield Labeled(name, edit(kind, original.data, rng), original.label)


def random_crops(
    images: Sequence[Labeled], count: int, rng: np.random.Generator
) -> Iterator[Labeled]:
    """Cut squares of 32 pixels out of photographs, as many of each."""
    for at in range(count):
        photo = images[at % len(images)]
        image = Image.open(io.BytesIO(photo.data)).convert("RGB")
        left, top = (int(rng.integers(side - SIDE + 1)) for side in image.size)
        buffer = io.BytesIO()
        crop = image.crop((left, top, left + SIDE, top + SIDE))
        crop.save(buffer, "JPEG", quality=75)  # as those of CIFAR-10
        yield Labeled(f"{photo.name}-{at}", buffer.getvalue())


def write_tar(path: Path, images: Iterable[Labeled]) -> None:
    """Write ``NAME.jpg`` and, of images with a class, ``NAME.cls``; complete or not at all."""
    unfinished = path.with_suffix(".tmp")
    with tarfile.open(unfinished, "w") as tar:
        for image in images:
            members = {"jpg": image.data}
            if image.label != FOREIGN:
                members["cls"] = str(image.label).encode()
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{image.name}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    unfinished.rename(path)


def _photographs(folder: Path, name: str) -> Iterator[Labeled]:
    for number, (_, content) in enumerate(read_photographs(folder)):
        yield Labeled(f"foreign-{name}-{number}", content)


def _numbered(images: list[Labeled]) -> list[Labeled]:
    return [Labeled(f"own-{at}", image.data, image.label) for at, image in enumerate(images)]


def _mixed(images: list[Labeled], rng: np.random.Generator) -> list[Labeled]:
    return [images[at] for at in rng.permutation(len(images))]
