"""`dinoforge embed` on the pool: a row an image, a vector for each that decodes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dinoforge.cli.main import main
from dinoforge.tables import read_table

OUTPUTS = ("embeddings.npy", "rows.parquet", "problems.csv")


def test_every_image_has_a_row_and_every_decodable_one_its_vector(pool, tmp_path, capsys):
    out = tmp_path / "embedded"
    assert main(["embed", str(pool.folder / "pool"), "--out", str(out), "--json", "-q"]) == 0
    answer = json.loads(capsys.readouterr().out, parse_constant=str)
    vectors = np.load(answer["embeddings"])
    rows = read_table(out / "rows.parquet").to_pylist()
    assert vectors.shape == (answer["num_rows"], answer["dim"])
    assert [row["row"] for row in rows if row["row"] >= 0] == list(range(len(vectors)))
    bad = {row["key"]: row["problem"].partition(":")[0] for row in rows if row["row"] < 0}
    assert bad == {"text": "not_an_image", "empty": "empty", "half": "truncated"}
    assert answer["num_bad"] == 3
    norms = np.linalg.norm(vectors[:50], axis=1)
    assert (np.isclose(norms, 1, atol=1e-5) | (norms == 0)).all()


def test_an_encoder_of_the_working_folder_is_found(dinoforge, pool, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\n\ndef mean(images):\n"
        "    return np.array([image.reshape(-1, 3).mean(0) + 1 for image in images])\n"
    )
    words = ["--encoder", "python:mine:mean", "--out", "out", "-q"]
    prelude = "import sys; sys.path[:] = [p for p in sys.path if p]"  # as the installed script
    done = dinoforge("embed", pool.folder / "seeds", *words, cwd=tmp_path, prelude=prelude)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out/embeddings.npy").shape == (13, 3)


SLOW = """
import time
import numpy as np


def slow(images):
    time.sleep(0.02 * len(images))
    return np.array([image.reshape(-1, 3).mean(0) + 1 for image in images])
"""


@pytest.fixture
def slow_embed(pool, tmp_path):
    """Start the command in a process group of its own, with pieces of 8 images."""
    (tmp_path / "mine.py").write_text(SLOW)
    code = (
        "import sys; from dinoforge.encoders import embedding; embedding._PIECE = 8\n"
        "from dinoforge.cli.main import main; sys.exit(main())"
    )
    words = ["embed", str(pool.folder / "pool"), "--encoder", "python:mine:slow", "-q"]
    words += ["--batch-size", "4", "--workers", "3", "--out", "out"]

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    return start


def pieces(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("out/cache/*/*.npy")}


def wait_for_pieces(process, folder, count):
    while len(pieces(folder)) < count and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None


def test_a_killed_command_leaves_no_process_and_goes_on_with_the_same_bytes(slow_embed, tmp_path):
    """By SIGKILL, then by SIGTERM, which ends it with 75; then to its end."""
    process = slow_embed()
    wait_for_pieces(process, tmp_path, 1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):  # nobody is left in its group
        os.killpg(process.pid, 0)
    first = pieces(tmp_path)
    process = slow_embed()
    wait_for_pieces(process, tmp_path, len(first) + 1)
    process.terminate()
    assert process.wait() == 75
    second = pieces(tmp_path)
    assert first.items() <= second.items()
    assert slow_embed().wait() == 0
    resumed = [(tmp_path / "out" / name).read_bytes() for name in OUTPUTS]
    assert not pieces(tmp_path)
    shutil.rmtree(tmp_path / "out")
    assert slow_embed().wait() == 0
    assert resumed == [(tmp_path / "out" / name).read_bytes() for name in OUTPUTS]
