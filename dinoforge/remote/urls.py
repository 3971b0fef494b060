"""Which texts are URLs, what is wrong with one, and its parts. Nothing is opened here."""

import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from dinoforge.errors import Fault

__all__ = [
    "EXTRAS",
    "bucket_of",
    "is_stream",
    "is_url",
    "join_path",
    "join_url",
    "local_path",
    "parent_url",
    "url_fault",
    "url_faults",
]

EXTRAS = {"s3": "s3", "gs": "gs", "hf": "hf"}  # scheme -> package extra
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# In a command: a URL with a password, or a value that is not that of a variable.
_SECRET = re.compile(
    r"://[^/\s]*:[^/\s$]*@|(?:signature|token|secret|password|authorization|api[_-]?key)"
    r"[\"']?\s*[=:]\s*[\"']?(?:bearer\s+|basic\s+|token\s+)?+[^\s$\"']",
    re.IGNORECASE,
)
_QUERY = re.compile(r"\?[^/]*=")  # of a signed URL; a pattern has no `=` after its `?`


def is_url(path: str) -> bool:
    """Return whether a text is ``scheme://...``."""
    return "://" in path and _URL.match(path) is not None


def is_stream(path: str) -> bool:
    """Return whether a text is ``pipe:COMMAND``, or ``-``: standard input."""
    return path == "-" or path.startswith("pipe:")


def local_path(path: str) -> str:
    """Return the path that a ``file://`` URL names; any other text as it is."""
    return unquote(path.removeprefix("file://")) if path.startswith("file:///") else path


def package_of(scheme: str) -> str:
    """Return the package that opens the URLs of a scheme."""
    return _PACKAGES[scheme]


def scheme_of(url: str) -> str:
    """Return ``s3`` of ``s3://bucket/name``."""
    return url.partition("://")[0]


def bucket_of(url: str) -> str:
    """Return the URL of its bucket: ``s3://bucket``; of its repository on Hugging Face."""
    scheme, _, rest = url.partition("://")
    parts = 1 if scheme != "hf" else 3 if rest.startswith(("datasets/", "spaces/")) else 2
    return f"{scheme}://{'/'.join(rest.split('/')[:parts])}"


def join_url(folder: str, *names: str) -> str:
    """Append names to the URL of a folder."""
    return "/".join([folder.rstrip("/"), *names])


def join_path(root: str, path: str) -> str:
    """Return a path or URL, a relative one inside ``root``, which may be a URL; "": as it is."""
    if is_url(path) or is_stream(path):
        return path
    return os.path.join(root, path)  # noqa: PTH118 - may be patterns


def parent_url(url: str) -> str:
    """Return the URL of the folder of an object; a bucket is its own."""
    return url.rpartition("/")[0] if url != bucket_of(url) else url


def url_fault(key: str, url: str, schemes: tuple[str, ...] = tuple(EXTRAS)) -> Fault | None:
    """Return why a URL in a recipe cannot be used; None if it can.

    The text never repeats what may be a password.
    """
    match = _URL.match(url)
    scheme, rest = (match[1], match[2]) if match else ("", url)
    bucket = rest.partition("/")[0]
    known = ", ".join(f"{name}://" for name in dict.fromkeys(("file", *schemes)))
    if "@" in bucket or ":" in bucket or _QUERY.search(rest):
        do = "remove them: the environment or the settings of the cloud's own tools give them"
        return Fault(f"the URL in `{key}` holds credentials", "recipe", do)
    if scheme not in schemes:
        what = f"unknown scheme `{scheme}://` in `{key}`"
        if scheme == "file":
            return Fault(f"`{url}` in `{key}` names another machine", "recipe", "write file:///...")
        return Fault(what, "recipe", f"give a path, or a URL with {known}")
    if not bucket and scheme != "file":
        return Fault(f"a URL without a bucket in `{key}`", url, f"write {scheme}://BUCKET/FOLDER")
    return None


def url_faults(at: str, paths: Iterable[str], *, streams: bool = False) -> Iterator[Fault]:
    """Find the URLs among paths of a recipe that cannot be read, and streams unless they can be."""
    for path in paths:
        if is_url(path) and (fault := url_fault(at, path)):
            yield fault
        elif is_stream(path) and not streams:
            do = "make shards of it first: dinoforge shard 'pipe:COMMAND' out=RUN"
            yield Fault(f"`{at}` names a stream, which is read only once", "recipe", do)
        elif is_stream(path) and _SECRET.search(path):
            do = "name a variable of the environment: $TOKEN"
            yield Fault(f"the command in `{at}` holds credentials", "recipe", do)


def environment_number(name: str, default: int) -> int:
    """Return a positive number that an environment variable gives."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default
