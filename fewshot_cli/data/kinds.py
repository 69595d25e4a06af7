"""What a file is, by its first bytes: an image that can be decoded here, or a reason to leave it out."""

import re
from functools import cache
from pathlib import PurePosixPath

from PIL import Image, features

HEAD = 64  # bytes that tell

# Pillow's other formats run programs (EPS, WMF), are stubs or icons, or look like texts (XBM, XPM)
_PILLOW = (
    "JPEG",
    "PNG",
    "BMP",
    "WEBP",
    "GIF",
    "TIFF",
    "PPM",
    "AVIF",
    "JPEG2000",
    "TGA",
    "PCX",
    "SGI",
    "PSD",
    "QOI",
    "SUN",
    "DDS",
)
_BUILT_IN = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}  # only where Pillow was built with them
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WEBP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "PSD"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"icns", "an icon"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"\1\xda", "SGI"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"\x59\xa6\x6a\x95", "SUN"),
)
_BITMAP = re.compile(rb"BM.{4}\0{4}", re.DOTALL)  # two letters begin many a text
_PORTABLE = re.compile(rb"P([1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s|f\s\d+\s+\d+\s)")
_PAINTBRUSH = re.compile(rb"\n[\x00\x02-\x05]\x01[\x01\x02\x04\x08]")
_BRANDS = {  # of an ISO base media file
    "AVIF": (b"avif", b"avis"),
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "camera raw": (b"crx ",),
}
_SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".jp2", ".j2k"), "JPEG2000"),
    **{f".{name}": name.upper() for name in ("png", "webp", "gif", "avif", "tga")},
}
# of cameras: TIFF in name, of which Pillow would read the preview, or formats of their own
_RAW = (".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".orf", ".rw2", ".pef", ".raf", ".srw")
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".tmp")
_DRAWINGS = (".svg", ".svgz")
_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r")
_SYSTEM_FOLDERS = (
    "@eadir",
    "@tmp",
    "@recycle",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "__macosx",
    "__pycache__",
    "lost+found",
    "recycler",
    "system volume information",
)


def litter(name: str) -> str | None:
    """Why a file is nobody's image, whatever it holds: it, or a folder above it, is hidden, or the system's own."""
    parts = PurePosixPath(name).parts
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if any(part.lower() in _SYSTEM_FOLDERS for part in parts) or (parts and parts[-1].lower() in _SYSTEM_FILES):
        return "the system's own"
    return None


@cache
def formats() -> tuple[str, ...]:
    """The formats that are decoded here, by Pillow's names."""
    Image.init()
    try:
        import pillow_heif  # type: ignore[import-not-found]  # not among the requirements

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    there = [name for name in (*_PILLOW, "HEIF") if name in Image.OPEN]
    return tuple(name for name in there if name not in _BUILT_IN or features.check(_BUILT_IN[name]))


def is_image(name: str | PurePosixPath) -> bool:
    """Whether a file's suffix is that of an image."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def kind(head: bytes) -> str | None:
    """What a file is by its first `HEAD` bytes: a format of images by Pillow's name, another one, or None."""
    if head[4:8] == b"ftyp":
        brands = [head[at : at + 4] for at in range(8, min(int.from_bytes(head[:4]), len(head)), 4)]
        for name, known in _BRANDS.items():  # in this order: an AVIF may call itself a mif1, too
            if any(brand in known for brand in brands):
                return name
        return None
    for at, signature, name in _SIGNATURES:
        if head.startswith(signature, at):
            return name
    forms = ((_BITMAP, "BMP"), (_PORTABLE, "PPM"), (_PAINTBRUSH, "PCX"))
    return next((name for sign, name in forms if sign.match(head)), None)


def decoder(name: str, head: bytes) -> str | None:
    """Pillow's name of the format that a file is decoded as: that of its content, or of its suffix where the format has
    no signature; None when it is none of `formats`.
    """
    found = kind(head)
    if found == "HEIC":
        found = "HEIF"
    if found is None and PurePosixPath(name).suffix.lower() == ".tga":
        found = "TGA"
    return found if found in formats() else None


def left_out(name: str, head: bytes) -> str | None:
    """Why a file is not taken for an image; None when it is one by its content, or claims to be by its suffix."""
    suffix, found = PurePosixPath(name).suffix.lower(), kind(head)
    if suffix in _RAW or found == "camera raw":
        return "camera raw; export them as JPEG"
    if suffix in _UNFINISHED:
        return "unfinished downloads"
    if suffix in _DRAWINGS:
        return "SVG, which has no pixels"
    if found == "HEIC":
        return None if "HEIF" in formats() else "HEIC; to read them, pip install pillow-heif"
    if found in ("JPEG XL", "PostScript", "an icon"):
        return f"{found}, which is not read; save them as PNG"
    if (found or _SUFFIXES.get(suffix, "")) in formats():
        return None
    if found or suffix in _SUFFIXES:
        return f"{found or _SUFFIXES[suffix]}, which this Pillow does not decode"
    return "not an image"
