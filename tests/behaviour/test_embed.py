"""`dinoforge embed` on the pool: a row an image, a vector for each that decodes."""

import json

import numpy as np

from dinoforge.cli.main import main
from dinoforge.tables import read_table


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
