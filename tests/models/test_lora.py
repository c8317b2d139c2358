"""LoRA files on top of a model give what diffusers makes of them; what doesn't fit is one sentence."""

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from refusals import sentence
from safetensors.torch import save_file

from layerdiffusion.errors import ModelError
from layerdiffusion.method.finetune import with_weights
from layerdiffusion.models.load import load_models

TARGETS = ["to_q", "to_v", "proj_in"]


def save_lora(models, path, seed, kohya=False):
    """A random LoRA of rank 2 for the network and the first text encoder, in diffusers' names or kohya's."""
    unet, encoder = with_weights(models.unet, {}), with_weights(models.family.text_encoder, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=TARGETS))
        encoder.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["q_proj"]))
    weights = {f"unet.{name}": value.contiguous() for name, value in get_peft_model_state_dict(unet).items()}
    words = get_peft_model_state_dict(encoder).items()
    weights |= {f"text_encoder.text_model.{name.removeprefix('text_model.')}": value for name, value in words}
    if kohya:
        weights = {kohya_name(name): value for name, value in weights.items() if name.startswith("unet.")}
        downs = [name for name in weights if name.endswith("lora_down.weight")]
        weights |= {name.replace("lora_down.weight", "alpha"): torch.tensor(1.0) for name in downs}
    save_file(weights, path)
    return path


def kohya_name(name):
    module, _, end = name.rpartition(".lora_")
    kind = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[end]
    return f"lora_{module.replace('.', '_')}.{kind}"


def outputs(models):
    condition, latents = models.embed(["a dog"]), torch.ones(1, *models.latent_shape)
    with torch.no_grad():
        return models.unet(latents, torch.tensor(300), **condition.arguments(latents)).sample, condition.prompt_embeds


def in_diffusers(folder, family, files):
    """The same by diffusers' own adapters, beside the weights and never added to them."""
    pipeline = family.pipeline_class().from_pretrained(folder)
    for index, (path, _) in enumerate(files):
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=f"a{index}")
    pipeline.set_adapters([f"a{index}" for index in range(len(files))], [scale for _, scale in files])
    return pipeline


@pytest.mark.parametrize("kind", ["tiny", "tiny_xl"])
@pytest.mark.parametrize("kohya", [False, True], ids=["diffusers", "kohya"])
def test_several_files_change_a_model_as_diffusers_adapters_do(request, tmp_path, kind, kohya):
    folder, plain = request.getfixturevalue(f"{kind}_folder"), request.getfixturevalue(f"{kind}_models")
    files = [save_lora(plain, tmp_path / f"lora {seed}.safetensors", seed, kohya) for seed in (1, 2)]
    models = load_models(folder, "cpu", "float32", loras=[f"{files[0]}:0.5", str(files[1])])
    pipeline = in_diffusers(folder, plain.family, [(files[0], 0.5), (files[1], 1.0)])

    ours, before = outputs(models), outputs(plain)
    models_of_theirs = load_models(folder, "cpu", "float32")
    models_of_theirs.unet = pipeline.unet.eval()
    models_of_theirs.family.text_encoder = pipeline.text_encoder.eval()
    for found, expected, unchanged in zip(ours, outputs(models_of_theirs), before, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert kohya or (found - unchanged).abs().max() > 1e-4
    assert (ours[0] - before[0]).abs().max() > 1e-4
    assert models.unet.state_dict().keys() == plain.unet.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in models.unet.parameters())

    again = load_models(models.name, "cpu", "float32")  # a recipe holds the name alone
    assert models.name == f"{folder} + {files[0]}:0.5 + {files[1]}"
    assert torch.equal(outputs(again)[0], ours[0])


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
