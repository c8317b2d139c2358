"""LoRA files on top of a model give what diffusers makes of them; what doesn't fit is one sentence."""

import copy
import dataclasses

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from refusals import sentence
from safetensors.torch import load_file, save_file

from layerdiffusion.errors import ModelError
from layerdiffusion.hub import split_name
from layerdiffusion.models.load import load_models
from layerdiffusion.models.tuning import with_weights

TARGETS = ["to_q", "to_v", "proj_in"]


def save_lora(models, path, seed, kohya=False):
    """A random LoRA of rank 2 for the network and an encoder, in diffusers' names or in kohya's with an alpha of 1."""
    unet, encoder = with_weights(models.unet, {}), with_weights(models.family.text_encoder, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=TARGETS))
        config = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["q_proj", "out_proj"])
        inject_adapter_in_model(config, encoder)
    weights = {f"unet.{name}": value.contiguous() for name, value in get_peft_model_state_dict(unet).items()}
    for name, value in encoder.named_parameters():
        if "lora_" in name:
            name = name.replace(".default", "").removeprefix("text_model.")
            weights[f"text_encoder.text_model.{name}"] = value.detach().contiguous()
    if kohya:
        weights = {kohya_name(name): value for name, value in weights.items()}
        downs = [name for name in weights if name.endswith("lora_down.weight")]
        weights |= {name.replace("lora_down.weight", "alpha"): torch.tensor(1.0) for name in downs}
    save_file(weights, path)
    return path


def kohya_name(name):
    module, _, end = name.rpartition(".lora_")
    kind = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[end]
    return f"lora_{module.replace('.', '_').replace('text_encoder_', 'te_')}.{kind}"


def outputs(models):
    condition, latents = models.embed(["a dog"]), torch.ones(1, *models.latent_shape)
    with torch.no_grad():
        return models.unet(latents, torch.tensor(300), **condition.arguments(latents)).sample, condition.prompt_embeds


def in_diffusers(models, files):
    """The network with diffusers' own adapters beside its weights, never added to them."""
    pipeline = models.family.pipeline_class()(
        unet=with_weights(models.unet, {}),
        vae=models.vae,
        scheduler=models.scheduler,
        **models.family.parts,
        **models.family.left_out,
    )
    for index, (path, _) in enumerate(files):
        weights, alphas = pipeline.lora_state_dict(str(path), unet_config=models.unet.config)
        weights = {name: value for name, value in weights.items() if name.startswith("unet.")}
        pipeline.load_lora_into_unet(weights, alphas, pipeline.unet, adapter_name=f"a{index}")
    pipeline.unet.set_adapters([f"a{index}" for index in range(len(files))], [scale for _, scale in files])
    return pipeline.unet.eval()


@pytest.mark.parametrize("kind", ["tiny", "tiny_xl"])
@pytest.mark.parametrize("kohya", [False, True], ids=["diffusers", "kohya"])
def test_several_files_change_a_model_as_diffusers_adapters_do(request, tmp_path, kind, kohya):
    folder, plain = request.getfixturevalue(f"{kind}_folder"), request.getfixturevalue(f"{kind}_models")
    files = [save_lora(plain, tmp_path / f"lora {seed}.safetensors", seed, kohya) for seed in (1, 2)]
    models = load_models(folder, "cpu", "float32", loras=[f"{files[0]}:0.5", str(files[1])])
    theirs = dataclasses.replace(models, unet=in_diffusers(plain, [(files[0], 0.5), (files[1], 1.0)]))
    torch.testing.assert_close(outputs(models)[0], outputs(theirs)[0], atol=1e-5, rtol=1e-5)
    for ours, unchanged in zip(outputs(models), outputs(plain), strict=True):
        assert (ours - unchanged).abs().max() > 1e-4
    assert models.unet.state_dict().keys() == plain.unet.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in models.unet.parameters())

    again = load_models(models.name, "cpu", "float32")  # a recipe holds the name alone
    assert models.name == f"{folder} + {files[0]}:0.5 + {files[1]}"
    assert torch.equal(outputs(again)[0], outputs(models)[0])


def test_an_encoders_weights_change_by_scale_times_alpha_over_rank(tiny_folder, tiny_models, tmp_path):
    path = save_lora(tiny_models, tmp_path / "lora.safetensors", 1, kohya=True)
    factors = load_file(path)
    models = load_models(tiny_folder, "cpu", "float32", loras=[f"{path}:0.6"])
    [name] = [
        name for name, _ in models.family.text_encoder.named_modules() if name.endswith("layers.0.self_attn.q_proj")
    ]
    stem = f"lora_te_text_model_{name.removeprefix('text_model.').replace('.', '_')}"
    change = factors[f"{stem}.lora_up.weight"] @ factors[f"{stem}.lora_down.weight"]
    old, new = (each.family.text_encoder.get_submodule(name).weight for each in (tiny_models, models))
    torch.testing.assert_close(new, old + 0.6 * 1 / 2 * change)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}/none.safetensors", "no LoRA file"),
        ("{}/lora.pt", "safetensors"),
        ("{}/lora.safetensors:much", "scale"),
        ("{}/lora.safetensors:nan", "scale"),
        ("{}/lora.safetensors:99", "scale"),
        ("{}/lora.safetensors", "doesn't fit"),
        ("{}/other.safetensors", "doesn't fit"),
    ],
)
def test_what_is_no_lora_of_this_model_is_one_sentence(tiny_folder, tiny_xl_models, tmp_path, text, words):
    save_lora(tiny_xl_models, tmp_path / "lora.safetensors", 1)
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=words) as error:
        load_models(tiny_folder, "cpu", loras=[text.format(tmp_path)])
    sentence(error)


CONFIGS = {
    "alpha above rank": {"r": 4, "lora_alpha": 32},
    "rsLoRA": {"r": 16, "lora_alpha": 16, "use_rslora": True},
    "rank pattern": {"r": 4, "lora_alpha": 4, "rank_pattern": {"to_v": 16}},
    "alpha pattern": {"r": 4, "lora_alpha": 4, "alpha_pattern": {"to_v": 16}},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("writer", ["peft", "diffusers", "a pipeline"])
def test_whatever_scales_a_file_its_change_is_the_librarys_own(tiny_folder, tiny_models, tmp_path, config, writer):
    config = LoraConfig(init_lora_weights=False, target_modules=TARGETS, **config)
    unet = copy.deepcopy(tiny_models.unet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if writer == "peft":
            adapted = get_peft_model(unet, config)
            adapted.save_pretrained(tmp_path)
            path, merged = tmp_path / "adapter_model.safetensors", adapted.merge_and_unload()
        else:
            unet.add_adapter(config)
            if writer == "diffusers":
                unet.save_lora_adapter(tmp_path)
            else:
                metadata = _collate_lora_metadata({"unet": unet})
                StableDiffusionPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(unet), **metadata)
            path, merged = tmp_path / "pytorch_lora_weights.safetensors", unet
            merged.fuse_lora()
            merged.unload_lora()
    found = load_models(tiny_folder, "cpu", "float32", loras=[str(path)]).unet.state_dict()
    assert any((found[name] - old).abs().max() > 1e-3 for name, old in tiny_models.unet.state_dict().items())
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=1e-5)


def test_pefts_own_file_without_its_config_is_refused(tiny_folder, tiny_models, tmp_path):
    unet = get_peft_model(copy.deepcopy(tiny_models.unet), LoraConfig(target_modules=TARGETS))
    unet.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"adapter_config\.json") as error:
        load_models(tiny_folder, "cpu", loras=[str(tmp_path / "adapter_model.safetensors")])
    sentence(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_by_the_files_name(tiny_folder, tiny_models, tmp_path, value):
    path = save_lora(tiny_models, tmp_path / "broken.safetensors", 1)
    weights = load_file(path)
    next(iter(weights.values()))[0, 0] = value
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"broken\.safetensors") as error:
        load_models(tiny_folder, "cpu", loras=[str(path)])
    sentence(error)


@pytest.mark.parametrize("content", [b"", None, b"version https://git-lfs.github.com/spec/v1\n", b"<!doctype html>"])
def test_what_is_no_whole_file_is_called_so(tiny_folder, tiny_models, tmp_path, content):
    path = save_lora(tiny_models, tmp_path / "lora.safetensors", 1)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ModelError, match="not a whole safetensors file") as error:
        load_models(tiny_folder, "cpu", loras=[str(path)])
    sentence(error)


def test_a_layer_the_model_does_not_have_is_refused(tiny_folder, tiny_models, tmp_path):
    path = save_lora(tiny_models, tmp_path / "lora.safetensors", 1)
    weights = load_file(path)
    name = next(name for name in weights if "to_q" in name)
    save_file(weights | {name.replace("to_q", "to_z"): weights[name].clone()}, path)
    with pytest.raises(ModelError, match="doesn't fit") as error:
        load_models(tiny_folder, "cpu", loras=[str(path)])
    sentence(error)


@pytest.mark.parametrize("name", ["style + detail.safetensors", "UP.SAFETENSORS", "a: b.safetensors"])
def test_a_recipes_model_name_opens_again_whatever_its_files_are_called(tiny_folder, tiny_models, tmp_path, name):
    first, second = save_lora(tiny_models, tmp_path / name, 1), save_lora(tiny_models, tmp_path / "x.safetensors", 2)
    models = load_models(tiny_folder, "cpu", "float32", loras=[f"{first}:0.5", str(second)])
    assert split_name(models.name) == (str(tiny_folder), [f"{first}:0.5", str(second)])
    again = load_models(models.name, "cpu", "float32")
    assert torch.equal(outputs(again)[0], outputs(models)[0])
