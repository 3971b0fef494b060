"""From sources to an index, in order: this file is its table of contents."""

import contextlib
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dinoforge.clusters.layouts import require_layout
from dinoforge.demo.index.card import make_card
from dinoforge.demo.index.collection_map import MapStage
from dinoforge.demo.index.compressing import CompressStage
from dinoforge.demo.index.config import IndexConfig
from dinoforge.demo.index.embed import EmbedStage
from dinoforge.demo.index.join import JoinStage
from dinoforge.demo.index.layout import NAME, card_file
from dinoforge.demo.index.listing import ListStage
from dinoforge.demo.index.recall import RecallStage
from dinoforge.demo.index.tables import IndexInputs, IndexStage, cached_network
from dinoforge.errors import UsageError
from dinoforge.files import write_json
from dinoforge.remote import is_url
from dinoforge.runs import record_facts
from dinoforge.sources.accounting import Account, name_undecodable, write_problems
from dinoforge.sources.discover import discover_files
from dinoforge.stages import Pipeline, make_inputs
from dinoforge.tables import read_table

__all__ = ["PIPELINE", "STAGES"]

_log = logging.getLogger(__name__)

STAGES: tuple[IndexStage, ...] = (
    ListStage(),  # 10  sources -> images: keys, classes, where the bytes are
    EmbedStage(),  # 20  vectors, features of patches, regions, thumbnails
    JoinStage(),  # 30  the vectors of all images in one array, and their regions
    CompressStage(),  # 40  where these do not fit into memory: a compressed index
    RecallStage(),  # 50  how many of the exact neighbors it finds
    MapStage(),  # 60  two coordinates and a cluster per image
)


def _check(config: IndexConfig) -> None:
    require_layout(config.map.layout, "map.layout=tsne")  # before hours of embedding
    cached_network(config.encoder, "cpu", config.precision)
    if local := [path for path in config.sources if not is_url(path)]:
        discover_files(local)


def _inputs(run_folder: Path, config: IndexConfig) -> IndexInputs:
    return make_inputs(NAME, STAGES, run_folder, config)


def _finish(run_folder: Path, config: IndexConfig) -> dict[str, Any]:
    inputs = _inputs(run_folder, config)
    card = make_card(inputs)
    write_json(card_file(run_folder), card)
    _account(run_folder, config, inputs.folders)
    _log.info("%d images in %s", card["num_images"], run_folder)
    return card


def _account(run_folder: Path, config: IndexConfig, done: Collection[str]) -> None:
    """Record and log what the sources gave, as far as the stages that are done know it."""
    if "list" not in done:
        return
    inputs = _inputs(run_folder, config)
    (listed,) = inputs.facts("list")
    embedded = inputs.facts("embed") if "embed" in done else []
    undecodable = {int(at): why for facts in embedded for at, why in facts["undecodable"].items()}
    account = Account.of(
        listed["images"],
        listed["problems"],
        undecodable=len(undecodable),
        not_downloaded=listed["not_downloaded"],
    )
    table = read_table(inputs.file("list", "images.parquet"), ["shard", "member"])
    with contextlib.suppress(UsageError):  # a full disk is reported by what needs it
        record_facts(run_folder, sources=account.as_json())
        problems = [*listed["problems"], *name_undecodable(table, undecodable)]
        write_problems(run_folder, problems)
    account.log()


def _reopen(run_folder: Path) -> None:
    card_file(run_folder).unlink(missing_ok=True)


# `slurm` imports it by this name: jobs on other machines run the same stages.
PIPELINE = Pipeline(
    name=NAME,
    stages=STAGES,
    config=IndexConfig,
    check=_check,
    reopen=_reopen,
    finish=_finish,
    account=_account,
)
