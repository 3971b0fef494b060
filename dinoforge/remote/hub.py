"""Single objects of repositories on Hugging Face, each by one request.

`HfFileSystem` lists the folder of a file before it describes or reads it.
"""

import errno
from typing import Any

__all__ = ["describe_in_repository", "read_from_repository"]


def describe_in_repository(store: Any, key: str) -> dict[str, Any] | None:
    """Return size and version of a file; None for the repository itself, or a bucket.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    place = store.resolve_path(key)
    if not (name := getattr(place, "path_in_repo", "")):
        return None
    from huggingface_hub.hf_api import HfApi, RepoFile

    api = HfApi(endpoint=store.endpoint, token=store.token)
    where = {"repo_type": place.repo_type, "revision": place.revision}
    entries = api.get_paths_info(place.repo_id, [name], **where)
    if not entries:
        raise FileNotFoundError(errno.ENOENT, "no such object", key)
    kind = "file" if isinstance(entries[0], RepoFile) else "directory"
    return vars(entries[0]) | {"type": kind}


def read_from_repository(store: Any, key: str, start: int, end: int) -> bytes:
    """Read a range of a file; of a bucket by the file system."""
    place = store.resolve_path(key)
    if not (name := getattr(place, "path_in_repo", "")):
        data: bytes = store.cat_file(key, start=start, end=end)
        return data
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(
        *(place.repo_id, name),
        repo_type=place.repo_type,
        revision=place.revision,
        endpoint=store.endpoint,
    )
    headers = build_hf_headers(token=store.token) | {"range": f"bytes={start}-{end - 1}"}
    answer = get_session().get(url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    hf_raise_for_status(answer)
    content: bytes = answer.content
    return content
