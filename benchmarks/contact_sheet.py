"""Draw pairs of natural near-duplicates of a finished curation, to be looked at.

    python benchmarks/contact_sheet.py runs/cifar10-curated sheet.png --pairs 100

Pairs above the threshold that touch no planted copy; which ones is a keyed choice. Every pair is
two pictures side by side with the similarity of the pair below.
"""

import argparse
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

from dinoforge.curated import ledger_path, pairs_files
from dinoforge.curation.tables import ImageReader
from dinoforge.images import decode
from dinoforge.randomness import KeyedPermutation
from dinoforge.tables import read_table, read_tables

SIDE, GAP, TEXT, COLUMNS = 72, 8, 14, 10


def natural_pairs(run: Path) -> np.ndarray:
    """Rows (i, j, similarity) of pairs above the threshold without a planted copy."""
    recipe = yaml.safe_load((run / "config.yaml").read_text())
    pairs = read_tables(pairs_files(run))
    i, j, similarity = (column.to_numpy() for column in pairs.columns)
    ledger = read_table(ledger_path(run), ["planted_from", "role"])
    natural = ledger.column("planted_from").is_null().to_numpy(zero_copy_only=False)
    reference = np.array(ledger.column("role").to_pylist()) == "reference"
    above = similarity.astype(np.float64) > recipe["duplicates"]["threshold"]
    keep = above & natural[i] & natural[j] & ~reference[i] & ~reference[j]
    return np.stack([i[keep], j[keep], similarity[keep]], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    args = parser.parse_args()
    result = natural_pairs(args.run)
    order = KeyedPermutation(len(result), 0, "contact sheet")[np.arange(len(result))]
    chosen = result[np.sort(order[: args.pairs])]
    ledger = read_table(ledger_path(args.run), ["shard", "offset", "size"])
    shards = ImageReader(args.run)

    def picture(image_id: int) -> Image.Image:
        place = ledger.slice(image_id, 1).to_pylist()[0]
        pixels = decode(shards.read(place["shard"], place["offset"], place["size"]) or b"")
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE))
        return image.resize((SIDE, SIDE * image.height // image.width)) if image.width else image

    rows = -(-len(chosen) // COLUMNS)
    cell = (2 * SIDE + GAP + 2, SIDE + TEXT + GAP)
    sheet = Image.new("RGB", (COLUMNS * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for at, (i, j, similarity) in enumerate(chosen.tolist()):
        x, y = at % COLUMNS * cell[0], at // COLUMNS * cell[1]
        sheet.paste(picture(int(i)), (x, y))
        sheet.paste(picture(int(j)), (x + SIDE + 2, y))
        draw.text((x, y + SIDE), f"{similarity:.3f}", fill="black")
    sheet.save(args.out)
    print(f"{args.out}: {len(chosen)} of {len(result)} pairs")


if __name__ == "__main__":
    main()
