"""The contract of a stage: it reads what it declares, and declares what it reads."""

import copy
from collections import defaultdict
from dataclasses import dataclass, replace

import pool as pools
import pytest
import toy

from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import STAGES
from dinoforge.stages.executor import make_executor
from dinoforge.stages.pipeline import make_inputs, run_stages
from dinoforge.stages.stage import Inputs, Output, UndeclaredReadError, stage_device

# Stage -> what it declares but reads only under another recipe than that of this test: retrieval
# uses the embeddings of the duplicates when no encoder of its own is set.
ONLY_SOMETIMES = {"search": {("needs", "embed")}}


def declared(stage):
    names = ("keys", "execution_keys", "needs")
    return {(kind, name) for kind in names for name in getattr(stage, kind)}


def run_whole(stage, inputs):
    for index, payload in enumerate(stage.plan(inputs.scoped(stage))):
        out = Output(inputs.run_folder, inputs.folder(stage.name), index)
        stage.run(payload, inputs.scoped(stage), out)


@dataclass
class Recorded:
    """A curation, and the keys and stages that each of its stages read."""

    config: CurationConfig
    reads: dict[str, set[tuple[str, str]]]


@pytest.fixture(scope="module")
def recorded(pool, tmp_path_factory):
    reads = defaultdict(set)

    def note_read(inputs, kind, name):
        stage = inputs.stage
        if stage is not None:
            kind = (
                "needs" if kind == "stage" else "keys" if name in stage.keys else "execution_keys"
            )
            reads[stage.name].add((kind, name))

    out = tmp_path_factory.mktemp("contract") / "run"
    config = pools.recipe(pool.sources, out, "retrieve.encoder=pixels_centered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inputs, "note_read", note_read)
        pools.curated(config)
    return Recorded(config, reads)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_of_the_curation_reads_exactly_what_it_declares(recorded, stage):
    unread = ONLY_SOMETIMES.get(stage.name, set())
    assert recorded.reads[stage.name] == declared(stage) - unread


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_that_declares_one_name_less_fails(recorded, stage):
    config = recorded.config
    inputs = make_inputs("curation", STAGES, pools.Path(config.out), config)
    for kind, name in declared(stage) - ONLY_SOMETIMES.get(stage.name, set()):
        less = copy.copy(stage)
        setattr(less, kind, tuple(other for other in getattr(stage, kind) if other != name))
        with pytest.raises(UndeclaredReadError, match=rf"stage {stage.name} reads "):
            run_whole(less, inputs)


class ReadsAnotherKey(toy.Keep):
    def run(self, payload, inputs, out):
        return super().run(payload, inputs, out) | {"numbers": inputs.config.numbers}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (ReadsAnotherKey(), "stage keep reads the recipe key numbers: add it to `keys`"),
        (replace(toy.Keep(), needs=()), "stage keep reads stage square: add it to `needs`"),
    ],
)
def test_an_undeclared_read_stops_the_run(tmp_path, stage, message):
    stages, config = (toy.Square(), stage), toy.ToyConfig()
    with pytest.raises(UndeclaredReadError, match=message):
        run_stages("toy", stages, tmp_path, config, make_executor("in-process"))


def test_the_kind_of_machine_depends_on_the_stage_and_the_device():
    config = CurationConfig(device="cuda")
    on_gpu = {stage.name for stage in STAGES if stage_device(stage, config) != "cpu"}
    assert on_gpu == {"embed", "embed-meaning", "graph", "search"}
    assert {stage_device(stage, CurationConfig()) for stage in STAGES} == {"cpu"}


def test_execution_keys_are_not_part_of_the_fingerprint(tmp_path):
    stages, executor = (toy.Square(), toy.Keep()), make_executor("in-process")
    first = run_stages("toy", stages, tmp_path, toy.ToyConfig(), executor)
    changed = replace(toy.ToyConfig(), pause_s=0.001)
    second = run_stages("toy", stages, tmp_path, changed, executor)
    assert second["square"].fingerprints == first["square"].fingerprints
    assert second["square"].num_run == 0
