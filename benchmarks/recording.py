"""What every benchmark writes beside its figures: command, commit, machine, versions."""

import datetime
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from dinoforge.runs import git_commit, versions

__all__ = ["RESULTS", "write_result"]

RESULTS = Path(__file__).parent / "results"

_FOLDERS = re.compile(r"(^|[=\[,'\"])/(?:[^/,\]'\"]+/)*")  # of absolute paths, in lists too


def cpu_model() -> str:
    """Model name of the processor, from /proc/cpuinfo."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def write_result(topic: str, figures: Any, *, folder: Path = RESULTS) -> Path:
    """Write ``results/<date>-<topic>.json``; no host names, no paths of this machine."""
    words = [_FOLDERS.sub(r"\1", word) for word in sys.argv]
    result = {
        "command": " ".join(["python", *words]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": git_commit(),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 1),
        },
        "versions": versions(),
        "figures": figures,
    }
    path = folder / f"{result['date']}-{topic}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
