"""Where the numbers come from, read from a run folder; what is missing stays empty."""

import shlex

import pytest

from dinoforge.evaluation.report.facts import read_run, recipe_value
from dinoforge.runs import read_recipe


def test_a_run_states_what_was_asked_and_what_it_ran_on(project):
    run = read_run(project["curation"], "curation")
    assert shlex.split(run.command) == [
        "dinoforge",
        "curate",
        "quickstart",
        "out=runs/example images",
    ]
    assert run.commit == "1d78432abcde"
    assert (run.host, run.cores) == ("laptop", 2)
    assert "threshold: 0.95  # recipe" in run.config


def test_times_of_a_stage_are_sums_over_its_partitions_and_memory_is_the_largest(project):
    stages = {time.stage: time for time in read_run(project["curation"], "curation").stages}
    assert list(stages) == [
        f"curation/{n}" for n in ("10-ingest", "20-filter", "30-embed", "80-export")
    ]
    embed = stages["curation/30-embed"]
    assert (embed.partitions, embed.peak_rss_mib) == (2, 430)
    assert embed.seconds == pytest.approx(60 / 7, abs=1e-3)
    assert embed.cpu_seconds == pytest.approx(60 / 8)
    assert (embed.images_per_s, embed.decode_wait) == (50.0, 0.25)
    assert stages["curation/20-filter"].images_per_s is None


def test_an_empty_folder_yields_nothing(tmp_path):
    run = read_run(tmp_path, "training")
    assert (run.command, run.commit, run.versions, run.config, run.stages) == ("", "", {}, "", [])
    assert read_recipe(tmp_path) == {}


@pytest.mark.parametrize("text", ["{", "[1, 2]", ""])
def test_a_broken_run_record_yields_nothing(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert read_run(tmp_path, "training").host == ""


def test_a_dotted_key_finds_its_value_or_none(project):
    config = read_recipe(project["curation"])
    assert recipe_value(config, "duplicates.threshold") == 0.95
    assert recipe_value(config, "seed") == 0
    assert recipe_value(config, "duplicates.limit") is None
    assert recipe_value(config, "seed.more") is None
