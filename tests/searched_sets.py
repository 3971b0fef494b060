"""Tiny data sets of retrieval and copy detection, in published layouts."""

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image


def scene(number: int, *, light=0, side=48):
    """Draw a picture of 6 x 6 random colors; another light is another picture of the same."""
    colors = np.random.default_rng(number).integers(30, 220, (6, 6, 3))
    return (colors + light).astype(np.uint8).repeat(side // 6, 0).repeat(side // 6, 1)


def write_scenes(folder: Path, scenes) -> Path:
    """Write pictures, name -> pixels or the arguments of `scene`."""
    for name, pixels in scenes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = scene(pixels) if isinstance(pixels, int) else pixels
        Image.fromarray(picture).save(path, quality=95)
    return folder


def write_oxford(root: Path) -> Path:
    """Write ``roxford5k``: two queries, whose scenes fill a box of a picture of another scene."""
    database = {f"jpg/base_{n}.jpg": scene(n % 4, light=10 * (n // 4)) for n in range(12)}
    queries = {}
    for number in (0, 1):
        # Around the box is another scene of the database.
        picture = scene(2 + number, side=96)
        picture[24:72, 24:72] = scene(number, light=5)
        queries[f"jpg/query_{number}.jpg"] = picture
    write_scenes(root, {**database, **queries})
    names = [[Path(name).stem for name in part] for part in (database, queries)]
    box = [24.0, 24.0, 72.0, 72.0]
    truth = [{"easy": [n], "hard": [n + 4], "junk": np.array([n + 8]), "bbx": box} for n in (0, 1)]
    data = {"imlist": names[0], "qimlist": names[1], "gnd": truth}
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(data, protocol=2))
    return root


def write_ukbench(root: Path) -> Path:
    """Write ``ukbench``: three groups of four lights."""
    pictures = {f"full/ukbench{n:05d}.jpg": scene(n // 4, light=8 * (n % 4)) for n in range(12)}
    return write_scenes(root, pictures)


def write_amstertime(root: Path) -> Path:
    """Write ``amstertime``: four places; the last looks otherwise today."""
    old = {f"old/{n}.jpg": n for n in range(4)}
    new = {f"new/{n}.jpg": scene(n if n < 3 else 11, light=9) for n in range(4)}
    return write_scenes(root, old | new)


def write_met(root: Path) -> Path:
    """Write ``met``: three objects, a query of each and two distractors, for test and for val."""
    pictures = {f"images/MET/{n}/0.jpg": n for n in range(3)}
    lists = {"MET_database": [{"id": n, "path": f"MET/{n}/0.jpg"} for n in range(3)]}
    for split, light in (("test", 6), ("val", 12)):
        queries = [f"{split}/{n}.jpg" for n in range(5)]
        pictures |= {f"images/{q}": scene(n, light=light) for n, q in enumerate(queries)}
        lists[f"{split}set"] = [
            {"path": q} | ({"MET_id": n} if n < 3 else {}) for n, q in enumerate(queries)
        ]
    write_scenes(root, pictures)
    (root / "ground_truth").mkdir()
    for name, entries in lists.items():
        (root / "ground_truth" / f"{name}.json").write_text(json.dumps(entries))
    return root


def write_copydays(root: Path) -> Path:
    """Write ``copydays``: three originals, two copies of each."""
    originals = {f"original/20{n:02d}00.jpg": n for n in range(3)}
    copies = {
        f"strong/20{n:02d}{k:02d}.jpg": scene(n, light=6 * k) for n in range(3) for k in (1, 2)
    }
    return write_scenes(root, originals | copies)


def write_disc(root: Path) -> Path:
    """Write ``disc21``: three references, a copy of two of them, two other queries."""
    references = {f"images/references/R{n:06d}.jpg": n for n in range(3)}
    queries = {f"images/queries/Q{n:05d}.jpg": scene((0, 2, 7, 8)[n], light=7) for n in range(4)}
    write_scenes(root, references | queries)
    (root / "list_files").mkdir()
    (root / "list_files/dev_queries_25k").write_text("".join(f"Q{n:05d}\n" for n in range(4)))
    truth = "query_id,reference_id\nQ00000,R000000\nQ00001,R000002\n"
    (root / "list_files/public_ground_truth.csv").write_text(truth)
    return root


def write_edited(root: Path) -> tuple[Path, Path]:
    """Write ``ground_truth`` in ``queries`` with references in ``pool``: copies of 0 to 3 of 5."""
    write_scenes(root / "pool", {f"p{n}.jpg": n for n in range(5)})
    queries = {f"q{n}.jpg": scene(n if n < 4 else 9, light=5) for n in range(6)}
    queries["q3.jpg"] = queries["q3.jpg"][::-1]  # upside down
    write_scenes(root / "queries", queries)
    kinds = ["light"] * 3 + ["vflip"] + ["negative"] * 2
    truth = {
        f"q{n}": {"match": f"p{n}" if n < 4 else None, "kind": kinds[n]}
        for n in range(len(queries))
    }
    (root / "queries/ground_truth.json").write_text(json.dumps({"queries": truth}))
    return root / "queries", root / "pool"


def write_groups(root: Path) -> Path:
    """Write class folders: four scenes in three lights each."""
    return write_scenes(
        root, {f"c{n}/{k}.jpg": scene(20 + n, light=8 * k) for n in range(4) for k in range(3)}
    )
