"""The pages as a reader meets them, in a headless Chromium."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.io.label_names import LabelName
from carl_cli.report.html import write_report
from carl_cli.report.record import RunRecord
from carl_cli.report.scene import build_scene
from carl_cli.report.serve import PageServer, page_server
from carl_cli.transforms import identity
from tests.report.browser import Browser
from tests.report.conftest import Pair

RIGHT, LEFT, UP, SPACE, TAB, ENTER = "\ue014", "\ue012", "\ue013", " ", "\ue004", "\ue007"
WIDTHS = {"phone": (390, 844, True), "tablet": (820, 1180, True), "small": (760, 800, False),
          "desktop": (1360, 900, False)}  # fmt: skip


@pytest.fixture
def page(browser: Browser, report_page: Path) -> Iterator[Browser]:
    browser.screen(1360, 900)
    browser.open(report_page)
    yield browser
    assert browser.console() == []
    assert all(url.startswith(("file:///", "data:")) for url in browser.requests())


def plain(page: Browser) -> None:
    """Bare slices: no lines on them that would count as a change."""
    for name in ("cross", "contours", "landmarks"):
        page.click(f"[name={name}]")


def pixels(page: Browser, number: int) -> np.ndarray:
    """(rows, columns) grey values of a canvas, 0…1, drawn at its own size."""
    data = page.canvas(number).split(",")[1]
    return imread(io.BytesIO(base64.b64decode(data)), format="png")[..., 0]


def set_slider(page: Browser, selector: str, value: int) -> None:
    page.run(
        "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input', {bubbles: true}))",
        selector,
        value,
    )
    page.settle()


def test_only_the_page_itself_is_asked_for(browser: Browser, report_page: Path) -> None:
    browser.open(report_page)
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [report_page.resolve().as_uri()]
    assert browser.console() == []
    assert browser.run("return window.hacked") is None
    assert "<script>" in browser.run("return document.querySelector('h1').textContent")


ATTEMPTS = (
    "fetch(url).catch(() => {})",
    "new Image().src = url",
    "navigator.sendBeacon(url, 'x')",
    "new WebSocket(url.replace('http', 'ws'))",
    "document.body.append(Object.assign(document.createElement('script'), {src: url}))",
    "document.body.append(Object.assign(document.createElement('iframe'), {src: url}))",
    "const l = Object.assign(document.createElement('link'), {rel: 'prefetch', href: url});"
    "document.head.append(l)",
    "const f = Object.assign(document.createElement('form'), {action: url});"
    "document.body.append(f); f.submit()",
)


@pytest.fixture
def served(report_page: Path) -> Iterator[PageServer]:
    with page_server(report_page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_root_of_a_served_report_asks_for_the_token(
    browser: Browser, served: PageServer
) -> None:
    host, token = re.fullmatch(r"(http://[^/]+)/([^/]+)/.+", served.address_of_page).groups()
    browser.go(f"{host}/")
    assert browser.run("return document.activeElement.name") == "token"
    browser.run("document.activeElement.value = ` ${arguments[0]} `", token)
    browser.press(ENTER)
    browser.wait_for("return document.body.dataset.ready === 'true'")
    assert browser.run("return location.href") == served.address_of_page
    assert browser.console() == []


def test_the_policy_stops_what_a_script_could_try(browser: Browser, report_page: Path) -> None:
    """Chromium may open a connection ahead of a frame, but not a byte is sent on it."""
    browser.open(report_page)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for attempt in ATTEMPTS:
            browser.run(f"const url = arguments[0]; try {{ {attempt} }} catch {{}}", url)
        assert _heard(listener) == b""
    assert len([line for line in browser.console() if "Content Security Policy" in line]) >= 8


def _heard(listener: socket.socket) -> bytes:
    """Everything that arrives within a second on any connection."""
    listener.settimeout(1.0)
    heard = b""
    try:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(TimeoutError):
                connection.settimeout(0.3)
                heard += connection.recv(1000)
    except TimeoutError:
        return heard


def test_sliders_move_their_plane_only(page: Browser) -> None:
    plain(page)
    before = [page.canvas(k) for k in range(9)]
    set_slider(page, ".plane:nth-child(1) [type=range]", 60)
    after = [page.canvas(k) for k in range(9)]
    assert [a != b for a, b in zip(after, before, strict=True)] == [True] * 3 + [False] * 6
    assert page.run("return document.querySelector('output').textContent") == "61 / 80"


def test_canvas_shows_the_slice_the_right_way_round(page: Browser, pair: Pair) -> None:
    """Coronal: head up and patient's right on the left, against the array itself."""
    plain(page)
    scene = build_scene(pair.fixed, pair.moving, pair.warped, pair.transform)
    set_slider(page, ".plane:nth-child(2) [type=range]", 36)
    shown = pixels(page, 3)
    slice_xz = scene.fixed[::-1, 36, :] / 255  # first row superior, first column right
    rows = np.linspace(0.06, 0.94, 60)
    columns = np.linspace(0.06, 0.94, 60)
    seen = shown[
        np.ix_((rows * shown.shape[0]).astype(int), (columns * shown.shape[1]).astype(int))
    ]
    expected = slice_xz[
        np.ix_((rows * slice_xz.shape[0]).astype(int), (columns * slice_xz.shape[1]).astype(int))
    ]
    assert np.corrcoef(seen.ravel(), expected.ravel())[0, 1] > 0.98
    assert np.corrcoef(seen.ravel(), expected[:, ::-1].ravel())[0, 1] < 0.9
    assert shown.shape[0] / shown.shape[1] == pytest.approx(160 / 144, rel=0.01)


def test_warped_lies_on_fixed_and_not_on_its_mirror(page: Browser) -> None:
    plain(page)
    fixed, moving, warped = (pixels(page, k) for k in range(3))
    assert np.abs(fixed - warped).mean() < 0.01
    assert np.abs(fixed - warped[:, ::-1]).mean() > 0.05
    assert np.abs(fixed - moving).mean() > 0.05


def test_every_mode_map_and_line_changes_the_picture(page: Browser) -> None:
    plain(page)
    page.click("[name=partner][value=before]")
    seen = {page.canvas(0)}
    for mode in ("blend", "checker", "difference"):
        page.click(f"[value={mode}]")
        seen.add(page.canvas(0))
    page.click("[value=blend]")
    set_slider(page, "[name=share]", 100)
    seen.add(page.canvas(0))
    for choice in ("[name=grid]", "[value=jacobian]", "[value=match_spread]", "[name=contours]"):
        page.click(choice)
        seen.add(page.canvas(0))
    assert len(seen) == 9
    captions = page.run("return document.querySelector('figcaption').textContent")
    assert captions == "fixed and moving"


def test_blend_ends_are_the_two_images(page: Browser) -> None:
    plain(page)
    page.click("[name=partner][value=before]")
    page.click("[value=blend]")
    set_slider(page, "[name=share]", 0)
    only_fixed = page.canvas(0)
    set_slider(page, "[name=share]", 100)
    only_moving = page.canvas(0)
    page.click("[value=flicker]")
    page.press(SPACE)  # stops by itself showing moving
    shown = page.run("return document.querySelector('figcaption').textContent")
    assert page.canvas(0) == (only_moving if shown == "moving" else only_fixed)


def test_black_and_white_point_stretch_the_greys(page: Browser, pair: Pair) -> None:
    plain(page)
    wide = pixels(page, 0)
    set_slider(page, "[name=black]", 51)
    set_slider(page, "[name=white]", 153)
    narrow = pixels(page, 0)
    expected = np.clip((wide - 0.2) / 0.4, 0, 1)
    assert np.median(np.abs(narrow - expected)) < 0.01
    assert np.abs(narrow - wide).max() > 0.2


def test_flicker_alternates_until_space_takes_over(page: Browser) -> None:
    caption = "return document.querySelector('figcaption').textContent"
    page.click("[value=flicker]")
    first = page.run(caption)
    page.wait_for(f"return document.querySelector('figcaption').textContent !== '{first}'", 3)
    page.press(SPACE)
    held = page.run(caption)
    page.press(SPACE)
    assert {held, page.run(caption)} == {"fixed", "warped"}


def test_arrows_step_through_slices(page: Browser) -> None:
    values = "return [...document.querySelectorAll('.plane [type=range]')].map((s) => +s.value)"
    start = page.run(values)
    page.press(RIGHT)
    page.press(RIGHT)
    page.press(LEFT)
    assert page.run(values) == [start[0] + 1, *start[1:]]
    page.run("document.querySelector('.plane:nth-child(3)').focus()")
    page.press(UP)
    assert page.run(values) == [start[0] + 1, start[1], start[2] + 1]


def test_keys_are_the_pictures_after_a_click_on_a_button(page: Browser) -> None:
    """And the button's own again for those who come by Tab."""
    mode = "return document.querySelector('[name=mode]:checked').value"
    slices = "return [...document.querySelectorAll('.plane [type=range]')].map((s) => +s.value)"
    start = page.run(slices)
    page.point("label:has([value=blend])")
    page.press(RIGHT)
    assert page.run(mode) == "blend"
    assert page.run(slices) == [start[0] + 1, *start[1:]]
    page.press(SPACE)
    assert page.run(mode) == "flicker"
    page.point("label:has([value=checker])")
    page.press(TAB)
    page.run("document.querySelector('[value=checker]').focus()")
    page.press(LEFT)
    assert page.run(mode) == "flicker"
    assert page.run(slices) == [start[0] + 1, *start[1:]]


def test_click_moves_the_cursor_in_the_other_planes(page: Browser) -> None:
    page.run(
        """const c = document.querySelector('#planes canvas'), r = c.getBoundingClientRect();
        c.dispatchEvent(new MouseEvent('click', {bubbles: true,
          clientX: r.left + r.width / 4, clientY: r.top + r.height * 0.75}))"""
    )
    page.settle()
    values = "return [...document.querySelectorAll('.plane [type=range]')].map((s) => +s.value)"
    _, coronal, sagittal = page.run(values)
    assert (coronal, sagittal) == (pytest.approx(67, abs=1), pytest.approx(18, abs=1))
    assert "R 3" in page.run("return document.querySelector('#readout').textContent")


SLICES = "return [...document.querySelectorAll('.plane [type=range]')].map((s) => +s.value)"


def pointer(page: Browser, kind: str, across: float, down: float, **more: object) -> None:
    """An event on the first picture, at parts of its size."""
    page.run(
        """const [kind, across, down, more] = arguments;
        const c = document.querySelector('#planes canvas'), r = c.getBoundingClientRect();
        const type = kind === 'wheel' ? WheelEvent : PointerEvent;
        c.setPointerCapture = () => {};
        c.dispatchEvent(new type(kind, {bubbles: true, cancelable: true, pointerId: 1,
          clientX: r.left + across * r.width, clientY: r.top + down * r.height, ...more}))""",
        kind,
        across,
        down,
        more,
    )
    page.settle()


def test_a_drag_takes_the_cursor_along(page: Browser) -> None:
    pointer(page, "pointerdown", 0.5, 0.5)
    pointer(page, "pointermove", 0.25, 0.75)
    moved = page.run(SLICES)
    pointer(page, "pointerup", 0.25, 0.75)
    pointer(page, "pointermove", 0.6, 0.6)
    assert page.run(SLICES) == moved
    assert moved[1:] == [pytest.approx(67, abs=1), pytest.approx(18, abs=1)]


def test_ctrl_and_the_wheel_magnify_about_the_pointer(page: Browser) -> None:
    """Twice: the left upper quarter then fills the picture, in the other planes too. Magnified
    pixels are interpolated anew, so that they are not quite those of the whole."""
    plain(page)
    whole = [pixels(page, k) for k in (0, 3)]
    pointer(page, "wheel", 0, 0, ctrlKey=True, deltaY=-300)
    for k, before in zip((0, 3), whole, strict=True):
        rows, columns = (n // 2 for n in before.shape)
        first = 0 if k == 0 else rows // 2  # the axis of the third plane stays about its middle
        part = before[first : first + rows, :columns]
        shrunk = (
            pixels(page, k)[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3))
        )
        whole_again = before[: 2 * rows : 2, : 2 * columns : 2]
        assert np.corrcoef(shrunk.ravel(), part.ravel())[0, 1] > 0.97
        assert np.corrcoef(shrunk.ravel(), whole_again.ravel())[0, 1] < 0.9
    page.press("0")
    np.testing.assert_allclose(pixels(page, 0), whole[0], atol=1 / 255)


def test_shift_drags_a_magnified_picture_and_the_click_finds_its_voxel(page: Browser) -> None:
    """Magnified by 2 about the left upper corner and dragged by half a picture to the left, the
    middle shows the middle of the upper edge's neighbour: a quarter down, half across."""
    start = page.run(SLICES)
    pointer(page, "wheel", 0, 0, ctrlKey=True, deltaY=-300)
    pointer(page, "pointerdown", 0.75, 0.5, shiftKey=True)
    pointer(page, "pointermove", 0.25, 0.5, shiftKey=True)
    pointer(page, "pointerup", 0.25, 0.5)
    assert page.run(SLICES) == start
    pointer(page, "click", 0.5, 0.5)
    assert page.run(SLICES)[1:] == [pytest.approx(22, abs=1), pytest.approx(36, abs=1)]


def test_the_wheel_steps_on_the_plane_that_was_clicked_alone(page: Browser) -> None:
    start = page.run(SLICES)
    pointer(page, "wheel", 0.5, 0.5, deltaY=-100)
    assert page.run(SLICES) == start
    page.run("document.querySelector('.plane').focus()")
    pointer(page, "wheel", 0.5, 0.5, deltaY=-100)
    assert page.run(SLICES) == [start[0] + 1, *start[1:]]


def test_what_lies_over_the_image_has_the_opacity_that_is_set(page: Browser) -> None:
    """out = (1 - a) grey + a colour, and so half-way between the two ends at 50."""
    plain(page)
    page.click("[name=map][value=jacobian]")
    shown = {}
    for part in (0, 50, 100):
        set_slider(page, "[name=opacity]", part)
        shown[part] = pixels(page, 0)
    page.click("[name=map][value='']")
    np.testing.assert_allclose(shown[0], pixels(page, 0), atol=1 / 255)
    np.testing.assert_allclose(shown[50], (shown[0] + shown[100]) / 2, atol=2 / 255)
    assert np.abs(shown[100] - shown[0]).max() > 0.2


def test_labels_have_the_names_and_colours_of_their_table(
    browser: Browser, pair: Pair, tmp_path: Path
) -> None:
    names = {7: LabelName("marker", "#ff0000")}
    images = (pair.fixed, pair.moving, pair.warped, pair.transform)
    write_report(tmp_path / "r.html", *images, labels=pair.labels, names=names)
    browser.screen(1360, 900)
    browser.open(tmp_path / "r.html")
    plain(browser)
    browser.click("[name=map][value=labels]")
    set_slider(browser, "[name=opacity]", 100)
    red = """
      const c = document.querySelectorAll('#planes canvas')[arguments[0]];
      const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      let count = 0;
      for (let k = 0; k < data.length; k += 4) count += data[k] === 255 && !data[k + 1];
      return count / data.length * 4 * c.height * c.width"""
    fixed, moving, warped = (browser.run(red, k) for k in range(3))
    assert fixed > 200
    assert warped == pytest.approx(fixed, rel=0.1)  # moving(T(x)) = fixed(x)
    assert moving == 0  # its labels are known on the fixed grid alone, warped
    described = json.loads(browser.run("return document.querySelector('#scene').textContent"))
    assert described["labels"] == [{"label": "7", "name": "marker", "colour": "#ff0000"}]


def test_the_mean_row_and_the_spots_of_the_structures(page: Browser) -> None:
    rows = page.run(
        "return [...document.querySelectorAll('.structures tbody tr')].map((r) => r.innerText)"
    )
    assert rows[-1].split() == ["mean", "0.500", "0.930", "–", "2.1"]
    assert len(rows) == 2


def test_tiles_say_what_was_before(page: Browser, record: RunRecord) -> None:
    tiles = page.run("return [...document.querySelectorAll('.tile')].map((t) => t.innerText)")
    before = np.mean([mark.error_before_mm for mark in record.metrics.landmarks])
    assert "0.310 → 0.870\nLNCC" in tiles
    assert "0.500 → 0.930\nmean Dice" in tiles
    assert f"{before:.2f} → 2.50 mm\nmean landmark error" in tiles
    assert "0.300 %\nfolded voxels" in tiles


def test_a_phone_shows_one_picture_at_a_time(browser: Browser, report_page: Path) -> None:
    browser.screen(390, 844, mobile=True)
    browser.open(report_page)
    shown = (
        "return [...document.querySelectorAll('.plane:first-child figure:not([hidden]) canvas')]"
        ".map((c) => [c.dataset.kind, c.clientWidth > 300])"
    )
    assert browser.run(shown) == [["warped", True]]
    browser.click("[name=picture][value=fixed]")
    assert browser.run(shown) == [["fixed", True]]
    browser.screen(1360, 900)
    browser.settle()
    assert [kind for kind, _ in browser.run(shown)] == ["fixed", "before", "warped"]


def test_controls_stay_in_view_while_the_page_scrolls(page: Browser) -> None:
    page.click("[name=map][value=jacobian]")
    page.run("document.querySelector('.plane:last-child').scrollIntoView()")
    page.settle()
    top = "return document.querySelector(arguments[0]).getBoundingClientRect()"
    assert page.run(f"{top}.top", "#controls") == pytest.approx(0, abs=1)
    assert page.run(f"{top}.bottom", "#bar") <= 900


def contour_pixels(browser: Browser, pair: Pair, path: Path, side: int) -> int:
    """Pixels of the warped axial slice with the contour of fixed (0) or of moving (1) in them."""
    labels = [None, None]
    labels[side] = pair.labels[side]
    write_report(path, pair.fixed, pair.moving, pair.warped, pair.transform, labels=tuple(labels))
    browser.screen(1360, 900)
    browser.open(path)
    browser.click("[name=cross]")
    script = """
      const data = document.querySelectorAll('#planes canvas')[2].getContext('2d')
        .getImageData(0, 0, ...arguments).data;
      let count = 0;
      for (let k = 0; k < data.length; k += 4) count += data[k] > data[k + 2] + 100;
      return count;"""
    size = browser.run(
        "const c = document.querySelectorAll('#planes canvas')[2]; return [c.width, c.height]"
    )
    return int(browser.run(script, *size))


def test_warped_contours_are_dashed(browser: Browser, pair: Pair, tmp_path: Path) -> None:
    """The same border drawn for fixed and for the warped labels: 4 of 7 parts of it are left."""
    solid, dashed = (
        contour_pixels(browser, pair, tmp_path / f"{side}.html", side) for side in (0, 1)
    )
    assert solid > 200
    assert 0.4 < dashed / solid < 0.75


def test_a_landmark_row_leads_to_its_place(page: Browser, record: object) -> None:
    page.click("[data-jump='4']")
    x, y, z = record.metrics.landmarks[4].fixed_mm
    text = page.run("return document.querySelector('#readout').textContent")
    numbers = [float(word.strip(",")) for word in text.split() if word[0].isdigit()][:3]
    np.testing.assert_allclose(numbers, np.abs([x, y, z]), atol=1.01)


def test_readout_states_the_jacobian_and_the_way(page: Browser, pair: Pair) -> None:
    from carl_cli.transforms import jacobian_determinant

    text = page.run("return document.querySelector('#readout').textContent")
    scene = build_scene(pair.fixed, pair.moving, pair.warped, pair.transform)
    x, y, z = json.loads(page.run("return document.querySelector('#scene').textContent"))["focus"]
    determinant = jacobian_determinant(pair.transform, scene.grid)[z, y, x]
    assert float(text.split("Jacobian ")[1].split()[0]) == pytest.approx(
        min(determinant, 1.5), abs=0.02
    )
    point = scene.grid.points_mm()[z, y, x]
    way = np.linalg.norm(pair.transform(point) - point)
    assert float(text.split("moves ")[1].split()[0]) == pytest.approx(way, abs=1.5)


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_sticks_out_at_any_width(
    browser: Browser, report_page: Path, name: str, dark: bool
) -> None:
    width, height, mobile = WIDTHS[name]
    browser.screen(width, height, dark=dark, mobile=mobile)
    browser.open(report_page)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    for mode in ("blend", "all"):
        browser.click(f"[value={mode}]")
        widths = browser.run(
            "return [...document.querySelectorAll('#planes figure:not([hidden]) canvas')]"
            ".map((c) => c.clientWidth)"
        )
        assert min(widths) > (100 if mode == "all" else 200)
        sticking_out = """
            const right = (e) => e.getBoundingClientRect().right;
            return [...document.querySelectorAll('.plane *')].filter((e) =>
              e.getClientRects().length && right(e) > right(e.closest('.plane')) + 1)
              .map((e) => e.outerHTML)"""
        assert browser.run(sticking_out) == []
    ink, paper = browser.run(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    )
    assert (_light(ink) > _light(paper)) == dark


def _light(colour: str) -> int:
    return sum(int(part) for part in colour[4:-1].split(","))


def test_print_shows_pictures_and_no_controls(page: Browser) -> None:
    page.devtools("Emulation.setEmulatedMedia", media="print")
    hidden = page.run("return getComputedStyle(document.querySelector('#controls')).display")
    ink = page.run("return getComputedStyle(document.body).color")
    page.devtools("Emulation.setEmulatedMedia", media="")
    assert (hidden, ink) == ("none", "rgb(0, 0, 0)")


def test_a_flat_pair_has_one_plane(browser: Browser, tmp_path: Path) -> None:
    grid = Grid((30, 20), (1.0, 2.0), (0.0, 0.0), (1.0, 0, 0, 1))
    image = Image(np.arange(600).reshape(20, 30).astype(np.uint16), grid)
    write_report(tmp_path / "flat.html", image, image, image, identity(2))
    browser.screen(1360, 900)
    browser.open(tmp_path / "flat.html")
    browser.click("[name=grid]")
    assert browser.run("return document.querySelectorAll('.plane').length") == 1
    assert browser.console() == []
    assert browser.run("return document.querySelector('#trouble').hidden")
