"""The miniature's CLIP: `transformers.CLIPModel` over the toybox's pictures and captions, for the CLIP score.

Contrastive, as in Radford et al. 2021 (https://arxiv.org/abs/2103.00020), with two helps. Every caption comes with near
misses that name one attribute wrongly; and a caption that happens to hold for another picture of the batch is no
negative for it, as the world has few enough words for that to be common. While it learns, small heads that are thrown
away afterwards tell its patches and its picture token what there is to be seen, and with a trained judge, its patches
learn to say what the judge sees there: a vision transformer alone is slow to find out where to look.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerdiffusion.miniature import tokenizer as words
from layerdiffusion.miniature.captions import join, phrase
from layerdiffusion.miniature.data import Scenes, to_tensor
from layerdiffusion.miniature.judge import ATTRIBUTES, Judge, targets, worn
from layerdiffusion.miniature.training import OUTER, Plan, Rates, fit
from layerdiffusion.miniature.world import SIDE

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPProcessor

PATCH = 8
VISION: dict[str, Any] = dict(
    image_size=SIDE,
    patch_size=PATCH,
    hidden_size=160,
    intermediate_size=480,
    num_hidden_layers=4,
    num_attention_heads=2,  # on a CPU most of the time goes into attention, by the head
    hidden_act="gelu",
)
TEXT: dict[str, Any] = dict(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=3,
    num_attention_heads=4,
    hidden_act="gelu",
    max_position_embeddings=words.MAX_LENGTH,
)
PROJECTION = 128
BATCH = 32
HARD = ("animal", "animal", "pose")  # wrongly named in a near miss of every picture; and one of the others
EASY = ("paint", "size", "place")
COMPLETE = 0.7  # the share of captions that leave nothing out
TEACHING = 0.5  # weight of what is learnt from the judge


def build() -> tuple[CLIPModel, CLIPProcessor]:
    """An untrained model and its processor, which has the diffusion model's tokenizer."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTextConfig,
        CLIPVisionConfig,
    )

    tokenizer = words.build()
    special = words.special_tokens(tokenizer)
    config = CLIPConfig(
        text_config=CLIPTextConfig(vocab_size=len(tokenizer), **TEXT, **special).to_dict(),
        vision_config=CLIPVisionConfig(**VISION).to_dict(),
        projection_dim=PROJECTION,
    )
    pictures = CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return CLIPModel._from_config(config, attn_implementation="eager"), CLIPProcessor(pictures, tokenizer)


def changed(attributes: dict[str, str | None], key: str, rng: np.random.Generator) -> dict[str, str | None]:
    """The same with another value of `key`."""
    others = [value for value in ATTRIBUTES[key] if value != attributes[key]]
    return {**attributes, key: others[int(rng.integers(len(others)))]}


def mentioned(attributes: dict[str, str | None], rng: np.random.Generator) -> dict[str, str | None]:
    """What a caption of the picture says: everything, or the animal and some of the rest, or only the place."""
    named = {key: attributes[key] for key in ATTRIBUTES}
    if rng.random() < COMPLETE or named["animal"] is None:
        return named
    if rng.random() < 0.1:
        return {key: value if key == "place" else None for key, value in named.items()}
    for key in ("size", "paint", "pose", "place"):
        if rng.random() < 0.5:
            named[key] = None
    return named


def sentence(attributes: dict[str, str | None], rng: np.random.Generator) -> str:
    """`attributes` in words, one of the ways there are."""
    return join(*phrase(attributes, rng), rng)


def holds(caption: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Which captions hold for which pictures, (P, C), of class numbers by attribute: −100 where nothing is said."""
    agrees = (caption[None] == picture[:, None]) | (caption[None] < 0)
    return agrees.all(-1)


def contrast(logits: Tensor, owners: Tensor, true: Tensor) -> Tensor:
    """The symmetric loss of logits (P, C), the first P captions being the pictures' own.

    `owners`: (C,), whose near miss a caption is, or whose own. `true`: (P, C), whether it holds. A caption that
    holds for a picture, though another's, doesn't count against it.
    """
    count = len(logits)
    own = torch.zeros_like(true)
    own[torch.arange(count), torch.arange(count)] = True
    hidden = logits.masked_fill(true & ~own, float("-inf"))
    to_text = F.cross_entropy(hidden, torch.arange(count, device=logits.device))
    to_picture = F.cross_entropy(hidden[:, :count].T, torch.arange(count, device=logits.device))
    # The near misses once more among themselves: they differ from the truth by one word.
    near = torch.where(owners[None] == torch.arange(count, device=logits.device)[:, None], hidden, float("-inf"))
    return to_text + to_picture + F.cross_entropy(near, torch.arange(count, device=logits.device))


class _Helpers(nn.Module):
    """What is thrown away after training: heads on the picture token and on the patches."""

    def __init__(self, teacher: Judge | None):
        super().__init__()
        width = VISION["hidden_size"]
        self.picture = nn.ModuleDict({key: nn.Linear(width, len(v)) for key, v in ATTRIBUTES.items()})
        self.patches = nn.ModuleDict({key: nn.Linear(width, len(v)) for key, v in ATTRIBUTES.items()})
        self.mask = nn.Linear(width, 1)
        self.taught = None if teacher is None else nn.Linear(width, teacher.network.widths[-1])

    def forward(
        self, picture: Tensor, patches: Tensor, cells: Tensor, wanted: dict[str, Tensor], seen: Tensor | None
    ) -> Tensor:
        """Tokens (N, D) and (N, P, D); subjects' shares of patches (N, P); classes; the judge's features (N, P, C)."""
        loss = F.binary_cross_entropy_with_logits(self.mask(patches)[..., 0].float(), cells)
        on_subject = cells > 0.5
        for key, classes in wanted.items():
            loss = loss + 0.5 * F.cross_entropy(self.picture[key](picture).float(), classes)
            spread = classes[:, None].expand_as(cells)
            if key != "place":
                spread = torch.where(on_subject, spread, -100)
            if bool((spread >= 0).any()):
                logits = self.patches[key](patches).float()
                loss = loss + 0.5 * F.cross_entropy(logits.transpose(1, 2), spread)
        if self.taught is not None and seen is not None:
            alike = F.cosine_similarity(self.taught(patches).float(), seen, dim=-1)
            weight = 1 + 4 * cells
            loss = loss + TEACHING * (weight * (1 - alike)).sum() / weight.sum()
        return loss


def train(
    scenes: Scenes, plan: Plan, teacher: Judge | None = None, start: tuple[CLIPModel, CLIPProcessor] | None = None
) -> tuple[CLIPModel, CLIPProcessor]:
    """Train on `scenes` for `plan.minutes`, from nothing or from `start`, helped by a trained judge if there is one."""
    torch.manual_seed(plan.seed)
    clip, processor = start or build()
    helpers = _Helpers(teacher)
    modules = nn.ModuleDict({"clip": clip, "helpers": helpers}).to(plan.device)
    wanted = targets(scenes.attributes)
    values = np.stack([wanted[key].numpy() for key in ATTRIBUTES], -1)
    network = None if teacher is None else teacher.network.to(plan.device).eval()

    def captions_of(chosen: np.ndarray, rng: np.random.Generator):
        """The pictures' captions, then their near misses, with their class numbers and owners."""
        named = [mentioned(scenes.attributes[i], rng) for i in chosen]
        owners = list(range(len(chosen)))
        for i in range(len(chosen)):
            for key in (*HARD, EASY[int(rng.integers(len(EASY)))]):
                if named[i][key] is not None:
                    named.append(changed(named[i], key, rng))
                    owners.append(i)
        classes = targets(named)
        numbers = np.stack([classes[key].numpy() for key in ATTRIBUTES], -1)
        return [sentence(k, rng) for k in named], numbers, torch.tensor(owners)

    def loss_of(step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        chosen = rng.integers(len(scenes), size=BATCH)
        texts, numbers, owners = captions_of(chosen, rng)
        pixels = to_tensor(scenes.images[chosen])
        if step % 3 == 0:
            pixels = worn(pixels, generator)
        pixels = pixels.to(plan.device)
        masks = torch.from_numpy(scenes.masks[chosen].any(1))[:, None].float()
        cells = F.avg_pool2d(masks, PATCH).flatten(1).to(plan.device)

        tokens = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(plan.device)
        text = clip.text_projection(clip.text_model(**tokens).pooler_output)
        vision = clip.vision_model(pixel_values=pixels)
        picture = clip.visual_projection(vision.pooler_output)
        with torch.no_grad():
            clip.logit_scale.clamp_(max=np.log(60.0))
        cosine = F.normalize(picture.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
        true = torch.from_numpy(holds(numbers, values[chosen])).to(plan.device)
        loss = contrast(clip.logit_scale.exp() * cosine, owners.to(plan.device), true)
        seen = None
        if network is not None:
            with torch.no_grad():
                seen = network.features(pixels)[0].flatten(2).transpose(1, 2)
        classes = {key: wanted[key][chosen].to(plan.device) for key in ATTRIBUTES}
        return loss + helpers(vision.pooler_output, vision.last_hidden_state[:, 1:], cells, classes, seen)

    outer = (*OUTER, "logit_scale")
    rates = Rates(lr=1.5e-3, weight_decay=0.02, ema=0.998, muon=True, outer=outer)
    fit("clip", modules, loss_of, plan, rates if start is None else rates.continued())
    return clip.eval(), processor


def load(folder: Path) -> tuple[CLIPModel, CLIPProcessor]:
    """The trained model in `folder`, float32, and its processor, to train on."""
    from transformers import CLIPModel, CLIPProcessor

    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return clip, CLIPProcessor.from_pretrained(folder)


def save(clip: CLIPModel, processor: CLIPProcessor, folder: str | Path) -> Path:
    """Write the model, float16, and its processor where `from_pretrained` opens them."""
    copy.deepcopy(clip).half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


@torch.no_grad()
def similarity(clip: CLIPModel, processor: CLIPProcessor, images: np.ndarray, texts: list[str]) -> np.ndarray:
    """Cosine similarities (N, T) of uint8 pictures (N, H, W, 3) and texts."""
    pictures, sentences = [], []
    for start in range(0, len(images), 64):
        inputs = processor(images=list(images[start : start + 64]), return_tensors="pt").to(clip.device)
        pictures.append(clip.visual_projection(clip.vision_model(**inputs).pooler_output))
    for start in range(0, len(texts), 256):
        inputs = processor(text=texts[start : start + 256], padding=True, truncation=True, return_tensors="pt").to(
            clip.device
        )
        sentences.append(clip.text_projection(clip.text_model(**inputs).pooler_output))
    left, right = (F.normalize(torch.cat(parts).float(), dim=-1) for parts in (pictures, sentences))
    return (left @ right.T).cpu().numpy()


def figures(clip: CLIPModel, processor: CLIPProcessor, scenes: Scenes, seed: int = 0) -> dict[str, float]:
    """What the bars ask, of complete captions.

    `first_of_64`: the share of pictures that rank their own caption above 63 others, all different. `animal`,
    `paint`, `pose`, `size`, `place`: the share of pictures whose score falls when that word alone is changed.
    """
    rng = np.random.default_rng([seed, 7])
    subjects = [i for i, a in enumerate(scenes.attributes) if a["animal"] is not None]
    named = {i: {key: scenes.attributes[i][key] for key in ATTRIBUTES} for i in subjects}
    texts = [sentence(named[i], rng) for i in subjects]
    keys = list(ATTRIBUTES)
    pairs = []
    for i in subjects:
        for key in keys:
            wording = int(rng.integers(2**31))  # both in the same one, so that only this word changes
            for attributes in (named[i], changed(named[i], key, rng)):
                pairs.append(sentence(attributes, np.random.default_rng(wording)))
    scores = similarity(clip, processor, scenes.images[subjects], texts + pairs)
    result: dict[str, list[bool]] = {key: [] for key in ("first_of_64", *keys)}
    for row in range(len(subjects)):
        mine = tuple(named[subjects[row]].values())
        others = [j for j in rng.permutation(len(subjects)) if tuple(named[subjects[j]].values()) != mine]
        distinct = list({tuple(named[subjects[j]].values()): j for j in others}.values())[:63]
        result["first_of_64"].append(bool((scores[row, row] > scores[row, distinct]).all()))
        for at, key in enumerate(keys):
            column = len(texts) + 2 * (row * len(keys) + at)
            result[key].append(bool(scores[row, column] > scores[row, column + 1]))
    return {key: float(np.mean(values)) for key, values in result.items()}
