"""Duplicates decided on the pixels: a small curation of edited copies, and what is said of them."""

import io
import json
import shutil

import numpy as np
import pool as pools
import pytest
from optional import optional
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.config import config_of, find_recipe, load_recipe
from dinoforge.curated import summary_path, verified_folder
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.explain import explain
from dinoforge.curation.pipeline import STAGES
from dinoforge.errors import UsageError
from dinoforge.runs import read_recipe
from dinoforge.sources.photographs import write_tiles
from dinoforge.stages import Output, make_inputs
from dinoforge.tables import read_table
from dinoforge.verification import votes

optional("cv2", "verify")


def crop(image, share):
    """Cut the middle of a picture, with this share of each side."""
    width, height = image.size
    left, top = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
    return image.crop((left, top, width - left, height - top))


def recompressed(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=20)
    return Image.open(file)


def inset(image):
    """Put a picture on noise that is twice as large."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    page = Image.fromarray(noise).resize((2 * image.width, 2 * image.height))
    page.paste(image, (image.width // 2, image.height // 3))
    return page


EDITS = {
    "crop": ("brick", lambda image: crop(image, 0.6)),
    "turned": ("camera", lambda image: image.transpose(Image.Transpose.ROTATE_90)),
    "mirrored": ("grass", lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "jpeg": ("gravel", recompressed),
    "inset": ("coins", inset),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs, five edits of them, a leak in a benchmark, two copies too small to compare."""
    folder = tmp_path_factory.mktemp("photographs")
    tiles = write_tiles(folder / "tiles", tile=160, stride=1000)
    paths = sorted(tiles.pool.rglob("*.png"))
    pool, test = folder / "pool", folder / "test"
    pool.mkdir()
    test.mkdir()
    pictures = {path.parent.name: Image.open(path).convert("RGB") for path in paths}
    for name, picture in pictures.items():
        picture.save(pool / f"{name}.png")
    for kind, (name, edit) in EDITS.items():
        edit(pictures[name]).save(pool / f"{name}_{kind}.png")
    crop(pictures["ihc"], 0.7).save(test / "leaked.png")
    pictures["moon"].resize((140, 140)).save(test / "other.jpg")
    small = pictures["retina"].resize((32, 32))
    small.save(pool / "small.png")
    small.save(pool / "small_again.jpg", quality=95)
    return pool, test


def curated(photographs, out, *more, on="in-process"):
    roles = zip(("pool", "reference"), map(str, photographs), strict=False)
    sources = [{"role": role, "paths": [path]} for role, path in roles]
    keys = ("plant.count=0", "retrieve.mode=none", "duplicates.verify.mode=pixels")
    config = pools.recipe(sources, out, *keys, "partition_images=7", *more)
    return pools.curated(config, on=on, on_change="apply")


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("verified") / "run"
    curated(photographs, out)
    return out


def by_name(run):
    return {row["key"]: row for row in pools.ledger(run)}


def test_edited_copies_are_joined_with_their_original_and_nothing_else_is(run):
    rows = by_name(run)
    groups = {}
    for name, row in rows.items():
        if row["component"] is not None:
            groups.setdefault(row["component"], set()).add(name)
    joined = {frozenset(group) for group in groups.values() if len(group) > 1}
    expected = {frozenset({name, f"{name}_{kind}"}) for kind, (name, _) in EDITS.items()}
    assert joined == expected | {frozenset({"retina", "small", "small_again"})}


def test_the_ledger_tells_by_what_pairs_were_decided(run):
    rows = by_name(run)
    for name in rows:
        row = rows[name]
        if row["reason"] == "near_duplicate":
            compared = not name.startswith("small")
            assert (row["places"] is not None) == compared
            assert row["similarity"] > (0.55 if compared else 0.95)


def test_a_crop_in_the_benchmark_is_a_leak(run):
    leaks = [row for row in pools.ledger(run) if row["reason"] == "leak"]
    keys = {row["image_id"]: row["key"] for row in pools.ledger(run)}
    assert {keys[row["duplicate_of"]] for row in leaks} == {"leaked", "other"}
    assert all(row["places"] >= 6 for row in leaks)


def test_pictures_that_cannot_be_compared_are_counted(run):
    counts = json.loads(summary_path(run).read_text())["verify"]
    small = [row for row in pools.ledger(run) if min(row["width"], row["height"]) < 48]
    assert counts["not_verifiable"] > len(small) == 2  # clock_motion has no keypoints
    assert counts["pictures"] == len(pools.ledger(run))
    rows = sum(read_table(path).num_rows for path in verified_folder(run).glob("*.parquet"))
    assert counts["pairs_compared"] == rows


def test_partitions_and_workers_do_not_matter(photographs, run, tmp_path):
    curated(photographs, tmp_path / "two", "duplicates.verify.pairs_per_partition=9", on="local:2")
    assert pools.ledger(tmp_path / "two") == pools.ledger(run)


def test_a_changed_limit_compares_nothing_again(photographs, run, tmp_path, caplog):
    curated(photographs, tmp_path / "run")
    caplog.clear()
    with caplog.at_level("INFO"):
        curated(photographs, tmp_path / "run", "duplicates.verify.min_places=1000")
    assert "verify: done before (1 partition)" in caplog.messages
    dropped = {n for n, row in by_name(tmp_path / "run").items() if row["decision"] == "dropped"}
    assert dropped == {"leaked", "other", "small", "small_again"}


def test_a_pair_that_the_rule_rejects_is_no_leak_however_low_the_threshold(
    photographs, run, tmp_path
):
    shutil.copytree(run, tmp_path / "run")
    keys = ("duplicates.verify.min_correlation=0.999", "decontaminate.threshold=0.85")
    curated(photographs, tmp_path / "run", *keys)
    assert not [row for row in pools.ledger(tmp_path / "run") if row["reason"] == "leak"]


def test_explain_names_places_and_draws_them(run, tmp_path):
    rows = by_name(run)
    row = next(rows[n] for n in ("brick", "brick_crop") if rows[n]["decision"] == "dropped")
    answer = explain(run, row["key"])
    original = answer.compared[0]
    assert original.is_same
    assert {original.key, row["key"]} == {"brick", "brick_crop"}
    assert not any(other.is_same for other in answer.compared[1:])
    sentence = f"{row['places']} places agree, correlation {row['similarity']:.3f}"
    assert any(sentence in text for text in answer.sentences)
    answer.write_html(tmp_path / "why.html")
    text = (tmp_path / "why.html").read_text()
    assert text.count('<figure class="shot wide">') == len(answer.compared)
    assert "no picture" not in text


@pytest.mark.parametrize("num", [0, 1])
def test_nothing_to_compare_is_no_error(photographs, tmp_path, num):
    pool = tmp_path / "pool"
    pool.mkdir()
    Image.new("RGB", (90, 90), (9, 9, 9)).save(pool / "flat.png")
    for path in sorted(photographs[0].glob("*.png"))[:num]:
        shutil.copy(path, pool)
    sources = [{"role": "pool", "paths": [str(pool)]}]
    keys = ("plant.count=0", "retrieve.mode=none", "duplicates.verify.mode=pixels")
    pools.curated(pools.recipe(sources, tmp_path / "run", *keys))
    assert sum(row["decision"] == "kept" for row in pools.ledger(tmp_path / "run")) == num
    report = ["report", str(tmp_path / "report"), "--curation", str(tmp_path / "run")]
    assert main(report) == 0
    assert "0 candidate pairs were aligned" in (tmp_path / "report/report.html").read_text()


def test_what_was_compared_is_published_and_nothing_else(run, calm):
    tables = sorted(verified_folder(run).glob("*.parquet"))
    assert sum(read_table(path).num_rows for path in tables) >= len(EDITS)
    assert not verified_folder(calm).exists()


def test_edits_of_what_a_base_has_are_found_and_drawn(photographs, tmp_path):
    edits = {f"{name}_{kind}": name for kind, (name, _) in EDITS.items()}
    edits["small_again"] = "small"
    originals, added = tmp_path / "originals", tmp_path / "edits"
    for path in photographs[0].iterdir():
        folder = added if path.stem in edits else originals
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    base, run = tmp_path / "base", tmp_path / "run"
    curated([originals], base)
    summary = curated([added, photographs[1]], run, f"base={base}")
    keys, rows = [row["key"] for row in pools.ledger(base)], by_name(run)
    kept = {name: keys[rows[name]["duplicate_of"]] for name in edits}
    assert kept == edits | {"small_again": "retina"}
    (leaked,) = summary.base["leaks"].values()
    assert {keys[image] for image in leaked} == {"ihc", "moon"}
    explain(run, "brick_crop").write_html(tmp_path / "why.html")
    text = (tmp_path / "why.html").read_text()
    assert '<figure class="shot wide">' in text
    assert "no picture" not in text


def test_windows_are_compared_with_the_whole_of_other_pictures(photographs, tmp_path):
    out = tmp_path / "run"
    keys = (
        "duplicates.verify.windows=true",
        "duplicates.verify.nearest=2",
        "partition_images=4096",
    )
    curated(photographs, out, *keys)
    (stages,) = out.glob("curation")
    (whole,), (windows,) = (
        [np.load(path).astype(np.float32) for path in stages.glob(f"*-{name}/*.embeddings.npy")]
        for name in ("embed", "embed-windows")
    )
    windows = windows.reshape(len(whole), 5, -1)
    whole, windows = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (whole, windows))
    across = (windows @ whole.T).max(axis=1)
    cosine = np.maximum(whole @ whole.T, np.maximum(across, across.T))
    verifiable = np.zeros(len(whole), bool)
    for path in stages.glob("*-keypoints/*.ids.npy"):
        verifiable[np.load(path)] = np.load(str(path).replace(".ids.", ".verifiable."))
    is_reference = np.array([row["role"] == "reference" for row in pools.ledger(out)])
    images = np.flatnonzero(verifiable & ~is_reference)
    paths = sorted(stages.glob("*-proposals/*.nearest.parquet"))
    nearest = read_table(paths[0]).to_pylist()
    for image in images:
        others = images[images != image]
        expected = np.sort(cosine[image, others])[-2:]
        strengths = [row["strength"] for row in nearest if row["a"] == image and row["b"] in images]
        np.testing.assert_allclose(sorted(strengths), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (["duplicates.verify.votes=0"], "nothing would be compared"),
        (["duplicates.verify.windows=true"], "set duplicates.verify.windows=false"),
    ],
)
def test_candidates_that_no_key_asks_for_are_a_fault(keys, fault):
    words = ["sources=[{paths: [x]}]", "out=x", "duplicates.verify.nearest=0", *keys]
    with pytest.raises(UsageError, match=fault):
        load_recipe(CurationConfig, find_recipe("curation", "precise"), words)


def test_votes_need_no_keypoints_in_the_pictures_that_were_drawn(run, monkeypatch, tmp_path):
    drawn = np.empty(0, np.int64)
    monkeypatch.setattr(votes, "choose_training_pictures", lambda *_, **__: drawn)
    copy = shutil.copytree(run, tmp_path / "run")
    inputs = make_inputs("curation", STAGES, copy, config_of(CurationConfig, read_recipe(copy)))
    stage = next(stage for stage in STAGES if stage.name == "votes-index")
    (before, _) = inputs.facts(stage.name)
    out = Output(copy, inputs.folder(stage.name), 0)
    payload = {"side": "images", "votes": votes.votes_version()}
    assert stage.run(payload, inputs.scoped(stage), out) == before
