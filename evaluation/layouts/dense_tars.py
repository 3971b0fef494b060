"""Our tars of dense data: ``KEY.jpg``, ``KEY.seg.png`` or ``KEY.png``, ``KEY.depth.png``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.dense import (
    IGNORED,
    DenseItem,
    DenseSet,
    blocks_of_frames,
    check_not_empty,
)
from dinoforge.evaluation.layouts.segmentation import CAMVID_OBJECTS
from dinoforge.evaluation.layouts.stored import StoredFile, first_missing
from dinoforge.shards.index import INCOMPLETE, Member, Sample, index_shard, summarize_reasons
from dinoforge.sources.classes import find_class_list

__all__ = ["open_camvid_tars", "open_dense_tars", "open_nyu_tars"]


def open_dense_tars(
    tars: Sequence[Path],
    *,
    name: str,
    ignored: Sequence[int] = (IGNORED,),
    has_labels: bool = True,
    has_depth: bool = False,
) -> DenseSet:
    """List the samples of uncompressed tars in their order; the list of classes is beside them.

    ``ignored`` are the numbers of masks that are no class. A depth map is in millimeters.

    Raises
    ------
    UsageError
        If a tar is missing or damaged, a sample lacks a truth, or there is no list of classes.
    """
    first_missing(list(tars), layout=name)
    items = [_item(tar, s, has_labels, has_depth) for tar in tars for s in _samples(tar, name)]
    check_not_empty(items, layout=name, where=", ".join(map(str, tars)))
    classes = _classes(tars[0].parent) if has_labels else ()
    return DenseSet(
        name=name,
        items=items,
        classes=classes,
        class_of={n: n for n in range(len(classes))} | dict.fromkeys(ignored, IGNORED),
    )


def open_camvid_tars(root: Path, split: str) -> DenseSet:
    """List CamVid (Brostow et al. 2009), 11 classes; intervals resample blocks of 8 frames."""
    tars = _tars(root, f"camvid-{split}-*.tar")
    data = open_dense_tars(tars, name="camvid", ignored=(11, IGNORED))
    units = blocks_of_frames([item.key for item in data.items])
    items = [replace(i, unit=unit) for i, unit in zip(data.items, units, strict=True)]
    return replace(data, items=items, objects=CAMVID_OBJECTS)


def open_nyu_tars(root: Path, split: str) -> DenseSet:
    """List NYU Depth v2 (Silberman et al. 2012): 39 classes, depth with the Eigen crop."""
    data = open_dense_tars(_tars(root, f"nyu-{split}-*.tar"), name="nyu", has_depth=True)
    return replace(data, crop="nyu_eigen")


def _tars(root: Path, pattern: str) -> list[Path]:
    tars = sorted(root.glob(pattern))
    if not tars:
        first_missing([root / pattern], layout=pattern.partition("-")[0])
    return tars


def _samples(tar: Path, name: str) -> list[Sample]:
    index = index_shard(tar)
    faults = [problem for problem in index.problems if problem["reason"] in INCOMPLETE]
    if faults:
        what = f"tar of {name} is incomplete{summarize_reasons(faults)}"
        raise UsageError(what=what, where=str(tar), do="restore the file")
    return index.samples


def _item(tar: Path, sample: Sample, has_labels: bool, has_depth: bool) -> DenseItem:
    members, image = sample.members, sample.image
    if image is None or image.extension in {"seg.png", "depth.png"}:
        raise _lacks(tar, sample, "an image")
    labels = members.get("seg.png", members.get("png") if image.extension != "png" else None)
    depth = members.get("depth.png")
    if has_labels and labels is None:
        raise _lacks(tar, sample, f"a mask, {sample.key}.seg.png or {sample.key}.png")
    if has_depth and depth is None:
        raise _lacks(tar, sample, f"a depth map, {sample.key}.depth.png")
    return DenseItem(
        key=sample.key,
        image=_stored(tar, image),
        labels=_stored(tar, labels) if labels and has_labels else None,
        depth=_stored(tar, depth) if depth and has_depth else None,
        unit=sample.key,
    )


def _stored(tar: Path, member: Member) -> StoredFile:
    return StoredFile(str(tar), member.name, member.offset, member.size)


def _lacks(tar: Path, sample: Sample, what: str) -> UsageError:
    do = "complete the tar, or remove the sample"
    return UsageError(what=f"a sample lacks {what}", where=f"{tar}:{sample.key}", do=do)


def _classes(folder: Path) -> tuple[str, ...]:
    listed = find_class_list([str(folder)])
    if listed is None:
        first_missing([folder / "classes.txt"], layout="a segmentation set")
    assert listed is not None, "checked above"
    if listed.fault is not None:
        raise UsageError(faults=[listed.fault])
    if sorted(listed.names) != list(range(len(listed.names))):
        what, do = "classes are not numbered from 0 without a gap", "list one name per line"
        raise UsageError(what=what, where=listed.path, do=do)
    return tuple(listed.names[number] for number in range(len(listed.names)))
