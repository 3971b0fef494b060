"""Shards from any sources, in order: this file is its table of contents."""

import contextlib
import logging
from collections.abc import Collection
from pathlib import Path

from dinoforge.curated import shards_folder
from dinoforge.curation.sharding.config import ShardingConfig
from dinoforge.curation.sharding.discover import DiscoverStage, source_paths
from dinoforge.curation.sharding.ids import check_ids
from dinoforge.curation.sharding.index import IndexStage
from dinoforge.curation.sharding.order import OrderStage
from dinoforge.curation.sharding.page import page_file, write_page
from dinoforge.curation.sharding.scatter import ScatterStage, remove_scattered
from dinoforge.curation.sharding.summary import (
    ShardingSummary,
    count_failed,
    read_problems,
    summarize,
    summary_file,
)
from dinoforge.curation.sharding.tables import ShardingInputs, ShardingStage
from dinoforge.curation.sharding.verify import VerifyStage
from dinoforge.curation.sharding.write import WriteStage, remove_foreign_files
from dinoforge.curation.upload import check_target, upload_published
from dinoforge.errors import UsageError
from dinoforge.files import write_json
from dinoforge.pages.formatting import counted
from dinoforge.remote import is_url
from dinoforge.remote.urls import is_stream
from dinoforge.runs import record_facts
from dinoforge.sources.accounting import Account, write_problems
from dinoforge.sources.classes import write_class_list
from dinoforge.sources.discover import discover_files
from dinoforge.stages import Pipeline, make_inputs

__all__ = ["PIPELINE", "STAGES"]

_log = logging.getLogger(__name__)

STAGES: tuple[ShardingStage, ...] = (
    DiscoverStage(),  # 10  sources -> tars, and files by stem
    IndexStage(),  # 20  samples: keys, and where the bytes of their members are
    OrderStage(),  # 30  which samples, under which keys, in which order; where shards end
    ScatterStage(),  # 40  for a random order: sources read once, sorted by place
    WriteStage(),  # 50  shards, checksum files, tables
    VerifyStage(),  # 60  if asked for: shards read again
)


def _check(config: ShardingConfig) -> None:
    run_folder = Path(config.out)
    shards = shards_folder(run_folder)
    # Shards of an earlier recipe are removed; those of anybody else are not ours to remove.
    if not (run_folder / PIPELINE.name).is_dir() and shards.is_dir() and any(shards.iterdir()):
        raise UsageError(
            what="the folder holds files that `dinoforge shard` did not write",
            where=str(shards),
            do="choose another folder with out=FOLDER",
        )
    paths = source_paths(config)
    if local := [path for path in paths if not (is_url(path) or is_stream(path))]:
        discover_files(local)
    check_ids(config.ids)
    if config.publish.to:
        check_target(config.publish.to)


def _reopen(run_folder: Path) -> None:
    summary_file(run_folder).unlink(missing_ok=True)
    page_file(run_folder).unlink(missing_ok=True)


def _inputs(run_folder: Path, config: ShardingConfig) -> ShardingInputs:
    return make_inputs(PIPELINE.name, STAGES, run_folder, config)


def _finish(run_folder: Path, config: ShardingConfig) -> ShardingSummary:
    inputs = _inputs(run_folder, config)
    remove_scattered(inputs)
    summary = summarize(inputs)
    remove_foreign_files(run_folder, {shard["shard"] for shard in summary.shards})
    names = {int(number): name for number, name in summary.classes.items()}
    write_class_list(shards_folder(run_folder), names)
    write_page(inputs, summary)
    write_json(summary_file(run_folder), summary.as_json())
    chosen = f"{summary.samples:,} of {counted(summary.samples_in, 'sample')}"
    _log.info("%s in %s", chosen, counted(len(summary.shards), "shard"))
    if summary.ids.get("unmatched"):
        _log.warning(
            "%d of %d ids match no sample", summary.ids["unmatched"], summary.ids["listed"]
        )
    _account(run_folder, config, inputs.folders)
    if config.publish.to:
        upload_published(run_folder, config.publish.to)
    return summary


def _account(run_folder: Path, config: ShardingConfig, done: Collection[str]) -> None:
    """Record and log what the sources gave, as far as the stages that are done know it."""
    if "index" not in done:
        return
    inputs = _inputs(run_folder, config)
    problems = read_problems(inputs)
    samples = sum(facts["samples"] for facts in inputs.facts("index"))
    account = Account.of(samples, problems, not_downloaded=count_failed(inputs))
    with contextlib.suppress(UsageError):  # a full disk is reported by what needs it
        record_facts(run_folder, sources=account.as_json())
        write_problems(run_folder, problems)
    account.log()


# `slurm` imports it by this name: jobs on other machines run the same stages.
PIPELINE = Pipeline(
    name="sharding",
    stages=STAGES,
    config=ShardingConfig,
    check=_check,
    reopen=_reopen,
    finish=_finish,
    account=_account,
)
