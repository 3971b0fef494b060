"""``dinoforge plan`` as it is typed: tables, JSON, one line for what cannot be."""

import json
import re
import subprocess
import sys
import time

import pytest

from dinoforge.cli.main import main

PARTS = ["vits16_fast", "data.paths=[]", "data.parts=[{name: crawl, paths: [x], weight: 9}, "]
PARTS[2] += "{name: tenth, paths: [y], weight: 1, batches: homogeneous}]"


def test_the_giant_over_eight_nodes_is_planned_on_a_laptop_in_seconds():
    words = ["plan", "vitg14_long", "--ranks", "64", "batch_size=768", "--gpu", "h100", "--json"]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "dinoforge", *words], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert plan["backbone_at_518"] == 1_136_480_768
    assert (plan["fits"], plan["images"]) == (True, 12)
    # A copy on each machine of eight; what has a single row lies on its first rank as a whole.
    assert (plan["placement"]["mode"], plan["placement"]["shards"]) == ("hsdp", 8)
    assert plan["parameters_of_rank_0"] == pytest.approx(
        sum(plan["parameters"].values()) / 8, rel=0.01
    )
    assert time.monotonic() - started < 100  # seconds on an idle machine


def test_tables_show_parameters_memory_operations_and_the_run(capsys):
    assert main(["plan", "vitl16_fast", "--ranks", "32", "--images", "1281167"]) == 0
    reported = capsys.readouterr().out
    for words in (
        r"vit_large_patch16, 32 x h100, fsdp over 32, 64 images per rank x 32 = 2048 per step",
        r"backbone +303,351,808",
        r"peak: forward +\d",
        r"needed by the method +1,1\d\d +100\.0%",
        r"passes over the data +199\.8",
        r"time +\d+\.\d h, \d+ GPU-hours",
        r"fits h100: needs \d+\.\d GB; 74\.1 GB usable; at most \d+ images per rank",
    ):
        assert re.search(words, reported), words


def test_what_a_named_gpu_does_not_hold_ends_with_2_and_one_line(capsys):
    words = ["plan", "vitl14_long", "--ranks", "8", "batch_size=1024"]
    assert main([*words, "--gpu", "a100-40"]) == 2
    out, error = capsys.readouterr()
    assert "peak: forward" in out  # the table states what takes the memory
    assert re.fullmatch(r"error: a step needs .* - a100-40 .* - use at most \d+ .*\n", error)
    assert main([*words, "--gpu", "a100-40", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


def test_a_gpu_that_nobody_named_is_no_reason_to_fail(capsys):
    assert main(["plan", "vitg14_long", "batch_size=512"]) == 0
    assert "does NOT fit h100" in capsys.readouterr().out


def test_mistakes_end_with_2_and_one_line_each(capsys):
    for words, reported in (
        (
            ["vitg14_long", "--ranks", "7"],
            "`batch_size` 3072 is not a multiple of 7 ranks - recipe - give",
        ),
        (
            ["vitg14_long", "--ranks", "6", "parallel.mode=hsdp", "parallel.shard=4"],
            "`parallel.shard` 4 does not divide 6 ranks",
        ),
        (
            ["vitg14_long", "parallel.mode=fsdp", "parallel.shard=4"],
            "`parallel.shard` 4 has no effect with `parallel.mode` fsdp",
        ),
        (["vitg14_lang"], "did you mean `vitg14_long`?"),
        (["vitg14_long", "model.drop_pat=0"], "did you mean `model.drop_path`?"),
        (["vitg14_long", "--gpu", "h101"], "unknown GPU `h101`"),
        (["vitg14_long", "--model", "large/16"], "--model has no meaning for a recipe of kind"),
        (["dense", "--ranks", "8"], "--ranks has no meaning for a recipe of kind evaluation"),
        (["dens"], "did you mean `dense`?"),
        ([], "no recipe given"),
        (["vitg14_long", "--images", "many"], "cannot read `many` - --images - give a whole"),
        (["vitg14_long", "--images", "web=9"], "no part `web` - --images - give one number"),
        ([*PARTS, "--images", "web=9"], "no part `web` - --images - the parts are crawl, tenth"),
        ([*PARTS, "--images", "9"], "several parts - --images - give one number per part: --im"),
        (["dense", "--images", "web=9"], "by name are for the parts of a training - --images"),
    ):
        assert main(["plan", *words]) == 2
        error = capsys.readouterr().err
        assert reported in error
        assert len(error.splitlines()) == 1


def test_a_curation_is_planned_by_stage_and_compared_with_a_profile(capsys):
    words = ["plan", "precise", "duplicates.verify.mode=none", "--images"]
    assert main([*words, "pool=1.3e9,reference=1e6", "--gpu", "h100"]) == 0
    reported = capsys.readouterr().out
    for text in (
        r"embed +317,627 .*\n",
        r"1,301,000,000 images, join by 152,971 cells, 4 per image; 1,300,000,000 exported",
        r"partitions, [\d,]+ GB in [\d,]+ files; [\d,]+ core-hours, or [\d.]+ h100-hours",
    ):
        assert re.search(text, reported), text
    assert main([*words, "1.3e9", "--on", "slurm:cpu", "--json"]) == 2
    out, error = capsys.readouterr()
    assert json.loads(out)["exit_code"] == 2
    assert re.fullmatch(
        r"error: tasks that do not fit: (\w+ \(.*\), )*exact \(.* GB, .* min\), .*\n", error
    )
    assert main([*words, "10000", "--on", "slurm:cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["join"] == "exact"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no number of images - command line"),
        (["--images", "dogs=3"], "no role or source `dogs` - --images"),
        (["--images", "seed=3"], "no images to curate - --images"),
        (["--images", "1.5"], "cannot read `1.5` - --images"),
        (["--images", "9", "--image-bytes", "0"], "--image-bytes 0 - command line"),
        (["--images", "9", "--on", "local:2"], "--on local:2 - command line"),
        (["--images", "9", "--ranks", "2"], "--ranks has no meaning for a recipe of kind curation"),
    ],
)
def test_a_plan_of_a_curation_that_cannot_be_made_is_one_line(words, message, capsys):
    assert main(["plan", "precise", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
