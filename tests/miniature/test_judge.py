"""The judge: what it learns from, and its file."""

import pytest
import torch

from layerdiffusion.miniature import judge
from layerdiffusion.miniature.data import scenes


@pytest.fixture(scope="module")
def one():
    return scenes(8, 500)


def test_an_untrained_judge_comes_back_from_its_folder_the_same(one, tmp_path):
    torch.manual_seed(0)
    fresh = judge.Judge(judge.Network())
    judge.save_judge(fresh, tmp_path)
    again = judge.load_judge(tmp_path)
    assert again(list(one.images)) == fresh(list(one.images))
    assert set(again(list(one.images))[0]) == {"animal", "paint", "pose", "size", "place", "marking", "accent", "shape"}


def test_worn_pictures_stay_pictures(one):
    pixels = judge.to_tensor(one.images)
    worn = judge.worn(pixels, torch.Generator().manual_seed(0))
    assert worn.shape == pixels.shape
    assert worn.min() >= -1 and worn.max() <= 1
    assert not torch.equal(worn, pixels)
    assert (worn - pixels).abs().mean() < 0.2
