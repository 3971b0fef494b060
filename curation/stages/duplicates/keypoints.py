"""Local features of every content that is compared on its pixels, stored once."""

import numpy as np
import pyarrow as pa

from dinoforge.curation import tables
from dinoforge.curation.stored.decoding import decode_each
from dinoforge.curation.stored.local_features import Pictures, plan_pictures
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output
from dinoforge.verification.features import (
    extract_features,
    features_version,
    is_decisive,
    is_verifiable,
    pack_features,
)

__all__ = ["KeypointsStage"]


class KeypointsStage(CurationStage):
    """Keypoints, descriptors and a small gray picture per content; about 100 kB each."""

    name = "keypoints"
    number = 42
    version = "1.1.0"
    keys = ("duplicates.verify.mode", "decode", "partition_images")
    execution_keys = ("base",)
    needs = ("ingest", "plant", "exact")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of pictures; none when pairs are not compared on their pixels."""
        if inputs.config.duplicates.verify.mode == "none":
            return []
        version = features_version()
        return [payload | {"features": version} for payload in plan_pictures(inputs)]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Find the keypoints of the pictures of one range."""
        side = getattr(Pictures.read(inputs), payload["side"])
        ids = side[payload["first"] : payload["stop"]]
        start = int(ids[0])
        locations = tables.read_locations(inputs, start, int(ids[-1]) + 1)
        images = decode_each(inputs, locations.take(pa.array(ids - start)))
        features = [extract_features(pixels) for pixels in images]
        verifiable = np.array([is_verifiable(picture) for picture in features])
        out.write_array("ids", ids)
        out.write_array("verifiable", verifiable)
        out.write_array("decisive", np.array([is_decisive(picture) for picture in features]))
        for name, array in pack_features(features).items():
            out.write_array(name, array)
        return {
            "pictures": len(ids),
            "not_verifiable": int(np.count_nonzero(~verifiable)),
            "keypoints": sum(len(picture.points) for picture in features),
        }
