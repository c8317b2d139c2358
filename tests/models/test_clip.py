"""The score's model is opened from wherever its weights are."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from refusals import sentence
from safetensors.torch import load_file
from tiny import TOKENS

from layerdiffusion.errors import ModelError
from layerdiffusion.hub import HUB_CLIP, REVISIONS
from layerdiffusion.models.clip import squared
from layerdiffusion.models.load import load_models


def save_tiny_clip(folder: Path) -> None:
    from tiny import tiny_tokenizer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tokenizer = tiny_tokenizer()
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=TOKENS, eos_token_id=len(tokenizer) - 1)
    small = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    config = CLIPConfig(
        text_config={**text, **small},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=6,
    )
    with torch.random.fork_rng(devices=[]):
        CLIPModel(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)


def test_the_score_model_in_a_models_folder_is_opened_once_and_scores(folder):
    save_tiny_clip(folder / "clip")
    models = load_models(folder, "cpu")
    clip = models.clip()
    assert models.clip() is clip
    inputs = clip.processor(text=["a dog"], images=[Image.new("RGB", (64, 64))], return_tensors="pt", padding=True)
    assert clip.model(**inputs).logits_per_image.shape == (1, 1)


def test_the_score_sees_the_ends_of_a_picture_of_any_shape(folder):
    save_tiny_clip(folder / "clip")
    models, plain = load_models(folder, "cpu"), Image.new("RGB", (96, 48), "green")
    ends = plain.copy()
    ends.paste("red", (0, 0, 20, 48))
    assert squared(plain).size == (96, 96)
    scores = models.clip().scores([plain, ends, squared(plain)], "a dog")
    assert abs(scores[0] - scores[1]) > 1e-4 and abs(scores[0] - scores[2]) < 1e-6


@pytest.mark.parametrize("where", ["main", "refs/pr/15", "pytorch_model.bin"])
def test_the_hubs_score_model_opens_from_wherever_its_weights_are(monkeypatch, tiny_folder, tmp_path, where):
    import huggingface_hub

    save_tiny_clip(tmp_path / "main")
    weights = tmp_path / "main" / "model.safetensors"
    expected = load_file(weights)
    if where != "main":
        shutil.copytree(tmp_path / "main", tmp_path / "other")
        torch.save(expected, tmp_path / "main" / "pytorch_model.bin")
        weights.unlink()

    def snapshot_download(repository, allow_patterns, revision):
        revision = "main" if revision == REVISIONS[repository] else revision
        assert repository == HUB_CLIP
        if revision != "main" and where == "pytorch_model.bin":
            raise OSError("no such revision")
        return str(tmp_path / ("main" if revision == "main" else "other"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = load_models(tiny_folder, "cpu").clip().model.state_dict()
    assert expected.keys() <= found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_score_model_that_would_run_code_is_refused_and_runs_none(monkeypatch, tiny_folder, tmp_path):
    import huggingface_hub

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    save_tiny_clip(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    torch.save({"logit_scale": Evil()}, tmp_path / "clip" / "pytorch_model.bin")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "clip"))
    with pytest.raises(ModelError, match="can't be opened") as error:
        load_models(tiny_folder, "cpu").clip()
    sentence(error)
    assert not (tmp_path / "ran").exists()
