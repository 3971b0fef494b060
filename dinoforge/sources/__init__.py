"""Sources: what a recipe names as images, found and listed the same way for every stage.

A path is an image, a tar, a folder of both (searched recursively), a pattern (``*``,
``{000000..000004}``) or the run folder of a curation. Bytes stay where they are.
"""

from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.sources.listing import LISTING_SCHEMA, Listing, list_images
from dinoforge.sources.places import SOURCE_REASONS, Places, find_places

__all__ = [
    "LISTING_SCHEMA",
    "SOURCE_REASONS",
    "ImageSet",
    "Listing",
    "Places",
    "find_places",
    "list_images",
    "open_images",
]
