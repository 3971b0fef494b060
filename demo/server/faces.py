"""The gate that uploads pass before anything is stored or embedded: no faces, or blurred ones.

Detector and blur are those of curations (`dinoforge.scorers`). The detector misses some faces and
finds some where there are none: the answer is worded so, and offers to blur it.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.server.problems import Problem
from dinoforge.images import decode
from dinoforge.scorers.blurring import blur_faces
from dinoforge.scorers.faces import FaceDetector, face_detector

__all__ = ["FaceGate", "Mode"]

Pixels = NDArray[np.uint8]
Mode = Literal["refuse", "blur", "off"]


class FaceGate:
    """Refuses pictures with faces, blurs them, or lets everything pass.

    Raises
    ------
    UsageError
        If the package of the detector is missing, unless the mode is ``off``.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._detector: FaceDetector | None = None if mode == "off" else face_detector()

    def admit(self, pixels: Pixels, *, blurring: bool) -> tuple[Pixels, int]:
        """Return what may be stored, and the number of faces that are blurred in it.

        Raises
        ------
        Problem
            422 `face_found`, unless faces are to be blurred.
        """
        if self._detector is None:
            return pixels, 0
        boxes = self._detector.find(pixels)
        if not len(boxes):
            return pixels, 0
        if not (blurring or self.mode == "blur"):
            raise Problem(
                422,
                "face_found",
                "the image seems to show a face; it was discarded",
                "blur: send it again with ?faces=blur, which blurs what looks like a face",
            )
        file, _ = blur_faces(pixels, self._detector.find)
        return decode(file), len(boxes)
