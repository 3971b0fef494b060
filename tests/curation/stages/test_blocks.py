"""Tables of all images are made a block at a time, and do not depend on the blocks."""

import shutil

import numpy as np
import pytest

from dinoforge import tables
from dinoforge.config import config_of
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.stages import decontaminate, select
from dinoforge.curation.stages.duplicates import components, exact
from dinoforge.curation.stages.export import ExportStage
from dinoforge.curation.stages.filter import FilterStage
from dinoforge.curation.stages.ingest import IngestStage
from dinoforge.curation.stages.select import SelectStage
from dinoforge.curation.stages.survivors import SurvivorsStage
from dinoforge.runs import read_recipe
from dinoforge.stages import make_inputs
from dinoforge.stages.stage import Output
from dinoforge.tables import read_table


@pytest.fixture(params=["calm", "kept_run"])
def run(request):
    return request.getfixturevalue(request.param)


def test_small_blocks_give_the_same_tables(run, tmp_path, monkeypatch):
    run = shutil.copytree(run, tmp_path / "run")
    inputs = make_inputs("curation", STAGES, run, config_of(CurationConfig, read_recipe(run)))
    monkeypatch.setattr(tables, "BLOCK_ROWS", 7)
    monkeypatch.setattr(components, "BLOCK_ROWS", 7)
    monkeypatch.setattr(components, "BATCH_IMAGES", 3)
    monkeypatch.setattr(select, "SHUFFLED_ROWS", 5)
    monkeypatch.setattr(exact, "RANGE_ROWS", 11)
    monkeypatch.setattr(decontaminate, "_BLOCK_ROWS", 11)
    for stage, payload in (
        (IngestStage(), {}),
        (FilterStage(), {}),
        (exact.ExactStage(), {}),
        (components.ComponentsStage(), {}),
        (decontaminate.DecontaminateStage(), {}),
        (SurvivorsStage(), {}),
        (SelectStage(), {}),
        (ExportStage(), {"ledger": True}),
    ):
        out = Output(run, run / "again", 0)
        out.folder.mkdir(exist_ok=True)
        facts = stage.run(payload, inputs.scoped(stage), out)
        assert facts == inputs.facts(stage.name)[0]
        for path in [run / entry["path"] for entry in out.written]:
            there = inputs.folder(stage.name) / path.name
            if path.suffix == ".npy":
                np.testing.assert_array_equal(np.load(path), np.load(there))
            elif path.suffix == ".parquet":
                rows, rows_there = (repr(read_table(one).to_pylist()) for one in (path, there))
                assert rows == rows_there, path.name  # as text: NaN is not equal to itself
    assert not list(run.rglob(".*.tmp-*"))
