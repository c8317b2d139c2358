"""Pictures in layers as artists' programs open them: Photoshop's PSD, and OpenRaster (Krita, GIMP).

Sources: Adobe's Photoshop File Formats Specification, https://www.adobe.com/devnet-apps/photoshop/fileformatashtml,
and https://www.openraster.org, version 0.0.3.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from PIL import Image

from layerdiffusion.images.io import png_bytes
from layerdiffusion.images.masks import Mask, bounding_box, cut_out

THUMBNAIL = 256  # OpenRaster's longest side of one
LEAVE_OPEN, CLOSE = 1, 3  # section dividers of PSD: a group's own record, and the one at its bottom


class NamedLayer(NamedTuple):
    """An RGB picture as large as the canvas; only what its mask, bool (H, W), marks is seen."""

    name: str
    image: Image.Image
    mask: Mask

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of what is seen; a single pixel where nothing is."""
        return bounding_box(self.mask) if self.mask.any() else (0, 0, 1, 1)


class LayerGroup(NamedTuple):
    """Layers, the lowest first."""

    name: str
    layers: Sequence[NamedLayer]
    visible: bool = True


def ora_bytes(groups: Sequence[LayerGroup], merged: Image.Image) -> bytes:
    """The groups, the lowest first, as a file; `merged`, RGB, is what is seen of them and gives the canvas its size."""
    root = ElementTree.Element("image", version="0.0.3", w=str(merged.width), h=str(merged.height))
    stack = ElementTree.SubElement(root, "stack")
    small = merged.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    pictures = {"mergedimage.png": merged, "Thumbnails/thumbnail.png": small}
    for number, group in reversed([*enumerate(groups)]):
        shown = "visible" if group.visible else "hidden"
        inside = ElementTree.SubElement(stack, "stack", name=group.name, visibility=shown)
        for layer in reversed(group.layers):
            source, (left, top, *_) = f"data/{number}-{layer.name}.png", layer.box
            ElementTree.SubElement(inside, "layer", name=layer.name, src=source, x=str(left), y=str(top))
            pictures[source] = cut_out(layer.image, layer.mask).crop(layer.box)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", "image/openraster")  # first and not compressed, so that it can be told by it
        archive.writestr("stack.xml", ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True))
        for name, picture in pictures.items():
            archive.writestr(name, png_bytes(picture))
    return file.getvalue()


def psd_bytes(groups: Sequence[LayerGroup], merged: Image.Image) -> bytes:
    """The same as PSD, with each layer's mask as a layer mask, which uncovers what it hides."""
    parts = [part for group in groups for part in _psd_group(group)]
    pixels = b"".join(channels for _, channels in parts)
    layers = struct.pack(">h", len(parts)) + b"".join(record for record, _ in parts) + pixels
    layers += b"\0" * (len(layers) % 2)
    section = struct.pack(">I", len(layers)) + layers + struct.pack(">I", 0)  # no mask of the whole
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, merged.height, merged.width, 8, 3)  # 8 bits, RGB
    empty = struct.pack(">II", 0, 0)  # neither a palette nor resources
    planes = b"".join(band.tobytes() for band in merged.split())
    return b"".join((header, empty, struct.pack(">I", len(section)), section, b"\0\0", planes))


def _psd_group(group: LayerGroup) -> Iterator[tuple[bytes, bytes]]:
    """The record and the channels of everything in the group, the lowest first."""
    yield _psd_record("</Layer group>", (0, 0, 0, 0), {}, divider=CLOSE)
    for layer in group.layers:
        bands = dict(enumerate(layer.image.crop(layer.box).split()))
        if not layer.mask.all():
            bands[-2] = Image.fromarray(layer.mask).convert("L").crop(layer.box)
        yield _psd_record(layer.name, layer.box, bands)
    yield _psd_record(group.name, (0, 0, 0, 0), {}, group.visible, LEAVE_OPEN)


def _psd_record(
    name: str,
    box: tuple[int, int, int, int],
    bands: dict[int, Image.Image],
    visible: bool = True,
    divider: int | None = None,
) -> tuple[bytes, bytes]:
    """A layer's record and its channels, raw; `bands` by number: 0 to 2 are RGB, -2 is the layer mask."""
    left, top, right, bottom = box
    corners = struct.pack(">iiii", top, left, bottom, right)
    channels = [(number, b"\0\0" + bands[number].tobytes()) for number in bands] or [(n, b"\0\0") for n in range(3)]
    sizes = b"".join(struct.pack(">hI", number, len(data)) for number, data in channels)
    mask = corners + b"\0\0\0\0" if -2 in bands else b""
    label = name.encode("ascii")
    padded = bytes([len(label)]) + label + b"\0" * (-(len(label) + 1) % 4)
    block = b"" if divider is None else b"8BIMlsct" + struct.pack(">II", 4, divider)
    extra = struct.pack(">I", len(mask)) + mask + struct.pack(">I", 0) + padded + block
    blend = struct.pack(">4s4sBBBx", b"8BIM", b"norm", 255, 0, 0 if visible else 2)  # opaque; 2: hidden
    record = corners + struct.pack(">H", len(channels)) + sizes + blend + struct.pack(">I", len(extra)) + extra
    return record, b"".join(data for _, data in channels)
