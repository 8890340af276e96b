"""The page in a real browser: Debian's Chromium, which `make test` installs if it can."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    FilePayload,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)

from models.bundle import ZOO, Manifest
from models.images.decoding import decode
from models.network import build_network, save_network
from service.http.guards.keys import add
from tests.chaos.processes import workers
from tests.e2e.conftest import PLAIN, Service, Start
from tests.e2e.own_network import OwnNetwork, picture
from tests.models.images import pictures as made
from tests.models.test_bundle import DESCRIPTION

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("the page is not tested: there is no chromium here", allow_module_level=True)

expect.set_options(timeout=30_000)
SAMPLES = ZOO / "mnist-cnn" / "samples"
THREE = SAMPLES / "02-a-clear-3.png"
ANSWERED = "#answer:not([aria-busy]) #result:not([hidden]) #facts:not([hidden])"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
DESKTOP, PHONE = (1280, 1000), (390, 844)
# Browsers do not keep streamed bodies, so a test must listen to them.
LISTEN = """
    const asking = fetch;
    window.heard = [];
    window.fetch = async (path, init) => {
        const response = await asking(path, init);
        if (path.startsWith("predict/stream")) {
            const told = response.clone().text().catch(() => "broken off");
            heard.push({ sent: init.body.bytes(), told });
        }
        return response;
    };
"""


class Visitor:
    """A browser's window with the page, and what it recorded."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.page: Page = context.new_page()
        self.page.add_init_script(LISTEN)
        self.address = address
        self.errors: list[str] = []
        self.requests: list[Request] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def open(self) -> None:
        """Open the page, which tries the first sample by itself."""
        self.asks(lambda: self.page.goto(self.address))

    def asks(self, act: Callable[[], object]) -> dict[str, Any]:
        """Do something that makes the page send a request; return the answer once it is shown."""
        with self.page.expect_response("**/predict/stream?*"):
            act()
        self.page.wait_for_selector(ANSWERED, state="attached")
        events: str = self.page.evaluate("heard.at(-1).told")
        name, data = events.strip().split("\n\n")[-1].split("\n")
        assert name == "event: answer"
        answer: dict[str, Any] = json.loads(data.removeprefix("data: "))
        return answer

    def sample(self, text: str) -> dict[str, Any]:
        return self.asks(self.page.get_by_role("button", name=text).click)

    @property
    def label(self) -> str | None:
        return self.page.locator("#label").text_content()

    @property
    def pill(self) -> Locator:
        return self.page.locator("#pill")

    @property
    def slider(self) -> Locator:
        return self.page.get_by_role("slider", name="Size of the attack")

    @property
    def problem(self) -> Locator:
        return self.page.get_by_role("alert")

    @property
    def asked(self) -> int:
        """How many stream requests were answered."""
        count: int = self.page.evaluate("heard.length")
        return count

    @property
    def sent(self) -> bytes:
        """The picture of the last request."""
        return bytes(self.page.evaluate("heard.at(-1).sent.then((bytes) => [...bytes])"))

    def draw(self, *points: tuple[float, float]) -> None:
        """Draw a stroke through points of the unit square."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        pixels = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*pixels[0])
        self.page.mouse.down()
        for point in pixels[1:]:
            self.page.mouse.move(*point, steps=6)
        self.page.mouse.up()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # For this module only: Playwright keeps an event loop running in this thread.
    with sync_playwright() as playwright:
        # Chromium has no sandbox when tests run as root, as in containers.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Callable[..., Visitor]]:
    """Open windows; at the end, none may have had an error or have asked another host."""
    visitors: list[Visitor] = []

    def open_window(
        size: tuple[int, int] = DESKTOP, address: str = service.address, **options: Any
    ) -> Visitor:
        width, height = size
        # Answers come without animation, except in one test that watches them.
        options = {"reduced_motion": "reduce", **options}
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        visitors.append(Visitor(context, address))
        return visitors[-1]

    yield open_window
    for visitor in visitors:
        for request in visitor.requests:
            assert request.url.startswith((visitor.address, "blob:")), request.url
        visitor.page.context.close()
        assert visitor.errors == []


@pytest.fixture
def visitor(visit: Callable[..., Visitor]) -> Visitor:
    visitor = visit()
    visitor.open()
    return visitor


def excused(visitor: Visitor) -> None:
    """Chromium's console itself reports every status above 399; the page did not write that."""
    visitor.errors = [one for one in visitor.errors if "Failed to load resource" not in one]


def test_it_shows_a_certificate_at_once(visitor: Visitor) -> None:
    assert visitor.label == "7"
    expect(visitor.pill).to_have_text("Robust")
    claim = visitor.page.locator("#claim").text_content() or ""
    assert re.fullmatch(
        r"No change to the picture up to size [\d.]+ in L2 can make this anything but 7, with 95% "
        r"confidence\.",
        claim,
    )
    status = visitor.page.get_by_role("status").text_content() or ""
    assert status.startswith("Label 7. Certified up to size ")
    expect(visitor.page.get_by_role("img", name="A clear 7. It can be drawn on")).to_be_visible()
    words = r"^7 measured as [\d.]+ to [\d.]+; under attack [\d.]+ to [\d.]+ [\d.]+$"
    expect(visitor.page.get_by_role("row", name=re.compile(words))).to_have_count(1)


@pytest.mark.slow
def test_samples_are_sent_as_they_are(visitor: Visitor) -> None:
    for text, name in (
        ("A clear 3", "02-a-clear-3"),
        ("A clear 8", "03-a-clear-8"),
        ("A clear 7", "01-a-clear-7"),
    ):
        answer = visitor.sample(text)
        assert visitor.label == answer["label"]["name"] == text[-1]
        assert visitor.sent == (SAMPLES / f"{name}.png").read_bytes()
        assert answer["certified_size"] > 0.5


def test_a_drawing_is_certified(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator("#waiting")).to_be_visible()
    # A small drawing in a corner, as people make them, is moved to the middle.
    answer = visitor.asks(lambda: visitor.draw((0.5, 0.1), (0.8, 0.1), (0.65, 0.5)))
    assert visitor.label == "7"
    assert answer["certified_size"] > 0.5
    assert answer["picture"] == {"width": 28, "height": 28, "mode": "L", "bits": 8}
    pixels = np.asarray(Image.open(io.BytesIO(visitor.sent)), dtype=float)
    mass = [float((pixels * grid).sum() / pixels.sum()) for grid in np.mgrid[:28, :28]]
    assert mass == pytest.approx([13.5, 13.5], abs=0.2)
    expect(page.locator("#sent-text")).to_have_text("Sent as 28 × 28 grey pixels, centred.")


@pytest.mark.slow
def test_a_sample_can_be_drawn_on(visitor: Visitor) -> None:
    answer = visitor.asks(lambda: visitor.draw((0.3, 0.5), (0.7, 0.5)))
    pixels = np.asarray(Image.open(io.BytesIO(visitor.sent)), dtype=int)
    sample = np.asarray(Image.open(SAMPLES / "01-a-clear-7.png"), dtype=int)
    assert answer["picture"]["mode"] == "L"
    assert (pixels[14, 10:18] == 255).all()
    assert (pixels[:11] == sample[:11]).all(), "the rest is unchanged"


@pytest.mark.slow
def test_the_slider_decides_whether_it_is_robust(visitor: Visitor) -> None:
    asked = visitor.asked
    visitor.slider.press("End")
    expect(visitor.pill).to_have_text("Not robust")
    expect(visitor.page.locator("#reading")).to_contain_text("more than the certified size")
    visitor.slider.press("Home")
    expect(visitor.pill).to_have_text("Robust")
    visitor.page.get_by_role("button", name="certified", exact=False).first.click()
    expect(visitor.pill).to_have_text("Robust")
    expect(visitor.slider).to_be_focused()
    visitor.slider.press("ArrowRight")
    expect(visitor.pill).to_have_text("Not robust")
    value = visitor.slider.get_attribute("aria-valuetext") or ""
    assert re.fullmatch(r"[\d.]+ in L2, not robust", value)
    assert visitor.asked == asked, "no request is needed for that"


@pytest.mark.slow
def test_it_names_the_labels_that_may_be_first_under_a_larger_attack(visitor: Visitor) -> None:
    answer = visitor.sample("almost a 9")
    told, certain = answer["attacks"], visitor.page.locator("#certain")
    names = {score["index"]: score["name"] for score in answer["scores"]}
    sets = []
    for at in range(101):
        least = max(score["lower"][at] for score in told["scores"])
        sets.append([names[s["index"]] for s in told["scores"] if s["upper"][at] >= least])
    at = next(at for at, some in enumerate(sets) if 1 < len(some) < 10)
    visitor.slider.fill(str(at))
    *first, last = sets[at]
    expect(certain).to_have_text(
        f"Such an attack might make it {', '.join(first)} or {last}, but no other label."
    )
    visitor.slider.press("Home")
    expect(certain).to_be_hidden()
    visitor.slider.press("End")
    expect(certain).to_be_hidden()


@pytest.mark.slow
def test_the_bars_are_what_the_service_says(visitor: Visitor) -> None:
    answer = visitor.sample("almost a 9")
    told, page = answer["attacks"], visitor.page
    for at in (0, 30, 100):
        visitor.slider.fill(str(at))
        expect(page.locator("#size-text")).to_have_text(f"{told['sizes'][at]:.12g} in L2")
        for score, attacked in zip(answer["scores"], told["scores"], strict=True):
            row = page.get_by_role("row", name=re.compile(f"^{score['name']} measured"))
            expect(row.locator(".value")).to_have_text(f"{score['expected']:.3f}")
            bounds = [attacked[side][number] for number in (0, at) for side in ("lower", "upper")]
            shown = re.findall(r"\d\.\d{3}", row.locator(".track").text_content() or "")
            assert [float(one) for one in shown] == pytest.approx(bounds, abs=0.001)
            for number, (one, bound) in enumerate(zip(shown, bounds, strict=True)):
                outside = -1 if number % 2 == 0 else 1
                assert outside * (float(one) - bound) > -1e-9, "rounded outwards"
            reach = row.locator(".reach")
            place = reach.evaluate("bar => [bar.offsetLeft, bar.offsetWidth]")
            width = reach.evaluate("bar => bar.parentElement.clientWidth")
            edges = [place[0] / width, (place[0] + place[1]) / width]
            assert edges == pytest.approx(bounds[2:], abs=0.01)


@pytest.mark.slow
def test_the_bounds_tighten_as_they_come_in(visit: Callable[..., Visitor]) -> None:
    visitor = visit(reduced_motion="no-preference")
    visitor.open()
    visitor.page.evaluate(
        """() => {
            window.seen = [];
            const measured = () => [...document.querySelectorAll("tr.top .measured")].map(
                ({ style }) => style.getPropertyValue("--to") - style.getPropertyValue("--from"));
            const text = document.querySelector("#progress-text");
            new MutationObserver(() => setTimeout(
                () => seen.push([text.textContent, measured()[0]]))
            ).observe(text, { childList: true });
        }"""
    )
    visitor.sample("A clear 3")
    seen: list[tuple[str, float]] = visitor.page.evaluate("seen")
    draws = [int(text.split()[0].replace(",", "")) for text, _ in seen]
    assert len(seen) > 5
    assert draws == sorted(draws)
    assert draws[-1] == 1000
    assert re.search(r" draws, about [\d,]+ a second$", seen[0][0])
    assert seen[0][1] > 3 * seen[-1][1], "the measured interval is narrower in the end"


@pytest.mark.slow
def test_confidence_draws_and_norm_are_sent(visitor: Visitor) -> None:
    page = visitor.page
    before = page.locator("#claim").text_content()
    page.get_by_label("Confidence").fill("0.999")
    answer = visitor.asks(
        lambda: page.get_by_label("Draws", exact=True).fill("300") or page.keyboard.press("Enter")
    )
    assert (answer["confidence"], answer["budget"]["asked"]) == (0.999, 300)
    assert page.locator("#claim").text_content() != before
    answer = visitor.asks(lambda: page.get_by_label("Norm").select_option("linf"))
    assert answer["norm"] == "linf"
    expect(page.locator("#claim")).to_contain_text("in L∞")


@pytest.mark.slow
def test_a_larger_picture_starts_near_what_is_certified(visitor: Visitor, tmp_path: Path) -> None:
    """Its sizes differ in scale: neither the last picture's size nor 0 would mean anything."""
    visitor.slider.press("End")
    pixels = np.zeros((1000, 1280), np.uint8)
    pixels[200:800, 600:700] = 255
    answer = visitor.asks(
        lambda: visitor.page.get_by_label("Choose a file").set_input_files(
            FilePayload(name="a.png", mimeType="image/png", buffer=made.save(pixels, "PNG"))
        )
    )
    size = float((visitor.page.locator("#size-text").text_content() or "").split()[0])
    assert 0.7 * answer["certified_size"] < size <= 0.8 * answer["certified_size"]
    expect(visitor.pill).to_have_text("Robust")
    expect(visitor.page.locator("#spread-text")).to_contain_text("All 1,280,000 pixels changed")
    expect(visitor.page.locator("#not-right")).to_contain_text("Robust does not mean right")
    assert f"target={size:.12g}&" in (visitor.page.locator("#curl").text_content() or "")
    visitor.slider.press("Home")
    assert "target" not in (visitor.page.locator("#curl").text_content() or "")


@pytest.mark.slow
def test_without_a_picture_there_is_nothing_to_send_or_copy(visitor: Visitor) -> None:
    page = visitor.page
    again = page.get_by_role("button", name="Certify again")
    expect(page.locator("#request")).to_be_visible()
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator("#request")).to_be_hidden()
    expect(again).to_be_disabled()
    visitor.sample("A clear 3")
    expect(page.locator("#request")).to_be_visible()
    expect(again).to_be_enabled()


def test_errors_are_sentences(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_label("Draws", exact=True).fill("64")
    page.get_by_label("Confidence").fill("0.99999999999999")
    page.get_by_role("button", name="Certify again").click()
    expect(visitor.problem).to_contain_text("nothing can be certified with 64 draws")
    expect(page.get_by_label("Confidence")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#result")).to_be_hidden()
    page.get_by_label("Confidence").fill("0.95")
    page.get_by_label("Draws", exact=True).fill("many")
    page.get_by_role("button", name="Certify again").click()
    expect(visitor.problem).to_contain_text("max_draws should be a valid integer")
    page.get_by_label("Draws", exact=True).fill("")
    visitor.asks(page.get_by_role("button", name="Certify again").click)
    expect(visitor.problem).to_be_hidden()
    page.get_by_label("Choose a file").set_input_files(
        FilePayload(name="note.txt", mimeType="image/png", buffer=b"no picture")
    )
    expect(visitor.problem).to_contain_text("not a picture that can be read")
    page.get_by_role("button", name="A clear 3").click()
    page.wait_for_selector(ANSWERED, state="attached")
    page.context.set_offline(True)
    page.get_by_role("button", name="A clear 3").click()
    expect(visitor.problem).to_contain_text("The service cannot be reached")
    page.context.set_offline(False)
    excused(visitor)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello", "Found: bytes of no known kind. Choose another file"),
        (b"%PDF-1.7\n", "Found: a PDF. Choose another file"),
        (b"", "It is empty. Choose another file"),
        (made.png_header(60_000, 60_000, 8, 0), "too many pixels. It may have at most "),
        (b"x" * 2**25, "too large. It may have at most "),
    ],
)
def test_a_wrong_file_leaves_nothing_to_send_or_copy(
    visitor: Visitor, content: bytes, sentence: str
) -> None:
    page = visitor.page
    if content.startswith(b"\x89PNG"):
        content += made.chunk(b"IDAT", b"") + made.chunk(b"IEND", b"")
    choose = page.get_by_label("Choose a file")
    choose.set_input_files(FilePayload(name="a.png", mimeType="", buffer=content))
    expect(visitor.problem).to_contain_text(sentence)
    expect(visitor.problem).not_to_contain_text("body")
    for part in ("#request", "#sent", "#result"):
        expect(page.locator(part)).to_be_hidden()
    expect(page.locator("#pad-hint")).to_be_visible()
    expect(page.get_by_role("button", name="Certify again")).to_be_disabled()
    visitor.sample("A clear 3")
    expect(page.locator("#request")).to_be_visible()
    excused(visitor)


QUARTERS = np.kron(np.array([[255, 170], [85, 0]], np.uint8), np.ones((14, 14), np.uint8))
FILES = {
    "turned.png": made.save(QUARTERS, "PNG", exif=b"Exif\0\0" + made.exif(6)),
    "turned.jpg": made.save(QUARTERS, "JPEG", quality=100, exif=b"Exif\0\0" + made.exif(6)),
    "turned.webp": made.save(
        np.repeat(QUARTERS[..., None], 3, axis=2), "WEBP", lossless=True, exif=made.exif(6)
    ),
    "turned.tif": made.save(QUARTERS, "TIFF", tiffinfo={274: 6}),
    "upright.pgm": made.save(QUARTERS, "PPM"),
    "sixteen.png": made.png(QUARTERS[..., None].astype(np.uint16) * 257, 16, 0),
    "gamma.png": made.png(QUARTERS[..., None], 8, 0, made.chunk(b"gAMA", (22_000).to_bytes(4))),
    "clear.png": made.png(np.dstack([0 * QUARTERS, 255 - QUARTERS]), 8, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_shown_as_it_is_certified(visitor: Visitor, name: str) -> None:
    choose = visitor.page.get_by_label("Choose a file")
    payload = FilePayload(name=name, mimeType="", buffer=FILES[name])
    answer = visitor.asks(lambda: choose.set_input_files(payload))
    assert visitor.sent == FILES[name]
    assert (answer["picture"]["width"], answer["picture"]["height"]) == (28, 28)
    seen = decode(FILES[name])
    values = seen.array()[7::14, 7::14, 0] // (257 if seen.bits == 16 else 1)
    shown = visitor.page.evaluate(
        """() => {
            const { width, height } = document.querySelector("#canvas");
            const context = document.querySelector("#canvas").getContext("2d");
            const at = (x, y) => context.getImageData(x * width, y * height, 1, 1).data[0];
            return [[at(0.25, 0.25), at(0.75, 0.25)], [at(0.25, 0.75), at(0.75, 0.75)]];
        }"""
    )
    assert shown == values.tolist()


def canvas(page: Page, name: str, channels: int) -> np.ndarray:
    """The pixel values of a canvas at its own resolution."""
    data, width, height = page.evaluate(
        """name => {
            const shown = document.getElementById(name);
            const { width, height } = shown;
            // Another canvas is read, so that the browser has nothing to say about this one.
            const context = new OffscreenCanvas(width, height).getContext("2d");
            context.drawImage(shown, 0, 0);
            const { data } = context.getImageData(0, 0, width, height);
            let text = "";
            for (const one of data) text += String.fromCharCode(one);
            return [btoa(text), width, height];
        }""",
        name,
    )
    values = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
    assert (values[..., 3] == 255).all()
    assert channels == 3 or (values[..., :1] == values[..., :3]).all(), "grey"
    return values[..., :channels].astype(int)


def measured(change: np.ndarray, norm: str) -> float:
    """The size of a change of values from 0 to 255, by the definition of its norm."""
    order = {"l1": 1, "l2": 2, "linf": np.inf}[norm]
    return float(np.linalg.norm(change.ravel() / 255, order))


def check_altered(visitor: Visitor, original: np.ndarray, size: float, norm: str) -> None:
    """The page shows the certified picture, and two changes of exactly the stated size.

    Another level in one value would exceed ``size``; two levels would where all values take part.
    """
    page = visitor.page
    title = page.locator("#altered-title")
    floor = np.floor(size * 10 ** (3 - np.floor(np.log10(size))))
    written = f"{floor * 10 ** (np.floor(np.log10(size)) - 3):.4g}"
    expect(title).to_contain_text(f"size {written} in ")
    channels = original.shape[2]
    np.testing.assert_array_equal(canvas(page, "unaltered", channels), original)
    for name in ("spread", "patch"):
        change = canvas(page, name, channels) - original
        shown = measured(change, norm)
        least = {
            "l1": size - 1 / 255,
            "l2": np.sqrt(size**2 - (2 / 255) ** 2),
            "linf": size - 1 / 255,
        }
        if name == "spread" and norm == "l2":  # another level in one value did not fit
            least["l2"] = np.sqrt(size**2 - (2 * abs(change).max() + 1) / 255**2)
        assert least[norm] - 1e-9 < shown <= size, (name, norm)
        pixels = int((change != 0).any(axis=2).sum())
        total = original.shape[0] * original.shape[1]
        text = page.locator(f"#{name}-text").text_content() or ""
        found = re.fullmatch(
            r"(?:All )?([\d,]+)(?: of ([\d,]+))? pixels changed, by at most (\d+) of 255 levels\. "
            r"Size: ([\d.]+) in .*\.",
            text,
        )
        assert found, text
        numbers = [int((one or found[1]).replace(",", "")) for one in found.groups()[:3]]
        assert numbers == [pixels, total, abs(change).max()], text
        assert shown * (1 - 1e-3) < float(found[4]) <= shown + 1e-9, text


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_altered_pictures_are_as_large_as_the_certificate(visitor: Visitor, norm: str) -> None:
    page = visitor.page
    page.get_by_label("Norm").select_option(norm)
    answer = visitor.asks(lambda: visitor.sample("A clear 3"))
    three = np.asarray(Image.open(THREE), dtype=int)[..., None]
    expect(page.locator("#altered-title")).to_contain_text("the certified size")
    check_altered(visitor, three, answer["certified_size"], norm)
    expect(page.locator("#altered-text")).to_contain_text("The certificate covers these changes")
    for at in (60, 100):
        visitor.slider.fill(str(at))
        check_altered(visitor, three, answer["attacks"]["sizes"][at], norm)
    expect(page.locator("#altered-text")).to_contain_text("does not cover this size")
    page.get_by_role("button", name="certified", exact=False).first.click()
    expect(page.locator("#altered-title")).to_contain_text("the certified size")
    check_altered(visitor, three, answer["certified_size"], norm)


@pytest.mark.slow
def test_a_large_picture_is_altered_at_its_own_resolution(visitor: Visitor) -> None:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (20, 32, 3)), np.ones((20, 15, 1))).astype(np.uint8)
    payload = FilePayload(name="a.png", mimeType="image/png", buffer=made.save(pixels, "PNG"))
    choose = visitor.page.get_by_label("Choose a file")
    answer = visitor.asks(lambda: choose.set_input_files(payload))
    assert answer["preprocessing"]["steps"]
    visitor.slider.fill("50")
    check_altered(visitor, pixels.astype(int), answer["attacks"]["sizes"][50], "l2")
    expect(visitor.page.locator("#altered-text")).to_contain_text("measured on the picture as sent")


@pytest.mark.slow
def test_a_picture_too_large_to_be_altered_says_so(visitor: Visitor) -> None:
    pixels = np.zeros((2100, 2050), np.uint8)
    payload = FilePayload(name="a.png", mimeType="image/png", buffer=made.save(pixels, "PNG"))
    choose = visitor.page.get_by_label("Choose a file")
    visitor.asks(lambda: choose.set_input_files(payload))
    expect(visitor.page.locator("#altered-text")).to_contain_text(
        "2,050 × 2,100 pixels is too large"
    )
    expect(visitor.page.locator("#pictures")).to_be_hidden()


@pytest.mark.slow
def test_pictures_are_chosen_dropped_and_pasted(visitor: Visitor) -> None:
    page, three = visitor.page, THREE
    answer = visitor.asks(lambda: page.get_by_label("Choose a file").set_input_files(three))
    assert answer["label"]["name"] == "3"
    expect(page.locator("#sent-text")).to_have_text("Sent as it is: 02-a-clear-3.png.")
    for event, target, member in (
        ("drop", "DragEvent", "dataTransfer"),
        ("paste", "ClipboardEvent", "clipboardData"),
    ):
        visitor.sample("A clear 7")
        answer = visitor.asks(
            lambda event=event, target=target, member=member: page.evaluate(
                """async ([event, kind, member]) => {
                    const file = "page/samples/mnist-cnn/03-a-clear-8.png";
                    const bytes = await (await fetch(file)).blob();
                    const data = new DataTransfer();
                    data.items.add(new File([bytes], "8.png", { type: "image/png" }));
                    const init = { [member]: data, bubbles: true, cancelable: true };
                    document.dispatchEvent(new window[kind](event, init));
                }""",
                [event, target, member],
            )
        )
        assert answer["label"]["name"] == "8", event


def test_everything_can_be_done_with_the_keyboard(visitor: Visitor) -> None:
    page = visitor.page

    def go_to(target: Locator) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if target.evaluate("element => element === document.activeElement"):
                outline = target.evaluate(
                    "element => getComputedStyle(element.matches('#file') ? "
                    "element.nextElementSibling : element).outlineStyle"
                )
                assert outline != "none", "the focus is visible"
                return
        raise AssertionError(f"the keyboard does not reach {target}")

    page.evaluate("document.activeElement.blur()")
    go_to(page.get_by_role("link", name="Skip to the picture"))
    page.keyboard.press("Enter")
    go_to(page.get_by_label("Choose a file"))
    go_to(page.get_by_role("button", name="A clear 3"))
    visitor.asks(lambda: page.keyboard.press("Enter"))
    assert visitor.label == "3"
    go_to(page.get_by_label("Confidence"))
    page.keyboard.press("Control+A")
    page.keyboard.type("0.99")
    visitor.asks(lambda: page.keyboard.press("Enter"))
    expect(page.locator("#claim")).to_contain_text("with 99% confidence")
    go_to(page.get_by_role("button", name="Certify again"))
    go_to(visitor.slider)
    page.keyboard.press("End")
    expect(visitor.pill).to_have_text("Not robust")
    go_to(page.get_by_role("tab", name="curl"))
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Python")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Python")).to_contain_text("pixeldp_client")


def test_it_is_accessible_in_light_and_dark(visit: Callable[..., Visitor]) -> None:
    # axe is injected into the page, which the page's own policy forbids.
    visitor = visit(bypass_csp=True)
    visitor.open()
    for scheme in SCHEMES:
        visitor.page.emulate_media(color_scheme=scheme)
        found = Axe().run(visitor.page)
        assert found.violations_count == 0, found.generate_report()
        ground = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = np.mean([int(part) for part in re.findall(r"\d+", ground)[:3]])
        assert (brightness < 60) == (scheme == "dark")
    choose_sticker(visitor, 1)
    found = Axe().run(visitor.page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.slow
def test_it_fits_on_a_phone(visit: Callable[..., Visitor]) -> None:
    visitor = visit(PHONE, has_touch=True, is_mobile=True)
    visitor.open()
    page = visitor.page
    page.get_by_role("tab", name="Python").tap()
    for width in (PHONE[0], 320):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("scrollTo(0, 0)")
    strip = page.get_by_role("link", name=re.compile("^7 ?certified .*, robust$"))
    expect(strip).to_be_visible()
    strip.tap()
    expect(strip).to_be_hidden()
    expect(page.locator("#claim")).to_be_in_viewport()


@pytest.mark.slow
def test_the_requests_to_copy_work(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    page.get_by_label("Norm").select_option("l1")
    visitor.asks(lambda: visitor.sample("A clear 3"))
    with page.expect_download() as download:
        page.get_by_role("link", name="Save it").click()
    download.value.save_as(tmp_path / download.value.suggested_filename)
    size = page.locator("#size-text").text_content()
    command = page.locator("#curl").text_content() or ""
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["label"]["name"] == "3"
    assert f"{answer['target']:.12g} in L1" == size
    page.get_by_role("tab", name="Python").click()
    program = page.get_by_role("tabpanel", name="Python").locator("code").text_content() or ""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"3 [\d.]+ True\n", done.stdout)


def choose_sticker(visitor: Visitor, side: int) -> dict[str, Any]:
    """Ask about stickers of that side."""
    page = visitor.page
    visitor.sample("A clear 3")
    visitor.asks(lambda: page.get_by_label("Threat").select_option("sticker"))
    field = page.get_by_label("Sticker’s side")
    expect(field).to_have_value("2")
    answer = visitor.asks(lambda: field.fill(str(side)) or field.press("Enter"))
    assert (answer["threat"], answer["target"]) == ("sticker", side)
    assert "certified_size" not in answer
    return answer


@pytest.mark.parametrize("side", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_stickers_are_never_mixed_with_norms(visitor: Visitor, side: int) -> None:
    """No size, norm, confidence or noise is shown, certified or not."""
    page = visitor.page
    certified = choose_sticker(visitor, side)["sticker"]["certified"]
    assert certified is (side == 1)
    words = {
        True: f"No sticker of {side} × {side} pixels can make this anything but 3, wherever it is "
        "and whatever is on it. This is certain.",
        False: f"The answer is 3, but nothing is certified: some sticker of {side} × {side} "
        "pixels might change it.",
    }[certified]
    expect(page.locator("#claim")).to_have_text(words)
    expect(page.get_by_role("status").first).to_have_text(words)
    expect(page.locator("#sticker-pill")).to_have_text(
        "Certified" if certified else "Not certified"
    )
    for part in ("#sized", "#confidence-field", "#draws-field", "#norm-field"):
        expect(page.locator(part)).to_be_hidden()
    shown = page.locator("#result").inner_text() + page.locator("#strip").inner_text()
    assert not re.search(r"L1|L2|L∞|[Nn]oise|confidence|draws|certified size", shown), shown
    original = np.asarray(Image.open(THREE), dtype=int)
    rows, columns = np.nonzero(canvas(page, "pasted", 1)[..., 0] != original)
    assert max(np.ptp(rows), np.ptp(columns)) < side
    page.get_by_label("Threat").select_option("norm")
    expect(page.locator("#claim")).to_contain_text("with 95% confidence")
    expect(page.locator("#stickered")).to_be_hidden()
    expect(page.locator("#sized")).to_be_visible()


def test_of_a_sticker_longer_than_a_side_the_picture_shows_what_it_covers(visitor: Visitor) -> None:
    """Models whose input is not square answer about such stickers; this service has none."""
    for height, width, covered in ((28, 100, "height"), (100, 28, "width"), (40, 41, None)):
        visitor.page.evaluate(
            """async ([height, width]) => {
                const { show } = await import(new URL("page/stickers.js", document.baseURI));
                const pixels = new Uint8Array(height * width * 3).fill(99);
                const original = { pixels, height, width, channels: 3 };
                const sticker = { side: 40, certified: true };
                show({ sticker, picture: original }, original);
            }""",
            [height, width],
        )
        altered = (canvas(visitor.page, "pasted", 3) != 99).all(2)
        assert altered.shape == (height, width)
        rows, columns = min(height, 40), min(width, 40)
        top, left = (height - rows) // 2, (width - columns) // 2
        assert altered.sum() == rows * columns
        assert altered[top : top + rows, left : left + columns].all()
        said = visitor.page.locator("#stickered-text").text_content() or ""
        told = re.findall(r"It is more than the picture’s (.*), which such a sticker", said)
        assert told == ([covered] if covered else [])


@pytest.mark.slow
@pytest.mark.slow
def test_a_sticker_that_is_too_large_is_a_sentence(visitor: Visitor) -> None:
    choose_sticker(visitor, 3)
    field = visitor.page.get_by_label("Sticker’s side")
    for side, sentence in (("28", "hides the whole of a picture"), ("2.5", "whole number")):
        field.fill(side)
        field.press("Enter")
        expect(visitor.problem).to_contain_text(sentence)
        expect(field).to_have_attribute("aria-invalid", "true")
    excused(visitor)


@pytest.mark.slow
@pytest.mark.slow
def test_the_requests_about_stickers_work(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    certified = choose_sticker(visitor, 3)["sticker"]["certified"]
    (tmp_path / "02-a-clear-3.png").write_bytes(visitor.sent)
    command = page.locator("#curl").text_content() or ""
    told = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert json.loads(told.stdout)["sticker"]["certified"] is certified
    page.get_by_role("tab", name="Python").click()
    program = page.get_by_role("tabpanel", name="Python").locator("code").text_content() or ""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"3 Sticker\(certified={certified}, .*side=3\) {certified}\n", done.stdout)


def test_browsers_cache_files_but_revalidate_them(client: httpx.Client) -> None:
    for path in ("/", "/page/main.js", "/page/style.css", "/page/favicon.svg"):
        response = client.get(path)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-cache"
        again = client.get(path, headers={"If-None-Match": response.headers["ETag"]})
        assert again.status_code == 304
        assert again.content == b""
        assert client.head(path).status_code == 200
    assert "default-src 'self'" in client.get("/").headers["Content-Security-Policy"]
    for path in ("/page/", "/page/none.js", "/page/%2e%2e/api/page.py"):
        assert client.get(path).json()["type"] == "/problems/not-found"


@pytest.mark.slow
def test_screenshots(visitor: Visitor, tmp_path: Path) -> None:
    """PIXELDP_SCREENSHOTS=docs/images makes those of the documentation."""
    folder, page = Path(os.environ.get("PIXELDP_SCREENSHOTS", tmp_path)), visitor.page
    visitor.sample("almost a 1")
    visitor.slider.fill("10")
    for name, (width, height) in (("page", DESKTOP), ("page-phone", PHONE)):
        page.set_viewport_size({"width": width, "height": height})
        if width == PHONE[0]:
            page.locator("#answer").evaluate("answer => answer.scrollIntoView()")
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            file = folder / f"{name}{'-dark' if scheme == 'dark' else ''}.png"
            page.screenshot(path=file, animations="disabled")
            picture = Image.open(file)
            assert picture.size == (width, height)
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20


class Guarded:
    """A service that asks for keys, with models for colour pictures and for many labels.

    One brings no samples, and one brings its own.
    """

    def __init__(self, start: Start, folder: Path) -> None:
        labels = [f"label {number}" for number in range(30)]
        shape = {"channels": 3, "height": 16, "width": 24}
        description = {**DESCRIPTION, "name": "colours", "labels": labels, "input": shape}
        manifest = Manifest.model_validate(description)
        torch.manual_seed(0)
        save_network(folder / "colours", manifest, build_network(manifest))
        shutil.copytree(folder / "colours", folder / "own")
        own = manifest.model_copy(update={"name": "own"})
        save_network(folder / "own", own, build_network(own))
        (folder / "own" / "samples").mkdir()
        self.sample = made.save(made.noise(16, 24, 3), "PNG")
        (folder / "own" / "samples" / "two red_dots.PNG").write_bytes(self.sample)
        self.key = add(folder / "keys.json", "page", ["predict"], None)
        self.service = start(
            ZOO / "mnist-cnn",
            folder / "colours",
            folder / "own",
            environment={**PLAIN, "PIXELDP_KEYS": str(folder / "keys.json")},
        )


@pytest.fixture(scope="module")
def guarded(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    guarded = Guarded(start, tmp_path_factory.mktemp("guarded"))
    yield guarded
    assert guarded.service.stop() == 0


@pytest.mark.slow
def test_the_page_asks_for_a_key_and_keeps_it_in_the_tab(
    visit: Callable[..., Visitor], guarded: Guarded
) -> None:
    visitor = visit(address=guarded.service.address)
    page = visitor.page
    page.goto(visitor.address)
    field = page.get_by_label("This service asks for an API key")
    expect(field).to_be_focused()
    expect(visitor.problem).to_contain_text("Send a key")
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(visitor.problem).to_contain_text("The key is unknown")
    field.fill(guarded.key)
    visitor.asks(page.get_by_role("button", name="Use this key").click)
    expect(field).to_be_hidden()
    assert visitor.label == "7"
    assert "$PIXELDP_KEY" in (page.locator("#curl").text_content() or "")
    assert guarded.key not in page.content()
    visitor.asks(page.reload)
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    excused(visitor)


def search_labels(page: Page) -> None:
    """Search among the model's labels, "label 0" to "label 29"."""
    page.get_by_text("The 30 labels that this model knows").click()
    shown = page.get_by_label("Labels", exact=True).get_by_role("listitem")
    expect(shown).to_have_count(30)
    search = page.get_by_label("Search the labels")
    search.fill("LABEL 2")
    expect(shown).to_have_text(["label 2", *(f"label {number}" for number in (12, *range(20, 30)))])
    expect(page.locator("#labels-found")).to_have_text("12 of 30")
    search.fill("zebra")
    expect(shown).to_have_count(0)
    expect(page.locator("#labels-found")).to_contain_text("the model cannot give that answer")


@pytest.mark.slow
def test_colour_pictures_and_many_labels(visit: Callable[..., Visitor], guarded: Guarded) -> None:
    visitor = visit(address=guarded.service.address)
    page = visitor.page
    page.add_init_script(f"sessionStorage.setItem('pixeldp-key', {guarded.key!r})")
    visitor.open()
    page.get_by_label("Model").select_option(label="colours 1 · 24 × 16 colour")
    expect(page.locator("#samples")).to_be_hidden()
    expect(page.locator("#no-samples")).to_contain_text("This model comes without samples")
    expect(page.locator("#waiting")).to_have_text(
        "There is no picture yet: draw one, choose a file."
    )
    expect(page.locator("#request")).to_be_hidden()
    search_labels(page)
    answer = visitor.asks(page.get_by_role("button", name="Use a test pattern").click)
    assert answer["picture"] == {"width": 24, "height": 16, "mode": "RGB", "bits": 8}
    pattern = np.asarray(Image.open(io.BytesIO(visitor.sent)))
    assert len(np.unique(pattern.reshape(-1, 3), axis=0)) > 10
    expect(page.get_by_role("img", name="A test pattern. It can be drawn on")).to_be_visible()
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_label("Ink").fill("#ff0000")
    answer = visitor.asks(lambda: visitor.draw((0.1, 0.5), (0.9, 0.5)))
    assert answer["picture"] == {"width": 24, "height": 16, "mode": "RGB", "bits": 8}
    pixels = np.asarray(Image.open(io.BytesIO(visitor.sent)))
    assert pixels.shape == (16, 24, 3)
    assert (pixels[7:9, 12] - [255, 0, 0] < 40).all()
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert page.get_by_role("row").count() == 1 + 5 + 1, "a header, five labels, and all the others"
    expect(page.get_by_role("row", name="all others")).to_contain_text("under attack at most")


@pytest.mark.slow
def test_a_model_brings_its_own_samples(visit: Callable[..., Visitor], guarded: Guarded) -> None:
    visitor = visit(address=guarded.service.address)
    page = visitor.page
    page.add_init_script(f"sessionStorage.setItem('pixeldp-key', {guarded.key!r})")
    visitor.open()
    chosen = {"label": "own 1 · 24 × 16 colour"}
    visitor.asks(lambda: page.get_by_label("Model").select_option(**chosen))
    assert visitor.sent == guarded.sample
    expect(page.get_by_role("button", name="Two red dots")).to_have_count(1)
    expect(page.get_by_role("button", name="A clear 7")).to_have_count(0)
    expect(page.locator("#no-samples")).to_be_hidden()
    expect(page.locator("#sent-text")).to_have_text("Sent as it is: Two red dots.")
    image = page.locator(".sample img")
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [24, 16]
    assert visitor.sample("Two red dots")["label"]
    original = np.asarray(Image.open(io.BytesIO(guarded.sample)), dtype=int)
    np.testing.assert_array_equal(canvas(page, "unaltered", 3), original)


def test_samples_are_served_to_clients_who_may_predict(guarded: Guarded) -> None:
    with httpx.Client(base_url=guarded.service.address) as client:
        path = "/page/samples/own:1/two%20red_dots.PNG"
        assert client.get(path).status_code == 401
        client.headers["Authorization"] = f"Bearer {guarded.key}"
        response = client.get(path)
        assert response.content == guarded.sample
        assert response.headers["Content-Type"] == "image/png"
        assert client.get("/models/own").json()["samples"] == ["two red_dots.PNG"]
        assert client.get("/models/colours").json()["samples"] == []
        for wrong in ("own/none.png", "own/..%2Fmodel.json", "colours/two%20red_dots.PNG"):
            assert client.get(f"/page/samples/{wrong}").status_code == 404, wrong
        assert client.get("/page/samples/none/a.png").json()["type"] == "/problems/unknown-model"


# Records what the page says while it waits, as a sentence may be gone before a test looks.
WATCH = """
    const waiting = document.querySelector("#waiting");
    window.said = [];
    const options = { childList: true, characterData: true, subtree: true };
    new MutationObserver(() => said.push(waiting.textContent)).observe(waiting, options);
"""


@pytest.mark.slow
@pytest.mark.slow
def test_looks_are_void_when_their_worker_is_lost(
    visit: Callable[..., Visitor], own: OwnNetwork, alone: Service, tmp_path: Path
) -> None:
    visitor = visit(address=alone.address)
    page = visitor.page
    page.goto(visitor.address)
    dark = FilePayload(name="a.png", mimeType="image/png", buffer=picture(tmp_path, 51))
    own.say("hold")
    page.get_by_label("Choose a file").set_input_files(dark)
    expect(page.locator("#result")).to_be_visible()  # the looks before
    page.evaluate(WATCH)
    own.wait_held()
    [worker] = workers(alone.process.pid)
    os.kill(worker, signal.SIGKILL)
    own.unsay("hold")
    page.wait_for_selector(ANSWERED, state="attached", timeout=300_000)
    assert page.evaluate("said") == ["The picture begins again; earlier looks are void."]
    told: str = page.evaluate("heard.at(-1).told")
    assert told.count("event: restart") == told.count("event: answer") == 1
    assert visitor.label == "0"
