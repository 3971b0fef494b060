"""Images: one decoder policy for every stage, resizing, JPEG encoding."""

from dinoforge.images.decode import decode, decode_image
from dinoforge.images.formats import image_suffix
from dinoforge.images.policy import DECODER_VERSION, DecodePolicy, Undecodable
from dinoforge.images.resize import resize

__all__ = [
    "DECODER_VERSION",
    "DecodePolicy",
    "Undecodable",
    "decode",
    "decode_image",
    "image_suffix",
    "resize",
]
