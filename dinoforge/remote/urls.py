"""Which texts are URLs, what is wrong with one, and its parts. Nothing is opened here."""

import os
import re
from urllib.parse import unquote

from dinoforge.errors import Fault

__all__ = ["EXTRAS", "bucket_of", "is_url", "join_url", "local_path", "parent_url", "url_fault"]

EXTRAS = {"s3": "s3", "gs": "gs", "hf": "hf"}  # scheme -> package extra
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_QUERY = re.compile(r"\?[^/]*=")  # of a signed URL; a pattern has no `=` after its `?`


def is_url(path: str) -> bool:
    """Return whether a text is ``scheme://...``."""
    return "://" in path and _URL.match(path) is not None


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
    """Return the URL of its bucket: ``s3://bucket``."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def join_url(folder: str, *names: str) -> str:
    """Append names to the URL of a folder."""
    return "/".join([folder.rstrip("/"), *names])


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


def environment_number(name: str, default: int) -> int:
    """Return a positive number that an environment variable gives."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default
