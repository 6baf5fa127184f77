"""The page of a batch: who comes first, what is said, and sorting in the browser."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from carl_cli.report.headlines import HEADLINES, badness
from carl_cli.report.index import Case, thumbnail, write_index
from carl_cli.report.record import Metrics, RunRecord, Similarity, StructureScore
from carl_cli.report.scene import build_scene
from tests.report.browser import Browser
from tests.report.conftest import MARKUP, Pair

DICE = next(headline for headline in HEADLINES if headline.name == "mean Dice")
FOLDS = next(headline for headline in HEADLINES if headline.name == "folded voxels")


def case(record: RunRecord, name: str, dice: float, lncc: float = 0.8, **more: object) -> Case:
    metrics = Metrics(
        similarity_after=Similarity(lncc=lncc),
        structures=[StructureScore(label="1", dice=dice)],
    )
    made = record.model_copy(update={"metrics": metrics, "warnings": []})
    return Case(name, made, f"{name}/report.html", **more)


@pytest.fixture(scope="session")
def index_page(pair: Pair, record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    picture = thumbnail(build_scene(pair.fixed, pair.moving, pair.warped, pair.transform))
    rng = np.random.default_rng(0)
    cases = [
        case(record, f"case {k}", 0.8 + 0.01 * rng.normal(), 0.9 - k / 100, thumbnail=picture)
        for k in range(22)
    ]
    cases.append(case(record, f"odd {MARKUP}", 0.31, thumbnail=picture))
    cases.append(Case("broken", error=f"can't read {MARKUP}"))
    path = tmp_path_factory.mktemp("index") / "index.html"
    write_index(path, cases, title=f"Batch {MARKUP}")
    return path


def test_badness_is_the_modified_z_score_on_the_bad_side() -> None:
    values = [0.70, 0.80, 0.82, 0.84, 0.90, None]
    found = badness(values, DICE)
    scatter = 1.4826 * 0.02  # the median is 0.82, deviations 0.12 0.02 0 0.02 0.08
    np.testing.assert_allclose(found, [0.12 / scatter, 0.02 / scatter, 0, 0, 0, 0], atol=1e-9)
    assert badness([0.0, 0.0, 0.0, 1.0], FOLDS) == [0, 0, 0, pytest.approx(100)]
    assert badness([0.1, 0.9, 0.9], DICE) == [0, 0, 0]


def names(browser: Browser) -> list[str]:
    return browser.run(
        "return [...document.querySelectorAll('.case h2')].map((h) => h.textContent)"
    )


def choose(browser: Browser, value: str) -> None:
    browser.run(
        "const s = document.querySelector('#order'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'))",
        value,
    )


def test_failed_and_odd_cases_come_first_and_say_why(browser: Browser, index_page: Path) -> None:
    browser.screen(1360, 900)
    browser.open(index_page)
    assert names(browser)[:2] == ["broken", f"odd {MARKUP}"]
    flags = browser.run("return [...document.querySelectorAll('.flags')].map((p) => p.textContent)")
    assert flags == [f"failed: can't read {MARKUP}", "mean Dice 0.310 stands out"]
    assert browser.run("return document.querySelector('.case').querySelectorAll('dl').length") == 0
    summary = browser.run("return document.querySelector('header .quiet').textContent")
    assert summary.startswith("24 cases, 1 failed, 1 to look at")
    assert browser.run("return window.hacked") is None
    assert browser.console() == []
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [index_page.as_uri()]


def test_whatever_is_remarkable_comes_before_the_rest(tmp_path: Path, record: RunRecord) -> None:
    """A warning alone marks a case: none without a mark may stand above it."""
    dices = [0.70, 0.80, 0.82, 0.84, 0.90]  # the first is 4 deviations off, the second 0.7
    cases = [case(record, f"case {k}", dice) for k, dice in enumerate(dices)]
    warned = cases[4].record.model_copy(update={"warnings": ["low confidence"]})
    cases[4] = Case("warned", warned)
    write_index(tmp_path / "index.html", cases)
    page = (tmp_path / "index.html").read_text()
    order = re.findall(r'class="case( outlier)?" data-place="\d" data-name="([^"]*)"', page)
    assert [name for _, name in order][:3] == ["case 0", "warned", "case 1"]
    assert [bool(mark) for mark, _ in order] == [True, True, False, False, False]


def test_each_picture_has_its_letters(browser: Browser, index_page: Path) -> None:
    """At its edges: R left of the middle of each third, L right of it."""
    browser.screen(1360, 900)
    browser.open(index_page)
    places = browser.run("""
        const strip = document.querySelector('.strip').getBoundingClientRect();
        return [...document.querySelector('.strip').querySelectorAll('b')].map((b) => {
          const box = b.getBoundingClientRect();
          return [b.textContent, (box.left + box.width / 2 - strip.left) / strip.width * 3,
            (box.top + box.height / 2 - strip.top) / strip.height];
        })""")
    assert [letter for letter, *_ in places] == ["R", "L"] * 3
    np.testing.assert_allclose([x for _, x, _ in places], [0, 1, 1, 2, 2, 3], atol=0.15)
    np.testing.assert_allclose([y for *_, y in places], 0.5, atol=0.1)


def test_sorting_by_each_key(browser: Browser, index_page: Path) -> None:
    browser.open(index_page)
    choose(browser, "name")
    assert names(browser)[:4] == ["broken", "case 0", "case 1", "case 2"]
    choose(browser, str(HEADLINES.index(DICE)))
    assert names(browser)[0] == f"odd {MARKUP}"
    assert names(browser)[-1] == "broken"
    choose(browser, "0")
    assert names(browser)[0] == "case 21"  # the lowest LNCC
    choose(browser, "place")
    assert names(browser)[0] == "broken"


def test_links_are_relative_and_quoted(tmp_path: Path, record: RunRecord) -> None:
    cases = [case(record, name, 0.5) for name in ("javascript:alert(1)", 'a "b" & c')]
    write_index(tmp_path / "index.html", cases)
    text = (tmp_path / "index.html").read_text()
    assert 'href="./javascript%3Aalert%281%29/report.html"' in text
    assert 'href="./a%20%22b%22%20%26%20c/report.html"' in text


def test_thumbnail_shows_fixed_warped_and_difference(pair: Pair) -> None:
    scene = build_scene(pair.fixed, pair.moving, pair.warped, pair.transform)
    found = thumbnail(scene)
    assert found.sides == ("R", "L")  # the fixed grid is RAS: x runs to the left of the page
    picture = imread(io.BytesIO(found.jpeg), format="jpg")[..., 0].astype(float)
    assert picture.shape == (110, 3 * 88)
    fixed, warped, difference = np.split(picture, 3, axis=1)
    assert np.abs(fixed - warped).mean() < 3
    assert np.abs(difference - 127).mean() < 3
    assert np.abs(fixed - fixed[:, ::-1]).mean() > 10
