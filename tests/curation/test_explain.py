"""Why an image was kept or dropped: in words for every kind of decision, from the ledger alone."""

import json
import re
import shutil

import pool as pools
import pyarrow as pa
import pytest
import yaml

from dinoforge.cli.main import main
from dinoforge.curated import LEDGER_SCHEMA, REASONS, ledger_path
from dinoforge.curation.explain import explain
from dinoforge.errors import UsageError
from dinoforge.tables import read_table, write_table

# What the first sentence states of each decision.
SAYS = {
    "undecodable": r"was dropped because it cannot be decoded: (empty|truncated|not_an_image)",
    "too_small": r"was dropped because it is too small: \d+ x \d+ pixels \(filter.min_side is 24",
    "bad_aspect": r"was dropped because it is too elongated: 400 x 24 pixels",
    "flat": r"was dropped because it is almost uniform: gray values spread by",
    "reference": r"is a reference image of .*: others are compared with it",
    "exact_duplicate": r"was dropped as an exact duplicate of `.*` \(image \d+\), which is kept",
    "near_duplicate": r"was dropped as a near-duplicate of `.*` \(image \d+\), which is kept",
    "taken_down": r"was taken down on \d{4}-\d\d-\d\d: asked by the owner\.",
    "leak": r"was dropped because it shows the same as the reference image `leaked` \(image \d+\)",
    "not_balanced": r"was dropped to balance the pool: cluster \d+ of level 1 keeps \d of \d+",
    "not_retrieved": r"was dropped because no seed retrieved it: .* 6 nearest surviving",
    "seed": r"was kept because its source has the role seed",
    "as_is": r"was kept because its source has the role as_is",
    "retrieved": r"was kept because the seed `.*` \(image \d+\) retrieved it: neighbor \d with",
    "kept": r"was kept: no rule dropped it",
}

ELSEWHERE = {"excluded", "filtered_out", "missing_value"}  # see test_rules and test_where


@pytest.fixture(scope="session")
def example(calm, kept_run):
    """Reason -> a run and the row of an image that it happened to."""
    result = {row["reason"]: (run, row) for run in (kept_run, calm) for row in pools.ledger(run)}
    assert result.keys() == SAYS.keys() == set(REASONS) - ELSEWHERE
    return result


@pytest.mark.parametrize("reason", SAYS)
def test_every_kind_of_decision_has_its_words(example, reason):
    run, row = example[reason]
    answer = explain(run, row["image_id"])
    assert (answer.image_id, answer.reason, answer.key) == (row["image_id"], reason, row["key"])
    assert re.search(SAYS[reason], answer.sentences[0]), answer.sentences
    assert answer.sentences[0].startswith(f"`{row['key']}` (image {row['image_id']}) ")
    assert all(sentence.endswith(".") for sentence in answer.sentences)
    reported = " ".join(answer.sentences)
    assert "None" not in reported
    assert "nan" not in reported.split()
    if row["out_shard"]:
        assert f"It is in shards/{row['out_shard']} under the key {row['out_key']}." in reported


def test_every_image_of_a_run_can_be_explained(calm, kept_run):
    for run in (calm, kept_run):
        for row in pools.ledger(run)[::7]:
            assert explain(run, row["image_id"]).sentences


def test_a_planted_copy_states_whose_copy_it_is(calm):
    rows = pools.ledger(calm)
    planted = next(row for row in rows if row["planted_from"] is not None)
    original = rows[planted["planted_from"]]
    reported = " ".join(explain(calm, planted["image_id"]).sentences)
    assert f"The run planted it: a copy of `{original['key']}`" in reported
    assert f"with the edit `{planted['edit']}`" in reported


def test_a_chain_of_duplicates_is_followed_to_the_image_that_stays(pool, calm):
    rows = pools.ledger(calm)
    answer = explain(calm, pool.copied)
    family = {"copied", "a/b/c/no_suffix", "a/b/c/wrong_suffix"}
    assert {near.key for near in answer.neighbors} >= family
    keeper = rows[answer.row["duplicate_of"]]
    assert keeper["key"] in family
    assert answer.representative[0].image_id == keeper["image_id"]
    members = {row["image_id"] for row in rows if row["duplicate_of"] == keeper["image_id"]}
    assert answer.group[0].image_id == keeper["image_id"]
    assert {near.image_id for near in answer.group[1:]} == members - {answer.image_id}
    assert {near.note for near in answer.group[1:]} == {"dropped"}
    assert "same bytes" in " ".join(answer.sentences)


def test_an_image_is_found_by_id_key_path_and_member(pool, calm, monkeypatch):
    rows = pools.ledger(calm)
    row = next(row for row in rows if row["key"] == pool.leaked)
    path = pool.folder / "pool" / f"{pool.leaked}.png"
    names = [row["image_id"], str(row["image_id"]), pool.leaked, str(path), f"{pool.leaked}.png"]
    monkeypatch.chdir(pool.folder)
    for name in [*names, path.name, f"pool/{pool.leaked}.png", f"./pool/{pool.leaked}.png"]:
        assert explain(calm, name).image_id == row["image_id"], name
    in_tar = next(row for row in rows if row["shard"].endswith("sound.tar"))
    assert explain(calm, in_tar["key"]).image_id == in_tar["image_id"]
    assert explain(calm, in_tar["member"]).image_id == in_tar["image_id"]
    exported = next(row for row in rows if row["out_key"])
    assert explain(calm, exported["out_key"]).image_id == exported["image_id"]


def test_a_number_with_zeros_in_front_is_a_key_before_it_is_an_id(pool, tmp_path):
    seeds = tmp_path / "pool"
    for number, path in enumerate(sorted((pool.folder / "seeds").rglob("*.png"))):
        seeds.mkdir(exist_ok=True)
        shutil.copy(path, seeds / f"{12 - number:04d}.png")
    sources = [{"role": "pool", "paths": [str(seeds)]}]
    more = ("retrieve.mode=none", "plant.count=0", "seed=1")
    pools.curated(pools.recipe(sources, tmp_path / "run", *more))
    (seeds / "0003.png").rename(seeds / "9999.png")  # the ledger is what counts
    assert explain(tmp_path / "run", "0003").key == "0003"
    assert explain(tmp_path / "run", "3").image_id == 3
    assert explain(tmp_path / "run", "000000003").image_id == 3


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("copieds", "no image `copieds` (did you mean `copied`?)"),
        ("99999", "no image `99999`"),
        ("cut-*.tar", "no image"),
        ("²", "no image `²`"),
        ("caf\udce9", "no image `caf\\xe9`"),
        ("", "no image ``"),
    ],
)
def test_an_image_that_is_not_there_is_reported(calm, name, what):
    with pytest.raises(UsageError) as caught:
        explain(calm, name)
    assert str(caught.value).startswith(what)


def test_a_name_that_fits_several_images_names_them(calm, pool):
    with pytest.raises(UsageError, match=r"\d+ images match `.*sound.tar` by path: \d+, \d+"):
        explain(calm, str(pool.folder / "pool/tars/sound.tar"))


def test_a_number_that_is_a_key_too_is_read_as_an_id_and_said(calm, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(calm, run)
    table = read_table(ledger_path(run))
    keys = table.column("key").to_pylist()
    keys[7], keys[9] = "5", "9"
    write_table(ledger_path(run), table.set_column(1, "key", pa.array(keys)), LEDGER_SCHEMA)
    answer = explain(run, "5")
    assert answer.image_id == 5
    assert answer.sentences[-1] == "`5` was read as an image id; it is also the key of image 7."
    assert not any(
        "was read as" in line for name in ("9", "6") for line in explain(run, name).sentences
    )


def test_a_name_that_begins_with_a_tilde_or_a_dash_is_found_as_the_ledger_has_it(
    calm, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    shutil.copytree(calm, run)
    table = read_table(ledger_path(run))
    names = {name: table.column(name).to_pylist() for name in ("key", "shard")}
    names["key"][3], names["shard"][4], names["shard"][5] = "-x", "~/a/0.jpg", "/home/b/0.jpg"
    for name, values in names.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    write_table(ledger_path(run), table, LEDGER_SCHEMA)
    monkeypatch.setenv("HOME", "/home")
    for words, image_id in ((["--", "-x"], 3), (["~/a/0.jpg"], 4), (["~/b/0.jpg"], 5)):
        assert main(["explain", str(run), "--json", *words]) == 0
        assert json.loads(capsys.readouterr().out)["image_id"] == image_id


def test_an_unfinished_run_has_no_answers(calm, tmp_path):
    shutil.copytree(calm, tmp_path / "run")
    (tmp_path / "run/published/summary.json").unlink()
    with pytest.raises(UsageError, match="not a finished curation run"):
        explain(tmp_path / "run", "0")


@pytest.mark.parametrize("reason", ["near_duplicate", "leak", "retrieved", "undecodable"])
def test_the_page_holds_all_it_shows(example, tmp_path, capsys, reason):
    run, row = example[reason]
    page = tmp_path / "why.html"
    assert main(["explain", str(run), str(row["image_id"]), "--html", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    assert not re.search(r"""(src|href|url|@import)\s*[=(]?\s*["']?(https?:)?//""", text)
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "https://" not in text
    assert row["key"] in text
    pictures = text.count('src="data:image/')
    assert pictures == 0 if reason == "undecodable" else pictures >= 2


def test_the_pictures_are_decoded_as_the_run_decoded_them(calm, tmp_path):
    shutil.copytree(calm, tmp_path / "run")
    recipe = yaml.safe_load((calm / "config.yaml").read_text())
    recipe["decode"]["max_pixels"] = 1
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(recipe))
    for run, has_picture in ((calm, True), (tmp_path / "run", False)):
        explain(run, "0").write_html(tmp_path / "why.html")
        assert ('src="data:image/' in (tmp_path / "why.html").read_text()) == has_picture


def test_the_answer_as_json_is_strict_json(example, capsys):
    for run, row in example.values():
        assert main(["explain", str(run), str(row["image_id"]), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert answer["row"]["key"] == row["key"]
        assert answer["sentences"]
