"""Pictures of every kind are opened as a viewer shows them, or refused in one sentence; layers and masks move
together.
"""

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from layerdiffusion.edit import Placement
from layerdiffusion.errors import EditError, ImageError, MaskError
from layerdiffusion.images.io import (
    MAX_BYTES,
    MAX_PIXELS,
    MIN_SIDE,
    Fit,
    fit_square,
    grow,
    lay_over,
    mask_to_latents,
    open_image,
    open_mask,
    paint_out,
    place,
    placement_matrix,
    png_bytes,
)


def noise(width: int = 40, height: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(width: int = 96, height: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1).astype(np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def refusal(source, kind=ImageError) -> str:
    with pytest.raises(kind) as error:
        open_image(source)
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 250, text
    return text


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Opening


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_files_open_to_the_very_pixels_that_were_saved(format, tmp_path):
    path = tmp_path / "picture.bin"
    path.write_bytes(encoded(Image.fromarray(noise()), format))
    for source in (path, str(path), path.read_bytes(), Image.open(path), noise()):
        opened = open_image(source)
        assert opened.mode == "RGB"
        assert (np.asarray(opened) == noise()).all()


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_files_open_close_to_what_was_saved(format):
    opened = open_image(encoded(Image.fromarray(smooth()), format, quality=95))
    assert np.abs(np.asarray(opened, int) - smooth()).mean() < 3


def test_the_opened_picture_is_a_copy_of_its_own():
    original = Image.fromarray(noise())
    opened = open_image(original)
    original.paste("red", (0, 0, 40, 32))
    assert (np.asarray(opened) == noise()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_as_viewers_apply_it(orientation):
    upright = noise()
    # How a camera held that way stores the picture: the inverse of what the tag asks a viewer to do.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert (np.asarray(open_image(file)) == upright).all()


def test_a_mask_file_is_turned_like_its_picture():
    mask = np.zeros((32, 40), bool)
    mask[2:10, 4:30] = True
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(Image.fromarray(np.rot90(mask, 1).copy()), "PNG", exif=exif)
    assert (open_mask(file, (40, 32)) == mask).all()


def test_transparent_parts_are_laid_over_white():
    pixels = noise(channels=4)
    pixels[..., 3] = 0
    pixels[:10, :, 3] = 255
    pixels[10:20, :, 3] = 128
    opened = np.asarray(open_image(encoded(Image.fromarray(pixels))), float)
    assert (opened[:10] == pixels[:10, :, :3]).all()
    assert (opened[20:] == 255).all()
    expected = pixels[10:20, :, :3] * (128 / 255) + 255 * (1 - 128 / 255)
    assert np.abs(opened[10:20] - expected).max() <= 1


def test_a_palette_picture_with_a_transparent_colour_opens_in_its_colours():
    image = Image.new("P", (40, 32), 1)
    image.putpalette([0, 0, 0, 200, 40, 10, 9, 9, 9])
    image.paste(2, (0, 0, 20, 32))
    opened = np.asarray(open_image(encoded(image, transparency=2)))
    assert (opened[:, :20] == 255).all()
    assert (opened[:, 20:] == (200, 40, 10)).all()


def test_sixteen_bits_become_eight_over_the_whole_range():
    levels = np.linspace(0, 65535, 40 * 32).astype(np.uint16).reshape(32, 40)
    opened = np.asarray(open_image(encoded(Image.fromarray(levels))))
    assert np.abs(opened[..., 0] - levels / 257).max() <= 1
    assert opened.min() == 0 and opened.max() == 255


def test_grey_and_black_and_white_pictures_open_as_rgb():
    grey = noise(channels=1)[..., 0]
    assert (np.asarray(open_image(encoded(Image.fromarray(grey)))) == grey[..., None]).all()
    bits = Image.fromarray(grey > 127)
    assert bits.mode == "1"
    assert set(np.unique(open_image(encoded(bits)))) == {0, 255}


def test_cmyk_opens_in_the_right_colours_not_inverted():
    image = Image.new("CMYK", (40, 32), (0, 255, 255, 0))
    red, green, blue = np.asarray(open_image(encoded(image, "JPEG", quality=95)))[16, 20].astype(int)
    assert red > 200 and green < 80 and blue < 80


def test_a_colour_profile_is_honoured_and_an_unfit_one_ignored():
    image = Image.new("RGB", (32, 32), (200, 30, 60))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A profile whose red is sRGB's blue, made by exchanging the names of two tags.
    crossed = srgb.replace(b"rXYZ", b"xxxx", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"xxxx", b"bXYZ", 1)
    opened = open_image(encoded(image, icc_profile=crossed)).getpixel((9, 9))
    assert np.abs(np.subtract(opened, (60, 30, 200))).max() <= 2
    see_through = Image.merge("RGBA", (*image.split(), Image.new("L", (32, 32), 255)))
    opened = open_image(encoded(see_through, icc_profile=crossed)).getpixel((9, 9))
    assert np.abs(np.subtract(opened, (60, 30, 200))).max() <= 2
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for harmless in (srgb, b"no profile", lab):
        assert open_image(encoded(image, icc_profile=harmless)).getpixel((9, 9)) == (200, 30, 60)


def test_formats_that_run_a_program_to_be_read_are_no_pictures():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(out) (w) file\n%%EOF\n"
    assert Image.open(io.BytesIO(postscript)).format == "EPS"
    assert "no picture" in refusal(postscript)


def test_the_content_decides_the_format_and_not_the_files_name(tmp_path):
    path = tmp_path / "really a jpeg.png"
    path.write_bytes(encoded(Image.fromarray(smooth()), "JPEG"))
    assert open_image(path).size == (96, 64)


def test_a_text_file_called_png_is_refused_by_name(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("This is no picture.")
    assert refusal(path).startswith("picture.png is no picture")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(format, share):
    file = encoded(Image.fromarray(noise(80, 60)), format)
    assert "read" in refusal(file[: int(len(file) * share)])


def test_a_png_with_a_flipped_bit_is_refused():
    file = bytearray(encoded(Image.fromarray(noise())))
    file[len(file) // 2] ^= 0xFF
    assert "damaged" in refusal(bytes(file))


def test_bytes_at_random_never_raise_anything_but_the_one_sentence():
    generator = np.random.default_rng(0)
    whole = [encoded(Image.fromarray(noise()), name) for name in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(300):
            file = bytearray(whole[generator.integers(len(whole))])
            for _ in range(generator.integers(1, 12)):
                file[generator.integers(len(file))] = generator.integers(256)
            try:
                open_image(bytes(file))
            except ImageError as error:
                assert str(error).endswith(".")


def test_an_empty_a_missing_and_a_directory_path_are_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    assert "empty file" in refusal(tmp_path / "empty.png")
    assert "no picture at" in refusal(tmp_path / "nowhere.png")
    assert "can't be read as a file" in refusal(tmp_path)
    assert "can't be read as a file" in refusal("a\0b.png")


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animated_picture_is_refused_and_a_still_one_of_its_kind_is_not(format):
    frames = [Image.fromarray(noise() // (index + 1)) for index in range(3)]
    assert "(3)" in refusal(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    assert open_image(encoded(frames[0], format)).size == (40, 32)


def test_a_phones_jpeg_with_a_second_picture_opens_at_the_first():
    first, second = Image.fromarray(smooth()), Image.new("RGB", (96, 64))
    opened = open_image(encoded(first, "MPO", save_all=True, append_images=[second], quality=95))
    assert np.abs(np.asarray(opened, int) - smooth()).mean() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, MIN_SIDE - 1)])
def test_a_picture_of_too_few_pixels_is_refused(size):
    assert f"{size[0]} × {size[1]} pixels, too small" in refusal(encoded(Image.new("RGB", size)))
    assert "too small" in refusal(np.zeros((*size[::-1], 3), np.uint8))


def test_the_smallest_allowed_picture_opens():
    assert open_image(encoded(Image.new("RGB", (MIN_SIDE, MIN_SIDE)))).size == (MIN_SIDE, MIN_SIDE)


def test_forty_megapixels_are_refused_and_a_camera_s_twenty_four_are_not():
    assert 6000 * 4000 <= MAX_PIXELS < 40_000_000
    assert "32 million pixels (8000 × 5000)" in refusal(encoded(Image.new("1", (8000, 5000))))


def test_a_decompression_bomb_is_refused_before_it_is_unpacked():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 9999))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "million pixels" in refusal(bomb + png_chunk(b"IEND", b""))


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "huge.png is larger than 64 MB" in refusal(path)
    assert "larger than 64 MB" in refusal(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(
    "array",
    [np.zeros((32, 32, 3)), np.zeros((32, 32, 5), np.uint8), np.zeros((0, 32, 3), np.uint8), np.zeros(9, np.uint8)],
    ids=lambda array: str(array.shape),
)
def test_arrays_that_are_no_picture_are_refused(array):
    refusal(array)


def test_floating_point_pictures_are_refused():
    assert "floating-point" in refusal(encoded(Image.new("F", (32, 32)), "TIFF"))


# Masks


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


def test_a_mask_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(MaskError, match="5 × 4 pixels but its picture is 40 × 32"):
        open_mask(np.zeros((4, 5), bool), (40, 32))


# Fitting


def test_fitting_keeps_the_centre_and_adds_no_bars():
    fit = fit_square((96, 64), 32)
    assert fit == Fit(left=16, top=0, side=64, native=32)
    fitted = np.asarray(fit.image(Image.fromarray(smooth())), int)
    expected = cv2.resize(smooth()[:, 16:80], (32, 32), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(fitted - expected).max() <= 3


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize(("start", "stop", "window"), [(2, 20, 2), (80, 94, 30), (20, 60, 16), (5, 85, 13)])
def test_the_window_slides_to_the_subject_and_centres_one_too_long(start, stop, window, vertical):
    mask = np.zeros((64, 96), bool)
    mask[10:20, start:stop] = True
    fit = fit_square((64, 96), 32, mask.T) if vertical else fit_square((96, 64), 32, mask)
    assert ((fit.left, fit.top), fit.side) == (((0, window) if vertical else (window, 0)), 64)


def test_a_picture_of_the_models_size_passes_unchanged():
    image = Image.fromarray(noise(64, 64))
    fit = fit_square(image.size, 64)
    assert fit.image(image).tobytes() == image.tobytes()
    mask = noise(64, 64, 1)[..., 0] > 127
    assert (fit.mask(mask) == mask).all() and (fit.restore_mask(mask, (64, 64)) == mask).all()


@pytest.mark.parametrize("size", [(96, 64), (640, 640), (65, 200), (101, 77)])
def test_a_mask_goes_to_the_picture_and_back_unchanged(size):
    native = noise(32, 32, 1)[..., 0] > 127
    fit = fit_square(size, 32)
    restored = fit.restore_mask(native, size)
    assert restored.shape == size[::-1]
    assert (fit.mask(restored) == native).all()


def test_a_small_pictures_mask_goes_to_the_model_and_back_unchanged():
    mask = noise(40, 24, 1)[..., 0] > 127
    fit = fit_square((40, 24), 128)
    inside = np.zeros_like(mask)
    inside[:, 8:32] = mask[:, 8:32]
    assert (fit.restore_mask(fit.mask(mask), (40, 24)) == inside).all()


def test_a_point_lands_where_its_pixel_does():
    fit = fit_square((96, 64), 32)
    for x, y in [(16, 0), (79, 63), (50, 20)]:
        there = fit.point(x, y)
        dot = np.zeros((64, 96), np.float32)
        dot[y, x] = 1
        row, column = np.argwhere(cv2.resize(dot[:, 16:80], (32, 32), interpolation=cv2.INTER_AREA) > 0)[0]
        assert abs(there[0] - column) <= 0.5 and abs(there[1] - row) <= 0.5
        assert np.allclose(fit.restore_point(*there), (x, y))


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


# Placing


def subject(width: int = 96, height: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[20:36, 30:50] = True
    mask[20:24, 30:40] = False  # so that turning and mirroring show
    return mask


def centre(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0)[::-1]


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


# Painting out and laying over


def test_painting_out_removes_the_subject_and_its_rim_and_leaves_the_rest():
    mask = cv2.circle(np.zeros((64, 96), np.uint8), (48, 32), 12, 1, -1).astype(bool)
    rim = grow(mask, 1)
    pixels = smooth()
    pixels[rim] = (255, 0, 255)  # a soft edge reaches one pixel beyond the mask
    painted = np.asarray(paint_out(Image.fromarray(pixels), mask, halo=3), int)
    assert np.abs(painted[rim] - smooth()[rim].astype(int)).mean() < 15  # magenta would be 130 off
    far = ~grow(mask, 6)
    assert (painted[far] == smooth()[far]).all()


def test_painting_out_comes_closer_to_the_true_background_than_inpainting_alone():
    from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw

    ours, plain = [], []
    for seed in range(HELD_OUT_SEEDS + 900, HELD_OUT_SEEDS + 924):
        scene = draw(seed)
        inpainted = cv2.inpaint(
            np.asarray(scene.image), grow(scene.object_mask, 1).astype(np.uint8), 3, cv2.INPAINT_TELEA
        )
        for errors, painted in ((ours, paint_out(scene.image, scene.object_mask)), (plain, inpainted)):
            difference = np.asarray(painted, float) - np.asarray(scene.background)
            errors.append(np.square(difference[scene.object_mask]).mean())
    decibels = np.mean(10 * np.log10((np.array(plain) + 1) / (np.array(ours) + 1)))
    assert decibels > 1.5


def test_a_hole_beside_its_like_is_filled_without_a_trace():
    stripes = np.repeat(noise(1, 64, 3), 96, axis=1)  # every row its own colour
    mask = cv2.circle(np.zeros((64, 96), np.uint8), (40, 30), 14, 1, -1).astype(bool)
    spoilt = stripes.copy()
    spoilt[mask] = 255
    assert (np.asarray(paint_out(Image.fromarray(spoilt), mask)) == stripes).all()


def test_a_hole_from_side_to_side_is_still_filled():
    band = np.zeros((64, 96), bool)
    band[20:40] = True
    spoilt = smooth()
    spoilt[band] = (255, 0, 255)
    painted = np.asarray(paint_out(Image.fromarray(spoilt), band), int)
    assert np.abs(painted[band] - smooth()[band]).mean() < 30


def test_painting_out_nothing_changes_nothing_and_everything_is_refused():
    image = Image.fromarray(smooth())
    assert paint_out(image, np.zeros((64, 96), bool)).tobytes() == image.tobytes()
    with pytest.raises(MaskError, match="whole picture"):
        paint_out(image, np.ones((64, 96), bool))


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
