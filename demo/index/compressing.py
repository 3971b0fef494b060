"""A compressed index for the vectors, and for the regions, where these do not fit into memory."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.index.join import TABLES
from dinoforge.demo.index.kinds import choose_kinds, compress, kind_bytes
from dinoforge.demo.index.tables import IndexInputs, IndexStage
from dinoforge.files import write_bytes
from dinoforge.neighbors.products import require_faiss
from dinoforge.pages.formatting import bytes_size
from dinoforge.stages import Json, Output, part_name

__all__ = ["CompressStage", "kinds_of"]

_log = logging.getLogger(__name__)


def kinds_of(inputs: IndexInputs) -> dict[str, Any]:
    """Return the kind of each table that has rows."""
    (joined,) = inputs.facts("join")
    shapes = {name: tuple(joined[f"{name}_shape"]) for name in TABLES}
    used = {name: shape for name, shape in shapes.items() if shape[0]}
    return choose_kinds(used, int(inputs.config.memory * 2**30))


class CompressStage(IndexStage):
    """Compress what does not fit; nothing to do for a collection that does."""

    name = "compress"
    number = 40
    keys = ("seed",)
    execution_keys = ("memory",)  # what it decides is in the payload
    needs = ("join",)

    def plan(self, inputs: IndexInputs) -> list[Json]:
        """Plan one partition per table to compress."""
        kinds = kinds_of(inputs)
        return [{"table": name, "kind": kind} for name, kind in kinds.items() if kind != "flat"]

    def run(self, payload: Json, inputs: IndexInputs, out: Output) -> Json:
        """Train and fill the index of one table."""
        rows: NDArray[np.float16] = np.load(
            inputs.file("join", f"{payload['table']}.npy"), mmap_mode="r"
        )
        index = compress(rows, payload["kind"], inputs.config.seed)
        data = require_faiss().serialize_index(index)
        target: Path = out.folder / f"{part_name(out.index)}.faiss"
        write_bytes(target, data.tobytes())
        out.add(target)
        needed = kind_bytes(payload["kind"], rows.shape)
        if needed > inputs.config.memory * 2**30:
            text = "%s: even compressed they need %s, more than `memory`"
            _log.warning(text, payload["table"], bytes_size(needed))
        return {**payload, "bytes": len(data)}
