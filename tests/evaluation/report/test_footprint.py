"""Hours, energy and carbon are sums and products of what the files of a training record."""

import json

import pytest

from dinoforge.device import recognize_gpu
from dinoforge.evaluation.report.footprint import (
    Assumptions,
    Compute,
    Footprint,
    estimate,
    measure_compute,
)


def start(begin, end, device="NVIDIA A100-SXM4-80GB", **facts):
    times = {"started": f"2026-11-29T{begin}+00:00", "stopped": end and f"2026-11-29T{end}+00:00"}
    return times | {"attention": {"device": device}} | facts


def write_metrics(folder, rows):
    lines = [json.dumps({"step": n, "clock/wall_s": w, "clock/cpu_s": c}) for n, w, c in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9')


def test_the_numbers_of_dinov2s_card_come_out():
    published = Footprint(hours=22_000, watts=400, watts_source="", pue=1.1, carbon_intensity=0.385)
    assert published.energy_kwh == pytest.approx(9680)
    assert published.carbon_kg == pytest.approx(3726.8)


def test_gpu_hours_are_wall_time_of_all_starts_times_ranks(tmp_path):
    facts = start("03:00:00", "03:30:00", ranks=8)
    facts["earlier"] = [start("01:00:00", "02:00:00", ranks=4), start("02:10:00", None, ranks=8)]
    write_metrics(tmp_path, [(1, 600.0, 500.0), (2, 600.0, 500.0)])
    compute = measure_compute(tmp_path, facts)
    assert (compute.starts, compute.unended) == (3, 1)
    assert (compute.seconds, compute.is_of_starts) == (5400, True)
    assert (compute.ranks, compute.ranks_are_recorded) == ((4, 8), True)
    assert (compute.hours, compute.unit) == (4 + 0.5 * 8, "GPU-hours")
    footprint = estimate(compute, Assumptions())
    assert footprint.watts == 400
    assert footprint.carbon_kg == pytest.approx(8 * 0.4 * 1.1 * 0.385)
    given = estimate(compute, Assumptions(watts=300, pue=1.5, carbon_intensity=0.05))
    assert given.carbon_kg == pytest.approx(8 * 0.3 * 1.5 * 0.05)


def test_the_rows_of_metrics_count_where_starts_have_no_end(tmp_path):
    write_metrics(tmp_path, [(1, 1800.0, 100.0), (2, 1800.0, 100.0)])
    compute = measure_compute(tmp_path, start("01:00:00", None))
    assert (compute.seconds, compute.is_of_starts, compute.hours) == (3600, False, 1.0)


def test_on_a_cpu_the_hours_are_those_of_busy_cores(tmp_path):
    write_metrics(tmp_path, [(1, 3600.0, 5400.0), (2, 3600.0, 5400.0)])
    (tmp_path / "log").mkdir()
    for rank in range(2):
        (tmp_path / f"log/rank-{rank:05d}.txt").touch()
    compute = measure_compute(tmp_path, start("01:00:00", "04:00:00", device="cpu"))
    assert (compute.hours, compute.unit) == (3.0 * 2, "CPU-core-hours")
    assert not compute.ranks_are_recorded
    footprint = estimate(compute, Assumptions())
    assert footprint.energy_kwh == pytest.approx(6 * 6.75 / 1000 * 1.1)


@pytest.mark.parametrize("device", ["", "NVIDIA GeForce RTX 4090"])
def test_without_hours_or_power_nothing_is_estimated(device):
    compute = Compute(
        device=device,
        ranks=(1,),
        ranks_are_recorded=True,
        starts=1,
        unended=0,
        seconds=3600.0,
        is_of_starts=True,
        hours=1.0 if device else None,
    )
    assert estimate(compute, Assumptions()) is None
    assert (estimate(compute, Assumptions(watts=450)) is None) == (not device)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"),
    ],
)
def test_gpus_are_recognized_by_the_name_that_torch_gives(device, name):
    assert recognize_gpu(device).name == name
    assert recognize_gpu(device).watts > 0
