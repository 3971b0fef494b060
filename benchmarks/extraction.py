"""Features in partitions, hashed and cached, against one loop over the images.

    python benchmarks/extraction.py vits14.pth imagenette144-val-000000.tar

Both decode and encode the same images in one process on one thread; the pipeline also lists them,
hashes their bytes, writes its arrays and proves them. CPU seconds, interleaved; above 1, the
pipeline needs less.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import interleave, ratios, spread, start_clean
from recording import write_result

from dinoforge.encoders.checkpoint import CheckpointEncoder
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.suite import PIPELINE, STAGES
from dinoforge.sources.image_set import open_images
from dinoforge.stages import make_executor
from dinoforge.stages.pipeline import make_inputs, run_stages

AT_ONCE = 64


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone", type=Path)
    parser.add_argument("images")
    parser.add_argument("--partition", type=int, default=64, help="images of a partition")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="extraction-"))
    config = EvaluationConfig(
        train=[args.images],
        checkpoint=str(args.backbone),
        baselines=[],
        protocols=["knn"],
        device="cpu",
        partition_images=args.partition,
    )

    def in_partitions() -> np.ndarray:
        run = Path(tempfile.mkdtemp(dir=root))
        until = [stage.name for stage in STAGES].index("features") + 1
        run_stages(PIPELINE.name, STAGES[:until], run, config, make_executor("in-process"))
        files = make_inputs(PIPELINE.name, STAGES, run, config).files("features", "cls.npy")
        rows = np.concatenate([np.load(file) for file in files])
        shutil.rmtree(run)
        return rows

    def in_one_loop() -> np.ndarray:
        encoder = CheckpointEncoder(args.backbone)
        images = open_images([args.images], cache=root)
        parts = []
        for start in range(0, len(images), AT_ONCE):
            some = range(start, min(start + AT_ONCE, len(images)))
            parts.append(encoder.encode_tokens([images.decode(index) for index in some])["cls"])
        return np.concatenate(parts)

    contestants = {"one loop": in_one_loop, "partitions": in_partitions}
    seconds, rows = interleave(contestants, args.rounds)
    shutil.rmtree(root)
    assert np.array_equal(rows["one loop"], rows["partitions"]), "other features"
    figures = {
        "images": len(rows["one loop"]),
        "partition": args.partition,
        "cpu_s": {name: spread(values) for name, values in seconds.items()},
        "loop / partitions": ratios(seconds["one loop"], seconds["partitions"]),
    }
    print(figures)
    print(write_result("extraction", figures).name)


if __name__ == "__main__":
    main()
