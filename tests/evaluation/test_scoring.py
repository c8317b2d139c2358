"""Best first goes by three things at once, and no two of them make up for the third."""

import math

import numpy as np
import pytest
from PIL import Image
from tiny import noise_picture

from layerdiffusion.edit import Edit
from layerdiffusion.images.layers import lay_out
from layerdiffusion.scoring import Score, background_change, background_psnr, off_subjects, score_of, score_results


def test_a_score_is_the_harmonic_mean_of_what_is_known():
    assert Score(0.3, 0.5, 1.0, 0.25).overall == pytest.approx(3 / (2 + 1 + 4))
    assert Score(0.3, 0.5).overall == 0.5
    assert Score(0.3, 0.6, 0.6, 0.6).overall > Score(0.5, 1.0, 1.0, 0.1).overall > Score(0.5, 1.0, 1.0, 0.0).overall > 0


def test_measures_are_put_on_a_scale_from_nothing_to_all():
    best, worst = (score_of(*values, own_clip=True) for values in ((0.9, 1.0, 40.0), (0.1, 0.2, 5.0)))
    assert best[1:4] == (1.0, 1.0, 1.0) and worst[1:4] == (0.0, 0.0, 0.0)
    half = score_of(0.25, 0.7, 20.0, own_clip=False)
    assert half.words == pytest.approx(0.5) and half.subject == pytest.approx(0.5) and half.place == 0.5
    assert half.clip_score == 0.25 and score_of(0.3, None, None, False).place is None


def test_the_three_things_are_the_benchs_own_measures(worker):
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    edit = Edit(noise_picture(0, 64, 64), mask, prompt="a dog jumping on the beach")
    layers, images = lay_out(edit, (64, 64)), [noise_picture(0, 64, 64), noise_picture(1, 64, 64)]
    same, other = score_results(worker.models, edit, layers, images)
    assert [one.clip_score for one in (same, other)] == pytest.approx(worker.models.clip().scores(images, edit.prompt))
    subjects = worker.measures.judge.masks(images)
    psnr = background_psnr(images[1], layers, subjects[1])
    assert same.place == 1.0 > other.place == pytest.approx(min(max((psnr - 10) / 20, 0), 1))
    assert all(math.isfinite(part) for score in (same, other) for part in score)
    off = off_subjects(images[1], layers, subjects[1])
    levels = [np.asarray(picture)[off].astype(int) for picture in (images[1], layers.background_image)]
    assert same.changed == 0 and other.changed == pytest.approx(np.abs(levels[0] - levels[1]).mean() / 255)


def test_what_changed_outside_is_known_pixel_by_pixel_and_nothing_is_said_of_the_subjects():
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    photo = noise_picture(0, 64, 64)
    layers, pixels = lay_out(Edit(photo, mask, prompt="a dog on ice"), (64, 64)), np.array(photo)
    pixels[5, 7] ^= 128
    pixels[30, 30] ^= 128
    change = background_change(Image.fromarray(pixels), layers, mask)
    assert change[5, 7] == pytest.approx(128 / 255) and np.nansum(change) == change[5, 7]
    assert np.isnan(change[18:42, 20:40]).all() and not np.isnan(change[:17]).any()
