"""Requests to object stores: list, read ranges, write; retried one by one, bounded per node.

Credentials come from where the tools of each cloud look for them (environment, profiles, instance
roles) and from fsspec's own settings, never from a recipe, and are in no message.
"""

import contextlib
import errno
import fcntl
import fnmatch
import logging
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from braceexpand import braceexpand

from dinoforge.errors import UsageError, first_line
from dinoforge.packages import import_extra
from dinoforge.remote.hub import describe_in_repository, read_from_repository
from dinoforge.remote.urls import EXTRAS, bucket_of, environment_number, package_of, scheme_of

__all__ = [
    "RemoteObject",
    "delete_object",
    "expand_pattern",
    "find_object",
    "list_objects",
    "object_key",
    "open_store",
    "read_object",
    "read_range",
    "request",
]

T = TypeVar("T")
_log = logging.getLogger(__name__)

ATTEMPTS = 10  # of one request: about a minute in all
FIRST_WAIT_S = 0.1  # doubles with each attempt, up to the longest
LONGEST_WAIT_S = 20.0
CONNECTIONS = "DINOFORGE_CONNECTIONS"  # requests at a time of all processes on a node
_DEFAULT_CONNECTIONS = 32

# What no repetition changes. Errors of the stores' own packages, by name: they are optional.
_FINAL = (FileNotFoundError, PermissionError, TypeError, NotImplementedError, AttributeError)
_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"),
    *("DefaultCredentialsError", "RefreshError", "LocalTokenNotFoundError"),
}
_FINAL_NUMBERS = {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.ENOSPC}


class ShortReadError(OSError):
    """A store sent less than it was asked for."""


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """An object of a store: its URL, its bytes, and what changes when it is replaced."""

    url: str
    size: int
    version: str  # ETag or generation, else the time


def open_store(url: str) -> Any:
    """Return the fsspec file system of a URL; one per process.

    Raises
    ------
    UsageError
        If its package is not installed.
    """
    scheme = scheme_of(url)
    # Otherwise gcsfs asks for the kind of each bucket, by gRPC, which does not survive a fork.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    if scheme in EXTRAS:
        import_extra(package_of(scheme), extra=EXTRAS[scheme], where=f"{scheme}://")
    import fsspec

    options: dict[str, Any] = {}
    if scheme == "file":
        options["auto_mkdir"] = True
    if scheme == "s3":
        given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        limits = {"connect_timeout": 10, "read_timeout": 60, "retries": {"total_max_attempts": 1}}
        options["config_kwargs"] = limits | given
    store = fsspec.filesystem(scheme, **options)
    # `request` repeats what fails: their own loops, inside of it, would make a minute several.
    if scheme == "s3":
        store.retries = 1
    elif scheme == "gs":
        once = getattr(type(store)._request, "__wrapped__", type(store)._request)  # noqa: SLF001
        store._request = partial(once, store)  # noqa: SLF001 - there is no other way
    return store


def request(url: str, send: Callable[[Any], T]) -> T:
    """Send one request, by ``send(store)``, and again after failures that may pass.

    Raises
    ------
    FileNotFoundError
        If there is no such object or bucket.
    UsageError
        If access is refused, there are no credentials, or the store does not answer.
    """
    store = open_store(url)
    for attempt in range(ATTEMPTS):
        try:
            with _connection():
                return send(store)
        except FileNotFoundError:
            raise
        except Exception as error:
            if _status(error) == 404:
                raise FileNotFoundError(errno.ENOENT, "no such object", url) from error
            if (refused := _refusal(url, error)) is not None:
                raise refused from error
            if isinstance(error, _FINAL) or getattr(error, "errno", None) in _FINAL_NUMBERS:
                raise
            failure = error
        wait = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) * random.uniform(0.5, 1.0)  # noqa: S311
        _log.debug("%s: %s; attempt %d follows", url, type(failure).__name__, attempt + 2)
        if attempt + 1 < ATTEMPTS:
            time.sleep(wait)
    raise UsageError(
        what=f"the store fails after {ATTEMPTS} attempts: {_reason(failure)}",
        where=url,
        do="check the network and the endpoint, then rerun the command: it resumes",
    ) from failure


def _refusal(url: str, error: Exception) -> UsageError | None:
    is_forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden")  # of gcsfs
    if type(error).__name__ in _NO_CREDENTIALS:
        what, do = "no credentials", "set them up with the cloud's own tools, such as AWS_PROFILE"
    elif isinstance(error, PermissionError) or _status(error) in {401, 403} or is_forbidden:
        what, do = "access refused (403)", "check the credentials and the rights on the bucket"
    else:
        return None
    return UsageError(what=what, where=bucket_of(url), do=do)


def _status(error: BaseException) -> int | None:
    """Return the status of the answer, which errors of the Hub and of Google hold."""
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "code", None))
    return int(status) if isinstance(status, int | str) and str(status).isdecimal() else None


def _reason(error: BaseException) -> str:
    """Describe a failure; the text of other errors than these may quote a signed request."""
    if isinstance(error, ShortReadError):
        return first_line(error)
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) else type(error).__name__


@contextlib.contextmanager
def _connection() -> Iterator[None]:
    """Hold one of the connections of this node; the system frees those of a killed process."""
    limit = environment_number(CONNECTIONS, _DEFAULT_CONNECTIONS)
    folder = Path(tempfile.gettempdir()) / f"dinoforge-connections-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    start = random.randrange(limit)  # noqa: S311 - which one does not matter
    for turn in range(limit + 1):
        handle = os.open(folder / str((start + turn) % limit), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # If all are taken, wait for the first one.
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if turn < limit else 0))
        except BlockingIOError:
            os.close(handle)
            continue
        try:
            yield
        finally:
            os.close(handle)
        return


def read_range(url: str, offset: int, size: int, at_least: int | None = None) -> bytes:
    """Read ``size`` bytes at ``offset``, or up to the end, but ``at_least`` so many.

    Raises
    ------
    FileNotFoundError
        If there is no such object.
    OSError
        If it ends before ``offset``.
    UsageError
        See `request`.
    """
    needed = size if at_least is None else at_least

    def send(store: Any) -> bytes:
        data = _read(store, url, offset, offset + size)
        if not needed <= len(data) <= size:
            raise ShortReadError(f"{len(data)} of {needed} bytes")
        return data

    return request(url, send) if size else b""


def _read(store: Any, url: str, start: int, end: int) -> bytes:
    if scheme_of(url) == "hf":
        return read_from_repository(store, object_key(url), start, end)
    data: bytes = store.cat_file(object_key(url), start=start, end=end)
    return data


def read_object(url: str, limit: int = -1) -> bytes:
    """Read a small object; at most ``limit`` bytes.

    Raises
    ------
    FileNotFoundError
        If there is no such object.
    """
    one = find_object(url)
    if one is None:
        raise FileNotFoundError(errno.ENOENT, "no such object", url)
    return read_range(url, 0, one.size if limit < 0 else min(one.size, limit))


def find_object(url: str) -> RemoteObject | None:
    """Return the object at a URL; None if there is none."""
    try:
        info = request(url, lambda store: _describe(store, url))
    except FileNotFoundError:
        return None
    return _object(url, info) if info["type"] == "file" else None


def _describe(store: Any, url: str) -> dict[str, Any]:
    """Ask for one object: `info` would list what is beside it, or would be below it."""
    scheme, (bucket, _, name) = scheme_of(url), object_key(url).partition("/")
    if scheme == "s3" and name:
        head = store.call_s3("head_object", Bucket=bucket, Key=name, **store.req_kw)
        return head | {"type": "file", "size": head["ContentLength"]}
    if scheme == "gs" and name:
        answer = store.call("GET", "b/{}/o/{}", bucket, name, json_out=True)
        return answer | {"type": "file"}
    if scheme == "hf" and (entry := describe_in_repository(store, object_key(url))):
        return entry
    store.invalidate_cache()
    info: dict[str, Any] = store.info(object_key(url))
    return info


def list_objects(url: str) -> list[RemoteObject]:
    """List all objects below a URL, in the order of their URLs.

    Raises
    ------
    UsageError
        If the bucket does not exist; see `request`.
    """
    scheme = scheme_of(url)

    def send(store: Any) -> dict[str, dict[str, Any]]:
        store.invalidate_cache()
        entries: dict[str, dict[str, Any]] = store.find(object_key(url), detail=True)
        if not entries and scheme != "file":
            store.ls(object_key(bucket_of(url)))  # raises if there is no such bucket
        return entries

    try:
        infos = request(url, send)
    except FileNotFoundError as error:
        what, do = "no such bucket", "check its name and the endpoint"
        if scheme == "hf":
            what, do = "no such repository, or it is private", "check its name, and HF_TOKEN"
        raise UsageError(what=what, where=bucket_of(url), do=do) from error
    objects = [_object(f"{scheme}://{name}", info) for name, info in infos.items()]
    return sorted(
        (one for one in objects if not one.url.endswith("/")),  # markers of folders
        key=lambda one: one.url,
    )


def expand_pattern(pattern: str) -> tuple[str, list[Callable[[str], bool]]]:
    """Return the folder that a pattern starts in, and for each text of its braces what matches.

    Braces, ``*``, ``?``, ``[`` within a name, ``**`` for any folders.
    """
    start = re.split(r"[*?\[{]", pattern, maxsplit=1)[0].rpartition("/")[0]
    try:
        names = list(braceexpand(pattern, escape=False))
    except ValueError:
        names = [pattern]
    return start, [_matcher(name) for name in names]


def _matcher(pattern: str) -> Callable[[str], bool]:
    match = re.compile(_translated(pattern), re.DOTALL).fullmatch
    return lambda url: match(url) is not None


def _translated(pattern: str) -> str:
    """Translate a pattern whose parts match the parts of a URL."""
    parts = []
    for part in pattern.split("/"):
        if part == "**":
            parts.append("(?:[^/]+/)*")
            continue
        name = fnmatch.translate(part).removeprefix("(?s:").removesuffix(")\\Z")
        # A wildcard of fnmatch matches a slash, too; what is escaped or in brackets stays.
        name = re.sub(r"(\\.|\[[^]]*\])|\.", lambda match: match[1] or "[^/]", name)
        parts.append(name + "/")
    return "".join(parts).removesuffix("/")


def delete_object(url: str) -> None:
    """Delete an object, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        request(url, lambda store: store.rm_file(object_key(url)))


def object_key(url: str) -> str:
    """Return the name by which a store knows a URL: everything behind the scheme."""
    return url.partition("://")[2]


def _object(url: str, info: dict[str, Any]) -> RemoteObject:
    names = ("ETag", "etag", "generation", "blob_id", "LastModified", "updated", "mtime")
    version = next((str(info[name]) for name in names if info.get(name)), "")
    return RemoteObject(url, int(info["size"]), version.strip('"'))
