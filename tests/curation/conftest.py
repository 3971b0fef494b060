"""The tables of the finished curation that these tests share."""

import shutil
from types import SimpleNamespace

import numpy as np
import pool as pools
import pytest

from dinoforge.cli.main import main
from dinoforge.curated import ROLES
from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.tables import read_content, read_embeddings, read_screened
from dinoforge.stages import make_inputs


@pytest.fixture(scope="session")
def inputs(pool, calm):
    """Unrestricted inputs of the finished curation."""
    return make_inputs("curation", STAGES, calm, pools.recipe(pool.sources, calm))


@pytest.fixture(scope="session")
def cosines(inputs):
    """Cosine of every two images ``[n, n]`` and what decides which of them are compared."""
    screened, content = read_screened(inputs), read_content(inputs)
    rows = read_embeddings(inputs, "embed", np.arange(len(content))).astype(np.float64)
    return SimpleNamespace(
        similarity=rows @ rows.T,
        content=content,
        role=np.array(ROLES)[screened.role],
        admitted=screened.reason < 0,
        joined=[np.load(inputs.file("exact", f"{side}.npy")) for side in ("images", "references")],
    )


@pytest.fixture(scope="session")
def kept_run(pool, tmp_path_factory):
    """A balanced run without seeds, a source to be kept untouched and an image taken down."""
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(pool.folder / "seeds", folder / "as_is")
    sources = [
        {"role": "as_is", "paths": [str(folder / "as_is")]},
        {"role": "pool", "paths": [str(pool.folder / "pool")]},
    ]
    run = folder / "run"
    balance = ("balance.target=70", "balance.levels=[20,5]")
    pools.curated(pools.recipe(sources, run, "retrieve.mode=none", *balance))
    image = next(row["image_id"] for row in pools.ledger(run) if row["reason"] == "kept")
    assert main(["takedown", str(run), str(image), "--reason", "asked by the owner"]) == 0
    return run
