"""What can be wrong with a shard or a sample of it, in a closed list of words."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypedDict

__all__ = ["SHARD_REASONS", "Problem", "count_reasons", "in_words", "problem"]

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
