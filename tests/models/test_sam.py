"""Any checkpoint of Segment Anything opens, nothing is unpickled, and torchvision is safe to import."""

import inspect
import json
import subprocess
import sys
from dataclasses import asdict
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sams import SMALL, picture, random_sam

from layerdiffusion.errors import EditError, ModelError
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.sam import SamConfig, load_sam, save_sam
from layerdiffusion.models.segmenter import Segmenter

ensure_torchvision()

from segment_anything import SamPredictor, sam_model_registry  # noqa: E402


@pytest.fixture
def random_weights():
    """Fresh weights drawn in a test are the same every time, and nobody else's random numbers are used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def sam():
    return random_sam()


def same_weights(a, b) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_saved_sam_opens_with_the_same_weights(tmp_path, sam):
    save_sam(sam, SMALL, tmp_path / "new" / "sam")
    loaded = load_sam(tmp_path / "new" / "sam")
    assert same_weights(sam, loaded) and not loaded.training
    assert {path.name for path in (tmp_path / "new" / "sam").iterdir()} == {"config.json", "model.safetensors"}


def test_pixel_statistics_are_kept_though_they_are_no_weights(tmp_path):
    config = SamConfig(**{**asdict(SMALL), "pixel_mean": (1, 2, 3), "pixel_std": (4, 5, 6)})
    loaded = load_sam(save_sam(random_sam(config), config, tmp_path))
    assert loaded.pixel_mean.flatten().tolist() == [1, 2, 3]
    assert loaded.pixel_std.flatten().tolist() == [4, 5, 6]


def test_half_precision_weights_open_as_float32(tmp_path, sam):
    half = random_sam().half()
    loaded = load_sam(save_sam(half, SMALL, tmp_path))
    assert next(loaded.parameters()).dtype == torch.float32


@pytest.mark.parametrize("window", [0, 3])
def test_a_bare_checkpoint_is_recognised_by_its_weights(tmp_path, window):
    config = SamConfig(
        **{**asdict(SMALL), "window_size": window, "global_attn_indexes": (1,) if window else (0, 1, 2),
           "out_chans": 64, "decoder_num_heads": 8}
    )  # fmt: skip
    sam = random_sam(config)
    torch.save(sam.state_dict(), tmp_path / "renamed.pth")
    loaded = load_sam(tmp_path / "renamed.pth")
    assert same_weights(sam, loaded)
    mine, theirs = Segmenter(loaded), Segmenter(sam)
    assert mine.candidates([(5, 5)], image=picture())[0].iou == theirs.candidates([(5, 5)], image=picture())[0].iou


SHARED = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


@pytest.mark.parametrize("names", [SHARED[:1], SHARED[1:], SHARED], ids=["image", "prompts", "both"])
def test_a_transformers_sam_gives_the_same_masks(tmp_path, random_weights, names):
    from transformers import SamConfig as TheirConfig
    from transformers import SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    theirs = SamModel(
        TheirConfig(
            vision_config=SamVisionConfig(
                hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=8,
                window_size=3, global_attn_indexes=[1], output_channels=32, mlp_dim=64, num_pos_feats=16,
            ).to_dict(),
            prompt_encoder_config=SamPromptEncoderConfig(
                hidden_size=32, image_size=64, patch_size=8, mask_input_channels=8
            ).to_dict(),
            mask_decoder_config=SamMaskDecoderConfig(
                hidden_size=32, mlp_dim=48, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=24
            ).to_dict(),
        )
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    shared = {name: weights.pop(name) for name in SHARED if name in weights}
    weights |= {name: next(iter(shared.values())).clone() for name in names}
    save_file(weights, tmp_path / "model.safetensors")
    ours = load_sam(tmp_path)

    pixels = torch.from_numpy(picture(64, 64)).permute(2, 0, 1)[None].float()
    points = torch.tensor([[[20.0, 30.0], [50.0, 10.0]]])
    labels = torch.tensor([[1, 0]])
    with torch.no_grad():
        normal = ours.preprocess(pixels)
        expected = theirs(pixel_values=normal, input_points=points[None], input_labels=labels[None])
        sparse, dense = ours.prompt_encoder((points, labels), None, None)
        masks, ious = ours.mask_decoder(
            ours.image_encoder(normal), ours.prompt_encoder.get_dense_pe(), sparse, dense, True
        )
    assert torch.allclose(masks, expected.pred_masks[0], atol=1e-4)
    assert torch.allclose(ious, expected.iou_scores[0], atol=1e-5)


@pytest.mark.slow
def test_metas_vit_b_checkpoint_opens_and_predicts_as_metas_own_builder_does(tmp_path, random_weights):
    theirs = sam_model_registry["vit_b"]()
    torch.save(theirs.state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    ours = load_sam(tmp_path / "sam_vit_b_01ec64.pth")
    assert same_weights(theirs, ours)
    encoders = theirs.image_encoder, ours.image_encoder
    windows, ours_windows = ([block.window_size for block in encoder.blocks] for encoder in encoders)
    assert windows == ours_windows
    for encoder in encoders:  # a pass of the first of each kind, windowed and global, is enough and takes a quarter
        encoder.blocks = encoder.blocks[:3]
    image = picture(64, 64)
    predictor = SamPredictor(theirs)
    predictor.set_image(image)
    masks, ious, _ = predictor.predict(np.array([[20, 30]]), np.array([1]))
    candidates = Segmenter(ours).candidates([(20, 30)], image=image)
    assert all((candidate.mask == mask).all() for candidate, mask in zip(candidates, masks, strict=True))
    assert [candidate.iou for candidate in candidates] == ious.tolist()


def test_the_published_sizes_are_recognised_from_shapes_alone(random_weights):
    from layerdiffusion.models.sam import _recognise

    published = {
        "vit_b": SamConfig(),
        "vit_l": SamConfig(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
        "vit_h": SamConfig(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
    }
    for name, config in published.items():
        with torch.device("meta"):
            theirs = sam_model_registry[name]()
        assert _recognise(theirs.state_dict(), name) == config


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"image_encoder.pos_embed": Evil()}, tmp_path / "sam_vit_b.pth")
    with pytest.raises(ModelError):
        load_sam(tmp_path / "sam_vit_b.pth")
    assert not marker.exists()


def test_a_half_written_checkpoint_is_refused_in_one_sentence(tmp_path, sam):
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    save_sam(sam, SMALL, tmp_path)
    for name in ("sam.pth", "model.safetensors"):
        content = (tmp_path / name).read_bytes()
        for share in (0, 0.3, 0.95):
            (tmp_path / name).write_bytes(content[: int(len(content) * share)])
            with pytest.raises(ModelError, match="half-written"):
                load_sam(tmp_path / name if name == "sam.pth" else tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(colour="red"),
        lambda config: config.update(depth=2),
        lambda config: config.update(embed_dim="wide"),
        lambda config: config.update(patch_size=0),
        lambda config: config.update(out_chans=20),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_sentence(tmp_path, sam, change):
    save_sam(sam, SMALL, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as error:
        load_sam(tmp_path)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_what_is_no_sam_is_refused_in_one_sentence(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "empty").mkdir()
    for name in (tmp_path / "other.pth", tmp_path / "empty", tmp_path / "nowhere.pth", "vit_z"):
        with pytest.raises(EditError) as error:
            load_sam(name)
        assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_without_a_network_the_hubs_sam_is_refused_in_one_sentence(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="the hub can't be reached"):
        load_sam("vit_b")


@pytest.mark.slow
def test_importing_the_segmenter_first_survives_a_torchvision_that_does_not_fit_its_torch():
    code = "from layerdiffusion.models.segmenter import Segmenter; import torchvision, transformers; print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "alive", done.stderr


@pytest.mark.slow
def test_operators_are_defined_only_where_those_of_torchvision_do_not_load(tmp_path):
    """Defining one that torchvision's own library registers later ends the process; each answer needs its own."""
    import _ctypes  # a library that loads into any process

    library, suffix = Path(_ctypes.__file__).read_bytes(), EXTENSION_SUFFIXES[-1]
    cases = [(name, loads) for name in ("_C", "_C_stable") for loads in (True, False)]
    for name, loads in cases:
        package = tmp_path / f"{name}-{loads}/torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / f"{name}{suffix}").write_bytes(library if loads else b"built for another")
    code = (
        "import os, runpy, sys, torch\n"
        "ensure_torchvision = runpy.run_path(sys.argv[1])['ensure_torchvision']\n"  # not its package, which calls it
        "for folder in sys.argv[2:]:\n"
        "    if os.fork():\n"
        "        os.wait()\n"
        "        continue\n"
        "    sys.path.insert(0, folder)\n"
        "    ensure_torchvision()\n"
        "    print(hasattr(torch.ops.torchvision, 'nms'), hasattr(torch.ops.torchvision, 'qnms'), flush=True)\n"
        "    os._exit(0)"
    )
    folders = [tmp_path / f"{name}-{loads}" for name, loads in cases]
    guard = inspect.getfile(ensure_torchvision)
    done = subprocess.run([sys.executable, "-c", code, guard, *folders], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == [str(not loads) for _, loads in cases for _ in range(2)], done.stderr


def test_the_torchvision_guard_can_be_called_again_and_again():
    ensure_torchvision()
    ensure_torchvision()
    assert "torchvision" in sys.modules
