"""The report of a folder of records: its figures, its escaping, and what it shows of an unfinished run."""

import re
from html.parser import HTMLParser

import pytest
from bench_folder import COMMAND, METHODS, bench_folder
from PIL import Image

from layerdiffusion.__main__ import main
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.report import RULE, markdown, read_measures, write_report

ROWS = ("f", "a", "b", "g", "h", "i")


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its words; a tag left open is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in ("img", "meta"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, words):
        self.words += words if self.open[-1:] != ["style"] else ""

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]


def page_of(folder, command=COMMAND):
    return Page(write_report(folder, command).read_text(encoding="utf-8"))


def tables_of(folder):
    """What is printed from the measures alone."""
    return markdown(read_measures(folder / "measures.csv"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bench_folder(tmp_path_factory.mktemp("bench"), (*METHODS, *ROWS, "layers-separate"))


@pytest.fixture(scope="module")
def page(folder):
    return page_of(folder)


def test_the_page_needs_nothing_but_itself(page):
    assert not any(page.all(name) for name in ("script", "link", "iframe", "a"))
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    policies = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies and "default-src 'none'" in policies[0]


def test_pictures_and_tables_can_be_read_without_seeing_them(page):
    assert len(page.all("img")) == 1 + 12 * (3 + 2 * 11) and all(image["alt"].strip() for image in page.all("img"))
    assert page.all("table") and all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_the_figure_has_photo_reference_and_two_seeds_of_each_method(folder, page):
    with Image.open(folder / "report.webp") as figure:
        assert 10 * 128 < figure.width < 11 * 128 and 3 * 128 < figure.height < 4 * 128
    assert RULE in page.words


def test_the_page_says_how_it_was_made(page):
    for words in (COMMAND, "torch 2.13.0", "miniature", "without a figure", ".35 against", "43 %", "81 %"):
        assert words in page.words
    assert "12 edits, 11 variants, 2 seeds: 264 pictures" in page.words


def test_the_tables_hold_the_means_that_the_records_have(page, folder):
    records = [record for record in Records(folder).read() if record["variant"] == "sdedit"]
    by_hand = [sum(picture["clip_score"] for picture in record["measures"]) / 2 for record in records]
    assert f"{sum(by_hand) / len(by_hand):.3f} [" in page.words
    text = tables_of(folder)
    assert f"| SDEdit | {sum(p['as_wanted'] for r in records for p in r['measures']) / 24 * 100:.0f} % " in text
    for row, clip in (("a", "0.28"), ("f", "0.35"), ("g", "0.33")):
        assert re.search(rf"^\| \({row}\) \| .*\| {clip} \|", text, re.MULTILINE)
    wanted = {
        variant: [p["as_wanted"] for r in Records(folder).read() if r["variant"] == variant for p in r["measures"]]
        for variant in "fa"
    }
    more = f"{100 * (sum(wanted['a']) - sum(wanted['f'])) / len(wanted['f']):.0f}".replace("-", "−")
    assert re.search(rf"^\| \(a\) .*\| {more} % \\\[[^|]*\|$", text, re.MULTILINE)
    assert re.search(r"^\| \(f\) .*\| – \|$", text, re.MULTILINE)
    assert "layers-separate" in text


def test_hostile_words_stay_words(tmp_path):
    words = '<script>alert(1)</script> & "quotes" | `code` \n# no heading'
    folder = bench_folder(tmp_path, ("ours", "<b>mine</b>"), ("<i>kind</i>",), 1, prompt=words)
    page = page_of(folder, "echo '</code><script>' ```")
    assert not page.all("script") and not page.all("i") and words in page.words and "<b>mine</b>" in page.words
    for line in tables_of(folder).splitlines():
        assert not line.startswith("#")
        assert "<b>mine" not in line


def test_pictures_come_from_the_folder_alone(tmp_path):
    folder = bench_folder(tmp_path / "bench", ("ours",), ("both",), 1, (0,))
    whole = len(page_of(folder).all("img"))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    path = next((folder / "records").glob("*/*.json"))
    path.write_text(path.read_text().replace("pictures/both-00/ours-0.png", "../secret.png"))
    assert whole == 5 and len(page_of(folder).all("img")) == 1


def test_an_unfinished_bench_says_what_is_missing(tmp_path):
    folder = bench_folder(tmp_path, (*METHODS, "f", "layers-separate"), ("both",), 2, judge=False)
    for variant in ("layers-separate", "pnp"):
        (folder / "records" / "both-01" / f"{variant}.json").unlink()
    (folder / "pictures" / "both-00" / "reference.png").unlink()
    page = page_of(folder)
    assert "not there yet: 2 of the records" in page.words and "not measured" in page.words
    assert page.words.count("(1 of 2 edits)") == 2 and "Plug-and-Play (1 of 2 edits)" in page.words
    assert "CLIP score, less (f)" in page.words
    assert "as wanted" not in page.words, "nobody judged"


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(EditError, match="no finished records"):
        write_report(tmp_path, COMMAND)


def test_measures_come_back_from_their_file(folder, page, tmp_path, capsys):
    bench = read_measures(folder / "measures.csv")
    records = {(r["edit"], r["variant"]): r for r in Records(folder).read()}
    assert {key: r["measures"] for key, r in bench.by_name.items()} == {
        key: r["measures"] for key, r in records.items()
    }
    assert main(["evaluate", "table", str(folder / "measures.csv")]) == 0
    assert capsys.readouterr().out == tables_of(folder) + "\n"
    for content in (b"", b"edit,kind\n1,2\n", b"\xff\xfe", b"edit,kind,variant,seed\na,b,c,x\n"):
        (tmp_path / "wrong.csv").write_bytes(content)
        with pytest.raises(EditError, match="has no measures of a bench"):
            read_measures(tmp_path / "wrong.csv")
