"""Index a WebDataset tar in place: samples with the offsets of their members, and problems.

Nothing is repacked or extracted. Everything wrong with a shard is reported (`SHARD_REASONS`), and
every usable sample is kept.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from dinoforge.files import sha256_file
from dinoforge.images.formats import IMAGE_SUFFIXES
from dinoforge.shards.sidecar import read_sidecar
from dinoforge.shards.tar import Ending, Entry, TarWalk, split_member_name

__all__ = [
    "SHARD_REASONS",
    "Member",
    "Problem",
    "Sample",
    "ShardIndex",
    "index_shard",
    "problem",
    "summarize_reasons",
    "verify_shard",
]

SHARD_REASONS: Mapping[str, str] = {
    # The whole file.
    "unreadable": "it cannot be opened or read",
    "empty_file": "it has no bytes",
    "not_a_tar": "the first header is not a tar header",
    "compressed": "gzip, bzip2, xz or zstd: cannot be read by offset; uncompress it",
    # The end of the archive; samples before it are usable.
    "bad_header": "a header has a wrong checksum: nothing after it can be located",
    "truncated": "it ends inside a member or a header",
    "no_end_marker": "it ends between members, without an end-of-archive marker",
    "data_after_end": "there is data after the end of the archive, which is not read",
    "count_mismatch": "the number of samples differs from the checksum file",
    "size_mismatch": "the number of bytes differs from the checksum file",
    "checksum_mismatch": "the content differs from the checksum file",
    # One member or sample; everything else is usable.
    "not_a_file": "a link, device or sparse member: skipped",
    "no_key": "a member name without key or extension: skipped",
    "unsafe_name": "a name that leaves the folder; the key stays inside",
    "split_sample": "members of the sample are not consecutive; grouped by key",
    "duplicate_key": "the key occurs again; each occurrence is a sample",
    "no_image": "a sample without an image",
    "no_label": "a sample without .cls, although others of the shard have one",
}
_INCOMPLETE = frozenset(
    {"bad_header", "truncated", "no_end_marker", "data_after_end", "not_a_tar"}
    | {"count_mismatch", "size_mismatch"}
)

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"(\xb5/\xfd": "zstd"}
_LABEL_BYTES = 256  # a longer .cls is not a label
_RANK = {suffix: rank for rank, suffix in enumerate(IMAGE_SUFFIXES)}


class Problem(TypedDict):
    """One problem: where, why (a key of `SHARD_REASONS` or of `REASONS`), and details."""

    shard: str
    member: str  # "": the whole shard
    reason: str
    detail: str


def problem(shard: str, member: str, reason: str, detail: str = "") -> Problem:
    """Make one entry."""
    return Problem(shard=shard, member=member, reason=reason, detail=detail)


def summarize_reasons(problems: Iterable[Problem]) -> str:
    """Count by reason, for the end of a message: `` (3 truncated, 1 not_a_tar)``; "" for none."""
    reasons = Counter(sorted(entry["reason"] for entry in problems))
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f" ({counts})" if counts else ""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample: extension, name in the tar, offset and size of its bytes."""

    extension: str
    name: str
    offset: int
    size: int


@dataclass(slots=True)
class Sample:
    """Members with the same key, in the order of the tar; ``label`` is the text of ``.cls``."""

    key: str
    members: list[Member] = field(default_factory=list)
    label: str | None = None

    @property
    def image(self) -> Member | None:
        """The member that is the image, or None.

        Plain extensions precede dotted ones (``jpg`` before ``seg.png``), then the order of
        `IMAGE_SUFFIXES` decides, which lists the formats of photographs first.
        """
        ranked = []
        for position, member in enumerate(self.members):
            rank = _RANK.get(member.extension.rpartition(".")[2])
            if rank is not None:
                ranked.append((member.extension.count("."), rank, member.extension, position))
        return self.members[min(ranked)[3]] if ranked else None


@dataclass(frozen=True)
class ShardIndex:
    """Content of a tar.

    ``complete`` means that nothing is known to be missing: the archive ends properly and has as
    many samples as its checksum file lists, if there is one.
    """

    path: str
    num_bytes: int
    samples: list[Sample]  # usable ones, including those without an image
    problems: list[Problem]
    complete: bool


def index_shard(path: Path | str) -> ShardIndex:
    """Read the headers of an uncompressed tar, but no image.

    Compares it with the checksum file beside it, if any (see `ShardWriter`). Damaged and unreadable
    files never raise: see ``problems``.
    """
    shard = os.fspath(path)
    try:
        descriptor = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return _empty_index(shard, 0, "unreadable", error.strerror or str(error))
    try:
        num_bytes = os.fstat(descriptor).st_size
        head = os.pread(descriptor, 8, 0)
        if not head:
            return _empty_index(shard, 0, "empty_file", "0 bytes")
        for magic, name in _COMPRESSED.items():
            if head.startswith(magic):
                return _empty_index(shard, num_bytes, "compressed", name)
        walk, samples = TarWalk(descriptor, num_bytes), _Samples(shard)
        for entry in walk:
            samples.add(entry)
        samples.finish(walk.ending)
    except OSError as error:
        return _empty_index(shard, 0, "unreadable", error.strerror or str(error))
    finally:
        os.close(descriptor)
    problems = samples.problems + _compare_sidecar(shard, len(samples.samples), num_bytes)
    complete = not any(entry["reason"] in _INCOMPLETE for entry in problems)
    return ShardIndex(shard, num_bytes, samples.samples, problems, complete)


def verify_shard(path: Path | str) -> list[Problem]:
    """Compare the SHA-256 of a whole shard with its checksum file; empty if they are equal."""
    facts = read_sidecar(Path(path))
    if facts is None or sha256_file(Path(path)) == facts.sha256:
        return []
    return [problem(os.fspath(path), "", "checksum_mismatch", f"expected {facts.sha256}")]


def _empty_index(shard: str, num_bytes: int, reason: str, detail: str) -> ShardIndex:
    return ShardIndex(shard, num_bytes, [], [problem(shard, "", reason, detail)], complete=False)


def _compare_sidecar(shard: str, samples: int, num_bytes: int) -> list[Problem]:
    facts = read_sidecar(Path(shard))
    if facts is None:
        return []
    compared = (
        ("count_mismatch", samples, facts.samples, "samples"),
        ("size_mismatch", num_bytes, facts.num_bytes, "bytes"),
    )
    return [
        problem(shard, "", reason, f"{actual} of {expected} {unit}")
        for reason, actual, expected, unit in compared
        if actual != expected
    ]


class _Samples:
    """Group members to samples by key; members of a sample need not be consecutive."""

    def __init__(self, shard: str) -> None:
        self.samples: list[Sample] = []
        self.problems: list[Problem] = []
        self._shard = shard
        self._latest: dict[str, Sample] = {}  # by key
        self._last_key: str | None = None

    def add(self, entry: Entry) -> None:
        if entry.kind == b"5":
            return
        if entry.kind != b"0":
            self._note(entry.name, "not_a_file", f"type {entry.kind!r}")
            return
        name = split_member_name(entry.name)
        if name is None:
            self._note(entry.name, "no_key")
            return
        if not name.is_safe:
            self._note(entry.name, "unsafe_name", f"key {name.key}")
        sample = self._sample_of(name.key, name.extension, entry.name)
        sample.members.append(Member(name.extension, entry.name, entry.offset, entry.size))
        if name.extension == "cls" and entry.size <= _LABEL_BYTES:
            sample.label = entry.head.decode("utf-8", "backslashreplace").strip()
        self._last_key = name.key

    def _sample_of(self, key: str, extension: str, member: str) -> Sample:
        sample = self._latest.get(key)
        if sample is not None:
            if all(other.extension != extension for other in sample.members):
                if key != self._last_key:
                    self._note(member, "split_sample", f"key {key}")
                return sample
            self._note(member, "duplicate_key", f"key {key}")
        self._latest[key] = sample = Sample(key)
        self.samples.append(sample)
        return sample

    def finish(self, ending: Ending) -> None:
        """Note how the tar ends and what samples lack; drop a truncated sample."""
        if ending.reason is not None:
            self._note(ending.member, ending.reason, f"at byte {ending.at}")
        cut = split_member_name(ending.member) if ending.reason == "truncated" else None
        if cut is not None and self.samples and self.samples[-1].key == cut.key:
            self.samples.pop()
        has_labels = any(sample.label is not None for sample in self.samples)
        for sample in self.samples:
            if sample.image is None:
                self._note(sample.members[0].name, "no_image", f"key {sample.key}")
            elif has_labels and sample.label is None:
                self._note(sample.members[0].name, "no_label", f"key {sample.key}")

    def _note(self, member: str, reason: str, detail: str = "") -> None:
        self.problems.append(problem(self._shard, member, reason, detail))
