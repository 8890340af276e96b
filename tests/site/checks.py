"""The documents' site, built and read in a browser. The file's name keeps it out of `make test`.

`make docs` runs it, as it installs what this needs.
"""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from tools.site import PICTURES, ROOT, build

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DIAGRAM = """# Processes

```mermaid
flowchart LR
    front[Front] --> worker[Worker]
```
"""
# What a page makes a browser fetch by itself, and what it only links to.
FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("audio", "src"),
    ("object", "data"),
    ("use", "href"),
}
BLOCKS = ("h1", "h2", "h3", "pre", "li", "table", "blockquote", "img")


class Document(HTMLParser):
    """A page: its anchors, its links, what it fetches, and the number of blocks in its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.blocks = dict.fromkeys(BLOCKS, 0)
        self.inside = False
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        # A canonical address is stated, not fetched.
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.fetched.append(values["href"])
        self.fetched += [values[name] for name in values if (tag, name) in FETCHED]
        self.inside = self.inside or tag == "article"
        if self.inside and tag in BLOCKS:
            self.blocks[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "article"


class Site:
    """A built site, served on loopback, and the documents from which it was built."""

    def __init__(self, folder: Path, root: Path, address: str) -> None:
        self.folder, self.root, self.address = folder, root, address
        files = sorted(folder.rglob("*.html"))
        self.pages = {file.relative_to(folder).as_posix(): Document(file) for file in files}

    def lead(self, page: str, link: str) -> tuple[str, str]:
        """Return the site's file to which a link leads, and the anchor in it."""
        address, anchor = urldefrag(urljoin(f"/{page}", link))
        path = unquote(urlsplit(address).path).lstrip("/")
        return f"{path}index.html" if path.endswith("/") or not path else path, anchor


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The project's site with one more document, which has a diagram."""
    root, folder = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("site")
    for path in ROOT.iterdir():
        if path.name != "docs":
            (root / path.name).symlink_to(path)
    shutil.copytree(ROOT / "docs", root / "docs", ignore=shutil.ignore_patterns("node_modules"))
    (root / "docs" / "diagram.md").write_text(DIAGRAM)
    build(root, folder)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Site(folder, root, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_no_page_fetches_anything_from_another_host(site: Site) -> None:
    for page, document in site.pages.items():
        for link in document.fetched:
            assert not urlsplit(link).netloc, (page, link)
            file, _ = site.lead(page, link)
            assert (site.folder / file).is_file(), (page, link)
    for sheet in site.folder.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert "@import" not in text, sheet
        for address in re.findall(r"url\(\s*[\"']?([^)\"']+)", text):
            assert address.startswith(("data:", "#")) or not urlsplit(address).netloc, sheet


def test_every_link_leads_to_an_existing_page_and_anchor(site: Site) -> None:
    count = 0
    for page, document in site.pages.items():
        for link in document.links:
            if urlsplit(link).scheme in ("http", "https"):
                # Other hosts are not asked here; only the form of these addresses is checked.
                assert "." in urlsplit(link).netloc or "127.0.0.1" in link, (page, link)
                continue
            file, anchor = site.lead(page, link)
            assert (site.folder / file).is_file(), (page, link)
            # Skip links and the top of a page need no element.
            if anchor and anchor not in ("", "__skip"):
                assert unquote(anchor) in site.pages[file].ids, (page, link)
            count += 1
    assert count > 1000


def documents(site: Site) -> Iterator[tuple[str, str]]:
    """Yield each document by its name, and the page made from it."""
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "RELEASE.md", "SECURITY.md"):
        yield name, "index.html" if name == "README.md" else f"{Path(name).stem}/index.html"
    yield "client/README.md", "client/index.html"
    for path in sorted((site.root / "docs").rglob("*.md")):
        name = path.relative_to(site.root).as_posix()
        yield name, f"{name.removesuffix('README.md').removesuffix('.md').rstrip('/')}/index.html"
    for path in sorted((site.root / "models/zoo").glob("*/README.md")):
        yield path.relative_to(site.root).as_posix(), f"models/zoo/{path.parent.name}/index.html"


def test_every_document_is_a_page_that_is_built_as_commonmark_builds_it(site: Site) -> None:
    """Lists, code, tables, headings and pictures, as in a view of the repository."""
    for name, page in documents(site):
        parser = MarkdownIt("commonmark").enable("table")
        plain = parser.render((site.root / name).read_text(encoding="utf-8"))
        counted = {block: plain.count(f"<{block}") for block in BLOCKS}
        # <li also begins <link, which no document has.
        assert site.pages[page].blocks == counted, name


def test_interfaces_are_generated_from_the_docstrings(site: Site) -> None:
    size = site.pages["api/models.certification.certificates/index.html"]
    assert "models.certification.certificates.size" in size.ids
    client = site.pages["api/pixeldp_client/index.html"]
    assert {"pixeldp_client.Client", "pixeldp_client.Client.predict"} <= client.ids


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("NOT TESTED in a browser: chromium is not installed here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A window that must not ask other hosts for anything, nor have an error."""
    context = browser.new_context()
    page = context.new_page()
    asked: list[Request] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    yield page
    context.close()
    assert wrong == []
    others = [one.url for one in asked if not one.url.startswith((site.address, "data:", "blob:"))]
    assert others == []


def test_no_page_asks_another_host(site: Site, page: Page) -> None:
    for name in site.pages:
        page.goto(f"{site.address}/{name}", wait_until="networkidle")


def test_diagrams_are_drawn(site: Site, page: Page) -> None:
    page.goto(f"{site.address}/docs/diagram/")
    # It is drawn into the element's shadow root, into which locators look only if it is open.
    page.wait_for_function("document.querySelector('div.mermaid') !== null", timeout=60_000)
    box = page.locator("div.mermaid").bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) > 30


def test_searching_finds(site: Site, page: Page) -> None:
    page.goto(f"{site.address}/")
    page.get_by_role("textbox", name="Search").press_sequentially("Clopper")
    found = page.locator(".md-search-result__item a").first
    expect(found).to_be_visible(timeout=60_000)
    indexed = json.loads((site.folder / "search" / "search_index.json").read_text())
    assert len(indexed["docs"]) > 100


def test_sources_that_documents_link_to_are_shown(site: Site) -> None:
    """A file and a folder; neither is part of the site itself."""
    fallback = site.folder / "docs" / "fallback" / "index.html"
    assert "source/examples/fallback.py/" in fallback.read_text()
    assert "server {" in (site.folder / "source/deploy/nginx/index.html").read_text()
    assert (site.folder / PICTURES / "page.png").is_file()
    assert not [path for path in site.folder.rglob("*.py") if path.is_file()]
