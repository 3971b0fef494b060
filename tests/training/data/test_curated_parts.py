"""Parts that a curation lists, as parts of a mixture: one line in the recipe."""

import json

import pytest

from dinoforge.cli.main import main
from dinoforge.config import config_of, to_plain
from dinoforge.curated import parts_path, summary_path
from dinoforge.errors import UsageError
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.curated_parts import count_published, resolve_parts

PARTS = [
    {"name": "broad", "weight": 2.0, "images": 30, "shards": "shards/broad-??????.tar"},
    {"name": "classes", "weight": 0.5, "images": 20, "shards": "shards/classes-??????.tar"},
    {"name": "streets", "weight": 1.0, "images": 10, "shards": "shards/streets-??????.tar"},
]


@pytest.fixture
def run(tmp_path):
    """A folder with what a curation publishes of its parts."""
    run = tmp_path / "ruled"
    parts_path(run).parent.mkdir(parents=True)
    parts_path(run).write_text(json.dumps(PARTS))
    summary_path(run).write_text("{}")
    return run


def parts_of(tiny, parts):
    config = resolve_parts(tiny("data.paths=[]", f"data.parts=[{parts}]"))
    return [(part.name, part.weight, part.batches) for part in config.data.parts]


def test_one_entry_takes_all_parts_of_a_run_with_their_weights(tiny, run):
    shares = [("broad", 4 / 7), ("classes", 1 / 7), ("streets", 2 / 7)]
    assert parts_of(tiny, f"{{run: '{run}'}}") == [(*one, "heterogeneous") for one in shares]
    config = tiny("data.paths=[]", f"data.parts=[{{run: '{run}'}}]")
    paths = [part.paths for part in resolve_parts(config).data.parts]
    assert paths == [[f"{run}/{part['shards']}"] for part in PARTS]
    assert count_published(config) == {"broad": 30, "classes": 20, "streets": 10}


def test_a_part_that_another_entry_names_has_a_weight_and_batches_of_its_own(tiny, run):
    parts = (
        f"{{run: '{run}', weight: 0.8}}, "
        f"{{run: '{run}', name: classes, weight: 0.1, batches: homogeneous}}, "
        "{name: other, paths: [x], weight: 0.1}"
    )
    assert parts_of(tiny, parts) == [
        ("broad", pytest.approx(1.6 / 3), "heterogeneous"),
        ("streets", pytest.approx(0.8 / 3), "heterogeneous"),
        ("classes", 0.1, "homogeneous"),
        ("other", 0.1, "heterogeneous"),
    ]


def test_what_is_resolved_is_recorded_and_needs_the_run_no_more(tiny, run):
    config = resolve_parts(tiny("data.paths=[]", f"data.parts=[{{run: '{run}'}}]"))
    parts_path(run).unlink()
    assert resolve_parts(config_of(TrainingConfig, to_plain(config))) == config


@pytest.mark.parametrize(
    ("parts", "reported"),
    [
        ("{run: RUN, name: class}", "`class`, which is no part of it .did you mean `classes`"),
        ("{run: RUN}, {name: broad, paths: [x]}", "`data.parts` has 2 parts named broad"),
        ("{run: RUN, paths: [x]}", r"`data.parts\[0\].run` and `data.parts\[0\].paths` are both"),
        ("{run: elsewhere}", "no finished curation - elsewhere - give the folder"),
        ("{run: RUN, weight: 0}", "`data.parts` has no weight above 0"),
        (
            "{run: RUN}, " + ", ".join(f"{{run: RUN, name: {part['name']}}}" for part in PARTS),
            "all",
        ),
    ],
)
def test_parts_that_cannot_be_read_are_refused_in_one_line(tiny, run, parts, reported):
    with pytest.raises(UsageError, match=reported) as refused:
        parts_of(tiny, parts.replace("RUN", f"'{run}'"))
    assert "\n" not in str(refused.value)


def test_a_curation_without_parts_or_weights_is_refused_in_one_line(tiny, run, capsys):
    parts_path(run).write_text(json.dumps([part | {"weight": 0.0} for part in PARTS]))
    words = ["vits16_fast", "out=x", "data.paths=[]", f"data.parts=[{{run: '{run}'}}]"]
    for command in ("train", "plan"):
        assert main([command, *words]) == 2
        assert "every weight is 0 - " in (line := capsys.readouterr().err)
        assert line.count("\n") == 1
    parts_path(run).unlink()
    with pytest.raises(UsageError, match=r"without parts .* curate with export\.parts=true"):
        parts_of(tiny, f"{{run: '{run}'}}")


def test_a_plan_knows_how_many_images_the_parts_of_a_run_have(run, capsys):
    words = ["vits16_fast", "out=x", "data.paths=[]", f"data.parts=[{{run: '{run}'}}]"]
    assert main(["plan", *words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    seen = plan["images_seen"]
    assert plan["passes"]["classes"] == pytest.approx(seen / 7 / 20, rel=1e-3)
