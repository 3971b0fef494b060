"""DAVIS: videos with an annotation for every frame, as published or as tars.

Published: ``JPEGImages/480p/NAME/00000.jpg``, ``Annotations/480p/NAME/00000.png`` and lists of
names in ``ImageSets``. Tars: pairs ``NAME_00000.jpg`` and ``NAME_00000.png``. Listing reads neither
pixels nor annotations.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.stored import (
    StoredFile,
    first_missing,
    image_size,
    in_numeric_order,
    missing_file,
    read_labels,
    read_lines,
)
from dinoforge.evaluation.metrics.sizes import check_size
from dinoforge.shards.index import index_shard, summarize_reasons

__all__ = ["VideoSequence", "open_davis", "open_video_tars"]

_FEWEST_FRAMES = 3  # the first and the last do not count


@dataclass(frozen=True)
class VideoSequence:
    """Frames of a video in order, and the annotation of each."""

    name: str
    frames: tuple[StoredFile, ...]
    annotations: tuple[StoredFile, ...]
    is_binary: bool = False  # all that is not background is one object

    def read_annotations(self) -> NDArray[np.uint8]:
        """Read all annotations, ``[T, X, Y]``: 0 is the background, 255 (unless binary) void.

        Raises
        ------
        UsageError
            If one is unreadable, or has another size than its frame or the first frame.
        """
        first = self.read_annotation(0)
        maps = np.empty((len(self.frames), *first.shape), np.uint8)
        for number, frame in enumerate(self.frames):
            labels = self.read_annotation(number)
            if labels.shape != first.shape:
                raise UsageError(
                    what=f"frame of {labels.shape[0]} x {labels.shape[1]} pixels, the first one of "
                    f"this video has {first.shape[0]} x {first.shape[1]}",
                    where=str(frame),
                    do="give frames of one size",
                )
            maps[number] = labels
        return maps

    def read_annotation(self, number: int) -> NDArray[np.uint8]:
        """Read the annotation of one frame, ``[X, Y]``, with the labels of `read_annotations`.

        Raises
        ------
        UsageError
            If it is unreadable, or has another size than its frame.
        """
        frame, annotation = self.frames[number], self.annotations[number]
        labels = read_labels(annotation)
        check_size(labels.shape, image_size(frame), what="annotation", where=str(annotation))
        return (labels > 0).astype(np.uint8) if self.is_binary else labels


def open_davis(
    root: Path, *, year: Literal[2016, 2017] = 2017, subset: str = "val", resolution: str = "480p"
) -> list[VideoSequence]:
    """List the videos of DAVIS; those of 2016 have one object each, whatever its parts.

    The list of names is ``ImageSets/YEAR/SUBSET.txt``, or that of the release of 2016,
    ``ImageSets/RESOLUTION/SUBSET.txt``, which lists frames.

    Raises
    ------
    UsageError
        If the layout is another one: names the first missing file.
    """
    layout = f"DAVIS {year}"
    lists = root / "ImageSets" / str(year) / f"{subset}.txt"
    older = root / "ImageSets" / resolution / f"{subset}.txt"
    if year == 2016 and not lists.exists() and older.exists():
        lists = older
    # Lines of the older lists are pairs: /JPEGImages/480p/NAME/00000.jpg /Annotations/...
    lines = (line.split()[0] for line in read_lines(lists, layout=layout))
    names = dict.fromkeys(Path(line).parent.name if "/" in line else line for line in lines)
    videos = []
    for name in names:
        folders = [root / kind / resolution / name for kind in ("JPEGImages", "Annotations")]
        frames = sorted(folders[0].glob("*.jpg"), key=lambda file: in_numeric_order(file.name)) or [
            folders[0] / "00000.jpg"
        ]
        pairs = [(frame, folders[1] / f"{frame.stem}.png") for frame in frames]
        first_missing((file for pair in pairs for file in pair), layout=layout)
        stored = [
            tuple(StoredFile(str(path)) for path in paths) for paths in zip(*pairs, strict=True)
        ]
        videos.append(VideoSequence(name, stored[0], stored[1], is_binary=year == 2016))
    return _checked(videos, root)


def open_video_tars(paths: Iterable[Path]) -> list[VideoSequence]:
    """List the videos in tars of frames with annotations; a key is ``VIDEO_FRAME``.

    Raises
    ------
    UsageError
        If a tar is damaged, or a frame has no annotation: names the first one.
    """
    tars = list(paths)
    videos: dict[str, dict[str, dict[str, StoredFile]]] = {}
    for tar in tars:
        for key, files in _samples(tar):
            frames = videos.setdefault(key.replace("/", "_").rpartition("_")[0], {})
            if key in frames:
                do = "give each tar once"
                raise UsageError(what=f"a second frame {key}", where=str(tar), do=do)
            frames[key] = files
    listed = []
    for name, frames in videos.items():
        in_order = [frames[key] for key in sorted(frames, key=in_numeric_order)]
        images, annotations = (
            tuple(files[extension] for files in in_order) for extension in ("jpg", "png")
        )
        listed.append(VideoSequence(name, images, annotations))
    return _checked(listed, ", ".join(map(str, tars)))


def _samples(tar: Path) -> Iterator[tuple[str, dict[str, StoredFile]]]:
    """Yield the key and the files of every sample, by extension."""
    index = index_shard(tar)
    if not index.complete:
        raise UsageError(
            what=f"damaged tar{summarize_reasons(index.problems)}",
            where=str(tar),
            do="give complete, uncompressed tars",
        )
    for sample in index.samples:
        files = {
            extension: StoredFile(index.path, member.name, member.offset, member.size)
            for extension, member in sample.members.items()
        }
        for extension in ("jpg", "png"):
            if extension not in files:
                where = f"{tar}:{sample.key}.{extension}"
                raise missing_file(where, layout="pairs NAME_FRAME.jpg and NAME_FRAME.png")
        yield sample.key, files


def _checked(videos: list[VideoSequence], where: object) -> list[VideoSequence]:
    if not videos:
        raise UsageError(what="no videos", where=str(where), do="give a folder or tars of frames")
    for video in videos:
        if len(video.frames) < _FEWEST_FRAMES:
            raise UsageError(
                what=f"{len(video.frames)} frames, of which the first and the last do not count",
                where=str(video.frames[0]),
                do=f"give videos of at least {_FEWEST_FRAMES} frames",
            )
    return videos
