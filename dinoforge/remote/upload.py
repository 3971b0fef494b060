"""Upload files to a folder of an object store, then the marker that commits them.

A rename is not atomic there, so the marker is the commit: it is removed before anything changes and
written last. An object that is there with the size and hash of its file is not sent again.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoforge.errors import UsageError, some_of
from dinoforge.files import sha256_file
from dinoforge.remote.store import delete_object, list_objects, object_key, read_object, request
from dinoforge.remote.urls import join_url, scheme_of

__all__ = ["Uploaded", "upload_files"]

_PART_BYTES = 50 << 20  # an object of twice this size or more is sent in parts
_UPLOADS = 4  # at a time
_FOLDERS = ("shards/", "published/")


@dataclass(frozen=True)
class Uploaded:
    """What an upload did."""

    sent: int  # objects
    present: int  # that were there
    removed: int  # that an earlier upload left


@dataclass(frozen=True)
class _Stored:
    """What a store has at a URL: size, the hash that was sent with it, checksum of the store."""

    size: int
    sha256: str
    checksum: str = ""  # "": none that can be compared


def upload_files(files: Mapping[str, Path], to: str, marker: str) -> Uploaded:
    """Upload ``files``, by their names below the URL ``to``, then the list of them as ``marker``.

    Raises
    ------
    UsageError
        If the folder has objects that no upload has written, or the store refuses or fails.
    """
    started = marker.replace(".json", "-unfinished.json")
    rows = [
        {"path": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for name, path in sorted(files.items())
    ]
    text = json.dumps({"objects": rows}, indent=1, sort_keys=True) + "\n"
    prefix = join_url(to, "")
    sizes = {one.url.removeprefix(prefix): one.size for one in list_objects(to)}
    known = {marker, started}
    for note in known & sizes.keys():
        known = known | _names(join_url(to, note))
    if foreign := [
        name for name in sorted(sizes) if name.startswith(_FOLDERS) and name not in known
    ]:
        raise UsageError(
            what=f"objects of something else: {some_of(foreign)}",
            where=to,
            do="give an empty folder",
        )
    is_same = marker in sizes and read_object(join_url(to, marker)) == text.encode()
    if is_same and all(sizes.get(str(row["path"])) == row["bytes"] for row in rows):
        return Uploaded(0, len(rows), 0)
    # From here on nothing is committed, and what is there is known to be of uploads.
    named = sorted({*known, *files} - {marker, started})
    _send_text(json.dumps({"objects": [{"path": name} for name in named]}), join_url(to, started))
    delete_object(join_url(to, marker))
    stale = [name for name in named if name in sizes and name not in files]
    for name in stale:
        delete_object(join_url(to, name))
    sent = sum(_send_all(files, rows, sizes, to))
    _send_text(text, join_url(to, marker))
    delete_object(join_url(to, started))
    return Uploaded(sent, len(rows) - sent, len(stale))


def _names(note: str) -> set[str]:
    try:
        return {str(row["path"]) for row in json.loads(read_object(note))["objects"]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def _send_all(
    files: Mapping[str, Path], rows: list[dict[str, Any]], sizes: Mapping[str, int], to: str
) -> Iterator[bool]:
    """Send what is not there; yields for each file whether it was sent."""

    def send(row: dict[str, Any]) -> bool:
        url, path = join_url(to, row["path"]), files[row["path"]]
        wanted = _Stored(row["bytes"], row["sha256"])
        if sizes.get(row["path"]) == row["bytes"] and _is_stored(url, wanted, path):
            return False
        _send_file(path, url, wanted.sha256)
        if not _is_stored(url, wanted, path):
            raise UsageError(
                what="the object differs from the file after its upload",
                where=url,
                do="rerun the command: it sends the object again",
            )
        return True

    with ThreadPoolExecutor(_UPLOADS) as pool:
        yield from pool.map(send, rows)


def _send_file(path: Path, url: str, sha256: str) -> None:
    options: dict[str, Any] = {"chunksize": _PART_BYTES}
    if scheme_of(url) == "s3":
        options |= {"Metadata": {"sha256": sha256}, "max_concurrency": 1}
    elif scheme_of(url) == "gs":
        options |= {"metadata": {"sha256": sha256}}
    else:
        options = {}
    request(url, lambda store: store.put_file(str(path), object_key(url), **options))


def _send_text(text: str, url: str) -> None:
    request(url, lambda store: store.pipe_file(object_key(url), text.encode()))


def _is_stored(url: str, wanted: _Stored, path: Path) -> bool:
    """Return whether an object has the size, the hash and the checksum of a file."""
    try:
        stored = request(url, lambda store: _describe(store, url))
    except FileNotFoundError:
        return False
    if (stored.size, stored.sha256) != (wanted.size, wanted.sha256):
        return False
    return stored.checksum in {"", *_checksums(path)}


def _describe(store: Any, url: str) -> _Stored:
    scheme, key = scheme_of(url), object_key(url)
    if scheme == "s3":
        bucket, _, name = key.partition("/")
        head = store.call_s3("head_object", Bucket=bucket, Key=name)
        # Under a key of the user's the ETag is no MD5.
        is_md5 = "aws:kms" not in head.get("ServerSideEncryption", "")
        checksum = head["ETag"].strip('"') if is_md5 else ""
        return _Stored(head["ContentLength"], head["Metadata"].get("sha256", ""), checksum)
    store.invalidate_cache()
    info = store.info(key)
    if scheme == "gs":
        checksum = base64.b64decode(info.get("md5Hash", "")).hex()
        return _Stored(info["size"], info.get("metadata", {}).get("sha256", ""), checksum)
    return _Stored(info["size"], sha256_file(Path(key)))


def _checksums(path: Path) -> set[str]:
    """Return the MD5 of a file, and what S3 makes of those of its parts."""
    whole, parts = hashlib.md5(usedforsecurity=False), []
    with path.open("rb") as file:
        while piece := file.read(_PART_BYTES):
            whole.update(piece)
            parts.append(hashlib.md5(piece, usedforsecurity=False).digest())
    of_parts = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return {whole.hexdigest(), f"{of_parts}-{len(parts)}"}
