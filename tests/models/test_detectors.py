"""Detectors on random networks of the true classes: their boxes and outlines are what transformers makes of them."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from PIL import Image
from safetensors.torch import load_file, save_file
from sams import picture, random_sam
from tiny import tiny_tokenizer

from layerdiffusion.errors import ModelError
from layerdiffusion.models.find import GroundingDino, Owl, Sam3, find, load_detector, with_article, without_article
from layerdiffusion.models.segmenter import Segmenter

IMAGE = Image.fromarray(picture())
SMALL = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(random_sam())


def save_owl(folder):
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    tokenizer = tiny_tokenizer()
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": len(tokenizer) - 1}
    pictures = {**SMALL, "image_size": 32, "patch_size": 8}
    config = Owlv2Config(text_config={**SMALL, **words}, vision_config=pictures, projection_dim=8)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    tokenizer.model_max_length = 16
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


def save_grounding_dino(folder):
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", ".", "?"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64,
            window_size=2,
            embed_dim=8,
            depths=[1] * 4,
            num_heads=[1, 1, 2, 2],
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(**SMALL, vocab_size=len(words), max_position_embeddings=64),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=12,
        max_text_len=32,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    processor = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    GroundingDinoProcessor(processor, tokenizer).save_pretrained(folder)


def save_sam3(folder):
    from transformers import CLIPTextConfig, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    tokenizer = tiny_tokenizer()
    part = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_layers": 1}
    backbone = {
        **SMALL,
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "image_size": 56,
        "pretrain_image_size": 56,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [0],
    }
    config = Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config=CLIPTextConfig(
            **{**SMALL, "hidden_size": 16},
            projection_dim=16,
            vocab_size=len(tokenizer),
            max_position_embeddings=32,
            bos_token_id=len(tokenizer) - 2,
            eos_token_id=len(tokenizer) - 1,
        ).to_dict(),
        geometry_encoder_config=part,
        detr_encoder_config=part,
        detr_decoder_config={**part, "num_queries": 6},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
    )
    Sam3Model(config).save_pretrained(folder)
    Sam3Processor(Sam3ImageProcessor(size={"height": 56, "width": 56}), tokenizer).save_pretrained(folder)


SAVED = {Owl: save_owl, GroundingDino: save_grounding_dino, Sam3: save_sam3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random network of each kind, by its class here."""
    made = {}
    for kind, save in SAVED.items():
        made[kind] = tmp_path_factory.mktemp(kind.__name__)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            save(made[kind])
    return made


@pytest.fixture(params=SAVED, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def test_each_network_is_opened_by_its_own_class(folders, kind):
    assert type(load_detector(folders[kind])) is kind


@pytest.mark.parametrize("boxes", [Owl, GroundingDino], ids=["Owl", "GroundingDino"])
def test_boxes_are_the_librarys_and_go_to_sam(folders, segmenter, boxes):
    from transformers import pipeline

    detector = load_detector(folders[boxes])
    found = find(None, IMAGE, "the dog", segmenter=segmenter, detector=detector)
    assert 1 <= len(found) <= 3
    asked = pipeline("zero-shot-object-detection", model=str(folders[boxes]))
    label = "a dog." if boxes is GroundingDino else "a dog"
    oracle = sorted(asked(IMAGE, [label], threshold=boxes.least), key=lambda one: -one["score"])
    for one, wanted in zip(found, oracle, strict=False):
        corners = [wanted["box"][name] for name in ("xmin", "ymin", "xmax", "ymax")]
        inside = np.clip(corners, 0, [IMAGE.width, IMAGE.height] * 2)
        np.testing.assert_allclose(one.box, inside, atol=1)
        assert one.score == pytest.approx(wanted["score"], abs=1e-4) and one.points == ()
        assert np.array_equal(one.mask, segmenter.mask(box=one.box, image=IMAGE))


def found_by_sam3(folder):
    """What it finds whatever the score, without Segment Anything."""
    detector = load_detector(folder)
    detector.least = 0.0
    return detector, find(None, IMAGE, "the dog", segmenter=object(), detector=detector)


def test_sam_3_is_asked_for_the_noun_alone_and_draws_the_outline_itself(folders):
    detector, found = found_by_sam3(folders[Sam3])
    inputs = detector._processor(images=IMAGE, text="dog", return_tensors="pt")
    with torch.no_grad():
        outputs = detector._model(**inputs)
    scores = (outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid())[0]
    order = scores.argsort(descending=True)
    assert 1 <= len(found) <= 3
    for one, index in zip(found, order.tolist(), strict=False):
        low = outputs.pred_masks[:, index : index + 1].sigmoid()
        mask = torch.nn.functional.interpolate(low, IMAGE.size[::-1], mode="bilinear")[0, 0] > 0.5
        assert np.array_equal(one.mask, mask.numpy()) and one.mask.shape == IMAGE.size[::-1]
        assert one.score == pytest.approx(scores[index].item(), abs=1e-5)


def test_sam_3_opens_as_it_is_published_with_its_tracker_beside_the_detector(folders, tmp_path):
    from transformers import Sam3VideoConfig

    _, alone = found_by_sam3(folders[Sam3])
    for path in folders[Sam3].glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    detector = json.loads((folders[Sam3] / "config.json").read_text())
    Sam3VideoConfig(detector_config=detector).save_pretrained(tmp_path)
    weights = load_file(folders[Sam3] / "model.safetensors")
    published = {f"detector_model.{name}": value for name, value in weights.items()}
    published["tracker_model.no_memory_embedding"] = torch.zeros(1)
    save_file(published, tmp_path / "model.safetensors", metadata={"format": "pt"})
    opened, found = found_by_sam3(tmp_path)
    assert type(opened) is Sam3 and len(found) == len(alone)
    for one, other in zip(found, alone, strict=True):
        assert np.array_equal(one.mask, other.mask) and one.box == other.box


def test_gated_weights_ask_for_a_login_in_one_sentence(monkeypatch):
    import httpx
    import huggingface_hub

    def snapshot_download(*args, **options):
        raise GatedRepoError("gated", response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match="facebook/sam3 asks for a login: accept its terms"):
        load_detector("facebook/sam3")


def test_articles():
    assert [with_article(words) for words in ("the owl", "My dog", "a Cat")] == ["an owl", "a dog", "a Cat"]
    assert [without_article(words) for words in ("the owl", "another dog")] == ["owl", "another dog"]


def test_a_folder_of_another_kind_is_no_detector(tiny_folder, tmp_path):
    with pytest.raises(ModelError, match="can't be opened"):
        load_detector(tmp_path)
    with pytest.raises(ModelError, match="clip_text_model, no detector of words; give a SAM 3"):
        load_detector(tiny_folder / "text_encoder")
