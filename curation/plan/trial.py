"""What a finished curation of a sample measured, so that a larger one can be planned from it.

The closed forms know how a cost grows. How much a pair of pictures costs that do or do not
resemble each other, how well keys compress, how fast a core is: that depends on the images and on
the machine, and a run of some thousand images shows it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.config import config_of
from dinoforge.curated import ledger_path, summary_path
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.plan.cost import Cost
from dinoforge.curation.plan.plan import COSTS
from dinoforge.curation.plan.sizes import Images, Sizes
from dinoforge.curation.stored.side_tables import count_rows
from dinoforge.errors import UsageError
from dinoforge.runs import read_recipe
from dinoforge.stages import read_markers, stage_device
from dinoforge.tables import read_table

__all__ = ["Measured", "Trial", "read_trial"]

_LONG_S = 1.0  # of shorter stages, the clock and the imports are a good part


@dataclass(frozen=True)
class Measured:
    """All partitions of one stage."""

    partitions: int
    files: int  # outputs, markers and the plan
    bytes: int  # of the outputs
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A finished curation: its images, what its stages took, and what was planned for them."""

    images: Images
    measured: Mapping[str, Measured]  # by stage
    on_gpu: frozenset[str]  # stages that computed on a GPU
    planned: Mapping[str, Cost]

    @cached_property
    def speed(self) -> float:
        """CPU seconds measured over planned, the median of the stages; 1 if all are short."""
        return median([core for name in self.planned if (core := self.core_ratio(name))] or [1.0])

    def core_ratio(self, name: str) -> float | None:
        """Return CPU seconds measured over planned, None for a stage that took too little."""
        cost = self.planned[name]
        products = 0.0 if name in self.on_gpu else cost.product_s or 0.0
        measured, planned = self.measured[name].cpu_s, cost.core_s + products
        return measured / planned if measured >= _LONG_S and planned else None

    def scale(self, name: str, cost: Cost) -> Cost:
        """Correct the cost of a stage by what this run measured.

        A stage that the run lacks, or that took less than a second, is corrected by the speed of
        the machine alone. An encoder of unknown cost is known from the run, if it ran on a CPU.
        """
        if name not in self.planned:
            return self._at_speed(cost, self.speed)
        bytes_ratio = self.measured[name].bytes / max(self.planned[name].bytes, 1.0)
        cost = replace(cost, bytes=cost.bytes * bytes_ratio)
        core = self.core_ratio(name)
        if core and name in self.on_gpu:
            return replace(cost, core_s=cost.core_s * core)
        if core and cost.product_s is None and self.planned[name].product_s is None:
            return replace(cost, core_s=cost.core_s * core, product_s=0.0)
        return self._at_speed(cost, core or self.speed)

    @staticmethod
    def _at_speed(cost: Cost, speed: float) -> Cost:
        product_s = None if cost.product_s is None else cost.product_s * speed
        return replace(cost, core_s=cost.core_s * speed, product_s=product_s)


def read_trial(run_folder: Path) -> Trial:
    """Read a finished curation.

    Raises
    ------
    UsageError
        If the folder holds none, or one that adds to another.
    """
    recipe = read_recipe(run_folder)
    if not (recipe and summary_path(run_folder).is_file()):
        do = "run `dinoforge curate` to its end, or name its run folder"
        raise UsageError(what="not a finished curation run", where=str(run_folder), do=do)
    config = config_of(CurationConfig, recipe)
    if config.base:
        what, do = f"the run adds to {config.base}", "give a run that adds to none"
        raise UsageError(what=what, where=str(run_folder), do=do)
    images = _read_images(run_folder)
    rows, columns = count_rows(config)
    images = replace(images, side_rows=rows, side_columns=columns or images.side_columns)
    sizes = Sizes(config=config, images=images)
    measured = {}
    for stage in STAGES:
        markers = read_markers(run_folder, "curation", stage.number, stage.name)
        outputs = [output for marker in markers for output in marker.outputs]
        if markers:
            measured[stage.name] = Measured(
                len(markers),
                len(outputs) + len(markers) + 1,
                sum(output["bytes"] for output in outputs),
                sum(marker.measured["cpu_seconds"] for marker in markers),
            )
    # A limit selects among all that is listed: these say nothing of the images that it selects.
    listing = {"discover", "list"} if any(source.limit for source in config.sources) else set()
    planned = {name: COSTS[name](sizes) for name in measured.keys() - listing}
    return Trial(
        images=images,
        measured=measured,
        planned={name: cost for name, cost in planned.items() if cost.partitions},
        on_gpu=frozenset(s.name for s in STAGES if stage_device(s, config) != "cpu"),
    )


def _read_images(run_folder: Path) -> Images:
    """Count the images by role and source, and take the means of their sizes."""
    columns = ["role", "source", "key", "size", "width", "height", "planted_from"]
    ledger = read_table(ledger_path(run_folder), columns)
    listed = ledger.filter(pc.is_null(ledger.column("planted_from")))
    named = Counter(zip(*(listed.column(c).to_pylist() for c in ("role", "source")), strict=True))
    sets = {
        role: {source: count for (of, source), count in named.items() if of == role}
        for role in ("pool", "seed", "reference", "as_is")
    }
    keys = "\n".join(listed.column("key").to_pylist()).encode()
    pixels = pc.mean(pc.multiply(listed.column("width"), listed.column("height"))).as_py()
    return Images(
        pool=sum(sets["pool"].values()),
        seeds=sets["seed"],
        references=sets["reference"],
        as_is=sets["as_is"],
        file_bytes=pc.mean(listed.column("size")).as_py(),
        pixels=pixels or 1.0,
        key_bytes=len(pa.compress(keys, codec="zstd")) / listed.num_rows,
    )
