"""The links of the documents in the repository. The site, built and read, is `make docs`'s."""

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tools.site import ROOT, documents

FILES = documents(ROOT)


def tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, named as GitHub and the site name them."""
    pairs = pairwise(tokens(path))
    headings = [text.content.lower() for one, text in pairs if one.type == "heading_open"]
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    inline = [child for token in tokens(path) for child in token.children or ()]
    return [str(one.attrs["href"]) for one in inline if one.type == "link_open"]


@pytest.mark.parametrize("document", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in links(document):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (document.parent / unquote(parts.path)).resolve() if parts.path else document
        assert target.exists(), link
        if parts.fragment:
            # The site shows other files as sources, which have no headings.
            assert target in FILES, f"{link}: only documents of the site have anchors"
            assert unquote(parts.fragment) in anchors(target), link
