"""The checksum file beside a shard: `pool-000000.json` for `pool-000000.tar`."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from dinoforge.files import read_regular, write_json
from dinoforge.remote import is_url
from dinoforge.remote.store import read_object

__all__ = ["ShardFacts", "read_sidecar", "write_sidecar"]

_FORMAT = "dinoforge.shard/1"
_MAX_BYTES = 1 << 16  # a larger file is something else


@dataclass(frozen=True)
class ShardFacts:
    """Samples, members, bytes and SHA-256 of a tar."""

    samples: int
    members: int
    num_bytes: int
    sha256: str


def write_sidecar(shard: Path, facts: ShardFacts) -> None:
    """Write the checksum file of ``shard`` atomically."""
    write_json(
        shard.with_suffix(".json"),
        {
            "format": _FORMAT,
            "shard": shard.name,
            "samples": facts.samples,
            "members": facts.members,
            "bytes": facts.num_bytes,
            "sha256": facts.sha256,
        },
    )


def read_sidecar(shard: Path | str) -> ShardFacts | None:
    """Read the checksum file; None if it is missing or written by another program."""
    try:
        if is_url(text := os.fspath(shard)):
            data = read_object(text.removesuffix(".tar") + ".json", _MAX_BYTES)
        else:
            data = read_regular(Path(shard).with_suffix(".json"), _MAX_BYTES)
        content = json.loads(data)
        if content["format"] != _FORMAT:
            return None
        return ShardFacts(
            samples=int(content["samples"]),
            members=int(content["members"]),
            num_bytes=int(content["bytes"]),
            sha256=str(content["sha256"]),
        )
    except (OSError, KeyError, TypeError, ValueError):
        return None
