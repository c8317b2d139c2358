"""DINOv2's cosines and LPIPS off the subject, on random networks of the true classes, beside their own definitions."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import noise_picture

from layerdiffusion.errors import ModelError
from layerdiffusion.evaluation.metrics import Dino, Lpips, Measures
from layerdiffusion.evaluation.worker import Extra, Worker
from layerdiffusion.models._torchvision import ensure_torchvision


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    ensure_torchvision()
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(
            Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
        ).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    BitImageProcessor(**sides).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lpips():
    """With torchmetrics' own linear layers and a random SqueezeNet, since ImageNet's weights are a download."""
    pytest.importorskip("torchmetrics")
    ensure_torchvision()
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        weights = squeezenet1_1(weights=None).state_dict()
        patch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: weights)
        return Lpips("squeeze")


def test_dinos_likeness_is_the_cosine_of_its_class_tokens(dino_folder):
    dino, images = Dino(dino_folder), [noise_picture(seed, 40, 40) for seed in range(3)]
    found = dino(images[:2], images[2])

    def token(image):
        pixels = dino._processor(images=image, return_tensors="pt").pixel_values
        return dino._model(pixels).last_hidden_state[0, 0]

    wanted = [torch.nn.functional.cosine_similarity(token(one), token(images[2]), dim=0).item() for one in images[:2]]
    assert found == pytest.approx(wanted, abs=1e-5)
    assert dino([images[2]], images[2])[0] == pytest.approx(1, abs=1e-5)


def test_lpips_sees_what_is_off_the_subject_and_nothing_else(lpips):
    wanted, image = noise_picture(0, 64, 64), noise_picture(0, 64, 64)
    image.paste(noise_picture(1, 64, 64).crop((0, 0, 24, 24)), (20, 20))
    off = np.ones((64, 64), bool)
    off[20:44, 20:44] = False
    assert lpips(wanted, image, off) == pytest.approx(0, abs=1e-6)
    assert lpips(wanted, image, ~off) > 1e-3
    assert lpips(wanted, image, np.zeros_like(off)) is None
    small = [picture.resize((16, 16), Image.Resampling.NEAREST) for picture in (wanted, image)]
    assert lpips(*small, np.ones((16, 16), bool)) > 0


def test_both_are_measures_of_a_bench_where_they_are_given(measured_folder, dino_folder, lpips):
    from layerdiffusion.evaluation.datasets.toybench import toybench

    worker = Worker.load(measured_folder, "cpu", extra=Extra(dino=str(dino_folder)))
    edit = toybench(1)[0]
    measures = Measures(worker.models, worker.measures.judge, dino=worker.measures.dino, lpips=lpips)
    same, other = measures(edit, [edit.reference.image, noise_picture(3, 128, 128)], (0, 1))
    assert same["background_likeness"] == 1 > other["background_likeness"]
    assert -1 <= other["dino_likeness"] <= 1
    assert worker.ready(())["dino"] == dino_folder.name and "lpips" not in worker.ready(())


def test_weights_that_cannot_be_had_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"The DINOv2 in .* can't be opened"):
        Dino(tmp_path)
    pytest.importorskip("torchmetrics")

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match=r"weights of LPIPS \(squeeze\) can't be had .*no network"):
        Lpips("squeeze")
    monkeypatch.setitem(__import__("sys").modules, "torchmetrics.image.lpip", None)
    with pytest.raises(ModelError, match="run pip install torchmetrics"):
        Lpips("squeeze")
