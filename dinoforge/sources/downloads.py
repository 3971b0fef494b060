"""What img2dataset states about its shards: samples that it did not download or could not resize.

They are rows with a ``status`` of their own in the table beside a tar or folder, ``NAME.parquet``,
and are not in the tar or folder.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dinoforge.remote import is_url
from dinoforge.remote.reading import RemoteStream
from dinoforge.shards.index import Problem, problem

__all__ = ["SUCCESS", "read_failed", "read_statuses"]

SUCCESS = "success"


def read_statuses(table: Path | str) -> Mapping[str, int]:
    """Count the rows of a table by status, `SUCCESS` among them; none if img2dataset wrote none.

    A text is the URL of the table.
    """
    try:
        # An open file: of a path, pyarrow reads `exp:1/x` as a URI.
        source = pa.PythonFile(RemoteStream(table)) if isinstance(table, str) else table.open("rb")
        with source as file, pq.ParquetFile(file) as rows:
            if not {"status", "error_message"} <= set(rows.schema_arrow.names):
                return {}  # written by another program
            column = rows.read(["status"]).column(0)
    except (OSError, pa.ArrowException):
        return {}
    if not pa.types.is_string(column.type):
        return {}
    return Counter(value for value in column.to_pylist() if value is not None)


def read_failed(tar: str, num_samples: int) -> tuple[dict[str, int], list[Problem]]:
    """Count by status what was not downloaded of a tar, a path or URL; {} without a table.

    The problem is that the tar has fewer samples, ``num_samples``, than were downloaded.
    """
    table = f"{tar.removesuffix('.tar')}.parquet"
    statuses = dict(read_statuses(table if is_url(tar) else Path(tar).with_suffix(".parquet")))
    downloaded = statuses.pop(SUCCESS, 0)
    if num_samples >= downloaded:
        return statuses, []
    detail = f"{num_samples} of {downloaded} downloaded samples"
    return statuses, [problem(tar, "", "missing_samples", detail)]
