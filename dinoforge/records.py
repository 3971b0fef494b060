"""The one form in which a measured number is kept.

Every figure that a report shows is a `Record`; tables and curves are drawn from records alone.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dinoforge.files import write_text

__all__ = ["Record", "read_records", "write_records"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured number with everything needed to compare it.

    ``interval`` is the 95 % interval ``[low, high]`` or None; ``n`` the number of test samples;
    ``selection`` says on what the settings were chosen (``none``, ``val``, ``test-peek``).
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

    def as_json(self) -> dict[str, Any]:
        """JSON object of the record; what is not finite becomes null."""
        row = asdict(self)
        known = self.interval is not None and all(map(math.isfinite, self.interval))
        row["interval"] = list(self.interval) if self.interval is not None and known else None
        if not math.isfinite(self.value):
            row["value"] = None
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Record":
        """Inverse of `as_json`."""
        interval = row.get("interval")
        value = row["value"]
        return cls(
            **{
                **row,
                "interval": tuple(interval) if interval is not None else None,
                "value": math.nan if value is None else value,
            }
        )


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, atomically."""
    rows = [json.dumps(r.as_json(), sort_keys=True, allow_nan=False) for r in records]
    write_text(path, "".join(f"{row}\n" for row in rows))


def read_records(path: Path) -> list[Record]:
    """Read JSON lines written by `write_records`."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [Record.from_json(json.loads(line)) for line in lines if line]
