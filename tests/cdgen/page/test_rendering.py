"""A page shows whatever it is given as text, and lets no script run but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from cdgen.page.parts import Figure, Page, Samples, Section, Table
from cdgen.page.rendering import as_json, fragment, html_of, markdown_of

HOSTILE = "</script><script>alert('&')</script> \u202e\u05d0 \x00 \ud800 \x1b[31m {{ 7 * 7 }}"
ESCAPED = (
    "&lt;/script&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt; \\u202e\u05d0 \\u0000"
    " \\ud800 \\u001b[31m {{ 7 * 7 }}"
)


def hostile_page(**more: object) -> Page:
    return Page(
        title=HOSTILE,
        kind=HOSTILE,
        answer=[HOSTILE],
        warnings=[HOSTILE],
        sections=[
            Section(
                "s",
                HOSTILE,
                [HOSTILE],
                figures=[Figure("f", HOSTILE, HOSTILE, "<svg></svg>", HOSTILE)],
                tables=[Table(HOSTILE, [HOSTILE, ""], [[HOSTILE, HOSTILE]])],
                samples=[Samples(HOSTILE, {HOSTILE: HOSTILE})],
                commands=[HOSTILE],
            )
        ],
        **more,  # type: ignore[arg-type]
    )


def test_all_text_is_shown_as_text() -> None:
    found = html_of(hostile_page())
    found.encode()  # no half of a surrogate pair is left
    assert "<script" not in found
    assert found.count(ESCAPED) == found.count("alert") > 10, "every time it is shown"
    assert "49" not in found, "text is no template"
    markdown_of(hostile_page()).encode()


def test_only_the_scripts_of_the_page_may_run() -> None:
    script = "document.title = 'a<b';"
    found = html_of(hostile_page(scripts=[script]))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [line for line in found.splitlines() if "Content-Security-Policy" in line]
    assert "default-src &#39;none&#39;" in policy and f"sha256-{digest}" in policy
    assert f"<script>{script}</script>" in found, "the bytes that were hashed"
    assert "script-src &#39;none&#39;" in html_of(hostile_page())


def test_json_within_a_page_cannot_end_its_element() -> None:
    values = {"text": HOSTILE, "numbers": [1.5, -2]}
    found = as_json(values)
    assert not set("<>&\x00") & set(found)
    assert json.loads(found) == values


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json(float("nan"))


def test_a_fragment_escapes_what_it_is_given(tmp_path: Path) -> None:
    template = tmp_path / "part.html.jinja"
    template.write_text('<p title="{{ text }}">{{ text }}</p>')
    found = fragment(template, text=HOSTILE)
    assert found == f'<p title="{ESCAPED}">{ESCAPED}</p>'
    page = html_of(Page("t", "k", [], [], [Section("s", "s", markup=found)]))
    assert found in page
