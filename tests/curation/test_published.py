"""Recipes but for `lvd142m`: their own rules on toy pools, and plans of published data sets."""

import io
import json
import re
import tarfile
from collections import Counter

import numpy as np
import pool as pools
import pytest
import yaml
from PIL import Image
from waves import draw

from dinoforge.cli.main import main
from dinoforge.config import find_recipe, load_config
from dinoforge.curated import parts_path, summary_path
from dinoforge.curation.config import CurationConfig
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.curated_parts import resolve_parts

SMALL = ("device=cpu", "duplicates.encoder=pixels", "retrieve.encoder=pixels")


def write_pictures(folder, concepts, first):
    folder.mkdir(parents=True)
    for number, concept in enumerate(concepts, first):
        Image.fromarray(draw(concept, number)).save(folder / f"{number:04d}.png")


def curate(name, root, out, *changes):
    changes = [f"data.root={root}", f"out={out}", *SMALL, *changes]
    pools.curated(load_config(CurationConfig, find_recipe("curation", name), changes))
    return json.loads(summary_path(out).read_text())


@pytest.fixture(scope="module")
def lvd1689m(tmp_path_factory):
    """A pool in which one concept of four has most pictures; five levels of clusters."""
    root = tmp_path_factory.mktemp("lvd1689m")
    write_pictures(root / "crawl", [0] * 120 + [1, 2, 3] * 20, 0)
    sets = {"imagenet1k/train": [0] * 4, "imagenet22k": [1] * 4, "mapillary_sls/train": [2] * 3}
    for number, (name, concepts) in enumerate(sets.items(), 1):
        write_pictures(root / name, concepts, 1000 * number)
    levels = ("balance.levels=[40,20,10,6,4]", "balance.split=[4,2]", "balance.target=60")
    run = root / "run"
    summary = curate("lvd1689m", root, run, *levels, "balance.iterations=10")
    return run, summary


def test_lvd1689m_balances_what_no_seed_retrieved_by_five_levels(lvd1689m):
    run, summary = lvd1689m
    rows = pools.ledger(run)
    reasons = Counter(row["reason"] for row in rows)
    assert reasons["as_is"] == 11
    assert reasons["kept"] == 60
    assert len(summary["balance"]["levels"]) == 5
    of_first = [int(row["key"]) < 120 for row in rows if row["reason"] == "kept"]
    assert np.mean(of_first) < 0.5  # two thirds of the crawl
    names = {part["name"] for part in json.loads(parts_path(run).read_text())}
    sets = {"crawl", "imagenet1k", "imagenet22k", "mapillary_sls"}
    assert names == sets | {"like_imagenet1k", "like_imagenet22k"}


def test_the_mixture_in_the_comment_of_lvd1689m_trains_on_its_parts(lvd1689m):
    run, _ = lvd1689m
    text = find_recipe("curation", "lvd1689m").read_text().partition("\n#data:")[2]
    section = re.sub("^#", "", f"#data:{text}", flags=re.MULTILINE)
    parts = yaml.safe_load(section)["data"]["parts"]
    toy = json.dumps([part | {"run": str(run)} for part in parts])
    config = resolve_parts(load_config(TrainingConfig, None, [f"data.parts={toy}", "out=x"]))
    shares = {part.name: part.weight for part in config.data.parts}
    assert sum(shares.values()) == pytest.approx(1)
    assert (shares["imagenet1k"], shares["crawl"]) == (0.1, 0.8)
    homogeneous = [part.name for part in config.data.parts if part.batches == "homogeneous"]
    assert homogeneous == ["imagenet1k"]
    assert len(shares) == 6


def test_datacomp_keeps_the_clusters_of_its_seeds_out_of_shards_of_img2dataset(tmp_path):
    write_pictures(tmp_path / "imagenet1k/train", [0, 1], 5000)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "commonpool/shards").mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(tmp_path / f"commonpool/shards/{shard:05d}.tar", "w") as tar:
            for number in range(40):
                key, picture = f"{shard:05d}{number:04d}", io.BytesIO()
                Image.fromarray(draw(number % 4, 40 * shard + number)).save(picture, "PNG")
                for suffix, data in {"jpg": picture.getvalue(), "txt": b"a", "json": b"{}"}.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        (tmp_path / f"commonpool/shards/{shard:05d}_stats.json").write_text("{}")
    Image.fromarray(draw(0, 0)).save(tmp_path / "evaluation/leaked.png")
    toy = ("retrieve.clusters=4", "decontaminate.threshold=0.999", "balance.iterations=10")
    curate("datacomp", tmp_path, tmp_path / "run", *toy)
    rows = [row for row in pools.ledger(tmp_path / "run") if row["role"] == "pool"]
    assert len(rows) == 80
    reasons = {
        concept: {row["reason"] for row in rows if int(row["key"][-4:]) % 4 == concept}
        for concept in range(4)
    }
    assert reasons[0] == {"retrieved", "leak"}
    assert reasons[1] == {"retrieved"}
    assert reasons[2] == reasons[3] == {"not_retrieved"}


def test_small_cleans_a_folder_and_then_balances_or_retrieves(tmp_path):
    pytest.importorskip("cv2", reason="pairs are compared on their pixels")
    write_pictures(tmp_path / "photographs", [0] * 40 + [1, 2, 3] * 8, 0)
    write_pictures(tmp_path / "examples", [1], 100)
    (tmp_path / "benchmark").mkdir()
    for number, name in {0: "benchmark/leaked.png", 50: "photographs/copy.bmp"}.items():
        picture = Image.open(tmp_path / f"photographs/{number:04d}.png")
        picture.save(tmp_path / name)
    sources = [("pool", "photographs"), ("reference", "benchmark"), ("seed", "examples")]
    rows = [{"role": role, "paths": [str(tmp_path / name)]} for role, name in sources]

    def reasons(out, rows, *changes):
        given = ("duplicates.threshold=0.999", "decontaminate.threshold=0.999", *changes)
        curate("small", "", tmp_path / out, f"sources={json.dumps(rows)}", *given)
        return Counter(row["reason"] for row in pools.ledger(tmp_path / out))

    cleaned = {"exact_duplicate": 1, "leak": 1, "reference": 1}
    balanced = reasons("balanced", rows[:2], "balance.target=20", "balance.levels=[8,4]")
    assert balanced == cleaned | {"kept": 20, "not_balanced": 43}
    retrieved = reasons("retrieved", rows, "retrieve.mode=seeds")
    assert retrieved == cleaned | {"seed": 1, "retrieved": 16, "not_retrieved": 47}


@pytest.mark.parametrize(
    ("words", "exported"),
    [(["lvd1689m"], 1_689_000_000 + 16_912_515), (["datacomp", "--images", "12.8e6"], 12_800_000)],
)
def test_a_published_recipe_is_planned_without_its_data(words, exported, capsys):
    assert main(["plan", *words, "--gpu", "h100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exported"] == exported
