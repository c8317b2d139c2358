"""The background's own pixels, brought back into results in their full resolution."""

import numpy as np
import pytest
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.images.detail import bring_detail, foreground
from layerdiffusion.images.layers import background_window, lay_out

SIDE, SMALL = 512, 128
yy, xx = np.mgrid[:SIDE, :SIDE]


def disc(x, y, radius=60):
    return (xx - x) ** 2 + (yy - y) ** 2 < radius**2


def scene(subject):
    """A picture of fine detail, which a smaller one can't hold, with a red disc where `subject` is True."""
    fine = np.random.default_rng(0).integers(-40, 41, (SIDE, SIDE, 1))
    ground = np.dstack([xx // 4, yy // 4, 128 - xx // 8]) + 60
    pixels = np.where(subject[..., None], (230, 20, 20), ground + fine)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def psnr(a, b, where):
    a, b = (np.asarray(picture, np.float64)[where] for picture in (a, b))
    return 10 * np.log10(255**2 / max(np.mean((a - b) ** 2), 1e-3))


def detailed(result, edit):
    return bring_detail(result, background_window(edit, result.size), lay_out(edit, result.size).subjects)


@pytest.fixture(scope="module")
def edit():
    before = disc(140, 360)
    return Edit(scene(before), before, prompt="a disc rising on the plain", background="keep")


@pytest.fixture(scope="module")
def result():
    """What a model gives: small, a little off in colour, the subject where its photo has none."""
    made = np.asarray(scene(disc(250, 280)).resize((SMALL, SMALL), Image.Resampling.LANCZOS), np.int16) + 8
    return Image.fromarray(made.clip(0, 255).astype(np.uint8))


def test_the_place_has_the_photos_pixels_and_the_subject_stays_the_results(edit, result):
    full = detailed(result, edit)
    assert full.size == (SIDE, SIDE)
    place = ~(disc(250, 280, 110) | disc(140, 360, 110))
    plain = result.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    assert psnr(full, edit.object_image, place) > psnr(plain, edit.object_image, place) + 6
    for subject in (disc(250, 280), disc(140, 360)):  # where it is now, and where it was
        assert np.array_equal(np.asarray(full)[subject], np.asarray(plain)[subject])


def test_the_edge_between_them_is_soft(edit, result):
    layers = lay_out(edit, (SMALL, SMALL))
    share = foreground(result, layers.background_image, layers.subjects)
    assert share.min() == 0 and share.max() == 1
    assert np.abs(np.diff(share, axis=0)).max() < 0.5


def test_where_the_subject_is_found_what_was_made_anew_beside_it_is_the_photos_again(edit, result):
    made = np.asarray(result).copy()
    tree = disc(338, 300, 30) & ~disc(250, 280, 64)  # touches the subject, of another colour
    made[tree[::4, ::4]] = (20, 120, 30)
    head = disc(250, 205, 30)  # what SAM leaves out of the subject
    made[head[::4, ::4]] = (235, 28, 28)
    made, body = Image.fromarray(made), disc(250, 280)[::4, ::4]
    layers = lay_out(edit, made.size)
    source, subjects = background_window(edit, made.size), layers.subjects
    with_it, without = (bring_detail(made, source, subjects, found) for found in (body, None))
    aside = tree & ~disc(250, 280, 90)
    assert psnr(with_it, edit.object_image, aside) > 30 > 15 > psnr(without, edit.object_image, aside)
    plain = np.asarray(made.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    for subject in (disc(250, 280), head):
        assert np.abs(np.asarray(with_it)[subject].astype(int) - plain[subject]).max() <= 1
    nothing = np.zeros_like(body)
    nothing[-20:, -20:] = True  # is unchanged, so it is no subject
    assert np.array_equal(bring_detail(made, source, subjects, nothing), without)


def test_of_a_reference_it_is_the_references_pixels(edit, result):
    reference = scene(np.zeros((SIDE, SIDE), bool))
    beside = Edit(edit.object_image, edit.object_mask, reference, prompt="a disc rising on the plain")
    full = detailed(result, beside)
    corner = np.asarray(full)[-40:, -40:]
    assert np.array_equal(corner, np.asarray(reference)[-40:, -40:])


def test_a_generated_background_has_no_finer_pixels(edit):
    generated = Edit(edit.object_image, edit.object_mask, prompt="a disc rising on the plain", background="generate")
    assert background_window(generated, (SMALL, SMALL)) is None
