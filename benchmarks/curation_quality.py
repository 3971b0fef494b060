"""Record what finished curations say of themselves: copies found, cats retrieved.

    dinoforge curate cifar10_cpu out=runs/network
    dinoforge curate cifar10_cpu out=runs/pixels retrieve.encoder=
    python benchmarks/curation_quality.py network=runs/network pixels=runs/pixels

Figures come from each run's own ``summary.json``; shares with 95 % intervals (Wilson, or bootstrap
over seeds for the precision at k).
"""

import argparse
import json
from pathlib import Path

from recording import write_result


def figures(run: Path) -> dict:
    summary = json.loads((run / "published/summary.json").read_text())
    check, retrieval = summary["check"], summary["retrieval"] or {}
    return {
        "images": summary["images"],
        "kept": summary["kept"],
        "copies": {name: check[name] for name in ("precision", "recall", "recall_by_edit")},
        "curve": check["curve"],
        "leaks": summary["leaks"],
        "retrieval": retrieval.get("quality"),
        "slots": {name: retrieval.get(name) for name in ("asked", "distinct", "multiplicity")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    args = parser.parse_args()
    result = {}
    for word in args.runs:
        name, _, run = word.partition("=")
        result[name] = figures(Path(run))
        copies, quality = result[name]["copies"], result[name]["retrieval"]
        print(f"{name}: precision {copies['precision']}, recall {copies['recall']}")
        for edit, share in copies["recall_by_edit"].items():
            print(f"  {edit:11s} recall {share['value']:.3f} {share['interval']}")
        if quality:
            print(f"  retrieval: precision {quality['precision']}, chance "
                  f"{quality['precision_chance']}; recall {quality['recall']}")  # fmt: skip
    print(write_result("cifar10-curation", result))


if __name__ == "__main__":
    main()
