"""Records: every measured number, with everything needed to compare it.

Reports draw their tables and curves from records alone; `load` reads them into pandas.
"""

import contextlib
import gc
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.errors import UsageError, damaged
from dinoforge.files import write_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RECORDS", "Record", "find_records", "load", "read_records", "write_records"]


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

    @property
    def is_difference(self) -> bool:
        """Whether it compares two models, which its settings name."""
        return {"model_a", "model_b"} <= self.settings.keys()

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


RECORDS = "records.jsonl"  # in the run folder of an evaluation
_REQUIRED = {"benchmark", "model", "metric", "value"}
_FIELDS = {field.name for field in fields(Record)}
# Columns of `load`, but for those of settings, and what stands in them where a record is silent.
_DEFAULTS = {
    name: value
    for name, value in vars(Record(benchmark="", model="", metric="", value=math.nan)).items()
    if name not in {"interval", "settings"}
}
_COLUMNS = (*_DEFAULTS, "low", "high", "path")


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, atomically."""
    rows = [json.dumps(r.as_json(), sort_keys=True, allow_nan=False) for r in records]
    write_text(path, "".join(f"{row}\n" for row in rows))


def read_records(path: Path) -> list[Record]:
    """Read JSON lines written by `write_records`; raises `UsageError` if they are damaged."""
    return [Record.from_json(row) for row in _read_rows(path)]


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the JSON objects of a file of records: all required fields, and no unknown ones."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        # At once: a call per line takes a third longer.
        yield from map(_checked, json.loads(f"[{','.join(filter(None, lines))}]"))
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(path, error) from error


def _checked(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TypeError("not an object")
    if _REQUIRED <= row.keys() <= _FIELDS:
        return row
    if unknown := row.keys() - _FIELDS:
        raise ValueError(f"unknown field {min(unknown)}")
    raise ValueError(f"no {min(_REQUIRED - row.keys())}")


def find_records(path: Path) -> list[Path]:
    """Find the files of records at a path, in the order of their names.

    A file stands for itself, and an evaluation for its ``records.jsonl``. Of a training, those are
    found that are below its ``evaluation``; of any other folder, those of all runs below it.

    Raises
    ------
    UsageError
        If there are none.
    """
    files = [path] if path.is_file() else list(_records_below(path))
    if not files:
        do = "name a file of records, a finished evaluation, or a folder of evaluations"
        raise UsageError(what="no records", where=str(path), do=do)
    return files


def _records_below(folder: Path) -> Iterator[Path]:
    if (folder / RECORDS).is_file():
        yield folder / RECORDS
    elif (folder / "run.json").is_file():  # its other folders may hold a million files
        yield from _records_below(folder / "evaluation")
    elif folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield from _records_below(path)


def load(paths: str | Path | Iterable[str | Path]) -> "pd.DataFrame":
    """Read the records of one or several evaluations into one table.

    ``paths`` are files of records, evaluations, trainings, or folders of such runs, as in
    `find_records`. The table has one row per record in the order of the files; a column per field
    of `Record`, with the interval in ``low`` and ``high``; each setting in a column of its own name
    (``k``, ``features``, ``step``, ...), or ``settings.NAME`` if a field has that name; in ``path``
    the run folder, or the file if one was given. What a record does not have is NaN.

    Raises
    ------
    UsageError
        If there are no records at a path, or a file is damaged.

    Examples
    --------
    The accuracy of every model by the number of neighbors:

    >>> frame = load("runs/birds")
    >>> knn = frame[(frame.benchmark == "knn/birds") & (frame.metric == "accuracy")]
    >>> knn.pivot_table("value", index=["model", "features"], columns="k")
    k                    5     20
    model     features
    trained   both      0.8  0.82
    untrained both      0.6  0.61

    A training over its steps:

    >>> frame = load("runs/trained")
    >>> frame[frame.model == "trained"].set_index("step")[["value", "low", "high"]]
          value   low  high
    step
    500    0.70  0.67  0.73
    1000   0.75  0.72  0.78

    The mean of three seeds, and the worst:

    >>> frame = load(["runs/seed0", "runs/seed1", "runs/seed2"])
    >>> frame[frame.model == "trained"].groupby("benchmark").value.agg(["count", "mean", "min"])
               count  mean  min
    benchmark
    knn/birds      3  0.81  0.8
    """
    import pandas as pd

    rows = []
    with _without_collection():
        for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
            for file in find_records(path):
                place = str(file if file == path else file.parent)
                rows += [_flat(row, place) for row in _read_rows(file)]
        frame = pd.DataFrame(rows, columns=None if rows else list(_COLUMNS))
    return frame[[*_COLUMNS, *(name for name in frame.columns if name not in _COLUMNS)]]


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from looking for cycles among rows, which takes longer than reading them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _flat(row: dict[str, Any], place: str) -> dict[str, Any]:
    low, high = row.pop("interval", None) or (math.nan, math.nan)
    settings = row.pop("settings", {})
    if not settings.keys().isdisjoint(_COLUMNS):
        for name in settings.keys() & set(_COLUMNS):
            settings[f"settings.{name}"] = settings.pop(name)
    return {**_DEFAULTS, **settings, **row, "low": low, "high": high, "path": place}
