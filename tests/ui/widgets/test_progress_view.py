"""The bar over the stages, the preview and the loss."""

from PIL import Image

from layerdiffusion.progress import Progress
from layerdiffusion.ui.widgets.progress import ProgressView


def test_the_bar_only_moves_on_and_names_the_stages():
    view = ProgressView({"embeddings": "reuse", "finetune": "run", "sampling": "run"})
    view.take([Progress("finetune", 1, 10, loss=0.5, seconds_left=10.0)])
    first = view.share
    view.take([Progress("finetune", 2, 10, loss=0.4, seconds_left=400.0)])
    assert view.share >= first
    text = view.html()
    for words in ("Words<em>reused", "Layers<em>now", "step 2 of 10", "about 6 min 40 s"):
        assert words in text


def test_a_preview_takes_the_place_of_the_curve():
    view = ProgressView({"sampling": "run"})
    view.take([Progress("sampling", 3, 50, seconds_left=1.0, preview=Image.new("RGB", (8, 8)))])
    assert "data:image/png" in view.html() and "polyline" not in view.html()
