"""A name becomes a model, or one sentence that says why not."""

import dataclasses
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import change_json, sentence
from safetensors.torch import load_file, save_file
from tiny import TOKENS, WIDTH, noise_picture, save_tiny_model

from layerdiffusion.errors import ModelError
from layerdiffusion.hub import HUB_DEFAULT
from layerdiffusion.models import load as models_module
from layerdiffusion.models.load import load_models
from layerdiffusion.models.profile import device_profile
from layerdiffusion.settings import PAPER


def test_sizes_lengths_and_scalings_come_from_the_models_own_configs(tiny_models, tiny_v_models):
    assert tiny_models.size == 64
    assert tiny_models.latent_shape == (4, 8, 8)
    assert tiny_models.tokens == TOKENS
    assert tiny_models.vae.config.scaling_factor == 0.18215
    assert tiny_v_models.vae.config.scaling_factor == 1.0
    assert tiny_v_models.scheduler.config.prediction_type == "v_prediction"
    assert tiny_models.embed(["a dog", ""]).prompt_embeds.shape == (2, TOKENS, WIDTH)
    assert not any(p.requires_grad for p in tiny_models.unet.parameters())


def test_another_size_is_a_multiple_of_what_the_network_halves(tiny_folder):
    assert load_models(tiny_folder, "cpu", size=96).latent_shape == (4, 12, 12)
    with pytest.raises(ModelError, match="multiple of 16") as error:
        load_models(tiny_folder, "cpu", size=100)
    sentence(error)


def test_prompts_are_embedded_as_diffusers_embeds_them(either_models):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(either_models.folder)
    theirs, empty = pipeline.encode_prompt("a dog jumps", "cpu", 1, True)
    torch.testing.assert_close(either_models.embed(["a dog jumps", None]).prompt_embeds, torch.cat([theirs, empty]))


def test_a_prompt_that_is_cut_short_is_said_to_be(tiny_models):
    long = "a dog " * 20
    warnings = tiny_models.prompt_warnings(["a dog", long])
    assert len(warnings) == 1
    assert "ignores" in warnings[0]
    assert tiny_models.embed([long]).prompt_embeds.shape == (1, TOKENS, WIDTH)


def test_pictures_are_encoded_and_decoded_as_diffusers_does(either_models):
    from diffusers.image_processor import VaeImageProcessor
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents

    models, picture, processor = either_models, noise_picture(3, 64, 64), VaeImageProcessor()
    with torch.no_grad():
        theirs = retrieve_latents(models.vae.encode(processor.preprocess(picture)), sample_mode="argmax")
        theirs = theirs * models.vae.config.scaling_factor
        pixels = models.vae.decode(theirs / models.vae.config.scaling_factor).sample
    torch.testing.assert_close(models.encode(picture), theirs, atol=1e-5, rtol=1e-5)
    decoded = models.decode(torch.cat([theirs, theirs]))
    assert len(decoded) == 2
    difference = np.asarray(decoded[0], int) - np.asarray(processor.postprocess(pixels)[0], int)
    assert abs(difference).max() <= 1


def test_a_vaes_shift_is_taken_off_and_put_back(folder, tiny_models):
    change_json(folder / "vae" / "config.json", shift_factor=0.25)
    shifted, picture = load_models(folder, "cpu"), noise_picture(3, 64, 64)
    plain = tiny_models.encode(picture)
    torch.testing.assert_close(shifted.encode(picture), plain - 0.25 * 0.18215, atol=1e-5, rtol=0)
    same = np.asarray(shifted.decode(shifted.encode(picture))[0], int) - np.asarray(tiny_models.decode(plain)[0], int)
    assert abs(same).max() <= 1


def test_ddim_is_built_from_whatever_scheduler_the_model_was_saved_with(folder):
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(
            {
                "_class_name": "PNDMScheduler",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "num_train_timesteps": 1000,
                "skip_prk_steps": True,
                "trained_betas": None,
            }
        )
    )
    scheduler = load_models(folder, "cpu").scheduler
    assert type(scheduler).__name__ == "DDIMScheduler"
    config = scheduler.config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (config.steps_offset, config.set_alpha_to_one, config.clip_sample) == (1, False, False)
    assert config.prediction_type == "epsilon"


def test_a_models_defaults_are_the_papers_but_for_what_its_settings_file_says(folder):
    assert load_models(folder, "cpu").defaults == PAPER
    (folder / "settings.json").write_text(json.dumps({"finetune_lr": 1e-4, "embedding_steps": 60}))
    assert load_models(folder, "cpu").defaults == dataclasses.replace(PAPER, finetune_lr=1e-4, embedding_steps=60)


@pytest.mark.parametrize("content", ['{"finetune_lr": 9}', '{"speed": 1}', "{", "[]"])
def test_a_settings_file_that_makes_no_sense_is_refused(folder, content):
    (folder / "settings.json").write_text(content)
    with pytest.raises(ModelError, match=r"settings\.json") as error:
        load_models(folder, "cpu")
    sentence(error)


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/folder", "a b", ""])
def test_a_missing_folder_is_named(name):
    with pytest.raises(ModelError, match="no model folder" if name else "no unet"):
        load_models(name, "cpu")


def remove_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def pickle_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def drop_a_weight(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("conv_in.bias")
    save_file(weights, path, metadata={"format": "pt"})


def cut_a_config(folder: Path) -> None:
    (folder / "vae" / "config.json").write_text('{"_class_name": "Auto')


def remove_the_vocabulary(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


HALF_WRITTEN = [remove_weights, pickle_weights, cut_weights, drop_a_weight, cut_a_config, remove_the_vocabulary]


@pytest.mark.parametrize("damage", HALF_WRITTEN)
def test_a_half_written_model_is_one_sentence(folder, damage):
    damage(folder)
    with pytest.raises(ModelError, match="can't be opened") as error:
        load_models(folder, "cpu")
    sentence(error)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"_class_name": "FluxTransformer2DModel"}),
        ("vae", {"_class_name": "AutoencoderDC"}),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}),
    ],
)
def test_another_kind_of_model_is_refused_as_such(folder, part, changes):
    change_json(folder / part / "config.json", **changes)
    with pytest.raises(ModelError, match=r"not a Stable Diffusion 1\.x, SDXL or FLUX\.2 klein base model") as error:
        load_models(folder, "cpu")
    sentence(error)


@pytest.mark.parametrize("changes", [{"in_channels": 9}, {"cross_attention_dim": 20}])
def test_an_inpainting_or_wider_network_is_refused_as_such(folder, changes):
    from tiny import tiny_unet

    with torch.random.fork_rng(devices=[]):
        tiny_unet(**changes).save_pretrained(folder / "unet")
    with pytest.raises(ModelError, match=r"not a Stable Diffusion 1\.x, SDXL or FLUX\.2 klein base model") as error:
        load_models(folder, "cpu")
    sentence(error)


def test_auto_is_the_miniature_on_a_cpu(monkeypatch, tiny_v_folder):
    monkeypatch.setattr(models_module, "MINIATURE", tiny_v_folder)
    models = load_models("auto", "cpu")
    assert models.name == "miniature"
    assert models.notice is None


def test_auto_without_the_hub_is_the_miniature_and_says_so(monkeypatch, tiny_v_folder, no_network):
    # A CUDA profile on a CPU: what `auto` does before anything touches the device.
    monkeypatch.setattr(models_module, "MINIATURE", tiny_v_folder)
    cpu = device_profile("cpu")
    name, notice = models_module._automatic(dataclasses.replace(cpu, device=torch.device("cuda")))
    assert name == "miniature"
    assert HUB_DEFAULT in notice
    assert "hub can't be reached" in notice
    assert "\n" not in notice


def test_a_model_saved_with_older_key_names_opens_as_the_same(folder, tiny_models):
    # Stable Diffusion v1.4's text encoder has a prefix that today's transformers leaves out, and a buffer.
    path = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name}": value for name, value in load_file(path).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    save_file(weights, path, metadata={"format": "pt"})
    assert torch.equal(
        load_models(folder, "cpu").embed(["a dog"]).prompt_embeds, tiny_models.embed(["a dog"]).prompt_embeds
    )


def test_the_segmenter_is_the_models_own(folder):
    from layerdiffusion.models.sam import SamConfig, build_sam, save_sam

    config = SamConfig(
        image_size=64,
        embed_dim=16,
        depth=1,
        num_heads=2,
        window_size=0,
        global_attn_indexes=(0,),
        out_chans=16,
    )
    with torch.random.fork_rng(devices=[]):
        save_sam(build_sam(config), config, folder / "sam")
    models = load_models(folder, "cpu")
    assert models.segmenter() is models.segmenter()
    models.segmenter().set_image(noise_picture(0, 64, 64))


def test_the_random_model_of_the_tests_is_the_same_every_time(tiny_folder, tmp_path):
    again = save_tiny_model(tmp_path)
    for part in ("unet", "vae"):
        name = Path(part) / "diffusion_pytorch_model.safetensors"
        first, second = load_file(tiny_folder / name), load_file(again / name)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_importing_the_package_is_cheap_and_gives_the_public_names():
    code = (
        "import sys, layerdiffusion\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'cv2', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in layerdiffusion.__all__: getattr(layerdiffusion, name)\n"
        "assert 'Editor' in dir(layerdiffusion)\n"
        "try: layerdiffusion.nonsense\n"
        "except AttributeError: pass\n"
        "else: raise SystemExit('nonsense')\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_models_loaded_by_many_threads_at_once_are_whole_and_leave_torch_as_it_was(tiny_folder):
    """The libraries patch `torch.nn.Module` while they build a network, which two threads would leave patched."""
    before = torch.nn.Module.register_parameter
    with ThreadPoolExecutor(6) as pool:
        loaded = list(pool.map(lambda _: load_models(tiny_folder, "cpu", "float32"), range(6)))
    assert torch.nn.Module.register_parameter is before
    assert not any(weight.is_meta for models in loaded for weight in models.unet.parameters())
