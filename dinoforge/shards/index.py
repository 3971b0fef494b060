"""Index a WebDataset tar in place: samples with the offsets of their members, and problems.

Nothing is repacked or extracted. Everything wrong with a shard is reported (`SHARD_REASONS`), and
every usable sample is kept.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypedDict

from dinoforge.files import decode_text, open_regular, sha256_file
from dinoforge.images.formats import IMAGE_SUFFIXES, SNIFF_BYTES, sniff
from dinoforge.remote import is_url
from dinoforge.remote.reading import RemoteFile
from dinoforge.remote.store import find_object
from dinoforge.shards.sidecar import read_sidecar
from dinoforge.shards.tar import BLOCK, Entry, TarWalk, is_header, split_member_name

__all__ = [
    "INCOMPLETE",
    "NOTES",
    "NOT_READ",
    "SHARD_REASONS",
    "Member",
    "Problem",
    "Sample",
    "ShardImage",
    "ShardIndex",
    "UniqueKeys",
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
    "no_members": "an archive without files",
    "compressed": "compressed in a way that is not read: uncompress it",
    # The end of the archive; samples before it are usable.
    "bad_header": "a header has a wrong checksum: nothing after it can be located",
    "truncated": "it ends inside a member or a header",
    "no_end_marker": "it has no end-of-archive marker: probably truncated between members",
    "data_after_end": "there is data after the end of the archive, which is not read",
    "long_zeros": "more than 20 KiB of zeros where a member could be: data may be missing there",
    "damaged_stream": "the compressed stream is damaged or ends early",
    "count_mismatch": "the number of samples differs from the checksum file",
    "size_mismatch": "the number of bytes differs from the checksum file",
    "missing_samples": "it has fewer samples than the table beside it states to be downloaded",
    "checksum_mismatch": "the content differs from the checksum file",
    # One member or sample; everything else is usable.
    "not_a_file": "a link, device, sparse member, or part of a file on another volume: skipped",
    "no_key": "a member name without key or extension: skipped",
    "unsafe_name": "a name that leaves the folder; the key stays inside",
    "split_sample": "members of the sample are not consecutive; grouped by key",
    "duplicate_key": "the key occurs again; each occurrence is a sample, images are numbered",
    "appended_tar": "another archive follows the end of the first (cat a.tar b.tar); read, too",
    "no_image": "a sample without an image",
    "no_label": "a sample without .cls, or with an empty one, although others have one",
    "long_label": "a .cls of more than 256 bytes: not a label",
}
# Nobody knows what is in it.
NOT_READ = frozenset({"unreadable", "not_regular", "hidden_folder"})
# Samples may be missing, and nobody knows how many.
INCOMPLETE = NOT_READ | frozenset(
    {"bad_header", "truncated", "no_end_marker", "data_after_end", "damaged_stream", "compressed"}
    | {"empty_file", "not_a_tar", "count_mismatch", "size_mismatch", "missing_shard"}
    | {"no_members", "long_zeros", "missing_samples"}
)
# Noted about samples that are used.
NOTES = frozenset(
    {"unsafe_name", "split_sample", "duplicate_key", "appended_tar", "no_label", "long_label"}
)

_COMPRESSED = {
    **{b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"(\xb5/\xfd": "zstd"},
    **{b"]\0\0": "lzma", b"LZIP": "lzip", b"\x1f\x9d": "compress", b'\4"M\x18': "lz4"},
}
_LABEL_BYTES = 256
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


class Member(NamedTuple):
    """One file of a sample: extension, name in the tar, offset and size of its bytes."""

    extension: str
    name: str
    offset: int
    size: int
    is_image: bool = False  # by its suffix or its content


@dataclass(slots=True)
class Sample:
    """Members with the same key, as WebDataset has them."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)  # by extension, as in the tar
    labels: dict[str, str] = field(default_factory=dict)  # `seg`: text of ``.seg.cls``

    @property
    def images(self) -> list[Member]:
        """All members that are images, in the order of the tar."""
        return [member for member in self.members.values() if member.is_image]

    @property
    def image(self) -> Member | None:
        """The member that is preferred as the image of the key, or None; see `_preference`."""
        return min(self.images, key=_preference, default=None)


class ShardImage(NamedTuple):
    """One image, with a key that no other image of the tar has, and the text of its ``.cls``."""

    key: str
    member: Member
    label: str | None


@dataclass(frozen=True)
class ShardIndex:
    """Content of a tar."""

    path: str
    num_bytes: int
    samples: list[Sample]  # usable ones, including those without an image
    images: list[ShardImage]  # all images of the samples
    problems: list[Problem]

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing.

        The archive ends properly and has as many samples as its checksum file lists, if any.
        """
        return not any(entry["reason"] in INCOMPLETE for entry in self.problems)


def index_shard(path: Path | str) -> ShardIndex:
    """Read the headers of an uncompressed tar, at a path or a URL, but no image.

    Compares it with the checksum file beside it, if any (see `ShardWriter`). Damaged and unreadable
    files never raise: see ``problems``.

    Raises
    ------
    UsageError
        If an object store refuses, or does not answer.
    """
    shard = os.fspath(path)
    try:
        if is_url(shard):
            if (entry := find_object(shard)) is None:
                return _empty_index(shard, 0, "unreadable", "no such object")
            return _index(shard, RemoteFile(shard, entry.size).pread, entry.size)
        with os.fdopen(open_regular(shard), "rb") as file:
            handle = file.fileno()
            return _index(shard, partial(os.pread, handle), os.fstat(handle).st_size)
    except OSError as error:
        return _empty_index(shard, 0, "unreadable", error.strerror or str(error))


def _index(shard: str, pread: Callable[[int, int], bytes], num_bytes: int) -> ShardIndex:
    head = pread(BLOCK, 0)
    if not head:
        return _empty_index(shard, 0, "empty_file", "0 bytes")
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic) and not is_header(head):  # a member may be named `BZh`
            return _empty_index(shard, num_bytes, "compressed", name)
    walk, grouped = TarWalk(pread, num_bytes), _Samples(shard)
    for entry in walk:
        grouped.add(entry)
    images = grouped.finish(walk)
    problems = grouped.problems + _compare_sidecar(shard, len(grouped.samples), num_bytes)
    return ShardIndex(shard, num_bytes, grouped.samples, images, problems)


def verify_shard(path: Path | str) -> list[Problem]:
    """Compare the SHA-256 of a whole shard with its checksum file; empty if they are equal."""
    facts = read_sidecar(Path(path))
    if facts is None or sha256_file(Path(path)) == facts.sha256:
        return []
    return [problem(os.fspath(path), "", "checksum_mismatch", f"expected {facts.sha256}")]


def _empty_index(shard: str, num_bytes: int, reason: str, detail: str) -> ShardIndex:
    return ShardIndex(shard, num_bytes, [], [], [problem(shard, "", reason, detail)])


def _compare_sidecar(shard: str, samples: int, num_bytes: int) -> list[Problem]:
    facts = read_sidecar(shard)
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
    """Group members by key, then to samples; members of a sample need not be consecutive."""

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
        extension = name.extension if name is not None else ""
        stem, _, suffix = extension.rpartition(".")
        is_image = suffix in _RANK
        if not is_image and suffix != "cls":
            is_image = sniff(entry.head[:SNIFF_BYTES], suffix) is not None
        if name is None or not (extension or is_image):
            self._note(entry.name, "no_key")
            return
        if not name.is_safe:
            self._note(entry.name, "unsafe_name", f"key {name.key}")
        sample = self._sample_of(name.key, extension, entry.name)
        member = Member(extension, entry.name, entry.offset, entry.size, is_image)
        sample.members[extension] = member
        if suffix == "cls" and entry.size > _LABEL_BYTES:
            self._note(entry.name, "long_label", f"{entry.size} bytes")
        elif suffix == "cls":
            sample.labels[stem] = decode_text(entry.head, "backslashreplace").strip()
        self._last_key = name.key

    def _sample_of(self, key: str, extension: str, member: str) -> Sample:
        sample = self._latest.get(key)
        if sample is not None and extension not in sample.members:
            if key != self._last_key:
                self._note(member, "split_sample", f"key {key}")
            return sample
        if sample is not None:
            self._note(member, "duplicate_key", f"key {key}")
        self._latest[key] = sample = Sample(key)
        self.samples.append(sample)
        return sample

    def finish(self, walk: TarWalk) -> list[ShardImage]:
        """Note how the tar ends and what samples lack; drop a truncated one; return the images."""
        self._note_end(walk)
        ending = walk.ending
        cut = split_member_name(ending.member) if ending.reason == "truncated" else None
        last = self._latest.get(cut.key) if cut is not None else None
        if last is not None and last is self.samples[-1] and not last.images:
            self.samples.pop()
        for sample in self.samples:
            if not sample.images:
                first = next(iter(sample.members.values()))
                self._note(first.name, "no_image", f"key {sample.key}")
        images = _name_images(self.samples)
        if any(image.label is not None for image in images):
            for image in images:
                if image.label is None:
                    self._note(image.member.name, "no_label", f"key {image.key}")
        return images

    def _note_end(self, walk: TarWalk) -> None:
        for at in walk.appended:
            self._note("", "appended_tar", f"at byte {at}")
        for at in walk.long_zeros:
            self._note("", "long_zeros", f"at byte {at}")
        if walk.ending.reason is not None:
            self._note(walk.ending.member, walk.ending.reason, f"at byte {walk.ending.at}")
        elif not (self.samples or self.problems):
            self._note("", "no_members")

    def _note(self, member: str, reason: str, detail: str = "") -> None:
        self.problems.append(problem(self._shard, member, reason, detail))


def _name_images(samples: Iterable[Sample]) -> list[ShardImage]:
    """Give every image a key: that of its sample, or its own name among several images.

    Of ``photo.2019.00.jpg`` and ``photo.2019.01.jpg`` the keys are the names up to the suffix. Of
    equal names the format of photographs comes first (`IMAGE_SUFFIXES`), another keeps its suffix
    (``a`` and ``a.png``), and what repeats is numbered (``a.2``). A label belongs to the image of
    its name, else to all images of its sample.
    """
    named: list[ShardImage] = []
    keys = UniqueKeys()
    for sample in samples:
        images, key_of = sample.images, {}
        for image in sorted(images, key=_preference) if len(images) > 1 else images:
            stem, _, suffix = image.extension.rpartition(".")
            name = f"{sample.key}.{stem}" if stem and len(images) > 1 else sample.key
            key_of[image.extension] = keys.take(name, suffix)
        for image in images:
            stem = image.extension.rpartition(".")[0]
            label = sample.labels.get(stem, sample.labels.get("")) or None
            named.append(ShardImage(key_of[image.extension], image, label))
    return named


class UniqueKeys:
    """Gives every image of a tar or a folder a key of its own."""

    def __init__(self) -> None:
        self._suffixes: dict[str, str] = {}  # of the images that have the keys
        self._numbers: dict[str, int] = {}  # the last one of a name that repeats

    def take(self, name: str, suffix: str) -> str:
        """Return ``name``, else with the suffix, else with a number; nobody else gets it."""
        key = name
        if key in self._suffixes and self._suffixes[key] != suffix:
            key = f"{name}.{suffix}"
        while key in self._suffixes:
            self._numbers[name] = self._numbers.get(name, 1) + 1
            key = f"{name}.{self._numbers[name]}"
        self._suffixes[key] = suffix
        return key


def _preference(image: Member) -> tuple[int, int, str]:
    """Sort plain extensions before dotted ones, then by `IMAGE_SUFFIXES`: photographs first."""
    rank = _RANK.get(image.extension.rpartition(".")[2], len(_RANK))
    return image.extension.count("."), rank, image.extension
