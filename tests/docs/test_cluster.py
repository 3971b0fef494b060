"""The sizes and times in the guide to clusters are those of the program."""

import json
import re

import pytest

from dinoforge.cli.main import main
from dinoforge.config import load_config
from dinoforge.curation.config import CurationConfig
from dinoforge.slurm.cluster.limits import check_jobs, parse_partitions
from dinoforge.slurm.profile import Job
from dinoforge.training.config import TrainingConfig

IMAGES = 1_281_167  # of the guide


@pytest.fixture(scope="module")
def guide(root):
    return (root / "docs/howto/cluster.md").read_text()


def rows(text, head):
    """Cells of the table whose first column has this head."""
    table = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def planned(words, capsys):
    assert main(["plan", "vitl16_fast", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_row_of_a_plan_is_what_the_command_states(guide, capsys):
    result = rows(guide, "`dinoforge plan vitl16_fast` ...")
    assert len(result) == 6
    for words, images, memory, hours, gpu_hours, disk, files in result:
        options = words.strip("`").split()
        named = "--gpu" in options
        plan = planned(options, capsys)
        no = "" if plan["fits"] else ", does NOT fit"
        assert not (named and no)
        assert images == str(plan["images"]), words
        assert memory == f"{plan['memory']['peak'] / 1e9:.1f} GB{no}", words
        assert hours == f"{plan['speed']['hours']:.1f} h", words
        assert gpu_hours == f"{plan['speed']['gpu_hours']:.0f}", words
        assert disk == f"{plan['storage']['kept_bytes'] / 1e9:.1f} GB", words
        assert files == str(plan["storage"]["files"]), words


def test_what_the_text_states_of_the_chosen_plan_is_what_the_command_states(guide, capsys):
    plan = planned(["--ranks", "16", "parallel.accumulate=2"], capsys)
    config = load_config(TrainingConfig, None, ["out=x", "data.paths=[y]"])
    minutes = plan["speed"]["hours"] * 60 / plan["steps"]
    for words in (
        f"{plan['steps']:,} times",
        f"one step of {plan['batch_size']:,} images",
        f"{sum(plan['parameters'].values()) / 1e6:.0f} M parameters",
        f"are {plan['memory']['states'] / 1e9:.1f} GB of those {plan['memory']['peak'] / 1e9:.0f}",
        f"{plan['speed']['mfu']} of an H100",
        f"these {plan['speed']['hours']:.1f} hours",
        f"{plan['storage']['checkpoint_bytes'] / 1e9:.2f} GB and written",
        f"({plan['storage']['export_bytes'] / 1e9:.2f} GB each, "
        f"{plan['storage']['exports_kept']} kept)",
        f"{config.checkpoint.every:,}, or {config.checkpoint.every * minutes:.0f} minutes",
    ):
        assert words in guide.replace("\n", " "), words
    assert 6 < 500 * minutes < 7, "at most 7 minutes"
    ranks = plan["placement"]["ranks"]
    assert plan["storage"]["files_of_checkpoint"] == ranks + 2, "a checkpoint of R ranks"


def test_partitions_and_files_of_the_curation_are_those_of_the_recipe(guide):
    config = load_config(
        CurationConfig, None, ["out=x", "sources=[{role: as_is, paths: [y]}]", "retrieve.mode=none"]
    )
    ranges = -(-IMAGES // config.partition_images)
    blocks = -(-IMAGES // config.duplicates.block_images)
    pairs = blocks * (blocks + 1) // 2
    joins = -(-pairs // config.duplicates.blocks_per_partition)
    shards = -(-IMAGES // config.export.shard_images)
    wanted = {
        "inspect": (ranges, 2 * ranges),
        "embed": (ranges, 2 * ranges),
        "graph (all pairs)": (joins, 2 * joins),
        "export, when all are kept": (shards + 1, 3 * shards + 2),
    }
    for stage, partitions, elements, left in rows(guide, f"stage, {IMAGES:,} pictures"):
        number, files = wanted.pop(stage)
        assert partitions == f"{number}", stage
        assert elements == f"{-(-number // 4)}", stage
        assert left.startswith(f"{files:,} files"), stage
    assert wanted == {}
    assert f"each of {shards} shards" in guide
    assert f"{IMAGES * 128 * 2 / 1e9:.2f} GB of `pixels` vectors" in guide


def test_lines_of_mistakes_are_said_as_the_guide_shows_them(guide):
    said = [line for line, _ in rows(guide, "line")]
    partitions = parse_partitions("gpu*|up|3|96|2000000|gpu:h100:8|(null)|infinite\n")
    asked = ({"partition": "gpuu"}, {"gpus_per_node": 9})
    lines = [check_jobs({"train": Job(**keys)}, partitions, "p")[0].what for keys in asked]
    for ranks, *changes in (
        (24,),
        (16, "group_size=48"),
        (16, "parallel.mode=hsdp", "parallel.shard=5"),
    ):
        words = ["out=x", "data.paths=[y]", "batch_size=2048", *changes]
        config = load_config(TrainingConfig, None, words)
        lines += [fault.what for fault in config.rank_faults(ranks)]
    assert len(lines) == 5
    assert set(lines) <= set(said)


def test_the_guide_goes_through_all_commands_of_the_way(guide):
    walk = guide[guide.index("## A ViT-L") : guide.index("## How it works")]
    steps = re.findall(r"^dinoforge (\w+)", walk, re.MULTILINE)
    assert [name for n, name in enumerate(steps) if name not in steps[:n]] == [
        *("curate", "train", "status", "evaluate", "report")
    ]
