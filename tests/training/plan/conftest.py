"""Recipes of small trainings with every feature that a plan counts; real steps, counted."""

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from dinoforge.config import load_config
from dinoforge.training.config import TrainingConfig
from dinoforge.training.plan.placement import Placement, held_by_rank_0, student_parameters
from dinoforge.training.plan.simulation import MicroBatch
from dinoforge.training.plan.sizes import Memory, memory_of_rank

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "tests/training/tiny.yaml"

# A net whose parts are all of a size, so that none could be forgotten within 10 %.
SMALL = (
    *("out=unused", "data.paths=[unused]", "model.width=64", "model.depth=3", "model.heads=4"),
    *("model.init=published", "model.attention=sdpa", "model.packing=separate"),
    *("crops.global_size=84", "crops.local_size=42", "crops.num_local=3"),
    *("dino_head.prototypes=512", "dino_head.hidden=40", "dino_head.bottleneck=24"),
    *("ibot_head.prototypes=384", "ibot_head.hidden=48", "ibot_head.bottleneck=16"),
)

# Everything that changes what a step computes or keeps.
VARIANTS = {
    "plain": (),
    "drop path": ("model.drop_path=0.4",),
    "shared head": ("separate_heads=false",),
    "registers and swiglu": ("model.registers=4", "model.ffn=swiglu"),
    "no layer scale": ("model.layer_scale=0",),
    "drop path, no layer scale": ("model.drop_path=0.3", "model.layer_scale=0"),
    "plain attention": ("model.attention=plain",),
    "groups": ("group_size=2", "model.drop_path=0.4"),
    "without iBOT": ("loss.ibot=0",),
    "without KoLeo": ("loss.koleo=0",),
    "heads of one layer": ("dino_head.layers=1", "ibot_head.layers=1"),
    "centering": ("teacher.balance=centering",),
    "bfloat16": ("precision=bfloat16",),
    "bfloat16, drop path, swiglu": (
        *("precision=bfloat16", "model.drop_path=0.4", "model.ffn=swiglu"),
    ),
    "bfloat16, plain attention, shared head": (
        *("precision=bfloat16", "model.attention=plain", "separate_heads=false"),
    ),
}


@pytest.fixture(scope="session")
def small() -> Callable[..., TrainingConfig]:
    """Make the recipe of a small training; takes ``key=value`` changes."""

    @functools.cache  # reading a recipe takes longer than planning it
    def make(*changes: str) -> TrainingConfig:
        return load_config(TrainingConfig, TINY, [*SMALL, *changes])

    return make


@pytest.fixture(scope="session")
def planned_memory() -> Callable[..., Memory]:
    """Plan the memory of a rank that runs a simulated micro-batch."""

    def plan(config: TrainingConfig, batch: MicroBatch, ranks: int = 1) -> Memory:
        placement = Placement.of(config, ranks)
        parameters, held = student_parameters(config), held_by_rank_0(config, placement)
        frozen = held_by_rank_0(config, placement, "frozen")
        return memory_of_rank(config, placement, parameters, held, batch, frozen)

    return plan


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def variant(request: pytest.FixtureRequest, small: Callable[..., TrainingConfig]) -> TrainingConfig:
    """One of the recipes that differ in what a step computes."""
    return small(*request.param)


@pytest.fixture(scope="session")
def measuring() -> ModuleType:
    """Real steps and what is counted in them: the module that the benchmark uses."""
    path = ROOT / "benchmarks/training_step.py"
    spec = importlib.util.spec_from_file_location("training_step", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def train_on_ranks(pictures: Path, run_ranks: Callable[..., None]) -> Callable[..., None]:
    """Train variants of the small recipe for a step on real ranks, and save them."""

    def run(count: int, folder: Path, variants: Mapping[str, Sequence[str]]) -> None:
        own = (*SMALL, f"data.paths=['{pictures}']")
        words = [f"{name}:1:{';'.join([*own, *changes])}" for name, changes in variants.items()]
        script = ROOT / "tests/training/distributed/rank_of_training.py"
        run_ranks(count, script, [str(TINY), str(folder), *words])

    return run
