"""What the perceptual hash finds: edited copies of photographs within so many bits.

    python benchmarks/perceptual_hash.py SHARED/data --record

SHARED/data has `copydet` (200 queries, 150 of them edited copies, with their truth) and
`imagenet-sample` (1,000 photographs).
"""

import argparse
import json
import time
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from measuring import print_table, start_clean
from recording import write_result

from dinoforge.images import decode
from dinoforge.scorers.hashes import perceptual_hash
from dinoforge.shards.reading import read_samples

LIMITS = (4, 8, 12)


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    figures = measure(args.data)
    limits = [str(limit) for limit in LIMITS]
    print_table(
        ("copies within", *limits), [(kind, *row) for kind, row in figures["shares"].items()]
    )
    print({name: value for name, value in figures.items() if name != "shares"})
    if args.record:
        print(write_result("perceptual_hash", figures).name)


def measure(data: Path) -> dict[str, Any]:
    """Compare queries with all photographs, and photographs with each other."""
    started = time.process_time()
    hashes = hashes_of(sorted((data / "imagenet-sample").glob("*.tar")))
    seconds = time.process_time() - started
    listed = np.array(list(hashes.values()), np.uint64)
    truth = json.loads((data / "copydet/ground_truth.json").read_text())["queries"]
    distances, wrong = defaultdict(list), 0
    for key, value in hashes_of(sorted((data / "copydet").glob("*.tar"))).items():
        distance = np.bitwise_count(listed ^ np.uint64(value)).astype(int)
        is_original = np.array([name == truth[key]["match"] for name in hashes])
        wrong += int((distance[~is_original] <= 8).any())
        if is_original.any():
            distances[truth[key]["kind"]].append(int(distance[is_original][0]))
    distances["all"] = list(chain.from_iterable(distances.values()))
    pairs = np.bitwise_count(listed[:, None] ^ listed)[np.triu_indices(len(listed), 1)]
    shares = {
        kind: [round(float(np.mean(np.array(of) <= limit)), 3) for limit in LIMITS]
        for kind, of in sorted(distances.items())
    }
    return {
        "shares": shares,
        "queries_near_another": wrong,
        "pairs": len(pairs),
        "pairs_within_8": int((pairs <= 8).sum()),
        "cpu_ms_with_decoding": round(1e3 * seconds / len(listed), 2),
    }


def hashes_of(tars: list[Path]) -> dict[str, int]:
    """Hash every picture of some tars, by key."""
    samples = (sample for tar in tars for sample in read_samples(tar))
    return {key: perceptual_hash(decode(members["jpg"])) for key, members in samples}


if __name__ == "__main__":
    main()
