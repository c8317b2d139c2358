"""`python -m layerdiffusion evaluate toybench`: a smoke of the whole of it, and what it refuses."""

import json
import math
import shlex
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from layerdiffusion.__main__ import main
from layerdiffusion.commands.evaluate.bench import check, names
from layerdiffusion.commands.terminal import Parser
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.worker import Worker
from layerdiffusion.images.layers import lay_out
from layerdiffusion.models.memory import fitting_preset
from layerdiffusion.settings import Settings

# Every stage of every method, none of them for long.
SHORT = ["embedding_steps=2", "finetune_steps=2", "sampling_steps=4", "imagic.embedding_steps=2",
         "imagic.finetune_steps=2", "pnp.inversion_steps=4"]  # fmt: skip
QUICK = [word for text in SHORT for word in ("--set", text)]


@pytest.fixture
def cli(capfd):
    """Run `evaluate`; (status, stdout, stderr)."""

    def run(*flags: object) -> tuple[int, str, str]:
        status = main(["evaluate", *map(str, flags)])
        return (status, *capfd.readouterr())

    return run


@pytest.mark.slow
def test_edits_of_every_kind_by_four_methods_come_to_a_table_and_a_report(cli, tmp_path, measured_folder):
    out = tmp_path / "bench"
    flags = ["toybench", "--edits", 6, "--seeds", 0, "--model", measured_folder, "--out", out, "--device", "cpu"]
    flags += ["--no-shape", *QUICK]
    status, printed, told = cli(*flags)
    assert status == 0 and "Loading" not in told, "one bar, and no library's"
    assert (
        "all edits, 6" in printed
        and "pose and background changed, 1" in printed
        and str(out / "report.html") in printed
    )
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "SDEdit" in page and "Plug-and-Play" in page and (out / "measures.csv").exists()

    records = Records(out).read()
    assert len(records) == 24 and {one["variant"] for one in records} == {"ours", "sdedit", "imagic", "pnp"}
    assert len({one["kind"] for one in records}) == 6
    for one in records:
        (measures,) = one["measures"]
        assert -1 <= measures["clip_score"] <= 1 and isinstance(measures["satisfied"], bool)
        with Image.open(out / one["pictures"][0]) as picture:
            assert picture.size == (64, 64)
    manifest = Records(out).manifest()
    command = [str(one) for one in ("evaluate", *flags)]
    assert manifest["command"] == shlex.join(["python", "-m", "layerdiffusion", *command])
    assert manifest["seeds"] == [0] and manifest["model"]["digest"] and manifest["versions"]["torch"]
    assert manifest["variants"]["imagic"]["options"] == {"embedding_steps": 2, "finetune_steps": 2}

    before = {path: path.stat().st_mtime_ns for path in (out / "records").rglob("*.json")}
    status, printed, told = cli(*flags, "--json")
    answer = json.loads(printed)
    assert (status, answer["found"], answer["written"], answer["failed"]) == (0, 24, 0, [])
    assert {path: path.stat().st_mtime_ns for path in (out / "records").rglob("*.json")} == before
    mean, low, high = answer["table"]["all"]["sdedit"]["clip_score"]
    scores = [one["measures"][0]["clip_score"] for one in records if one["variant"] == "sdedit"]
    assert math.isclose(mean, sum(scores) / 6, abs_tol=1e-9) and low <= mean <= high

    status, _, told = cli(*flags[:4], "0-1", *flags[5:])
    assert status == 2 and "was started with another settings's seeds ([0], now [0, 1])" in told


def test_a_failed_edit_is_told_and_done_by_the_same_command_later(cli, tmp_path, measured_folder, monkeypatch):
    flags = ["toybench", "--edits", 2, "--seeds", 0, "--methods", "sdedit", "--model", measured_folder,
             "--device", "cpu", "--out", tmp_path, "--set", "sampling_steps=2"]  # fmt: skip

    def run(self, edit, variant, settings, really=Worker.run):
        if edit.id == "pose-00":
            raise EditError("The sampling stage diverged.")
        return really(self, edit, variant, settings)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "run", run)
        status, printed, told = cli(*flags)
    assert status == 1 and "pose-00, sdedit: The sampling stage diverged." in told
    assert "1 failed, and are tried again by the same command" in printed
    assert "all edits, 1" in printed and (tmp_path / "report.html").exists()

    status, printed, told = cli(*flags)
    assert status == 0 and f"1 of 2 records found in {tmp_path}." in told and "all edits, 2" in printed


def test_ctrl_c_says_how_to_go_on(cli, tmp_path, measured_folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "run", interrupted)
    status, _, told = cli("toybench", "--edits", 1, "--model", measured_folder, "--device", "cpu", "--out", tmp_path)
    assert status == 130
    assert f"What is finished is in {tmp_path}; the same command goes on from there." in told


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--methods", "dreambooth"], "no method 'dreambooth'"),
        (["--rows", "a-m"], "no row 'l'"),
        (["--methods", ""], "nothing to compare"),
        (["--seeds", "0-16"], "must have 1 to 16"),
        (["--seeds", "few"], "no seed"),
        (["--edits", "0"], "can't have 0 edits"),
        (["--set", "sharpness=1"], "no setting 'sharpness'"),
        (["--methods", "ours", "--set", "pnp.feature_share=1"], "isn't compared"),
        (["--methods", "sdedit", "--set", "sdedit.strenght=0.5"], "no option strenght"),
        (["--workers", "2"], "--workers needs --ray"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
        (["--model", "/nowhere"], "no model folder"),
    ],
)
def test_bad_flags_are_told_in_one_sentence(cli, tmp_path, measured_folder, flags, says):
    model = [] if "--model" in flags else ["--model", measured_folder]
    status, printed, told = cli("toybench", "--edits", 1, *flags, *model, "--device", "cpu", "--out", tmp_path / "new")
    assert status == 2 and not printed
    sentences = [line for line in told.splitlines() if line.startswith("layerdiffusion: ")]
    assert len(sentences) == 1 and says in sentences[0]
    assert not (tmp_path / "new" / "records").exists()


def test_rows_and_options_are_read_as_people_write_them():
    assert names("a-c, layers-separate,f") == ["a", "b", "c", "layers-separate", "f"]
    flags = ["toybench", "--out", "here", "--set", "alpha=0.5", "--set", "pnp.feature_share=0.8"]
    args = parsed(*flags, "--set", "pnp.source=photo", "--seeds", "0-2", "7")
    chosen, settings = check(args)
    assert settings == Settings(alpha=0.5, seeds=(0, 1, 2, 7))
    options = {variant.name: variant.options for variant in chosen}
    assert options == {"ours": {}, "sdedit": {}, "imagic": {}, "pnp": {"feature_share": 0.8, "source": "photo"}}


def parsed(*flags: str):
    parser = Parser(prog="evaluate", module="layerdiffusion.commands.evaluate")
    return parser.parse_args(flags)


@pytest.mark.parametrize("elsewhere", [["pytest"], ["a-notebook", "edit", "--json"], ["x", "evaluate", "edits"]])
def test_the_arguments_given_decide_and_not_those_of_the_process(cli, tmp_path, monkeypatch, elsewhere):
    """As from another program, whose own command line is none of ours."""
    monkeypatch.setattr("sys.argv", elsewhere)
    for measure, flag in (("toybench", "--tuning"), ("search", "--edits=1"), ("edits", "--tuning")):
        status, _, words = cli(
            measure, flag, "--set", "sharpness=1", *(["--out", tmp_path] if measure != "edits" else [])
        )
        assert status == 2 and "no setting 'sharpness'" in words


def test_a_preset_is_measured_and_what_is_set_beside_it_goes_first(cli, monkeypatch):
    used = []

    def generate(editor, edit, settings):
        used.append((editor.models, settings))
        return SimpleNamespace(images=[edit.object_image], seeds=settings.seeds, layers=lay_out(edit, (128, 128)))

    monkeypatch.setattr("layerdiffusion.editor.Editor.run", generate)
    flags = ("--edits", 1, "--seeds", 3, "--preset", "quick", "--set", "sampling_steps=7", "--json")
    assert cli("edits", *flags)[0] == 1, "the photo is not the edit"
    ((models, settings),) = used
    quick = fitting_preset(models, "quick")
    assert settings == replace(quick, seeds=(3,), sampling_steps=7) != quick


def test_only_the_measure_that_is_asked_for_is_imported():
    code = "import sys; from layerdiffusion.__main__ import main; main(%r); print([m for m in %r if m in sys.modules])"
    heavy = ("torch", "matplotlib", "scipy", "ray", "gradio")
    for flags in (["evaluate", "toybench", "--out", "x", "--rows", "z"], ["evaluate", "edits", "--set", "x=1"]):
        done = subprocess.run([sys.executable, "-c", code % (flags, heavy)], capture_output=True, text=True)
        assert done.stdout == "[]\n", done.stderr


def test_ray_that_is_not_installed_is_told_with_how_to_install_it(cli, tmp_path, measured_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, words = cli("toybench", "--edits", 1, "--model", measured_folder, "--out", tmp_path, "--ray", "local")
    assert status == 2 and words.strip().endswith('which is not installed; run pip install "ray>=2.40".')
