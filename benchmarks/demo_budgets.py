"""How long requests of the demo take, whole, on a real server: upload, search, patches, views.

A ViT-S/14 on an index of photographs (`dinoforge index`), one client, one request after the other;
every picture is new. The first paint is what Chromium reports (first-contentful-paint), each time
without anything in its cache. On a machine that is not idle, the CPU time of the server is what
counts. Needs playwright, and the chromium of the system.

usage: python benchmarks/demo_budgets.py INDEX [--threads 2] [--rounds 10]
"""

import argparse
import contextlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from demo_safety import Server
from PIL import Image, ImageDraw
from recording import write_result

from dinoforge.images.resize import encode_jpeg

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# ms, of two idle cores: the demo's plan.
BUDGETS = {
    "first paint": 1000,
    "upload, search": 600,
    "patches of 518 pixels": 3000,
    "heat map": 100,
    "search by a patch": 400,
    "match": 300,
    "colors of 4": 300,
    "50 thumbnails": 300,
}
_PAINTED = """() => new Promise((done) => new PerformanceObserver((list) => {
  for (const one of list.getEntriesByName("first-contentful-paint")) done(one.startTime);
}).observe({ type: "paint", buffered: true }))"""


def photograph(seed: int) -> bytes:
    """A new picture of 640 x 480 with shapes on a gradient, as JPEG."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:480, 0:640]
    base = np.stack([rows / 2, columns / 3, (rows + columns) / 5], axis=-1) % 256
    picture = Image.fromarray(base.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(40):
        x, y, w, h = random.integers(0, (640, 480, 200, 150)).tolist()
        pen.ellipse((x, y, x + w, y + h), fill=tuple(random.integers(0, 256, 3).tolist()))
    return encode_jpeg(np.asarray(picture), 90)


class Client:
    """Sends requests and keeps how long they took, by name."""

    def __init__(self, server: Server, browser: "Browser") -> None:
        self.server, self.browser = server, browser
        self.times, self.cpu = defaultdict(list), defaultdict(float)
        (model,) = json.loads(server.ask("GET", "/api/card")[2])["models"]
        self.num_images = model["index"]["num_images"]

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure what is sent inside: wall time, and CPU time of the server."""
        cpu, start = self.server.cpu_ms(), time.perf_counter()
        yield
        self.times[name].append(1000 * (time.perf_counter() - start))
        self.cpu[name] += self.server.cpu_ms() - cpu

    def post(self, path: str, body: dict[str, Any], name: str = "") -> Any:
        headers = {"X-CSRF-Token": self.server.csrf, "Content-Type": "application/json"}
        with self.timed(name) if name else contextlib.nullcontext():
            status, _, answer = self.server.ask("POST", f"/api/{path}", json.dumps(body), headers)
        assert status == 200, (path, status, answer[:300])
        return json.loads(answer)

    def get(self, paths: list[str], name: str) -> None:
        with self.timed(name):
            for path in paths:
                assert self.server.ask("GET", path)[0] == 200, path

    def round(self, seed: int) -> None:
        """One visit: two pictures, and everything that a page asks about them."""
        ids = []
        for number in range(2):
            data = photograph(2 * seed + number)
            with self.timed("upload, search"):
                status, id_ = self.server.upload_id(data)
                assert status == 200, status
                self.post("search", {"id": id_, "k": 20})
            box = {"id": id_, "boxes": [[9, 9, 9, 9]]}
            self.post("heat", box | {"target": {"id": id_}}, "patches of 518 pixels")
            self.post("heat", box | {"target": {"id": id_}}, "heat map")
            self.post("search/region", box | {"k": 24}, "search by a patch")
            ids.append(id_)
        self.post("match", {"a": ids[0], "b": ids[1]}, "match")
        self.post("colors", {"ids": [*ids, *ids]}, "colors of 4")
        rows = np.random.default_rng(seed).integers(0, self.num_images, 50).tolist()
        self.get([f"/api/rows/{row}/thumb" for row in rows], "50 thumbnails")
        self.paint()

    def paint(self) -> None:
        """Open the page in a browser that has nothing of it, and keep when it painted."""
        context, cpu = self.browser.new_context(), self.server.cpu_ms()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{self.server.port}/")
        self.times["first paint"].append(page.evaluate(_PAINTED))
        self.cpu["first paint"] += self.server.cpu_ms() - cpu
        context.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("index")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    server = Server(args.index, "--threads", str(args.threads), "--faces", "refuse")
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        client = Client(server, browser)
        client.round(10_000)  # imports, and the face detector
        client.times.clear()
        client.cpu.clear()
        for number in range(args.rounds):
            client.round(number)
        browser.close()
    figures = {
        name: {
            "budget_ms": BUDGETS[name],
            "p50_ms": round(float(np.percentile(values, 50)), 1),
            "p95_ms": round(float(np.percentile(values, 95)), 1),
            "cpu_ms": round(client.cpu[name] / len(values), 1),
            "requests": len(values),
        }
        for name, values in client.times.items()
    }
    server.close()
    print(json.dumps(figures, indent=1))
    write_result("demo-budgets", {"threads": args.threads, "requests": figures})


if __name__ == "__main__":
    main()
