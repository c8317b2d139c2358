"""Masks of every kind mean the same, or are refused in one sentence; they are grown, tidied and resized."""

import cv2
import numpy as np
import pytest
from pictures import centre, encoded, noise, smooth, subject
from PIL import Image

from layerdiffusion.errors import MaskError
from layerdiffusion.images.io import png_bytes
from layerdiffusion.images.masks import grow, keep_largest, lay_over, mask_to_latents, open_mask


@pytest.mark.parametrize(
    "source",
    [
        np.array([[0, 1], [1, 0]], bool),
        np.array([[0, 1], [1, 0]], np.uint8),
        np.array([[0, 255], [200, 90]], np.uint8),
        np.array([[0.1, 0.9], [0.5, 0.49]]),
        np.array([[[0], [1]], [[1], [0]]], np.int64),
    ],
    ids=["bool", "0/1", "0..255", "share", "one channel"],
)
def test_masks_of_every_usual_kind_mean_the_same(source):
    mask = open_mask(source, (2, 2))
    assert mask.dtype == bool and (mask == [[False, True], [True, False]]).all()


@pytest.mark.parametrize(
    "source",
    [np.full((2, 2), np.nan), np.full((2, 2), -1), np.full((2, 2), 256), np.full((2, 2), 2.5), np.zeros((2, 2, 3)),
     np.full((2, 2), "a"), np.zeros((2, 2), complex), [[True, False]], None],
    ids=lambda source: str(source).replace("\n", "")[:20],
)  # fmt: skip
def test_arrays_that_are_no_mask_are_refused(source):
    with pytest.raises(MaskError):
        open_mask(source, (2, 2))


def test_a_mask_survives_the_way_through_a_png():
    mask = noise(channels=1)[..., 0] > 127
    assert (open_mask(png_bytes(mask), (40, 32)) == mask).all()


def test_a_brush_stroke_on_nothing_is_a_mask_of_the_stroke():
    layer = np.zeros((32, 40, 4), np.uint8)
    layer[4:9, 5:20] = 255
    mask = open_mask(Image.fromarray(layer), (40, 32))
    assert mask.sum() == 5 * 15 and mask[4:9, 5:20].all()


@pytest.mark.parametrize("size", [(96, 64), (24, 16), (33, 22), (49, 32), (47, 31), (480, 321)])
def test_a_mask_of_the_same_shape_is_scaled_to_its_picture(size):
    mask = ellipse(*size)
    for source in (mask, mask.astype(np.uint8), mask.astype(float), png_bytes(mask), Image.fromarray(mask)):
        scaled = open_mask(source, (48, 32))
        assert scaled.shape == (32, 48)
        assert iou(scaled, ellipse(48, 32)) > 0.85
        assert np.abs(centre(scaled) - centre(ellipse(48, 32))).max() < 1


@pytest.mark.parametrize("size", [(32, 48), (48, 48), (96, 68), (48, 35)])
def test_a_mask_of_another_shape_is_refused_with_both_sizes(size):
    for source in (ellipse(*size), png_bytes(ellipse(*size))):
        with pytest.raises(MaskError, match=f"{size[0]} × {size[1]} pixels but its picture is 48 × 32, of another"):
            open_mask(source, (48, 32))


def ellipse(width: int = 48, height: int = 32) -> np.ndarray:
    """A subject right of the middle; the same at every size."""
    y, x = np.mgrid[:height, :width]
    return ((x + 0.5) / width - 0.6) ** 2 / 0.3**2 + ((y + 0.5) / height - 0.45) ** 2 / 0.35**2 <= 1


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def two_colours(off: tuple[int, int, int], on: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray(np.where(ellipse()[..., None], on, off).astype(np.uint8))


def palette(off: tuple[int, int, int], on: tuple[int, int, int], **options) -> bytes:
    image = Image.fromarray(ellipse().astype(np.uint8) + 5, "P")
    image.putpalette([9, 9, 9] * 5 + [*off, *on])
    return encoded(image, **options)


HARD = {
    "zeros and ones": encoded(Image.fromarray(ellipse().astype(np.uint8))),
    "zeros and ones of 16 bits": encoded(Image.fromarray(ellipse().astype(np.uint16))),
    "12 bits of 16": encoded(Image.fromarray(ellipse().astype(np.uint16) * 4095)),
    "zeros and ones, floats": encoded(Image.fromarray(ellipse().astype(np.float32)), "TIFF"),
    "1 bit": encoded(Image.fromarray(ellipse())),
    "1-bit TIFF": encoded(Image.fromarray(ellipse()), "TIFF"),
    "red on black": encoded(two_colours((0, 0, 0), (255, 0, 0))),
    "dark blue on black": encoded(two_colours((0, 0, 0), (0, 0, 90))),
    "grey on grey": encoded(two_colours((60, 60, 60), (70, 70, 70))),
    "yellow on blue": encoded(two_colours((0, 0, 255), (255, 255, 0))),
    "palette": palette((0, 0, 0), (128, 0, 0)),
    "palette with a transparent colour": palette((200, 200, 200), (10, 10, 10), transparency=5),
    "black on transparent": encoded(
        Image.merge("LA", (Image.new("L", (48, 32)), Image.fromarray(ellipse()).convert("L")))
    ),
    "wholly opaque": encoded(two_colours((0, 0, 0), (255, 255, 255)).convert("RGBA")),
    "equally transparent all over": encoded(
        Image.merge("RGBA", (*two_colours((0, 0, 0), (0, 255, 0)).split(), Image.new("L", (48, 32), 90)))
    ),
    "an array of bytes": np.where(ellipse(), 100, 0).astype(np.uint8),
    "an array of colours": np.asarray(two_colours((0, 0, 0), (255, 0, 0))),
}


@pytest.mark.parametrize("kind", HARD)
def test_two_values_split_between_them_and_transparency_that_varies_is_the_mask(kind):
    assert iou(open_mask(HARD[kind], (48, 32)), ellipse()) == 1


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 60, 255), (200, 120, 10)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_soft_shades_of_one_colour_on_black_are_cut_at_half_of_white(colour, format):
    shade = cv2.GaussianBlur(ellipse(480, 320).astype(np.float32), (0, 0), 6)
    file = encoded(Image.fromarray(np.rint(shade[..., None] * colour).astype(np.uint8)), format, quality=95)
    expected = shade * max(colour) >= 127.5
    assert iou(open_mask(file, (480, 320)), expected) > (0.999 if format == "PNG" else 0.98)


def test_soft_shades_of_several_colours_are_cut_by_their_lightness():
    shade = cv2.GaussianBlur(ellipse(480, 320).astype(np.float32), (0, 0), 6)[..., None]
    pixels = np.rint(shade * (255, 255, 0) + (1 - shade) * (0, 0, 255)).astype(np.uint8)
    assert iou(open_mask(encoded(Image.fromarray(pixels)), (480, 320)), ellipse(480, 320)) > 0.97


def test_soft_transparency_is_cut_at_half():
    layer = np.zeros((32, 48, 4), np.uint8)
    layer[..., 3] = np.arange(48) * 5
    assert (open_mask(encoded(Image.fromarray(layer)), (48, 32)) == (layer[..., 3] >= 128)).all()


DIM = np.where(ellipse(), np.arange(48)[None] + 50, 0).astype(np.uint8)


@pytest.mark.parametrize(
    "source",
    [DIM, encoded(Image.fromarray(DIM)), np.full((32, 48), 90, np.uint8), DIM / 255,
     encoded(Image.fromarray(np.dstack([DIM * 0, DIM * 0, DIM * 0, DIM]))),
     encoded(Image.new("RGB", (48, 32), (120, 0, 0)))],
    ids=["array", "picture", "one value", "floats", "transparency", "one colour"],
)  # fmt: skip
def test_what_is_dark_but_not_black_is_refused_and_asked_to_be_white(source):
    with pytest.raises(MaskError, match="white") as error:
        open_mask(source, (48, 32))
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    "source",
    [np.zeros((32, 48), np.uint8), np.zeros((32, 48)), encoded(Image.new("L", (48, 32))),
     encoded(Image.new("1", (48, 32))), encoded(Image.new("RGBA", (48, 32)))],
    ids=["bytes", "floats", "black", "1 bit", "nothing"],
)  # fmt: skip
def test_a_picture_that_marks_nothing_is_refused(source):
    with pytest.raises(MaskError, match="empty: it marks nothing"):
        open_mask(source, (48, 32))


def test_two_colours_that_cannot_be_told_apart_are_refused():
    with pytest.raises(MaskError, match="equally light"):
        open_mask(encoded(two_colours((15, 0, 7), (0, 9, 0))), (48, 32))


def test_a_latent_pixel_is_masked_when_half_its_area_is():
    mask = np.zeros((16, 24), bool)
    mask[:8, :4] = True  # half of the first cell
    mask[:8, 8:11] = True  # three eighths of the second
    mask[8:, 16:] = True  # all of the last
    latent = mask_to_latents(mask, (3, 2))
    assert latent.dtype == np.float32
    assert latent.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_latent_masks_agree_with_a_plain_average():
    mask = cv2.GaussianBlur(noise(64, 48, 1)[..., 0].astype(np.float32), (0, 0), 4) > 127
    share = mask.reshape(6, 8, 8, 8).mean((1, 3))
    assert (mask_to_latents(mask, (8, 6)) == (share >= 0.5)).all()


def test_a_subject_too_small_for_the_latents_is_refused_by_name_on_request():
    mask = np.zeros((64, 64), bool)
    mask[3, 3] = True
    assert not mask_to_latents(mask, (8, 8)).any()
    with pytest.raises(MaskError, match="object_mask is too small"):
        mask_to_latents(mask, (8, 8), name="object_mask")


def test_laying_over_takes_the_subject_from_one_and_the_rest_from_the_other():
    mask, front, back = subject(), noise(96, 64), smooth()
    laid = np.asarray(lay_over(Image.fromarray(front), mask, Image.fromarray(back)))
    assert (laid[mask] == front[mask]).all() and (laid[~mask] == back[~mask]).all()
    with pytest.raises(ValueError, match="sizes differ"):
        lay_over(Image.fromarray(front), mask[:, :-1], Image.fromarray(back))


def test_growing_and_shrinking_follow_a_disc():
    dot = np.zeros((21, 21), bool)
    dot[10, 10] = True
    y, x = np.mgrid[:21, :21] - 10
    assert not (grow(dot, 4) & (np.hypot(x, y) > 4.5)).any()
    assert grow(dot, 4)[np.hypot(x, y) <= 3.5].all()
    assert (grow(grow(dot, 4), -4) == dot).all()
    assert (grow(dot, 0) == dot).all()


def test_shrinking_does_not_eat_in_from_the_pictures_edge():
    half = np.zeros((20, 20), bool)
    half[:, :10] = True
    assert (grow(half, -3)[:, :7]).all() and not grow(half, -3)[:, 7:].any()


def test_shrinking_undoes_growing_of_a_disc():
    y, x = np.mgrid[:60, :60] - 30
    disc = np.hypot(x, y) <= 12
    assert grow(disc, 5).sum() == pytest.approx(np.pi * 17**2, rel=0.06)
    assert (grow(grow(disc, 5), -5) == disc).all()


def test_the_largest_piece_is_kept_and_diagonal_neighbours_are_one_piece():
    mask = np.zeros((20, 20), bool)
    mask[0:3, 0:3] = True
    mask[3:6, 3:6] = True
    mask[10:14, 10:14] = True
    assert (np.argwhere(keep_largest(mask)).max(0) == 5).all() and keep_largest(mask).sum() == 18
    assert not keep_largest(np.zeros((4, 4), bool)).any()


def test_changing_a_mask_leaves_the_one_it_was_given_alone():
    mask = np.zeros((20, 20), bool)
    mask[5:9, 5:9] = True
    mask[6, 6] = False
    before = mask.copy()
    for change in (lambda m: grow(m, 2), lambda m: grow(m, -1), keep_largest):
        assert not np.shares_memory(change(mask), mask) and (mask == before).all()
