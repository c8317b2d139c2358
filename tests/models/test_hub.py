"""Files, folders and hub ids that are there are opened; those that are not are named for what they are."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint import save_checkpoint
from refusals import sentence
from safetensors.torch import load_file, save_file

from layerdiffusion.errors import ModelError
from layerdiffusion.hub import HUB_CLIP, HUB_DEFAULT, HUB_XL, LAPTOP, download, download_model
from layerdiffusion.models.load import load_models
from layerdiffusion.models.sam import HUB_NAMES


def test_without_a_network_a_hub_model_is_one_sentence(no_network):
    with pytest.raises(ModelError, match="hub can't be reached") as error:
        load_models("someone/some-model", "cpu")
    sentence(error)


def test_a_hub_models_safetensors_alone_are_asked_for(monkeypatch, tiny_folder):
    import huggingface_hub

    asked = {}

    def snapshot_download(repository, allow_patterns, revision=None):
        asked.update(repository=repository, patterns=allow_patterns)
        return str(tiny_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load_models("someone/some-model", "cpu").name == "someone/some-model"
    assert asked["repository"] == "someone/some-model"
    assert not any("bin" in pattern or "*.safetensors" in pattern for pattern in asked["patterns"])


@pytest.mark.parametrize("gone", [False, True])
def test_what_the_program_is_written_for_is_asked_for_at_its_commit(monkeypatch, tmp_path, gone):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot_download(repository, allow_patterns, revision=None):
        asked.append(revision)
        if gone and revision is not None:
            raise LocalEntryNotFoundError("offline, and another commit is in the cache")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for repository in (HUB_DEFAULT, HUB_XL, HUB_CLIP, *LAPTOP, *HUB_NAMES.values()):
        assert download(repository, ["*.json"]) == tmp_path
        assert re.fullmatch("[0-9a-f]{40}", asked[0]) and asked[1:] == [None] * gone
        asked.clear()
    download("someone/some-model", ["*.json"])
    assert asked == [None]


def make_half(folder: Path, keep: bool = False) -> None:
    """Save the weights again as fp16 variants, beside the full ones or alone."""
    for path in [*folder.glob("*/model.safetensors"), *folder.glob("*/diffusion_pytorch_model.safetensors")]:
        weights = {name: value.half() for name, value in load_file(path).items()}
        save_file(weights, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        if not keep:
            path.unlink()


def networks(models):
    return models.unet, models.vae, models.family.text_encoder


def test_a_folder_with_only_half_weights_opens_in_float32(folder, tiny_models):
    make_half(folder)
    models = load_models(folder, "cpu", "float32")
    for part, whole in zip(networks(models), networks(tiny_models), strict=True):
        for ours, full in zip(part.parameters(), whole.parameters(), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, full, atol=1e-3, rtol=1e-3)


def test_half_weights_beside_full_ones_are_left_alone(folder, tiny_models):
    make_half(folder, keep=True)
    assert torch.equal(
        load_models(folder, "cpu").embed(["a dog"]).prompt_embeds, tiny_models.embed(["a dog"]).prompt_embeds
    )


@pytest.mark.parametrize("variants", ["full", "half", "both"])
def test_of_each_parts_weights_one_kind_is_fetched(hub, folder, variants):
    if variants != "full":
        make_half(folder, keep=variants == "both")
    cache = hub(folder)
    load_models("someone/some-model", "cpu")
    half = {path.name.endswith(".fp16.safetensors") for path in cache.rglob("*.safetensors")}
    assert half == {variants == "half"}
    assert len(list(cache.rglob("*.safetensors"))) == 3


# What stabilityai/stable-diffusion-xl-base-1.0 holds: each folder's files beside its config.json.
XL_LISTING = {
    "text_encoder": "flax_model.msgpack model.fp16.safetensors model.onnx model.safetensors openvino_model.bin",
    "text_encoder_2": "flax_model.msgpack model.fp16.safetensors model.onnx model.onnx_data model.safetensors",
    "unet": "diffusion_flax_model.msgpack diffusion_pytorch_model.fp16.safetensors diffusion_pytorch_model.safetensors "
    "model.onnx model.onnx_data openvino_model.bin openvino_model.xml",
    "vae": "diffusion_flax_model.msgpack diffusion_pytorch_model.fp16.safetensors diffusion_pytorch_model.safetensors",
    "vae_1_0": "diffusion_pytorch_model.fp16.safetensors diffusion_pytorch_model.safetensors",
    "vae_decoder": "model.onnx openvino_model.bin openvino_model.xml",
    "vae_encoder": "model.onnx openvino_model.bin openvino_model.xml",
    "tokenizer": "merges.txt special_tokens_map.json tokenizer_config.json vocab.json",
    "tokenizer_2": "merges.txt special_tokens_map.json tokenizer_config.json vocab.json",
    "scheduler": "scheduler_config.json",
    ".": "01.png README.md model_index.json sd_xl_base_1.0.safetensors sd_xl_base_1.0_0.9vae.safetensors "
    "sd_xl_offset_example-lora_1.0.safetensors",
}


def test_of_sdxls_own_repository_the_four_half_weights_are_fetched_and_nothing_twice(hub, tmp_path, monkeypatch):
    for part, names in XL_LISTING.items():
        (tmp_path / "hub" / part).mkdir(parents=True, exist_ok=True)
        for name in (*names.split(), *(["config.json"] if "safetensors" in names and part != "." else ())):
            (tmp_path / "hub" / part / name).touch()
    cache, copied, copy = hub(tmp_path / "hub"), [], shutil.copy
    monkeypatch.setattr(shutil, "copy", lambda *paths: copied.append(paths[1]) or copy(*paths))
    assert download_model(HUB_XL) == cache
    fetched = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    weights = {name for name in fetched if not name.endswith((".json", ".txt"))}
    assert weights == {
        *(f"{part}/model.fp16.safetensors" for part in ("text_encoder", "text_encoder_2")),
        *(f"{part}/diffusion_pytorch_model.fp16.safetensors" for part in ("unet", "vae")),
    }
    assert {"model_index.json", "scheduler/scheduler_config.json", "tokenizer_2/merges.txt"} <= fetched
    assert not any(name.startswith(("vae_", "./")) for name in fetched)
    assert len([path for path in copied if path.suffix == ".safetensors"]) == 4


def test_sdxl_is_fetched_in_half_precision_and_nothing_twice(hub, tiny_xl_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_xl_folder, tmp_path / "hub"))
    make_half(folder, keep=True)
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()  # a part that is there in full alone
    cache = hub(folder)
    load_models("someone/some-xl", "cpu")
    names = [path.name for path in cache.rglob("*.safetensors")]
    assert len(names) == 4 and sum(name.endswith(".fp16.safetensors") for name in names) == 3
    shutil.copytree(tiny_xl_folder / "unet", cache / "unet", dirs_exist_ok=True)
    (cache / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()  # another program's, in full
    load_models("someone/some-xl", "cpu")
    assert not (cache / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()


@pytest.mark.parametrize("beside", [True, False], ids=["configs beside it", "configs from the hub"])
def test_a_single_checkpoint_file_opens_as_its_folder_does(monkeypatch, folder, tmp_path, tiny_models, beside):
    import huggingface_hub

    path = save_checkpoint(folder, (folder if beside else tmp_path) / "some model.safetensors")
    for weights in [*folder.glob("*/*.safetensors")]:
        weights.unlink()
    (folder / "settings.json").write_text(json.dumps({"embedding_steps": 60}))
    asked = []

    def snapshot_download(repository, allow_patterns, revision=None):
        asked.append(repository)
        assert not any("safetensors" in pattern for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    models = load_models(path, "cpu", "float32")
    assert asked == ([] if beside else [HUB_DEFAULT])
    for part, whole in zip(networks(models), networks(tiny_models), strict=True):
        ours, full = part.state_dict(), whole.state_dict()
        assert ours.keys() == full.keys()
        assert all(torch.equal(ours[name], full[name]) for name in full)
    assert torch.equal(models.embed(["a dog"]).prompt_embeds, tiny_models.embed(["a dog"]).prompt_embeds)
    assert models.defaults.embedding_steps == 60
    assert models.name == str(path)


def test_a_single_sdxl_file_opens_as_its_folder_does(monkeypatch, tiny_xl_folder, tiny_xl_models, tmp_path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(tiny_xl_folder)
    )
    models = load_models(save_checkpoint(tiny_xl_folder, tmp_path / "xl.safetensors"), "cpu", "float32")
    assert asked == [HUB_XL]
    ours, full = models.embed(["a dog", None]), tiny_xl_models.embed(["a dog", None])
    assert all(torch.equal(ours.tensors[name], full.tensors[name]) for name in full.tensors)
    assert all(
        torch.equal(*pair) for pair in zip(models.unet.parameters(), tiny_xl_models.unet.parameters(), strict=True)
    )
    assert (models.defaults.tune, models.family.label) == ("lora", "SDXL")


def test_a_single_file_without_configs_is_named_as_one(folder, tmp_path, no_network):
    path = save_checkpoint(folder, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors is a single checkpoint file") as error:
        load_models(path, "cpu")
    sentence(error)


@pytest.mark.parametrize("content", [b"", b"no tensors", None], ids=["empty", "text", "other tensors"])
def test_a_single_file_of_another_kind_is_refused_in_one_sentence(folder, content):
    path = folder / "model.safetensors"
    if content is None:
        save_file({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="single Stable Diffusion 1.x or SDXL checkpoint") as error:
        load_models(path, "cpu")
    sentence(error)


def test_a_file_that_would_be_unpickled_is_refused(folder):
    (folder / "model.ckpt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no \.safetensors file") as error:
        load_models(folder / "model.ckpt", "cpu")
    sentence(error)


def test_a_relative_folder_or_file_that_is_not_there_is_named_as_one(no_network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    for name, words in (
        ("outputs/model", "no model folder at outputs/model"),
        ("nowhere/model", "nowhere/model is no folder here"),
        ("./nowhere", "no model folder at nowhere"),
        ("outputs/model.safetensors", "no model file at outputs/model.safetensors"),
    ):
        with pytest.raises(ModelError, match=words) as error:
            load_models(name, "cpu")
        sentence(error)


@pytest.mark.parametrize(
    "cause", [None, PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")]
)
def test_a_cache_that_cannot_be_written_is_named_with_what_moves_it(monkeypatch, tmp_path, cause):
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    if cause is None:
        cache.write_text("a file where a folder should be")

    def snapshot_download(repository, **_):
        raise LocalEntryNotFoundError("Not found") from cause

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match="HF_HOME") as error:
        load_models("someone/some-model", "cpu")
    assert str(cache) in sentence(error)
