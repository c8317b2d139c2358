"""What happens on the boards and to the words: clicks, strokes, pictures, placement, backgrounds, and the plan."""

import json
import random
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import gradio as gr

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import EditError, MaskError
from layerdiffusion.images.io import open_image
from layerdiffusion.images.layers import lay_out
from layerdiffusion.prompts import split_prompt
from layerdiffusion.settings import Settings
from layerdiffusion.ui import presets
from layerdiffusion.ui.backend import Device
from layerdiffusion.ui.errors import friendly, warn
from layerdiffusion.ui.jobs import begin, followed, idle, stop
from layerdiffusion.ui.layout import EMPTY_KEEP
from layerdiffusion.ui.session import MarkedPicture, Session
from layerdiffusion.ui.widgets.board import board_update
from layerdiffusion.ui.widgets.drawing import duration, escape, picture_url
from layerdiffusion.ui.widgets.progress import ProgressView, waiting_html

QUEUE = "device"  # clicks, edits and backgrounds take turns, or two of them meet on one GPU
GROWTH = 0.006  # of the longer side, a press of grow or shrink
BACKGROUNDS = 4
DESCRIPTIONS = {
    "photo": ("The photo.", "Click on the subject."),
    "reference": ("The reference.", "Click on what is no background, if anything is."),
}
EMPTY_PLACE = json.dumps({"empty": "Mark the subject on the photo: both layers appear here."})
PAINT_CANCELLED = '<p class="ld-plan"><b>Cancelled.</b> Finished ones are kept; press again to go on from there.</p>'
UNPAINTED = json.dumps({"empty": "Paint backgrounds, and both layers appear here; or Run paints its own."})
STAGE_WORDS = {"embeddings": "stage 1", "finetune": "stage 2", "sampling": "stage 3", "background": "the background"}


def connect(page: SimpleNamespace, device: Device) -> None:
    """Wire the boards, the words and the plan."""
    refresh = {"fn": friendly(refresher(device)), "inputs": page.inputs, "show_progress": "hidden"}
    refresh |= {"outputs": [page.place_board, page.keep_view, page.plan], "api_visibility": "private"}
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    page.refresh = refresh

    for name in ("photo", "reference"):
        board = getattr(page, f"{name}_board")
        for event, handler, queue in (
            (board.point, clicked(name, device), {"concurrency_id": QUEUE}),
            (board.stroke, stroked(name), {}),
            (board.act, acted(name), {}),
        ):
            event(handler, page.state, board, trigger_mode="multiple", **queue, **quiet).then(**refresh)
        getattr(page, f"{name}_upload").upload(
            friendly(loaded(name, device)),
            [page.state, getattr(page, f"{name}_upload")],
            [board, page.notice],
            **quiet,
        ).then(**refresh)
        getattr(page, f"{name}_mask_upload").upload(
            friendly(mask_loaded(name)), [page.state, getattr(page, f"{name}_mask_upload")], board, **quiet
        ).then(**refresh)

    page.place_board.place(placed, page.state, None, trigger_mode="always_last", **quiet).then(**refresh)
    page.background.change(
        lambda mode: [gr.update(visible=mode == name) for name in ("keep", "reference", "generate")],
        page.background,
        [page.keep_panel, page.reference_panel, page.generate_panel],
        queue=False,
        **quiet,
    ).then(**refresh)
    page.swap.input(**refresh)
    buttons = [page.paint, page.paint_cancel]
    page.paint.click(friendly(begin), page.state, [*buttons, page.paint_note], queue=False, **quiet).success(
        friendly(painter(device)),
        [page.state, page.background_prompt, *page.dials],
        [*buttons, page.backgrounds, page.paint_note],
        concurrency_id=QUEUE,
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=page.paint_note,
        api_visibility="private",
    ).then(**refresh)
    page.paint_cancel.click(friendly(stop), page.state, page.paint_note, queue=False, **quiet)
    page.backgrounds.select(friendly(background_picked), page.state, page.paint_note, **quiet).then(**refresh)

    # `change` and not `input`, which Gradio leaves out when text is pasted or dictated.
    page.prompt.change(
        friendly(split), [page.state, page.prompt], [page.object_prompt, page.background_prompt],
        trigger_mode="always_last", queue=False, **quiet,
    ).then(**refresh)  # fmt: skip
    gr.on([page.object_prompt.change, page.background_prompt.change], trigger_mode="always_last", **refresh)
    gr.on([dial.change for dial in page.dials], trigger_mode="always_last", **refresh)
    for name, button in page.presets.items():
        button.click(friendly(preset_values(name, device)), None, page.dials, queue=False, **quiet)


def settings_of(dials: tuple[Any, ...], names: list[str]) -> Settings:
    """The settings that the dials show."""
    values = dict(zip(names, dials, strict=True))
    count, first, exact = values.pop("count"), values.pop("first"), values.pop("exact")
    return Settings(**values, seeds=presets.seeds_of(count, first, exact or ""))


def dial_names() -> list[str]:
    """The dials in the order in which the page hands them over."""
    numbers = (dial.name for dial in (*presets.DIALS, *presets.ADVANCED, *presets.WORDS))
    return ["count", *numbers, "first", "exact"]


def dial_values(settings: Settings) -> list[Any]:
    """The dials as the settings have them; every field must be set."""
    seeds = settings.seeds
    plain = seeds == tuple(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) <= presets.MOST_SEEDS
    extra = {
        "count": min(len(seeds), presets.MOST_SEEDS),
        "first": seeds[0] if plain else 0,
        "exact": "" if plain else ", ".join(map(str, seeds)),
    }
    return [extra[name] if name in extra else getattr(settings, name) for name in dial_names()]


def preset_values(name: str, device: Device):
    return lambda: dial_values(presets.preset(name, device.defaults()))


def board_of(session: Session, name: str, picture: bool = False) -> dict[str, Any]:
    marked: MarkedPicture = getattr(session, name)
    return board_update(marked.board(*DESCRIPTIONS[name]), marked.picture() if picture else None)


def _on_board(name: str, change):
    """A board's handler: whatever is refused, the board shows again what holds."""

    def handler(session: Session, event: gr.EventData):
        marked = getattr(session, name)
        before = marked.image
        try:
            change(marked, event._data if isinstance(event._data, dict) else {})
        except Exception as error:
            warn(error)
            marked.version += 1
        return board_of(session, name, marked.image is not before)

    return handler


def clicked(name: str, device: Device):
    def look(points: list, labels: list, image: Any) -> list:
        return device.candidates(image, points, labels, None)

    return _on_board(name, lambda marked, data: marked.point(data.get("x"), data.get("y"), data.get("label"), look))


def stroked(name: str):
    return _on_board(
        name, lambda marked, data: marked.stroke(data.get("points"), data.get("radius"), bool(data.get("erase")))
    )


def acted(name: str):
    def act(marked: MarkedPicture, data: dict) -> None:
        action = data.get("name")
        step = max(1, round(GROWTH * max(marked.image.size))) if marked.image else 1
        if action == "undo":
            marked.undo()
        elif action == "clear":
            marked.clear()
        elif action in ("grow", "shrink"):
            marked.grow(step if action == "grow" else -step)
        elif action == "pick":
            marked.choose(data.get("index"))
        elif action == "scene":
            marked.show(toybox_scene(), "toybox scene")
        else:
            raise MaskError("The board can't do that; use its buttons.")

    return _on_board(name, act)


def toybox_scene() -> Any:
    from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw

    return draw(HELD_OUT_SEEDS + random.randrange(10**6), size=random.choice(("medium", "big"))).image


def loaded(name: str, device: Device):
    def load(session: Session, data: bytes | None):
        if data is None:
            raise EditError("No file arrived; choose a picture again.")
        getattr(session, name).show(open_image(data, "The picture"), own=True)
        if name == "photo":
            session.placement = Placement()
        return board_of(session, name, picture=True), notice(device, session)

    return load


def notice(device: Device, session: Session) -> str:
    """A friendly word when the embedded model is shown a picture from outside its world."""
    own = [picture for picture in (session.photo, session.reference) if picture.own and picture.image is not None]
    strange = device.is_miniature and any(device.strange(picture.image) for picture in own)
    if not strange:
        return ""
    return (
        '<p class="ld-notice"><b>This picture is not from the toybox.</b> The small embedded model knows only toy '
        "animals in painted places: it will try, but expect toys. For real photos, start the page with "
        "<code>python app.py --model CompVis/stable-diffusion-v1-4</code>.</p>"
    )


def mask_loaded(name: str):
    def load(session: Session, data: bytes | None):
        if data is None:
            raise EditError("No file arrived; choose a mask again.")
        getattr(session, name).load_mask(data)
        return board_of(session, name)

    return load


def placed(session: Session, event: gr.EventData) -> None:
    data = event._data if isinstance(event._data, dict) else {}
    try:
        session.placement = Placement(**{part.name: data[part.name] for part in fields(Placement)})
    except KeyError:
        warn(EditError("That was no placement; drag the subject again."))
    except EditError as error:
        warn(error)


def split(session: Session, prompt: str) -> tuple[Any, Any]:
    """The two parts of a prompt that was typed; one that was opened with a saved edit keeps the parts it had."""
    if prompt == session.prompt:
        return gr.skip(), gr.skip()
    session.prompt = prompt
    return split_prompt(prompt)


def painter(device: Device):
    def paint(session: Session, prompt: str, *dials: Any):
        from layerdiffusion.progress import Cancelled

        try:
            settings = settings_of(dials, dial_names())
            seeds = range(BACKGROUNDS)
            if session.painted and session.painted_prompt == prompt:  # more of the same
                last = session.painted[-1][0]
                seeds = range(last + 1, last + 1 + BACKGROUNDS)
            view, painted = ProgressView({"background": "run"}), None
            yield gr.skip(), gr.skip(), gr.skip(), waiting_html("Painting backgrounds …")
            for kind, value in followed(session, lambda stop: device.paint(prompt, tuple(seeds), settings, stop)):
                if kind == "done":
                    painted = value
                else:
                    view.take(value)
                    yield gr.skip(), gr.skip(), gr.skip(), view.html()
            session.painted, session.painted_prompt = list(zip(seeds, painted, strict=True)), prompt
            session.background_seed = session.painted[0][0]
            yield *idle(), gallery_of(session), _picked(session)
        except Cancelled:
            yield *idle(), gr.skip(), PAINT_CANCELLED + _picked(session)
        except Exception:
            yield *idle(), gr.skip(), ""  # an error's own outputs are lost, and the button with them
            raise
        finally:
            session.running = False

    return paint


def gallery_of(session: Session) -> dict[str, Any]:
    chosen = [seed for seed, _ in session.painted]
    index = chosen.index(session.background_seed) if session.background_seed in chosen else None
    return gr.update(value=[(image, f"background {seed}") for seed, image in session.painted], selected_index=index)


def _picked(session: Session) -> str:
    if session.background_seed is None:
        return ""
    return f'<p class="ld-hint">Background {session.background_seed} is used. Click on another to change it.</p>'


def background_picked(session: Session, event: gr.SelectData) -> str:
    if not isinstance(event.index, int) or event.index not in range(len(session.painted)):
        raise EditError("There is no such background; pick one of those shown.")
    session.background_seed = session.painted[event.index][0]
    return _picked(session)


def refresher(device: Device):
    def refresh(session: Session, *values: Any) -> tuple[Any, Any, str]:
        """Both layers together, the photo's own scene, and what Run would do."""
        words, background, swap, dials = values[:3], values[3], values[4], values[5:]
        board, scene = together(session, words, background, swap, device)
        return board, scene, plan(session, words, background, swap, dials, device)

    return refresh


def together(session: Session, words: Any, background: str, swap: bool, device: Device) -> tuple[Any, Any]:
    """What the boards of both layers show; the words don't matter to them."""
    if not device.ready:
        note = "Both layers appear here as soon as the model is loaded." if device.loading else "There is no model."
        return board_update(json.dumps({"empty": note})), gr.skip()
    spoken = words if words[0].strip() and words[1].strip() else ("a subject in a place", "a subject", "in a place")
    if background == "generate" and not spoken[2].strip():
        spoken = (spoken[0], spoken[1], "in a place")
    try:
        edit = session.edit(spoken, background, swap)
        generated = None
        if edit.background == "generate":
            generated = dict(session.painted).get(session.background_seed)
            if generated is None or generated.width != device.size:  # none yet, or one of another model's
                return board_update(UNPAINTED), EMPTY_KEEP
        layers = lay_out(edit, device.size, generated)
        still = layers if edit.placement.is_identity else lay_out(_unplaced(edit), device.size, generated)
        board = session.together(layers, still)
    except EditError as error:
        placing = "placed outside" in str(error)
        if placing:
            warn(error)
        return board_update(EMPTY_PLACE), EMPTY_KEEP
    scene = EMPTY_KEEP
    if background == "keep":
        url = picture_url(layers.inpainted_background)
        scene = f'<div class="ld-view"><img src="{url}" alt="The photo without its subject"></div>'
    return board_update(board), scene


def _unplaced(edit: Edit) -> Edit:
    return replace(edit, placement=Placement())


def plan(session: Session, words: Any, background: str, swap: bool, dials: Any, device: Device) -> str:
    """The line above Run: what is missing, or which stages run and how long they take."""
    if session.running:
        return gr.skip()
    silent = not any(word.strip() for word in words)
    try:
        edit = session.edit(("a subject in a place", "a subject", "in a place") if silent else words, background, swap)
        settings = settings_of(dials, dial_names())
        if silent:
            return _next("Say what the picture should show.")
        if device.loading:
            return _next("The model is still loading; Run waits for it.")
        fates = device.editor.plan(edit, settings)
        seconds = device.editor.estimate(edit, settings)
    except EditError as error:
        return _next(str(error))
    reused = [STAGE_WORDS[stage] for stage, fate in fates.items() if fate == "reuse"]
    ran = [stage for stage, fate in fates.items() if fate == "run"]
    if not ran:
        return '<p class="ld-plan ld-ready"><b>Nothing to compute:</b> every stage is kept from before.</p>'
    time = "" if seconds is None else f"about {duration(max(1, seconds))}"
    kept = f" · reuses {' and '.join(reused)}" if reused else ""
    count = len(settings.seeds)
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    return f'<p class="ld-plan ld-ready"><b>Ready.</b> {pictures}, {time}{kept}.</p>'.replace(", .", ".")


def _next(sentence: str) -> str:
    return f'<p class="ld-plan"><b>Next:</b> {escape(sentence)}</p>'
