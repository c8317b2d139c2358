"""`python -m layerdiffusion benchmark`: what is printed is what was timed, by each preset."""

import json

import pytest
from serving import save_page_model
from tiny import TOKENS, WIDTH

from layerdiffusion.__main__ import main
from layerdiffusion.commands import benchmark
from layerdiffusion.editor import Editor
from layerdiffusion.models.load import LAPTOP_SIDE, load_models
from layerdiffusion.models.memory import fitting_preset

FEW = ("--steps", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_page_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(folder, capfd):
    def run(*flags) -> tuple[int, str]:
        status = main(["benchmark", "--model", str(folder), "--device", "cpu", *flags])
        return status, capfd.readouterr().out

    return run


@pytest.fixture
def results(monkeypatch):
    """The edits that are really run."""
    seen, really = [], Editor.run

    def run(self, *args):
        seen.append(really(self, *args))
        return seen[-1]

    monkeypatch.setattr(Editor, "run", run)
    return seen


def test_each_preset_is_run_and_new_seeds_for_it(run, results):
    status, out = run(*FEW, "--json")
    presets = json.loads(out)["presets"]
    assert status == 0 and list(presets) == ["paper", "quick", "lora"] and len(results) == 6
    for found, first, again in zip(presets.values(), results[::2], results[1::2], strict=True):
        assert set(first.stages.values()) == {"run"} and len(first.images) == 4
        assert again.stages == {"embeddings": "reuse", "finetune": "reuse", "sampling": "run"}
        assert not set(first.seeds) & set(again.seeds)
        assert found["seconds"] == first.timings and found["seconds_for_new_seeds"] == again.timings["total"]
        assert found["settings"] == first.settings.to_dict() and found["peak_gib"] == {}
    assert [presets[name]["settings"]["tune"] for name in presets] == ["full", "lora", "lora"]
    assert presets["paper"]["settings"]["draws"] == presets["lora"]["settings"]["draws"] == 1


def test_the_figures_are_written_as_json_and_as_a_table(run, tmp_path):
    status, out = run(*FEW, "--presets", "lora", "--out", str(tmp_path / "figures"))
    figures = json.loads((tmp_path / "figures/benchmark.json").read_text(encoding="utf-8"))
    page = (tmp_path / "figures/benchmark.md").read_text(encoding="utf-8")
    assert status == 0 and out.strip() == page.strip()
    assert f"| lora | {figures['presets']['lora']['seconds']['embeddings']:.1f} s | " in page
    assert len({line.count("|") for line in page.splitlines() if line.startswith("|")}) == 1


def test_peaks_stand_beside_the_seconds_and_a_refused_edit_has_its_reason():
    found = {"seconds": {"finetune": 2.0}, "seconds_for_new_seeds": 1.0, "peak_gib": {"finetune": 15.83}}
    figures = {"model": "m", "device": "d", "torch": "2", "threads": 1}
    presets = {"paper": {**found, "warnings": ["Less."]}, "quick": {"refused": "Too large."}}
    page = benchmark.markdown({**figures, "presets": presets})
    assert "| paper | – | 2.0 s, 15.8 GiB | – | – | 1.0 s |" in page
    assert "| quick | Too large. |" in page and "| | Less. |" in page


@pytest.mark.parametrize(
    ("flags", "words"), [(["--steps", "-1"], "steps must be a whole number"), (["--presets", "slow"], "some of paper")]
)
def test_bad_flags_are_refused_before_anything_is_timed(folder, results, capfd, flags, words):
    assert main(["benchmark", "--model", str(folder), "--device", "cpu", *flags]) == 2
    assert words in capfd.readouterr().err and not results


def test_the_untrained_model_is_the_same_every_time_and_takes_every_stage(monkeypatch, capfd):
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 4}
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
             "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip
    words = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    vae = {"block_out_channels": (4, 4, 8, 8), "norm_num_groups": 2, "layers_per_block": 1, "sample_size": 64}
    monkeypatch.setattr(benchmark, "UNET_CONFIG", {**blocks, **kinds, "sample_size": 8, "cross_attention_dim": WIDTH})
    monkeypatch.setattr(benchmark, "VAE_CONFIG", benchmark.VAE_CONFIG | vae)
    monkeypatch.setattr(benchmark, "TEXT_ENCODER_CONFIG", words)
    one, two = (benchmark.untrained_models("cpu").embed(["a dog"]).prompt_embeds for _ in range(2))
    assert one.isfinite().all() and one.equal(two) and one.shape == (1, 77, WIDTH) and TOKENS < 77
    assert main(["benchmark", "--model", "untrained", "--device", "cpu", *FEW, "--presets", "paper", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["presets"]["paper"]
    assert found["settings"]["finetune_steps"] == 2 and found["seconds"]["total"] > 0
    monkeypatch.setitem(benchmark.LAPTOP_CONFIG, "block_out_channels", (8, 8, 16))
    laptop = benchmark.untrained_models("cpu", "untrained-laptop")
    assert laptop.unet.mid_block is None and laptop.size == LAPTOP_SIDE and laptop.defaults.solver == "dpmpp"


def test_the_paper_preset_keeps_the_models_own_steps(folder):
    models = load_models(folder, "cpu")
    assert benchmark.settings_of(models, "paper", None).finetune_steps == fitting_preset(models, "paper").finetune_steps
