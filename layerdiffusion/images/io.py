"""Pictures: decoded and checked, turned upright, converted to 8-bit sRGB; and PNG bytes.

Pictures are RGB `PIL.Image`. Memory is bounded: a picture of more than `WORKING_PIXELS` is reduced by a whole factor
as it is opened, a JPEG while it is decoded. More than 8 bits a sample are scaled by `to_eight_bits`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pillow_heif
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from layerdiffusion.errors import ImageError, printable

ImageSource = Image.Image | np.ndarray | bytes | str | os.PathLike

MIN_SIDE = 16  # below this a picture is a few latent pixels at best
MAX_PIXELS = 100_000_000
MAX_JPEG_PIXELS = 200_000_000  # decoded at a reduced scale, so that more of them fit
WORKING_PIXELS = 32_000_000  # what an opened picture has at most
MAX_BYTES = 256 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "HEIF")  # none that runs a program
FIRST_PICTURE = ("MPO", "HEIF")  # what a phone stores beside its first picture are depth maps, brackets and previews
REDUCED_FROM = "reduced_from"  # in an opened picture's `info`: the size (W, H) before it was reduced

DEPTHS = (8, 10, 12, 14, 16)
OPEN_ENDED = 16.0  # floats up to here are light relative to 1, above it counts of a sensor
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # Pillow's own of more than 8 bits, one channel each
BAND = 256  # rows scaled at once: bounds the memory of 64-bit intermediates

_COPIED_INFO = ("icc_profile", "transparency")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # width and height change places


def open_image(source: ImageSource, name: str = "the picture") -> Image.Image:
    """Decode a picture to 8-bit sRGB, upright, transparent parts over white.

    `source` is a path, the file's bytes, a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4). The
    file's content decides its format, whatever its name says. Pictures have up to `MAX_PIXELS`, JPEGs
    `MAX_JPEG_PIXELS`; one of more than `WORKING_PIXELS` is reduced by the least whole factor that fits (a JPEG's is a
    power of two) and its `info` says from what size under `REDUCED_FROM`. More than 8 bits a sample are scaled as
    `to_eight_bits` says.

    Raises `ImageError`, which calls the picture `name`, for files that are missing, damaged, animated or no pictures,
    and for sizes outside the limits.
    """
    image = decode(source, name, reduce=True)
    try:
        opened = to_rgb(image)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name} can't be converted from {image.mode} to RGB ({error}); save it as an ordinary PNG or JPEG."
        ) from error
    opened.info = {REDUCED_FROM: image.info[REDUCED_FROM]} if REDUCED_FROM in image.info else {}
    return opened


def decode(source: ImageSource, name: str, reduce: bool = False) -> Image.Image:
    """The picture upright, 8 bits a sample, in its own mode; with `reduce`, of at most `WORKING_PIXELS`.

    A copy, whose `info` holds its colour profile, its transparent colour and `REDUCED_FROM` alone. A JPEG of more than
    `WORKING_PIXELS` is always reduced. Raises `ImageError` as `open_image` does.
    """
    if isinstance(source, str | os.PathLike):
        source, name = _read(Path(source), name)
    if isinstance(source, bytes):
        if not source:
            raise ImageError(f"{name} is an empty file; choose a picture.")
        if len(source) > MAX_BYTES:
            raise ImageError(f"{name} is larger than {MAX_BYTES // 2**20} MB; save it smaller.")
    elif not isinstance(source, Image.Image | np.ndarray):
        raise ImageError(f"{name} is a {type(source).__name__}: it must be a picture, a file name or a file's bytes.")
    with _one_sentence(name):
        image, size, orientation = _load(source, name)
        image = _reduced(image) if reduce else image
        reduced = image.size != size
        info: dict[Any, Any] = {key: image.info[key] for key in _COPIED_INFO if key in image.info}
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
            size = size[::-1] if orientation in _TURNED else size
        else:
            image = image.copy()
        image.info = {**info, **({REDUCED_FROM: size} if reduced else {})}
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """A copy in RGB, transparent parts over white, its colour profile turned into sRGB.

    Raises `OSError` or `ValueError` for a mode that has no way to RGB.
    """
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha, image = image.getchannel("A"), _to_srgb(image.convert("RGB"), image.info.get("icc_profile"))
        return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return _to_srgb(image, image.info.get("icc_profile"))


def png_bytes(picture: Image.Image | np.ndarray, text: PngInfo | None = None) -> bytes:
    """A picture, or a bool mask (H, W) as black and white, as the bytes of a PNG file with its `text`."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(np.where(picture, 255, 0).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def points_in_opened(points: Iterable[Sequence[float]], image: Image.Image) -> list[tuple[float, ...]]:
    """Points (x, y), or boxes (x0, y0, x1, y1), of a file's upright picture in the pixels of the opened `image`.

    The same ones unless `open_image` reduced it. What is no number stays as it is.
    """
    before = image.info.get(REDUCED_FROM, image.size)

    def scaled(value: float, axis: int) -> float:
        if before == image.size or not isinstance(value, int | float):
            return value
        return value * image.size[axis] / before[axis]

    return [tuple(scaled(value, index % 2) for index, value in enumerate(point)) for point in points]


@contextlib.contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes an `ImageError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what the checks refuse
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(name, MAX_PIXELS)) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is no picture that can be read, whatever its name says; use a PNG, JPEG or WebP file."
        ) from error
    except Exception as error:  # given damaged bytes, decoders raise nearly anything
        raise ImageError(f"{name} is damaged or cut short and can't be read; save or download it again.") from error


def _load(source: Image.Image | np.ndarray | bytes, name: str) -> tuple[Image.Image, tuple[int, int], int]:
    """The picture as stored, in 8 bits a sample, a large JPEG reduced; its size in the file; its EXIF orientation."""
    if isinstance(source, np.ndarray):
        image = _image_from_array(source, name)
        return image, image.size, 1
    if isinstance(source, Image.Image):
        image, data = source, b""
    else:
        data = source
        image = _identify(data)
    _check_picture(image, name)
    stored = image.size
    drafted = bool(data) and image.format in ("JPEG", "MPO") and _draft(image)
    if data and _hides_depth(image):
        samples = _read_deep(data)
        if samples is None:
            raise ImageError(f"{name} is damaged or cut short and can't be read; save or download it again.")
        if image.format == "TIFF" and image.mode == "RGB":
            samples = samples[..., :3]  # a fourth one means nothing
        return _profiled(samples, image, name), image.size, 1 if image.format == "TIFF" else _orientation(image)
    image.load()
    orientation = _orientation(image)
    if image.mode in DEEP_MODES:
        image = _profiled(np.asarray(image), image, name)
    return image, stored if drafted else image.size, orientation


def _identify(data: bytes) -> Image.Image:
    """The file's picture, not decoded yet."""
    if data.startswith(b"\xff\xd8\xff"):  # not by `Image.open`, whose own limit is below ours for JPEGs
        return JpegImagePlugin.jpeg_factory(io.BytesIO(data))
    return Image.open(io.BytesIO(data), formats=_formats())


@functools.cache
def _formats() -> list[str]:
    """Those of `FORMATS` that there is a decoder for here."""
    Image.init()
    pillow_heif.register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def _hides_depth(image: Image.Image) -> bool:
    """Whether Pillow would cut this file's 16-bit colours to 8: it has no deeper mode of several channels."""
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def _read_deep(data: bytes) -> np.ndarray | None:
    """The samples of a PNG or TIFF file, (H, W) or (H, W, 3 or 4) in RGB order, in their own dtype; None if unreadable.

    A TIFF comes upright, a PNG as it is stored.
    """
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.ndim == 2:
        return samples
    order = cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(samples, order)


def to_eight_bits(samples: np.ndarray) -> np.ndarray:
    """Samples (H, W) or (H, W, C) as uint8; an alpha channel (C = 4) is scaled by its own range.

    The scaling is linear, the same for all colours, and follows from the picture's own values: 0 is black, and white is

    - of integers, 2^b − 1 for the least b of 8, 10, 12, 14 and 16 that holds every value, so that a camera's 12-bit
      values in a 16-bit file open as bright as they were taken;
    - of floats, 1 if no value is larger, else the largest value if that is at most 16 (open-ended light), else as of
      integers. Negative floats are black. No gamma is applied.

    Raises `ValueError` for negative integers, values of more than 16 bits, and floats that are no numbers.
    """
    if samples.ndim == 3 and samples.shape[2] == 4:
        return np.dstack([to_eight_bits(samples[..., :3]), to_eight_bits(samples[..., 3])])
    white = _white(samples)
    scaled = np.empty(samples.shape, np.uint8)
    for start in range(0, len(samples), BAND):
        band = samples[start : start + BAND]
        if np.issubdtype(samples.dtype, np.floating):
            scaled[start : start + BAND] = np.rint(band.clip(0, white) * (255 / white))
        else:
            scaled[start : start + BAND] = band.astype(np.int64) * 255 // int(white)
    return scaled


def _white(samples: np.ndarray) -> float:
    low, high = float(samples.min()), float(samples.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("some of its values are no finite numbers")
    if np.issubdtype(samples.dtype, np.floating):
        if high <= OPEN_ENDED:
            return max(high, 1.0)
        low = max(low, 0.0)
    whites = [2**bits - 1 for bits in DEPTHS if high <= 2**bits - 1]
    if low < 0 or not whites:
        raise ValueError("its values lie outside 16 bits")
    return float(whites[0])


def _eight_bits(samples: np.ndarray, name: str) -> np.ndarray:
    try:
        return to_eight_bits(samples)
    except ValueError as error:
        raise ImageError(f"{name} can't be shown: {error}; save it as an ordinary PNG or JPEG.") from error


def _profiled(samples: np.ndarray, image: Image.Image, name: str) -> Image.Image:
    """Deep samples in 8 bits, with the colour profile of the picture that they are of."""
    deep = Image.fromarray(_eight_bits(samples, name))
    if "icc_profile" in image.info:
        deep.info["icc_profile"] = image.info["icc_profile"]
    return deep


def _draft(image: Image.Image) -> bool:
    """Have a large JPEG decoded at a half, a quarter or an eighth of its size; whether it will be."""
    factor = _factor(image.size)
    if factor == 1:
        return False
    scale = next(scale for scale in (2, 4, 8) if scale >= factor)
    image.draft(None, (image.width // scale, image.height // scale))
    return True


def _reduced(image: Image.Image) -> Image.Image:
    factor = _factor(image.size)
    if factor == 1:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("1", "P"):  # averages of palette numbers mean nothing
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image.reduce(factor)


def _factor(size: tuple[int, int]) -> int:
    """The least whole number to divide the sides by so that at most `WORKING_PIXELS` are left."""
    factor = 1
    while -(-size[0] // factor) * -(-size[1] // factor) > WORKING_PIXELS:
        factor += 1
    return factor


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a picture with broken EXIF is still a picture
        return 1


def _read(path: Path, name: str) -> tuple[bytes, str]:
    name, shown = printable(path.name) or name, printable(path)
    try:
        if path.stat().st_size <= MAX_BYTES:
            return path.read_bytes(), name
    except FileNotFoundError as error:
        raise ImageError(f"There is no picture at {shown}; check the path.") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{shown} can't be read as a file; give the path of a picture.") from error
    raise ImageError(f"{name} is larger than {MAX_BYTES // 2**20} MB; save it smaller.")


def _check_picture(image: Image.Image, name: str) -> None:
    _check_size(image.size, name, MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in FIRST_PICTURE:
        raise ImageError(f"{name} is animated or has several pages ({frames}); save one of them as a picture.")


def _check_size(size: tuple[int, int], name: str, most: int) -> None:
    width, height = size
    if width * height > most:
        raise ImageError(_too_large(name, most, f" ({width} × {height})"))
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{name} is {width} × {height} pixels, too small to edit; use one of at least {MIN_SIDE} × {MIN_SIDE}."
        )


def _too_large(name: str, most: int, size: str = "") -> str:
    return f"{name} has more than {most // 10**6} million pixels{size}; make it smaller first."


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            managed = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if managed is not None:
                managed.info.pop("icc_profile", None)
                return managed
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
    _check_size((width, height), name, MAX_PIXELS)
    return Image.fromarray(array)
