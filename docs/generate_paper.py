"""The published figures in docs/explanation/paper.md, from the protocols.

python docs/generate_paper.py
"""

from __future__ import annotations

from pathlib import Path

from carl_cli.evaluation.protocol import Protocol, read_protocol

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "explanation" / "paper.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def figures(protocol: Protocol) -> str:
    """A line a method, a column a figure that somebody published."""
    names = [f for f in protocol.figures if any(f in t for t in protocol.published.values())]
    lines = [f"| {protocol.name} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for method, told in protocol.published.items():
        cells = [f"{told[name]:.4g}" if name in told else "–" for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join([f"{protocol.published_in}:", "", *lines])


def document() -> str:
    """The page with today's figures."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    paths = sorted((ROOT / "examples" / "protocols").glob("*.toml"))
    tables = "\n\n".join(figures(read_protocol(path)) for path in paths)
    return f"{before}{BEGIN}\n{tables}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
