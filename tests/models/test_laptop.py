"""The laptop models: found by name with settings of their own, and every method on a random network of their shape."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny import QUICK, edit_of_noise, save_tiny_model, tiny_unet

from layerdiffusion.baselines import OWN, PAPERS, options_for
from layerdiffusion.baselines.pnp import injection_into, sites_of
from layerdiffusion.editor import Editor
from layerdiffusion.errors import ModelError
from layerdiffusion.hub import LAPTOP, REVISIONS, download_model
from layerdiffusion.models.load import LAPTOP_SETTINGS, LAPTOP_SIDE, load_models
from layerdiffusion.progress import Cancelled
from layerdiffusion.settings import preset

# The configs that both are published with, where they differ from Stable Diffusion v1.4's.
SHAPE = dict(
    down_block_types=("CrossAttnDownBlock2D",) * 3,
    mid_block_type=None,
    up_block_types=("CrossAttnUpBlock2D",) * 3,
    layers_per_block=1,
)
TRUE_SIZE = dict(sample_size=64, cross_attention_dim=768, block_out_channels=(320, 640, 1280))
FEW = {"imagic": {"embedding_steps": 2, "finetune_steps": 2}, "pnp": {"inversion_steps": 6, "noise_share": 0.2}}


def pickle_halves(folder: Path) -> None:
    """The weights as tiny-sd has them: of half precision, in .bin files alone."""
    for path in [*folder.glob("*/*.safetensors")]:
        name = "pytorch_model.bin" if path.name == "model.safetensors" else "diffusion_pytorch_model.bin"
        torch.save({key: value.half() for key, value in load_file(path).items()}, path.with_name(name))
        path.unlink()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model of their shape, in full precision."""
    folder = save_tiny_model(tmp_path_factory.mktemp("laptop"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_unet(**SHAPE, block_out_channels=(8, 16, 16)).save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def models(folder):
    return load_models(folder, "cpu", "float32")


@pytest.fixture
def edit():
    return edit_of_noise(64)


@pytest.mark.parametrize(("name", "repository"), [("laptop", LAPTOP[0]), *zip(LAPTOP, LAPTOP, strict=True)])
def test_they_are_known_by_name_with_settings_of_their_own(hub, folder, name, repository):
    hub(folder)
    models = load_models(name, "cpu")
    assert models.name == repository and {*hub.fetched.values()} == {REVISIONS[repository]}
    own = json.loads(LAPTOP_SETTINGS.read_text())
    quick = own.pop("quick")
    assert own.items() <= models.defaults.to_dict().items()
    assert (models.defaults.tune, models.defaults.solver) == ("lora", "dpmpp")
    assert quick.items() <= preset("quick", models.model_defaults, models.quick).to_dict().items()
    assert models.size == LAPTOP_SIDE and load_models(name, "cpu", size=64).size == 64
    assert load_models(folder, "cpu").defaults.tune == "full", "another model of that shape has the paper's"


def test_weights_that_are_bin_files_alone_are_fetched_and_read(hub, folder, tmp_path, models):
    pickled = Path(shutil.copytree(folder, tmp_path / "hub"))
    pickle_halves(pickled)
    hub(pickled)
    opened = load_models("laptop", "cpu", "float32")
    weights = {name for name in hub.fetched if not name.endswith((".json", ".txt"))}
    assert weights == {
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/pytorch_model.bin",
    }
    for ours, full in zip(opened.unet.parameters(), models.unet.parameters(), strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, full.half().float())


def test_halves_are_fetched_rather_than_full_weights_or_bin_files(hub, folder, tmp_path):
    both = Path(shutil.copytree(folder, tmp_path / "hub"))
    for path in [*both.glob("*/*.safetensors")]:
        halves = {name: value.half() for name, value in load_file(path).items()}
        save_file(halves, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        path.with_name("pytorch_model.bin").touch()
    hub(both)
    load_models(LAPTOP[1], "cpu")
    assert {name.partition(".")[2] for name in hub.fetched if name.endswith((".bin", ".safetensors"))} == {
        "fp16.safetensors"
    }


class Evil:
    def __reduce__(self):
        return print, ("it ran",)


def test_a_bin_file_that_would_run_code_is_refused(hub, folder, tmp_path, capsys):
    evil = Path(shutil.copytree(folder, tmp_path / "hub"))
    pickle_halves(evil)
    torch.save({"conv_in.weight": Evil()}, evil / "unet" / "diffusion_pytorch_model.bin")
    hub(evil)
    with pytest.raises(ModelError, match="unet in .* can't be opened"):
        load_models("laptop", "cpu")
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("name", [OWN, *PAPERS])
def test_every_method_edits_with_them_and_leaves_the_network_alone(models, edit, name, tune):
    before = {key: value.clone() for key, value in models.unet.state_dict().items()}
    settings = replace(QUICK, tune=tune, solver="ddim" if name == "pnp" else "dpmpp")
    result = Editor(models).run(edit, settings, method=name, options=options_for(name, models, **FEW.get(name, {})))
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert not np.array_equal(*result.images)
    assert all(np.isfinite(losses).all() for losses in result.losses.values())
    assert all(torch.equal(value, before[key]) for key, value in models.unet.state_dict().items())


def test_a_trained_edit_differs_from_an_untrained_one_and_lora_is_in_every_attention(models, edit):
    editor, settings = Editor(models), replace(QUICK, tune="lora", finetune_lr=2e-3)
    subject = editor.subject(edit, settings)
    places = {name.split(".transformer_blocks")[0] for name in subject.weights if "lora_B" in name}
    assert places == {
        *(f"down_blocks.{block}.attentions.0" for block in range(3)),
        *(f"up_blocks.{block}.attentions.{layer}" for block in range(3) for layer in range(2)),
    }
    assert all(weight.abs().max() > 0 for name, weight in subject.weights.items() if "lora_B" in name)
    plain = editor.run(edit, replace(settings, finetune_steps=0))
    assert not np.array_equal(editor.run(edit, settings).images[0], plain.images[0])


def test_a_lora_opens_in_diffusers_and_makes_our_pictures_there(models, folder, edit, tmp_path):
    settings = replace(QUICK, tune="lora", finetune_lr=2e-3, schedule="edit")
    editor = Editor(models)
    path = editor.subject(edit, settings).save(tmp_path / "dog", models)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(models.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(path))
    theirs = pipeline(
        prompt_embeds=load_file(path.with_suffix(".embeddings.safetensors"))["edit.prompt_embeds"][None],
        negative_prompt_embeds=models.embed([None]).prompt_embeds,
        num_inference_steps=settings.sampling_steps,
        guidance_scale=models.defaults.guidance_scale,
        latents=torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)),
        output_type="np",
    ).images[0]
    ours = np.asarray(editor.run(edit, settings).images[0]) / 255
    assert np.abs(theirs - ours).max() < 2 / 255


def test_a_whole_network_is_saved_without_a_middle_block(models, edit, tmp_path):
    settings = replace(QUICK, tune="full", finetune_lr=1e-3)
    folder = Editor(models).subject(edit, settings).save(tmp_path / "cat", models)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert unet.mid_block is None and unet.config.layers_per_block == 1
    assert not torch.equal(unet.conv_in.weight, models.unet.conv_in.weight)


def test_plug_and_play_goes_into_the_first_decoder_block_which_has_16_cells_a_side_as_the_authors_second_has():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**TRUE_SIZE, **SHAPE)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 323_384_964
    sites = sites_of(unet)
    assert sites.features == "up_blocks.0.resnets.1.conv2"
    assert sites.attention == tuple(
        f"up_blocks.{block}.attentions.{layer}.transformer_blocks.0.attn1"
        for block, layer in ((0, 1), (1, 0), (1, 1), (2, 0), (2, 1))
    )
    shapes = []
    block = unet.get_submodule(sites.features)
    block.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    latents, words = torch.zeros(2, 4, 64, 64, device="meta"), torch.zeros(2, 77, 768, device="meta")
    with injection_into(unet) as injection:
        injection.features = injection.attention = True
        unet(latents, torch.zeros((), device="meta"), encoder_hidden_states=words)
    assert [shape[-2:] for shape in shapes] == [(16, 16)]


# Downloads, by the hub's own library from a hub on this machine.

CONFIGS = {"model_index.json": b"{}", "unet/config.json": b"{}"}
WEIGHTS = {f"{part}/diffusion_pytorch_model.bin": bytes([65 + number]) * 3_000_000 for number, part in
           enumerate(("unet", "vae"))} | {"text_encoder/pytorch_model.bin": b"c" * 3_000_000}  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as a download takes; `cut` is after how many bytes a file's answer ends."""

    files = CONFIGS | WEIGHTS
    asked: list[tuple[str, str | None]]  # (file, its Range)
    cut: dict[str, int]
    refused: set[str]
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:  # noqa: N802
        if "/resolve/" not in self.path and "/tree/" not in self.path:
            self.send_error(404)
            return
        if "/resolve/" not in self.path:
            entries = [{"type": "file", "path": name, "size": len(data), "oid": f"{len(name):040x}"}
                       for name, data in self.files.items()]  # fmt: skip
            self.answer(json.dumps(entries).encode())
            return
        name = self.path.partition("/resolve/")[2].partition("/")[2]
        data, span = self.files[name], self.headers.get("Range")
        if self.command == "GET":
            self.asked.append((name, span))
        if name in self.refused and self.command == "GET":
            self.send_error(503)
            return
        first = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
        self.answer(data[first:], name, f"bytes {first}-{len(data) - 1}/{len(data)}" if span else None)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, data: bytes, name: str = "", span: str | None = None) -> None:
        self.send_response(206 if span else 200)
        headers = {"Content-Length": str(len(data)), "Content-Type": "application/json", "X-Repo-Commit": COMMIT}
        headers |= {"ETag": f'"{name.replace("/", "-")}"'} | ({"Content-Range": span} if span else {})
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: self.cut.pop(name, len(data))])

    def log_message(self, *args: object) -> None:
        pass


COMMIT = REVISIONS[LAPTOP[0]]


@pytest.fixture
def served(monkeypatch, tmp_path) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    Hub.asked, Hub.cut, Hub.refused = [], {}, set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # bytes that are lost at most
    yield Hub
    server.shutdown()
    server.server_close()


def fetched(hub: type[Hub]) -> list[str]:
    return sorted(name for name, _ in hub.asked if name in WEIGHTS)


def whole(folder: Path) -> bool:
    return all((folder / name).read_bytes() == data for name, data in WEIGHTS.items())


def test_a_download_reports_its_bytes_up_to_all_of_them(served):
    events = []
    folder = download_model(LAPTOP[0], lambda done, of: events.append((done, of)))
    total = sum(len(data) for data in WEIGHTS.values())
    assert whole(folder) and fetched(served) == sorted(WEIGHTS)
    assert events[-1][0] == events[-1][1] >= total and all(0 <= done <= of for done, of in events)


def test_a_connection_that_breaks_goes_on_from_the_byte_where_it_broke(served):
    served.cut = {"unet/diffusion_pytorch_model.bin": 1_000_000}
    assert whole(download_model(LAPTOP[0]))
    spans = [span for name, span in served.asked if name.startswith("unet/diffusion")]
    assert spans == [None, "bytes=1000000-"]


def test_a_model_that_is_half_there_is_completed_and_nothing_fetched_twice(served):
    served.refused = {"text_encoder/pytorch_model.bin"}
    with pytest.raises(ModelError):
        download_model(LAPTOP[0])
    served.refused = set()
    served.asked.clear()
    assert whole(download_model(LAPTOP[0]))
    assert "text_encoder/pytorch_model.bin" in fetched(served) and len(fetched(served)) < len(WEIGHTS) + 1
    served.asked.clear()
    assert whole(download_model(LAPTOP[0])) and not fetched(served)


def test_what_the_listener_raises_ends_the_download(served):
    def cancel(done: int, of: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        download_model(LAPTOP[0], cancel)
    assert whole(download_model(LAPTOP[0]))
