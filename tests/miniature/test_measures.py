"""The measures tell drawn subjects from broken ones, one from two, like from unlike; figures and the curve are kept."""

import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from layerdiffusion.miniature import autoencoder, broken, diffusion, fidelity, measures
from layerdiffusion.miniature.data import psnr, scenes, to_tensor
from layerdiffusion.miniature.measures import Figure, Shape, ShapeMeasure
from layerdiffusion.miniature.world import HELD_OUT_SEEDS, POSES, draw, held_out
from layerdiffusion.models.load import MINIATURE

DRAWN = [draw(HELD_OUT_SEEDS + 700_000 + seed) for seed in range(12)]


@pytest.fixture(scope="module")
def measure():
    return ShapeMeasure.load(MINIATURE)


@pytest.mark.slow
def test_drawn_subjects_are_whole_and_broken_ones_are_not(measure):
    found = measure([scene.image for scene in DRAWN], [scene.attributes for scene in DRAWN])
    assert np.mean([shape.whole for shape in found]) >= 0.95
    for scene, seen in zip(DRAWN, found, strict=True):
        mask = scene.object_mask
        assert (seen.mask & mask).sum() > 0.7 * (seen.mask | mask).sum()
    wrecks = [broken.break_scene(scene, np.random.default_rng(i)) for i, scene in enumerate(DRAWN)]
    pairs = [(wreck, scene) for wreck, scene in zip(wrecks, DRAWN, strict=True) if "shape" in wreck.attributes]
    found = measure([wreck.image for wreck, _ in pairs], [scene.attributes for _, scene in pairs])
    assert np.mean([shape.whole for shape in found]) <= 0.1


def test_a_subject_in_another_pose_than_asked_for_is_not_whole(measure):
    turned = [{**scene.attributes, "pose": POSES[(POSES.index(scene.attributes["pose"]) + 2) % 4]} for scene in DRAWN]
    found = measure([scene.image for scene in DRAWN[:8]], turned[:8])
    assert np.mean([shape.whole for shape in found]) <= 0.25


def test_an_empty_place_has_no_subject_to_measure(measure):
    empty = [draw(HELD_OUT_SEEDS + seed, subjects=0, place="sea").image for seed in range(3)]
    assert all(s.iou < 0.6 for s in measure(empty, [{"animal": "cat", "pose": "standing"}] * 3))


def test_two_drawn_subjects_apart_are_two(measure):
    pairs = scenes(60, HELD_OUT_SEEDS + 900_000, subjects=2, unseen=None)
    far = [image for image, masks in zip(pairs.images, pairs.masks, strict=True) if measures.apart(masks)]
    assert len(far) >= 3
    assert np.mean(measures.one_subject(measure.judge, far)) <= 0.25
    assert np.mean(measures.one_subject(measure.judge, [scene.image for scene in DRAWN])) >= 0.9


def test_subjects_apart_are_counted():
    mask = np.zeros((128, 128), bool)
    assert measures.count_subjects(mask) == 0
    mask[16:56, 16:56] = True
    assert measures.count_subjects(mask) == 1
    mask[80:88, 80:88] = True  # one cell of the judge's: a speck
    assert measures.count_subjects(mask) == 1
    mask[64:104, 72:112] = True
    assert measures.count_subjects(mask) == 2


def test_nothing_is_right_of_a_subject_that_the_judge_calls_broken():
    asked = dict(animal="cat", place="sea", pose="lying", paint="red", size="big")
    words = [asked | {"shape": "whole"}, asked | {"shape": "broken"}, asked | {"pose": "sitting"}]
    found = measures.right(lambda images: words, [None] * 3, [asked] * 3)
    assert found.tolist() == [[True] * 5, [False] * 5, [True, True, False, True, True]]


def test_kid_is_one_floor_for_one_world_and_many_for_another():
    torch.manual_seed(0)
    network = fidelity.Features().eval()
    images = scenes(48, HELD_OUT_SEEDS + 800_000, unseen=None).images
    other = np.roll(images, 40, -1) // 2
    near = measures.kid_in_floors(network, images[:24], images)
    assert near < 3 and measures.kid_in_floors(network, other[:24], images) > 10
    assert near == measures.kid_in_floors(network, images[:24], images)


def test_kid_is_torchmetrics_own():
    kernel_inception = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance
    torch.manual_seed(0)
    network = fidelity.Features().eval()
    rng = np.random.default_rng(0)
    images, others = (rng.integers(0, high, (14, 128, 128, 3), dtype=np.uint8) for high in (256, 180))
    metric = kernel_inception(feature=network, subsets=1, subset_size=14)
    for pictures, real in ((others, True), (images, False)):
        metric.update(torch.from_numpy(pictures).permute(0, 3, 1, 2), real=real)
    ours = measures.kid(*(measures.features(network, each) for each in (images, others)))
    assert ours == pytest.approx(float(metric.compute()[0]), rel=1e-2)


def test_what_the_autoencoder_gives_back_is_a_picture_of_bytes():
    images = np.stack([np.asarray(scene.image) for scene in DRAWN[:2]])
    copies = types.SimpleNamespace(  # keeps every second pixel
        encode=lambda pixels: types.SimpleNamespace(latents=pixels[..., ::2, ::2]),
        decode=lambda latents: types.SimpleNamespace(sample=nn.functional.interpolate(latents, scale_factor=2.0)),
    )
    found = measures.autoencoded(copies, images)
    assert found.dtype == np.uint8 and np.array_equal(found[:, ::2, ::2], images[:, ::2, ::2])
    assert 15 < psnr(to_tensor(found), to_tensor(images)) < 40


def test_attributes_to_ask_for_are_of_the_side_that_was_wanted():
    for unseen in (False, True):
        found = measures.random_attributes(20, unseen, 5)
        assert found == measures.random_attributes(20, unseen, 5)
        assert all(set(one) == set(measures.ATTRIBUTES) and held_out(one) == unseen for one in found)


def test_a_point_of_the_curve_is_of_the_same_captions_and_seeds_every_time():
    asked = []

    class Pipeline:
        device = "cpu"

        def __call__(self, captions, num_inference_steps, guidance_scale, generator):
            asked.append((captions, num_inference_steps, [each.initial_seed() for each in generator]))
            return types.SimpleNamespace(images=[Image.new("RGB", (128, 128))] * len(captions))

    def every_fourth_whole(images, wanted):
        return [Shape(0.9 if i % 4 == 0 else 0.8, np.zeros((1, 1), bool)) for i in range(len(images))]

    for _ in range(2):
        assert measures.whole_share(Pipeline(), every_fourth_whole, captions=32) == 0.25
    assert asked[:2] == asked[2:]
    assert [len(captions) for captions, *_ in asked[:2]] == [25, 7]
    assert asked[0][1] == 25 and len({seed for *_, seeds in asked[:2] for seed in seeds}) == 32


@pytest.mark.parametrize("trained_before", [False, True])
def test_a_checkpoints_averaged_weights_and_pictures_are_read(tmp_path, monkeypatch, trained_before):
    monkeypatch.setitem(diffusion.UNET, "block_out_channels", (32, 32, 32))
    torch.manual_seed(1)
    trained = diffusion.build(autoencoder.build())
    if trained_before:  # and with another width than a new network has
        diffusion.build(trained.vae).save_pretrained(tmp_path)
        monkeypatch.setitem(diffusion.UNET, "block_out_channels", (64, 64, 64))
    else:
        trained.vae.save_pretrained(tmp_path / "vae")
    modules = nn.ModuleDict({"unet": trained.unet, "text_encoder": trained.text_encoder})
    average = {name: weight for name, weight in modules.state_dict().items() if weight.is_floating_point()}
    torch.save({"average": average, "modules": {}, "step": 7}, tmp_path / "diffusion.pt")
    pipeline, pictures = measures.load_checkpoint(tmp_path, tmp_path / "diffusion.pt")
    assert pictures == 7 * diffusion.BATCH
    for ours, theirs in ((pipeline.unet, trained.unet), (pipeline.text_encoder, trained.text_encoder)):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one.cpu(), other)


def test_the_curves_points_are_kept_in_order_and_measured_anew(tmp_path):
    assert measures.curve(tmp_path) == []
    for pictures, share in ((200, 0.5), (100, 0.25), (200, 0.75)):
        measures.add_point(tmp_path, pictures, share)
    assert measures.curve(tmp_path) == [(100, 0.25), (200, 0.75)]


def test_a_figure_knows_its_bar():
    assert Figure("sam", "iou", 0.91, 0.90, "").reached
    assert not Figure("sam", "iou", 0.89, 0.90, "").reached
    assert Figure("size", "all files", 30.0, 45.0, "MB", True).reached
    assert not Figure("size", "all files", 46.0, 45.0, "MB", True).reached
    assert not Figure("sam", "iou", None, 0.90, "").reached
    assert Figure("clip", "size", 0.5, None).reached


def test_figures_are_recorded_part_by_part(tmp_path):
    order = ("vae", "judge")
    record = measures.record
    record([Figure("old", "a part that is no more", 1.0, None)], tmp_path, ("old",))
    record([Figure("vae", "PSNR", 20.0, 28.0, "dB"), Figure("judge", "animal", 0.9, 0.98)], tmp_path, order)
    record([Figure("vae", "PSNR", 29.0, 28.0, "dB")], tmp_path, order)
    figures = [Figure("vae", "PSNR", 29.0, 28.0, "dB"), Figure("judge", "animal", 0.9, 0.98)]
    assert measures.recorded(tmp_path) == figures
