"""One rank of `test_join`: some ranks have an error, or are lost; each writes what it would report.

Usage: rank_of_errors.py FOLDER meet|lose RANK,RANK,...
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from dinoforge.errors import RankLost, RankStopped, UsageError
from dinoforge.training.distributed import join
from dinoforge.training.distributed.ranks import rank

join._PATIENCE_S = 2.0  # seconds for rank 0, all on one machine


def meet(folder: Path, who: set[int]) -> None:
    if rank() in who:
        raise UsageError(what="no GPU", where="device=cuda", do="give device=cpu")
    deadline = time.monotonic() + 60  # rank 0 holds the store
    while len(list(folder.iterdir())) < len(who) and time.monotonic() < deadline:
        time.sleep(0.05)


def lose(_folder: Path, who: set[int]) -> None:
    if rank() in who:
        os._exit(0)
    dist.barrier()


def main(folder: str, event: str, who: str) -> None:
    try:
        with join.join_ranks(torch.device("cpu"), 60):
            happen = {"meet": meet, "lose": lose}[event]
            happen(Path(folder), {int(number) for number in who.split(",")})
            os._exit(0)  # taking the group down would wait for the others
    except (UsageError, RankLost, RankStopped) as error:
        line = f"{error.exit_code} {error}".strip()
        (Path(folder) / os.environ["RANK"]).write_text(line, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
