"""Clicks to masks with Segment Anything: set a picture once, then a mask for every click.

Points and boxes are in the picture's own pixels, (x, y); masks are bool arrays (H, W), True on the subject.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from segment_anything import SamPredictor

from layerdiffusion.errors import SegmentError
from layerdiffusion.models.oom import is_out_of_memory
from layerdiffusion.models.sam import Sam
from layerdiffusion.settings import shortened


class Candidate(NamedTuple):
    """One of SAM's three answers to a click: a part, a larger part or the whole."""

    mask: np.ndarray  # bool (H, W)
    iou: float  # the model's own guess of how well it fits


class Proposal(NamedTuple):
    """What SAM answers to a click that nobody made."""

    point: tuple[int, int]  # the click, in the picture's pixels
    pick: int  # which of the three answers
    mask: np.ndarray  # bool, the picture at a longer side of `PROPOSAL_SIDE` pixels at most
    iou: float


PROPOSAL_SIDE = 256
Embedded = tuple[torch.Tensor, tuple[int, int], tuple[int, int]]  # features, the picture's size, and as encoded


class Segmenter:
    """Masks from clicks, by one `Sam` that several people may share.

    The slow image encoder runs once for each picture; the last `cache_size` embeddings (at true size 4 MB each) are
    cached by content, in main memory. With more than one person at work, hand `image` to each call of `mask`, so that
    nobody clicks on another's picture. Unless it is `resident`, the encoder is on the device only while it runs.
    """

    def __init__(self, sam: Sam, cache_size: int = 32, resident: bool = True) -> None:
        self._resident = resident
        if not resident:
            sam.image_encoder.to("cpu")
        self._sam = sam
        self._embeddings: OrderedDict[str, Embedded] = OrderedDict()
        self._cache_size = cache_size
        self._set: Embedded | None = None
        self._lock, self._encoding = threading.Lock(), threading.Lock()

    @property
    def device(self) -> torch.device:
        return self._sam.device

    def knows(self, image: Image.Image | np.ndarray) -> bool:
        """Whether a click on `image` needs no more than the quick decoder."""
        return _key(_checked_picture(image)) in self._embeddings

    def set_image(self, image: Image.Image | np.ndarray) -> None:
        """Make `image`, RGB, the picture that later clicks are on."""
        (self._set,) = self.prepare([image])

    def mask(
        self,
        points: Iterable[Sequence[float]] = (),
        labels: Iterable[int] | None = None,
        box: Sequence[float] | None = None,
        *,
        image: Image.Image | np.ndarray | None = None,
        pick: int | None = None,
    ) -> np.ndarray:
        """The best of the three `candidates`, or the one numbered `pick` (0, 1 or 2)."""
        candidates = self.candidates(points, labels, box, image=image)
        if pick is None:
            return max(candidates, key=lambda candidate: candidate.iou).mask
        if pick not in range(len(candidates)):
            raise SegmentError(f"There is no candidate {pick}: pick 0, 1 or 2, or none for the best.")
        return candidates[pick].mask

    def candidates(
        self,
        points: Iterable[Sequence[float]] = (),
        labels: Iterable[int] | None = None,
        box: Sequence[float] | None = None,
        *,
        image: Image.Image | np.ndarray | None = None,
    ) -> list[Candidate]:
        """SAM's three masks for these clicks, in its own order.

        `points` are (x, y); `labels` say for each whether it is on the subject (1, the default) or off it
        (0); `box` is (x0, y0, x1, y1). Raises `SegmentError` for clicks off the picture, or when nothing says
        where to look.
        """
        embedded = self._set if image is None else self.prepare([image])[0]
        if embedded is None:
            raise SegmentError("No picture is set to click on; choose one first (set_image).")
        predictor = self._predictor(embedded)
        prompt = _checked_prompt(points, labels, box, predictor.original_size)
        masks, ious, _ = predictor.predict(*prompt, multimask_output=True)
        return [Candidate(mask, float(iou)) for mask, iou in zip(masks, ious, strict=True)]

    def proposals(self, image: Image.Image | np.ndarray, per_side: int = 16, batch: int = 64) -> list[Proposal]:
        """All answers to `per_side`² clicks spread evenly over the picture, those that mark nothing left out.

        As `SamAutomaticMaskGenerator` asks for them (Kirillov et al. 2023, §5), in batches.
        """
        predictor = self._predictor(self.prepare([image])[0])
        height, width = size = predictor.original_size
        steps = (np.arange(per_side) + 0.5) / per_side
        points = np.stack(np.meshgrid(steps * width, steps * height), -1).reshape(-1, 2).astype(int)
        inputs = torch.as_tensor(predictor.transform.apply_coords(points.astype(float), size))
        inputs = inputs.to(predictor.device, torch.float32)[:, None]
        shrink = min(1.0, PROPOSAL_SIDE / max(size))
        predictor.original_size = max(1, round(shrink * height)), max(1, round(shrink * width))
        found: list[Proposal] = []
        for start in range(0, len(points), batch):
            part = inputs[start : start + batch]
            masks, ious, _ = predictor.predict_torch(part, torch.ones_like(part[..., 0], dtype=torch.int))
            for (x, y), three, scores in zip(points[start:], masks.cpu().numpy(), ious.tolist(), strict=False):
                for pick, (mask, iou) in enumerate(zip(three, scores, strict=True)):
                    if mask.any():
                        found.append(Proposal((int(x), int(y)), pick, mask, iou))
        return found

    def _predictor(self, embedded: Embedded) -> SamPredictor:
        """Meta's predictor with a picture set: one for each call, so that nobody's clicks wait for another's."""
        predictor = SamPredictor(self._sam)
        features, predictor.original_size, predictor.input_size = embedded
        predictor.features, predictor.is_image_set = features.to(self.device), True
        return predictor

    def prepare(self, images: Iterable[Image.Image | np.ndarray]) -> list[Embedded]:
        """The embeddings of pictures, RGB or uint8 (H, W, 3); those not cached are made together, and cached."""
        pictures = [_checked_picture(image) for image in images]
        keys = [_key(pixels) for pixels in pictures]
        with self._lock:
            found = {key: self._embeddings[key] for key in keys if key in self._embeddings}
        missing = {key: pixels for key, pixels in zip(keys, pictures, strict=True) if key not in found}
        if missing:
            with self._encoding:  # other people's clicks go on meanwhile
                found |= {key: self.encode(pixels) for key, pixels in missing.items()}
        with self._lock:
            for key in keys:
                self._embeddings[key] = found[key]
                self._embeddings.move_to_end(key)
            while len(self._embeddings) > self._cache_size:
                self._embeddings.popitem(last=False)
        return [found[key] for key in keys]

    def encode(self, pixels: np.ndarray) -> Embedded:
        """The embedding of a picture, uint8 (H, W, 3), in main memory; made anew, here, and not cached."""
        predictor, encoder = SamPredictor(self._sam), self._sam.image_encoder
        try:
            encoder.to(self.device)
            predictor.set_image(pixels)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise SegmentError(
                "The device's memory is too full to look at the picture for clicks; wait for an edit that is running, "
                "or start with a smaller Segment Anything, vit_b."
            ) from error
        finally:
            if not self._resident:
                encoder.to("cpu")
        return predictor.features.cpu(), predictor.original_size, predictor.input_size


def _checked_picture(image: Image.Image | np.ndarray) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise SegmentError(f"The picture is {pixels.dtype} {pixels.shape}: it must be 8-bit RGB; open it first.")
    return np.ascontiguousarray(pixels)


def _key(pixels: np.ndarray) -> str:
    return hashlib.blake2b(pixels.data, digest_size=16, salt=repr(pixels.shape).encode()[:16]).hexdigest()


def _checked_prompt(
    points: Iterable[Sequence[float]],
    labels: Iterable[int] | None,
    box: Sequence[float] | None,
    size: tuple[int, int],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    height, width = size
    points = [tuple(point) for point in points]
    labels = [1] * len(points) if labels is None else list(labels)
    if len(labels) != len(points):
        raise SegmentError(f"There are {len(points)} points but {len(labels)} labels: give one label for each point.")
    if any(label not in (0, 1) for label in labels):
        raise SegmentError("A point's label must be 1, on the subject, or 0, off it.")
    for point in points:
        if len(point) != 2 or not (_within(point[0], width) and _within(point[1], height)):
            raise SegmentError(
                f"The point {_shown(point)} is not on the picture, which is {width} × {height} pixels; click inside it."
            )
    if 1 not in labels and box is None:
        raise SegmentError("No subject is clicked: give at least one point on it, or a box around it.")
    if box is not None:
        box = tuple(box)
        inside = len(box) == 4 and all(_within(x, width + 1) for x in box[::2])
        inside = inside and all(_within(y, height + 1) for y in box[1::2])
        if not inside or not (box[0] < box[2] and box[1] < box[3]):
            raise SegmentError(
                f"The box {_shown(box)} must be left, top, right, bottom on the picture of {width} × {height} pixels."
            )
    return (
        np.array(points, float) if points else None,
        np.array(labels, int) if points else None,
        None if box is None else np.array(box, float),
    )


def _within(value: object, length: int) -> bool:
    return isinstance(value, int | float | np.number) and bool(0 <= value < length)


def _shown(values: Iterable[object]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else shortened(value) for value in values)
