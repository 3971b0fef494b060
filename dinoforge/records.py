"""Records: every measured number, with everything needed to compare it.

Reports draw their tables and curves from records alone; `load` reads them into pandas.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.errors import damaged
from dinoforge.files import write_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Record", "load", "read_records", "write_records"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured number.

    ``interval`` is the 95 % interval ``[low, high]`` or None; ``n`` the number of test images;
    ``selection`` is the data that settings were chosen on (``none``, ``val``, ``test-peek``).
    """

    benchmark: str  # protocol and data, e.g. "knn/quickstart"
    model: str  # "trained", "untrained", "pixels", a checkpoint's name
    metric: str  # "accuracy" (a fraction), "accuracy_difference", ...
    value: float
    interval: tuple[float, float] | None = None
    n: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    selection: str = "none"
    checkpoint: str = ""
    data: str = ""  # fingerprint of the test data
    commit: str = ""
    seconds: float = 0.0
    # What the sources did not give: reason -> files, members and sources, of bank and test images
    problems: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON object of the record; non-finite numbers become null."""
        row = asdict(self)
        known = self.interval is not None and all(map(math.isfinite, self.interval))
        row["interval"] = list(self.interval) if self.interval is not None and known else None
        if not math.isfinite(self.value):
            row["value"] = None
        if not self.problems:
            del row["problems"]
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Record":
        """Inverse of `as_json`."""
        interval, value = row.get("interval"), row["value"]
        read = {
            "interval": None if interval is None else tuple(interval),
            "value": math.nan if value is None else value,
        }
        return cls(**row | read)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, atomically."""
    rows = [json.dumps(r.as_json(), sort_keys=True, allow_nan=False) for r in records]
    write_text(path, "".join(f"{row}\n" for row in rows))


def read_records(path: Path) -> list[Record]:
    """Read JSON lines written by `write_records`; raises `UsageError` if they are damaged."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [Record.from_json(json.loads(line)) for line in lines if line]
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(path, error) from error


def load(paths: Iterable[str | Path]) -> "pd.DataFrame":
    """Read the records of several evaluations into one table.

    ``paths`` are files of records, or run folders that hold a ``records.jsonl``. The table has one
    row per record in the order of the files; a column per field of `Record`, with the interval in
    ``low`` and ``high``, each setting in a column of its own name (``k``, ``features``, ``step``,
    ...), and the path as given in ``path``. What a record does not have is NaN.

    Examples
    --------
    Accuracy of the trained network over its steps, one column per k::

        frame = records.load(Path("runs/trained/evaluation/birds").glob("step-*"))
        trained = frame[(frame.model == "trained") & (frame.metric == "accuracy")]
        trained.pivot_table("value", index=["features", "step"], columns="k")
    """
    import pandas as pd

    rows = []
    for path in paths:
        file = Path(path)
        for record in read_records(file / "records.jsonl" if file.is_dir() else file):
            row = asdict(record)
            low, high = row.pop("interval") or (math.nan, math.nan)
            rows.append(row.pop("settings") | row | {"low": low, "high": high, "path": str(path)})
    names = [field.name for field in fields(Record) if field.name not in {"interval", "settings"}]
    names += ["low", "high", "path"]
    frame = pd.DataFrame(rows, columns=None if rows else names)
    return frame[[*names, *(name for name in frame.columns if name not in names)]]
