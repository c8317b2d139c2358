"""A photograph on the miniature: the sentence, the button, and the page with the other model."""

import numpy as np
from PIL import Image
from serving import save_page_model, served
from tab import Tab


def test_a_photograph_brings_the_sentence_and_the_button_that_switches(chromium, tmp_path, monkeypatch):
    other = save_page_model(tmp_path / "model")

    def download_model(repository, on_bytes=None):
        if on_bytes:
            on_bytes(10**9, 10**9)
        return other

    rows, columns = np.mgrid[:96, :128] / 96
    waves = np.stack([np.sin(40 * rows * columns), np.sin(31 * rows), np.cos(57 * columns + 9 * rows)], -1)
    Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(tmp_path / "photograph.png")
    with served("miniature", offline=False, allow_download=True) as page:
        monkeypatch.setattr("layerdiffusion.hub.download_model", download_model)
        context = chromium.new_context(viewport={"width": 1440, "height": 900})
        tab = Tab(context, page.url)
        assert not tab.page.is_visible("#laptop-run"), "it is no business of those who have a toy"
        tab.upload("photo-upload", tmp_path / "photograph.png")
        tab.page.wait_for_selector("#laptop-run:visible")
        assert "This model knows toys only" in tab.page.inner_text("#notice")
        tab.page.click("#laptop-run")
        tab.seen("() => document.querySelector('#badge').innerText.includes('tiny-sd')")
        assert page.backend.editor.models.name == "segmind/tiny-sd"
        assert tab.field("dial-finetune-steps").input_value() == str(page.backend.opening().finetune_steps)
        tab.page.wait_for_selector("#laptop-run", state="hidden")
        assert not tab.complaints
        context.close()
