"""A bench in this process: every record once, whatever interrupts it, with the numbers of an uninterrupted run."""

import io
import json
import shutil
from dataclasses import replace

import pytest
from bench_folder import numbers
from PIL import Image

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.toybench import toybench
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.runner import in_order, run_bench
from layerdiffusion.evaluation.variants import Variant, variants
from layerdiffusion.evaluation.worker import Failed, model_digest

EDITS = toybench(3)
VARIANTS = variants(["ours", "sdedit"], ["i"])
ABOUT = {"bench": "toybench", "command": "python -m layerdiffusion evaluate toybench"}


class Counting:
    """A worker that remembers what it ran."""

    def __init__(self, worker):
        self.worker, self.ran = worker, []
        self.ready = worker.ready

    def run(self, edit, variant, settings):
        self.ran.append((edit.id, variant.name))
        return self.worker.run(edit, variant, settings)


@pytest.fixture
def counting(worker):
    return Counting(worker)


@pytest.fixture(scope="module")
def plain(worker, quick, tmp_path_factory):
    """An uninterrupted run, and its progress."""
    records, seen = Records(tmp_path_factory.mktemp("plain")), []
    worker.editor.clear_cache()
    run_bench(EDITS, VARIANTS, quick, records, lambda: worker, on_progress=seen.append, about=ABOUT)
    return records, seen


def test_every_edit_has_a_record_as_every_variant(plain):
    records, seen = plain
    found = records.read()
    assert [(one["variant"], one["edit"]) for one in found] == [(v.name, e.id) for v in VARIANTS for e in EDITS]
    assert [(one.done, one.found, one.total) for one in seen] == [(done, 0, 9) for done in range(10)]
    one = found[0]
    assert one["kind"] == EDITS[0].kind and one["wanted"] == EDITS[0].wanted
    assert one["prompt"] == EDITS[0].edit.prompt and one["method"] == "ours"
    assert one["seeds"] == [0, 1] == [picture["seed"] for picture in one["measures"]]
    assert {"clip_score", "subject_likeness", "satisfied", "background_psnr"} <= one["measures"][0].keys()
    assert one["settings"]["sampling_steps"] == 6 and one["settings"]["alpha"] == 0.7
    assert found[-1]["settings"]["schedule"] == "edit", "a row's own settings"
    assert found[3]["options"]["strength"] == 0.8
    assert one["timings"]["total"] > 0 and one["versions"]["torch"]


def test_pictures_are_the_results_and_what_they_were_made_of(plain, worker, quick):
    records, _ = plain
    expected = worker.editor.run(EDITS[0].edit, quick)
    folder = records.folder / "pictures" / EDITS[0].id
    for seed, image in zip(expected.seeds, expected.images, strict=True):
        assert Image.open(folder / f"ours-{seed}.png").tobytes() == image.tobytes()
    assert Image.open(folder / "layers.png").tobytes() == expected.layers.composite.tobytes()
    assert Image.open(folder / "reference.png").tobytes() == expected.layers.background_image.tobytes()
    assert Image.open(folder / "photo.png").size == expected.images[0].size


def test_rows_that_share_their_training_take_it_from_the_cache(plain):
    records, _ = plain
    for one in records.read():
        if one["variant"] == "i":
            assert one["stages"]["embeddings"] == one["stages"]["finetune"] == "reuse"
            assert one["stages"]["sampling"] == "run"


def test_variants_of_one_training_stand_together():
    order = [c.name for c in in_order(variants(["ours", "sdedit"], ["a", "i", "schedule-object", "b"]))]
    assert order == ["ours", "schedule-object", "sdedit", "a", "i", "b"]
    trained = variants([], ["schedule-edit", "a", "schedule-object"])
    assert [c.name for c in in_order(trained)] == ["schedule-edit", "schedule-object", "a"]


def test_an_interrupted_run_goes_on_and_comes_to_the_same(tmp_path, quick, counting, plain):
    records = Records(tmp_path)

    def interrupt(progress):
        if progress.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bench(EDITS, VARIANTS, quick, records, lambda: counting, on_progress=interrupt, about=ABOUT)
    assert len(records.read()) == len(counting.ran) == 4
    (tmp_path / "records" / EDITS[0].id / "sdedit.json").write_text('{"edit": "cut o')
    before = list(counting.ran)
    counting.ran.clear()
    outcome = run_bench(EDITS, VARIANTS, quick, records, lambda: counting, about=ABOUT)
    assert (outcome.found, outcome.written, outcome.failed) == (3, 6, ())
    assert set(before) & set(counting.ran) == {(EDITS[0].id, "sdedit")}, "only the damaged one is done again"
    assert len(counting.ran) == len(set(counting.ran)) == 6
    assert numbers(records) == numbers(plain[0])

    counting.ran.clear()
    outcome = run_bench(EDITS, VARIANTS, quick, records, lambda: counting, about=ABOUT)
    assert (outcome.found, outcome.written, counting.ran) == (9, 0, [])


def test_a_run_may_grow_and_its_records_stay(tmp_path, quick, counting):
    records = Records(tmp_path)
    run_bench(EDITS[:1], VARIANTS[:1], quick, records, lambda: counting, about=ABOUT)
    run_bench(EDITS[:2], VARIANTS[1:2], quick, records, lambda: counting, about=ABOUT)
    assert counting.ran == [(EDITS[0].id, "ours"), (EDITS[0].id, "sdedit"), (EDITS[1].id, "sdedit")]
    assert list(records.manifest()["variants"]) == ["ours", "sdedit"]


def test_a_folder_of_other_settings_or_another_model_is_refused_before_anything_is_generated(
    plain, worker, quick, measured_folder, tmp_path
):
    records, before = plain[0], numbers(plain[0])
    counting = Counting(worker)
    more = [*EDITS, *toybench(4)[3:]]
    for settings in (replace(quick, seeds=(0, 1, 2)), replace(quick, sampling_steps=7)):
        with pytest.raises(EditError, match="was started with another settings's"):
            run_bench(more, VARIANTS, settings, records, lambda: counting, about=ABOUT)
    other = {**worker.ready([]), "digest": "0" * 16}
    counting.ready = lambda variants: other
    with pytest.raises(EditError, match="another model's digest"):
        run_bench(more, VARIANTS, quick, records, lambda: counting, about=ABOUT)
    counting = Counting(worker)
    other_settings = [replace(VARIANTS[1], settings={"guidance_scale": 3.0})]
    for ray in (None, "local"):  # also where nothing is left to do
        with pytest.raises(EditError, match=f"another variant “{VARIANTS[1].name}”'s settings"):
            run_bench(EDITS, other_settings, quick, records, lambda: counting, ray=ray, about=ABOUT)
    assert counting.ran == [] and numbers(records) == before


def test_an_edit_that_fails_is_told_and_stops_no_other(tmp_path, quick, counting):
    records, seen = Records(tmp_path), []
    broken = Variant("broken", "ours", {"alpha": 7})
    for found in (0, 2):
        outcome = run_bench(
            EDITS[:2], [broken, VARIANTS[1]], quick, records, lambda: counting, on_progress=seen.append, about=ABOUT
        )
        assert outcome.found == found and outcome.written == 2 - found
        assert [(one.edit, one.variant) for one in outcome.failed] == [(edit.id, "broken") for edit in EDITS[:2]]
        assert "alpha must be a number from 0 to 1" in outcome.failed[0].reason
    assert isinstance(seen[1].last, Failed) and seen[1].done == 0
    assert {one["variant"] for one in records.read()} == {"sdedit"}


def test_an_option_there_is_not_is_refused_before_anything_is_generated(tmp_path, quick, counting):
    wrong = Variant("sdedit", "sdedit", {}, {"strenght": 0.5})
    with pytest.raises(EditError, match="no option strenght"):
        run_bench(EDITS[:1], [wrong], quick, Records(tmp_path), lambda: counting)
    assert counting.ran == [] and not (tmp_path / "bench.json").exists()


def test_names_that_are_there_twice_are_refused(tmp_path, quick, counting):
    with pytest.raises(EditError, match="variant “ours” is there twice"):
        run_bench(EDITS, [VARIANTS[0], VARIANTS[0]], quick, Records(tmp_path), lambda: counting)
    with pytest.raises(EditError, match="is there twice"):
        run_bench([EDITS[0], EDITS[0]], VARIANTS, quick, Records(tmp_path), lambda: counting)


def test_the_digest_is_of_what_the_pictures_depend_on(measured_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(measured_folder, folder)
    before = model_digest(folder)
    assert before == model_digest(measured_folder)
    (folder / "README.md").write_text("words")
    (folder / "unet" / "training.json").write_text("{}")
    (folder / "settings.json").write_text('{"quick": {"finetune_steps": 9}}')  # a manifest has what its run takes of it
    assert model_digest(folder) == before
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert model_digest(folder) != before


def test_pictures_of_a_record_travel_as_png(worker, quick):
    finished = worker.run(EDITS[0], VARIANTS[1], quick)
    assert sorted(finished.pictures) == [0, 1] and set(finished.sources) == {"photo", "reference", "layers"}
    assert Image.open(io.BytesIO(finished.pictures[0])).format == "PNG"
    json.dumps(finished.record, allow_nan=False)
