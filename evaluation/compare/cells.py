"""The numbers of a comparison as they were chosen: values per unit, cells, rows, curves."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from dinoforge.evaluation.compare.columns import Chosen
from dinoforge.evaluation.compare.comparison import Cell, Column, Curve, Interval, Row
from dinoforge.evaluation.compare.models import ModelRuns
from dinoforge.evaluation.compare.paired import Tested
from dinoforge.evaluation.compare.values import Unitwise, read_bootstrap, read_values
from dinoforge.evaluation.config import BootstrapConfig
from dinoforge.intervals import wilson_interval

__all__ = ["Numbers", "Place"]

Place = tuple[int, int]  # row, column
_REPEATS = ("seeds", "tries", "splits")  # settings that count what a record is the mean of


@dataclass(frozen=True)
class Numbers:
    """One number per model and column."""

    models: Sequence[ModelRuns]
    columns: Sequence[Column]
    chosen: Sequence[Sequence[Chosen | None]]  # [column][row]

    def places(self) -> Iterator[tuple[Place, Chosen]]:
        """Yield where there is a number, and the number."""
        for column, some in enumerate(self.chosen):
            for row, one in enumerate(some):
                if one is not None:
                    yield (row, column), one

    @cached_property
    def samples(self) -> dict[Place, list[Unitwise]]:
        """Values per unit of the numbers that have them, one per seed, all on the same units."""
        places = list(self.places())
        values = iter(read_values([m for _, one in places for m in one.measurements]))
        samples = {}
        for place, one in places:
            some = [next(values) for _ in one.measurements]
            sample = [v for v in some if v is not None]
            if len(sample) == len(some) and all(v.is_like(sample[0]) for v in sample):
                samples[place] = sample
        return samples

    def bootstrap_config(self, note: Callable[[str], None]) -> BootstrapConfig:
        """Return how the first evaluation resampled its units."""
        runs = {m.folder: m.run for _, one in self.places() for m in one.measurements}
        configs = {folder: read_bootstrap(folder) for folder in runs}
        first = next(iter(configs.values()), BootstrapConfig())
        if others := dict.fromkeys(runs[at] for at, config in configs.items() if config != first):
            unlike = ", ".join(others)
            note(
                f"differences are resampled as in the first run ({first.resamples} resamples, seed "
                f"{first.seed}), unlike {unlike}"
            )
        return first

    def cell(self, place: Place, tested: Tested | None, note: Callable[[str], None]) -> Cell | None:
        """Return a cell, not bold; ``tested`` are the resamples of a mean over seeds."""
        one = self.chosen[place[1]][place[0]]
        if one is None:
            return None
        column = self.columns[place[1]]
        records = [m.record for m in one.measurements]
        is_mean = len(records) > 1
        selections = dict.fromkeys(record.selection for record in records)
        if one.kinds > 1 and column.direction:
            selections = dict.fromkeys(["test-peek"])
        without = [w for r in records if (w := r.settings.get("without_leaked")) is not None]
        features = dict.fromkeys(m.key[2] for m in one.measurements)
        repeats = [r for name in _REPEATS if (r := records[0].settings.get(name))]
        if is_mean and (tested is None or tested.interval is None):
            name = self.models[place[0]].name
            note(f"{column.title}: no interval of {name}: its mean has no values per unit")
        return Cell(
            value=one.value,
            interval=_mean_interval(one, column, tested) if is_mean else records[0].interval,
            deviation=statistics.stdev(r.value for r in records)
            if is_mean
            else records[0].settings.get("deviation"),
            seeds=len(records) if is_mean else int(next(iter(repeats), 1)),
            features=", ".join(filter(None, features)),
            k=one.measurements[0].key[3],
            selection=", ".join(selections),
            without_leaked=statistics.fmean(without) if len(without) == len(records) else None,
            units_dropped=max(int(r.settings.get("units_dropped", 0)) for r in records),
            records=tuple(records),
        )

    def rows(self, baseline: int | None, note: Callable[[str], None]) -> Iterator[Row]:
        """Yield every row."""
        for number, model in enumerate(self.models):
            measurements = [
                m for (row, _), one in self.places() if row == number for m in one.measurements
            ]
            checkpoints = {m.record.checkpoint for m in measurements}
            steps = sorted({m.step for m in measurements if m.step is not None})
            if len(steps) > 1:
                note(
                    f"{model.name}: its numbers are of training steps {', '.join(map(str, steps))}"
                )
            yield Row(
                name=model.name,
                sources=tuple(dict.fromkeys(model.sources)),
                checkpoint=checkpoints.pop() if len(checkpoints) == 1 else "",
                runs=tuple(model.runs),
                step=max(steps, default=None),
                is_baseline=number == baseline,
            )

    def curves(self) -> Iterator[Curve]:
        """Yield the numbers over training steps, where there are several."""
        for (row, column), one in self.places():
            members = [self.models[row].members[number] for number in one.members]
            by_step = [
                member.at_steps(m, is_own_choice=one.kinds == 1)
                for member, m in zip(members, one.measurements, strict=True)
            ]
            steps = sorted(set.intersection(*map(set, by_step)))
            if len(steps) < 2:
                continue
            records = [[some[step].record for some in by_step] for step in steps]
            is_mean = len(members) > 1
            yield Curve(
                row=row,
                column=column,
                steps=tuple(steps),
                values=tuple(statistics.fmean(r.value for r in some) for some in records),
                intervals=tuple(None if is_mean else some[0].interval for some in records),
                deviations=tuple(
                    statistics.stdev(r.value for r in some)
                    if is_mean
                    else some[0].settings.get("deviation")
                    for some in records
                ),
            )


def _mean_interval(one: Chosen, column: Column, tested: Tested | None) -> Interval | None:
    if tested is None:
        return None
    if column.metric == "accuracy" and one.value in {0.0, 1.0}:  # the bootstrap has no width
        return wilson_interval(round(one.value * column.n), column.n)
    return tested.interval
