"""Windows keep the picture's shape; a subject moves together with its mask."""

import cv2
import numpy as np
import pytest
from pictures import centre, noise, smooth, subject
from PIL import Image

from layerdiffusion.edit import Placement
from layerdiffusion.errors import EditError
from layerdiffusion.images.geometry import Fit, fit_window
from layerdiffusion.images.layers import place, placement_matrix
from layerdiffusion.images.masks import grow


def test_fitting_keeps_the_centre_and_adds_no_bars():
    fit = fit_window((96, 64), (32, 32))
    assert fit == Fit(left=16, top=0, width=64, height=64, size=(32, 32))
    fitted = np.asarray(fit.image(Image.fromarray(smooth())), int)
    expected = cv2.resize(smooth()[:, 16:80], (32, 32), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(fitted - expected).max() <= 3


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize(("start", "stop", "window"), [(2, 20, 2), (80, 94, 30), (20, 60, 16), (5, 85, 13)])
def test_the_window_slides_to_the_subject_and_centres_one_too_long(start, stop, window, vertical):
    mask = np.zeros((64, 96), bool)
    mask[10:20, start:stop] = True
    fit = fit_window((64, 96), (32, 32), mask.T) if vertical else fit_window((96, 64), (32, 32), mask)
    assert fit.box[:2] == ((0, window) if vertical else (window, 0)) and (fit.width, fit.height) == (64, 64)


def test_a_picture_of_the_models_size_passes_unchanged():
    image = Image.fromarray(noise(64, 64))
    fit = fit_window(image.size, (64, 64))
    assert fit.image(image).tobytes() == image.tobytes()
    mask = noise(64, 64, 1)[..., 0] > 127
    assert (fit.mask(mask) == mask).all()


def test_a_point_lands_where_its_pixel_does():
    fit = fit_window((96, 64), (32, 32))
    for x, y in [(16, 0), (79, 63), (50, 20)]:
        there = fit.point(x, y)
        dot = np.zeros((64, 96), np.float32)
        dot[y, x] = 1
        row, column = np.argwhere(cv2.resize(dot[:, 16:80], (32, 32), interpolation=cv2.INTER_AREA) > 0)[0]
        assert abs(there[0] - column) <= 0.5 and abs(there[1] - row) <= 0.5


def test_an_identity_placement_changes_nothing():
    image, mask = Image.fromarray(smooth()), subject()
    placed, moved = place(image, mask, Placement())
    assert placed.tobytes() == image.tobytes() and (moved == mask).all()


def test_moving_moves_pixels_and_mask_by_that_share_of_the_picture():
    image = Image.fromarray(noise(96, 64))
    placed, moved = place(image, subject(), Placement(dx=0.25, dy=-0.125))
    assert (moved[12:28, 54:74] == subject()[20:36, 30:50]).all() and moved.sum() == subject().sum()
    before, after = np.asarray(image)[subject()], np.asarray(placed)[moved]
    assert (before == after).all()


def test_flipping_mirrors_about_the_subjects_own_centre():
    image = Image.fromarray(noise(96, 64))
    placed, moved = place(image, subject(), Placement(flip=True))
    assert (moved[20:36, 30:50] == subject()[20:36, 30:50][:, ::-1]).all()
    assert (np.asarray(placed)[20:36, 30:50][moved[20:36, 30:50]] ==
            np.asarray(image)[20:36, 30:50][:, ::-1][moved[20:36, 30:50]]).all()  # fmt: skip


def test_a_quarter_turn_is_counter_clockwise_to_the_eye():
    square = np.zeros((65, 65), bool)
    square[22:43, 22:43] = True
    square[22:30, 22:43] = False
    square[22:30, 32] = True  # a stem pointing up, on the bounding box's middle
    image = Image.fromarray(np.dstack([square * np.uint8(255)] * 3))
    placed, moved = place(image, square, Placement(rotation=90))
    assert (moved == np.rot90(square)).all()  # numpy's rot90 is counter-clockwise
    assert (np.asarray(placed)[moved] == 255).all()


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_scaling_scales_the_area_and_keeps_the_centre(scale):
    mask = cv2.circle(np.zeros((129, 129), np.uint8), (64, 64), 28, 1, -1).astype(bool)
    _, moved = place(Image.fromarray(smooth(129, 129)), mask, Placement(scale=scale))
    assert moved.sum() == pytest.approx(mask.sum() * scale**2, rel=0.06)
    assert np.abs(centre(moved) - centre(mask)).max() < 0.6


def test_a_subject_made_smaller_is_averaged_and_not_thinned_out():
    y, x = np.mgrid[:96, :96]
    checks = np.dstack([((x + y) % 2 * 255).astype(np.uint8)] * 3)
    mask = np.zeros((96, 96), bool)
    mask[8:87, 8:87] = True  # about a pixel, where picking single ones would find all of one colour
    placed, moved = place(Image.fromarray(checks), mask, Placement(scale=0.25))
    inner = grow(moved, -2)
    assert np.abs(np.asarray(placed, int)[inner] - 127.5).max() < 8


@pytest.mark.parametrize(
    "placement", [Placement(scale=0.3), Placement(scale=1.7, rotation=33), Placement(rotation=-70)]
)
def test_no_rim_of_the_old_background_travels_along(placement):
    mask = cv2.circle(np.zeros((96, 96), np.uint8), (50, 44), 20, 1, -1).astype(bool)
    pixels = np.where(mask[..., None], np.uint8([200, 30, 30]), np.uint8([0, 255, 0]))
    placed, moved = place(Image.fromarray(pixels), mask, placement)
    assert np.abs(np.asarray(placed, int)[moved] - (200, 30, 30)).max() <= 1


def test_the_matrix_says_where_every_pixel_goes():
    mask = subject()
    placement = Placement(scale=1.4, dx=0.1, dy=0.05, rotation=25, flip=True)
    matrix = placement_matrix(mask, placement)
    _, moved = place(Image.fromarray(smooth()), mask, placement)
    expected = matrix[:2] @ np.array([*centre(mask), 1])
    assert np.abs(centre(moved) - expected).max() < 0.5


def test_a_subject_moved_out_of_the_picture_is_refused():
    with pytest.raises(EditError, match="outside the picture"):
        place(Image.fromarray(smooth()), subject(), Placement(dx=1))
