"""One import name: what the wheel holds, and that no other package or file can stand in its way."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dinoforge

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/training/tiny.yaml"
ROOMS = ("cli", "curation", "demo", "evaluation", "slurm", "training")

pytestmark = pytest.mark.timeout(300)


def build(tree, kind, folder):
    """Build one distribution with the installed hatchling; nothing is downloaded."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def test_the_wheel_has_one_top_level_package_with_every_room_and_recipe(wheel):
    files = [name for name in names(wheel) if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in files} == {"dinoforge"}
    rooms = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    ground = [path for path in (ROOT / "dinoforge").glob("*/*.py") if not path.parent.is_symlink()]
    sources = {f"dinoforge/{path.relative_to(ROOT)}" for path in rooms}
    sources |= {path.relative_to(ROOT).as_posix() for path in ground}
    assert sources <= set(files)
    assert len(sources) > 150
    configs = (ROOT / "configs").rglob("*.yaml")
    recipes = {f"dinoforge/_{path.relative_to(ROOT)}" for path in configs}
    assert recipes <= set(files)


def test_a_wheel_from_the_sdist_holds_the_same_files(wheel, tmp_path):
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    (tree,) = (tmp_path / "tree").iterdir()
    assert names(build(tree, "wheel", tmp_path / "again")) == names(wheel)


def rival_wheel(folder):
    """A distribution like open_clip_torch 2.24.0: top-level packages named as our folders are."""
    path = folder / "rival-1.0-py3-none-any.whl"
    info = {
        "METADATA": "Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for room in ROOMS:
            archive.writestr(f"{room}/__init__.py", f"raise RuntimeError('the rival {room}')\n")
            archive.writestr(f"{room}/config.py", "")
        for name, text in info.items():
            archive.writestr(f"rival-1.0.dist-info/{name}", text)
    return path


@pytest.mark.parametrize("order", ["rival first", "rival last"])
def test_a_rival_with_top_level_training_changes_nothing(order, wheel, pictures, tmp_path):
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv/bin/python"
    # Third-party packages come from the environment of the tests, behind what is installed here.
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (site / "third_party.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    wheels = [rival_wheel(tmp_path), wheel]
    for path in wheels if order == "rival first" else reversed(wheels):
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", str(path)], check=True)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def run(*words):
        return subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True)

    where = run(python, "-c", "import dinoforge.slurm; print(dinoforge.slurm.__file__)")
    assert where.stdout.startswith(str(site)), where.stderr
    assert "the rival" in run(python, "-c", "import training").stderr
    data = [f"data.paths=['{pictures}']", "steps=2", f"out={tmp_path / 'run'}"]
    done = run(tmp_path / "venv/bin/dinoforge", "train", TINY, *data, "--on", "local:2")
    assert done.returncode == 0, done.stderr
    for words in (["curate", "--list"], ["evaluate", "--list"], ["status", "--help"]):
        done = run(tmp_path / "venv/bin/dinoforge", *words)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", ["working folder", "PYTHONPATH"])
def test_a_users_own_training_py_is_not_imported(place, pictures, tmp_path):
    user = tmp_path / "user"
    user.mkdir()
    for room in ROOMS:
        (user / f"{room}.py").write_text(f"raise RuntimeError('the user\\'s {room}.py')\n")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join(
        [str(user)] * (place == "PYTHONPATH") + [str(Path(dinoforge.__file__).parents[1])]
    )
    words = ["train", TINY, f"data.paths=['{pictures}']", "steps=2", f"out={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "dinoforge", *words, "--on", "local:2"],
        cwd=user if place == "working folder" else tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/metrics.jsonl").read_text().count("\n") == 2


def test_the_links_of_the_source_tree_lead_to_the_folders():
    for room in ROOMS:
        assert (ROOT / "dinoforge" / room).readlink() == Path("..", room)
