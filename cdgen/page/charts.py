"""Histograms as SVG, drawn in the colours of the page, which may be light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from cdgen.page.parts import Figure
from cdgen.shown_text import shown

_WIDTH, _HEIGHT = 480, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 30, 46  # the margins around the bars
_MOST_LABELS = 8


@dataclass(frozen=True)
class Bin:
    label: str  # where it begins, as the axis says it
    end: str  # where it ends


def histogram(
    name: str,
    title: str,
    axis: str,  # what the bins are bins of
    bins: Sequence[Bin],
    shares: Mapping[str, Sequence[float]],  # one or two series, one share of the whole per bin
    note: str = "",
) -> Figure:
    """Draw the shares of each series, two of them side by side within each bin."""
    highest = max((max(own, default=0.0) for own in shares.values()), default=0.0) or 1.0
    parts = [*_scale(highest), *_axis(axis, bins)]
    for index, own in enumerate(shares.values()):
        parts += _bars(own, bins, index, len(shares), highest)
    parts += _legend(list(shares)) if len(shares) > 1 else []
    svg = (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" xmlns="http://www.w3.org/2000/svg">'
        f"{''.join(parts)}</svg>"
    )
    said = "; ".join(f"{series}: {_peak(own, bins)}" for series, own in shares.items())
    return Figure(name, title, said, svg, note)


def _peak(shares: Sequence[float], bins: Sequence[Bin]) -> str:
    """Say where a series is highest, for those who do not see it."""
    if not any(shares):
        return "nothing"
    top = max(range(len(bins)), key=lambda index: shares[index])
    return f"most often {bins[top].label} to {bins[top].end} ({100 * shares[top]:.0f} %)"


def _slot(bins: Sequence[Bin]) -> float:
    return (_WIDTH - _LEFT - _RIGHT) / max(1, len(bins))


def _scale(highest: float) -> list[str]:
    """Draw lines at 0, at half and at the height of the highest bar, and say their shares."""
    parts = []
    for part in (0.0, 0.5, 1.0):
        y = _y(part * highest, highest)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        share = f"{100 * part * highest:.3g} %"
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{share}</text>')
    return parts


def _y(share: float, highest: float) -> float:
    return round(_HEIGHT - _BOTTOM - share / highest * (_HEIGHT - _TOP - _BOTTOM), 1)


def _axis(axis: str, bins: Sequence[Bin]) -> list[str]:
    every = max(1, -(-len(bins) // _MOST_LABELS))
    parts = [
        f'<text x="{_LEFT + index * _slot(bins):.1f}" y="{_HEIGHT - _BOTTOM + 16}"'
        f' text-anchor="middle">{_text(each.label)}</text>'
        for index, each in enumerate(bins)
        if index % every == 0
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{_text(axis)}</text>')
    return parts


def _bars(
    shares: Sequence[float], bins: Sequence[Bin], index: int, series: int, highest: float
) -> list[str]:
    slot, floor = _slot(bins), _HEIGHT - _BOTTOM
    width = 0.88 * slot / series
    parts = []
    for number, (each, share) in enumerate(zip(bins, shares, strict=True)):
        if not share:
            continue
        x, y = _LEFT + number * slot + 0.06 * slot + index * width, _y(share, highest)
        said = f"{each.label} to {each.end}: {100 * share:.2g} %"
        parts.append(
            f'<rect class="bar bar-{index}" x="{x:.1f}" y="{y}" width="{width:.1f}"'
            f' height="{floor - y:.1f}"><title>{_text(said)}</title></rect>'
        )
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        x = _LEFT + index * (_WIDTH - _LEFT - _RIGHT) / len(names)
        parts.append(f'<rect class="bar bar-{index}" x="{x:.1f}" y="6" width="12" height="12"/>')
        cut = name if len(name) <= 36 else f"{name[:35]}…"
        parts.append(f'<text x="{x + 18:.1f}" y="16">{_text(cut)}</text>')
    return parts


def _text(text: str) -> str:
    return escape(shown(text))
