"""The pipeline of `dinoforge shard`, of which one task is killed once; jobs import it."""

import os
import signal
from dataclasses import replace
from pathlib import Path

from dinoforge.curation.sharding import pipeline
from dinoforge.curation.sharding.write import WriteStage
from dinoforge.files import temporary_name

__all__ = ["PIPELINE", "flag"]


def flag(run: Path) -> Path:
    """File in the run folder that asks for the kill, and is gone after it."""
    return run / "kill-once"


class KilledOnce(WriteStage):
    """Writes shards; the second one is cut in the middle, as by the kernel, the first time."""

    def run(self, payload, inputs, out):
        asked = flag(inputs.run_folder)
        if payload["shard"] == 1 and asked.exists():
            # What a killed writer leaves: a part of a shard under its temporary name.
            shards = inputs.run_folder / "shards"
            shards.mkdir(exist_ok=True)
            temporary_name(shards / "shard-000001.tar").write_bytes(b"cut")
            asked.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(payload, inputs, out)


PIPELINE = replace(
    pipeline.PIPELINE,
    stages=tuple(
        KilledOnce() if isinstance(stage, WriteStage) else stage for stage in pipeline.STAGES
    ),
)
