"""Pictures of every kind are opened as a viewer shows them, or refused in one sentence."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from pictures import encoded, noise, png_chunk, refusal, smooth
from PIL import Image, ImageCms

from layerdiffusion.errors import ImageError
from layerdiffusion.images.io import MAX_BYTES, MAX_PIXELS, MIN_SIDE, open_image
from layerdiffusion.images.masks import open_mask


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
