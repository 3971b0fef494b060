"""Published layouts of depth sets: NYU Depth v2 and KITTI, by the lists that the field shares.

A line is ``IMAGE DEPTH FOCAL``, with paths below some folder (lists of BTS, Lee et al. 2019, as
the Monocular-Depth-Estimation-Toolbox uses them).
"""

from collections.abc import Sequence
from pathlib import Path

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.dense import DenseItem, DenseSet, check_not_empty
from dinoforge.evaluation.layouts.stored import StoredFile, first_missing, read_lines
from dinoforge.evaluation.metrics.depth import MAX_DEPTH

__all__ = ["open_kitti", "open_nyu_depth"]

_NO_TRUTH = "None"  # in place of a depth map


def open_nyu_depth(root: Path, split: str) -> DenseSet:
    """List NYU Depth v2 (Silberman et al. 2012), depth in millimeters, with the Eigen crop.

    ``root`` has ``nyu_train.txt`` and ``nyu_test.txt`` (or the names of BTS,
    ``nyudepthv2_train_files_with_gt.txt``); files are below ``root``, or below ``sync``, ``train``,
    ``official_splits/test`` or ``test`` in it.

    Raises
    ------
    UsageError
        That names the first missing file, or a line that is no pair of paths.
    """
    names = (f"nyu_{split}.txt", f"nyudepthv2_{split}_files_with_gt.txt")
    folders = ["", "sync", "train"] if split == "train" else ["", "official_splits/test", "test"]
    places = [root / folder for folder in folders]
    items, left_out = _items(root, names, places, places, "NYU Depth v2")
    return DenseSet(
        name="nyu_depth",
        items=items,
        depth_scale=1000,
        max_depth=MAX_DEPTH["nyu"],
        crop="nyu_eigen",
        left_out=left_out,
    )


def open_kitti(root: Path, split: str) -> DenseSet:
    """List KITTI (Geiger et al. 2013) by the split of Eigen et al. 2014, with the Garg crop.

    ``root`` has ``kitti_eigen_train.txt`` and ``kitti_eigen_test.txt`` (or the names of BTS);
    images are below ``root`` or ``input``, depth maps (the improved ground truth) below ``root`` or
    ``gt_depth``. Images without a depth map, 45 of the 697 test images, are left out and counted.

    Raises
    ------
    UsageError
        That names the first missing file, or a line that is no pair of paths.
    """
    names = (f"kitti_eigen_{split}.txt", f"eigen_{split}_files_with_gt.txt")
    images, depths = ([root, root / folder] for folder in ("input", "gt_depth"))
    items, left_out = _items(root, names, images, depths, "KITTI")
    return DenseSet(
        name="kitti",
        items=items,
        depth_scale=256,
        max_depth=MAX_DEPTH["kitti"],
        crop="kitti_garg",
        has_benchmark_crop=True,
        left_out=left_out,
    )


def _items(
    root: Path, names: Sequence[str], images: Sequence[Path], depths: Sequence[Path], layout: str
) -> tuple[list[DenseItem], dict[str, int]]:
    """Read a list, below any of the folders; count the lines without a depth map."""
    lists = [root / folder / name for name in names for folder in ("", "splits")]
    listed = next((path for path in lists if path.exists()), lists[0])
    pairs = [_pair(line, listed) for line in read_lines(listed, layout=layout)]
    known = [(image, depth) for image, depth in pairs if depth != _NO_TRUTH]
    items = []
    if known:
        below_images, below_depths = (
            next((place for place in places if (place / first).exists()), places[0])
            for places, first in zip((images, depths), known[0], strict=True)
        )
        for image, depth in known:
            files = below_images / image, below_depths / depth
            key = str(Path(image).with_suffix(""))
            items.append(DenseItem(key, *_stored(files), unit=key))
    check_not_empty(items, layout=layout, where=listed)
    stored = (file for item in items for file in (item.image, item.depth) if file is not None)
    first_missing([Path(file.path) for file in stored], layout=layout)
    left_out = len(pairs) - len(known)
    return items, {"no depth map": left_out} if left_out else {}


def _stored(files: tuple[Path, Path]) -> tuple[StoredFile, None, StoredFile]:
    image, depth = files
    return StoredFile(str(image)), None, StoredFile(str(depth))


def _pair(line: str, listed: Path) -> tuple[str, str]:
    fields = line.split()
    if len(fields) < 2:
        what = f"no pair of image and depth map: {line[:60]!r}"
        do = "give lines of IMAGE DEPTH FOCAL"
        raise UsageError(what=what, where=str(listed), do=do)
    return fields[0].lstrip("/"), fields[1].lstrip("/")
