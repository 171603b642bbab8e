"""Histograms: their bars, what they say without being seen, and that names are text."""

from __future__ import annotations

from xml.etree import ElementTree

from cdgen.page.charts import Bin, histogram

BINS = [Bin("0", "9"), Bin("10", "19"), Bin("20", "29")]
SVG = "{http://www.w3.org/2000/svg}"


def bars(svg: str) -> list[tuple[str, float, float]]:
    """Return the class, the left side and the height of every bar with a value."""
    found = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    return [
        (bar.attrib["class"], float(bar.attrib["x"]), float(bar.attrib["height"]))
        for bar in found
        if bar.find(f"{SVG}title") is not None
    ]


def test_heights_are_the_shares() -> None:
    figure = histogram("h", "t", "tokens", BINS, {"one": [0.25, 0.5, 0.25]})
    (_, x0, low), (_, x1, high), (_, x2, same) = bars(figure.svg)
    assert abs(high - 2 * low) < 0.2 and same == low
    assert x0 < x1 < x2
    assert figure.text == "one: most often 10 to 19 (50 %)"


def test_two_series_stand_side_by_side() -> None:
    figure = histogram("h", "t", "tokens", BINS, {"one": [1, 0, 0], "two": [0.5, 0, 0.5]})
    assert [kind for kind, _, _ in bars(figure.svg)] == ["bar bar-0", "bar bar-1", "bar bar-1"]
    (_, first, height), (_, second, half), _ = bars(figure.svg)
    assert first < second and abs(height - 2 * half) < 0.2
    assert "one" in figure.svg and "two" in figure.svg, "a legend"


def test_names_are_text() -> None:
    figure = histogram("h", "t", "<b>", [Bin("&", "<")], {"<x>": [1.0], "\x00": [1.0]})
    words = "".join(ElementTree.fromstring(figure.svg).itertext())
    assert "<x>" in words and "<b>" in words and "\\u0000" in words


def test_nothing_to_draw() -> None:
    figure = histogram("h", "t", "tokens", BINS, {"one": [0.0, 0.0, 0.0]})
    assert bars(figure.svg) == [] and figure.text == "one: nothing"
    ElementTree.fromstring(histogram("h", "t", "tokens", [], {"one": []}).svg)


def test_many_bins_have_few_labels() -> None:
    bins = [Bin(f"from {i}", "") for i in range(100)]
    figure = histogram("h", "t", "tokens", bins, {"one": [0.01] * 100})
    labels = [text.text for text in ElementTree.fromstring(figure.svg).iter(f"{SVG}text")]
    assert 4 < sum(label.startswith("from") for label in labels if label) <= 8
