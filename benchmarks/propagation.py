"""Memory and time of label propagation against the published affinity of all pairs of patches.

    python benchmarks/propagation.py --record

One frame with 7 + 1 source frames, random features of 384 channels, window 12, top 5. Every size
and way runs in a process of its own; memory is its peak less that of a process that only makes the
features. The published way holds sources x patches x patches, whatever the window.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from measuring import print_table, run_child, start_clean
from recording import write_result

SIZES = ((30, 53), (43, 76), (60, 107), (85, 151))  # patches; 60 x 107 is DAVIS at 480p, patch 8
WAYS = ("features only", "dinoforge", "all pairs")
SOURCES, WIDTH = 8, 384
LARGEST_PAIRS_GIB = 4


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write it to results/")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run(args.child[0], int(args.child[1]), int(args.child[2]))
        return
    figures: dict[str, Any] = {"sources": SOURCES, "width": WIDTH}
    rows = []
    for size in SIZES:
        measured: dict[str, Any] = {}
        for way in WAYS:
            patches = size[0] * size[1]
            if way == "all pairs" and 4 * SOURCES * patches**2 > LARGEST_PAIRS_GIB << 30:
                continue
            command = [sys.executable, str(Path(__file__).resolve()), "--child", way]
            seconds, peak = run_child([*command, *map(str, size)])
            measured[way] = {"cpu_s": round(seconds, 2), "peak_mib": round(peak, 1)}
        base = measured["features only"]
        for way in WAYS[1:]:
            if way in measured:
                more = {k: round(measured[way][k] - base[k], 2) for k in base}
                measured[way] |= {f"more_{k}": value for k, value in more.items()}
                rows.append((f"{size[0]} x {size[1]}", way, *more.values()))
        figures[f"{size[0]} x {size[1]}"] = measured
    print_table(("patches", "way", "CPU s", "MiB"), rows)
    if args.record:
        print(write_result("propagation", figures).name)


def run(way: str, rows: int, columns: int) -> None:
    import torch
    import torch.nn.functional as F

    from dinoforge.neighbors.propagation import propagate

    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = torch.randn(SOURCES + 1, rows, columns, WIDTH)
    labels = F.one_hot(torch.randint(3, (rows, columns)), 3).float()
    if way == "dinoforge":
        from dinoforge.neighbors import propagation

        sources = [(F.normalize(f, dim=-1), labels) for f in features[:SOURCES]]
        propagation._propagate_once(F.normalize(features[-1], dim=-1), sources, 12, (5, 0.1))  # noqa: SLF001
    elif way == "all pairs":
        unit = F.normalize(features, dim=-1).flatten(1, 2)
        at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        inside = ((at[:, None] - at).abs().amax(dim=2) <= 12).float()
        affinity = (unit[:SOURCES] @ unit[-1].T).div_(0.1).exp_()
        affinity = affinity.mul_(inside).flatten(0, 1)
        kept = affinity.topk(5, dim=0).values[-1]
        affinity[affinity < kept] = 0
        affinity.div_(affinity.sum(dim=0))
        labels.flatten(0, 1).repeat(SOURCES, 1).T @ affinity
    else:
        list(propagate(features[:1], labels))


if __name__ == "__main__":
    main()
