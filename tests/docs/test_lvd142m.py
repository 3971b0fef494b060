"""Table 15 of DINOv2 as the docs print it: its arithmetic, and the recipe `lvd142m` beside it."""

import re

import pytest

from dinoforge.config import find_recipe, load_config
from dinoforge.curation.config import CurationConfig


@pytest.fixture(scope="module")
def table(root):
    """Rows of the table: set, images, how, retrieved, in the result; numbers without commas."""
    text = (root / "docs/explanation/lvd142m.md").read_text().partition("## Table 15")[2]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [
        [int(cell.replace(",", "")) if cell[:1].isdigit() else cell for cell in row]
        for row in cells
        if len(row) == 5 and row[4][:1].isdigit()
    ]


@pytest.fixture(scope="module")
def config():
    return load_config(CurationConfig, find_recipe("curation", "lvd142m"))


def test_the_rows_add_up_to_142_million(table):
    *rows, total = table
    assert total[0] == "all"
    assert sum(row[4] for row in rows) == total[4] == 142_109_386
    kinds = {kind: sum(row[4] for row in rows if row[2].startswith(kind)) for kind in "akc"}
    assert kinds == {"a": 17_211_818, "k": 104_107_568, "c": 20_790_000}
    shares = [f"{100 * kind / total[4]:.1f} %" for kind in kinds.values()]
    assert shares == ["12.1 %", "73.3 %", "14.6 %"]


def test_retrieved_is_k_times_the_images_or_a_multiple_of_ten_thousand(table):
    ratios = {}
    for name, images, how, retrieved, final in table[:-1]:
        if how.startswith("k = "):
            assert retrieved == final == int(how[4:]) * images
        elif how == "clusters":
            assert retrieved % 10_000 == 0
            assert final == min(retrieved, 1_000_000)
            ratios[name] = images / (retrieved // 10_000)
    assert ratios.pop("voc12") < 2
    assert (round(min(ratios.values()), 1), round(max(ratios.values()))) == (9.6, 63)
    assert 1464 // 4 == 366


def test_the_recipe_has_the_same_sets_with_the_same_k_and_caps(table, config):
    sources = {source.name: source for source in config.sources}
    rules = {rule.seeds: rule for rule in config.retrieve.rules}
    as_is = {row[0] for row in table[:-1] if row[2] == "as is"}
    assert {name for name, source in sources.items() if source.role == "as_is"} == as_is
    retrieving = [row for row in table[:-1] if row[2] != "as is"]
    assert [row[0] for row in retrieving] == list(rules)
    for name, images, how, *_ in table[:-1]:
        assert sources[name].images == (10_582 if name == "voc12" else images)
        if how == "clusters":
            rule = rules[name]
            assert (rule.mode, rule.min_seeds, rule.per_cluster) == ("cluster", 4, 10_000)
            assert rule.cap == 1_000_000
        elif how != "as is":
            assert (rules[name].mode, f"k = {rules[name].k}") == ("sample", how)
    assert config.retrieve.clusters == 100_000
    assert {rule.policy for rule in rules.values()} == {"multiset"}


def test_the_page_states_the_thresholds_of_the_recipe(root, config):
    text = (root / "docs/explanation/lvd142m.md").read_text()
    assert f"similarity above {config.duplicates.threshold}" in text
    assert f"similarity above {config.decontaminate.threshold}" in text
    comments = re.findall(r"seeds: (\w+), mode: cluster.*# ([\d,]+)", recipe_text())
    retrieved = dict(re.findall(r"\| (\w+) \| [\d,]+ \| clusters \| ([\d,]+)", text))
    assert dict(comments) == retrieved


def recipe_text():
    return find_recipe("curation", "lvd142m").read_text().replace(", all kept", "")
