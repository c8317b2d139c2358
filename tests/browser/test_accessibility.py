"""axe-core over the page as people meet it: empty, with everything on it, light, dark and presented."""

import pytest
from axe_playwright_python.sync_playwright import Axe

GRAVE = ("serious", "critical")
OF_GRADIO = ["#backgrounds .empty"]  # its empty gallery: a label on an element without a role
# Colours fade in; what turns for ever doesn't count.
FADED = """() => document.getAnimations().every(
  (one) => one.playState !== "running" || one.effect.getComputedTiming().endTime === Infinity)"""


def findings(tab) -> list[str]:
    """What axe-core calls serious or critical; Gradio's own elements count too, but for `OF_GRADIO`."""
    context = {"exclude": [[selector] for selector in OF_GRADIO]}
    violations = Axe().run(tab.page, context, {"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in violations
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]


def shade(tab, dark: bool) -> None:
    if tab.page.evaluate("() => document.body.classList.contains('dark')") != dark:
        tab.page.click("#shade")
    tab.page.wait_for_timeout(50)
    tab.page.wait_for_function(FADED)


def fill(tab) -> None:
    """An example with its results, and the dials that are folded away."""
    tab.page.locator("#examples .ld-example").nth(1).click()
    tab.page.wait_for_selector("#gallery .thumbnail-item >> nth=1")
    tab.page.wait_for_selector("#place-board .ld-has-picture")
    tab.page.click("#advanced > button")


def compare(tab) -> None:
    tab.page.click("#baselines > button")
    for name in ("Imagic", "Plug-and-Play"):
        tab.page.locator(f"#baselines-methods label:has-text('{name}') input").set_checked(False)
    tab.page.click("#baselines-run")
    tab.page.wait_for_selector("#row-sdedit .thumbnail-item >> nth=1")
    tab.page.wait_for_selector("#baselines-run:visible")


def look(tab, *views: tuple[int, bool]) -> None:
    for width, dark in views or ((1440, False), (1440, True), (390, False), (390, True)):
        tab.page.set_viewport_size({"width": width, "height": 900})
        shade(tab, dark)
        assert findings(tab) == [], (width, dark)


def test_the_page_has_no_grave_finding(tabs):
    tab = tabs(color_scheme="light")  # a window of its own, which remembers the shade
    fill(tab)
    look(tab, (1440, False), (390, True))


@pytest.mark.slow
def test_the_page_has_no_grave_finding_in_any_state_on_any_screen(tabs):
    tab = tabs(color_scheme="light")
    look(tab)
    fill(tab)
    compare(tab)
    look(tab)
    tab.page.click("#background label:has-text('Generate one')")
    look(tab)


def test_the_presentation_has_no_grave_finding(tab):
    tab.page.click("#present")
    tab.page.wait_for_selector(".ld-slide:visible")
    assert findings(tab) == []


def test_a_grave_finding_would_be_found(tab):
    tab.page.evaluate(
        "() => document.querySelector('#work').insertAdjacentHTML('beforeend', "
        "'<button><svg></svg></button><p style=\"color: #ccc; background: #fff\">pale</p>')"
    )
    assert {finding.split(":")[0] for finding in findings(tab)} == {"button-name", "color-contrast"}
