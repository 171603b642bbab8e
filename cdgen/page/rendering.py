"""A page as one HTML file and as Markdown.

Whatever a corpus, a model or a file's name says is shown as text. Should some of it ever pass for
markup, the content security policy of the page still lets no script run but the page's own, and
loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from cdgen.page.parts import Page
from cdgen.shown_text import in_markdown, shown

_TEMPLATES = Path(__file__).parent / "templates"


def html_of(page: Page) -> str:
    """Return the page as a document that needs nothing but itself."""
    template = _templates(_TEMPLATES).get_template("page.html.jinja")
    return str(template.render(page=page, policy=_policy(page)))


def markdown_of(page: Page) -> str:
    """Return the page as Markdown, with its figures as files in figures/."""
    return str(_templates(_TEMPLATES).get_template("page.md.jinja").render(page=page))


def fragment(template: Path, **values: Any) -> str:
    """Return the markup that the template file, named *.html.jinja, makes of `values`.

    Strings among them are escaped; a template may say `{% import "page.html.jinja" as page %}`.
    """
    found = _templates(template.parent).get_template(template.name)
    return _markup(found.render(**values))


def as_json(value: object) -> str:
    """Return `value` as JSON for a <script type="application/json"> element, which no text in it
    can end."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII
    return _markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _markup(text: str) -> str:
    from markupsafe import Markup

    return Markup(text)


def _policy(page: Page) -> str:
    """Return the content security policy: no script but the page's own, no network."""
    hashes = [hashlib.sha256(script.encode()).digest() for script in page.scripts]
    own = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes]
    scripts = " ".join(own) or "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {scripts}"


@cache
def _templates(folder: Path) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader([folder, _TEMPLATES]),
        autoescape=lambda name: name is not None and ".html" in name,
        finalize=lambda value: shown(value) if type(value) is str else value,  # else it is markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"cell": _markdown_cell, "fence": _fence, "unbroken": _unbroken}
    return templates


def _unbroken(text: str) -> str:
    """Keep numbers and their percent signs on one line."""
    return text.replace(" %", "\u00a0%")


def _markdown_cell(text: str) -> str:
    """Return text that stays text in a cell of a Markdown table, with its asterisks and
    underscores."""
    return in_markdown(text).replace("*", "\\*").replace("_", "\\_")


def _fence(text: str) -> str:
    """Return a fence that is longer than any row of backticks in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
