"""The tables of the finished curation that these tests share."""

from types import SimpleNamespace

import numpy as np
import pool as pools
import pytest

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
