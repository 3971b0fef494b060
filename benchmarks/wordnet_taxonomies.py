"""Write the taxonomies of ImageNet and CIFAR-10 from the nouns of WordNet 3.0.

    python benchmarks/wordnet_taxonomies.py DICT CLASSES

DICT is the folder with ``data.noun`` of WordNet 3.0 (Debian's package wordnet-base has it in
usr/share/wordnet), CLASSES a table of ImageNet's classes: number, WordNet id, name.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parents[1] / "evaluation" / "class_structure" / "taxonomies"

# The synset of each class of CIFAR-10: the sense of its pictures.
CIFAR10 = {
    "airplane": "n02691156",
    "automobile": "n02958343",
    "bird": "n01503061",
    "cat": "n02121808",  # domestic cat
    "deer": "n02430045",
    "dog": "n02084071",
    "frog": "n01639765",
    "horse": "n02374451",
    "ship": "n04194289",
    "truck": "n04490091",
}


class Synset(NamedTuple):
    words: list[str]
    parents: list[str]  # hypernyms


def read_nouns(path: Path) -> tuple[str, dict[str, Synset]]:
    """Read the license at the head of the file, and the synsets by id (``n`` and 8 digits)."""
    license_lines, synsets = [], {}
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("  "):
            license_lines.append(line.strip().partition(" ")[2].strip())
            continue
        fields = line.partition("|")[0].split()
        count = int(fields[3], 16)
        words = fields[4 : 4 + 2 * count : 2]
        pointers = fields[5 + 2 * count :]
        kinds = zip(pointers[::4], pointers[1::4], strict=False)
        parents = [f"n{target}" for kind, target in kinds if kind in {"@", "@i"}]
        synsets[f"n{fields[0]}"] = Synset(words, parents)
    return "\n".join(f"# {line}".rstrip() for line in license_lines), synsets


def write(path: Path, head: str, names: Mapping[str, Iterable[str]], synsets: dict) -> None:
    """Write the nodes between the classes (id -> names) and the root, one per line."""
    nodes, todo = set(), list(names)
    while todo:
        if (node := todo.pop()) not in nodes:
            nodes.add(node)
            todo += synsets[node].parents
    lines = [
        "\t".join([node, " ".join(synsets[node].parents), ", ".join(words)])
        for node in sorted(nodes)
        for words in [names.get(node, synsets[node].words[:1])]
    ]
    path.write_text(head + "\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(names)} classes, {len(lines)} nodes, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dict", type=Path)
    parser.add_argument("classes", type=Path)
    args = parser.parse_args()
    license_text, synsets = read_nouns(args.dict / "data.noun")
    rows = [line.split("\t") for line in args.classes.read_text(encoding="utf-8").splitlines()]
    # The name of the table first: it is shown.
    imagenet = {i: dict.fromkeys([name, number, *synsets[i].words]) for number, i, name in rows}
    cifar10 = {i: [name, str(number)] for number, (name, i) in enumerate(CIFAR10.items())}
    for name, classes in (("imagenet", imagenet), ("cifar10", cifar10)):
        title = f"# Classes of {name} and their hypernyms. Columns: id, ids of hypernyms, names."
        write(FOLDER / f"{name}.tsv", f"{title}\n#\n{license_text}", classes, synsets)


if __name__ == "__main__":
    main()
