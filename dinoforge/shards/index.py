"""Index a WebDataset tar where it lies: samples with the offsets of their members, and problems.

Nothing is repacked or extracted. Whatever is wrong with a shard is said (`SHARD_REASONS`), and
every sample that can be used is kept.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from dinoforge.files import sha256_file
from dinoforge.shards.sidecar import read_sidecar
from dinoforge.shards.tar import Ending, Entry, TarWalk, image_extension, split_member_name

__all__ = [
    "SHARD_REASONS",
    "Member",
    "Problem",
    "Sample",
    "ShardIndex",
    "count_reasons",
    "in_words",
    "index_shard",
    "problem",
    "verify_shard",
]

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"(\xb5/\xfd": "zstd"}
_LABEL_BYTES = 256  # a longer .cls is no label


SHARD_REASONS: Mapping[str, str] = {
    # The file as a whole.
    "unreadable": "it cannot be opened or read",
    "empty_file": "no bytes at all",
    "not_a_tar": "the first header is none",
    "compressed": "gzip, bzip2 or xz: offsets do not reach into it; unpack it",
    # It ends too early, or goes on after its end; the samples before are usable.
    "bad_header": "a header has a wrong checksum: nothing after it can be found",
    "truncated": "it ends inside a member or a header",
    "no_end_marker": "it ends between members without the end of an archive: more may be missing",
    "data_after_end": "there is data after the end of the archive, not read",
    "count_mismatch": "other samples than its checksum file says",
    "size_mismatch": "other bytes than its checksum file says",
    "checksum_mismatch": "another content than its checksum file says",
    # One member or sample; everything else is usable.
    "not_a_file": "a link, device or sparse member: skipped",
    "no_key": "a member name without key or extension: skipped",
    "unsafe_name": "a name that leaves the folder; its key stays inside",
    "split_sample": "members of the sample are not consecutive; put together by key",
    "duplicate_key": "the key occurs again; each occurrence is a sample",
    "no_image": "a sample without an image",
    "no_label": "a sample without .cls, where others of the shard have one",
}


class Problem(TypedDict):
    """One thing found wrong: where, why (a key of `SHARD_REASONS` or of `REASONS`), and what."""

    shard: str
    member: str
    reason: str
    detail: str


def problem(shard: str, member: str, reason: str, detail: str = "") -> Problem:
    """Make one entry; ``member`` is empty when the whole shard is meant."""
    return Problem(shard=shard, member=member, reason=reason, detail=detail)


def count_reasons(problems: Iterable[Problem]) -> dict[str, int]:
    """Count problems by reason, most frequent first, ties by name."""
    counts = Counter(entry["reason"] for entry in problems)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def in_words(problems: Iterable[Problem]) -> str:
    """Tell the counts at the end of a message: `` (3 truncated, 1 not_a_tar)``; "" without any."""
    counts = ", ".join(f"{count} {reason}" for reason, count in count_reasons(problems).items())
    return f" ({counts})" if counts else ""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample: extension, name in the tar, first byte and length in the tar."""

    extension: str
    name: str
    offset: int
    size: int


@dataclass(slots=True)
class Sample:
    """Members that share a key, in the order of the tar; ``label`` is the text of ``.cls``."""

    key: str
    members: list[Member] = field(default_factory=list)
    label: str | None = None

    @property
    def image(self) -> Member | None:
        """The member that is the image; None without one."""
        chosen = image_extension(member.extension for member in self.members)
        return next((member for member in self.members if member.extension == chosen), None)


@dataclass(frozen=True)
class ShardIndex:
    """What a tar holds.

    ``complete`` is True when nothing is missing as far as can be known: a proper end of the
    archive, and the number of samples that its checksum file says, if it has one.
    """

    path: str
    num_bytes: int
    samples: list[Sample]
    problems: list[Problem]
    complete: bool

    @property
    def num_samples(self) -> int:
        """Samples that can be used, those without an image included."""
        return len(self.samples)


def index_shard(path: Path | str) -> ShardIndex:
    """Walk the headers of a tar; reads no image.

    Parameters
    ----------
    path : Path or str
        A plain tar. A checksum file beside it (`ShardWriter` makes one) is compared.

    Returns
    -------
    ShardIndex
        Never raises for what is in the file, or for a file that cannot be read: see
        ``problems``.
    """
    shard = os.fspath(path)
    try:
        descriptor = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return _nothing(shard, 0, "unreadable", error.strerror or str(error))
    try:
        num_bytes = os.fstat(descriptor).st_size
        head = os.pread(descriptor, 8, 0)
        if not head:
            return _nothing(shard, 0, "empty_file", "0 bytes")
        for magic, name in _COMPRESSED.items():
            if head.startswith(magic):
                return _nothing(shard, num_bytes, "compressed", name)
        return _indexed(shard, TarWalk(descriptor, num_bytes), num_bytes)
    except OSError as error:
        return _nothing(shard, 0, "unreadable", error.strerror or str(error))
    finally:
        os.close(descriptor)


def verify_shard(path: Path | str) -> list[Problem]:
    """Read a whole shard and compare its SHA-256 with the checksum file; empty when it fits."""
    facts = read_sidecar(Path(path))
    if facts is None or sha256_file(Path(path)) == facts.sha256:
        return []
    return [problem(os.fspath(path), "", "checksum_mismatch", f"expected {facts.sha256}")]


def _nothing(shard: str, num_bytes: int, reason: str, detail: str) -> ShardIndex:
    return ShardIndex(shard, num_bytes, [], [problem(shard, "", reason, detail)], complete=False)


def _indexed(shard: str, walk: TarWalk, num_bytes: int) -> ShardIndex:
    grouping = _Grouping(shard)
    for entry in walk:
        grouping.add(entry)
    grouping.finish(walk.ending)
    problems = grouping.problems + _against_sidecar(shard, len(grouping.samples), num_bytes)
    incomplete = {"bad_header", "truncated", "no_end_marker", "data_after_end", "not_a_tar"}
    incomplete |= {"count_mismatch", "size_mismatch"}
    complete = not any(entry["reason"] in incomplete for entry in problems)
    return ShardIndex(shard, num_bytes, grouping.samples, problems, complete)


def _against_sidecar(shard: str, samples: int, num_bytes: int) -> list[Problem]:
    facts = read_sidecar(Path(shard))
    if facts is None:
        return []
    found = []
    if samples != facts.samples:
        detail = f"{samples} of {facts.samples} samples"
        found.append(problem(shard, "", "count_mismatch", detail))
    if num_bytes != facts.num_bytes:
        detail = f"{num_bytes} of {facts.num_bytes} bytes"
        found.append(problem(shard, "", "size_mismatch", detail))
    return found


class _Grouping:
    """Members to samples, by key; neighbors of a sample need not be neighbors in the tar."""

    def __init__(self, shard: str) -> None:
        self.samples: list[Sample] = []
        self.problems: list[Problem] = []
        self._shard = shard
        self._open: dict[str, Sample] = {}  # the latest sample of each key
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
        sample = self._sample_for(name.key, name.extension, entry.name)
        sample.members.append(Member(name.extension, entry.name, entry.offset, entry.size))
        if name.extension == "cls" and entry.size <= _LABEL_BYTES:
            sample.label = entry.head.decode("utf-8", "backslashreplace").strip()
        self._last_key = name.key

    def _sample_for(self, key: str, extension: str, member: str) -> Sample:
        sample = self._open.get(key)
        is_again = sample is not None and any(m.extension == extension for m in sample.members)
        if sample is not None and not is_again:
            if key != self._last_key:
                self._note(member, "split_sample", f"key {key}")
            return sample
        if is_again:
            self._note(member, "duplicate_key", f"key {key}")
        self._open[key] = fresh = Sample(key)
        self.samples.append(fresh)
        return fresh

    def finish(self, ending: Ending) -> None:
        """Note how the tar ended, and what samples lack."""
        if ending.reason is not None:
            self._note(ending.member, ending.reason, f"at byte {ending.at}")
            self._drop_the_cut_sample(ending)
        has_labels = any(sample.label is not None for sample in self.samples)
        for sample in self.samples:
            if sample.image is None:
                self._note(sample.members[0].name, "no_image", f"key {sample.key}")
            elif has_labels and sample.label is None:
                self._note(sample.members[0].name, "no_label", f"key {sample.key}")

    def _drop_the_cut_sample(self, ending: Ending) -> None:
        name = split_member_name(ending.member) if ending.reason == "truncated" else None
        if name is not None and self.samples and self.samples[-1].key == name.key:
            self.samples.pop()

    def _note(self, member: str, reason: str, detail: str = "") -> None:
        self.problems.append(problem(self._shard, member, reason, detail))
