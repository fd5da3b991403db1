"""The parts of the drawings in docs/, for a light and a dark page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; }
.small { font-size: 11px; fill: #59636e; }
.code { font: 11px ui-monospace, monospace; }
.small.code { fill: #59636e; }
.box { fill: #f6f8fa; stroke: #59636e; }
.group { fill: none; stroke: #59636e; stroke-dasharray: 4 3; }
.arrow { fill: none; stroke: #59636e; stroke-width: 1.3; }
.head { fill: #59636e; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .small { fill: #9198a1; }
  .box { fill: #151b23; stroke: #9198a1; }
  .group, .arrow { stroke: #9198a1; }
  .head { fill: #9198a1; }
}
""".strip()


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text{classes} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(content)}</text>'


def rect(x: float, y: float, width: float, height: float, kind: str = "box") -> str:
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>'
    )


def arrow(path: str, title: str = "") -> str:
    """`title` is shown under the mouse."""
    start = f'<path class="arrow" marker-end="url(#head)" d="{path}"'
    return f"{start}><title>{escape(title)}</title></path>" if title else f"{start}/>"


def svg(width: int, height: float, label: str, parts: Iterable[str]) -> str:
    """Return the file of a drawing."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}"'
            f' width="{width}" height="{height:g}" role="img" aria-label="{escape(label)}">',
            f"<style>\n{STYLE}\n</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker>'
            "</defs>",
            *parts,
            "</svg>",
            "",
        ]
    )
