"""Pictures: decoded and checked, turned upright, converted to 8-bit sRGB; and PNG bytes.

Pictures are RGB `PIL.Image`.
"""

from __future__ import annotations

import functools
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from layerdiffusion.errors import ImageError

ImageSource = Image.Image | np.ndarray | bytes | str | os.PathLike

MIN_SIDE = 16  # below this a picture is a few latent pixels at best
MAX_PIXELS = 32_000_000  # a 24-megapixel camera's picture passes
MAX_BYTES = 64 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")  # none that runs a program


def open_image(source: ImageSource, name: str = "the picture") -> Image.Image:
    """Decode a picture to 8-bit sRGB, upright, transparent parts over white.

    `source` is a path, the file's bytes, a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4). The
    file's content decides its format, whatever its name says. Raises `ImageError`, which calls the picture
    `name`, for files that are missing, damaged, animated or no pictures, and for sizes outside `MIN_SIDE` and
    `MAX_PIXELS`.
    """
    image = decode(source, name)
    try:
        return to_rgb(image)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name} can't be converted from {image.mode} to RGB ({error}); save it as an ordinary PNG or JPEG."
        ) from error


def png_bytes(picture: Image.Image | np.ndarray) -> bytes:
    """A picture, or a bool mask as black and white, as the bytes of a PNG file."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(np.where(picture, 255, 0).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def decode(source: ImageSource, name: str) -> Image.Image:
    if isinstance(source, np.ndarray):
        return _image_from_array(source, name)
    if isinstance(source, str | os.PathLike):
        source, name = _read(Path(source), name)
    if isinstance(source, bytes):
        if not source:
            raise ImageError(f"{name} is an empty file; choose a picture.")
        if len(source) > MAX_BYTES:
            raise ImageError(_too_heavy(name))
        source = io.BytesIO(source)
    elif not isinstance(source, Image.Image):
        raise ImageError(f"{name} is a {type(source).__name__}: it must be a picture, a file name or a file's bytes.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what the checks below refuse
            image = source if isinstance(source, Image.Image) else Image.open(source, formats=_formats())
            _check_size(image, name)
            frames = getattr(image, "n_frames", 1)
            # A phone's JPEG may carry a second picture (MPO); a multi-page or moving file has no one picture.
            if frames > 1 and image.format != "MPO":
                raise ImageError(f"{name} is animated or has several pages ({frames}); save one of them as a picture.")
            image.load()
            image = _upright(image)
            _check_size(image, name)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(name)) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is no picture that can be read, whatever its name says; use a PNG, JPEG or WebP file."
        ) from error
    except Exception as error:  # given damaged bytes, decoders raise nearly anything
        raise ImageError(f"{name} is damaged or cut short and can't be read; save or download it again.") from error
    return image


@functools.cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this build of Pillow has a decoder for."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _read(path: Path, name: str) -> tuple[bytes, str]:
    name = path.name or name
    try:
        if path.stat().st_size <= MAX_BYTES:
            return path.read_bytes(), name
    except FileNotFoundError as error:
        raise ImageError(f"There is no picture at {path}; check the path.") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} can't be read as a file; give the path of a picture.") from error
    raise ImageError(_too_heavy(name))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a picture with broken EXIF is still a picture
        return image


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(name, f" ({width} × {height})"))
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{name} is {width} × {height} pixels, too small to edit; use one of at least {MIN_SIDE} × {MIN_SIDE}."
        )


def _too_large(name: str, size: str = "") -> str:
    return f"{name} has more than {MAX_PIXELS // 10**6} million pixels{size}; make it smaller first."


def _too_heavy(name: str) -> str:
    return f"{name} is larger than {MAX_BYTES // 2**20} MB; save it smaller."


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its values lie outside 16 bits")
        return Image.fromarray((levels // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha, image = image.getchannel("A"), _to_srgb(image.convert("RGB"), image.info.get("icc_profile"))
        return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return _to_srgb(image, image.info.get("icc_profile"))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            converted.info.pop("icc_profile", None)
            return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a profile that doesn't fit its picture: the plain conversion is closer than no picture
    converted = image.convert("RGB")
    return converted.copy() if converted is image else converted


def _image_from_array(array: np.ndarray, name: str) -> Image.Image:
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not fits:
        raise ImageError(
            f"{name} is an array of {array.dtype} with shape {array.shape}: it must be uint8 with shape (H, W, 3)."
        )
    height, width = array.shape[:2]
    if not height or not width:
        raise ImageError(f"{name} has no pixels; choose another picture.")
    image = Image.fromarray(array)
    _check_size(image, name)
    return image
