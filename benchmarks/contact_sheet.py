"""Draw what a finished curation found, kept or dropped, to be looked at.

    python benchmarks/contact_sheet.py runs/cifar10-curated sheet.png --pairs 100
    python benchmarks/contact_sheet.py runs/cifar10-curated sheet.png --reason not_retrieved

Pairs above the threshold that touch no planted copy: two pictures side by side with the similarity
of the pair below. With ``--reason``, images of the pool that the ledger gives this reason, in the
order of their source. Which ones is a keyed choice.
"""

import argparse
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

from dinoforge.curated import ledger_path, pairs_files
from dinoforge.curation.stored.decoding import ImageReader
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


def images_of(run: Path, reason: str) -> np.ndarray:
    """Rows of the pool with this reason."""
    ledger = read_table(ledger_path(run), ["role", "reason"])
    role, reasons = (np.array(ledger.column(name).to_pylist()) for name in ("role", "reason"))
    return np.flatnonzero((role == "pool") & (reasons == reason))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--reason", help="draw single images: retrieved, near_duplicate, ...")
    args = parser.parse_args()
    result = images_of(args.run, args.reason) if args.reason else natural_pairs(args.run)
    count = 2 * args.pairs if args.reason else args.pairs
    order = KeyedPermutation(len(result), 0, "contact sheet")[np.arange(len(result))]
    chosen = result[np.sort(order[:count])]
    ledger = read_table(ledger_path(args.run), ["shard", "offset", "size"])
    shards = ImageReader(args.run)

    def picture(image_id: int) -> Image.Image:
        place = ledger.slice(image_id, 1).to_pylist()[0]
        pixels = decode(shards.read(place["shard"], place["offset"], place["size"]) or b"")
        image = Image.fromarray(pixels)
        scale = SIDE / max(image.size)
        return image.resize([max(1, round(scale * side)) for side in image.size])

    if args.reason:
        cells = [[(int(row), 0)] for row in chosen]
        labels = [""] * len(chosen)
    else:
        cells = [[(int(i), 0), (int(j), SIDE + 2)] for i, j, _ in chosen]
        labels = [f"{similarity:.3f}" for _, _, similarity in chosen]
    columns = 2 * COLUMNS if args.reason else COLUMNS
    width, height = len(cells[0]) * (SIDE + 2) + GAP if cells else GAP, SIDE + TEXT + GAP
    sheet = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for at, (pictures, label) in enumerate(zip(cells, labels, strict=True)):
        x, y = at % columns * width, at // columns * height
        for image_id, right in pictures:
            sheet.paste(picture(image_id), (x + right, y))
        draw.text((x, y + SIDE), label, fill="black")
    sheet.save(args.out)
    print(f"{args.out}: {len(chosen)} of {len(result)} {args.reason or 'pairs'}")


if __name__ == "__main__":
    main()
