"""Columns of tables for the images whose value of a column they have (`side.tables`).

Tables may be larger than memory and in any order, so a partition passes through all of them: it is
large, for few passes, and what it holds are the rows of its own images.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.curation.policies.filter_config import SideConfig
from dinoforge.curation.stored.side import common_type, unite
from dinoforge.curation.stored.side_tables import find_rows, find_tables
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.files import hash_json
from dinoforge.remote.listings import listings_folder
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["SideTablesStage"]

# Images of a partition, as whole partitions of `side`: 20 columns take 1.5 GB.
PARTITION_ROWS = 1 << 20


class SideTablesStage(CurationStage):
    """Join what lies beside the images with tables; what lies beside comes first."""

    name = "side-tables"
    number = 24
    keys = ("side",)
    execution_keys = ("partition_images",)
    needs = ("side",)

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of partitions of `side`; names, sizes and times of the tables are in each."""
        config = inputs.config.side
        if not config.tables or not config.columns:
            return []
        side_tables = find_tables(config.tables, listings_folder(inputs.run_folder))
        common = {"tables": [one.path for one in side_tables], "files": hash_json(side_tables)}
        num = len(inputs.facts("side"))
        step = max(1, PARTITION_ROWS // inputs.config.partition_images)
        return [
            {"first": first, "stop": min(first + step, num), **common}
            for first in range(0, num, step)
        ]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Add the columns to the images of some partitions of `side`."""
        paths = inputs.files("side", "side.parquet")[payload["first"] : payload["stop"]]
        own = unite([read_table(path) for path in paths])
        table, without = _join(own, payload["tables"], inputs.config.side)
        out.write_table("side", table, table.schema)
        return {"images": table.num_rows, "in_no_table": without}


def _join(own: pa.Table, paths: Sequence[str], config: SideConfig) -> tuple[pa.Table, int]:
    """Return the columns of both that are named, and how many rows no table has."""
    values = pa.nulls(own.num_rows, pa.string())
    if config.on in own.column_names:
        values = own.column(config.on).cast(pa.string()).combine_chunks()
    wanted = pc.unique(values).drop_null()
    rows, place = find_rows(paths, config.on, wanted, config.is_named)
    at = pc.index_in(values, value_set=wanted).fill_null(len(wanted)).to_numpy()
    place = np.append(place, -1)[at]
    joined = rows.take(pa.array(place, mask=place < 0))
    columns = {"image_id": own.column("image_id")}
    names = {*own.column_names, *joined.column_names} - {"image_id"}
    for name in sorted(filter(config.is_named, names)):
        some = [table.column(name) for table in (own, joined) if name in table.column_names]
        if len(some) > 1:
            kind = common_type(name, some[0].type, some[1].type)
            some = [column.cast(kind, safe=False) for column in some]
        columns[name] = pc.coalesce(*some)
    return pa.table(columns), int(np.count_nonzero(place < 0))
