"""The representative by rule: the same picture in several files, another one stays each time."""

import json

import numpy as np
import pool as pools
import pytest
from PIL import Image

from dinoforge.config import load_config
from dinoforge.curated import summary_path
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.explain import explain


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sources a (large, coarse; exact copy of it) and b (smaller: PNG, fine JPEG)."""
    root = tmp_path_factory.mktemp("prefer")
    colors = np.random.default_rng(5).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    large = Image.fromarray(colors).resize((96, 96), Image.Resampling.BICUBIC)
    small = large.resize((64, 64), Image.Resampling.BICUBIC)
    for folder in "ab":
        (root / folder).mkdir()
    large.save(root / "a" / "large.jpg", quality=40)
    (root / "a" / "copy.jpg").write_bytes((root / "a" / "large.jpg").read_bytes())
    small.save(root / "b" / "plain.png")
    small.save(root / "b" / "fine.jpg", quality=90)
    (root / "scores.csv").write_text("key,score\nfine,0.9\nlarge,0.2\n")
    return root


def kept(root, *words):
    sources = [{"name": name, "paths": [str(root / name)]} for name in "ab"]
    given = [f"sources={json.dumps(sources)}", f"out={root / 'run'}", "duplicates.threshold=0.9"]
    pools.curated(load_config(CurationConfig, None, [*given, *words]), on_change="update")
    rows = pools.ledger(root / "run")
    assert len({row["component"] for row in rows}) == 1
    return {row["key"] for row in rows if row["decision"] == "kept"}


def test_the_representative_is_chosen_by_the_criteria_in_order(pictures):
    by_score = ["duplicates.prefer=[score]", f"duplicates.scores={pictures / 'scores.csv'}"]
    by_source = ["duplicates.prefer=[source, least_recompressed]", "duplicates.prefer_sources=[b]"]
    assert kept(pictures) == {"copy"}
    assert kept(pictures, "duplicates.prefer=[least_recompressed]") == {"plain"}
    assert kept(pictures, *by_score) == {"fine"}
    (pictures / "scores.csv").write_text("key,score\nfine,0.9\nlarge,2\n")
    assert kept(pictures, *by_score) == {"large"}, "a changed file runs the stage again"
    assert kept(pictures, *by_source) == {"plain"}
    assert explain(pictures / "run", "fine").sentences[-1] == (
        "The other image is kept because it comes first by source, least_recompressed "
        "(duplicates.prefer)."
    )


@pytest.mark.parametrize("rule", ["component", "direct"])
def test_every_source_keeps_its_best_image(pictures, rule):
    words = ["duplicates.one_per_source=true", "duplicates.prefer=[least_recompressed]"]
    assert kept(pictures, *words, f"duplicates.rule={rule}") == {"copy", "plain"}
    duplicates = json.loads(summary_path(pictures / "run").read_text())["duplicates"]
    assert (duplicates["kept_per_source"], duplicates["protected_duplicates"]) == (1, 0)
