"""Pictures of every kind are opened as a viewer shows them, or refused in one sentence."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from pictures import encoded, noise, png_chunk, refusal, smooth
from PIL import Image, ImageCms, ImageOps

from layerdiffusion.errors import ImageError
from layerdiffusion.images.io import MAX_BYTES, MIN_SIDE, REDUCED_FROM, open_image, points_in_opened
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


@pytest.fixture
def small_limit(monkeypatch) -> int:
    """Pictures of more than 2,000 pixels are reduced, as those of 32 million are."""
    monkeypatch.setattr("layerdiffusion.images.io.WORKING_PIXELS", 2000)
    return 2000


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_of_too_many_pixels_is_reduced_as_it_is_opened(small_limit, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(smooth(121, 90))
    opened = open_image(encoded(stored, format, exif=exif.tobytes(), **({} if format == "TIFF" else {"quality": 95})))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(stored, exif=exif.tobytes()))))
    assert opened.info == {REDUCED_FROM: upright.size}
    assert small_limit / 8 < opened.width * opened.height <= small_limit
    assert opened.width / opened.height == pytest.approx(upright.width / upright.height, rel=0.05)
    expected = np.asarray(upright.resize(opened.size, Image.Resampling.BOX), int)
    assert np.abs(np.asarray(opened, int) - expected).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "I;16"])
def test_a_picture_of_any_mode_is_reduced(small_limit, mode):
    pixels = smooth(120, 90)
    if mode == "RGBA":
        image = Image.fromarray(np.dstack([pixels, np.where(pixels[..., 0] < 128, 0, 255).astype(np.uint8)]))
    elif mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
    file = encoded(image)
    opened = open_image(file)
    assert opened.info[REDUCED_FROM] == (120, 90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerdiffusion.images.io.WORKING_PIXELS", 10**6)
        whole = open_image(file)
    expected = np.asarray(whole.resize(opened.size, Image.Resampling.BOX), int)
    assert np.abs(np.asarray(opened, int) - expected).mean() < 4


def test_points_of_the_file_are_found_again_in_the_reduced_picture(small_limit):
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[60:66, 30:36] = 255
    opened = open_image(encoded(Image.fromarray(pixels)))
    ((x, y),) = points_in_opened([(32.5, 62.5)], opened)
    row, column = np.argwhere(np.asarray(opened)[..., 0] > 0).mean(0)
    assert (x, y) == pytest.approx((column, row), abs=0.6)
    assert points_in_opened([(5, 6, 7, "a")], Image.new("RGB", (9, 9))) == [(5, 6, 7, "a")]


def jpeg_that_claims(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    file = encoded(Image.new("L", (32, 32)), "JPEG")
    sizes = file.index(b"\xff\xc0") + 5
    return file[:sizes] + struct.pack(">HH", height, width) + file[sizes + 4 :]


def test_a_phones_forty_eight_megapixels_open_at_half_their_size():
    file = encoded(Image.linear_gradient("L").resize((8064, 6048)), "JPEG")
    opened = open_image(file)
    assert opened.size == (4032, 3024) and opened.info[REDUCED_FROM] == (8064, 6048)
    rows = np.asarray(opened)[:, 9, 0]
    assert np.abs(rows - np.linspace(0, 255, 3024)).max() < 4


def test_what_is_beyond_the_limits_is_refused_with_its_size():
    assert "100 million pixels (11000 × 9200)" in refusal(encoded(Image.new("1", (11000, 9200))))
    assert "200 million pixels (20000 × 10050)" in refusal(jpeg_that_claims(20000, 10050))
    assert "million pixels" in refusal(jpeg_that_claims(60000, 60000))


@pytest.mark.slow
def test_two_hundred_megapixels_open_within_bounded_memory(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (1, 1600, 3), np.uint8)
    tile = Image.fromarray(np.repeat(np.repeat(rows, 10, 1), 12500, 0))
    path = tmp_path / "phone.jpg"
    tile.save(path, quality=80)
    assert tile.size == (16000, 12500)
    code = (
        "import resource, sys\n"
        "from layerdiffusion.images.io import open_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(open_image(sys.argv[1]).size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=300)
    size, memory = done.stdout.rsplit(" ", 1)
    assert size == "(4000, 3125)"
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(memory) * unit < 400 * 2**20


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
    assert "huge.png is larger than 256 MB" in refusal(path)
    assert "larger than 256 MB" in refusal(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(
    "array",
    [np.zeros((32, 32, 3)), np.zeros((32, 32, 5), np.uint8), np.zeros((0, 32, 3), np.uint8), np.zeros(9, np.uint8)],
    ids=lambda array: str(array.shape),
)
def test_arrays_that_are_no_picture_are_refused(array):
    refusal(array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_heic_and_avif_open_upright_in_their_colours(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(smooth())
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(stored, exif=exif.tobytes()))))
    opened = open_image(encoded(stored, format, quality=95, exif=exif.tobytes()))
    assert opened.size == upright.size
    assert np.abs(np.asarray(opened, int) - np.asarray(upright)).mean() < 4
    assert open_image(opened).size == upright.size  # and is not turned again


def test_a_heic_of_several_pictures_opens_at_its_primary_one():
    others = [Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")]
    file = encoded(Image.fromarray(smooth()), "HEIF", save_all=True, append_images=others, primary_index=2)
    assert np.abs(np.subtract(open_image(file).getpixel((30, 30)), (0, 0, 255))).max() < 12


def test_a_damaged_heic_is_refused():
    file = encoded(Image.fromarray(noise(80, 60)), "HEIF")
    for share in (0.1, 0.5, 0.9):
        assert "read" in refusal(file[: int(len(file) * share)])
