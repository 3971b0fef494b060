"""Encoders: one vector per image, from pixels, a packaged network, a checkpoint or your function.

Importing this package imports neither torch nor NumPy; `make_encoder` imports what it needs.
"""

from dinoforge.encoders.make import ENCODERS, make_encoder

__all__ = ["ENCODERS", "make_encoder"]
