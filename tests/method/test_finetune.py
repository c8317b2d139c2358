"""§3.2.2, Eqs. 3–5."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import every_family

from layerdiffusion.method import composite_layers, finetune, separate_layers
from layerdiffusion.method.finetune import background_loss, object_loss, total_loss
from layerdiffusion.models import denoiser
from layerdiffusion.models.tuning import LORA_LR_FACTOR, LORA_RANK, LORA_TARGETS, TunedNetwork, with_weights

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")


@pytest.fixture
def masks():
    subject, background = torch.zeros(2, 1, 1, 8, 8)
    subject[..., 2:6, 1:4] = 1
    background[..., 4:] = 1
    return subject, background


@pytest.fixture
def layers(masks, seeded, request):
    first, second = torch.randn(2, 1, 4, 8, 8, generator=seeded(3))
    if getattr(request, "param", "composite") == "composite":
        return composite_layers(first, masks[0])
    return separate_layers(first, masks[0], second, 1 - masks[1])


both_readings = pytest.mark.parametrize("layers", ["composite", "separate"], indirect=True)


@pytest.fixture
def tune(either_models, seeded):
    embedding = either_models.embed(["a dog"])

    def tune(layers, unet=either_models.unet, tune="full", **changes):
        how = {name: changes.pop(name) for name in ("precision", "rounded", "checkpointing") if name in changes}
        network = TunedNetwork(unet, torch.device("cpu"), lora=tune == "lora", seed=7, **how)
        dials = dict(object_weight=2.0, background_weight=1.0, steps=3, lr=1e-3, generator=seeded(7))
        return finetune(network, either_models.scheduler, layers, embedding, **{**dials, **changes})

    return tune


def test_which_pixels_each_term_looks_at_in_each_variant(masks, seeded):
    subject, background = masks
    first, second = torch.randn(2, 1, 4, 8, 8, generator=seeded(3))

    composite = composite_layers(first, subject)
    assert torch.equal(composite.object_mask + composite.background_mask, torch.ones(1, 1, 8, 8))

    separate = separate_layers(first, subject, second, 1 - background)
    prediction = torch.zeros(2, 4, 8, 8)
    target = torch.cat([torch.full((1, 4, 8, 8), 1.0), torch.full((1, 4, 8, 8), 10.0)])
    assert object_loss(prediction, target, separate).item() == pytest.approx(1 * 12 / 64)
    assert background_loss(prediction, target, separate).item() == pytest.approx(100 * 32 / 64)


@both_readings
def test_a_weight_of_zero_removes_exactly_its_term(layers, seeded):
    target = torch.randn(layers.latents.shape, generator=seeded(1))
    prediction = torch.zeros_like(target).requires_grad_(True)

    only_object = total_loss(prediction, target, layers, 2.0, 0.0)
    only_background = total_loss(prediction, target, layers, 0.0, 3.0)
    assert torch.equal(only_object, 2 * object_loss(prediction, target, layers))
    assert torch.equal(only_background, 3 * background_loss(prediction, target, layers))
    torch.testing.assert_close(total_loss(prediction, target, layers, 2.0, 3.0), only_object + only_background)

    for loss, mask in ((only_object, layers.object_mask), (only_background, layers.background_mask)):
        (gradient,) = torch.autograd.grad(loss, prediction)
        assert torch.equal(gradient != 0, mask.bool().expand_as(gradient))


@every_family
@both_readings
def test_it_follows_a_plain_training_loop(either_models, layers, tune, seeded):
    ours = tune(layers, steps=4)

    unet, scheduler = copy.deepcopy(either_models.unet).requires_grad_(True), either_models.scheduler
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3)
    condition, generator = either_models.embed(["a dog"]), seeded(7)
    for _ in range(4):
        noise = torch.randn(1, 4, 8, 8, generator=generator)  # shared by both terms, as is t
        t = torch.randint(1000, (1,), generator=generator)
        signal, spread = scheduler.alphas_cumprod[t].sqrt(), (1 - scheduler.alphas_cumprod[t]).sqrt()
        errors = []
        for latents in layers.latents.split(1):
            target = noise
            if scheduler.config.prediction_type == "v_prediction":
                target = signal * noise - spread * latents
            noisy = signal * latents + spread * noise
            errors.append((target - unet(noisy, t, **condition.arguments(noisy)).sample) ** 2)
        object_term = (layers.object_mask[0] * errors[0][0]).mean()
        background_term = (layers.background_mask[-1] * errors[-1][0]).mean()
        optimizer.zero_grad()
        (2 * object_term + 1 * background_term).backward()
        optimizer.step()

    plain = dict(unet.named_parameters())
    assert ours.keys() == plain.keys()
    for name, weight in ours.items():
        # Where a gradient is rounding alone (biases before a norm), Adam still takes whole steps either way.
        if not name.endswith(("to_k.bias", "conv1.bias", "time_emb_proj.bias", "conv_in.bias")):
            torch.testing.assert_close(weight, plain[name].detach(), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("either_models", "how"), [("tiny", "full"), ("tiny_xl", "lora")], indirect=["either_models"])
@pytest.mark.parametrize("unseen", ["object", "background"])
def test_a_weight_of_zero_trains_as_if_there_were_only_the_other_layer(
    either_models, layers, tune, seeded, how, unseen
):
    """λ1 = 0 is training on the background alone, λ2 = 0 on the subject alone; with both it is neither."""
    blank = replace(layers, **{f"{unseen}_mask": torch.zeros(1, 1, 8, 8)})
    zero, alone, both = (
        tune(given, tune=how, lr=1e-4, generator=seeded(7), **weights)
        for given, weights in ((layers, {f"{unseen}_weight": 0.0}), (blank, {}), (layers, {}))
    )
    assert all(torch.equal(zero[name], alone[name]) for name in alone)
    assert not all(torch.equal(zero[name], both[name]) for name in both)


@pytest.mark.parametrize("layers", ["separate"], indirect=True)
def test_a_picture_no_term_looks_at_is_not_trained_on(layers, masks, tune):
    with_nan = layers.latents.clone()
    with_nan[1] = float("nan")
    ruined = type(layers)(with_nan, layers.object_mask, layers.background_mask)
    alone = tune(type(layers)(*(part[:1] for part in vars(layers).values())), background_weight=0)
    for name, weight in tune(ruined, background_weight=0).items():
        assert torch.equal(weight, alone[name])


@pytest.mark.parametrize("how", ["full", "lora"])
def test_the_network_given_keeps_every_bit_also_when_training_breaks_off(either_models, layers, tune, how):
    unet = either_models.unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    structure = [name for name, _ in unet.named_modules()]

    def run_out_of_memory(step):
        raise MemoryError

    tune(layers, tune=how)
    with pytest.raises(MemoryError):
        tune(layers, tune=how, on_step=run_out_of_memory)

    assert [name for name, _ in unet.named_modules()] == structure
    assert unet.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())


@pytest.mark.parametrize("how", ["full", "lora"])
def test_the_weights_put_into_a_network_make_the_tuned_one(either_models, layers, tune, how, seeded):
    unet = either_models.unet
    weights = tune(layers, tune=how, steps=5, lr=1e-3)
    tuned = with_weights(unet, weights)
    again = with_weights(unet, weights)

    inputs = (
        torch.randn(1, 4, 8, 8, generator=seeded(4)),
        torch.tensor(300),
        either_models.embed(["a cat"]).prompt_embeds,
    )
    with torch.no_grad():
        assert (tuned(*inputs).sample - unet(*inputs).sample).abs().max() > 1e-4
        assert torch.equal(tuned(*inputs).sample, again(*inputs).sample)
    assert not any(parameter.requires_grad for parameter in tuned.parameters())
    if how == "full":
        named = dict(tuned.named_parameters())
        assert all(torch.equal(named[name], weight) for name, weight in weights.items())


def test_merged_adapters_predict_what_adapters_beside_the_weights_do(either_models, layers, tune, seeded):
    from peft import LoraConfig, inject_adapter_in_model

    unet = either_models.unet
    weights = tune(layers, tune="lora", steps=5, lr=1e-3)
    merged = with_weights(unet, weights)
    assert [name for name, _ in merged.named_modules()] == [name for name, _ in unet.named_modules()]
    beside = copy.deepcopy(unet)
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=list(LORA_TARGETS))
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, beside)
    assert not beside.load_state_dict(weights, strict=False).unexpected_keys

    inputs = (
        torch.randn(1, 4, 8, 8, generator=seeded(4)),
        torch.tensor(300),
        either_models.embed(["a cat"]).prompt_embeds,
    )
    with torch.no_grad():
        torch.testing.assert_close(merged(*inputs).sample, beside.eval()(*inputs).sample, atol=1e-5, rtol=1e-4)
    changed = {
        name for name, weight in merged.named_parameters() if weight.data_ptr() != unet.get_parameter(name).data_ptr()
    }
    assert changed == {name.split(".lora_A.")[0] + ".weight" for name in weights if ".lora_A." in name}


def test_float16_keeps_nearly_all_of_what_stage_2_changes_and_bfloat16_does_not(layers, tune, either_models):
    """The paper's 2e-6 on the paper's 250 steps moves a weight by less than bfloat16 can hold."""
    start = dict(either_models.unet.named_parameters())
    tuned = tune(layers, steps=10, lr=5e-5)  # as far as 250 steps at 2e-6

    def error(dtype):
        off = [(weight.to(dtype).float() - weight).square().sum() for weight in tuned.values()]
        update = [(weight - start[name]).square().sum() for name, weight in tuned.items()]
        return (sum(off) / sum(update)).sqrt().item()

    assert error(torch.float16) < 0.2 * error(torch.bfloat16)
    assert error(torch.bfloat16) > 0.2


@pytest.mark.parametrize("how", ["full", "lora"])
def test_rounded_weights_beside_a_float32_master_come_to_what_autocast_does(layers, tune, how):
    dials = dict(tune=how, steps=4, lr=1e-4 if how == "full" else 1e-5, precision=torch.bfloat16)
    plain, rounded = tune(layers, **dials), tune(layers, **dials, rounded=True)
    exact = tune(layers, **{**dials, "precision": torch.float32})
    assert rounded.keys() == plain.keys() and {weight.dtype for weight in rounded.values()} == {torch.float32}

    def distance(weights):
        return sum((weight - exact[name]).square().sum() for name, weight in weights.items()).sqrt()

    assert distance(rounded) < 1.5 * distance(plain)
    assert distance(rounded) < 0.5 * sum(w.square().sum() for w in tune(layers, **dials, rounded=True).values()).sqrt()


@both_readings
def test_several_draws_a_step_are_the_mean_of_their_losses(layers, tune):
    one, two = [], []
    tune(layers, steps=2, lr=0.0, on_step=lambda step: one.append(step.loss))
    tune(layers, steps=1, draws_a_step=2, lr=0.0, on_step=lambda step: two.append(step.loss))
    assert two == pytest.approx([sum(one) / 2], rel=1e-5)


@pytest.mark.slow
def test_tuning_lowers_the_loss(layers, tune):
    losses = []
    tune(layers, steps=90, lr=3e-3, on_step=lambda step: losses.append(step.loss))
    assert len(losses) == 90
    assert sum(losses[-30:]) < 0.9 * sum(losses[:30])


def test_a_step_of_2e_6_changes_float32_weights_but_would_not_change_bfloat16_ones(either_models, layers, tune):
    half = copy.deepcopy(either_models.unet).to(torch.bfloat16)
    start = {name: value.clone() for name, value in half.named_parameters()}
    large = {name: value.abs().float() > 1e-3 for name, value in start.items()}

    master = tune(layers, unet=half, steps=1, lr=2e-6)
    assert all(weight.dtype == torch.float32 for weight in master.values())
    changed = sum(((master[name] != value.float()) & large[name]).sum() for name, value in start.items())
    assert changed > 0.9 * sum(part.sum() for part in large.values())

    for parameter in half.requires_grad_(True).parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(half.parameters(), lr=2e-6).step()
    for name, parameter in half.named_parameters():
        assert torch.equal(parameter[large[name]], start[name][large[name]])


def test_lora_tunes_adapters_alone_at_their_own_rate(either_models, layers, tune):
    weights = tune(layers, tune="lora", steps=1, lr=1e-4)
    assert all(".lora_A." in name or ".lora_B." in name for name in weights)
    assert any("to_out.0" in name for name in weights)
    # The lora_B start at zero and Adam's first step is the learning rate, where the gradient is not next to nothing.
    moved = torch.cat([weight.abs().flatten() for name, weight in weights.items() if ".lora_B." in name])
    assert moved.max().item() == pytest.approx(1e-4 * LORA_LR_FACTOR, rel=1e-3)


def test_adapters_are_float32_beside_half_precision_weights(either_models, layers, tune):
    half = copy.deepcopy(either_models.unet).to(torch.bfloat16)
    weights = tune(layers, unet=half, tune="lora", lr=2e-6, precision=torch.bfloat16)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert {weight.dtype for weight in with_weights(half, weights).parameters()} == {torch.bfloat16}


def test_both_ways_of_tuning_start_from_the_same_loss_on_the_same_noise(layers, tune):
    losses = {"full": [], "lora": []}
    for how, seen in losses.items():
        tune(layers, tune=how, steps=1, on_step=lambda step, seen=seen: seen.append(step.loss))
    assert losses["lora"] == pytest.approx(losses["full"], rel=1e-5)


@every_family
@pytest.mark.parametrize("how", ["full", "lora"])
def test_checkpointing_changes_the_memory_and_not_the_result(layers, tune, how, monkeypatch):
    calls = []
    original = denoiser.checkpoint
    monkeypatch.setattr(denoiser, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    plain = tune(layers, tune=how, steps=2, lr=1e-4)
    assert not calls
    saving = tune(layers, tune=how, steps=2, lr=1e-4, checkpointing=True)
    assert calls
    for name, weight in plain.items():
        torch.testing.assert_close(weight, saving[name], atol=1e-6, rtol=0)


def test_a_network_without_new_weights_shares_the_memory_of_the_old(either_models):
    unet = either_models.unet
    twin = with_weights(unet, {})
    for parameter, old in zip(twin.parameters(), unet.parameters(), strict=True):
        assert parameter.data_ptr() == old.data_ptr()
