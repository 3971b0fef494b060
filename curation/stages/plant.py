"""Edited copies of pool images put among them: duplicates whose truth is known.

With them a run measures its own deduplication on its own data: see `curation.check`.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.curation.edits import edited
from dinoforge.curation.index import INDEX_SCHEMA, OpenShards
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import UsageError
from dinoforge.images import Undecodable, decode_image, image_suffix
from dinoforge.randomness import Draws, KeyedPermutation
from dinoforge.shards import ShardWriter, index_shard
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["PlantStage"]


class PlantStage(CurationStage):
    """Write edited copies of randomly chosen pool images into a shard of the run."""

    name = "plant"
    number = 15
    version = "1.0.1"
    keys = ("plant", "seed", "decode")
    needs = ("ingest",)

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none when nothing is planted."""
        return [{}] if inputs.config.plant.count else []

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Choose originals, edit them, write the copies and their rows of the index."""
        config = inputs.config
        index = read_table(inputs.file("ingest", "index.parquet"))
        copies = list(_copies(inputs, index))
        if len(copies) < config.plant.count:
            raise UsageError(
                what=f"only {len(copies)} pool images decode to be copied",
                where=f"`plant.count` is {config.plant.count}",
                do="plant fewer copies",
            )
        folder = out.folder
        # All copies in one shard, however large: one index table tells their places.
        with ShardWriter(folder, "planted", config.plant.count, 1 << 62) as writer:
            for key, _, _, extension, data in copies:
                writer.write(key, {extension: data})
        shard = writer.shards[0].path
        out.add(shard)
        out.add(shard.with_suffix(".json"))
        members = [sample.members[0] for sample in index_shard(shard).samples]
        original = pa.array([row for _, row, _, _, _ in copies])
        num = len(copies)
        columns = {
            "image_id": pa.array(np.arange(index.num_rows, index.num_rows + num)),
            "role": pa.array(["pool"] * num),
            "source": pa.array(["planted"] * num),
            "key": pa.array([key for key, *_ in copies]),
            "shard": pa.array([shard.relative_to(inputs.run_folder).as_posix()] * num),
            "member": pa.array([member.name for member in members]),
            "offset": pa.array([member.offset for member in members]),
            "size": pa.array([member.size for member in members]),
            "label": index.column("label").take(original),
            "class_name": index.column("class_name").take(original),
            "planted_from": index.column("image_id").take(original),
            "edit": pa.array([kind for _, _, kind, _, _ in copies]),
        }
        out.write_table("index", pa.table(columns), INDEX_SCHEMA)
        return {"planted": num}


def _copies(inputs: CurationInputs, index: pa.Table) -> Iterator[tuple[str, int, str, str, bytes]]:
    """Key, row of the original, edit, extension and bytes of each copy.

    Originals come in the order of a keyed permutation of the pool; undecodable ones are passed
    over, and no image is copied twice.
    """
    config = inputs.config
    kinds, shards = config.plant.kinds, OpenShards(inputs.run_folder)
    pool = np.flatnonzero(pc.equal(index.column("role"), "pool").to_numpy(zero_copy_only=False))
    order = KeyedPermutation(len(pool), config.seed, "plant")
    made = 0
    for place in range(len(pool)):
        if made == config.plant.count:
            return
        row = int(pool[order[place]])
        at = index.slice(row, 1).to_pylist()[0]
        data = shards.read(at["shard"], at["offset"], at["size"])
        kind = kinds[made % len(kinds)]
        try:
            image = decode_image(data or b"", config.decode)
        except Undecodable:
            continue
        extension = "jpg"
        if kind == "exact":
            extension = image_suffix(at["member"] or at["shard"], image.format)
        else:
            data = edited(image.pixels, kind, Draws(config.seed, "plant", row))
        yield f"planted/{made:06d}_{kind}", row, kind, extension, data or b""
        made += 1
