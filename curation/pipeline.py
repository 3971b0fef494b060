"""The curation, in order: this file is its table of contents.

Every stage is one module, reads tables of earlier stages and writes its own; policies come late, so
a changed threshold reruns only what is below it here.
"""

import contextlib
import logging
from collections.abc import Collection
from pathlib import Path

from dinoforge.curated import find_base, quality_page
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.increments import check_base, check_base_unchanged
from dinoforge.curation.publish import publish, unpublish
from dinoforge.curation.quality.page import write_page
from dinoforge.curation.scores import check_scores
from dinoforge.curation.stages.balance import BalanceStage
from dinoforge.curation.stages.clusters import (
    ClustersStage,
    PoolClustersStage,
    SeedClustersStage,
    remove_work,
)
from dinoforge.curation.stages.decontaminate import DecontaminateStage
from dinoforge.curation.stages.discover import DiscoverStage
from dinoforge.curation.stages.duplicates.candidates import CandidatesStage
from dinoforge.curation.stages.duplicates.cells import AssignStage, CellsStage
from dinoforge.curation.stages.duplicates.check import CheckStage
from dinoforge.curation.stages.duplicates.components import ComponentsStage
from dinoforge.curation.stages.duplicates.exact import ExactStage
from dinoforge.curation.stages.duplicates.graph import GraphStage
from dinoforge.curation.stages.duplicates.keypoints import KeypointsStage
from dinoforge.curation.stages.duplicates.proposals import ProposalsStage
from dinoforge.curation.stages.duplicates.recall import RecallStage
from dinoforge.curation.stages.duplicates.verify import VerifyStage
from dinoforge.curation.stages.duplicates.votes_index import VotesIndexStage
from dinoforge.curation.stages.embed import (
    EmbedMeaningStage,
    EmbedStage,
    EmbedWindowsStage,
    check_encoders,
    encoder_fingerprint,
)
from dinoforge.curation.stages.exclude import ExcludeStage
from dinoforge.curation.stages.export import ExportStage, remove_foreign_shards
from dinoforge.curation.stages.filter import FilterStage, check_condition, stop_if_too_many_bad
from dinoforge.curation.stages.ingest import IngestStage, check_folders
from dinoforge.curation.stages.inspect import InspectStage
from dinoforge.curation.stages.list import ListStage
from dinoforge.curation.stages.measures.score import ScoreStage, check_scorers
from dinoforge.curation.stages.measures.side import SideStage
from dinoforge.curation.stages.measures.side_tables import SideTablesStage
from dinoforge.curation.stages.plant import PlantStage
from dinoforge.curation.stages.retrieve import RetrieveStage
from dinoforge.curation.stages.search import SearchStage
from dinoforge.curation.stages.select import SelectStage
from dinoforge.curation.stages.survivors import SurvivorsStage
from dinoforge.curation.stored.background import check_background
from dinoforge.curation.stored.side_tables import check_tables
from dinoforge.curation.summary import CurationSummary, describe_unlabeled, make_account, summarize
from dinoforge.curation.tables import CurationStage
from dinoforge.curation.upload import check_target, upload_published
from dinoforge.errors import UsageError
from dinoforge.neighbors.products import refuse_two_faiss, require_faiss
from dinoforge.runs import Run, read_facts, record_facts
from dinoforge.sources.accounting import Account
from dinoforge.sources.streams import copy_streams
from dinoforge.stages import Executor, Pipeline, make_inputs, run_pipeline
from dinoforge.verification.features import opencv

__all__ = ["PIPELINE", "STAGES", "curate"]

_log = logging.getLogger(__name__)

STAGES: tuple[CurationStage, ...] = (
    DiscoverStage(),  # 05  sources -> files
    ListStage(),  # 07  files -> images, from the headers of tars
    IngestStage(),  # 10  one index of all sources; bytes stay where they are
    PlantStage(),  # 15  edited copies whose truth is known (off by default)
    InspectStage(),  # 20  decode once: hashes, size, gray spread, why not
    SideStage(),  # 22  what lies beside the images: URLs, captions, scores of others
    ScoreStage(),  # 23  what the recipe has scored, for conditions
    SideTablesStage(),  # 24  columns of tables for them: the metadata of DataComp
    FilterStage(),  # 25  policy: which images are admitted
    EmbedStage(),  # 30  embeddings that measure "same picture"
    EmbedMeaningStage(),  # 31  embeddings that measure "similar content", if others are set
    EmbedWindowsStage(),  # 32  the same of windows of a picture, if they propose pairs
    ExactStage(),  # 35  the same pixels are one content
    CellsStage(),  # 36  centroids, if the join is by cells
    AssignStage(),  # 37  the nearest cells of each image; images sorted by cell
    GraphStage(),  # 40  all pairs of contents above a floor
    RecallStage(),  # 41  how many pairs the join by cells misses
    KeypointsStage(),  # 42  local features, if pairs are compared on their pixels
    VotesIndexStage(),  # 43  an index of the features that vote
    ProposalsStage(),  # 44  per picture: votes of local features, nearest embeddings
    CandidatesStage(),  # 45  the pairs to compare
    VerifyStage(),  # 46  candidates aligned and compared on their pixels
    ComponentsStage(),  # 50  policy: pairs above the threshold -> groups -> which image is kept
    CheckStage(),  # 55  were the planted copies found?
    DecontaminateStage(),  # 60  policy: what shows a reference image goes
    SurvivorsStage(),  # 62  seeds and pool images that are left
    SearchStage(),  # 65  nearest survivors of every seed
    ClustersStage(),  # 66  levels of clusters of the survivors, if they are balanced
    PoolClustersStage(),  # 67  clusters of the survivors, if rules retrieve from them
    SeedClustersStage(),  # 68  the cluster of every seed
    ExcludeStage(),  # 69  the nearest examples of what rules exclude
    RetrieveStage(),  # 70  policy: which seed gets which neighbor
    BalanceStage(),  # 72  policy: how many images each cluster keeps, and which
    SelectStage(),  # 75  one decision per image, and the shards
    ExportStage(),  # 80  shards by copying bytes, and the ledger
)


def curate(config: CurationConfig, run: Run, executor: Executor) -> CurationSummary:
    """Run a curation to its end, continuing where it stopped.

    Results are in ``<run>/published`` and ``<run>/shards`` of the open run, and do not depend on
    the executor. The summary is also written to ``<run>/published/summary.json``.

    Raises
    ------
    UsageError
        Before anything is read: sources missing below `data.root`, a missing encoder or device,
        both FAISS packages, or none for a join by cells or for votes, no OpenCV to compare pixels,
        a base that does not fit. Later: no
        images, too many that do not decode (if none does, the ledger is written first), or a base
        that has changed meanwhile.
    """
    for source in config.sources:
        copy_streams(source.paths, run.folder)
    summary: CurationSummary = run_pipeline(PIPELINE, run.folder, config, executor)
    return summary


def _check(config: CurationConfig) -> None:
    check_folders(config)
    refuse_two_faiss()
    compares_pixels = config.duplicates.verify.mode == "pixels"
    if compares_pixels:
        opencv()
    if config.duplicates.join == "cells" or (compares_pixels and config.duplicates.verify.votes):
        require_faiss()
    check_encoders(config)
    if config.duplicates.background:
        fingerprint = encoder_fingerprint(config.duplicates.encoder, config.precision)
        check_background(config, fingerprint)
    check_scores(config)
    check_scorers(config)
    check_tables(config)
    if config.publish.to:
        check_target(config.publish.to)
    check_condition(config)
    check_base(config, STAGES)


def _finish(run_folder: Path, config: CurationConfig) -> CurationSummary:
    inputs = make_inputs(PIPELINE.name, STAGES, run_folder, config)
    if base := find_base(run_folder, config.base):
        check_base_unchanged(base, inputs)
    remove_foreign_shards(inputs)
    remove_work(inputs)
    summary = summarize(inputs)
    publish(inputs, summary)
    if config.scores and not quality_page(run_folder).exists():
        write_page(inputs, summary)
    shards = f"{summary.shards} shard{'' if summary.shards == 1 else 's'}"
    _log.info("kept %d of %d images in %s", summary.kept, summary.images, shards)
    if summary.base:
        _log.info(
            "generation %d: compared with %d images of earlier ones; duplicates of these: %d",
            *(summary.base["generation"], summary.base["images"], summary.base["duplicates"]),
        )
    _account(run_folder, config, inputs.folders)
    for name, leaks in summary.leaks["references"].items():
        _log.info(
            "reference %s: %d of %d images occur; %d images dropped (direct %d, by component %d)",
            *(name, leaks["images_hit"], leaks["images"], leaks["dropped"]),
            *(leaks["images_direct"], leaks["images_by_component"]),
        )
    if unlabeled := describe_unlabeled(inputs):
        _log.info("images without a label: %s", unlabeled)
    for remark in summary.remarks:
        _log.warning("%s", remark)
    stop_if_too_many_bad(summary.undecodable, summary.images, config.max_bad_rate)
    if config.publish.to:
        upload_published(run_folder, config.publish.to)
    return summary


def _reopen(run_folder: Path) -> None:
    quality_page(run_folder).unlink(missing_ok=True)
    unpublish(run_folder)


def _account(run_folder: Path, config: CurationConfig, done: Collection[str]) -> None:
    """Record and log what the sources gave, as far as the stages that are done know it."""
    if "ingest" in done:
        account = make_account(make_inputs(PIPELINE.name, STAGES, run_folder, config), done)
    elif (recorded := Account.recorded(read_facts(run_folder))) is not None:
        account = recorded  # by ingest, which has stopped
    else:
        return
    with contextlib.suppress(UsageError):  # a full disk is reported by what needs it
        record_facts(run_folder, sources=account.as_json())
    account.log()


# `slurm` imports it by this name: jobs on other machines run the same stages.
PIPELINE = Pipeline(
    name="curation",
    stages=STAGES,
    config=CurationConfig,
    check=_check,
    reopen=_reopen,
    finish=_finish,
    account=_account,
)
