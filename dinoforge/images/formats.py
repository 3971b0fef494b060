"""Image formats by the first bytes of a file, and file names of images."""

import re
from collections.abc import Mapping

__all__ = ["IMAGE_SUFFIXES", "SNIFF_BYTES", "UNREAD", "has_image_suffix", "image_suffix", "sniff"]

SNIFF_BYTES = 64  # that `sniff` needs

# The order decides which member of a sample is its image if several could be (a `.jpg` photograph
# beside a `.png` label map). Camera raw and JPEG XL are listed so that such files are counted as
# unsupported instead of being overlooked.
IMAGE_SUFFIXES: tuple[str, ...] = (
    *("jpg", "jpeg", "jpe", "jfif", "webp", "avif", "png", "apng", "tif", "tiff", "bmp", "gif"),
    *("jp2", "j2k", "jpf", "jpx", "jpc", "j2c", "ppm", "pgm", "pbm", "pnm", "pfm", "pam"),
    *("tga", "psd", "dib", "ico", "icns", "cur", "pcx", "dds", "sgi", "qoi", "ras", "xbm", "xpm"),
    *("heic", "heif", "hif", "jxl", "jxr", "exr"),
    *("dng", "nef", "nrw", "cr2", "cr3", "crw", "arw", "srf", "sr2", "orf", "rw2", "raf", "pef"),
    *("srw", "x3f", "mrw", "3fr", "iiq", "dcr", "kdc", "erf"),
)
_SUFFIXES = frozenset(IMAGE_SUFFIXES)
# Suffixes by format, where they are not its name in lower case.
_SUFFIX = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2", "DIB": "bmp"}

_MAGIC: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0"),
    "PSD": (b"8BPS",),
    "QOI": (b"qoif",),
    "JPEG2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "ICO": (b"\0\0\1\0",),
    "ICNS": (b"icns",),
    "DDS": (b"DDS ",),
    "SGI": (b"\x01\xda\0\1", b"\x01\xda\0\2", b"\x01\xda\1\1", b"\x01\xda\1\2"),
    "SUN": (b"\x59\xa6\x6a\x95",),
    "XPM": (b"/* XPM */",),
    "EPS": (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "JXL": (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    "ORF": (b"IIRO", b"IIRS", b"MMOR"),
    "RW2": (b"IIU\0",),
    "RAF": (b"FUJIFILMCCD-RAW",),
    "CRW": (b"II\x1a\0\0\0HEAPCCDR",),
    "MRW": (b"\0MRM",),
    "X3F": (b"FOVb",),
    "JXR": (b"II\xbc\x01",),
    "EXR": (b"v/1\x01",),
    "HDR": (b"#?RADIANCE", b"#?RGBE"),
    "XCF": (b"gimp xcf ",),
    "PAM": (b"P7\n", b"P7 "),
}
# Formats that are recognized but not read.
UNREAD: Mapping[str, str] = {
    "JXL": "JPEG XL is not read",
    "JXR": "JPEG XR is not read",
    "EXR": "OpenEXR is not read",
    "HDR": "Radiance HDR is not read",
    "XCF": "GIMP's XCF is not read",
    "EPS": "EPS is not read",
    "PAM": "PAM is not read",
    **{name: f"{name} camera raw" for name in ("ORF", "RW2", "RAF", "CRW", "MRW", "X3F", "CR3")},
}
# Two letters do not distinguish a BMP from text: the size of its header must match, too.
_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)
# Nor is `P3` before a word a picture: its width follows, then its height.
_PNM = re.compile(rb"P[1-6Ff]\s+(#|\d+(#|\s+[#\d-]))")
# Files of text: captions may begin as pictures do (`GIF89a of a cat`).
_TEXT_SUFFIXES = frozenset(("cls", "txt", "text", "caption", "cap", "json", "csv", "tsv", "md"))
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (
    *(b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"mif2"),
    *(b"msf1", b"miaf"),
)


def sniff(head: bytes, suffix: str = "") -> str | None:
    """Return the format (Pillow's name, or HEIF, JXL) of data that begins with ``head``.

    None if no signature matches, or for text in a file with the ``suffix`` of text; formats without
    a distinctive signature (TGA, CUR, XBM) can be decoded but are not recognized here.
    """
    if suffix in _TEXT_SUFFIXES and head.isascii():
        return None
    for name, signatures in _MAGIC.items():
        if head.startswith(signatures):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    return "PPM" if _PNM.match(head) else None


def _iso_media(head: bytes) -> str | None:
    end = min(len(head), int.from_bytes(head[:4], "big"))
    brands = [head[at : at + 4] for at in (8, *range(16, end - 3, 4))]
    if b"crx " in brands:
        return "CR3"
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "AVIF"
    return "HEIF" if any(brand in _HEIF_BRANDS for brand in brands) else None


def has_image_suffix(name: str) -> bool:
    """Return whether a file or member name has the suffix of an image, in any case."""
    stem, dot, suffix = name.rpartition(".")
    return bool(dot and stem) and suffix.lower() in _SUFFIXES


def image_suffix(name: str, format_name: str) -> str:
    """Return the suffix for a copy of an image, without a dot, in lower case.

    That of ``name`` (a file or tar member) if it is an image's, else by Pillow's ``format_name``.
    """
    if has_image_suffix(name):
        return name.rpartition(".")[2].lower()
    return _SUFFIX.get(format_name, format_name.lower())
