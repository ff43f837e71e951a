"""The picture of the whole course: one training step as a loop, with the parts lit that a chapter is about."""

from __future__ import annotations

from html import escape

from grpo_teach.errors import InputError

__all__ = ["BOXES", "loop_picture"]

TEXTS, NETWORKS, NUMBERS = "#B0B0B0", "#56B4E9", "#E69F00"  # told apart by colour-blind readers, under dark letters
BOXES = {  # by name: column, row, kind, and a few words below the name
    "prompts": (0, 0, TEXTS, "questions"),
    "sampler": (0, 1, NETWORKS, "the policy writes"),
    "G answers": (0, 2, TEXTS, "to each question"),
    "reward": (0, 3, NUMBERS, "one an answer"),
    "advantage": (1, 3, NUMBERS, "how much better"),
    "token loss": (1, 2, NUMBERS, "push up or down"),
    "step": (1, 1, NETWORKS, "new weights"),
    "reference": (2, 2, NETWORKS, "the policy, frozen"),
    "critic": (2, 3, NETWORKS, "expected reward"),
}
OPTIONAL = {"reference", "critic"}  # some algorithms have none: dashed
ROUND = ["prompts", "sampler", "G answers", "reward", "advantage", "token loss", "step", "sampler"]
ARROWS = [*zip(ROUND, ROUND[1:], strict=False), ("reference", "token loss"), ("critic", "advantage")]
WIDTH, HEIGHT, ACROSS, DOWN = 104, 44, 126, 66  # of a box, and from one to the next
SPOKEN = (
    "One training step as a loop. Prompts go to the sampler: the policy writes G answers to each. Every answer gets a "
    "reward, the reward becomes an advantage, the advantage weighs the token loss, and a step on that loss gives the "
    "sampler new weights. Beside it, in some algorithms: a reference for the token loss, a critic for the advantage."
)


def _corner(name: str) -> tuple[int, int]:
    column, row, *_ = BOXES[name]
    return 3 + ACROSS * column, 3 + DOWN * row


def _box(name: str, lit: bool) -> str:
    (x, y), (_, _, colour, below) = _corner(name), BOXES[name]
    look = 'stroke-width="4" fill-opacity="1"' if lit else 'stroke-width="1" fill-opacity="0.25"'
    if name in OPTIONAL:
        look += ' stroke-dasharray="5 3"'
    middle = f'x="{x + WIDTH / 2:g}" text-anchor="middle"'
    return (
        f'<g data-box="{name}" data-lit="{"yes" if lit else "no"}">'
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{colour}" stroke="#1b1b1b" {look}/>'
        f'<text {middle} y="{y + 19}" font-size="14" font-weight="{"bold" if lit else "normal"}">{name}</text>'
        f'<text {middle} y="{y + 35}" font-size="11">{below}</text></g>'
    )


def _arrow(start: str, end: str, tip: str) -> str:
    """From the middle of one box's side to the middle of the next one's: neighbours share a column or a row."""
    (x1, y1), (x2, y2) = _corner(start), _corner(end)
    across, down = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
    out, stop = (WIDTH / 2 + 3, HEIGHT / 2 + 3), (WIDTH / 2 + 5, HEIGHT / 2 + 5)
    x1, y1 = x1 + WIDTH / 2 + across * out[0], y1 + HEIGHT / 2 + down * out[1]
    x2, y2 = x2 + WIDTH / 2 - across * stop[0], y2 + HEIGHT / 2 - down * stop[1]
    ends = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {ends} stroke="#1b1b1b" stroke-width="1.5" marker-end="url(#{tip})"/>'


def _legend() -> str:
    rows, x = [], 3 + ACROSS
    for y, (colour, meaning) in enumerate({TEXTS: "texts", NETWORKS: "networks", NUMBERS: "numbers"}.items()):
        rows.append(f'<rect x="{x + 86 * y}" y="6" width="11" height="11" fill="{colour}"/>')
        rows.append(f'<text x="{x + 15 + 86 * y}" y="16" font-size="11">{meaning}</text>')
    return "".join(rows) + f'<text x="{x}" y="36" font-size="11">dashed: only in some algorithms</text>'


def loop_picture(*lit: str, name: str = "loop"):
    """One training step as a loop of boxes; those named are filled, framed and lettered more heavily.

    Args:
        lit: names of boxes, of ``BOXES``; none leaves all pale.
        name: of the picture's HTML element; another one for a second picture on a page.
    Returns:
        HTML for a notebook: an inline SVG on a light card, which asks no server and needs no kernel.
    Raises:
        InputError: for a name that no box has.
    """
    from IPython.display import HTML

    if unknown := [box for box in lit if box not in BOXES]:
        raise InputError(f"loop_picture: no box is named {unknown[0]!r}; choose from {', '.join(BOXES)}")
    spoken = f"{SPOKEN} Marked here: {', '.join(lit)}." if lit else SPOKEN
    name, tip = escape(name), f"{escape(name)}-tip"
    width, height = 2 * ACROSS + WIDTH + 6, 3 * DOWN + HEIGHT + 6
    boxes = "".join(_box(box, box in lit) for box in BOXES)
    arrows = "".join(_arrow(*pair, tip) for pair in ARROWS)
    return HTML(
        f'<div id="{name}" style="background:#fff;padding:8px;max-width:{width + 60}px">'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{spoken}" font-family="sans-serif" '
        f'fill="#1b1b1b" style="display:block;width:100%;height:auto">'
        f'<defs><marker id="{tip}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z"/></marker></defs>{arrows}{boxes}{_legend()}</svg></div>'
    )
