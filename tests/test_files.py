"""What the program writes: whole or not at all, with the user's umask, and never over somebody else's files."""

import dataclasses
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError
from tiny import QUICK, noise_picture

from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError, SavedElsewhere
from layerdiffusion.files import check_writable, write_files
from layerdiffusion.images.io import png_bytes
from layerdiffusion.recipe import load_recipe, save_recipe
from layerdiffusion.subject import Subject, load_subject

KILLED = """
import os, signal, sys
from pathlib import Path
from layerdiffusion.files import write_files
folder, calls, name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
really = getattr(os, name)
def counted(*args):
    global calls
    calls -= 1
    if calls < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return really(*args)
setattr(os, name, counted)
write_files({folder / str(n): b"new" * 10_000 for n in range(3)})
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def result(tiny_models, edit):
    return Editor(tiny_models).run(edit, QUICK)


@pytest.fixture
def editor(tiny_models) -> Editor:
    return Editor(tiny_models)


def subject(editor: Editor, edit, tune: str) -> Subject:
    return editor.subject(edit, dataclasses.replace(QUICK, tune=tune))


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o007])
def test_every_file_has_the_mode_that_the_users_umask_says(result, editor, edit, tmp_path, mask):
    before = os.umask(mask)
    try:
        result.save(tmp_path / "out")
        result.save_layers(tmp_path / "out", [image.convert("RGBA") for image in result.images])
        for tune in ("lora", "full"):
            subject(editor, edit, tune).save(tmp_path / tune, editor.models)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 15
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}


@pytest.mark.parametrize("at", range(3))
def test_a_disk_that_fills_up_at_any_file_leaves_the_old_ones(tmp_path, monkeypatch, at):
    old = {tmp_path / str(number): b"old" for number in range(3)}
    write_files(old)
    left, really_sync = [at], os.fsync

    def fsync(file):
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        really_sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        write_files({path: b"new" for path in old})
    assert contents(tmp_path) == {path.name: content for path, content in old.items()}


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("calls", range(3))
def test_a_process_that_is_killed_leaves_old_files_or_whole_new_ones(tmp_path, call, calls):
    write_files({tmp_path / str(number): b"old" for number in range(3)})
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(calls), call], check=False)
    assert killed.returncode == -signal.SIGKILL
    found = [(tmp_path / str(number)).read_bytes() for number in range(3)]
    new = calls if call == "replace" else 0
    assert found == [b"new" * 10_000] * new + [b"old"] * (3 - new)


def test_a_folder_that_was_removed_is_made_again(tmp_path):
    write_files({tmp_path / "a" / "b" / "file": b"1"})
    shutil.rmtree(tmp_path / "a")
    write_files({tmp_path / "a" / "b" / "file": b"2"})
    assert contents(tmp_path) == {"a/b/file": b"2"}


def test_a_place_that_cannot_be_written_is_found_before(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="exists|directory"):
            check_writable(folder)


# Somebody else's files


def test_a_file_that_no_earlier_edit_wrote_stays_and_the_pictures_go_elsewhere(result, tmp_path, monkeypatch):
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    for name in ("contact.png", "edit.json", "seed-0.png", "object.png"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(b"{}")
        with pytest.raises(SavedElsewhere, match=f"{name} is there already, and no earlier edit wrote it") as error:
            result.save(folder)
        assert contents(folder) == {name: b"{}"}
        assert load_recipe(error.value.folder).edit == result.edit
        result.save(folder, overwrite=True)
        assert load_recipe(folder).edit == result.edit


def test_a_recipe_is_not_saved_over_somebody_elses_files_either(edit, tmp_path):
    noise_picture(1).save(tmp_path / "object.png")
    before = contents(tmp_path)
    with pytest.raises(EditError, match="object.png is there already"):
        save_recipe(edit, QUICK, tmp_path)
    assert contents(tmp_path) == before


def test_a_picture_that_is_there_in_another_form_is_left_as_it_is(result, tmp_path):
    """An original of more than RGB at 72 dpi, from which the edit was made."""
    result.edit.object_image.convert("RGBA").save(tmp_path / "object.png", dpi=(300, 300))
    before = (tmp_path / "object.png").read_bytes()
    result.save(tmp_path)
    assert (tmp_path / "object.png").read_bytes() == before
    assert load_recipe(tmp_path).edit == result.edit


def test_an_earlier_edits_folder_is_used_again(result, editor, tmp_path):
    result.save(tmp_path)
    editor.run(result.edit, dataclasses.replace(QUICK, seeds=(7,))).save(tmp_path)
    assert load_recipe(tmp_path).settings.seeds == (7,)


# Kept subjects


@pytest.mark.parametrize("name", ["rex-v1.5", "rex.v2", "rex", "rex.safetensors", ".rex"])
def test_a_lora_subject_has_the_name_as_given(editor, edit, tmp_path, name):
    kept = subject(editor, edit, "lora")
    path = kept.save(tmp_path / name, editor.models)
    assert path.name == name.removesuffix(".safetensors") + ".safetensors"
    assert load_subject(tmp_path / name).key == kept.key
    assert len(contents(tmp_path)) == 2


def test_full_subjects_have_folders_of_their_own_names(editor, edit, tmp_path):
    kept = subject(editor, edit, "full")
    for name in ("dog.v1", "dog.v2", "dog.safetensors"):
        assert kept.save(tmp_path / name, editor.models) == tmp_path / name
        assert load_subject(tmp_path / name).key == kept.key
    kept.save(tmp_path / "dog.v1", editor.models)  # over an earlier one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dog.safetensors", "dog.v1", "dog.v2"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_subject_is_not_put_into_a_folder_of_other_things(editor, edit, tmp_path, overwrite):
    (tmp_path / "dog" / "unet").mkdir(parents=True)
    (tmp_path / "dog" / "unet" / "notes.txt").write_text("mine")
    with pytest.raises(EditError, match="dog is there already, and is no subject"):
        subject(editor, edit, "full").save(tmp_path / "dog", editor.models, overwrite)
    assert contents(tmp_path) == {"dog/unet/notes.txt": b"mine"}


def test_a_file_that_is_no_subject_stays(editor, edit, tmp_path):
    kept = subject(editor, edit, "lora")
    for name in ("rex.safetensors", "rex.embeddings.safetensors"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(EditError, match="rex.safetensors is there already"):
            kept.save(tmp_path / "rex", editor.models)
        assert contents(tmp_path) == {name: b"mine"}
        (tmp_path / name).unlink()


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_subject_that_does_not_fit_is_saved_elsewhere(editor, edit, tmp_path, monkeypatch, full_disk, tune):
    kept, spare = subject(editor, edit, tune), tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    full_disk(tmp_path / "full")
    with pytest.raises(SavedElsewhere, match=r"No space left on device\), so everything is in") as error:
        kept.save(tmp_path / "full" / "rex", editor.models)
    assert load_subject(error.value.folder).key == kept.key
    assert contents(tmp_path / "full") == {}


def test_a_subject_without_any_place_is_refused_in_a_sentence(editor, edit, tmp_path, monkeypatch, full_disk):
    kept = subject(editor, edit, "lora")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    full_disk(tmp_path)
    with pytest.raises(EditError, match="free some space") as error:
        kept.save(tmp_path / "rex", editor.models)
    assert not isinstance(error.value, SavedElsewhere) and contents(tmp_path) == {}


def test_what_safetensors_itself_raises_is_a_full_disk_too(editor, edit, tmp_path, monkeypatch):
    kept = subject(editor, edit, "full")
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    really = type(editor.models.master).save_pretrained

    def save_pretrained(self, folder, *args, **options):
        if spare not in Path(folder).parents:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        return really(self, folder, *args, **options)

    monkeypatch.setattr(type(editor.models.master), "save_pretrained", save_pretrained)
    with pytest.raises(SavedElsewhere, match="No space left"):
        kept.save(tmp_path / "rex", editor.models)


# The command line


@pytest.fixture
def command(tmp_path, monkeypatch, tiny_folder, capfd):
    from layerdiffusion.__main__ import main

    monkeypatch.chdir(tmp_path)
    Path("proj").mkdir()
    noise_picture(3).convert("RGBA").save("proj/object.png", dpi=(300, 300))
    Image.fromarray(np.pad(np.ones((32, 48), bool), 16)).save("mask.png")
    words = ["--prompt", "a dog jumps on ice", "--embedding-steps", "2", "--finetune-steps", "2"]
    words += ["--sampling-steps", "2", "--seeds", "0", "--model", str(tiny_folder), "--device", "cpu"]

    def run(*flags: str, photo: bool = True) -> tuple[int, str, str]:
        given = ["--image", "proj/object.png", "--mask", "mask.png"] if photo else []
        status = main(["edit", *given, *words, *flags])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def untrained(monkeypatch):
    """Training is a failure of the test."""
    monkeypatch.setattr(Editor, "run", lambda *_, **__: pytest.fail("it trained"))


def test_an_edit_into_its_photos_own_folder_leaves_the_photo(command):
    before = Path("proj/object.png").read_bytes()
    assert command("--out", "proj")[0] == 0
    assert Path("proj/object.png").read_bytes() == before and Path("proj/seed-0.png").is_file()


def test_somebody_elses_file_is_refused_before_anything_is_trained(command, untrained):
    Path("proj/contact.png").write_bytes(b"mine")
    status, out, err = command("--out", "proj")
    assert (status, out) == (2, "") and "contact.png is there already" in err and "--overwrite" in err
    assert Path("proj/contact.png").read_bytes() == b"mine"


def test_an_input_is_not_written_over_even_if_asked(command, untrained):
    Path("proj/object.png").rename("proj/seed-0.png")
    Path("proj/object.png").symlink_to("seed-0.png")
    status, _, err = command("--out", "proj", "--overwrite")
    assert status == 2 and "seed-0.png is what this edit is made of" in err


def test_overwrite_replaces_somebody_elses_file(command):
    Path("proj/contact.png").write_bytes(b"mine")
    assert command("--out", "proj", "--overwrite")[0] == 0
    assert Image.open("proj/contact.png").width > 100


@pytest.mark.parametrize("flags", [("--keep", "mask.png/rex"), ("--out", "mask.png"), ("--keep", "proj")])
def test_a_place_that_is_none_is_refused_before_anything_is_trained(command, untrained, flags):
    status, out, err = command(*flags, "--tune", "full")
    assert (status, out) == (2, "") and "Traceback" not in err


def test_a_subject_that_cannot_be_kept_costs_neither_the_pictures_nor_the_report(command, monkeypatch, full_disk):
    Path("spare").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(Path("spare").resolve()))
    full_disk(Path("full").resolve())
    status, out, _ = command("--out", "result", "--keep", "full/rex", "--tune", "lora", "--json")
    report = json.loads(out)
    assert status == 2 and "so everything is in" in report["error"]
    assert all(Path(name).is_file() for name in report["images"])
    assert load_subject(report["subject"]).recipe.edit.prompt == "a dog jumps on ice"
    status, out, err = command("--out", "result", "--keep", "full/rex", "--tune", "lora")
    assert status == 2 and "result/seed-0.png" in out and "so everything is in" in err


def test_a_subject_is_not_kept_over_itself(command):
    assert command("--tune", "lora", "--keep", "rex", "--out", "first")[0] == 0
    before = Path("rex.safetensors").read_bytes()
    status, _, err = command("--subject", "rex", "--train-on", "1", "--keep", "rex", photo=False)
    assert status == 2 and "keep the new one by another name" in err
    assert Path("rex.safetensors").read_bytes() == before


def test_a_result_picture_is_whole_to_a_reader_at_any_time(result, tmp_path):
    """It never stands there half: it comes by a rename."""
    write_files({tmp_path / "seed-0.png": png_bytes(result.images[0])})
    with (tmp_path / "seed-0.png").open("rb") as reader:
        write_files({tmp_path / "seed-0.png": b"other"})
        assert reader.read() == png_bytes(result.images[0])
