"""Sources: find and list the images that the paths of a recipe name, the same for every stage.

A path is an image, a tar, a folder of images and tars (searched recursively), a pattern (``*``,
``{000000..000004}``) or the run folder of a curation. No bytes are moved.
"""

from dinoforge.sources.image_set import open_images

__all__ = ["open_images"]
