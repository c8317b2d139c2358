"""The miniature's SAM: Segment Anything's own network, small, taught by clicks on drawn scenes.

As in the paper (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, §3 and appendix A): focal and dice loss of the
best of three masks, a regressed IoU for each, and rounds of clicks drawn from where the last answer was wrong. Scenes
have one subject or two; what is asked for is a subject, both of them (two clicks, or a box around both), one of a box
around both (a click takes the other away), or the place without anybody.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerdiffusion.images.masks import iou
from layerdiffusion.miniature.data import Scenes, to_tensor
from layerdiffusion.miniature.judge import worn
from layerdiffusion.miniature.training import OUTER, Plan, Rates, fit
from layerdiffusion.miniature.world import SIDE

if TYPE_CHECKING:
    from layerdiffusion.models.sam import Sam

CONFIG: dict[str, Any] = dict(
    image_size=SIDE,
    patch_size=8,
    embed_dim=160,
    depth=5,
    num_heads=4,
    mlp_ratio=3.0,
    window_size=8,
    global_attn_indexes=(1, 3),
    out_chans=96,
    mask_in_chans=16,
    decoder_depth=2,
    decoder_num_heads=4,
    decoder_mlp_dim=384,
    iou_head_depth=3,
    iou_head_hidden_dim=96,
)
BATCH = 16
ROUNDS = (2, 2, 3)  # answers a step, each after one more click; steps take turns
FOCAL, DICE = 20.0, 1.0
EDGE = 0.5  # of the error within a pixel of the outline, where nine in ten wrong pixels of a small network are
OTHERS = 0.1  # weight of the masks that were not the best, so that every candidate is a sensible one


@dataclass
class Asked:
    """What a batch asks for: `masks` bool (N, H, W); `points` (N, P, 2) as (x, y); `labels` (N, P); boxes (N, 4).

    A label of −1 is no point. All of a batch have boxes or none has.
    """

    masks: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray | None


def point_in(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pixel of `mask` at random, (x, y)."""
    ys, xs = np.nonzero(mask)
    at = int(rng.integers(len(ys)))
    return np.array([xs[at], ys[at]], np.float32)


def box_of(mask: np.ndarray) -> np.ndarray:
    """The smallest box around `mask`, (x0, y0, x1, y1)."""
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)


def ask(masks: np.ndarray, rng: np.random.Generator, boxes: bool) -> Asked:
    """First prompts for scenes with `masks`, bool (N, 2, H, W), the second empty where there is one subject."""
    wanted, points, labels, corners = [], [], [], []
    for pair in masks:
        seen = [mask for mask in pair if mask.sum() >= 12]
        both = np.logical_or.reduce(pair)
        spots: list[tuple[np.ndarray, int]] = []
        what = rng.random()
        if boxes:
            target, around = seen[int(rng.integers(len(seen)))], None
            if len(seen) == 2 and what < 0.2:
                target, around = both, both
            elif len(seen) == 2 and what < 0.5:
                other = seen[1] if target is seen[0] else seen[0]
                around = both
                spots = [(point_in(other, rng), 0)] if what < 0.4 else [(point_in(target, rng), 1)]
            elif what > 0.8:
                spots = [(point_in(target, rng), 1)]
            box = box_of(target if around is None else around)
            reach = 0.06 * max(box[2] - box[0], box[3] - box[1])
            corners.append(np.clip(box + rng.normal(0, reach, 4), 0, SIDE))
        else:
            if what < 0.06:
                target = ~both
                spots = [(point_in(target, rng), 1)]
            elif what < 0.2 and len(seen) == 2:
                target = both
                spots = [(point_in(mask, rng), 1) for mask in seen]
            else:
                target = seen[int(rng.integers(len(seen)))]
                spots = [(point_in(target, rng), 1)]
                if what > 0.85:
                    spots.append((point_in(~target, rng), 0))
        wanted.append(target)
        spots += [(np.zeros(2, np.float32), -1)] * (2 - len(spots))
        points.append([xy for xy, _ in spots])
        labels.append([label for _, label in spots])
    return Asked(
        np.stack(wanted),
        np.array(points, np.float32),
        np.array(labels, np.int64),
        np.stack(corners).astype(np.float32) if boxes else None,
    )


def correct(asked: Asked, answer: np.ndarray, rng: np.random.Generator) -> None:
    """Add to each a click where `answer`, bool (N, H, W), is wrong: on what is missing, off what is too much."""
    points, labels = [], []
    for target, got in zip(asked.masks, answer, strict=True):
        wrong = target ^ got
        xy = point_in(wrong if wrong.any() else target, rng)
        points.append(xy)
        labels.append(int(target[int(xy[1]), int(xy[0])]))
    asked.points = np.concatenate([asked.points, np.stack(points)[:, None]], 1)
    asked.labels = np.concatenate([asked.labels, np.array(labels)[:, None]], 1)


def answer(sam: Sam, embeddings: Tensor, asked: Asked, earlier: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Masks as logits (N, 4, H/2, W/2) and their predicted IoU (N, 4) for one prompt a picture.

    `MaskDecoder.predict_masks` answers many prompts on one picture; this is the same for many pictures.
    `earlier`: low-resolution logits (N, 1, …) of an earlier answer.
    """
    device, decoder = embeddings.device, sam.mask_decoder
    with torch.autocast(device.type, enabled=False):  # bfloat16 can't say where in a picture a click is
        sparse, dense = sam.prompt_encoder(
            points=(torch.from_numpy(asked.points).to(device), torch.from_numpy(asked.labels).to(device)),
            boxes=None if asked.boxes is None else torch.from_numpy(asked.boxes).to(device),
            masks=earlier,
        )
        positions = sam.prompt_encoder.get_dense_pe()
    count = len(embeddings)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([tokens.expand(count, -1, -1), sparse], 1)
    source = embeddings + dense
    hidden, source = decoder.transformer(source, positions.expand(count, -1, -1, -1), tokens)
    upscaled = decoder.output_upscaling(source.transpose(1, 2).reshape(embeddings.shape))
    kernels = [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    logits = torch.einsum("nkc,nchw->nkhw", torch.stack(kernels, 1), upscaled)
    return logits.float(), decoder.iou_prediction_head(hidden[:, 0]).float()


def mask_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal, dice and edge loss, (N, K), of full-size logits (N, K, H, W) and a mask (N, 1, H, W) of 0 and 1."""
    edge = F.max_pool2d(wanted, 3, 1, 1) + F.max_pool2d(-wanted, 3, 1, 1)
    wanted = wanted.expand_as(logits)
    chance = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    miss = chance + wanted - 2 * chance * wanted
    focal = ((0.25 * wanted + 0.75 * (1 - wanted)) * cross * miss.square()).mean((2, 3))
    overlap = 2 * (chance * wanted).sum((2, 3)) + 1
    dice = 1 - overlap / (chance.sum((2, 3)) + wanted.sum((2, 3)) + 1)
    at_edge = (cross * edge).sum((2, 3)) / edge.sum((2, 3)).clamp_min(1)
    return FOCAL * focal + DICE * dice + EDGE * at_edge


def iou_of(found: Tensor, wanted: Tensor) -> Tensor:
    """Intersection over union over the last two dimensions of bool tensors."""
    return (found & wanted).sum((-2, -1)) / (found | wanted).sum((-2, -1)).clamp_min(1)


def paired(scenes: Scenes) -> np.ndarray:
    """The scenes' masks as (N, 2, H, W), a missing second one empty."""
    if scenes.masks.shape[1] >= 2:
        return scenes.masks[:, :2]
    return np.concatenate([scenes.masks, np.zeros_like(scenes.masks)], 1)


def train(single: Scenes, double: Scenes, plan: Plan, start: Sam | None = None) -> Sam:
    """Train on scenes with one subject and with two for `plan.minutes`, from nothing or from `start`; float32."""
    from layerdiffusion.models.sam import build_sam

    torch.manual_seed(plan.seed)
    sam = (start or build_sam(CONFIG)).to(plan.device).requires_grad_(True)
    side, grid = CONFIG["image_size"], CONFIG["image_size"] // CONFIG["patch_size"]
    # Thrown away after: tells every patch's embedding from the start which of its pixels are a subject's.
    anybody = nn.Conv2d(CONFIG["out_chans"], (side // grid) ** 2, 1).to(plan.device)
    modules = nn.ModuleDict({"sam": sam, "anybody": anybody})
    pools = [(scenes.images, paired(scenes)) for scenes in (single, double)]

    def loss_of(step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        halves = [(pool, rng.integers(len(pool[0]), size=BATCH // 2)) for pool in pools]
        images = np.concatenate([pool[0][chosen] for pool, chosen in halves])
        masks = np.concatenate([pool[1][chosen] for pool, chosen in halves])
        pixels = to_tensor(images)
        if step % 3 == 0:
            pixels = worn(pixels, generator)
        pixels = ((pixels + 1) * 127.5).to(plan.device)
        embeddings = sam.image_encoder((pixels - sam.pixel_mean) / sam.pixel_std)

        subjects = torch.from_numpy(masks.any(1))[:, None].float().to(plan.device)
        loss = mask_loss(F.pixel_shuffle(anybody(embeddings).float(), side // grid), subjects).mean()
        asked = ask(masks, rng, boxes=step % 3 == 2)
        wanted = torch.from_numpy(asked.masks)[:, None].to(plan.device)
        earlier = None
        rounds = ROUNDS[step // 3 % len(ROUNDS)]
        for turn in range(rounds):
            low, predicted = answer(sam, embeddings, asked, earlier)
            logits = F.interpolate(low, (side, side), mode="bilinear", align_corners=False)
            losses = mask_loss(logits, wanted.float())
            iou = iou_of(logits.detach() > 0, wanted)
            best = losses[:, 1:].argmin(1, keepdim=True)
            loss = loss + losses[:, 1:].gather(1, best).mean() + OTHERS * losses[:, 1:].mean()
            loss = loss + (predicted - iou).square().mean() + 0.2 * losses[:, 0].mean()
            if turn < rounds - 1:
                picked = predicted.detach()[:, 1:].argmax(1)
                rows = torch.arange(BATCH, device=picked.device)
                correct(asked, (logits.detach()[rows, 1 + picked] > 0).cpu().numpy(), rng)
                earlier = low.detach()[rows, 1 + picked, None] if step % 4 == 3 else None
        return loss / rounds

    outer = (*OUTER, "embed", "token", "rel_pos")
    rates = Rates(lr=1.5e-3, weight_decay=0.02, ema=0.998, muon=True, outer=outer)
    fit("sam", modules, loss_of, plan, rates if start is None else rates.continued())
    return sam.eval()


def save(sam: Sam, folder: str | Path) -> Path:
    """Write the trained network, float16, where `layerdiffusion.models.sam.load_sam` opens it."""
    from layerdiffusion.models.sam import save_sam

    return save_sam(copy.deepcopy(sam).half(), CONFIG, folder)


def figures(sam: Sam, single: Scenes, double: Scenes, seed: int = 0) -> dict[str, float]:
    """What the bars ask, through `Segmenter`, as a user clicks.

    `one_click`: mean IoU of the candidate it thinks best after one click anywhere on the subject; `three_clicks`:
    after two more where it was wrong; `right_subject`: the share of scenes with two in which one click on either
    gives a mask nearer to that one; `box`: mean IoU from a box; `taken_away`: the share of boxes around two from
    which a negative click on one leaves a mask nearer to the other; `iou_error`: mean |predicted − true| IoU.
    """
    from layerdiffusion.models.segmenter import Segmenter

    rng = np.random.default_rng([seed, 6])
    segmenter = Segmenter(sam)
    names = ("one_click", "three_clicks", "right_subject", "box", "taken_away", "iou_error")
    found: dict[str, list[float]] = {name: [] for name in names}

    def click(mask: np.ndarray) -> list[float]:
        return point_in(mask, rng).tolist()

    for image, masks in zip(single.images, single.masks, strict=True):
        segmenter.set_image(image)
        points, labels = [click(masks[0])], [1]
        for clicks in range(1, 4):
            candidates = segmenter.candidates(points, labels)
            best = max(candidates, key=lambda candidate: candidate.iou)
            found["iou_error"] += [abs(c.iou - iou(c.mask, masks[0])) for c in candidates]
            if clicks in (1, 3):
                found["one_click" if clicks == 1 else "three_clicks"].append(iou(best.mask, masks[0]))
            wrong = best.mask ^ masks[0]
            points.append(click(wrong if wrong.any() else masks[0]))
            labels.append(int(masks[0][int(points[-1][1]), int(points[-1][0])]))
        found["box"].append(iou(segmenter.mask(box=box_of(masks[0]).tolist()), masks[0]))
    for image, masks in zip(double.images, double.masks, strict=True):
        if min(mask.sum() for mask in masks) < 60:
            continue  # one hides the other
        segmenter.set_image(image)
        for mine, other in ((0, 1), (1, 0)):
            mask = segmenter.mask([click(masks[mine])])
            found["right_subject"].append(iou(mask, masks[mine]) > max(0.5, iou(mask, masks[other])))
            mask = segmenter.mask([click(masks[other])], [0], box_of(masks.any(0)).tolist())
            found["taken_away"].append(iou(mask, masks[mine]) > max(0.5, iou(mask, masks[other])))
    return {key: float(np.mean(values)) for key, values in found.items()}
