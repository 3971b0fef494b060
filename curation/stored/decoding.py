"""Decode images again that decoded before: stages read bytes where the sources have them."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.tables import CurationInputs
from dinoforge.errors import UsageError
from dinoforge.images import Undecodable, decode

__all__ = ["decode_each"]


def decode_each(inputs: CurationInputs, locations: pa.Table) -> Iterator[NDArray[np.uint8]]:
    """Decode the image of each row of `tables.read_locations`, in order: ``[H, W, 3]``, RGB.

    Raises
    ------
    UsageError
        If one no longer decodes, or its file no longer exists.
    """
    for data in tables.ImageReader(inputs.run_folder).read_each(locations):
        try:
            yield decode(data or b"", inputs.config.decode)
        except Undecodable as bad:
            raise UsageError(
                what=f"an image that decoded before no longer does ({bad})",
                where="`sources`",
                do="sources must stay while the run reads them: restore it, or start with --fresh",
            ) from bad
