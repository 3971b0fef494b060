"""HEIF (HEIC): the primary picture, through the optional package pillow-heif.

libheif applies the rotation and mirroring of the container; an EXIF orientation repeats them and is
not applied again. 10 and 12 bits per color are reduced to their upper 8.
"""

from functools import cache
from types import ModuleType

from dinoforge.errors import first_line
from dinoforge.images.color import to_rgb
from dinoforge.images.container import DecodedImage, Storage
from dinoforge.images.pillow import check_pixels
from dinoforge.images.policy import DecodePolicy, Undecodable
from dinoforge.images.quiet import quiet_pillow

__all__ = ["decode_heif"]

# Messages of libheif about truncated data.
_TRUNCATED = ("Unexpected end of file", "Insufficient input", "Cannot read full", "too small")


def decode_heif(data: bytes, policy: DecodePolicy) -> DecodedImage:
    """Decode the primary picture to upright RGB."""
    library = _library()
    if library is None:
        raise Undecodable("unsupported", 'HEIF: run `pip install "dinoforge[heic]"` to read it')
    try:
        with quiet_pillow:
            return _decode(library, data, policy)
    except Undecodable:
        raise
    except Exception as error:
        text = first_line(error)
        raise Undecodable(_reason(error, text), f"HEIF: {text}") from error


def _decode(library: ModuleType, data: bytes, policy: DecodePolicy) -> DecodedImage:
    notes: list[str] = []
    file = library.open_heif(data)
    width, height = file.size
    check_pixels(width, height, policy)
    if file.mimetype.endswith("-sequence"):
        if policy.animated == "reject":
            raise Undecodable("animated", "a HEIF sequence")
        notes.append("first_frame")
    bits = file.info["bit_depth"]
    image = file.to_pillow()
    if image.has_transparency_data:
        notes.append("alpha")
    storage = Storage(unit=2.0 ** (16 - bits) if bits > 8 else 1.0, wide=bits > 8)
    return DecodedImage(to_rgb(image, policy, storage), "HEIF", tuple(notes))


@cache
def _library() -> ModuleType | None:
    try:
        import pillow_heif
    except ImportError:
        return None
    pillow_heif.options.DECODE_THREADS = 1  # one thread per partition, as everywhere
    # Do not parse what is not read: if broken, it would make the picture undecodable.
    pillow_heif.options.THUMBNAILS = False
    pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.options.AUX_IMAGES = False
    return pillow_heif


def _reason(error: Exception, text: str) -> str:
    if isinstance(error, EOFError) or any(words in text for words in _TRUNCATED):
        return "truncated"
    return "unsupported" if isinstance(error, SyntaxError) else "damaged"
