"""Measures tell a right picture from a wrong one, by CLIP's own definition, the judge's word, and plain arithmetic."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from layerdiffusion.evaluation.datasets.toybench import toybench
from layerdiffusion.evaluation.metrics import Measures, judged
from layerdiffusion.evaluation.worker import Worker
from layerdiffusion.images.layers import Layers, lay_out
from layerdiffusion.miniature.measures import ShapeMeasure
from layerdiffusion.miniature.world import draw
from layerdiffusion.models import sam
from layerdiffusion.models.load import MINIATURE, load_models
from layerdiffusion.models.profile import Profile
from layerdiffusion.models.sam import load_sam
from layerdiffusion.scoring import MOST_PSNR, background_psnr, cut_out

shipped = pytest.mark.skipif(
    not all((MINIATURE / part).is_dir() for part in ("unet", "clip", "judge")),
    reason="the miniature is not in this checkout",
)


@pytest.fixture(scope="module")
def models():
    return load_models("miniature", "cpu")


@pytest.fixture(scope="module")
def judge():
    from layerdiffusion.miniature.judge import load_judge

    return load_judge(MINIATURE / "judge")


@pytest.fixture(scope="module")
def edits():
    return {edit.kind: edit for edit in toybench(6)}


def perfect(edit, seed: int = 77, **otherwise: str) -> Image.Image:
    """What the edit asks for, drawn by the toybox itself; its accent too, if the paint lets that be."""
    wanted = {name: value for name, value in edit.wanted.items() if name != "accent"} | otherwise
    scenes = [draw(number, **wanted) for number in range(seed, seed + 12)]
    accent = edit.wanted.get("accent")
    return next((scene.image for scene in scenes if scene.attributes["accent"] == accent), scenes[0].image)


@shipped
def test_a_picture_drawn_as_wanted_is_right_and_one_with_another_pose_or_paint_is_not(models, judge, edits):
    edit = edits["both"]
    pose = "lying" if edit.wanted["pose"] != "lying" else "standing"
    paint = "red" if edit.wanted["paint"] != "red" else "blue"
    images = [perfect(edit), perfect(edit, pose=pose), perfect(edit, paint=paint)]
    right, wrong_pose, wrong_paint = Measures(models, judge)(edit, images, (5, 6, 7))
    assert [row["seed"] for row in (right, wrong_pose, wrong_paint)] == [5, 6, 7]
    assert all(right[name] for name in (*edit.wanted, "satisfied", "kept", "as_wanted"))
    assert not wrong_pose["pose"] and not wrong_pose["satisfied"] and wrong_pose["kept"]
    assert not wrong_paint["paint"] and not wrong_paint["kept"] and wrong_paint["satisfied"]
    assert not wrong_pose["as_wanted"] and not wrong_paint["as_wanted"]
    assert right["clip_score"] > wrong_pose["clip_score"]
    assert json.loads(json.dumps(right, allow_nan=False)) == right


@shipped
def test_an_outline_in_the_pose_asked_for_is_whole_and_that_of_another_animal_is_not(models, judge, edits):
    shapes = ShapeMeasure(judge, load_sam(MINIATURE / "sam"))
    edit = edits["both"]
    other = "pig" if edit.wanted["animal"] != "pig" else "bear"
    right, wrong = Measures(models, judge, shapes=shapes)(edit, [perfect(edit), perfect(edit, animal=other)], (0, 1))
    assert right["outlined"] and right["shape"] >= 0.85 > wrong["shape"] and not wrong["outlined"]
    assert "shape" not in Measures(models, judge)(edit, [perfect(edit)], (0,))[0]


def test_what_is_asked_is_satisfied_by_a_whole_subject_alone(edits):
    edit = edits["both"]
    assert judged(edit, edit.wanted | {"shape": "whole"})["as_wanted"]
    found = judged(edit, edit.wanted | {"shape": "broken"})
    assert found["animal"] and found["pose"] and not found["satisfied"] and not found["as_wanted"]


@shipped
def test_the_scores_are_clips_own_cosines(models, judge, edits):
    """The oracle embeds pictures and words one by one, by the model's own two towers."""
    edit = edits["background"]
    images = [perfect(edit), Image.new("RGB", (128, 128), "grey")]
    rows = Measures(models, judge)(edit, images, (0, 1))
    clip, processor = models.clip().model, models.clip().processor

    def cosine(image, text):
        words = processor.tokenizer([text], return_tensors="pt", truncation=True)
        pixels = processor.image_processor([image], return_tensors="pt").pixel_values
        with torch.no_grad():
            shown = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)[0]
            said = clip.text_projection(clip.text_model(**words).pooler_output)[0]
        return float(torch.nn.functional.cosine_similarity(shown, said, dim=0))

    prompt = edit.edit.prompt
    for row, image in zip(rows, images, strict=True):
        assert row["clip_score"] == pytest.approx(cosine(image, prompt), abs=1e-4)
        assert row["clipscore"] == pytest.approx(2.5 * max(0, cosine(image, f"A photo depicts {prompt}")), abs=3e-4)
    assert models.clip().scores(images, prompt) == pytest.approx([row["clip_score"] for row in rows], abs=1e-4)


@shipped
def test_the_photo_is_most_like_its_own_subject_and_a_stranger_less_than_it_in_another_place(models, judge, edits):
    edit = edits["background"]
    stranger = "cat" if edit.wanted["animal"] != "cat" else "pig"
    images = [edit.edit.object_image, perfect(edit), perfect(edit, animal=stranger, paint="plain")]
    same, moved, other = (row["subject_likeness"] for row in Measures(models, judge)(edit, images, (0, 1, 2)))
    assert same > 0.9 and same > moved > other


@shipped
def test_without_a_judge_nothing_is_judged_and_the_subject_is_where_it_was_laid_down(models, edits):
    edit = edits["size"]
    layers = lay_out(edit.edit, (128, 128))
    row = Measures(models)(edit, [layers.composite], (0,))[0]
    assert set(row) == {"seed", "clip_score", "clipscore", "subject_likeness", "background_psnr"}
    assert row["background_psnr"] == MOST_PSNR and row["subject_likeness"] > 0.5


@shipped
def test_with_a_segmenter_the_subject_is_looked_for_where_it_was_laid_down(models, edits):
    boxes = []

    class Remembers:
        def mask(self, box, image):
            boxes.append(box)
            return np.zeros((128, 128), bool)

    edit = edits["kept"]
    Measures(models, segmenter=Remembers())(edit, [edit.edit.object_image] * 2, (0, 1))
    rows, columns = np.nonzero(edit.edit.object_mask)
    assert boxes == [(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)] * 2


def layers_of(background: np.ndarray, own_subject: np.ndarray) -> Layers:
    picture = Image.fromarray(background)
    return Layers(picture, own_subject, picture, own_subject)


def test_background_likeness_is_the_psnr_where_neither_picture_has_a_subject():
    background = np.full((64, 64, 3), 100, np.uint8)
    own, subject = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    own[:16, :16] = True
    subject[40:, 40:] = True
    result = background + np.uint8(10)
    result[subject] = 255
    result[own] = 0
    found = background_psnr(Image.fromarray(result), layers_of(background, own), subject)
    assert found == pytest.approx(10 * math.log10(255**2 / 10**2))
    assert background_psnr(Image.fromarray(background), layers_of(background, own), subject) == MOST_PSNR
    seen = background_psnr(Image.fromarray(result), layers_of(background, own), np.zeros_like(subject))
    assert seen < found - 5, "a subject that isn't left out counts"
    result[38:40, 40:] = 0  # two pixels above the subject, which are its soft rim at this size
    assert background_psnr(Image.fromarray(result), layers_of(background, own), subject) == found
    result[36:38, 40:] = 0
    assert background_psnr(Image.fromarray(result), layers_of(background, own), subject) < found
    assert background_psnr(Image.fromarray(result), layers_of(background, own), np.ones_like(subject)) is None


def test_a_cut_out_is_a_square_about_the_whole_subject():
    picture = Image.fromarray(np.arange(64 * 96 * 3, dtype=np.uint32).reshape(64, 96, 3).astype(np.uint8))
    mask = np.zeros((64, 96), bool)
    mask[50:60, 80:96] = True
    assert cut_out(picture, mask).size == (18, 18)
    assert np.array_equal(np.asarray(cut_out(picture, mask)), np.asarray(picture)[46:64, 78:96])
    mask[:, :] = False
    assert cut_out(picture, mask) is picture
    mask[30:34, :] = True
    wide = np.asarray(cut_out(picture, mask))
    assert wide.shape == (108, 108, 3)
    assert np.array_equal(wide[22:86, 6:102], np.asarray(picture)) and (wide[:22] == 128).all()


def test_what_is_asked_and_what_is_kept_are_counted_apart(edits):
    edit = edits["size"]
    assert set(edit.preserved) == {"paint", "marking"}
    found = judged(edit, edit.wanted | {"size": "none"})
    assert (found["satisfied"], found["kept"], found["as_wanted"]) == (False, True, False)
    found = judged(edit, edit.wanted | {"paint": "none"})
    assert (found["satisfied"], found["kept"], found["as_wanted"]) == (True, False, False)
    found = judged(replace(edit, asked=()), edit.wanted)
    assert all(found.values())
    found = judged(edit, edit.wanted, outlined=False)
    assert (found["satisfied"], found["kept"], found["as_wanted"]) == (True, True, False), "it has to be whole"


def test_segment_anything_is_the_one_that_the_device_has_room_for(tiny_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(Profile, "segmenter", "vit_b")
    monkeypatch.setattr(sam, "load_sam", lambda name, device: asked.append(name) or load_sam("miniature", device))
    for chosen in ("auto", "vit_l"):
        assert Worker.load(tiny_folder, "cpu", sam=chosen).measures.segmenter is not None
    assert asked == ["vit_b", "vit_l"]
