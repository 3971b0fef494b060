"""The checksum file beside a shard: `pool-000000.json` for `pool-000000.tar`."""

import json
from dataclasses import dataclass
from pathlib import Path

from dinoforge.files import read_regular, write_json

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


def read_sidecar(shard: Path) -> ShardFacts | None:
    """Read the checksum file; None if it is missing or written by another program."""
    try:
        content = json.loads(read_regular(shard.with_suffix(".json"), _MAX_BYTES))
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
