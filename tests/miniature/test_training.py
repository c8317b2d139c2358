"""How the miniature's parts are taught: prompts, losses and figures, against formulas worked out otherwise."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import tiny_vae
from torch import nn

from layerdiffusion.__main__ import main
from layerdiffusion.miniature import autoencoder, clip, data, diffusion, judge, segmenter, training
from layerdiffusion.miniature.data import scenes
from layerdiffusion.miniature.train import record as record_training
from layerdiffusion.miniature.train import thinned
from layerdiffusion.miniature.training import Muon, Plan, Rates, fit, orthogonalised
from layerdiffusion.miniature.world import held_out
from layerdiffusion.models.profile import Profile
from layerdiffusion.models.sam import build_sam


@pytest.fixture(scope="module")
def one():
    return scenes(8, 500)


@pytest.fixture(scope="module")
def two():
    return scenes(8, 900, subjects=2)


def test_scenes_are_the_same_whoever_draws_them(one, monkeypatch):
    monkeypatch.setattr(data, "FEW", 0)
    monkeypatch.setattr(data, "ProcessPoolExecutor", lambda _, mp_context: ThreadPoolExecutor(2))  # starts at once
    again = scenes(8, 500)
    assert np.array_equal(again.images, one.images) and np.array_equal(again.masks, one.masks)
    assert again.attributes == one.attributes


class _Stopped(Exception):
    pass


def test_a_training_that_was_stopped_goes_on_where_it_was(tmp_path):
    """Steps, the random numbers of each step and the time spent go on; the loss is that of one long run."""

    def run(folder, steps):
        torch.manual_seed(0)
        modules = nn.ModuleDict({"line": nn.Linear(3, 1)})
        drawn = []

        def loss_of(step, rng, generator):
            drawn.append((step, float(rng.random()), float(torch.rand((), generator=generator))))
            if len(drawn) > steps:
                raise _Stopped
            return modules["line"](torch.randn(8, 3, generator=generator)).square().mean()

        with pytest.raises(_Stopped):
            fit("line", modules, loss_of, Plan(folder, 1, save_every=0), Rates(lr=1e-2))
        return drawn[:-1], modules["line"].weight.detach()

    whole, weights = run(tmp_path / "whole", 12)
    first, _ = run(tmp_path / "parts", 7)
    rest, resumed = run(tmp_path / "parts", 5)
    assert first + rest == whole
    assert resumed.shape == weights.shape
    assert torch.load(tmp_path / "parts" / "line.pt", weights_only=True)["step"] == 12


def test_muons_update_has_the_directions_of_the_gradient_and_equal_strengths():
    """Against the singular value decomposition, wide and tall."""
    torch.manual_seed(0)
    for shape in ((12, 40), (40, 12)):
        matrix = torch.randn(shape)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        strengths = torch.diagonal(u.T @ orthogonalised(matrix) @ v.T)
        assert strengths.min() > 0.6 and strengths.max() < 1.3
        torch.testing.assert_close(orthogonalised(matrix), u @ torch.diag(strengths) @ v, atol=1e-4, rtol=1e-3)


def test_muon_goes_downhill_and_comes_back_from_its_state():
    def steps(count, state=None, start=None):
        torch.manual_seed(1)
        layer = nn.Linear(6, 4, bias=False)
        if start is not None:
            layer.load_state_dict(start)
        optimizer = Muon(layer.parameters(), lr=0.1, weight_decay=0.0)
        if state is not None:
            optimizer.load_state_dict(state)
        losses = []
        for _ in range(count):
            loss = (layer.weight - torch.eye(4, 6)).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, optimizer.state_dict(), layer.state_dict()

    whole, *_ = steps(20)
    first, state, weights = steps(12)
    rest, *_ = steps(8, state, weights)
    assert first + rest == pytest.approx(whole)
    assert whole[-1] < 0.5 * whole[0]


def test_training_is_float32_where_bfloat16_is_emulated(monkeypatch):
    for native in (True, False):
        precision = torch.bfloat16 if native else torch.float32
        monkeypatch.setattr(training, "device_profile", lambda _, precision=precision: Profile(
            torch.device("cpu"), precision, torch.float32, torch.float32))  # fmt: skip
        with training.autocast("cpu"):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == precision


def test_the_pool_of_a_step_is_the_same_however_it_was_reached():
    """Fresh scenes come in order, none of a held-out combination, and a mirrored latent is of the mirrored picture."""
    vae = tiny_vae("AutoencoderTiny").eval()
    walked, jumped = diffusion.Pool(vae, 12), diffusion.Pool(vae, 12)
    for step in (0, 1, 4):
        walked.move(step)
    jumped.move(4)
    torch.testing.assert_close(walked.latents, jumped.latents)
    torch.testing.assert_close(walked.places, jumped.places)
    assert walked.attributes == jumped.attributes
    numbers = range(4 * diffusion.FRESH, 4 * diffusion.FRESH + 12)
    drawn = {number % 12: diffusion.fresh_scene(number) for number in numbers}
    assert walked.attributes == [drawn[slot].attributes for slot in range(12)]
    assert not any(held_out(attributes) for attributes in walked.attributes)
    flipped = np.asarray(drawn[3].image)[None, :, ::-1]
    wanted = autoencoder.encode(vae, np.ascontiguousarray(flipped), dtype=torch.float32)[0]
    torch.testing.assert_close(walked.latents[1, 3], wanted, atol=1e-4, rtol=1e-4)
    assert walked.places.min() == 1 and walked.places.max() == diffusion.SUBJECT_WEIGHT


def test_a_decoder_trained_on_leaves_the_latents_as_they_are(one, tmp_path):
    torch.manual_seed(0)
    vae = autoencoder.build()
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    after = autoencoder.train(one, Plan(tmp_path, 0.002), start=vae).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)


def test_first_prompts_point_where_they_say(two):
    rng = np.random.default_rng(0)
    for boxes in (False, True) * 10:
        asked = segmenter.ask(segmenter.paired(two), rng, boxes)
        for i, mask in enumerate(asked.masks):
            for (x, y), label in zip(asked.points[i], asked.labels[i], strict=True):
                if label >= 0:
                    assert mask[int(y), int(x)] == bool(label)
            if boxes:
                ys, xs = np.nonzero(mask)
                middle = (xs.mean(), ys.mean())
                x0, y0, x1, y1 = asked.boxes[i]
                assert x0 < middle[0] < x1 and y0 < middle[1] < y1


def test_later_clicks_are_on_what_was_wrong(one):
    rng = np.random.default_rng(0)
    asked = segmenter.ask(segmenter.paired(one), rng, False)
    got = np.roll(asked.masks, 9, axis=2)
    segmenter.correct(asked, got, rng)
    for i, mask in enumerate(asked.masks):
        x, y = asked.points[i, -1].astype(int)
        assert mask[y, x] != got[i, y, x]
        assert asked.labels[i, -1] == mask[y, x]


def test_a_batch_is_answered_as_the_decoder_answers_one(one):
    torch.manual_seed(0)
    sam = build_sam(segmenter.CONFIG)
    asked = segmenter.ask(segmenter.paired(one), np.random.default_rng(0), True)
    embeddings = torch.randn(8, 96, 16, 16)
    with torch.no_grad():
        logits, ious = segmenter.answer(sam, embeddings, asked)
        for i in (0, 5):
            sparse, dense = sam.prompt_encoder(
                points=(torch.from_numpy(asked.points[i : i + 1]), torch.from_numpy(asked.labels[i : i + 1])),
                boxes=torch.from_numpy(asked.boxes[i : i + 1]),
                masks=None,
            )
            wanted, wanted_ious = sam.mask_decoder.predict_masks(
                embeddings[i : i + 1], sam.prompt_encoder.get_dense_pe(), sparse, dense
            )
            torch.testing.assert_close(logits[i : i + 1], wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ious[i : i + 1], wanted_ious, rtol=1e-4, atol=1e-5)


def test_the_mask_loss_prefers_the_right_mask_and_iou_is_a_ratio():
    wanted = torch.zeros(1, 1, 8, 8)
    wanted[..., 2:6, 2:6] = 1
    right, shifted = 20 * wanted - 10, 20 * wanted.roll(2, -1) - 10
    losses = segmenter.mask_loss(torch.cat([right, shifted], 1), wanted)[0]
    assert losses[0] < 0.01 < 0.3 < losses[1]
    assert float(segmenter.iou_of(shifted > 0, wanted > 0)) == pytest.approx(8 / 24)


def test_a_caption_holds_for_every_picture_it_does_not_contradict():
    #  animal, paint; −100: not said
    pictures = np.array([[0, 1], [0, 2], [1, 1]])
    captions = np.array([[0, 1], [0, -100], [-100, 1]])
    wanted = [[True, True, True], [False, True, False], [False, False, True]]
    assert clip.holds(captions, pictures).tolist() == wanted


def test_another_pictures_true_caption_does_not_count_against_a_picture():
    logits = torch.tensor([[2.0, 9.0, 0.0], [0.0, 2.0, 0.0]])
    owners = torch.tensor([0, 1, 0])
    own = torch.tensor([[True, False, False], [False, True, False]])
    also = torch.tensor([[True, True, False], [False, True, False]])
    assert clip.contrast(logits, owners, also) < clip.contrast(logits, owners, own)


def test_a_near_miss_differs_in_one_word():
    rng = np.random.default_rng(0)
    truth = {"animal": "cat", "paint": "red", "pose": "lying", "size": "big", "place": "moon"}
    for key in truth:
        other = clip.changed(truth, key, rng)
        assert [k for k in truth if truth[k] != other[k]] == [key]
        assert clip.sentence(truth, np.random.default_rng(1)) != clip.sentence(other, np.random.default_rng(1))


def test_a_long_curve_is_thinned_to_means():
    curve = [[50 * i, float(i), float(i)] for i in range(1, 201)]
    short = thinned(curve, 50)
    assert len(short) == 50
    assert short[0] == [200, 4.0, 2.5]
    assert short[-1][:2] == [10000, 200.0]


def test_what_a_training_took_is_written_down(tmp_path):
    torch.save({"step": 300, "seconds": 90.0, "modules": {}}, tmp_path / "judge.pt")
    (tmp_path / "judge.losses.json").write_text("[[50, 15.0, 2.0], [100, 30.0, 1.0]]")
    (tmp_path / "out").mkdir()
    path = record_training("judge", tmp_path / "out", tmp_path, batch=48, scenes=1000, seed=0)
    facts = json.loads(path.read_text())
    assert (facts["minutes"], facts["steps"], facts["pictures"]) == (1.5, 300, 14400)
    assert facts["losses"][-1] == [100, 30.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "module"), [("judge", judge), ("sam", segmenter), ("clip", clip)])
def test_a_part_trains_from_the_command_line_and_goes_on(part, module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 4)
    command = ["train-miniature", part, "--out", str(tmp_path), "--minutes", "0.01", "--scenes", "16"]
    assert main(command) == 0
    first = json.loads((tmp_path / "miniature" / part / "training.json").read_text())["steps"]
    assert main(command) == 0
    assert json.loads((tmp_path / "miniature" / part / "training.json").read_text())["steps"] > first
    assert main(["train-miniature", "card", "--out", str(tmp_path)]) == 0
    assert f"{part} (`{part}/`)" in (tmp_path / "miniature" / "README.md").read_text()
