"""Errors that the user can fix, before and while several ranks train: exit 2, one line, once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hidden_packages import NO_TORCH
from PIL import Image

RECIPE = Path(__file__).parents[1] / "training" / "tiny.yaml"

THREE_RANKS = """\
default: {partition: cpu, memory_gb: 2}
stages: {train: {tasks_per_node: 3}}
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        rows, columns = np.mgrid[0:40, 0 : 36 + number]
        waves = [np.sin(rows / (2 + band) + columns / (3 + number)) for band in range(3)]
        pixels = (127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def reported(dinoforge, pictures, tmp_path):
    """Start a training that cannot be; returns the one line that it ends with."""

    def start(*words, on, out=None, **more):
        places = [f"out={out or tmp_path / 'run'}", f"data.paths=[{pictures}]"]
        done = dinoforge("train", RECIPE, *places, *words, "--on", on, "-q", **more)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert line.count(" - ") == 2
        return line.removeprefix("error: ")

    return start


@pytest.fixture
def profile(tmp_path):
    def write(text=THREE_RANKS):
        path = tmp_path / "profile.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("place", ["local", "slurm", "slurm --dry-run"])
@pytest.mark.parametrize(
    ("words", "what", "do"),
    [
        (["batch_size=4"], "`batch_size` 4 is not a multiple of 3 ranks", "give batch_size=3 or 6"),
        (
            ["batch_size=9", "parallel.accumulate=2"],
            "`batch_size` 9 is not a multiple of 3 ranks x 2 micro-batches",
            "give batch_size=6 or 12",
        ),
        (
            ["batch_size=12", "group_size=3"],
            "`group_size` 3 does not divide a micro-batch of 4 images",
            "give group_size=1, or another batch_size, parallel.accumulate or number of ranks",
        ),
        (
            ["batch_size=12", "parallel.mode=hsdp", "parallel.shard=2"],
            "`parallel.shard` 2 does not divide 3 ranks",
            "give parallel.shard=1, or another divisor of 3",
        ),
    ],
    ids=["ranks", "micro-batches", "groups", "mesh"],
)
def test_what_does_not_divide_is_reported_where_the_command_is_typed(
    reported, profile, tmp_path, words, what, do, place
):
    """Before a rank starts or a job is submitted, on a machine without torch."""
    where = "recipe"
    if place == "local":
        on = "local:3"
    else:
        on = f"slurm:{profile()}"
        where = f"recipe, 1 x 3 ranks of {profile()}"
    line = reported(*words, *place.split()[1:], on=on, prelude=NO_TORCH)
    assert line == f"{what} - {where} - {do}"
    assert not (tmp_path / "run").exists()


def test_ranks_of_a_machine_are_those_of_the_profile(reported, profile):
    """Under hsdp a copy lies on one machine when the recipe does not say on how many ranks."""
    text = THREE_RANKS.replace("tasks_per_node: 3", "nodes: 3, tasks_per_node: 4")
    path = profile(text)
    line = reported("batch_size=12", "parallel.mode=hsdp", "parallel.shard=5", on=f"slurm:{path}")
    assert line.startswith("`parallel.shard` 5 does not divide 12 ranks - recipe, 3 x 4 ranks of")


@pytest.mark.parametrize(
    ("text", "told_of"),
    [
        ("stages: {train: {task_per_node: 3}}", "(did you mean `stages.train.tasks_per_node`?)"),
        ("gpus: {partition: big}", "`gpus.partition` (did you mean `gpu.partition`?)"),
        ("default: {nodes: 0}", "`default.nodes` is 0"),
    ],
)
def test_a_mistyped_profile_is_reported_with_its_line(reported, profile, text, told_of):
    path = profile(f"# mine\n{text}\n")
    line = reported(on=f"slurm:{path}", prelude=NO_TORCH)
    assert told_of in line
    assert "nodes: 0" in text or f"{path}:2" in line


@pytest.mark.parametrize(
    ("stages", "words", "what"),
    [
        ("{train: {tasks_per_node: 3}}", ["device=cuda"], "the job of train requests no GPU"),
        (
            "{train: {tasks_per_node: 3, gpus_per_node: 2}}",
            ["device=auto"],
            "3 ranks share the 2 GPUs of a node",
        ),
    ],
)
def test_ranks_and_gpus_are_compared_before_anything_is_submitted(
    reported, profile, stages, words, what
):
    path = profile(f"stages: {stages}\n")
    line = reported("batch_size=6", *words, on=f"slurm:{path}", prelude=NO_TORCH)
    assert what in line
    assert str(path) in line


def test_a_machine_without_sbatch_is_reported(reported, profile, tmp_path):
    (tmp_path / "bin").mkdir()
    line = reported(
        "batch_size=6",
        on=f"slurm:{profile()}",
        env={"PATH": str(tmp_path / "bin")},
        prelude=NO_TORCH,
    )
    assert line == (
        "no sbatch on this machine - --on slurm - run the command on a login node of the "
        "cluster, or use --on local:N"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize(
    ("words", "what", "do"),
    [
        (["device=cuda"], "device `cuda` cannot be used", "give device=cpu, or cuda on a machine"),
        (["model.attention=varlen"], "varlen attention runs on CUDA devices only", "device=cuda"),
        (["model.attention=xformers"], "xformers", "model.attention=auto"),
        (["data.paths=[/nowhere]"], "no such file or folder - /nowhere", "check the path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_that_every_rank_meets_is_reported_by_one(reported, tmp_path, words, what, do):
    line = reported("batch_size=6", *words, on="local:3")
    assert line.startswith(what)
    assert do in line
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture(scope="module")
def trained(dinoforge, pictures, tmp_path_factory):
    """A finished training on two ranks."""
    out = tmp_path_factory.mktemp("trained") / "run"
    words = [f"out={out}", f"data.paths=[{pictures}]", "steps=2", "-q"]
    done = dinoforge("train", RECIPE, *words, "--on", "local:2")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def again(trained, tmp_path):
    """A copy of it, to go on with."""
    return Path(shutil.copytree(trained, tmp_path / "again"))


def test_a_changed_recipe_is_reported_once_by_its_keys(reported, again):
    before = sorted(again.iterdir())
    line = reported("steps=2", "optimizer.lr=0.5", "group_size=1", on="local:2", out=again)
    assert "recipe of this finished run changed: `group_size`, `optimizer.lr` - " in line
    assert "--update" in line
    assert sorted(again.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ("dino_head.prototypes=32", "dino_center.center: checkpoint [1, 24], model [1, 32]"),
        ("model.depth=1", "student.backbone.blocks.1.attn.proj.bias: checkpoint [16] only"),
        ("model.registers=2", "student.backbone.register_tokens: model [1, 2, 16] only"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_reported_once_with_what_differs(
    reported, again, change, differs
):
    line = reported("steps=2", change, "--update", on="local:2", out=again)
    assert line.startswith("checkpoint of another architecture: ")
    assert differs in line
    assert str(again / "checkpoints" / "step-000000002") in line


OLDER_GPU = """
import torch
from dinoforge.training import build, loop, precision
build.choose_device = loop.choose_device = lambda *_: torch.device("cuda", 0)
precision._multiplies_bfloat16_fast = lambda device: False
torch.cuda.get_device_name = lambda device=None: "Tesla T4"
"""


def test_a_gpu_without_bfloat16_is_reported(dinoforge, pictures, tmp_path):
    """Such a GPU is rare: what it would answer is given, everything else is real."""
    words = [f"out={tmp_path / 'run'}", f"data.paths=[{pictures}]", "precision=bfloat16", "-q"]
    done = dinoforge("train", RECIPE, *words, prelude=OLDER_GPU)
    assert done.stderr.splitlines() == [
        "error: Tesla T4 has no bfloat16 - precision=bfloat16 - set precision=float32 or auto"
    ]
    assert done.returncode == 2
