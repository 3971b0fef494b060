"""Shards, folders and tables as img2dataset 1.47 writes them, compared with its real output.

Its `writer.py` and `downloader.py`: a row of every attempt in the table beside, members of the
successful ones alone, in the order in which downloads end, and the counts as ``_stats.json``.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

# Of the samples of a shard, by their position: what happened to them, if not a success.
FAILED = {
    2: ("failed_to_download", "HTTP Error 404: Not Found"),
    5: ("failed_to_resize", "Image decoding error"),
    6: ("failed_to_download", "<urlopen error [Errno -2] Name or service not known>"),
}
PER_SHARD = 8
_WRITTEN = pa.schema(
    [(name, pa.string()) for name in ("key", "status", "error_message")]
    + [(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
    + [(name, pa.string()) for name in ("exif", "sha256")]
)


def jpeg(number: int) -> bytes:
    """Bytes of a picture that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 255, (40, 48, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def url_list(num: int, **columns: list[Any]) -> list[dict[str, Any]]:
    """Rows of a list of URLs: uid, url, caption, and further columns."""
    names = {"uid": [f"{at:032x}" for at in range(num)]}
    names |= {"url": [f"https://site{at % 3}.org/{at}.jpg" for at in range(num)]}
    names |= {"caption": [f"picture {at}" for at in range(num)]} | columns
    return [dict(zip(names, row, strict=True)) for row in zip(*names.values(), strict=True)]


def write_crawl(folder: Path, rows: list[dict[str, Any]], layout: str, *, shard_digits=5) -> int:
    """Write the download of a list of URLs as webdataset, files or parquet; returns successes."""
    folder.mkdir(parents=True)
    schema = pa.Table.from_pylist(rows).schema
    successes = 0
    for shard in range(0, len(rows), PER_SHARD):
        name = f"{shard // PER_SHARD:0{shard_digits}d}"
        attempts = []
        for at, row in enumerate(rows[shard : shard + PER_SHARD]):
            status, error = FAILED.get(at, ("success", None))
            data = jpeg(shard + at) if error is None else None
            size = (48, 40, 480, 400) if data else (None,) * 4
            sha256 = hashlib.sha256(b"original" + data).hexdigest() if data else None
            written = (f"{name}{at}", status, error, *size, "{}" if data else None, sha256)
            attempts.append((row | dict(zip(_WRITTEN.names, written, strict=True)), data))
        attempts = attempts[3:] + attempts[:3]  # threads end in any order
        _WRITERS[layout](folder, name, attempts)
        table = pa.Table.from_pylist(
            [row for row, _ in attempts], pa.unify_schemas([schema, _WRITTEN])
        )
        if layout == "parquet":
            table = table.append_column(
                "jpg", pa.array([data for _, data in attempts], pa.binary())
            )
        pq.write_table(table, folder / f"{name}.parquet")
        counts = dict.fromkeys(("failed_to_download", "failed_to_resize"), 0)
        counts |= {s: [row["status"] for row, _ in attempts].count(s) for s in counts}
        good = len(attempts) - sum(counts.values())
        stats = {"count": len(attempts), "successes": good, **counts, "duration": 0.2}
        (folder / f"{name}_stats.json").write_text(
            json.dumps(stats | {"status_dict": {"success": good}}, indent=4)
        )
        successes += good
    return successes


def _members(row: dict[str, Any], data: bytes) -> dict[str, bytes]:
    note = json.dumps(row, indent=4).encode()
    return {"jpg": data, "json": note, "txt": row["caption"].encode()}


def _write_tar(folder: Path, name: str, attempts: list[Any]) -> None:
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for row, data in attempts:
            for extension, content in _members(row, data).items() if data else ():
                entry = tarfile.TarInfo(f"{row['key']}.{extension}")
                entry.size, entry.uname, entry.mode = len(content), "bigdata", 0o444
                tar.addfile(entry, io.BytesIO(content))


def _write_files(folder: Path, name: str, attempts: list[Any]) -> None:
    (folder / name).mkdir()
    for row, data in attempts:
        for extension, content in _members(row, data).items() if data else ():
            (folder / name / f"{row['key']}.{extension}").write_bytes(content)


_WRITERS = {"webdataset": _write_tar, "files": _write_files, "parquet": lambda *_: None}


def write_datacomp(folder: Path, num: int) -> int:
    """Write a slice of DataComp: its metadata, and what its `download_upstream.py` makes of it."""
    draw = np.random.default_rng(0)
    uids = [f"{at:032x}" for at in draw.permutation(num).tolist()]
    rows = url_list(num, uid=uids)
    metadata = pa.table(
        {
            "uid": uids,
            "url": [row["url"] for row in rows],
            "text": [row["caption"] for row in rows],
            "original_width": pa.array([480] * num, pa.int64()),
            "original_height": pa.array([400] * num, pa.int64()),
            "clip_b32_similarity_score": pa.array([at / num for at in range(num)], pa.float32()),
            "clip_l14_similarity_score": pa.array(
                [1 - at / num for at in range(num)], pa.float32()
            ),
            "face_bboxes": pa.array(
                [[[0.1, 0.1, 0.2, 0.2]] if at % 4 == 0 else [] for at in range(num)]
            ),
            "sha256": [hashlib.sha256(uid.encode()).hexdigest() for uid in uids],
        }
    )
    (folder / "metadata").mkdir(parents=True)
    half = num // 2
    for part, table in enumerate((metadata.slice(0, half), metadata.slice(half))):
        name = f"metadata/{hashlib.md5(bytes([part])).hexdigest()}.parquet"
        pq.write_table(table, folder / name, row_group_size=5)
    return write_crawl(folder / "shards", rows, "webdataset", shard_digits=8)


def write_hugging_face(folder: Path, num: int) -> None:
    """Write a table as `datasets` writes an image dataset with `to_parquet`."""
    image = pa.array(
        [{"bytes": jpeg(at), "path": f"{at:03d}.jpg"} for at in range(num)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    columns = {
        "image": image,
        "text": [f"picture {at}" for at in range(num)],
        "nsfw": pa.array([at / num for at in range(num)]),
    }
    features = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
    info = json.dumps({"info": {"features": features}})
    folder.mkdir(parents=True)
    table = pa.table(columns).replace_schema_metadata({"huggingface": info})
    pq.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=4)
