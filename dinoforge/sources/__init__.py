"""Sources: what a recipe names as images, found and listed the same way for every stage.

A path is an image, a tar, a folder of both (searched recursively), a pattern (``*``,
``{000000..000004}``) or the run folder of a curation. Bytes stay where they are.
"""

from dinoforge.sources.discover import SOURCE_REASONS, SourceFiles, discover_files
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.sources.listing import LISTING_SCHEMA, Listing, list_images

__all__ = [
    "LISTING_SCHEMA",
    "SOURCE_REASONS",
    "ImageSet",
    "Listing",
    "SourceFiles",
    "discover_files",
    "list_images",
    "open_images",
]
