"""Pictures and masks: decode and check, orient, fit to a model, move a layer, paint out, lay over.

Pictures are RGB `PIL.Image`; masks are bool arrays (H, W) of their picture's size. Pixel coordinates are (x,
y).
"""

from __future__ import annotations

import functools
import io
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps

from layerdiffusion.errors import ImageError, MaskError

if TYPE_CHECKING:
    from layerdiffusion.edit import Placement

ImageSource = Image.Image | np.ndarray | bytes | str | os.PathLike

MIN_SIDE = 16  # below this a picture is a few latent pixels at best
MAX_PIXELS = 32_000_000  # a 24-megapixel camera's picture passes
MAX_BYTES = 64 * 2**20
DISPLAY_SIDE = 1536  # of a longer side: as the page works on pictures, and as saved results carry them
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")  # none that runs a program


def open_image(source: ImageSource, name: str = "the picture") -> Image.Image:
    """Decode a picture to 8-bit sRGB, upright, transparent parts over white.

    `source` is a path, the file's bytes, a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4). The
    file's content decides its format, whatever its name says. Raises `ImageError`, which calls the picture
    `name`, for files that are missing, damaged, animated or no pictures, and for sizes outside `MIN_SIDE` and
    `MAX_PIXELS`.
    """
    image = _decode(source, name)
    try:
        return _to_rgb(image)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name} can't be converted from {image.mode} to RGB ({error}); save it as an ordinary PNG or JPEG."
        ) from error


def open_mask(source: Any, size: tuple[int, int], name: str = "the mask") -> np.ndarray:
    """A read-only bool array (H, W) from a mask picture (light is True) or array; `size` is its picture's (W,
    H).

    Arrays are bool, or numbers from 0 to 1, or integers from 0 to 255, cut at one half. Raises `MaskError`.
    """
    if isinstance(source, np.ndarray):
        mask = _mask_from_array(source, name)
    elif isinstance(source, Image.Image | bytes | str | os.PathLike):
        image = _decode(source, name)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        mask = np.asarray(_to_rgb(image).convert("L")) >= 128
    else:
        raise MaskError(f"{name} is a {type(source).__name__}: it must be a bool array or a black and white picture.")
    if mask.shape != (size[1], size[0]):
        raise MaskError(
            f"{name} is {mask.shape[1]} × {mask.shape[0]} pixels but its picture is {size[0]} × {size[1]}; "
            "make the mask on this picture."
        )
    mask.flags.writeable = False
    return mask


def png_bytes(picture: Image.Image | np.ndarray) -> bytes:
    """A picture, or a bool mask as black and white, as the bytes of a PNG file."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(np.where(picture, 255, 0).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Fit:
    """The square window of a picture that a model sees, and the way there and back.

    The window starts at (`left`, `top`), measures `side` picture pixels and is shown to the model at
    `native`.
    """

    left: int
    top: int
    side: int
    native: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.side, self.top + self.side

    def image(self, image: Image.Image) -> Image.Image:
        """The window at the model's size, (native, native)."""
        window = image.crop(self.box)
        return window if self.side == self.native else window.resize((self.native,) * 2, Image.Resampling.LANCZOS)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """The mask's window at the model's size: a pixel is True where at least half of its area was."""
        window = mask[self.top : self.top + self.side, self.left : self.left + self.side]
        return _resize_mask(window, self.native)

    def restore_mask(self, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A mask at the model's size back in a picture of `size` (W, H); False outside the window.

        `mask` undoes it exactly where the window is the model's size, or at least twice as large.
        """
        restored = np.zeros((size[1], size[0]), bool)
        restored[self.top : self.top + self.side, self.left : self.left + self.side] = _resize_mask(mask, self.side)
        return restored

    def point(self, x: float, y: float) -> tuple[float, float]:
        """A picture's point in the model's pixels; pixel centres are at whole numbers."""
        ratio = self.native / self.side
        return (x - self.left + 0.5) * ratio - 0.5, (y - self.top + 0.5) * ratio - 0.5

    def restore_point(self, x: float, y: float) -> tuple[float, float]:
        """The inverse of `point`."""
        ratio = self.side / self.native
        return (x + 0.5) * ratio - 0.5 + self.left, (y + 0.5) * ratio - 0.5 + self.top


def fit_square(size: tuple[int, int], native: int, mask: np.ndarray | None = None) -> Fit:
    """The largest square window of a picture of `size` (W, H), scaled to `native`: cropped, never padded.

    Padding would put bars into the picture that the model has to reproduce. The window is the centre, slid
    just as far as the subject in `mask` needs to lie inside; a subject longer than the window is centred.
    """
    side = min(size)
    starts = []
    for axis, length in enumerate(size):
        start = (length - side) // 2
        if mask is not None and mask.any():
            inside = np.flatnonzero(mask.any(axis=axis))
            first, last = int(inside[0]), int(inside[-1]) + 1
            start = (first + last - side) // 2 if last - first > side else min(max(start, last - side), first)
        starts.append(min(max(start, 0), length - side))
    return Fit(starts[0], starts[1], side, native)


def mask_to_latents(
    mask: np.ndarray,
    size: tuple[int, int],
    name: str | None = None,
    mend: str = "mark more, or choose a closer picture",
) -> np.ndarray:
    """A pixel mask on the latent grid `size` (w, h): float32 (h, w), 1 where at least half the cell's area is
    True.

    With `name`, a mask that marks something but covers no cell by half raises a `MaskError` that calls it so and
    ends with what to do about it, `mend`.
    """
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    latent_mask = (share >= 0.5 - 1e-6).astype(np.float32)
    if name is not None and mask.any() and not latent_mask.any():
        raise MaskError(
            f"{name} is too small for the model to see: it fills no cell of its {size[0]} × {size[1]} grid "
            f"by half; {mend}."
        )
    return latent_mask


def place(image: Image.Image, mask: np.ndarray, placement: Placement) -> tuple[Image.Image, np.ndarray]:
    """The picture and its mask with the subject scaled, turned, mirrored and moved by one affine map.

    Colours under the new mask are averaged over subject pixels alone, so that no rim of the old background
    travels along; beyond the picture's edge the edge is repeated. Raises `MaskError` if nothing of the
    subject is left.
    """
    if placement.is_identity:
        return image, mask
    matrix = placement_matrix(mask, placement)
    shrink = 1 / placement.scale
    colours, weight = np.asarray(image, np.float32), mask.astype(np.float32)
    subject = colours * weight[..., None]
    if shrink > 1:  # an affine warp picks single pixels: average first what one of them will stand for
        kernel = (0, 0), 0.4 * shrink
        colours, weight = cv2.GaussianBlur(colours, *kernel), cv2.GaussianBlur(weight, *kernel)
        subject = cv2.GaussianBlur(subject, *kernel)

    def warp(array: np.ndarray, border: int) -> np.ndarray:
        return cv2.warpAffine(array, matrix[:2], image.size, flags=cv2.INTER_LINEAR, borderMode=border)

    weight = warp(weight, cv2.BORDER_CONSTANT)
    subject = warp(subject, cv2.BORDER_CONSTANT) / np.maximum(weight, 1e-6)[..., None]
    moved = weight >= 0.5
    if not moved.any():
        raise MaskError("The subject is placed outside the picture; move it back, or make it larger.")
    placed = np.where(moved[..., None], subject, warp(colours, cv2.BORDER_REPLICATE))
    return Image.fromarray(np.clip(np.rint(placed), 0, 255).astype(np.uint8)), moved


def placement_matrix(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """The 3 × 3 matrix that takes a pixel (x, y, 1) of the picture to where the placement puts it."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    centre_x, centre_y = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
    angle = math.radians(placement.rotation)
    cos, sin = placement.scale * math.cos(angle), placement.scale * math.sin(angle)
    mirror = -1 if placement.flip else 1
    # Counter-clockwise to the eye, with y pointing down.
    turn = np.array([[cos * mirror, sin, 0], [-sin * mirror, cos, 0], [0, 0, 1]])
    there = np.array([[1, 0, -centre_x], [0, 1, -centre_y], [0, 0, 1]])
    back = np.array([[1, 0, centre_x + placement.dx * width], [0, 1, centre_y + placement.dy * height], [0, 0, 1]])
    return back @ turn @ there


def paint_out(image: Image.Image, mask: np.ndarray, halo: int | None = None) -> Image.Image:
    """The picture with what is True in `mask` painted over from its surroundings.

    What lies beside the hole at the same height is copied in where it continues the hole's rim: inpainting alone
    smears the rim inwards and leaves a ghost in the subject's outline. OpenCV's inpainting (Telea) does the rest. The
    mask is first grown by `halo` pixels (None: a hundredth of the shorter side), because a subject's soft rim lies
    just outside its mask and would be spread over the hole.
    """
    if not mask.any():
        return image
    halo = max(1, round(min(image.size) / 100)) if halo is None else halo
    hole = grow(mask, halo)
    if hole.all():
        hole = mask
    if hole.all():
        raise MaskError("The mask covers the whole picture, so there is nothing to paint the hole from; mark less.")
    painted = np.asarray(image).copy()
    known = ~hole
    rest = hole.copy()
    for offset in _sideways_offsets(painted, hole):
        patch = rest & _sideways(known, offset)
        painted[patch] = _sideways(np.asarray(image), offset)[patch]
        rest &= ~patch
    return Image.fromarray(cv2.inpaint(painted, rest.astype(np.uint8), 3, cv2.INPAINT_TELEA))


def _sideways_offsets(pixels: np.ndarray, hole: np.ndarray, most: int = 4) -> list[int]:
    """How far to the right to shift the picture so that it fills the hole: the best offset first, then what fills up.

    An offset is good if the shifted picture agrees with the hole's rim and covers much of the hole; none is used whose
    rim is off by more than 16 of 255 levels. The search is done on a picture of at most 128 pixels a side.
    """
    ratio = max(1.0, max(hole.shape) / 128)
    size = round(hole.shape[1] / ratio), round(hole.shape[0] / ratio)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    rest = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    whole, known = rest.sum(), ~rest
    rim = grow(rest, max(2, round(max(size) / 20))) & known
    found = []
    for offset in range(1 - size[0], size[0]):
        covered = _sideways(known, offset)
        seen = rim & covered
        if (rest & covered).sum() >= 0.05 * whole and seen.sum() >= 0.25 * rim.sum():
            found.append((np.abs(small - _sideways(small, offset))[seen].mean(), offset, covered))
    offsets = []
    while rest.any() and len(offsets) < most:
        usable = [
            (cost, offset, covered, (rest & covered).sum() / whole) for cost, offset, covered in found if cost <= 16
        ]
        usable = [choice for choice in usable if choice[3] >= 0.03]
        if not usable:
            break
        # The 4 keeps a perfect but tiny match from winning over a good one that fills the hole.
        _, offset, covered, _ = min(usable, key=lambda choice: (choice[0] + 4) / choice[3] ** 0.7)
        offsets.append(round(offset * ratio))
        rest &= ~covered
    return offsets


def _sideways(array: np.ndarray, offset: int) -> np.ndarray:
    """The array (H, W, …) shifted to the right by `offset` columns; zeros or False move in."""
    shifted = np.zeros_like(array)
    width = array.shape[1]
    shifted[:, max(offset, 0) : width + min(offset, 0)] = array[:, max(-offset, 0) : width - max(offset, 0)]
    return shifted


def lay_over(object_image: Image.Image, object_mask: np.ndarray, background: Image.Image) -> Image.Image:
    """The background with the subject's pixels laid over it; all three of one size."""
    if object_image.size != background.size or object_mask.shape != background.size[::-1]:
        raise ValueError(f"sizes differ: {object_image.size}, {object_mask.shape[::-1]}, {background.size}")
    return Image.fromarray(np.where(object_mask[..., None], np.asarray(object_image), np.asarray(background)))


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask widened by a disc of that radius; a negative number shrinks it."""
    if pixels == 0:
        return mask.copy()
    radius = abs(int(pixels))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    if pixels > 0:
        return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)
    # What the picture's edge cuts off may go on outside it, so the edge itself doesn't eat into the mask.
    return cv2.erode(mask.astype(np.uint8), disc, borderType=cv2.BORDER_CONSTANT, borderValue=1).astype(bool)


def reduce(
    image: Image.Image, mask: np.ndarray | None = None, side: int = DISPLAY_SIDE
) -> tuple[Image.Image, np.ndarray | None]:
    """The picture, and its mask with it, no larger than `side` pixels; the mask marks what it covers by half.

    A mask that marks something, but not all, still does.
    """
    if max(image.size) <= side:
        return image, mask
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if mask is None:
        return image, None
    sheet = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    share = np.asarray(sheet.resize(image.size, Image.Resampling.BOX))
    candidates = [share >= least for least in (128, 1, 255)]
    same = (small for small in candidates if small.any() == mask.any() and small.all() == mask.all())
    return image, next(same, candidates[0])


def _decode(source: ImageSource, name: str) -> Image.Image:
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


def _to_rgb(image: Image.Image) -> Image.Image:
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


def _mask_from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2:
        raise MaskError(f"{name} has shape {array.shape}: it must be (height, width).")
    if array.dtype == bool:
        return array.copy()
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating) or not array.size:
        raise MaskError(f"{name} is an array of {array.dtype}: it must be bool, or numbers from 0 to 1 or 255.")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255) or (high > 1 and np.issubdtype(array.dtype, np.floating)):
        raise MaskError(
            f"{name} has values from {low:g} to {high:g}: it must be bool, numbers from 0 to 1 or integers to 255."
        )
    return array >= (0.5 if high <= 1 else 128)


def _resize_mask(mask: np.ndarray, side: int) -> np.ndarray:
    if mask.shape == (side, side):
        return mask.copy()
    if side > mask.shape[0]:
        return cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
    return cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) >= 0.5 - 1e-6
