"""Side data of every image: what lies beside it, such as its URL, its caption and scores of others.

Where it lies, `dinoforge.sources.beside` describes. One table per range of images, row == position,
with the columns that these images have.
"""

from typing import Any

import pyarrow as pa

from dinoforge.curated import resolve_shard
from dinoforge.curation import tables
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import UsageError
from dinoforge.sources.beside import SideReader
from dinoforge.stages import Json, Output

__all__ = ["SideStage"]

_CAPTION = "caption"  # column of the text beside an image
_TOO_LARGE = 1 << 24  # bytes of a JSON file
_Row = dict[str, Any]


class SideStage(CurationStage):
    """Read the columns that the recipe names (`side.columns`), partition by partition."""

    name = "side"
    number = 22
    version = "2.0.0"
    keys = ("side.columns",)
    execution_keys = ("side.tables", "side.on", "partition_images", "base")
    needs = ("ingest", "plant")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of image ids; none if no column is named.

        The column by which tables are joined is read, too.
        """
        config = inputs.config.side
        ranges = tables.split_ids(inputs) if config.columns else []
        more = [config.on] * bool(config.tables)
        return [{"start": start, "stop": stop, "more": more} for start, stop in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Read the side data of one range."""
        index = tables.read_side_locations(inputs, payload["start"], payload["stop"])
        patterns = [*inputs.config.side.columns, *payload["more"]]
        reader = SideReader(patterns)
        run = inputs.run_folder
        places = [{**row, "shard": resolve_shard(run, row["shard"])} for row in index.to_pylist()]
        rows = [reader.keep(row) for row in reader.read_each(places)]
        names = sorted({name for row in rows for name in row})
        columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
        # A table without columns has no rows.
        columns = {"image_id": pa.array(range(payload["start"], payload["stop"])), **columns}
        table = pa.table(columns)
        out.write_table("side", table, table.schema)
        return {"images": len(rows), "with_data": sum(map(bool, rows)), "damaged": reader.damaged}


def _column(name: str, values: list[Any]) -> pa.Array:
    """Make a column of numbers, of text or of true and false; numbers of both kinds are floats."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values, kinds = [None if value is None else float(value) for value in values], {float}
    if len(kinds) > 1:
        kinds_found = " and ".join(sorted(_NAMES[kind] for kind in kinds))
        raise UsageError(
            what=f"the column `{name}` of the side data holds {kinds_found}",
            where="`side.columns`",
            do="leave it out of side.columns, or write one kind of values",
        )
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, OverflowError):  # integers beyond 64 bits
        return pa.array([None if value is None else float(value) for value in values])


_NAMES = {bool: "true and false", int: "numbers", float: "numbers", str: "text"}
