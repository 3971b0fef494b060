"""What the demo shows, as functions of arrays, and as pictures: for reports and notebooks, too.

Dense features are ``[X, Y, D]``: one row of D numbers per patch, X rows and Y columns of patches. A
*place* is the row and the column of a patch, a *box* its first and last row and column.
"""

from dinoforge.demo.views.colors import ColorModel, color_features
from dinoforge.demo.views.drawing import draw_colors, draw_map, draw_matches
from dinoforge.demo.views.matching import (
    Matches,
    keep_one_motion,
    match_patches,
    position_basis,
    remove_position,
)
from dinoforge.demo.views.regions import Box, object_vector, region_vector, similarity_map
from dinoforge.demo.views.segments import follow_frames, segment_by_clicks

__all__ = [
    "Box",
    "ColorModel",
    "Matches",
    "color_features",
    "draw_colors",
    "draw_map",
    "draw_matches",
    "follow_frames",
    "keep_one_motion",
    "match_patches",
    "object_vector",
    "position_basis",
    "region_vector",
    "remove_position",
    "segment_by_clicks",
    "similarity_map",
]
