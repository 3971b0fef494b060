"""How much pool images resemble the examples of what a rule excludes: cosines, no threshold."""

import numpy as np

from dinoforge.curation import tables
from dinoforge.curation.stored.balance import meaning_stage
from dinoforge.curation.stored.decisions import read_survivors
from dinoforge.curation.stored.seed_sets import read_examples
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import top_k
from dinoforge.stages import Json, Output

__all__ = ["ExcludeStage"]


class ExcludeStage(CurationStage):
    """The nearest example of every surviving pool image."""

    name = "exclude"
    number = 69
    keys = ("retrieve.encoder", "duplicates.encoder")
    # What a payload holds of the rules decides about its partition.
    execution_keys = (
        "retrieve.rules",
        "retrieve.partition_images",
        "partition_images",
        "device",
        "base",
    )
    needs = ("ingest", "plant", "survivors", "embed", "embed-meaning")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of the surviving pool per set of examples, if a rule excludes any."""
        rules = inputs.config.retrieve.rules
        names = dict.fromkeys(rule.seeds for rule in rules if rule.mode == "exclude")
        pool = read_survivors(inputs)[1] if names else ()
        ranges = tables.split_range(len(pool), inputs.config.retrieve.partition_images)
        return [{"set": name, "first": a, "stop": b} for name in names for a, b in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Find the nearest example of the images of one range; -1 if no example is admitted."""
        device, examples = inputs.config.device, read_examples(inputs, payload["set"])
        _, pool = read_survivors(inputs)
        pool = pool[payload["first"] : payload["stop"]]
        example, score = np.full(len(pool), -1), np.full(len(pool), -np.inf, np.float32)
        if len(examples):
            stage = meaning_stage(inputs.config)
            nearest = top_k(
                tables.read_embeddings(inputs, stage, pool),
                tables.read_embeddings(inputs, stage, examples),
                k=1,
                backend=backend_for(device),
                device=device,
            )
            example, score = examples[nearest.ids[:, 0]], nearest.scores[:, 0].astype(np.float32)
        out.write_array("ids", pool)
        out.write_array("examples", example)
        out.write_array("scores", score)
        return {"set": payload["set"]}
