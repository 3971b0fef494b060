"""What the images are: a hash of the bytes of each, so that features follow the content."""

import hashlib

import numpy as np

from dinoforge.evaluation.tables import EvaluationInputs, EvaluationStage, num_sets, read_items
from dinoforge.images import Undecodable
from dinoforge.sources.image_set import ImageSet
from dinoforge.stages import Json, Output

__all__ = ["DigestStage"]

_IMAGES = 8192  # of a partition
_FETCHED = 64  # of a bucket, together


class DigestStage(EvaluationStage):
    """Hash the bytes of every image."""

    name = "digest"
    number = 12
    keys = ("decode",)
    needs = ("list",)

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan ranges of the images of each set."""
        return [
            {"set": at, "start": start, "stop": min(start + _IMAGES, len(items))}
            for at in range(num_sets(inputs))
            for items in [read_items(inputs, at)]
            for start in range(0, len(items), _IMAGES)
        ]

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:
        """Hash one range."""
        table = read_items(inputs, payload["set"]).table
        start, stop = payload["start"], payload["stop"]
        images = ImageSet(table.slice(start, stop - start), inputs.config.decode)
        digests = np.zeros((len(images), 32), np.uint8)
        for index in range(len(images)):
            if index % _FETCHED == 0:
                images.fetch(range(index, min(index + _FETCHED, len(images))))
            try:
                data = images.read(index)
            except Undecodable as error:
                data = error.reason.encode()
            digests[index] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
        out.write_array("digests", digests)
        return {"images": len(images)}
