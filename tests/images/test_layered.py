"""Layered files, as an independent reader of each format finds them."""

import io
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage

from layerdiffusion.images.layered import LayerGroup, NamedLayer, ora_bytes, psd_bytes

WIDTH, HEIGHT = 41, 30  # odd, so that nothing is padded by chance


@pytest.fixture
def stack():
    random = np.random.default_rng(0)
    place, subject, merged = (
        Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)) for _ in range(3)
    )
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[7:19, 5:22], mask[9, 8] = True, False
    below = LayerGroup("layers", (NamedLayer("background", place, np.ones_like(mask)),))
    parts = NamedLayer("place", subject, ~mask), NamedLayer("subject", subject, mask)
    return [below, LayerGroup("seed 10", parts, visible=False)], merged


def test_an_openraster_file_follows_its_specification(stack):
    groups, merged = stack
    with zipfile.ZipFile(io.BytesIO(ora_bytes(groups, merged))) as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert archive.read("mimetype") == b"image/openraster"
        pictures = {
            name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist() if name.endswith("png")
        }
        root = ElementTree.fromstring(archive.read("stack.xml"))
    assert (root.tag, root.get("w"), root.get("h")) == ("image", str(WIDTH), str(HEIGHT))
    assert np.array_equal(pictures["mergedimage.png"], merged)
    assert max(pictures["Thumbnails/thumbnail.png"].size) <= 256
    upper, lower = root.find("stack").findall("stack")  # the topmost comes first
    assert [(group.get("name"), group.get("visibility")) for group in (upper, lower)] == [
        ("seed 10", "hidden"),
        ("layers", "visible"),
    ]
    assert [layer.get("name") for layer in upper] == ["subject", "place"]
    for element, layer in zip([*upper][::-1], groups[1].layers, strict=True):
        picture, canvas = pictures[element.get("src")], Image.new("RGBA", (WIDTH, HEIGHT))
        canvas.paste(picture, (int(element.get("x")), int(element.get("y"))))
        assert np.array_equal(canvas.getchannel("A"), layer.mask * np.uint8(255))
        assert np.array_equal(np.asarray(canvas)[layer.mask][:, :3], np.asarray(layer.image)[layer.mask])
    assert pictures[upper[0].get("src")].size == (17, 12)


def test_a_psd_has_named_groups_whose_layers_carry_masks(stack):
    groups, merged = stack
    data = psd_bytes(groups, merged)
    with Image.open(io.BytesIO(data)) as flat:
        assert flat.size == (WIDTH, HEIGHT) and np.array_equal(flat, merged)
    found = PSDImage.open(io.BytesIO(data))
    assert [(group.name, group.visible, group.is_group()) for group in found] == [
        ("layers", True, True),
        ("seed 10", False, True),
    ]
    assert [layer.name for layer in found.descendants() if not layer.is_group()] == ["background", "place", "subject"]
    place, subject = found[1]
    assert subject.bbox == (5, 7, 22, 19) and not found[0][0].has_mask()
    for layer, written in ((place, groups[1].layers[0]), (subject, groups[1].layers[1])):
        left, top, right, bottom = layer.bbox
        assert np.array_equal(layer.mask.topil(), written.mask[top:bottom, left:right] * np.uint8(255))
        assert np.array_equal(layer.topil().convert("RGB"), written.image.crop(layer.bbox))


def test_the_visible_layers_show_the_first_result(stack):
    groups, _ = stack
    file = psd_bytes([groups[0], groups[1]._replace(visible=True)], groups[1].layers[0].image)
    seen = PSDImage.open(io.BytesIO(file)).composite(force=True).convert("RGB")
    assert np.array_equal(seen, groups[1].layers[0].image)
