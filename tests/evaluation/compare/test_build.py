import json
import math
import shutil
import statistics
from dataclasses import replace

import numpy as np
import pytest
import yaml

from dinoforge.errors import UsageError
from dinoforge.evaluation.compare.build import compare
from dinoforge.evaluation.compare.columns import Filters
from dinoforge.evaluation.compare.paired import holm
from dinoforge.intervals import bootstrap_indices, percentile_interval
from dinoforge.records import Record, read_records, write_records
from dinoforge.runs import read_recipe

CLS = Filters(features=("cls",))


def records_of(folder, **wanted):
    """Records of an evaluation with these fields or settings."""
    records = [
        r
        for r in read_records(folder / "records.jsonl")
        if all(getattr(r, k, r.settings.get(k)) == v for k, v in wanted.items())
    ]
    assert records
    return records


def cell_of(comparison, model, benchmark="knn/colors"):
    row = [row.name for row in comparison.rows].index(model)
    column = [column.benchmark for column in comparison.columns].index(benchmark)
    return comparison.cells[row][column], comparison.differences[row][column]


@pytest.mark.parametrize("benchmark", ["knn/colors", "logistic/colors"])
def test_models_of_two_runs_are_paired_as_models_of_one(project, benchmark):
    apart = compare([f"one={project / 'a'}", f"two={project / 'b'}"], filters=CLS, baseline="two")
    k = 20 if benchmark.startswith("knn") else None
    (within,) = records_of(
        project / "both",
        benchmark=benchmark,
        metric="accuracy_difference",
        model="trained - second",
        features_a="cls",
        features_b="cls",
        **({} if k is None else {"k": k}),
    )
    cell, difference = cell_of(apart, "one", benchmark)
    assert cell.features == "cls"
    assert cell.k == k
    assert difference.value == pytest.approx(within.value, abs=1e-12)
    assert difference.interval == pytest.approx(within.interval, abs=1e-12)
    assert difference.p == within.settings["mcnemar_p"]
    assert difference.how == "paired on 18 units"


def test_scores_are_those_of_the_records(project):
    comparison = compare([str(project / "a")], filters=CLS)
    assert [row.name for row in comparison.rows] == ["a", "untrained", "pixels"]
    assert [column.benchmark for column in comparison.columns] == ["knn/colors", "logistic/colors"]
    for name, model in (("a", "trained"), ("untrained", "untrained")):
        (record,) = [
            r
            for r in records_of(project / "a", benchmark="knn/colors", model=model, k=20)
            if r.settings["features"] == "cls" and r.settings["step"] in {0, 100}
        ]
        cell, _ = cell_of(comparison, name)
        assert (cell.value, cell.interval, cell.records) == (
            record.value,
            record.interval,
            (record,),
        )
    ps = [d.p for row in comparison.differences for d in row if d is not None]
    corrected = [d.holm_p for row in comparison.differences for d in row if d is not None]
    assert corrected == holm(ps)


def test_the_best_features_are_named_as_chosen_on_the_test_images(project):
    comparison = compare([str(project / "a")])
    some = records_of(project / "a", benchmark="knn/colors", model="trained", k=20, step=100)
    best = max(some, key=lambda record: record.value)
    cell, _ = cell_of(comparison, "a")
    assert (cell.value, cell.features) == (best.value, best.settings["features"])
    assert cell.selection == "test-peek"
    assert any("chosen on the test images" in line for line in comparison.notes)


def test_equal_baselines_are_one_row_and_others_have_their_run(project):
    comparison = compare([f"one={project / 'a'}", f"two={project / 'b'}"])
    names = [row.name for row in comparison.rows]
    assert names == ["one", "two", "untrained [one]", "pixels", "untrained [two]"]
    assert any(line.startswith("pixels: one row") for line in comparison.notes)


@pytest.mark.parametrize("named", [True, False])
def test_seeds_are_one_row(project, named):
    name = "ours=" if named else ""
    comparison = compare([f"{name}{project / run}" for run in ("a", "b")], filters=CLS)
    assert [row.name for row in comparison.rows][1:] == ["untrained", "pixels"]
    row = comparison.rows[0]
    values = []
    for run in ("a", "b"):
        some = records_of(project / run, benchmark="knn/colors", model="trained", k=20, step=100)
        values += [r.value for r in some if r.settings["features"] == "cls"]
    cell, _ = cell_of(comparison, row.name)
    assert cell.value == pytest.approx(statistics.mean(values))
    assert cell.deviation == pytest.approx(statistics.stdev(values))
    assert cell.seeds == 2
    assert cell.interval[0] <= cell.value <= cell.interval[1]
    assert sum("mean over 2" in line for line in comparison.notes) == 2
    (column,) = [c for c in comparison.columns if c.benchmark == "knn/colors"]
    assert column.n == 18


def test_the_interval_of_seeds_resamples_their_mean(project):
    from dinoforge.evaluation.compare.sources import read_runs
    from dinoforge.evaluation.compare.values import read_values

    runs = read_runs([str(project / "a"), str(project / "b")])
    key = ("knn/colors", "accuracy", "cls", 20)
    some = [
        next(m for m in run.measurements if m.key == key and m.record.settings.get("step") == 100)
        for run in runs
    ]
    mean = np.mean([one.outcome.values for one in read_values(some)], axis=0)
    (indices,) = bootstrap_indices(18, 300, 0)
    by_hand = percentile_interval(mean[indices].mean(axis=1))
    comparison = compare([str(project / "a"), str(project / "b")], filters=CLS)
    assert comparison.cells[0][0].interval == pytest.approx(by_hand)


def test_steps_are_a_curve_and_the_newest_is_the_row(project):
    comparison = compare([str(project / "a")], filters=CLS)
    (curve,) = [c for c in comparison.curves if comparison.rows[c.row].name == "a"]
    assert comparison.columns[curve.column].benchmark == "knn/colors"
    assert curve.steps == (50, 100)
    for step, value, interval in zip(curve.steps, curve.values, curve.intervals, strict=True):
        (record,) = [
            r
            for r in records_of(project / "a", model="trained", k=20, step=step)
            if r.settings["features"] == "cls"
        ]
        assert (value, interval) == (record.value, record.interval)
    assert curve.values[-1] == comparison.cells[curve.row][curve.column].value


def test_records_alone_are_unpaired_and_never_bold(project):
    comparison = compare(
        [str(project / "a"), str(project / "alone" / "records.jsonl")], filters=CLS
    )
    cell, difference = cell_of(comparison, "alone")
    other, _ = cell_of(comparison, "a")
    low = (
        cell.value
        - other.value
        - math.hypot(cell.value - cell.interval[0], other.interval[1] - other.value)
    )
    assert difference.interval[0] == pytest.approx(low)
    assert (difference.p, difference.holm_p, difference.is_clear) == (None, None, False)
    assert difference.how.startswith("unpaired")
    assert not any(cell.is_bold for row in comparison.cells for cell in row if cell is not None)
    assert any("Newcombe" in line for line in comparison.notes)


def test_a_folder_that_was_moved_is_paired(project, tmp_path):
    shutil.copytree(project / "b", tmp_path / "elsewhere" / "b")
    moved = compare([str(project / "a"), f"b={tmp_path / 'elsewhere' / 'b'}"], filters=CLS)
    here = compare([str(project / "a"), f"b={project / 'b'}"], filters=CLS)
    assert moved.differences == here.differences


def test_one_checkpoint_in_two_runs_is_one_row(project):
    comparison = compare([str(project / "a"), str(project / "both")], filters=CLS)
    assert [row.name for row in comparison.rows] == ["a", "untrained", "pixels", "second"]
    assert any("its checkpoint is the same" in line for line in comparison.notes)


def test_a_training_stands_for_its_evaluations(project, tmp_path):
    training = tmp_path / "run"
    shutil.copytree(project / "seed0", training)
    shutil.copytree(project / "a", training / "evaluation" / "birds" / "step-000000100")
    comparison = compare([str(training)], filters=CLS)
    assert comparison.rows[0].name == "run"
    assert comparison.cells[0] == compare([str(project / "a")], filters=CLS).cells[0]


def test_metrics_and_collapse_on_request(project):
    plain = compare([str(project / "a")])
    assert "signs of collapse are left out: add --benchmark 'collapse/*'" in plain.notes
    signs = compare([str(project / "a")], filters=Filters(benchmarks=("collapse/*",)))
    assert {c.benchmark for c in signs.columns} == {"collapse/colors"}
    assert {"rankme", "feature_std"} <= {c.metric for c in signs.columns}
    assert {c.direction for c in signs.columns} == {""}
    one = compare([str(project / "a")], filters=Filters(ks=(5,), benchmarks=("knn/*",)))
    assert {cell.k for row in one.cells for cell in row} == {5}


def test_what_a_filter_empties_is_named(project):
    comparison = compare([str(project / "a")], filters=Filters(features=("patch_mean",), ks=(5,)))
    assert {c.benchmark for c in comparison.columns} == {"knn/colors", "logistic/colors"}
    pixels = compare([str(project / "a")], filters=Filters(features=("pixels",)))
    assert [row.name for row in pixels.rows] == ["pixels"]
    (line,) = [line for line in pixels.notes if line.startswith("nothing has the features")]
    assert line.endswith("in logistic/colors, collapse/colors")


def test_leaked_images_are_noted_and_shown_on_request(project, tmp_path):
    count = Record(
        benchmark="leakage/colors", model="training images", metric="leaked_images", value=3.0, n=18
    )
    write_records(tmp_path / "records.jsonl", [*read_records(project / "a/records.jsonl"), count])
    comparison = compare([f"a={tmp_path}"])
    assert "colors: 3 of 18 test images of a leaked into the training" in comparison.notes
    assert [row.name for row in comparison.rows] == ["a", "untrained", "pixels"]
    counted = compare([f"a={tmp_path}"], filters=Filters(benchmarks=("leakage/*",)))
    assert [[cell.value for cell in row] for row in counted.cells] == [[3.0]]


def test_without_a_baseline_there_are_no_differences(project):
    comparison = compare([str(project / "a")], baseline="none")
    assert comparison.baseline == ""
    assert not any(d for row in comparison.differences for d in row)


def other_data(project, tmp_path):
    records = [replace(r, data="f" * 64) for r in read_records(project / "b" / "records.jsonl")]
    write_records(tmp_path / "records.jsonl", records)
    return str(tmp_path)


def test_other_test_images_are_not_compared(project, tmp_path):
    (known,) = {r.data for r in read_records(project / "a" / "records.jsonl") if r.n == 18}
    with pytest.raises(UsageError) as error:
        compare([str(project / "a"), f"other={other_data(project, tmp_path)}"])
    line = str(error.value)
    assert "knn/colors has other test images in a" in line
    assert known[:12] in line
    assert "in other (ffffffffffff)" in line
    assert "--benchmark" in line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"baseline": "untraind"}, "no model `untraind` (did you mean `untrained`?)"),
        ({"filters": Filters(benchmarks=("knn/birds",))}, "there are knn/colors"),
        ({"filters": Filters(ks=(7,))}, "there are 5, 20"),
        ({"filters": Filters(features=("both",))}, "there are cls, patch_mean, pixels"),
        ({"filters": Filters(metrics=("accurate",))}, "did you mean accuracy?"),
        ({"filters": Filters(metrics=("rankme",), ks=(5,), benchmarks=("knn/*",))}, "all filters"),
    ],
)
def test_what_is_not_there_is_named(project, options, line):
    with pytest.raises(UsageError) as error:
        compare([str(project / "a")], **options)
    assert line in str(error.value)


def test_damaged_records(project, tmp_path):
    row = json.loads((project / "a" / "records.jsonl").read_text().splitlines()[0])
    for broken in ("{", json.dumps(row | {"value": "much"}), json.dumps(row | {"interval": [1]})):
        (tmp_path / "records.jsonl").write_text(broken + "\n")
        with pytest.raises(UsageError, match="unreadable"):
            compare([str(tmp_path)])


def test_no_records(tmp_path):
    with pytest.raises(UsageError, match="no records"):
        compare([str(tmp_path)])
    with pytest.raises(UsageError, match="no such file"):
        compare([str(tmp_path / "nowhere")])


def test_steps_of_folders_and_missing_seeds(project, tmp_path):
    """Exports that were evaluated as files: their steps are those of the folders."""

    def write(run, step, shift, benchmark="knn/colors"):
        folder = tmp_path / run / "evaluation" / f"step-{step:09d}"
        folder.mkdir(parents=True, exist_ok=True)
        (record,) = (
            r
            for r in records_of(project / "b", benchmark="knn/colors", model="trained", k=20)
            if r.settings["features"] == "cls"
        )
        settings = {key: value for key, value in record.settings.items() if key != "step"}
        value, name = record.value + shift, f"{run} {step}"
        row = replace(record, value=value, settings=settings, checkpoint=name, benchmark=benchmark)
        known = folder / "records.jsonl"
        write_records(known, [*(read_records(known) if known.is_file() else []), row])
        return value

    first = [write("one", 5, -0.1), write("one", 10, 0.0)]
    second = [write("two", 5, -0.3), write("two", 10, -0.1)]
    write("two", 10, 0.0, "knn/other")
    comparison = compare([f"new={tmp_path / run}" for run in ("one", "two")])
    (curve,) = comparison.curves
    assert curve.steps == (5, 10)
    assert curve.values == pytest.approx(
        list(map(statistics.fmean, zip(first, second, strict=True)))
    )
    assert curve.deviations == pytest.approx([statistics.stdev([0, x]) for x in (0.2, 0.1)])
    assert comparison.rows[0].step == 10
    assert "knn/other: new was measured with 1 of 2 seeds" in comparison.notes
    assert any("no interval of new" in line for line in comparison.notes)


def changed(project, folder, keys, **fields):
    """Write the evaluation ``b`` again with other keys of its recipe and fields of its records."""
    shutil.copytree(project / "b", folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(read_recipe(folder) | keys))
    records = [replace(r, **fields) for r in read_records(folder / "records.jsonl")]
    write_records(folder / "records.jsonl", records)
    return f"b={folder}"


@pytest.mark.parametrize(
    ("keys", "fields", "line"),
    [
        ({"input": {"side": 448}}, {}, "`input.side`: 0 of a; 448 of b"),
        ({"storage": "float16"}, {}, "`storage`: float32 of a; float16 of b"),
        ({"train": ["elsewhere/other"]}, {}, "`sets.train`: ['bank'] of a; ['other'] of b"),
        ({}, {"n": 17}, "`number of test images`: 18 of a, untrained"),
        ({}, {"data": ""}, "; unknown of b"),
    ],
)
def test_other_protocols_of_one_name_are_noted_once(project, tmp_path, keys, fields, line):
    runs = [f"a={project / 'a'}", changed(project, tmp_path / "b", keys, **fields)]
    notes = compare(runs, filters=CLS).notes
    unlike = [n for n in notes if "measured with different" in n]
    assert any(line in n for n in unlike)
    if keys:
        (note,) = unlike
        assert note.startswith("knn/colors, logistic/colors: ")
    assert ("data" not in fields) or any("unpaired" in n for n in notes)


def test_seeds_of_one_recipe_have_one_protocol(project):
    notes = compare([f"a={project / 'a'}", f"b={project / 'b'}"]).notes
    assert not any("measured with different" in line for line in notes)


def test_other_grids_of_one_protocol_are_no_difference_of_another(project, tmp_path):
    keys = {"logistic": {"c_min": 1e-3, "c_max": 10.0, "c_count": 2}, "knn": {"k": [20]}}
    runs = [f"a={project / 'a'}", changed(project, tmp_path / "b", keys)]
    (note,) = [n for n in compare(runs, filters=CLS).notes if "measured with different" in n]
    assert note.startswith("logistic/colors: measured with different `logistic.c_min`: 0.1 of a")


def test_a_curve_of_a_protocol_that_chooses_its_features_has_all_steps(project, tmp_path):
    (first, *_) = records_of(project / "b", benchmark="knn/colors", model="trained", k=20)
    settings = {name: value for name, value in first.settings.items() if name not in {"k", "step"}}
    rows = [
        replace(first, benchmark="linear/colors", value=step / 100, settings=settings | more)
        for step, more in (
            (50, {"step": 50, "features": "1 cls"}),
            (60, {"step": 60, "features": "4 cls"}),
            (70, {"step": 70, "features": "4 cls"}),
        )
    ]
    write_records(tmp_path / "records.jsonl", rows)
    (curve,) = compare([str(tmp_path)]).curves
    assert (curve.steps, curve.values) == ((50, 60, 70), (0.5, 0.6, 0.7))
