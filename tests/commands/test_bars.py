"""Progress where stderr is no terminal: few plain lines. (On one, tqdm draws its bar.)"""

import pytest

from layerdiffusion.commands import bars
from layerdiffusion.commands.bars import Bars, PlainLines, progress_bar
from layerdiffusion.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """The time that bars see; `clock[0]` is seconds."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_ten_seconds_at_most_and_one_at_a_stages_end(clock, capfd):
    with Bars(quiet=False) as show:
        for stage in ("embeddings", "sampling"):
            for step in range(1, 101):
                clock[0] += 0.25
                show(Progress(stage, step, 100, loss=0.5 if stage == "embeddings" else None))
    err = capfd.readouterr().err
    assert "\r" not in err and "\x1b" not in err
    lines = err.splitlines()
    counts = [next(part for part in line.split() if part.endswith("/100")) for line in lines]
    assert counts == ["41/100", "81/100", "100/100"] * 2  # a bar begins with its first step
    assert lines[2].startswith("Embeddings") and "loss=0.5" in lines[2] and lines[5].startswith("Sampling")


def test_a_stage_that_ends_at_once_has_its_one_line(clock, capfd):
    with Bars(quiet=False) as show:
        show(Progress("sampling", 1, 1, reused=True))
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_other_lines_go_between_those_of_a_bar(clock, capfd):
    bar = progress_bar(range(3), desc="edits")
    for item in bar:
        bar.write(f"said {item}", file=bars.sys.stderr)
    begins = [line.split(":")[0] for line in capfd.readouterr().err.splitlines()]
    assert begins == [
        "said 0",
        "said 1",
        "said 2",
        "edits",
    ]


def test_a_terminal_has_a_bar_that_is_redrawn(monkeypatch, capfd):
    monkeypatch.setattr(bars.sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(total=2, mininterval=0) as bar:
        bar.update(2)
    assert not isinstance(bar, PlainLines)
    assert "\r" in capfd.readouterr().err


def test_a_quiet_command_has_neither(capfd):
    with Bars(quiet=True) as show:
        show(Progress("sampling", 1, 1))
    assert capfd.readouterr().err == ""
