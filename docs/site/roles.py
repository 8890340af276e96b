"""A hook of mkdocs: names in docstrings are shown as code, without the role before them."""

import re

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):<code>~?")


def on_page_content(html: str, **_: object) -> str:
    """Return the text of a page with each :class:`name` as plain code."""
    return ROLE.sub("<code>", html)
