"""The face gate of the demo: pictures of faces refused, pictures without faces let through.

100 faces and 100 other crops of LFW, from scikit-image's subset (25 pixels, enlarged to 100, with a
margin of 25), as uploads go through `FaceGate`; and photographs of tars that show no people.

usage: python benchmarks/demo_faces.py [TAR ...]
"""

import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from recording import write_result
from skimage import data

from dinoforge.demo.server.decoding import MAX_SIDE
from dinoforge.demo.server.faces import FaceGate
from dinoforge.demo.server.problems import Problem
from dinoforge.images import decode, resize


def crops() -> list[NDArray[np.uint8]]:
    """The 200 crops of LFW, the faces first."""
    large = []
    for crop in data.lfw_subset():
        picture = Image.fromarray(np.uint8(crop * 255)).resize((100, 100)).convert("RGB")
        large.append(np.pad(np.asarray(picture), ((25, 25), (25, 25), (0, 0)), "edge"))
    return large


def refused(gate: FaceGate, images: Iterable[NDArray[np.uint8]]) -> dict[str, float]:
    """Count the pictures that the gate refuses, and the time that it takes."""
    count, times = 0, []
    for image in images:
        start = time.perf_counter()
        try:
            gate.admit(image, blurring=False)
        except Problem:
            count += 1
        times.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times, (50, 95)).round(1).tolist()
    return {"pictures": len(times), "refused": count, "ms_p50": p50, "ms_p95": p95}


def photographs(tar: str, limit: int) -> Iterator[NDArray[np.uint8]]:
    """Photographs spread over a tar, as large as uploads are kept."""
    with tarfile.open(tar) as file:
        members = [one for one in file.getmembers() if one.name.endswith((".jpg", ".png"))]
        for number in np.linspace(0, len(members) - 1, limit).astype(int).tolist():
            content = file.extractfile(members[number])
            assert content is not None, "a file"
            pixels = decode(content.read())
            height, width = pixels.shape[:2]
            scale = min(1, MAX_SIDE / max(height, width))
            yield resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))


def main() -> None:
    gate, lfw = FaceGate("refuse"), crops()
    figures = {"faces": refused(gate, lfw[:100]), "other crops": refused(gate, lfw[100:])}
    for tar in sys.argv[1:]:
        figures[Path(tar).stem] = refused(gate, photographs(tar, 100))
    print(figures)
    write_result("demo-faces", figures)


if __name__ == "__main__":
    main()
