"""What the field measures pictures with beside CLIP, where the weights can be had: DINOv2 and LPIPS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from layerdiffusion.errors import ModelError
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.parts import BUILDING, reason

LPIPS_SIDE = 64  # pixels; AlexNet's last layers see nothing of a smaller picture


class Dino:
    """Likeness of pictures by DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193), as DreamBooth's DINO score.

    `source` is a folder with a DINOv2 of transformers, or its id on the hub. Raises `ModelError`.
    """

    def __init__(self, source: str | Path, device: str | torch.device = "cpu") -> None:
        ensure_torchvision()
        from transformers import AutoImageProcessor, AutoModel

        self.name, self.device = Path(source).name, torch.device(device)
        try:
            with BUILDING:
                self._processor = AutoImageProcessor.from_pretrained(source)
                self._model = AutoModel.from_pretrained(source, use_safetensors=True).float().eval().to(self.device)
        except Exception as error:  # damaged files raise nearly anything
            raise ModelError(f"The DINOv2 in {source} can't be opened ({reason(error)}); download it again.") from error

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image], photo: Image.Image) -> list[float]:
        """The cosine, −1 to 1, of the class token of each picture with the photo's."""
        pixels = self._processor(images=[*images, photo], return_tensors="pt").pixel_values.to(self.device)
        found = F.normalize(self._model(pixels).last_hidden_state[:, 0], dim=-1)
        return (found[:-1] @ found[-1]).tolist()


class Lpips:
    """LPIPS (Zhang et al. 2018, https://arxiv.org/abs/1801.03924), torchmetrics' own, of what some pixels show.

    `net` is "alex", "vgg" or "squeeze"; its ImageNet weights are torchvision's, from torch's cache or downloaded once.
    Raises `ModelError` where torchmetrics is not installed or they can't be had.
    """

    def __init__(self, net: str = "alex", device: str | torch.device = "cpu") -> None:
        ensure_torchvision()
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as Metric

            # `net_type` is checked by torchmetrics, whose own words name those there are.
            self._metric = Metric(net_type=net, normalize=True).to(device)  # type: ignore[arg-type]
        except ImportError as error:
            raise ModelError("LPIPS needs torchmetrics; run pip install torchmetrics.") from error
        except Exception as error:
            raise ModelError(
                f"The weights of LPIPS ({net}) can't be had ({reason(error)}); connect once, or put torchvision's file "
                "into torch's cache."
            ) from error
        self.name, self.device = f"lpips-{net}", torch.device(device)

    @torch.no_grad()
    def __call__(self, wanted: Image.Image, image: Image.Image, where: np.ndarray) -> float | None:
        """The distance, 0 or more, of the pixels `where`, bool (H, W); None where there are none.

        All others are made the same in both, so that they differ in nothing; the mean runs over the whole picture, and
        is divided by the share of it that is looked at.
        """
        if not where.any():
            return None
        expected, found = np.asarray(wanted), np.where(where[..., None], np.asarray(image), np.asarray(wanted))
        self._metric.reset()
        return float(self._metric(self._tensor(expected), self._tensor(found))) / float(where.mean())

    def _tensor(self, pixels: np.ndarray) -> Tensor:
        """(1, 3, H, W) in 0 … 1, at least `LPIPS_SIDE` a side."""
        found = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().to(self.device) / 255
        shortest = min(found.shape[2:])
        return found if shortest >= LPIPS_SIDE else F.interpolate(found, scale_factor=LPIPS_SIDE / shortest)
