"""Images without recognizable faces: what the detector finds is blurred until it finds nothing.

DINOv2 (Oquab et al. 2023, section 3) blurs identifiable faces of its pool; the margin and the width
of the blur are those of Yang et al. 2022 ("A study of face obfuscation in ImageNet").
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from dinoforge.images.resize import encode_jpeg
from dinoforge.scorers.faces import Boxes

__all__ = ["blur_faces"]

_Find = Callable[[NDArray[np.uint8]], Boxes]

_QUALITY = 95
_MARGIN = 0.1  # of the diagonal of a box, on each side; twice as much in every further round
_WIDTH = 0.1  # standard deviation of the Gaussian, of the diagonal
_BLURRED_ROUNDS = 3  # then boxes are filled with their mean color
_ROUNDS = 24  # more than it takes for the margin to reach the sides of any image


def blur_faces(image: NDArray[np.uint8], find: _Find) -> tuple[bytes, int]:
    """Blur every face of an image ``[H, W, 3]`` and encode it as a JPEG.

    ``find`` is that of a `FaceDetector`. The file is decoded and searched again, so it finds none
    in what a reader of the file sees. Returns the file and the number of boxes that were blurred.
    """
    picture, boxes, blurred = Image.fromarray(image), find(image), 0
    for number in range(_ROUNDS):
        for box in boxes.tolist():
            _hide(picture, box, number)
        blurred += len(boxes)
        data = encode_jpeg(np.asarray(picture), _QUALITY)
        boxes = find(np.asarray(Image.open(io.BytesIO(data))))  # compression changes it, too
        if not len(boxes):
            return data, blurred
    raise AssertionError("a face is found in an image of one color")


def _hide(picture: Image.Image, box: list[float], number: int) -> None:
    left, top, right, bottom = box
    diagonal = float(np.hypot(right - left, bottom - top))
    margin = diagonal * _MARGIN * 2**number
    corners = (left - margin, top - margin, right + margin, bottom + margin)
    width, height = picture.size
    limits = (width, height, width, height)
    place = tuple(round(min(max(x, 0), most)) for x, most in zip(corners, limits, strict=True))
    part = picture.crop((place[0], place[1], place[2], place[3]))
    if not all(part.size):
        return
    if number < _BLURRED_ROUNDS:
        hidden = part.filter(ImageFilter.GaussianBlur(diagonal * _WIDTH * 2**number))
    else:
        mean = np.asarray(part).reshape(-1, 3).mean(axis=0).astype(int).tolist()
        hidden = Image.new("RGB", part.size, (mean[0], mean[1], mean[2]))
    picture.paste(hidden, (place[0], place[1]))
