"""The report of a folder of records: what it says, what it never says, and how it looks after itself."""

import math
import re
from html.parser import HTMLParser

import pytest
from bench_folder import COMMAND, METHODS, bench_folder
from PIL import Image

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.claims import (
    BACKGROUND,
    CLIP,
    FAILS,
    HOLDS,
    SATISFIED,
    UNDECIDED,
    UNMEASURED,
    WANTED,
    Bench,
    Claim,
    Test,
    label,
)
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.report import tables
from layerdiffusion.evaluation.report import write as report
from layerdiffusion.evaluation.report.plots import histogram, interval_plot, scatter
from layerdiffusion.evaluation.report.template import markdown_text, table
from layerdiffusion.evaluation.statistics import Interval

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bench_folder(tmp_path_factory.mktemp("bench"), (*METHODS, *ROWS, "layers-separate"))


@pytest.fixture(scope="module")
def page(folder):
    return Page(report.write_report(folder, COMMAND).read_text(encoding="utf-8"))


def bench(values, measure=SATISFIED.name, kind="both"):
    """Records from {variant: {edit: [value of seed 0, of seed 1, …]}}."""
    return Bench(
        {
            "edit": edit,
            "kind": kind,
            "variant": variant,
            "method": "ours",
            "seeds": list(range(len(found))),
            "pictures": [],
            "measures": [{"seed": seed, measure: value} for seed, value in enumerate(found)],
            "timings": {"total": 1.0},
        }
        for variant, edits in values.items()
        for edit, found in edits.items()
    )


def test_the_page_asks_nothing_of_anybody(page):
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert all(anchor["href"].startswith("#") for anchor in page.all("a"))
    policies = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies and "default-src 'none'" in policies[0]


def test_every_picture_and_plot_says_what_it_is(page):
    assert len(page.all("img")) > 100 and all(image["alt"].strip() for image in page.all("img"))
    assert page.all("svg") and all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and {anchor["href"][1:] for anchor in page.all("a")} <= set(ids)
    assert page.all("table") and all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_the_first_picture_is_photo_reference_and_two_seeds_of_each_method(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    lead = text[text.index('class="lead"') : text.index(tables.RULE)]
    assert lead.count("<img") == 3 * (2 + 2 * 4)
    assert lead.index("pose and background changed") < lead.index("background replaced") < lead.index("pose changed")
    assert [lead.count(f">{name}<") for name in ("Ours", "SDEdit", "Imagic", "Plug-and-Play")] == [6] * 4
    with Image.open(folder / "report.webp") as figure:
        assert figure.width > 10 * 128 and figure.height > 3 * 128


def test_the_page_says_how_it_was_made(page):
    for words in (COMMAND, "torch 2.13.0", "0, 1", "miniature", "without a figure", ".35 against", "43 %", "81 %"):
        assert words in page.words
    assert "12 edits, 11 variants, 2 seeds: 264 pictures" in page.words


def test_the_tables_hold_the_means_that_the_records_have(page, folder):
    records = [record for record in Records(folder).read() if record["variant"] == "sdedit"]
    by_hand = [sum(picture["clip_score"] for picture in record["measures"]) / 2 for record in records]
    assert f"{sum(by_hand) / len(by_hand):.3f} [" in page.words
    text = (folder / "report.md").read_text(encoding="utf-8")
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
    assert "](report.webp)" in text and COMMAND in text and "layers-separate" in text


def test_hostile_words_stay_words(tmp_path):
    words = '<script>alert(1)</script> & "quotes" | `code` \n# no heading'
    folder = bench_folder(tmp_path, ("ours", "<b>mine</b>"), ("<i>kind</i>",), 1, prompt=words)
    page = Page(report.write_report(folder, "echo '</code><script>' ```").read_text(encoding="utf-8"))
    assert not page.all("script") and not page.all("i") and words in page.words and "<b>mine</b>" in page.words
    for line in (folder / "report.md").read_text(encoding="utf-8").splitlines():
        assert not line.startswith("#")
        assert "<b>mine" not in line


def test_pictures_come_from_the_folder_alone(tmp_path):
    folder = bench_folder(tmp_path / "bench", ("ours",), ("both",), 1, (0,))
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    path = next((folder / "records").glob("*/*.json"))
    path.write_text(path.read_text().replace("pictures/both-00/ours-0.png", "../secret.png"))
    page = Page(report.write_report(folder, COMMAND).read_text(encoding="utf-8"))
    assert "none" in page.words and (8, 8) not in {(int(i["width"]), int(i["height"])) for i in page.all("img")}


def test_the_page_stays_below_its_limit(tmp_path, monkeypatch):
    folder = bench_folder(tmp_path, METHODS, ("both",), 2)
    whole = report.write_report(folder, COMMAND).stat().st_size
    monkeypatch.setattr(report, "LIMIT", whole * 0.6)
    assert report.write_report(folder, COMMAND).stat().st_size < whole * 0.6


def test_an_unfinished_bench_says_what_is_missing(tmp_path):
    folder = bench_folder(tmp_path, (*METHODS, "f", "layers-separate"), ("both",), 2, judge=False)
    for variant in ("layers-separate", "pnp"):
        (folder / "records" / "both-01" / f"{variant}.json").unlink()
    (folder / "pictures" / "both-00" / "reference.png").unlink()
    page = Page(report.write_report(folder, COMMAND).read_text(encoding="utf-8"))
    assert "not there yet: 2 of the records" in page.words and "not measured" in page.words
    assert "stage 2 trains each term on its own picture (1 of 2 edits)" in page.words
    assert "Plug-and-Play (1 of 2 edits)" in page.words and "Imagic (" not in page.words
    assert "λ1 = 2, λ2 = 1 (" not in page.words
    assert "CLIP score, beside (f)" in page.words
    assert any("there is none" in span.get("aria-label", "") for span in page.all("span"))
    assert "✓ as wanted" not in page.words and "CLIP 0." in page.words, "nobody judged"


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(EditError, match="no finished records"):
        report.write_report(tmp_path, COMMAND)


# --- what is found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.2, HOLDS), (-0.1, 0.2, UNDECIDED), (-0.2, -0.1, FAILS), (0.0, 0.0, FAILS), (0.0, 0.1, UNDECIDED)],
)
def test_a_verdict_is_read_off_the_interval(low, high, verdict):
    assert Test(SATISFIED, "ours", "pnp", Interval((low + high) / 2, low, high), 10).verdict == verdict


def test_a_claim_holds_only_where_all_its_tests_do():
    def claim(*intervals):
        tests = (Test(SATISFIED, "f", "a", interval and Interval(0, *interval), 5) for interval in intervals)
        return Claim("", "", SATISFIED, (*tests, Test(CLIP, "f", "a", Interval(-1, -2, -1), 5)))

    assert claim((0.1, 0.2), (0.1, 0.3)).verdict == HOLDS
    assert claim((0.1, 0.2), (-0.1, 0.3)).verdict == UNDECIDED
    assert claim((0.1, 0.2), (-0.1, 0.3), (-0.2, -0.1)).verdict == FAILS
    assert claim((0.1, 0.2), None).verdict == claim().verdict == UNMEASURED
    assert claim((0.1, 0.2)).verdict_in(CLIP) == FAILS


def test_differences_are_paired_by_edit_and_seed():
    """Edits differ wildly and the variants by one tenth each time: only a paired interval is so narrow."""
    values = {f"e{i}": [i / 10, i / 10 + 1] for i in range(8)}
    less = {edit: [value - 0.1 for value in found] for edit, found in values.items()}
    less["e9"] = [5.0, 5.0]  # of an edit that the other one lacks
    del less["e0"]
    found = bench({"ours": values, "sdedit": less}, CLIP.name).test("ours", "sdedit", CLIP)
    assert found.difference == pytest.approx((0.1, 0.1, 0.1)) and found.edits == 7 and found.verdict == HOLDS


def test_seeds_that_only_one_has_are_left_out_of_the_difference():
    found = bench({"ours": {"e": [1.0, 0.0, 9.0]}, "pnp": {"e": [0.0, math.nan]}}).test("ours", "pnp", SATISFIED)
    assert found.difference == pytest.approx((1.0, 1.0, 1.0))


def test_the_claims_are_about_the_paper_s_kind_of_edit(folder):
    found = Bench(Records(folder).read())
    ahead, parts, lift, stage_1 = found.claims()
    assert ahead.kinds == ("both",) and ahead.main == WANTED
    assert {test.edits for test in ahead.tests} == {4} and {test.edits for test in parts.tests} == {12}
    assert {test.worse for test in ahead.tests} == {"sdedit", "imagic", "pnp"}
    assert [test.worse for test in parts.tests_in(CLIP)] == list("abghi") and parts.verdict_in(CLIP) == HOLDS
    assert lift.main == SATISFIED and lift.tests[0].worse == "i" and lift.verdict == HOLDS
    assert stage_1.main == BACKGROUND and stage_1.tests[0].worse == "g" and stage_1.verdict == HOLDS
    assert found.full == "f" and Bench(r for r in found.records if r["variant"] != "f").full == "ours"


def test_baselines_that_see_the_reference_too_are_a_test_of_their_own(tmp_path):
    folder = bench_folder(tmp_path, ("ours", "sdedit-layered"), ("both",), 2, (0,))
    *_, last = Bench(Records(folder).read()).claims()
    assert "layered picture" in last.title and {test.worse for test in last.tests} == {"sdedit-layered"}


def test_what_the_page_offers_is_compared_on_edits_of_every_kind(tmp_path):
    folder = bench_folder(tmp_path, ("ours", "offered", "imagic"), ("both", "pose"), 3, (0,))
    found = Bench(Records(folder).read())
    _, offered, *_ = found.claims()
    assert "the page offers" in offered.title and offered.kinds == ()
    assert {test.better for test in offered.tests} == {"offered"}
    assert {test.edits for test in offered.tests if test.worse == "imagic"} == {6}
    assert [label(name) for name in found.methods] == ["Ours", "Ours, offered", "Imagic"]


# --- how it is drawn --------------------------------------------------------------------------------------------------


def test_tables_escape_what_they_are_given():
    shown = Page(str(table("a < b", ["<i>", "&"], [["<b>x</b>", '"']])))
    assert not shown.all("i") and not shown.all("b") and "<b>x</b>" in shown.words and "a < b" in shown.words
    assert shown.all("div")[0]["aria-label"] == "a < b"
    assert markdown_text("a|b\n<c>") == "a\\|b \\<c\\>"


def marks(svg: str) -> list[tuple[float, float]]:
    """Where the marks are that have words of their own."""
    uses = re.findall(r"<title>[^<]*: [^<]*</title>(.*?)</g>", svg, re.DOTALL)
    return [tuple(map(float, re.search(r'x="([\d.]+)" y="([\d.]+)"', use).groups())) for use in uses]


def test_a_plot_puts_more_further_right_and_shows_its_interval():
    rows = [("x", [Interval(1, 0.5, 2)]), ("y", [Interval(3, 2, 4)])]
    svg = interval_plot("t", rows, ["one"], str, zero=True)
    (first, _), (second, _) = marks(svg)
    assert first < second and "<title>x, one: 1, from 0.5 to 2</title>" in svg
    low, high = map(float, re.search(r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^>]*stroke: #7358f0', svg).groups())
    assert low < first < high and (first - low) / (high - first) == pytest.approx(0.5, abs=0.02)
    assert interval_plot("t", [("x", [None])], ["one"], str) == "" == scatter("t", [], [], ("", ""), (str, str))


def test_a_scatter_has_more_to_the_right_and_above():
    points = [(Interval(1, 0.5, 2), Interval(1, 0, 2)), (Interval(3, 2, 4), Interval(3, 2, 4))]
    (x1, y1), (x2, y2) = marks(scatter("t", points, ["one", "two"], ("a", "b"), (str, str)))
    assert x1 < x2 and y1 > y2


def test_a_histogram_s_bars_are_as_tall_as_their_shares():
    svg = histogram("t", [Interval(0.1, 0, 0.2), Interval(0.4, 0.3, 0.5)])
    bars = re.findall(r'<title>\d: [^<]*</title>\s*<path d="([^"]*)"', svg)
    small, large = (
        max(ys) - min(ys) for ys in ([float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", bar)] for bar in bars)
    )
    assert large / small == pytest.approx(4, abs=0.05)


def test_a_plot_is_the_same_every_time_fits_both_themes_and_asks_nothing_of_anybody():
    draw = lambda: interval_plot("<t>", [("<x>", [Interval(1, 0, 2)])], ["one"], str)  # noqa: E731
    svg = draw()
    assert svg == draw() and "currentColor" in svg and not re.search(r"#01020[3]|#04050[6]", svg)
    assert not re.search(r"<style|<metadata|<script|@import|<x>|<t>", svg)
    assert {one for one in re.findall(r'https?://[^"]+', svg)} <= {"http://www.w3.org/1999/xlink"}
