"""The calibration of one run: pairs, answers, and the threshold that follows, as files in the run.

``calibration.json`` is written at each answer; ``calibration/`` holds the pairs and the answers.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from dinoforge.config import to_plain
from dinoforge.curated import ledger_path
from dinoforge.curation.calibration.estimate import (
    BinEstimate,
    ThresholdEstimate,
    estimate_bins,
    estimate_thresholds,
    recommend,
)
from dinoforge.curation.calibration.labels import Labels, read_csv, write_csv
from dinoforge.curation.calibration.sample import Measured, Sample, draw_sample, read_measured
from dinoforge.curation.config import CurationConfig
from dinoforge.errors import UsageError, damaged
from dinoforge.files import write_json
from dinoforge.tables import read_table

__all__ = ["Calibration", "Result", "apply_calibration"]


@dataclass(frozen=True)
class Result:
    """What the answers so far give."""

    target: float  # precision that was asked for
    threshold: float | None  # the recommended one; None: none reaches the target
    labeled: int
    sampled: int
    bins: list[BinEstimate]
    thresholds: list[ThresholdEstimate]
    measured: Measured

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


class Calibration:
    """An open calibration; one process has it at a time."""

    def __init__(
        self, run_folder: Path, sample: Sample, target: float, lock: filelock.BaseFileLock
    ) -> None:
        self.run_folder, self.sample, self.target = run_folder, sample, target
        self.labels = Labels(_folder(run_folder) / "labels.jsonl")
        self._lock = lock

    @classmethod
    def open(
        cls,
        run_folder: Path,
        *,
        target: float,
        bins: int = 12,
        per_bin: int = 20,
        seed: int = 0,
        fresh: bool = False,
    ) -> "Calibration":
        """Draw the pairs of a finished curation, or continue with those that were drawn before.

        ``fresh`` drops pairs and answers of before.

        Raises
        ------
        UsageError
            If there is no finished curation, another process calibrates it, or its pairs have
            changed since they were drawn.
        """
        measured, folder = read_measured(run_folder), _folder(run_folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            do = "stop the other `dinoforge calibrate`"
            where = str(run_folder)
            raise UsageError(what="is being calibrated", where=where, do=do) from error
        try:
            if fresh:
                shutil.rmtree(folder)
                folder.mkdir()
                (run_folder / "calibration.json").unlink(missing_ok=True)
            path = folder / "sample.json"
            if not path.is_file():
                draw_sample(run_folder, bins=bins, per_bin=per_bin, seed=seed).write(path)
            sample = Sample.read(path)
            _check_current(sample, measured, folder)
            return cls(run_folder, sample, target, lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Let others calibrate the run."""
        self._lock.release()

    def answer(self, number: int, answer: str | None) -> Result:
        """Record the answer to a pair by its number (None: take it back), and write the result."""
        pair = self.sample.pairs[number]
        self.labels.set((pair.i, pair.j), answer)
        return self.write()

    def result(self) -> Result:
        """Estimate from the answers so far."""
        counts = np.zeros((2, len(self.sample.bins)), np.int64)
        answers = self.labels.answers
        labeled = [pair for pair in self.sample.pairs if (pair.i, pair.j) in answers]
        for pair in labeled:
            counts[int(answers[pair.i, pair.j] != "same"), pair.bin] += 1
        bins = estimate_bins(self.sample.bins, *counts)
        thresholds = estimate_thresholds(bins)
        return Result(
            self.target,
            recommend(thresholds, self.target),
            len(labeled),
            len(self.sample.pairs),
            bins,
            thresholds,
            self.sample.measured,
        )

    def write(self) -> Result:
        """Write ``calibration.json`` into the run."""
        result = self.result()
        write_json(self.run_folder / "calibration.json", result.as_json())
        return result

    def export_csv(self, path: Path) -> None:
        """Write all sampled pairs with their labels so far."""
        keys = read_table(ledger_path(self.run_folder), ["key"]).column("key")
        rows = [
            {
                **{"i": pair.i, "j": pair.j, "similarity": pair.similarity},
                **{"key_i": keys[pair.i].as_py(), "key_j": keys[pair.j].as_py()},
                "label": self.labels.answers.get((pair.i, pair.j), ""),
            }
            for pair in self.sample.pairs
        ]
        write_csv(path, rows)

    def import_csv(self, path: Path) -> int:
        """Record the labels of a file; returns their number.

        Raises
        ------
        UsageError
            If the file cannot be read or names a pair that was not drawn; then none is recorded.
        """
        labels = read_csv(path)
        known = {(pair.i, pair.j) for pair in self.sample.pairs}
        for pair in labels:
            if pair not in known:
                what = f"the pair {pair[0]}, {pair[1]} was not drawn from this run"
                do = "label the rows of `--export`: others would bias the estimate"
                raise UsageError(what=what, where=str(path), do=do)
        for pair, label in labels.items():
            if self.labels.answers.get(pair) != label:
                self.labels.set(pair, label)
        self.write()
        return len(labels)


def _check_current(sample: Sample, measured: Measured, folder: Path) -> None:
    if sample.measured.pairs != measured.pairs:
        what = "the pairs of the run have changed since they were drawn"
        do = "give --fresh to draw others; the answers are lost"
        raise UsageError(what=what, where=str(folder), do=do)


def _folder(run_folder: Path) -> Path:
    return run_folder / "calibration"


def apply_calibration(config: CurationConfig) -> CurationConfig:
    """Replace ``duplicates.threshold`` by that of the run in ``duplicates.calibrated``, if any.

    Raises
    ------
    UsageError
        If the run has no calibrated threshold, or one for another encoder or decoder.
    """
    folder = config.duplicates.calibrated
    if not folder:
        return config
    path = Path(folder) / "calibration.json"
    do = f"run `dinoforge calibrate {folder}` until it recommends a threshold"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        threshold, measured = known["threshold"], Measured(**known["measured"])
    except OSError as error:
        raise UsageError(what="no calibration", where=str(path), do=do) from error
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(path, error) from error
    if threshold is None:
        what = f"no threshold reaches a precision of {known['target']:g}"
        raise UsageError(what=what, where=str(path), do=do)
    _check_equal(measured, config, path)
    policy = replace(config.duplicates, threshold=float(threshold))
    faults = list(policy.faults("duplicates"))
    if faults:
        raise UsageError(faults=faults)
    return replace(config, duplicates=policy)


def _check_equal(measured: Measured, config: CurationConfig, path: Path) -> None:
    """Refuse a threshold that was measured with another encoder or decoder."""
    from dinoforge.encoders.make import make_encoder

    do = "calibrate a run of this recipe"
    spec = config.duplicates.encoder
    if make_encoder(spec, device="cpu").fingerprint != measured.encoder:
        other = measured.spec if measured.spec != spec else f"another version of {spec}"
        what = f"calibrated for the encoder {other}, `duplicates.encoder` is {spec}"
        raise UsageError(what=what, where=str(path), do=do)
    if to_plain(config)["decode"] != measured.decode:
        what = "calibrated with other keys of `decode`"
        raise UsageError(what=what, where=str(path), do=do)
    keys = ("background", "background_weight")
    if any(getattr(config.duplicates, key) != getattr(measured, key) for key in keys):
        what = "calibrated with another background set or weight"
        raise UsageError(what=what, where=str(path), do=do)
