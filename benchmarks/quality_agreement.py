"""Issues of images as cleanvision scores them, and as dinoforge does: do the orders agree?

    python -m venv /tmp/cleanvision && /tmp/cleanvision/bin/pip install cleanvision
    python benchmarks/quality_agreement.py SHARED/data --python /tmp/cleanvision/bin/python --record

cleanvision runs in its own environment. Photographs: two tars of `imagenet-sample` and `animals4`;
for blur, of 200 of them a copy at 30 % of its contrast and one blurred by a Gaussian of 2 pixels.
"""

import argparse
import csv
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import print_table, start_clean
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from recording import write_result
from scipy.stats import rankdata, spearmanr

from dinoforge.images import decode
from dinoforge.scorers.make import PIXELS, make_scorer
from dinoforge.scorers.measures import MEASURES
from dinoforge.shards.reading import read_samples

CLEANVISION = """
import sys
from cleanvision import Imagelab
lab = Imagelab(data_path=sys.argv[1])
lab.find_issues(n_jobs=1)
lab.issues.to_csv(sys.argv[2], index_label="path")
"""
WORST = 20


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--python", required=True, help="interpreter that has cleanvision")
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    tars = [*sorted((args.data / "imagenet-sample").glob("*.tar"))[:2]]
    tars += sorted((args.data / "animals4").glob("*.tar"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photographs").mkdir()
        for tar in tars:
            for key, members in read_samples(tar):
                path = folder / f"photographs/{tar.stem}-{key}.jpg"
                path.write_bytes(members["jpg"])
        figures = {
            "orders": compare_orders(folder / "photographs", args.python),
            "blurred_copies": compare_blur(folder, args.python),
        }
    for topic, rows in figures.items():
        print_table(
            (topic, *next(iter(rows.values()))), [(n, *r.values()) for n, r in rows.items()]
        )
    if args.record:
        print(write_result("quality_agreement", figures).name)


def compare_orders(folder: Path, python: str) -> dict[str, dict[str, Any]]:
    """Compare ranks, and which are the worst."""
    rows = run_cleanvision(folder, python)
    values = measure(rows)
    figures = {}
    for issue, measured in (
        ("dark", values["dark"]),
        ("light", values["light"]),
        ("blurry", values["blur"]),
        ("low_information", -values["entropy"]),
        ("odd_aspect_ratio", values["aspect"]),
    ):
        scores = -np.array([float(row[f"{issue}_score"]) for row in rows])
        known = np.isfinite(measured)
        worst = [set(np.argsort(-of[known])[:WORST].tolist()) for of in (measured, scores)]
        figures[issue] = {
            "rank_correlation": round(float(spearmanr(measured[known], scores[known])[0]), 3),
            f"of_the_{WORST}_worst": len(worst[0] & worst[1]),
        }
    return figures


def compare_blur(folder: Path, python: str) -> dict[str, dict[str, Any]]:
    """Tell blurred copies from sharp ones, and from copies of low contrast."""
    (folder / "blur").mkdir()
    for number, path in enumerate(sorted((folder / "photographs").iterdir())[-200:]):
        photo = Image.fromarray(decode(path.read_bytes()))
        faint = Image.fromarray((np.asarray(photo) * 0.3 + 90).astype(np.uint8))
        copies = {
            "sharp": photo,
            "faint": faint,
            "blurred": photo.filter(ImageFilter.GaussianBlur(2)),
        }
        for kind, copy in copies.items():
            copy.save(folder / f"blur/{number:03d}-{kind}.png")
    rows = run_cleanvision(folder / "blur", python)
    kind = np.array([Path(row["path"]).stem.partition("-")[2] for row in rows])
    scores = {
        "dinoforge": np.nan_to_num(measure(rows)["blur"], nan=0.0),
        "cleanvision": -np.array([float(row["blurry_score"]) for row in rows]),
    }
    return {
        name: {
            f"auc_against_{other}": round(area(of[kind == "blurred"], of[kind == other]), 3)
            for other in ("sharp", "faint")
        }
        for name, of in scores.items()
    }


def run_cleanvision(folder: Path, python: str) -> list[dict[str, str]]:
    """Return the rows of its table of issues, by path."""
    table = folder.with_suffix(".csv")
    command = [python, "-c", CLEANVISION, str(folder), str(table)]
    subprocess.run(command, check=True, capture_output=True)
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(rows: list[dict[str, str]]) -> dict[str, NDArray[np.float64]]:
    """Measure the same files."""
    scorer, images = make_scorer(PIXELS), (decode(Path(row["path"]).read_bytes()) for row in rows)
    scores, aspect = [], []
    for image in images:
        scores.append(scorer.score([image])[0])
        aspect.append(max(image.shape[:2]) / min(image.shape[:2]))
    columns = dict(zip(MEASURES, np.array(scores, np.float64).T, strict=True))
    return columns | {"aspect": np.array(aspect)}


def area(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    least = len(positive) * (len(positive) + 1) / 2
    return float((ranks.sum() - least) / (len(positive) * len(negative)))


if __name__ == "__main__":
    main()
