"""The patches that hold most of the attention.

Shapes: H heads, N patches, X rows and Y columns of patches.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["attention_masks"]


def attention_masks(attention_HXY: NDArray[np.floating], *, mass: float = 0.6) -> NDArray[np.bool_]:
    """Keep the patches of every head that hold ``mass`` of its attention: bool ``[H, X, Y]``.

    DINO's visualization rule (Caron et al. 2021, section 4.2.2 and appendix), as published: patches
    in ascending order are left out as long as their sum is at most ``1 - mass``. Of equal ones, the
    first are left out.
    """
    flat_HN = attention_HXY.reshape(len(attention_HXY), -1)
    order_HN = np.argsort(flat_HN, axis=1, kind="stable")
    ascending_HN = np.take_along_axis(flat_HN, order_HN, axis=1)
    shares_HN = ascending_HN / ascending_HN.sum(axis=1, keepdims=True)
    masks_HN = np.empty(flat_HN.shape, np.bool_)
    np.put_along_axis(masks_HN, order_HN, np.cumsum(shares_HN, axis=1) > 1 - mass, axis=1)
    return masks_HN.reshape(attention_HXY.shape)
