"""FLUX.2 klein base against diffusers' own pipeline, on a random one of its classes; and what the family answers."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image
from refusals import change_json, sentence
from safetensors.torch import save_file
from tiny import noise_picture
from tiny_klein import save_tiny_klein

from layerdiffusion.engine import initial_latents, sampling_denoiser
from layerdiffusion.errors import ModelError
from layerdiffusion.images.masks import mask_to_latents
from layerdiffusion.method.sampling import sample
from layerdiffusion.models.klein import packed, positions, unpacked
from layerdiffusion.models.load import load_models
from layerdiffusion.models.memory import check_need, fitting_preset
from layerdiffusion.settings import PRESETS

PROMPTS = ["a dog jumps", "", "a red cat on ice"]


@pytest.fixture(scope="module")
def pipeline(tiny_klein_folder) -> Flux2KleinPipeline:
    pipeline = Flux2KleinPipeline.from_pretrained(tiny_klein_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def folder(tiny_klein_folder, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_klein_folder, tmp_path / "model"))


def test_it_knows_its_size_shapes_and_defaults(tiny_klein_models):
    models = tiny_klein_models
    assert (models.size, models.latent_shape, models.tokens) == (64, (16, 4, 4), 512)
    assert models.latent_shape_of((96, 32)) == (16, 2, 6)
    assert (models.defaults.tune, models.defaults.guidance_scale, models.defaults.sampling_steps) == ("lora", 4.0, 50)
    assert models.defaults.finetune_lr == 2e-6 and models.quick.solver is None
    width, height = models.window("photo", (400, 300))
    assert width % 16 == height % 16 == 0 and width * height <= 64**2


@torch.no_grad()
def test_words_mean_what_they_mean_to_the_pipeline(tiny_klein_models, pipeline):
    condition = tiny_klein_models.embed([prompt or None for prompt in PROMPTS])
    expected, _ = pipeline.encode_prompt(PROMPTS)
    assert condition.prompt_embeds.shape == (3, 512, 24) and condition.prompt_embeds.dtype == torch.float32
    assert torch.equal(condition.prompt_embeds, expected)
    lengths = condition.is_word.sum(1)
    assert lengths[2] - lengths[1] == len(PROMPTS[2])  # a byte a token, between the template's own
    assert torch.equal(condition.is_word, (torch.arange(512) < lengths[:, None]).float())


def test_a_prompt_is_read_once_and_few_are_kept(tiny_klein_folder, monkeypatch):
    family = load_models(tiny_klein_folder, "cpu", "float32").family
    read, calls = type(family)._read, []
    monkeypatch.setattr(type(family), "_read", lambda *inputs: calls.append(inputs[2]) or read(*inputs))
    first = family.embed(["a", None, "a"])
    again = family.embed(["", "a", "a"])
    assert calls == ["a", ""] and torch.equal(first.prompt_embeds[0], again.prompt_embeds[1])
    for number in range(20):
        family.embed([f"dog {number}"])
    assert len(family.known) == 16 and "a" not in family.known


def test_words_beyond_512_tokens_are_named(tiny_klein_models):
    long = "a dog " * 90
    (warning,) = tiny_klein_models.prompt_warnings(["a dog", long])
    assert "512 tokens" in warning and "a dog a dog" in warning


@torch.no_grad()
def test_a_picture_is_encoded_as_the_pipeline_encodes_it_and_comes_back(tiny_klein_models, pipeline):
    picture = noise_picture(3, 96, 64)
    latents = tiny_klein_models.encode(picture)
    pixels = pipeline.image_processor.preprocess(picture, height=64, width=96)
    assert latents.shape == (1, 16, 4, 6)
    assert torch.allclose(latents, pipeline._encode_vae_image(pixels, None), atol=1e-6)
    family, vae = tiny_klein_models.family, tiny_klein_models.vae
    raw = torch.randn(2, 4, 8, 12)
    assert torch.allclose(family.denormalised(family.normalised(raw, vae), vae), raw, atol=1e-5)
    decoded = pipeline.vae.decode(family.denormalised(latents, vae)).sample
    expected = pipeline.image_processor.postprocess(decoded)[0]
    assert np.abs(np.asarray(tiny_klein_models.decode(latents)[0], int) - np.asarray(expected, int)).max() <= 1
    assert tiny_klein_models.preview(latents)[0].size == (96, 64)


def test_packing_has_the_pipelines_order_and_places_and_an_inverse(pipeline):
    latents = torch.randn(2, 16, 3, 5)
    tokens = packed(latents)
    assert torch.equal(tokens, pipeline._pack_latents(latents))
    assert torch.equal(unpacked(tokens, (3, 5)), latents)
    places = pipeline._prepare_latent_ids(latents)
    assert torch.equal(positions(torch.device("cpu"), 0, 3, 5), places[0])
    assert torch.equal(pipeline._unpack_latents_with_ids(tokens, places), latents)
    words = pipeline._prepare_text_ids(torch.zeros(1, 7, 4))[0]
    assert torch.equal(positions(torch.device("cpu"), tokens=7), words)
    beside = pipeline._prepare_image_ids([latents[:1]])[0]
    assert torch.equal(positions(torch.device("cpu"), 10, 3, 5), beside)


def test_a_mask_lies_on_the_tokens_of_the_cells_it_covers(tiny_klein_models):
    mask = np.zeros((64, 96), bool)
    mask[16:48, 32:80] = True
    _, height, width = tiny_klein_models.latent_shape_of((96, 64))
    cells = mask_to_latents(mask, (width, height), "object_mask")
    expected = np.zeros((4, 6), bool)
    expected[1:3, 2:5] = True
    assert np.array_equal(cells, expected)
    on_tokens = packed(torch.from_numpy(cells)[None, None].float())
    assert on_tokens.sum() == 6 and torch.equal(unpacked(on_tokens, (4, 6))[0, 0].bool(), torch.from_numpy(cells))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
def test_our_sampler_comes_to_the_pipelines_latents(tiny_klein_models, pipeline, guidance, size):
    models = tiny_klein_models
    noise, words = initial_latents([5, 6], models.latent_shape_of(size)), models.embed(["a dog jumps", None])
    ours = sample(
        sampling_denoiser(models, {}), models.scheduler, noise, words[:1], words[:1], words[1:],
        steps=7, guidance_scale=guidance,
    )  # fmt: skip
    expected = pipeline(
        prompt=["a dog jumps"] * 2,
        latents=noise,
        width=size[0],
        height=size[1],
        num_inference_steps=7,
        guidance_scale=guidance,
        output_type="latent",
    ).images
    assert torch.allclose(models.family.denormalised(ours, models.vae), expected, atol=1e-4)


def test_every_step_reports_the_picture_it_heads_for(tiny_klein_models):
    models, steps = tiny_klein_models, []
    words = models.embed(["a dog jumps"])
    ours = sample(
        sampling_denoiser(models, {}), models.scheduler, initial_latents([5], models.latent_shape), words, words, words,
        steps=4, guidance_scale=1.0, on_step=steps.append,
    )  # fmt: skip
    assert [step.index for step in steps] == [1, 2, 3, 4]
    assert torch.allclose(steps[-1].x0, ours, atol=1e-5)  # the last step goes all the way


def test_noise_is_mixed_in_along_a_straight_line(tiny_klein_models):
    schedule, clean, noise = tiny_klein_models.scheduler, torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    mixed = schedule.add_noise(clean, noise, torch.tensor([1000, 250]))
    assert torch.equal(mixed[0], noise[0]) and torch.allclose(mixed[1], 0.75 * clean[1] + 0.25 * noise[1])


def test_weights_stay_in_the_type_they_are_published_in(folder):
    pipeline = Flux2KleinPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    pipeline.save_pretrained(folder)
    models = load_models(folder, "cpu")
    assert {parameter.dtype for parameter in models.unet.parameters()} == {torch.bfloat16}
    assert models.family.text_encoder.dtype == torch.bfloat16
    profile = models.profile
    assert {profile.precision, profile.training_precision, profile.weights} == {torch.bfloat16}
    assert models.encode(Image.new("RGB", (64, 64))).dtype == torch.float32


def test_the_distilled_one_is_refused_and_named(folder, no_network):
    change_json(folder / "model_index.json", is_distilled=True)
    for name in (folder, "black-forest-labs/FLUX.2-klein-4B"):
        with pytest.raises(ModelError, match="FLUX.2 klein distilled to four steps") as error:
            load_models(name, "cpu")
        assert "FLUX.2-klein-base-4B" in sentence(error)
    with pytest.raises(ModelError) as error:
        load_models("black-forest-labs/FLUX.2-klein-base-4B", "cpu")
    assert "hub can't be reached" in sentence(error)


@pytest.mark.parametrize("change", [{"guidance_embeds": True}, {"joint_attention_dim": 16}, {"in_channels": 4}])
def test_a_network_of_another_kind_is_refused(tmp_path, change):
    from tiny_klein import tiny_transformer

    folder = save_tiny_klein(tmp_path / "model")
    tiny_transformer(**change).save_pretrained(folder / "transformer")
    with pytest.raises(ModelError, match="its network") as error:
        load_models(folder, "cpu")
    sentence(error)


def test_a_damaged_part_is_named(folder):
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="transformer") as error:
        load_models(folder, "cpu")
    sentence(error)


def test_a_diffusers_that_is_older_is_named_with_the_release_to_take(tiny_klein_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers.pipelines.flux2.pipeline_flux2_klein", None)  # not to be imported
    with pytest.raises(ModelError, match="from release 0.37") as error:
        load_models(tiny_klein_folder, "cpu")
    sentence(error)


def test_a_step_of_stage_1_is_relative_to_each_tokens_own_size_and_leaves_padding(tiny_klein_models):
    condition = tiny_klein_models.embed(["a dog"])
    parameters, fitted = condition.unfrozen()
    start = condition.prompt_embeds
    assert torch.equal(fitted().prompt_embeds, start) and len(parameters) == 1
    parameters[0].data.fill_(0.01)
    moved = (fitted().prompt_embeds - start).unflatten(-1, (3, 8))
    size = start.unflatten(-1, (3, 8)).square().mean(-1, keepdim=True).sqrt()
    words = condition.is_word.bool()[0]
    assert torch.allclose(moved[0, words], (0.01 * size).expand_as(moved)[0, words], rtol=1e-3)
    assert not moved[0, ~words].any() and 0 < words.sum() < 512


def test_its_network_has_the_parameters_of_the_published_one():
    """3.88 billion, 7.75 GB in bfloat16, for the architecture that the base of 4B is published with."""
    from tiny_klein import TRUE_SIZE, tiny_transformer

    with torch.device("meta"):
        network = tiny_transformer(**TRUE_SIZE)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert math.isclose(2 * parameters / 1e9, 7.75, rel_tol=1e-3)


def test_its_folder_is_a_pipelines(tiny_klein_folder):
    index = json.loads((tiny_klein_folder / "model_index.json").read_text())
    assert index["_class_name"] == "Flux2KleinPipeline" and index["is_distilled"] is False
    assert {"transformer", "vae", "text_encoder", "tokenizer", "scheduler"} <= set(index)


def test_from_the_hub_come_its_parts_alone_and_of_the_distilled_one_no_weights(hub, tmp_path):
    folder = save_tiny_klein(tmp_path / "klein")
    encoder = Flux2KleinPipeline.from_pretrained(folder).text_encoder
    shutil.rmtree(folder / "text_encoder")
    encoder.save_pretrained(folder / "text_encoder", max_shard_size="8KB")  # in several files, as it is published
    (folder / "flux-2-klein-base-4b.safetensors").write_bytes(b"the network again, in one file")
    (folder / "transformer" / "pytorch_model.bin").write_bytes(b"")
    cache = hub(folder)
    assert len(list((folder / "text_encoder").glob("*.safetensors"))) > 2
    models = load_models("someone/klein-base", "cpu", "float32")
    assert models.latent_shape == (16, 4, 4) and models.embed(["a dog"]).prompt_embeds.shape == (1, 512, 24)
    assert not list(cache.glob("*.safetensors")) and not list(cache.rglob("*.bin"))
    hub.fetched.clear()
    change_json(folder / "model_index.json", is_distilled=True)
    with pytest.raises(ModelError, match="distilled to four steps"):
        load_models("someone/klein", "cpu")
    assert hub.fetched and not any(name.endswith(".safetensors") for name in hub.fetched)


def test_a_lora_in_black_forest_labs_own_names_is_split_between_the_layers(
    tiny_klein_folder, tiny_klein_models, tmp_path
):
    """Other programs write q, k and v as one; the scale is a file's own over its rank, times what is asked for."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"double_blocks.0.img_attn.qkv": (96, 32), "single_blocks.1.linear1": (3 * 32 + 2 * 64, 32)}
    lora = {
        f"diffusion_model.{name}.lora_{side}.weight": torch.randn(shape, generator=generator)
        for name, (out, into) in shapes.items()
        for side, shape in (("A", (2, into)), ("B", (out, 2)))
    }
    save_file(lora, tmp_path / "style.safetensors")
    models = load_models(tiny_klein_folder, "cpu", "float32", loras=[f"{tmp_path / 'style.safetensors'}:0.5"])
    moved = {
        name: (weight - tiny_klein_models.unet.get_parameter(name))
        for name, weight in models.unet.named_parameters()
        if not torch.equal(weight, tiny_klein_models.unet.get_parameter(name))
    }
    product = {
        name: 0.5 * lora[f"diffusion_model.{name}.lora_B.weight"] @ lora[f"diffusion_model.{name}.lora_A.weight"]
        for name in shapes
    }
    attention = "transformer_blocks.0.attn"
    assert set(moved) == {
        *(f"{attention}.to_{part}.weight" for part in "qkv"),
        "single_transformer_blocks.1.attn.to_qkv_mlp_proj.weight",
    }
    together = torch.cat([moved[f"{attention}.to_{part}.weight"] for part in "qkv"])
    torch.testing.assert_close(together, product["double_blocks.0.img_attn.qkv"], atol=1e-5, rtol=1e-4)
    one = moved["single_transformer_blocks.1.attn.to_qkv_mlp_proj.weight"]
    torch.testing.assert_close(one, product["single_blocks.1.linear1"], atol=1e-5, rtol=1e-4)


def test_a_lora_of_another_model_is_refused(tiny_klein_folder, tmp_path):
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_{}.weight"
    save_file({stem.format("A"): torch.zeros(2, 8), stem.format("B"): torch.zeros(8, 2)}, tmp_path / "sd.safetensors")
    with pytest.raises(ModelError, match="doesn't fit this FLUX.2 klein base model") as error:
        load_models(tiny_klein_folder, "cpu", loras=[str(tmp_path / "sd.safetensors")])
    sentence(error)


def test_its_presets_run_on_it(tiny_klein_models):
    for name in PRESETS:
        settings = fitting_preset(tiny_klein_models, name)
        assert (settings.tune, settings.solver, settings.guidance_scale) == ("lora", "ddim", 4.0)
        check_need(tiny_klein_models, settings)
    quick, usual = (fitting_preset(tiny_klein_models, name) for name in ("quick", "paper"))
    for steps in ("embedding_steps", "finetune_steps", "sampling_steps"):
        assert 0 < getattr(quick, steps) < getattr(usual, steps)
