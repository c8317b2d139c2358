"""The page as a Space with ZeroGPU starts it, with workers that fork and pickle: two visitors and their bookings."""

import pytest
from serving import photo, save_page_model, served
from tab import Tab
from zero_gpu import Spaces


def names(spaces: Spaces) -> list[list[str]]:
    """The stages of each booking."""
    return [[given.name for given in call.given] for call in spaces.calls]


@pytest.mark.slow
def test_two_visitors_edit_on_lent_gpus(chromium, tmp_path, monkeypatch):
    spaces = Spaces().install(monkeypatch)
    spaces.left = 120.0  # a stranger's
    for number in range(2):
        photo(96, 64, number).save(tmp_path / f"{number}.png")
    with served(save_page_model(tmp_path / "model")) as page:
        contexts = [chromium.new_context(viewport={"width": 1440, "height": 900}) for _ in range(2)]
        first = Tab(contexts[0], page.url)
        quick = page.backend.opening()
        assert first.field("dial-embedding-steps").input_value() == str(quick.embedding_steps) == "1"
        first.upload("photo-upload", tmp_path / "0.png")
        first.page.wait_for_selector("#photo-board .ld-has-picture")
        for number, across in enumerate((0.5, 0.4)):
            first.page.mouse.click(*first.at("photo-board", across, 0.5))
            first.wait("photo-board", f"data.points == {number + 1}")
        assert not spaces.calls, "clicks book nothing"
        first.page.click("#photo-board [data-act=clear]")  # a random SAM marks nearly everything
        first.wait("photo-board", "data.points == 0")
        first.brush("photo-board", (0.3, 0.4), (0.7, 0.6))
        first.say("a dog jumping on ice")
        first.ready(
            "It books 20 seconds of GPU time (10 + 10), which count as 30; without an account you have 120 a day"
        )
        first.page.click("#run")
        first.done()
        assert names(spaces) == [["embeddings", "finetune"], ["sampling"]]
        assert max(call.seconds for call in spaces.calls) <= 60 and sum(call.seconds for call in spaces.calls) <= 75
        first.page.click("#more")
        first.done()
        first.page.wait_for_function("() => document.querySelectorAll('#gallery .thumbnail-item').length == 4")
        assert names(spaces)[2:] == [["sampling"]], "new seeds run no training"

        second = Tab(contexts[1], page.url)
        second.upload("photo-upload", tmp_path / "1.png")
        second.page.wait_for_selector("#photo-board .ld-has-picture")
        second.brush("photo-board", (0.3, 0.4), (0.7, 0.6))
        second.say("a dog jumping on ice")
        second.ready("It books ")  # by the speed seen in the first edit
        spaces.left = 5.0
        second.page.click("#run")
        assert "exceeded your GPU quota" in second.toast()
        second.page.wait_for_selector("#run:visible")
        spaces.left = 120.0
        push = page.blocks._queue.push
        page.blocks._queue.push = full
        second.page.click("#run")
        second.page.wait_for_function("() => document.querySelector('#progress').innerText.includes('Not started')")
        second.page.wait_for_selector("#run:visible")
        page.blocks._queue.push = push
        second.page.click("#run")
        second.done()
        assert names(spaces)[3:] == [["embeddings", "finetune"], ["sampling"]] and spaces.forks == 1
        for context in contexts:
            context.close()
    spaces.kill()


async def full(body, request, username):
    """Gradio's answer when nobody else may wait."""
    return False, "Queue is full.", "queue_full"
