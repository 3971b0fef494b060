"""Sources: find and list the images that the paths of a recipe name, the same for every stage.

A path is an image, a tar, a folder of images and tars (searched recursively), a pattern (``*``,
``{000000..000004}``) or the run folder of a curation. No bytes are moved.
"""

from dinoforge.sources.discover import SOURCE_REASONS, SourceFiles, discover_files
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.sources.listing import LISTING_SCHEMA, Listing, list_files, list_images

__all__ = [
    "LISTING_SCHEMA",
    "SOURCE_REASONS",
    "ImageSet",
    "Listing",
    "SourceFiles",
    "discover_files",
    "list_files",
    "list_images",
    "open_images",
]
