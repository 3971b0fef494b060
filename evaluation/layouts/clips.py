"""Videos with a class, as folders of frames: ``ROOT/CLASS/VIDEO/*.jpg`` (UCF-101, Kinetics, ...).

Videos are not decoded: extract frames first. Listing reads no image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.stored import (
    StoredFile,
    in_numeric_order,
    missing_file,
    read_lines,
)
from dinoforge.images.formats import has_image_suffix

__all__ = ["Clip", "Clips", "open_clips", "open_split"]

_VIDEO_SUFFIXES = {".avi", ".mkv", ".mov", ".mp4", ".mpg", ".webm"}


@dataclass(frozen=True)
class Clip:
    """A video: its frames in order, and the number of its class."""

    name: str  # CLASS/VIDEO
    frames: tuple[StoredFile, ...]
    label: int


@dataclass(frozen=True)
class Clips:
    """Videos, and the names of the classes by number."""

    clips: list[Clip]
    classes: list[str]


def open_clips(
    root: Path, *, listed: Path | None = None, classes: Sequence[str] | None = None
) -> Clips:
    """List videos; frames are ordered by the numbers in their names, so 2 comes before 10.

    ``listed`` is a list of the videos of a split, one ``CLASS/VIDEO`` per line; a suffix such as
    ``.avi`` and a label after it are ignored (the lists of UCF-101). ``classes`` numbers the
    classes as another part of the data does; default: the sorted names of the class folders.

    Raises
    ------
    UsageError
        If there is no such folder, a listed video is missing, a video has no frames, or its class
        is not among ``classes``.
    """
    layout = "videos as ROOT/CLASS/VIDEO/FRAME.jpg"
    if not root.is_dir():
        raise missing_file(root, layout=layout)
    names = _listed(listed) if listed else _names(root)
    if not names:
        raise UsageError(what="no videos", where=str(root), do=f"give a folder of {layout}")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    known = {name: number for number, name in enumerate(classes or folders)}
    clips = []
    for name in names:
        folder = root / name
        if not folder.is_dir():
            raise missing_file(folder, layout=layout)
        names_of_frames = [file.name for file in folder.iterdir() if has_image_suffix(file.name)]
        frames = [folder / frame for frame in sorted(names_of_frames, key=in_numeric_order)]
        if not frames:
            raise missing_file(folder / "*.jpg", layout=layout)
        label = known.get(name.split("/")[0])
        if label is None:
            raise UsageError(
                what=f"class beyond the list of {len(known)} classes",
                where=str(folder),
                do="give the classes of the training videos",
            )
        clips.append(Clip(name, tuple(StoredFile(str(frame)) for frame in frames), label))
    return Clips(clips, list(known))


def open_split(root: Path, split: str, *, classes: Sequence[str] | None = None) -> Clips:
    """Open a part of a data set: its folder ``root/split``, or a list of that name in ``root``.

    Raises
    ------
    UsageError
        See `open_clips`.
    """
    part = root / split
    if part.is_file():
        return open_clips(root, listed=part, classes=classes)
    return open_clips(part, classes=classes)


def _names(root: Path) -> list[str]:
    names = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in _VIDEO_SUFFIXES:
                raise UsageError(
                    what="a video file, not a folder of frames",
                    where=str(path),
                    do="extract frames: ffmpeg -i VIDEO.avi VIDEO/%05d.jpg",
                )
            if path.is_dir():
                names.append(f"{folder.name}/{path.name}")
    return names


def _listed(listed: Path) -> list[str]:
    lines = [line.split()[0] for line in read_lines(listed, layout="a list of videos")]
    return [
        line[: -len(Path(line).suffix)] if Path(line).suffix in _VIDEO_SUFFIXES else line
        for line in lines
    ]
