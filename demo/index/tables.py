"""Tables of an index, and how its stages read them."""

from functools import lru_cache

import pyarrow as pa

from dinoforge.config.ranges import Precision
from dinoforge.demo.index.config import IndexConfig
from dinoforge.demo.network import Network, open_network
from dinoforge.sources.listing import LISTING_SCHEMA
from dinoforge.stages import Inputs, Stage

__all__ = ["IMAGES_SCHEMA", "IndexInputs", "IndexStage", "cached_network"]

IndexInputs = Inputs[IndexConfig]
IndexStage = Stage[IndexConfig]

# embed: one row per image that decodes, in the order of the listing. place: its row there; width,
# height: of the upright image, pixels; rows, columns: its patches; start: its first row in the
# array of patches of the partition; thumb, thumb_bytes: where its thumbnail is in the file
IMAGES_SCHEMA = pa.schema(
    [
        ("place", pa.int64()),
        *LISTING_SCHEMA,
        ("beside", pa.string()),  # JSON: the columns of the recipe that the image has
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rows", pa.int32()),
        ("columns", pa.int32()),
        ("start", pa.int64()),
        ("thumb", pa.int64()),
        ("thumb_bytes", pa.int32()),
    ]
)


@lru_cache(maxsize=2)  # on the CPU to plan, and on the device
def cached_network(spec: str, device: str, precision: Precision) -> Network:
    """Load weights once per process, not once per partition."""
    return open_network(spec, device=device, precision=precision)
