"""The folder of an evaluation: a record is there whole or not at all, once, and a folder belongs to one run."""

import math
import os
import subprocess
import sys

import pytest

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.records import Records

MANIFEST = {
    "bench": "toybench",
    "command": "python -m layerdiffusion evaluate toybench --out here",
    "model": {"name": "miniature", "digest": "abc"},
    "settings": {"seeds": [0, 1], "sampling_steps": 4},
    "variants": {"ours": {"method": "ours", "settings": {}}, "a": {"method": "ours", "settings": {"object_weight": 0}}},
    "edits": {"e1": {"fingerprint": "1"}, "e0": {"fingerprint": "0"}},
    "versions": {"torch": "2"},
}
PNG = {0: b"one", 1: b"two"}


def record(edit: str = "e0", variant: str = "ours", **changes):
    return {"edit": edit, "variant": variant, "measures": [{"seed": 0, "clip_score": 0.5}], **changes}


def files(records: Records) -> set[str]:
    return {str(path.relative_to(records.folder)) for path in records.folder.rglob("*") if path.is_file()}


def test_a_record_and_its_pictures_are_where_they_should_be(tmp_path):
    records = Records(tmp_path)
    assert not records.has("e0", "ours")
    records.write(record(), PNG, {"photo": b"photo"})
    assert records.has("e0", "ours")
    assert files(records) == {
        "records/e0/ours.json",
        "pictures/e0/ours-0.png",
        "pictures/e0/ours-1.png",
        "pictures/e0/photo.png",
    }
    (read,) = records.read()
    assert read["pictures"] == ["pictures/e0/ours-0.png", "pictures/e0/ours-1.png"]
    assert [(tmp_path / name).read_bytes() for name in read["pictures"]] == [b"one", b"two"]


def test_a_record_is_never_written_twice(tmp_path):
    records = Records(tmp_path)
    records.write(record(), PNG, {})
    with pytest.raises(EditError, match="never written twice"):
        records.write(record(measures=[]), {0: b"other"}, {})
    assert (tmp_path / "pictures/e0/ours-0.png").read_bytes() == b"one"


@pytest.mark.parametrize("last", range(4), ids=["first picture", "second picture", "the JSON's content", "its name"])
def test_a_run_killed_while_it_writes_leaves_no_record(tmp_path, monkeypatch, last):
    """Whichever write or rename is the last to happen, the record is done again, and then it is whole."""
    records, done = Records(tmp_path), []

    class Killed(BaseException):
        pass

    def replace(source, target, really=os.replace):
        if len(done) == min(last, 2):
            if last == 2:  # a disk that kept the rename but not the content
                really(source, target)
                target.write_bytes(target.read_bytes()[:20])
            raise Killed
        done.append(target)
        really(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        records.write(record(), PNG, {})
    monkeypatch.undo()
    assert not records.has("e0", "ours") and records.read() == []
    records.write(record(), PNG, {})
    assert records.has("e0", "ours") and len(records.read()) == 1


def test_a_record_without_one_of_its_pictures_is_done_again(tmp_path):
    records = Records(tmp_path)
    records.write(record(), PNG, {})
    (tmp_path / "pictures/e0/ours-1.png").unlink()
    assert not records.has("e0", "ours")
    records.write(record(), PNG, {})
    assert records.has("e0", "ours")


def test_numbers_that_are_none_stay_valid_json(tmp_path):
    records = Records(tmp_path)
    records.write(record(measures=[{"background_psnr": math.nan, "seed": 0}]), PNG, {})
    assert "NaN" not in (tmp_path / "records/e0/ours.json").read_text()
    assert records.read()[0]["measures"] == [{"background_psnr": None, "seed": 0}]


def test_records_come_in_the_order_of_the_manifest(tmp_path):
    records = Records(tmp_path)
    records.begin(MANIFEST)
    for edit in ("e0", "e1"):
        for variant in ("a", "ours"):
            records.write(record(edit, variant), PNG, {})
    assert [(one["variant"], one["edit"]) for one in records.read()] == [
        ("ours", "e1"),
        ("ours", "e0"),
        ("a", "e1"),
        ("a", "e0"),
    ]


@pytest.mark.parametrize("name", ["../../out", "a/b", "..", ".hidden", "λ1 = 3"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    records = Records(tmp_path / "run")
    records.write(record(name, name), PNG, {"photo": b""})
    assert records.has(name, name)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert {len(path.split("/")) for path in files(records)} == {3}


def test_a_run_goes_on_and_may_grow_by_variants_and_edits(tmp_path):
    records = Records(tmp_path)
    records.begin(MANIFEST)
    more = {
        **MANIFEST,
        "command": "another",
        "variants": {"b": {"method": "ours"}},
        "edits": {"e2": {"fingerprint": "2"}, **MANIFEST["edits"]},
    }
    records.begin(more)
    records.begin({**MANIFEST, "model": {"name": "the same by another name", "digest": "abc"}})
    found = records.manifest()
    assert list(found["variants"]) == ["ours", "a", "b"]
    assert list(found["edits"]) == ["e1", "e0", "e2"]
    assert found["commands"] == [MANIFEST["command"], "another"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bench": "tedbench"}, "another bench"),
        ({"model": {"name": "miniature", "digest": "xyz"}}, "another model's digest"),
        ({"settings": {"seeds": [0, 1, 2], "sampling_steps": 4}}, r"another settings's seeds \(\[0, 1\], now"),
        ({"settings": {"seeds": [0, 1]}}, "sampling_steps"),
        ({"variants": {"ours": {"method": "ours", "settings": {"alpha": 1}}}}, "another variant “ours”'s settings"),
        ({"edits": {"e0": {"fingerprint": "9"}}}, "another edit “e0”'s fingerprint"),
    ],
)
def test_a_folder_of_another_run_is_refused_in_one_sentence(tmp_path, change, says):
    records = Records(tmp_path)
    records.begin(MANIFEST)
    before = (tmp_path / "bench.json").read_bytes()
    with pytest.raises(EditError, match=says) as refusal:
        records.begin({**MANIFEST, **change})
    assert str(refusal.value).endswith("choose another folder.") and "\n" not in str(refusal.value)
    assert (tmp_path / "bench.json").read_bytes() == before


def test_a_damaged_or_missing_manifest_is_refused(tmp_path):
    records = Records(tmp_path)
    records.write(record(), PNG, {})
    with pytest.raises(EditError, match="holds records but no bench.json"):
        records.begin(MANIFEST)
    (tmp_path / "bench.json").write_text("{half")
    with pytest.raises(EditError, match="can't be read"):
        records.begin(MANIFEST)


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path):
    asks = (
        "import sys; from layerdiffusion.evaluation.records import Records\n"
        "with Records(sys.argv[1]).lock(): print('got it')"
    )

    def another():
        return subprocess.run([sys.executable, "-c", asks, str(tmp_path)], capture_output=True, text=True)

    with Records(tmp_path).lock():
        refused = another()
    assert "Another run is writing" in refused.stderr and not refused.stdout
    assert another().stdout == "got it\n"


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    records = Records(tmp_path / "file")
    with pytest.raises(EditError, match="can't be saved"), records.lock():
        pass
    with pytest.raises(EditError, match="can't be saved"):
        records.write(record(), PNG, {})
