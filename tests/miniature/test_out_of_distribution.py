"""The score is high for what the model was not trained on, and low for scenes of its own world."""

import numpy as np
import pytest
from PIL import Image

from layerdiffusion.miniature.out_of_distribution import ood_score, ood_threshold
from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw
from layerdiffusion.models.load import MINIATURE, load_models


@pytest.fixture(scope="module")
def miniature():
    if not (MINIATURE / "model_index.json").is_file():
        pytest.skip("the embedded model is not trained yet")
    return load_models("miniature", "cpu", "float32")


@pytest.mark.slow
def test_noise_and_checks_score_above_every_drawn_scene(miniature):
    usual = ood_threshold(miniature)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8))
    checks = Image.fromarray((np.indices((160, 160)).sum(0) // 6 % 2 * 255).astype(np.uint8)).convert("RGB")
    for picture in (noise, checks):
        assert ood_score(miniature, picture) > usual
    own = [ood_score(miniature, draw(HELD_OUT_SEEDS + 100 + seed).image) for seed in range(10)]
    assert np.mean(np.array(own) <= 1.1 * usual) >= 0.9


def test_the_score_is_the_same_every_time(tiny_models, tiny_v_models):
    for models in (tiny_models, tiny_v_models):
        picture = draw(3).image
        assert ood_score(models, picture) == ood_score(models, picture)
