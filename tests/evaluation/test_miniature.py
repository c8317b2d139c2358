"""`evaluate miniature`: figures beside their bars, and points of the training's curve."""

from layerdiffusion.__main__ import main
from layerdiffusion.evaluation import miniature
from layerdiffusion.miniature import measures


def test_a_missing_part_misses_its_bars_and_the_exit_status_says_so(tmp_path, capsys):
    assert main(["evaluate", "miniature", "--model", str(tmp_path), "--part", "judge"]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert sum(row.startswith("judge") and "–" in row and row.endswith("MISSED") for row in rows) == 8
    assert main(["evaluate", "miniature", "--model", str(tmp_path), "--part", "size", "--record"]) == 0
    assert [figure.name for figure in measures.recorded(tmp_path)] == ["all files", "the largest file"]
    assert main(["evaluate", "miniature", "--model", str(tmp_path / "nowhere")]) == 2


def test_every_part_that_is_measured_has_its_figures():
    assert list(miniature.FIGURES) == list(miniature.MEASURES)
    for part, figures in miniature.FIGURES.items():
        assert figures and all(figure.part == part and figure.value is None for figure in figures)


def test_rough_figures_are_not_recorded(tmp_path):
    command = ["evaluate", "miniature", "--model", str(tmp_path), "--part", "size"]
    assert main([*command, "--quick", "--record"]) == 2
    assert main([*command, "--quick"]) == 0
    assert measures.recorded(tmp_path) == []


def test_a_checkpoint_adds_a_point_to_the_curve(tmp_path, monkeypatch, capsys):
    command = ["evaluate", "miniature", "--model", str(tmp_path), "--curve", str(tmp_path / "diffusion.pt")]
    assert main(command) == 2  # there is no checkpoint, nor what it is measured with
    for name in ("diffusion.pt", "vae/config.json", "judge/config.json", "sam/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(measures, "load_checkpoint", lambda folder, checkpoint: (checkpoint.name, 300_000))
    monkeypatch.setattr(miniature.ShapeMeasure, "load", lambda folder: "measure")
    shares = {("diffusion.pt", "measure"): 0.75}
    monkeypatch.setattr(measures, "whole_share", lambda pipeline, measure, guidance: shares[pipeline, measure])
    assert main(command) == 0
    assert measures.curve(tmp_path) == [(300_000, 0.75)]
    assert "After 300,000 pictures 75.0 %" in capsys.readouterr().out
