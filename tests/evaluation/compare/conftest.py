"""Evaluations of small networks that were never trained, as commands leave them on disk."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from evaluations import evaluated, write_run

from dinoforge.config import config_yaml
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig
from dinoforge.evaluation.settings import CollapseConfig, KnnConfig, LogisticConfig
from dinoforge.records import Record
from dinoforge.steps import export_file


def write_training(folder: Path, seed: int) -> Path:
    """Write a training whose recipe differs from others in its seed and its place."""
    write_run(folder, seed=1000 * seed)
    facts = {"command": "train", "working_folder": str(folder), "run_folder": str(folder)}
    (folder / "run.json").write_text(json.dumps(facts))
    recipe = {"out": str(folder), "seed": seed, "model": {"width": 24}, "steps": 100}
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def write_evaluation(config: EvaluationConfig, folder: Path) -> list[Record]:
    """Evaluate, and write what `Run.open` writes."""
    records = evaluated(config, folder)
    (folder / "config.yaml").write_text(config_yaml(config))
    facts = {"command": "evaluate", "parents": [config.checkpoint]}
    facts |= {"working_folder": str(folder), "run_folder": str(folder)}
    (folder / "run.json").write_text(json.dumps(facts))
    return records


@pytest.fixture(scope="session")
def project(pictures, tmp_path_factory):
    """Folders of trainings ``seed0`` and ``seed1`` and their evaluations; not to be changed.

    ``a`` and ``b`` are evaluations of the two, ``both`` of the first with the second as a baseline.
    """
    root = tmp_path_factory.mktemp("project")
    seeds = [write_training(root / f"seed{seed}", seed) for seed in (0, 1)]
    config = EvaluationConfig(
        out="",
        name="colors",
        train=[str(pictures / "bank")],
        test=[str(pictures / "test")],
        checkpoint=str(seeds[0]),
        features=["cls", "patch_mean"],
        device="cpu",
        knn=KnnConfig(k=[5, 20]),
        logistic=LogisticConfig(c_min=1e-1, c_max=1e1, c_count=2),
        collapse=CollapseConfig(),
        bootstrap=BootstrapConfig(resamples=300),
    )
    write_evaluation(replace(config, checkpoints="all"), root / "a")
    write_evaluation(replace(config, checkpoint=str(seeds[1])), root / "b")
    other = f"second=checkpoint:{export_file(seeds[1], 100)}"
    config_both = replace(
        config, baselines=[other, "pixels_centered"], protocols=["knn", "logistic"]
    )
    write_evaluation(config_both, root / "both")
    (root / "alone").mkdir()
    shutil.copy(root / "b" / "records.jsonl", root / "alone" / "records.jsonl")
    return root
