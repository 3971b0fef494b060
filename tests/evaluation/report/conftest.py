"""A small finished project on disk: curation, training and evaluation run folders as they are."""

import hashlib
import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dinoforge.curated import LEDGER_SCHEMA, ledger_path, pairs_folder, summary_path
from dinoforge.curation.tables import PAIRS_SCHEMA
from dinoforge.records import Record, write_records
from dinoforge.steps import export_file
from dinoforge.tables import write_table

EDITS = ("jpeg", "resize", "flip", "crop", "brightness")


class Draft:
    """A curation being written: images go into tars, rows into the ledger."""

    def __init__(self, folder: Path, photographs: list[bytes]) -> None:
        self.folder = folder
        self.photographs = photographs
        self.rows: list[dict] = []
        # As a run names them: a source by its own path, what it planted relative to the run.
        self.sources = str(folder.parent / "sources" / "photographs.tar")
        self.planted = "curation/15-plant/planted-000000.tar"
        self.tars: dict[str, dict[str, bytes]] = {self.sources: {}, self.planted: {}}

    def add(self, data: bytes, **columns: object) -> int:
        image_id = len(self.rows)
        key = f"photo_{image_id:04d}"
        is_kept = columns.get("decision") == "kept"
        shard = self.planted if "edit" in columns else self.sources
        self.tars[shard][f"{key}.jpg"] = data
        self.rows.append(
            {
                "image_id": image_id,
                "key": key,
                "source": columns.get("role", "pool"),
                "role": "pool",
                "shard": shard,
                "member": f"{key}.jpg",
                "size": len(data),
                "width": 72,
                "height": 72,
                "sha256": hashlib.sha256(data).hexdigest(),
                "label": image_id % 5,
                "decision": "dropped",
                "copies": int(is_kept),
                "out_shard": "pool-000000.tar" if is_kept else None,
                "out_key": f"{image_id:09d}" if is_kept else None,
                **columns,
            }
        )
        return image_id

    def write(self) -> None:
        places = {name: write_tar(self.folder / name, tar) for name, tar in self.tars.items()}
        for row in self.rows:
            row["offset"] = places[row["shard"]][row["member"]]
        columns = {
            name: pa.array([row.get(name) for row in self.rows], LEDGER_SCHEMA.field(name).type)
            for name in LEDGER_SCHEMA.names
        }
        write_table(ledger_path(self.folder), pa.table(columns), LEDGER_SCHEMA)


def write_tar(path: Path, files: dict[str, bytes]) -> dict[str, int]:
    """Write a tar; returns where the bytes of each file begin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return {member.name: member.offset_data for member in tar}


def draw_photograph(number: int, side: int = 72) -> bytes:
    """JPEG of a made-up picture: sky, ground and a disk, colors and places by ``number``."""
    y, x = np.mgrid[0:side, 0:side] / side
    hue = number * 0.618
    sky = np.stack([0.35 + 0.3 * np.cos(hue + c) + 0.4 * y for c in (0, 1, 2)], axis=-1)
    ground = np.stack([0.3 + 0.2 * np.sin(2 * hue + c) * x for c in (0, 2, 4)], axis=-1)
    image = np.where((y > 0.55 + 0.1 * np.sin(7 * x + number))[..., None], ground, sky)
    center_x, center_y, radius = 0.3 + 0.4 * math.sin(number) ** 2, 0.4, 0.12 + 0.1 * (number % 3)
    disk = (x - center_x) ** 2 + (y - center_y) ** 2 < radius**2
    image[disk] = [0.9, 0.3 + 0.5 * math.cos(hue) ** 2, 0.2]
    return as_jpeg((image.clip(0, 1) * 255).astype(np.uint8))


def as_jpeg(image: np.ndarray, quality: int = 88) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def edited(data: bytes, edit: str) -> bytes:
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    side = image.shape[0]
    changed = {
        "jpeg": lambda: image,
        "resize": lambda: np.asarray(Image.fromarray(image).resize((side // 2, side // 2))),
        "flip": lambda: image[:, ::-1],
        "crop": lambda: image[side // 10 :, side // 10 :],
        "brightness": lambda: (image * 0.8).astype(np.uint8),
    }[edit]()
    return as_jpeg(np.ascontiguousarray(changed), quality=30 if edit == "jpeg" else 90)


def write_curation(folder: Path, photographs: list[bytes]) -> Path:
    """A finished curation of some 90 images with every kind of decision."""
    (folder / "curation").mkdir(parents=True)
    draft = Draft(folder, photographs)
    seeds = [
        draft.add(p, role="seed", decision="kept", reason="seed", component=n)
        for n, p in enumerate(photographs[:6])
    ]
    pool = [draft.add(p, reason="not_retrieved") for p in photographs[6:46]]
    for rank_and_seed, image_id in enumerate(pool[:24]):
        seed, rank = seeds[rank_and_seed % 6], rank_and_seed // 6
        retrieved = {"decision": "kept", "reason": "retrieved", "seed_id": seed, "rank": rank}
        draft.rows[image_id] |= retrieved | {"score": 0.91 - 0.07 * rank - 0.01 * seed}
    _add_broken(draft)
    _add_duplicates(draft, pool)
    _add_leaks(draft, photographs[46:50])
    draft.write()
    _write_pairs(folder, pool)
    _write_notes(folder, "curate", _CURATION_YAML)
    summary_path(folder).write_text(json.dumps(_summary(_leaked_pairs(draft))))
    _write_markers(folder)
    return folder


def _add_broken(draft: Draft) -> None:
    good = draft.photographs[0]
    for detail in ("truncated: 3 of 9 lines", "truncated: 1 of 9 lines", "not_an_image: GIF8"):
        draft.add(good[: len(good) // 2], reason="undecodable", detail=detail)
    draft.add(draw_photograph(1, side=8), reason="too_small", detail="8 x 8 pixels")


def _add_duplicates(draft: Draft, pool: list[int]) -> None:
    for original in (*pool[:4], pool[0]):
        draft.add(
            draft.photographs[original],
            reason="exact_duplicate",
            detail="same bytes",
            duplicate_of=original,
            similarity=1.0,
            edge_i=original,
            edge_j=len(draft.rows),
            component=original,
        )
    for number, original in enumerate(pool[4:19]):
        edit = EDITS[number % len(EDITS)]
        draft.add(
            edited(draft.photographs[original], edit),
            reason="near_duplicate",
            duplicate_of=original,
            similarity=0.998 - 0.003 * number,
            edge_i=original,
            edge_j=len(draft.rows),
            component=original,
            planted_from=original,
            edit=edit,
        )


def _add_leaks(draft: Draft, photographs: list[bytes]) -> None:
    for number, photograph in enumerate(photographs):
        reference = draft.add(photograph, role="reference", reason="reference")
        draft.add(
            edited(photograph, "brightness"),
            reason="leak",
            detail="direct",
            duplicate_of=reference,
            similarity=0.985 - 0.01 * number,
            edge_i=reference,
            edge_j=reference + 1,
        )


def _write_pairs(folder: Path, pool: list[int]) -> None:
    i, j = np.array(pool[:-1:2]), np.array(pool[1::2])
    similarity = np.linspace(0.949, 0.86, len(i)).astype(np.float32)
    table = pa.table([i, j, similarity], schema=PAIRS_SCHEMA)
    write_table(pairs_folder(folder) / "part-00000.pairs.parquet", table, PAIRS_SCHEMA)


def _share(hits: int, n: int) -> dict:
    return {"value": hits / n, "interval": [0.9 * hits / n, hits / n], "hits": hits, "n": n}


def _leaked_pairs(draft: Draft) -> list[dict]:
    """Pairs of the leaks, most similar first, and one below the threshold."""
    leaks = [row for row in draft.rows if row["reason"] == "leak"]
    pairs = [
        {
            "image_id": r["image_id"],
            "reference_id": r["duplicate_of"],
            "similarity": r["similarity"],
        }
        for r in leaks
    ]
    return [*pairs, {"image_id": 6, "reference_id": leaks[0]["duplicate_of"], "similarity": 0.92}]


def _summary(pairs: list[dict]) -> dict:
    grid = np.linspace(0.85, 0.995, 30).tolist()
    return {
        "problems": {"truncated_tar": 1},
        "duplicates": {
            "components_of_size": {"1": 40, "2": 7, "4": 2, "5": 1, "1200": 1},
            **{"largest_component": 1200, "smallest_similarity": 0.871},
        },
        "leaks": {
            "dropped_through_others": 0,
            "references": {
                "reference": {
                    **{"images": 4, "images_hit": 4, "hit_by": 4, "images_direct": 4},
                    **{"images_by_component": 4, "dropped": 4, "pairs": pairs},
                }
            },
        },
        "retrieval": {
            "asked": 24,
            "slots": 24,
            "distinct": 24,
            "quality": {
                "classes": 5,
                "seeds": 6,
                "precision_at": {"1": _share(5, 6), "10": _share(19, 60), "4": _share(17, 24)},
                "precision_chance": 0.2,
                "recall": _share(17, 40),
                "recall_chance": 0.6,
            },
        },
        "check": {
            "planted": 16,
            "recall": _share(15, 16),
            "recall_by_edit": {edit: _share(3, 4 if edit == "crop" else 3) for edit in EDITS},
            "precision": _share(15, 15),
            "curve": [
                {"threshold": t, "recall": 1 - (t - 0.85) ** 2 * 9, "precision": 0.8 + (t - 0.85)}
                for t in grid
            ],
        },
    }


_CURATION_YAML = """\
seed: 0
duplicates:
  encoder: pixels
  floor: 0.85
  threshold: 0.95  # recipe
retrieve:
  mode: seeds
  k: 4
"""


def _write_notes(folder: Path, command: str, config: str) -> None:
    (folder / "config.yaml").write_text(config)
    facts = {
        "command": command,
        "argv": [command, "quickstart", "out=runs/example images"],
        "config_hash": "0" * 64,
        "versions": {"dinoforge": "0.1.0", "torch": "2.13.0"},
        "commit": "1d78432abcde",
        "host": "laptop",
        "cores": 2,
        "started": "2026-11-24T10:00:00+00:00",
        "stopped": "2026-11-24T10:01:10+00:00",
    }
    (folder / "run.json").write_text(json.dumps(facts))


def _write_markers(folder: Path) -> None:
    for number, stage in ((10, "ingest"), (20, "filter"), (30, "embed"), (80, "export")):
        place = folder / "curation" / f"{number:02d}-{stage}"
        place.mkdir(parents=True, exist_ok=True)
        measured = {"seconds": number / 7, "cpu_seconds": number / 8, "peak_rss_mib": 400 + number}
        if stage == "embed":
            measured |= {"images": 100, "images_per_s": 50.0, "decode_wait": 0.25}
        marker = {"stage": stage, "facts": {}, "measured": measured}
        for part in range(2):
            (place / f"part-{part:05d}.done").write_text(json.dumps(marker))


def write_training(folder: Path, *, backbones: bool) -> Path:
    """A finished training of 1,500 steps: metrics, and small random backbones if asked."""
    folder.mkdir(parents=True)
    _write_notes(folder, "train", "seed: 0\ndino_head:\n  prototypes: 1024\n")
    noise = np.random.default_rng(0).normal(0, 1, (300, 8))
    lines = []
    for row in range(300):
        t, wave = row / 300, 0.05 * noise[row]
        decay = math.exp(-4 * t)
        lines.append(
            {
                "step": 5 * (row + 1),
                "loss/total": 9.2 + 4.2 * decay + wave[0],
                "loss/dino": 4.4 + 2.3 * decay + wave[1],
                "loss/dino_global": 0.8 + 0.6 * decay + wave[1] / 4,
                "loss/dino_local": 3.6 + 1.7 * decay + wave[1] / 2,
                "loss/ibot": 4.8 + 1.9 * decay + wave[2],
                "loss/koleo": 0.9 + 0.4 * decay + wave[3] / 4,
                "teacher/entropy_of_mean": 6.8 - 0.8 * decay + wave[4] / 9,
                "teacher/mean_entropy": 2.1 + 4 * decay + wave[4] / 3,
                "features/std": 0.97 - 0.6 * decay,
                "gradient/backbone": 1.1 + 2 * decay + abs(wave[5]),
                "gradient/dino_head": 0.6 + decay + abs(wave[6]),
                "gradient/ibot_head": 0.4 + decay / 2 + abs(wave[7]),
                "schedule/lr": 5e-4 * min(1, 10 * t) * (1 + math.cos(math.pi * t)) / 2,
                "schedule/weight_decay": 0.04 + 0.36 * t,
                "schedule/momentum": 0.992 + 0.008 * t,
                "schedule/teacher_temperature": min(0.07, 0.04 + 0.1 * t),
                "clock/images_per_s": 210 + 20 * wave[5],
                "clock/data_wait_s": 0.1 + abs(wave[6]),
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if backbones:
        _write_backbones(folder)
    return folder


def _write_backbones(folder: Path) -> None:
    from dinoforge.models.config import VitConfig
    from dinoforge.models.vit import build_vit
    from dinoforge.models.weights import save_backbone

    config = VitConfig(width=48, depth=2, heads=3, patch_size=8, image_size=64, init="xavier")
    for step in (0, 1500):
        path = export_file(folder, step)
        save_backbone(path, build_vit(config, seed=step), {"step": str(step)})


_SCORES = {
    ("trained", "cls"): 0.672,
    ("trained", "patch_mean"): 0.741,
    ("trained", "both"): 0.728,
    ("untrained", "cls"): 0.512,
    ("untrained", "patch_mean"): 0.563,
    ("untrained", "both"): 0.561,
    ("pixels", "pixels"): 0.598,
}


def make_records() -> list[Record]:
    """Records of a k-NN evaluation with its differences, and signs of collapse."""
    records = []
    for (model, features), top in _SCORES.items():
        for k in (10, 20, 100, 200):
            value = top - 0.0006 * abs(k - 20)
            records.append(
                Record(
                    benchmark="knn/example",
                    model=model,
                    metric="accuracy",
                    value=value,
                    interval=(value - 0.031, value + 0.029),
                    n=800,
                    settings={"k": k, "features": features, "temperature": 0.07},
                )
            )
        if model != "pixels":
            records += [
                Record(
                    benchmark="collapse/example",
                    model=model,
                    metric=metric,
                    value=value,
                    n=800,
                    settings={"features": features},
                )
                for metric, value in (("rankme", 61.2 + 40 * top), ("feature_std", 0.6 + top / 2))
            ]
    for other in ("untrained", "pixels"):
        for features in ("cls", "patch_mean"):
            expected = "pixels" if other == "pixels" else features
            value = _SCORES["trained", features] - max(
                _SCORES[other, f] for f in ("pixels", features) if (other, f) in _SCORES
            )
            records += [
                Record(
                    benchmark="knn/example",
                    model="trained - " + other,
                    metric="accuracy_difference",
                    value=value,
                    interval=(value - 0.034, value + 0.033),
                    n=800,
                    settings={
                        "k": k,
                        "model_a": "trained",
                        "model_b": other,
                        "features_a": features,
                        "features_b": expected,
                    },
                )
                for k in (10, 20)
            ]
    return records


def write_evaluation(folder: Path) -> Path:
    """A finished evaluation."""
    folder.mkdir(parents=True)
    _write_notes(folder, "evaluate", "k: [10, 20, 100, 200]\n")
    write_records(folder / "records.jsonl", make_records())
    return folder


def write_project(folder: Path, photographs: list[bytes], *, backbones: bool) -> dict[str, Path]:
    """All three runs; the arguments of `make_report`."""
    return {
        "curation": write_curation(folder / "curation", photographs),
        "training": write_training(folder / "training", backbones=backbones),
        "evaluation": write_evaluation(folder / "evaluation"),
    }


@pytest.fixture(scope="session")
def photographs() -> list[bytes]:
    """Fifty small made-up photographs as JPEG."""
    return [draw_photograph(number) for number in range(50)]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, photographs: list[bytes]) -> dict[str, Path]:
    """Arguments of `make_report` for a small finished project; not to be changed."""
    folder = tmp_path_factory.mktemp("project")
    return write_project(folder, photographs, backbones=True)


@pytest.fixture(scope="session")
def records() -> list[Record]:
    """Records of the project's evaluation; not to be changed."""
    return make_records()
