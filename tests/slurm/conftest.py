"""A real cluster for the tests: one that is given, or a private one started for the session."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import toys

from dinoforge.slurm.submit import SubmitRequest
from dinoforge.slurm.submit import submit as submit_run

ROOT = Path(__file__).resolve().parents[2]

PROFILE = """\
default: {partition: cpu, memory_gb: 0.5, minutes: 5}
gate: {memory_gb: 0.5}
probe: false
"""


def testbed() -> Path:
    """Folder of the scripts that start a private SLURM; skips where that cannot be."""
    shared = Path(os.environ.get("DINOFORGE_SHARED", ROOT.parent / "shared"))
    folder = shared / "slurm-testbed"
    if not (folder / "start.sh").is_file():
        pytest.skip("needs a SLURM cluster (SLURM_CONF) or the test bed (DINOFORGE_SHARED)")
    if os.geteuid() != 0:
        pytest.skip("the SLURM test bed needs root")
    return folder


@pytest.fixture(scope="session")
def start_bed(tmp_path_factory):
    """Start private clusters, with options; all are stopped at the end."""
    started = []

    def start(*options):
        scripts = testbed()
        folder = tmp_path_factory.mktemp("bed")
        done = subprocess.run(
            [scripts / "start.sh", folder, *options],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        if "not permitted" in done.stderr:  # a container without its own namespaces
            pytest.skip(f"the SLURM test bed: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
        started.append(folder)
        return folder

    yield start
    for folder in started:
        subprocess.run([testbed() / "stop.sh", folder, "--purge"], capture_output=True)


@pytest.fixture(scope="session")
def bed(start_bed):
    """Folder of the session's cluster; None when DINOFORGE_SLURM_CONF names one that is given."""
    given = os.environ.get("DINOFORGE_SLURM_CONF")
    if given:
        os.environ["SLURM_CONF"] = given
        if shutil.which("sbatch") is None:
            pytest.skip("no sbatch on this machine")
        return None
    folder = start_bed()
    os.environ["SLURM_CONF"] = str(folder / "etc/slurm.conf")
    return folder


@pytest.fixture
def own_bed(bed):
    """The private cluster, for tests that break nodes or freeze the controller."""
    if bed is None:
        pytest.skip("would disturb a cluster that is not ours")
    return bed


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder for a run; jobs of the test import its toys."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{Path(__file__).parent}")
    return tmp_path / "run"


@pytest.fixture
def profile(tmp_path):
    """Write a profile; lines are added to a small one."""

    def write(text=""):
        path = tmp_path / "profile.yaml"
        path.write_text(PROFILE + text)
        return str(path)

    return write


@pytest.fixture
def submit(bed, run, profile):
    """Submit the toy pipeline, misbehaving as asked."""

    def start(bad=None, extra="", change="refuse", **keys):
        run.mkdir(exist_ok=True)
        for partition, word in (bad or {}).items():
            (run / f"bad-{partition}").write_text(word)
        config = toys.ToyConfig(out=str(run), **keys)
        request = SubmitRequest(
            command="toy",
            config=config,
            profile=profile(extra),
            pipeline="toys:PIPELINE",
            change=change,
        )
        return submit_run(request)

    return start


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Waves along rows, and along columns: two classes."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(20):
        rows, columns = np.mgrid[0:40, 0:40]
        along = rows if number % 2 else columns
        waves = [np.sin(along * (0.2 + 0.03 * number) + band) for band in (1, 2, 3)]
        pixels = (127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)
        place = folder / ("rows" if number % 2 else "columns")
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder
