"""Mean average precision of an index, against that of the evaluation of the same network.

    dinoforge index animals4/ --encoder vits14.pth --out runs/index
    dinoforge evaluate checkpoint=vits14.pth train=[animals4/] protocols=[ranking] features=[cls] \
        out=runs/evaluation
    python benchmarks/demo_retrieval.py runs/index runs/evaluation

The index ranks all images by `Index.search`, from its float16 rows; queries and bank are those of
the evaluation. ``difference``: largest difference of the average precision of a query.
"""

import argparse
from pathlib import Path

import numpy as np
from measuring import print_table
from recording import write_result

from dinoforge.demo.index.reader import open_index
from dinoforge.evaluation.metrics.ranking import (
    Ranks,
    average_precisions,
    judge_by_class,
    rank_positives,
)
from dinoforge.records import read_records
from dinoforge.tables import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("evaluation", type=Path)
    args = parser.parse_args()
    index = open_index(args.index)
    items = read_table(args.evaluation / "evaluation/10-list/part-00000.items.parquet")
    row_of = {index.facts(row)["key"]: row for row in range(index.num_images)}
    rows = np.array([row_of[key] for key in items["key"].to_pylist()])
    labels = items["number"].to_numpy()
    bank, test = (np.flatnonzero(items[name].to_numpy()) for name in ("in_bank", "in_test"))
    queries = np.stack([index.vector(row) for row in rows[test]])
    near = index.search(queries, index.num_images)
    scores = np.full((len(test), index.num_images), -np.inf)
    np.put_along_axis(scores, near.rows, near.scores, axis=1)
    judgments = list(judge_by_class(labels[bank], labels[test]))
    ranks: Ranks = rank_positives(scores[:, rows[bank]], judgments)
    precisions = average_precisions(ranks, rule="step")
    (record,) = (
        one
        for one in read_records(args.evaluation / "records.jsonl")
        if (one.metric, one.model) == ("map", "trained")
    )
    figures = {
        "images": index.num_images,
        "queries": len(test),
        "map_of_index": round(float(precisions.mean()), 5),
        "map_of_evaluation": round(record.value, 5),
    }
    print_table(["", "value"], list(figures.items()))
    print(write_result("demo_retrieval", figures).name)


if __name__ == "__main__":
    main()
