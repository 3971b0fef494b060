"""The evaluation, in order: this file is its table of contents.

Features are extracted once for each model and data set; protocols are cheap later stages, and
records come last, so that a changed protocol extracts nothing.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np

from dinoforge.encoders.make import make_encoder
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import EvaluationConfig, protocols_for
from dinoforge.evaluation.data import NothingToTestError
from dinoforge.evaluation.features import open_extractor
from dinoforge.evaluation.models import find_models
from dinoforge.evaluation.protocols.collapse import CollapseStage
from dinoforge.evaluation.protocols.copies import CopiesStage
from dinoforge.evaluation.protocols.depth import DepthStage
from dinoforge.evaluation.protocols.few_shot import FewShotStage
from dinoforge.evaluation.protocols.in_context import InContextStage
from dinoforge.evaluation.protocols.instances import InstancesStage
from dinoforge.evaluation.protocols.knn import KnnStage
from dinoforge.evaluation.protocols.linear import LinearStage, LinearV1Stage
from dinoforge.evaluation.protocols.logistic import LogisticStage
from dinoforge.evaluation.protocols.low_shot import LowShotStage
from dinoforge.evaluation.protocols.ranking import RankingStage
from dinoforge.evaluation.protocols.segmentation import SegmentationStage
from dinoforge.evaluation.protocols.soft_nn import SoftNnStage
from dinoforge.evaluation.protocols.video.attention import AttentionStage
from dinoforge.evaluation.protocols.video.clips import ClipsStage
from dinoforge.evaluation.protocols.video.discovery import DiscoveryStage
from dinoforge.evaluation.protocols.video.propagation import PropagationStage
from dinoforge.evaluation.scores import list_left_out
from dinoforge.evaluation.stages.digest import DigestStage
from dinoforge.evaluation.stages.features import FeaturesStage
from dinoforge.evaluation.stages.leakage import (
    LeakageStage,
    TrainingImagesStage,
    TrainingVectorsStage,
    write_leaked,
)
from dinoforge.evaluation.stages.listing import ListStage
from dinoforge.evaluation.stages.models import ModelsStage
from dinoforge.evaluation.stages.protocol import ProtocolStage
from dinoforge.evaluation.stages.records import RecordsStage
from dinoforge.evaluation.tables import EvaluationStage, read_items, read_undecodable
from dinoforge.records import Record, read_records, write_records
from dinoforge.remote import is_url
from dinoforge.runs import record_facts
from dinoforge.sources.accounting import Account, merge_problems, name_undecodable, write_problems
from dinoforge.sources.discover import discover_files
from dinoforge.stages import Executor, Pipeline, make_inputs, run_pipeline

__all__ = ["PIPELINE", "PROTOCOL_STAGES", "STAGES", "evaluate"]

_log = logging.getLogger(__name__)

PROTOCOL_STAGES: tuple[ProtocolStage, ...] = (
    KnnStage(),  # 30  weighted k-NN
    LogisticStage(),  # 31  logistic regression, C chosen on held-out images
    FewShotStage(),  # 32  k-NN with few images per class, several draws
    LinearStage(),  # 33  the linear grid, one head chosen
    LinearV1Stage(),  # 34  one linear head, of the best epoch
    LowShotStage(),  # 35  logistic regression on few images per class, several splits
    SoftNnStage(),  # 36  all labeled images vote by their similarity, as in PAWS
    CollapseStage(),  # 39  signs of collapse, without labels
    SegmentationStage(),  # 40  dense heads on the tokens of the last blocks
    InContextStage(),  # 41  classes of the nearest labeled patches, without training
    DepthStage(),  # 42  dense heads that vote for depths
    PropagationStage(),  # 60  labels of a video's first frame propagated
    AttentionStage(),  # 61  attention maps against masks
    DiscoveryStage(),  # 62  LOST and TokenCut, one box per image
    ClipsStage(),  # 63  videos classified by features of their frames
    RankingStage(),  # 70  ranked lists: Oxford and Paris, groups, classes
    InstancesStage(),  # 71  recognition of instances among distractors
    CopiesStage(),  # 72  copy detection
)

STAGES: tuple[EvaluationStage, ...] = (
    ListStage(),  # 10  data sets -> images, classes, bank and test images
    DigestStage(),  # 12  what the images are: hashes of their bytes
    ModelsStage(),  # 14  which models, and their weights as they are now
    FeaturesStage(PROTOCOL_STAGES),  # 20  every model on every image, once
    *PROTOCOL_STAGES,
    TrainingImagesStage(),  # 76  what the models were trained on, if the recipe names it
    TrainingVectorsStage(),  # 78  copy descriptors of those images
    LeakageStage(),  # 80  test images looked up among them
    RecordsStage([stage.name for stage in PROTOCOL_STAGES]),  # 90  differences and intervals
)


def evaluate(config: EvaluationConfig, folder: Path, executor: Executor) -> list[Record]:
    """Measure every record that a recipe names, continuing where an earlier start stopped.

    Writes ``records.jsonl`` into the run folder: the same bytes whatever the executor, since it
    holds no times. Returns the records: accuracies, differences of models, signs of collapse.

    Raises
    ------
    UsageError
        If there are no images, none decodes, or a checkpoint, encoder or device is missing; a
        `NothingToTestError` if they are too few to measure anything.
    """
    records: list[Record] = run_pipeline(PIPELINE, folder, config, executor)
    return records


def _check(config: EvaluationConfig) -> None:
    for model in find_models(config):
        open_extractor(model, device="cpu")
    if config.leakage.curation:  # looked up last, after hours of features
        discover_files([path for path in config.leakage.curation if not is_url(path)])
        make_encoder(config.leakage.encoder)


def _finish(folder: Path, config: EvaluationConfig) -> list[Record]:
    inputs = make_inputs(PIPELINE.name, STAGES, folder, config)
    files = inputs.files("records", "records.jsonl")
    by_set = {
        facts["name"]: read_records(file)
        for file, facts in zip(files, inputs.facts("records"), strict=True)
    }
    records = [record for some in by_set.values() for record in some]
    write_records(folder / "records.jsonl", records)
    write_leaked(inputs, folder / "leaked.csv")
    _log.info("%d records in %s", len(records), folder / "records.jsonl")
    _account(folder, config, inputs.folders)
    lines = [
        line
        for name, some in by_set.items()
        for line in list_left_out(some, protocols_for(config, name))
    ]
    if not records:
        raise NothingToTestError(
            what=f"nothing was measured: {'; '.join(lines)}",
            where="`protocols`",
            do="give what they need, or other protocols",
        )
    for line in lines:
        _log.info("%s", line)
    return records


def _account(folder: Path, config: EvaluationConfig, done: Collection[str]) -> None:
    """Record and log what the sources gave, as far as the stages that are done know it."""
    if "list" not in done:
        return  # a set that cannot be arranged is accounted for there
    inputs = make_inputs(PIPELINE.name, STAGES, folder, config)
    listed = inputs.facts("list")
    problems = merge_problems(facts["problems"] for facts in listed)
    undecodable = [
        entry
        for at in range(len(listed) if "features" in done else 0)
        for entry in name_undecodable(
            read_items(inputs, at).table,
            dict.fromkeys(np.flatnonzero(read_undecodable(inputs, at)).tolist(), ""),
        )
    ]
    images = sum(facts["images"] for facts in listed)
    sets = (read_items(inputs, at) for at in range(len(listed)))
    failed = sum((items.not_downloaded for items in sets), Counter[str]())
    account = Account.of(images, problems, undecodable=len(undecodable), not_downloaded=failed)
    account.log()
    with contextlib.suppress(UsageError):  # a full disk is reported by what needs it
        record_facts(folder, sources=account.as_json())
        write_problems(folder, [*problems, *undecodable])


def _reopen(folder: Path) -> None:
    for name in ("records.jsonl", "leaked.csv"):
        (folder / name).unlink(missing_ok=True)


# `slurm` imports it by this name: jobs on other machines run the same stages.
PIPELINE = Pipeline(
    name="evaluation",
    stages=STAGES,
    config=EvaluationConfig,
    check=_check,
    reopen=_reopen,
    finish=_finish,
    account=_account,
)
