"""Images that were taken down from a run: the list in its folder, and what it changes.

The list names bytes (SHA-256), so it holds however sources and ids change: the export leaves these
images, and copies that the run planted of them, out of every later start, and of every run that
adds to this one. An image that is not kept anyway is on record as taken down, too; duplicates that
it replaced do not come back.
"""

import dataclasses
import json
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.curated import REASONS, ROLES
from dinoforge.curation import tables
from dinoforge.curation.policies.decisions import Decisions
from dinoforge.curation.stored.decisions import list_shards, read_decisions
from dinoforge.curation.stored.generations import every_generation, first_id
from dinoforge.curation.tables import CurationInputs
from dinoforge.errors import damaged
from dinoforge.files import write_text

__all__ = [
    "Takedown",
    "add_takedowns",
    "apply_takedowns",
    "find_taken_down",
    "list_exported",
    "read_final_decisions",
    "read_takedowns",
    "takedowns_path",
]


@dataclass(frozen=True)
class Takedown:
    """One image that must not be exported."""

    sha256: str  # of its bytes
    key: str
    date: str  # ISO 8601
    why: str

    @property
    def detail(self) -> str:
        """Return what the ledger states."""
        return f"{self.date}: {self.why}" if self.why else self.date


def takedowns_path(run_folder: Path) -> Path:
    """Return the path of the list: JSON lines, oldest first."""
    return run_folder / "takedowns.jsonl"


def read_takedowns(run_folder: Path) -> dict[str, Takedown]:
    """Read the list by hash; empty if nothing was taken down.

    Raises
    ------
    UsageError
        If it is damaged: nothing is exported then.
    """
    path = takedowns_path(run_folder)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        takedowns = [Takedown(**json.loads(line)) for line in lines]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from error
    return {takedown.sha256: takedown for takedown in takedowns}


def add_takedowns(run_folder: Path, takedowns: Iterable[Takedown]) -> None:
    """Add to the list those that it does not have; whole or not at all."""
    known = {takedown.sha256: takedown for takedown in takedowns} | read_takedowns(run_folder)
    ordered = sorted(known.values(), key=lambda takedown: (takedown.date, takedown.sha256))
    lines = [json.dumps(asdict(takedown), ensure_ascii=False) + "\n" for takedown in ordered]
    write_text(takedowns_path(run_folder), "".join(lines))


def find_taken_down(inputs: CurationInputs) -> Mapping[int, Takedown]:
    """Return the images of a run that were taken down, by id, ascending; never a reference.

    The lists of earlier generations count, too.
    """
    lists = [read_takedowns(of_run.run_folder) for of_run in reversed(every_generation(inputs))]
    takedowns = dict(ChainMap(*lists))
    if not takedowns:
        return {}
    first = first_id(inputs)
    hashes = tables.read_facts(inputs, ["sha256"]).column("sha256")
    wanted = pa.array([bytes.fromhex(sha256) for sha256 in takedowns], pa.binary(32))
    is_reference = tables.read_roles(inputs) == ROLES.index("reference")
    ids = np.flatnonzero(pc.is_in(hashes, wanted).to_numpy() & ~is_reference)
    named = {first + row: takedowns[hashes[row].as_py().hex()] for row in ids.tolist()}
    origin = tables.read_index(inputs, ["planted_from"]).column("planted_from")
    copies = np.flatnonzero(pc.is_in(origin, pa.array(first + ids, pa.int64())).to_numpy())
    planted = {first + row: named[origin[row].as_py()] for row in copies.tolist()}
    return dict(sorted((planted | named).items()))


def read_final_decisions(inputs: CurationInputs) -> Decisions:
    """Read the decision about every image of a run, takedowns included."""
    return apply_takedowns(read_decisions(inputs), find_taken_down(inputs))


def apply_takedowns(decisions: Decisions, image_ids: Iterable[int]) -> Decisions:
    """Return the decisions about some images, of which others may have been taken down."""
    taken_down = np.array([*image_ids], np.int64) - decisions.first
    taken_down = taken_down[(taken_down >= 0) & (taken_down < len(decisions.kept))]
    names = ("kept", "reason", "copies")
    kept, reason, copies = (getattr(decisions, name).copy() for name in names)
    kept[taken_down], reason[taken_down], copies[taken_down] = False, REASONS.index("taken_down"), 0
    return dataclasses.replace(decisions, kept=kept, reason=reason, copies=copies)


def list_exported(inputs: CurationInputs) -> dict[str, int]:
    """Count the images of every shard that `export` wrote, by name; one without any has no file."""
    counts = [facts["images"] for facts in inputs.facts("export") if "images" in facts]
    names = [shard.name for shard in list_shards(inputs)]
    return {name: count for name, count in zip(names, counts, strict=True) if count}
