"""`python -m layerdiffusion compare`: a folder a method, one sheet of all, and one sentence for bad input."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tiny import QUICK

from layerdiffusion.__main__ import main
from layerdiffusion.recipe import save_recipe


@pytest.fixture
def cli(tiny_v_folder, tmp_path, monkeypatch, capfd, edit):
    monkeypatch.chdir(tmp_path)
    save_recipe(edit, QUICK, tmp_path / "edit")

    def run(*flags):
        status = main(["compare", "edit/edit.json", *flags, "--model", str(tiny_v_folder), "--device", "cpu"])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


FEW = ["--set", "imagic.embedding_steps=2", "--set", "imagic.finetune_steps=2", "--set", "pnp.inversion_steps=6"]


def test_all_four_methods_become_folders_and_one_sheet_with_a_row_each(cli):
    status, out, err = cli("--out", "result", *FEW)
    assert status == 0
    assert out.splitlines()[0] == "result/compare.png"
    for name in ("layerdiffusion", "sdedit", "imagic", "pnp"):
        assert f"result/{name}  " in out
        for file in ("seed-0.png", "seed-1.png", "contact.png"):
            Image.open(f"result/{name}/{file}").verify()
    assert Image.open("result/compare.png").size == (3 * 68 + 4, 5 * 84 + 4)  # the edit above, and a row a method
    assert all(
        label in err for label in ("LayerDiffusion", "SDEdit", "Imagic", "Plug-and-Play", "Inversion", "Fine-tuning")
    )


def test_the_sheet_shows_each_method_in_the_order_asked_for(cli):
    status, out, _ = cli("--out", "result", "--methods", "pnp,sdedit", "--seeds", "3", "5-6", *FEW[-2:], "--json")
    assert status == 0
    report = json.loads(out)
    assert list(report["methods"]) == ["pnp", "sdedit"] and report["seeds"] == [3, 5, 6]
    assert json.loads(Path("result/compare.json").read_text(encoding="utf-8")) == report
    sheet = Image.open("result/compare.png")
    for row, name in enumerate(["pnp", "sdedit"], 1):
        for column, path in enumerate(report["methods"][name]["images"]):
            x, y = 4 + 68 * column, 4 + 84 * row + 16
            assert sheet.crop((x, y, x + 64, y + 64)).tobytes() == Image.open(path).tobytes()


def test_set_reaches_the_methods_options_and_our_settings(cli):
    flags = ["--set", "sdedit.strength=0.5", "--set", "sdedit.source=composite", "--set", "layerdiffusion.alpha=0.2"]
    status, out, err = cli("--out", "result", "--methods", "layerdiffusion,sdedit", *flags, "--json")
    assert (status, err) == (0, "")
    methods = json.loads(out)["methods"]
    assert methods["sdedit"]["options"] == {"strength": 0.5, "source": "composite"}
    assert methods["layerdiffusion"]["settings"]["alpha"] == 0.2 and methods["sdedit"]["settings"]["alpha"] == 0.7


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--methods", "layerdiffusion,p2p"],
            "--methods is 'layerdiffusion,p2p': it must be some of layerdiffusion, imagic, klein_picture, pnp, sdedit,",
        ),
        (["--set", "strength=0.5"], "--set must name one of --methods"),
        (["--set", "sdedit.strength=2"], "strength must be a number from 0 to 1, not 2."),
        (["--set", "sdedit.power=2"], "sdedit has no option power; it has source, strength."),
        (["--set", "layerdiffusion.power=2"], "There is no setting 'power'; there are alpha,"),
        (["--set", "layerdiffusion.seeds=2"], "There is no setting 'seeds';"),
        (
            ["--methods", "layerdiffusion", "--set", "pnp.feature_share=1"],
            "--set must name one of --methods layerdiffusion, as in",
        ),
    ],
)
def test_bad_flags_are_refused_in_one_sentence(cli, flags, said):
    status, out, err = cli("--out", "result", *flags)
    lines = [line for line in err.splitlines() if "shards" not in line]
    assert (status, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith("layerdiffusion: " + said)
