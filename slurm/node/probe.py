"""What a probe runs on a node: it looks whether the run folder and the packages are there.

    python -P -m dinoforge.slurm.node.probe RUN NAME TOKEN

Writes ``RUN/slurm/probe/NAME.json``: the faults found; none: all is well. Exit code 0 once it has
answered.
"""

import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dinoforge.config import load_config
from dinoforge.errors import Fault, UsageError
from dinoforge.files import write_json
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.store.layout import SlurmFolder

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Answer one probe."""
    run, name, token = Path(words[0]), words[1], words[2]
    folder = SlurmFolder(run)
    faults = [[fault.what, fault.where, fault.do] for fault in _faults(folder, name, token)]
    write_json(folder.probes / f"{name}.json", {"host": platform.node(), "faults": faults})
    return 0


def _faults(folder: SlurmFolder, name: str, token: str) -> Iterator[Fault]:
    node = platform.node()
    try:
        found = (folder.probes / f"{name}.token").read_text(encoding="ascii")
    except OSError:
        found = ""
    if found != token:
        yield Fault(
            f"node {node} sees another folder under this name",
            str(folder.run),
            "choose a folder that all nodes share with out=FOLDER",
        )
        return
    profile = load_config(Profile, folder.profile)
    if profile.nodes_may_submit and shutil.which("sbatch") is None:
        yield Fault(f"no sbatch on node {node}", str(folder.profile), "set nodes_may_submit: false")
    yield from _recipe_faults(folder, node)


def _recipe_faults(folder: SlurmFolder, node: str) -> Iterator[Fault]:
    """Check the recipe where it will run: a login node may lack packages, or have others."""
    from dinoforge.stages import find_pipeline

    launch = folder.read_launch()
    try:
        if launch.pipeline:
            pipeline = find_pipeline(launch.pipeline)
            pipeline.check(load_config(pipeline.config, folder.run / "config.yaml"))
        else:
            import torch  # noqa: F401 - is it there?
    except UsageError as error:
        yield from error.faults
    except ImportError as error:
        what = f"node {node}: {type(error).__name__}: {error}"
        yield Fault(what, str(folder.profile), "mend `python` or `setup` of the profile")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
