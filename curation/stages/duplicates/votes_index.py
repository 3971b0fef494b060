"""An index of the strongest local descriptors, one of the images and one of the references."""

import numpy as np

from dinoforge.curation.stored.local_features import Pictures, read_packed
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.files import write_atomic
from dinoforge.stages import Json, Output, part_name
from dinoforge.verification import votes

__all__ = ["VotesIndexStage"]


class VotesIndexStage(CurationStage):
    """Index the descriptors that vote; references apart, so that images do not crowd them out."""

    name = "votes-index"
    number = 43
    keys = ("duplicates.verify.votes", "seed")
    execution_keys = ("duplicates.verify.mode", "partition_images")
    needs = ("exact", "keypoints")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition per side."""
        policy = inputs.config.duplicates.verify
        if policy.mode == "none" or not policy.votes:
            return []
        return [{"side": side, "votes": votes.votes_version()} for side in Pictures._fields]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Train an index and fill it."""
        size, pictures = inputs.config.partition_images, Pictures.read(inputs)
        counts = [-(-len(side) // size) for side in pictures]
        at = Pictures._fields.index(payload["side"])
        first, num = sum(counts[:at]), len(pictures[at])
        partitions = range(first, first + counts[at])
        training = votes.choose_training_pictures(num, rng_seed=inputs.config.seed)
        samples = [np.zeros((0, 128), np.uint8)]
        for number, partition in enumerate(partitions):
            rows = training[training // size == number] - number * size
            samples.append(votes.strongest_descriptors(read_packed(inputs, partition), rows)[0])
        if not any(map(len, samples)):  # few pictures have keypoints, and none of them was drawn
            samples += [votes.strongest_descriptors(read_packed(inputs, p))[0] for p in partitions]
        index = votes.train_index(np.concatenate(samples), num)
        for number, partition in enumerate(partitions):
            votes.add_to_index(index, read_packed(inputs, partition), number * size)
        path = out.folder / f"{part_name(out.index)}.index.faiss"
        write_atomic(path, lambda file: votes.save_index(index, file.name))
        out.add(path)
        return {"pictures": num, "descriptors": int(index.ntotal)}
