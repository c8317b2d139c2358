"""Pictures of every shape on the boards, at every zoom of the browser."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serving import photo

SHAPES = ((300, 300), (400, 300), (480, 270), (180, 320), (40, 300))
ZOOMS = (1, 0.5, 2)


def screen(tab, board, size, pixel) -> tuple[float, float]:
    """Where on the screen the middle of a picture's pixel is: the picture is as large as its stage has room for."""
    tab.page.locator(f"#{board} .ld-stage").scroll_into_view_if_needed()
    box = tab.page.locator(f"#{board} .ld-stage").bounding_box()
    scale = min(box["width"] / size[0], box["height"] / size[1])
    left, top = (box["width"] - scale * size[0]) / 2, (box["height"] - scale * size[1]) / 2
    return box["x"] + left + (pixel[0] + 0.5) * scale, box["y"] + top + (pixel[1] + 0.5) * scale


def pixel_under_cursor(tab, page, path, size, zooms=ZOOMS):
    """Brush a photo of this size at each zoom, and click on it: the pixel under the cursor is marked. Its session."""
    metrics = tab.page.context.new_cdp_session(tab.page)
    photo(*size).save(path)
    version = tab.data("photo-board").version
    tab.upload("photo-upload", path)
    tab.wait("photo-board", f"data.version > {version} && data.area == 0")
    tab.page.click("#photo-board [data-tool=brush]")
    tab.page.eval_on_selector("#photo-board .ld-brush input", "input => input.value = 1")
    state, before = page.session(size), np.zeros(size[::-1], bool)
    for zoom, share in zip(zooms, (0.2, 0.5, 0.8), strict=False):
        view = {"width": round(1440 / zoom), "height": round(900 / zoom), "deviceScaleFactor": zoom}
        metrics.send("Emulation.setDeviceMetricsOverride", {**view, "mobile": False})
        tab.page.wait_for_function(f"() => innerWidth == {view['width']} && devicePixelRatio == {zoom}")
        tab.page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 60)))")  # laid out
        pixel = int(share * size[0]), int((1 - share) * size[1] * 0.9)
        version = tab.data("photo-board").version
        tab.page.mouse.click(*screen(tab, "photo-board", size, pixel))
        tab.wait("photo-board", f"data.version > {version}")
        mask = state.photo.mask
        added = np.argwhere(mask & ~before)[:, ::-1]
        assert mask[pixel[1], pixel[0]] and np.abs(added.mean(0) - pixel).max() < 0.5, (size, zoom)
        before = mask
    tab.page.click("#photo-board [data-tool=add]")
    pixel = size[0] // 10, size[1] - size[1] // 8
    tab.page.mouse.click(*screen(tab, "photo-board", size, pixel))
    tab.wait("photo-board", "data.points == 1")
    assert state.photo.marks.points == ((*pixel, 1),)
    stage = tab.page.locator("#photo-board .ld-stage").bounding_box()
    assert abs(stage["width"] / stage["height"] - min(max(size[0] / size[1], 0.8), 2)) < 0.02
    metrics.send("Emulation.clearDeviceMetricsOverride")
    metrics.detach()
    return state


@pytest.mark.slow
def test_the_pixel_under_the_cursor_is_the_pixel_in_the_mask(tab, page, tmp_path):
    """Five shapes at three zooms."""
    for size in SHAPES:
        pixel_under_cursor(tab, page, tmp_path / f"{size}.png", size)


def test_a_wide_photo_is_marked_placed_and_run_and_a_tall_ones_window_is_moved(tab, page, tmp_path):
    """One shape at one zoom; then it is placed by hand and run."""
    state = pixel_under_cursor(tab, page, tmp_path / "wide.png", (480, 272), (2,))
    tab.page.click("#photo-board [data-act=clear]")
    tab.wait("photo-board", "data.area == 0")
    tab.brush("photo-board", (0.45, 0.45), (0.55, 0.55), size=8)
    tab.page.wait_for_selector("#place-board .ld-has-picture")
    tab.page.wait_for_function("() => document.querySelector('#place-board').innerText.includes('Drag the subject')")
    window = (80, 48)
    middle = window[0] / 2 - 0.5, window[1] / 2 - 0.5
    tab.page.mouse.move(*screen(tab, "place-board", window, middle))
    tab.page.mouse.down()
    tab.page.mouse.move(*screen(tab, "place-board", window, (middle[0] + 16, middle[1] - 6)), steps=5)
    tab.page.mouse.up()
    tab.page.wait_for_function("() => document.querySelector('#place-board').innerText.includes('right 20 %')")
    tab.say("a dog jumping on ice")
    tab.ready("2 pictures")
    tab.until(lambda: not state.placement.is_identity)
    assert abs(state.placement.dx - 16 / 80) < 0.005 and abs(state.placement.dy + 6 / 48) < 0.005
    tab.page.click("#run")
    tab.done()
    tab.page.wait_for_selector("#gallery .thumbnail-item >> nth=1")
    tab.seen("() => [...document.querySelectorAll('#gallery img')].every(one => one.complete)")
    sizes = tab.page.eval_on_selector_all(
        "#gallery img", "all => all.map(one => [one.naturalWidth, one.naturalHeight])"
    )
    assert sizes == [[80, 48]] * 2 and {item.image.size for item in state.shown} == {window}

    photo(90, 150, seed=9).save(tmp_path / "tall.png")
    tab.page.click("#background label:has-text('From a picture')")
    tab.upload("reference-upload", tmp_path / "tall.png")
    tab.page.click("#reference-board [data-tool=window]")  # not there before the window is
    version = tab.data("reference-board").version
    tab.page.mouse.move(*screen(tab, "reference-board", (90, 150), (45, 75)))
    tab.page.mouse.down()
    tab.page.mouse.move(*screen(tab, "reference-board", (90, 150), (45, 51)), steps=5)
    tab.page.mouse.up()
    tab.wait("reference-board", f"data.version > {version}")
    x, y = state.reference.marks.window  # 54 of the 150 rows are in it, so that it can go from 0 to 96, and was at 48
    assert x == 0.5 and abs(y - 24 / 96) < 0.01


def resident(field: str) -> int:
    """Bytes of this process's main memory, "VmRSS" now or "VmHWM" at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="The peak of a process is known on Linux alone.")
def test_two_hundred_megapixels_through_the_page_take_less_than_one_and_a_half_gigabytes(tab, tmp_path):
    path = tmp_path / "phone.jpg"
    code = (
        "import sys, numpy as np\nfrom PIL import Image\n"
        "rows = np.random.default_rng(0).integers(0, 256, (1, 1600, 3), np.uint8)\n"
        "Image.fromarray(np.repeat(np.repeat(rows, 10, 1), 12500, 0)).save(sys.argv[1], quality=80)\n"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=300)
    idle = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # what it had at most begins anew
    tab.upload("photo-upload", path)
    tab.page.wait_for_selector("#photo-board .ld-has-picture")
    tab.brush("photo-board", (0.35, 0.45), (0.65, 0.55))
    tab.say("a dog jumping on ice")
    tab.ready("2 pictures")
    tab.page.click("#run")
    tab.done()
    most = resident("VmHWM") - idle
    assert most < 1.5 * 2**30
    print(f"{most / 2**20:.0f} MiB above idle, {path.stat().st_size / 2**20:.0f} MiB of JPEG")
