"""Images: one decoder policy for every stage, resizing, JPEG encoding."""

from dinoforge.images.decode import DecodedImage, decode, decode_image
from dinoforge.images.formats import (
    IMAGE_SUFFIXES,
    SNIFF_BYTES,
    has_image_suffix,
    image_suffix,
    sniff,
)
from dinoforge.images.policy import DECODER_VERSION, NOTES, REASONS, DecodePolicy, Undecodable
from dinoforge.images.resize import encode_jpeg, resize

__all__ = [
    "DECODER_VERSION",
    "IMAGE_SUFFIXES",
    "NOTES",
    "REASONS",
    "SNIFF_BYTES",
    "DecodePolicy",
    "DecodedImage",
    "Undecodable",
    "decode",
    "decode_image",
    "encode_jpeg",
    "has_image_suffix",
    "image_suffix",
    "resize",
    "sniff",
]
