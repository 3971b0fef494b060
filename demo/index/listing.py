"""Sources to one table: a row per image, with its key, its class and where its bytes are."""

from dinoforge.demo.index.tables import IndexInputs, IndexStage
from dinoforge.remote.listings import listings_folder
from dinoforge.sources.discover import fingerprint_sources
from dinoforge.sources.image_set import open_images
from dinoforge.sources.listing import LISTING_SCHEMA
from dinoforge.stages import Json, Output

__all__ = ["ListStage"]


class ListStage(IndexStage):
    """List the images of all sources; no pixel is read."""

    name = "list"
    number = 10
    keys = ("sources",)

    def plan(self, inputs: IndexInputs) -> list[Json]:
        """Plan one partition; its payload covers names, sizes and times of all files."""
        listings = listings_folder(inputs.run_folder)
        return [{"files": fingerprint_sources(inputs.config.sources, listings)}]

    def run(self, payload: Json, inputs: IndexInputs, out: Output) -> Json:  # noqa: ARG002
        """List them."""
        images = open_images(inputs.config.sources, cache=inputs.run_folder / "cache")
        out.write_table("images", images.table, LISTING_SCHEMA)
        return {
            "images": len(images),
            "problems": images.problems,
            "not_downloaded": dict(images.failed),
        }
