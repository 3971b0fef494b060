"""Which images are left when duplicates and leaks are gone: their ids by role, no decision.

Written once, because every partition of the stages that compare them reads a range of these ids.
"""

import numpy as np

from dinoforge.curated import ROLES
from dinoforge.curation import tables
from dinoforge.curation.stored.generations import first_id
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output
from dinoforge.tables import iter_blocks

__all__ = ["SurvivorsStage"]


class SurvivorsStage(CurationStage):
    """List the images of every role that nothing has dropped yet."""

    name = "survivors"
    number = 62
    execution_keys = ("base",)
    needs = ("ingest", "plant", "filter", "components", "decontaminate")

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Leave out duplicates and leaks.

        Leaks of role as_is stay. Seeds that are not exported are left, too: they retrieve.
        """
        first, num = first_id(inputs), tables.num_images(inputs)
        role, is_left = np.empty(num, np.int8), np.empty(num, np.bool_)
        at = 0
        for block in iter_blocks([inputs.file("filter", "screened.parquet")]):
            part = slice(at, at := at + block.num_rows)
            role[part] = block.column("role")
            is_left[part] = block.column("reason").to_numpy() < 0
        for block in iter_blocks([inputs.file("components", "groups.parquet")]):
            is_kept = block.column("kept").to_numpy()
            is_left[block.column("image_id").to_numpy()[~is_kept] - first] = False
        for block in iter_blocks([inputs.file("decontaminate", "leaks.parquet")]):
            rows = block.column("image_id").to_numpy() - first
            is_left[rows[role[rows] != ROLES.index("as_is")]] = False
        counts = {}
        for number, name in enumerate(ROLES):
            ids = np.flatnonzero(is_left & (role == number))
            np.add(ids, first, out=ids)
            out.write_array(name, ids)
            counts[name] = len(ids)
        return counts
