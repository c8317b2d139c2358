"""LoRA files on top of a model give what diffusers makes of them; what doesn't fit is one sentence."""

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from refusals import sentence
from safetensors.torch import load_file, save_file

from layerdiffusion.errors import ModelError
from layerdiffusion.method.finetune import with_weights
from layerdiffusion.models.load import load_models

TARGETS = ["to_q", "to_v", "proj_in"]


def save_lora(models, path, seed, kohya=False):
    """A random LoRA of rank 2 for the network and an encoder, in diffusers' names or in kohya's with an alpha of 1."""
    unet, encoder = with_weights(models.unet, {}), with_weights(models.family.text_encoder, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=TARGETS))
        config = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["q_proj"])
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
