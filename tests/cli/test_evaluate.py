"""What `dinoforge evaluate` prints at its end: few numbers, or all with ``--all``."""

from argparse import Namespace
from pathlib import Path

import pytest

from dinoforge.cli.evaluate import COMMAND
from dinoforge.records import Record

BENCHMARKS = (
    ("knn/imagenette144", "accuracy"),
    ("logistic/imagenette144", "accuracy"),
    ("linear/imagenette144", "accuracy"),
    ("few_shot_5/imagenette144", "accuracy"),
    ("segmentation/camvid_sample", "mean_iou"),
    ("depth/nyu_depth_v2_sample", "rmse"),
    ("ranking/copydays_strong", "map"),
    ("propagation/davis2016", "J&F"),
)
MODELS = ("trained", "untrained", "mobilenetv2", "pixels", "dinov2_vits14")


def record(model, value, features="cls", benchmark="knn/birds", **settings):
    return Record(
        benchmark=benchmark,
        model=model,
        metric=settings.pop("metric", "accuracy"),
        value=value,
        interval=settings.pop("interval", (value - 0.03, value + 0.03)),
        n=500,
        settings={"features": features, **settings},
    )


def difference(value, other, low, high, features_b="cls", k=20):
    names = {"model_a": "trained", "model_b": other, "features_a": "both"}
    return Record(
        benchmark="knn/birds",
        model=f"trained - {other}",
        metric="accuracy_difference",
        value=value,
        interval=(low, high),
        n=500,
        settings=names | {"features_b": features_b, "k": k},
    )


SMALL = [
    record("trained", 0.81, k=20, bank=900),
    record("trained", 0.82, "both", k=20, bank=900),
    record("trained", 0.89, "both", k=5, bank=900),
    record("untrained", 0.80, k=20, bank=900),
    record("pixels", 0.4, "pixels", k=20, bank=900),
    difference(0.02, "untrained", 0.004, 0.036),
    difference(0.42, "pixels", 0.38, 0.46, features_b="pixels"),
    difference(0.33, "untrained", 0.3, 0.36, k=5),
]


def shown(capsys, records, *, all_records=False):
    COMMAND.show(records, Path("runs/x"), Namespace(all=all_records))
    return capsys.readouterr().out


def test_one_number_per_model_and_benchmark_and_the_differences_that_decide(capsys):
    text = shown(capsys, SMALL)
    (row,) = [line for line in text.splitlines() if line.startswith(" knn/birds")]
    assert row.split()[-3:] == ["82.0†", "80.0", "40.0"]
    assert "k = 20" in row
    assert "[79.0, 85.0]" in text
    assert "† chosen on the test images" in text
    assert "both of knn/birds" in text
    # The interval of the pixels is far away: no difference is needed.
    assert [line for line in text.splitlines() if "trained - " in line] == [
        "- knn/birds: trained - untrained: +2.0 [+0.4, +3.6], clear"
    ]
    assert text.endswith("records, with their settings: runs/x/records.jsonl\n")


def test_all_prints_every_record_and_difference(capsys):
    text = shown(capsys, SMALL, all_records=True)
    assert all(f"{r.value:.4f}" in text for r in SMALL if "difference" not in r.metric)
    assert all(f"{r.value:+.4f}" in text for r in SMALL if "difference" in r.metric)


def test_five_models_and_eight_benchmarks_fit_in_100_columns(capsys):
    records = [
        record(model, 0.1 * (one + 1) + 0.01 * number, features, benchmark, metric=metric, k=k)
        for number, (benchmark, metric) in enumerate(BENCHMARKS)
        for one, model in enumerate(MODELS)
        for features in ("cls", "both")
        for k in ([5, 20] if "knn" in benchmark else [None])
    ]
    text = shown(capsys, records)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("Scores with 95 % intervals") == 1
    rows = [line for line in text.splitlines() if line.startswith(" ")]
    joined = "".join(row[1:19].strip() for row in rows)  # names are folded
    for benchmark, _ in BENCHMARKS:
        assert benchmark in joined


@pytest.mark.parametrize(
    "records",
    [
        [],
        [Record(benchmark="leakage/birds", model="m", metric="leaked_images", value=1.0, n=5)],
        [Record(benchmark="collapse/x", model="trained", metric="rankme", value=3.0, n=5)],
    ],
)
def test_without_scores_there_is_still_the_place_of_the_records(capsys, records):
    assert "records, with their settings: runs/x/records.jsonl" in shown(capsys, records)
