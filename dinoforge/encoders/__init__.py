"""Encoders: one vector an image, from pixels, a network in a package, a checkpoint, your function.

Importing this package imports no torch; `make_encoder` imports what the encoder needs.
"""

from dinoforge.encoder_names import ENCODERS
from dinoforge.encoders.encoder import Encoder, fingerprint_of, unit_rows
from dinoforge.encoders.make import make_encoder

__all__ = ["ENCODERS", "Encoder", "fingerprint_of", "make_encoder", "unit_rows"]
