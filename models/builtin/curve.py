"""Draw the losses of a training run as an SVG picture, with nothing but the standard library.

    python curve.py run/curve.csv --out curve.svg

Each line of curve.csv: step, seconds, CPU seconds, crops known, map loss, embedding loss,
divergence, learning rate; the losses are means over 50 steps. The picture shows means over
`--window` lines against the number of crops seen.
"""

import argparse
import csv
from pathlib import Path

BATCH = 32
LOSSES = (("map", 4, "#2563a8"), ("embedding", 5, "#2a9146"), ("divergence", 6, "#c8402e"))
WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 720, 320, 46, 36, 16


def smooth(values, window):
    """Means over `window` neighbours; fewer at the ends."""
    half = window // 2
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def text(x, y, content, anchor="middle", fill="#444"):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{fill}">{content}</text>'


def picture(rows, window):
    """The SVG document of the rows of curve.csv."""
    seen = [BATCH * float(row[0]) for row in rows]
    series = [(name, smooth([float(row[c]) for row in rows], window), colour)
              for name, c, colour in LOSSES]
    top = max(max(values) for _, values, _ in series)
    across = lambda v: LEFT + (WIDTH - LEFT - MARGIN) * v / seen[-1]  # noqa: E731
    up = lambda v: HEIGHT - BOTTOM - (HEIGHT - BOTTOM - MARGIN) * v / top  # noqa: E731
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for tick in [t / 10 for t in range(int(top * 10) + 1)]:
        parts.append(f'<path d="M{LEFT} {up(tick):.1f}H{WIDTH - MARGIN}" stroke="#e4e4e4"/>')
        parts.append(text(LEFT - 6, up(tick) + 4, f"{tick:.1f}", "end"))
    step = 100_000 if seen[-1] > 250_000 else 25_000
    for crops in range(0, int(seen[-1]) + 1, step):
        parts.append(text(across(crops), HEIGHT - BOTTOM + 18, f"{crops // 1000}k"))
    parts.append(text(WIDTH / 2, HEIGHT - 4, "crops seen"))
    for place, (name, values, colour) in enumerate(series):
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(seen, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(WIDTH - MARGIN, MARGIN + 12 + 16 * place, name, "end", colour))
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="sans-serif" font-size="12">\n{body}\n</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("curve", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--window", type=int, default=9)
    arguments = parser.parse_args()
    rows = list(csv.reader(arguments.curve.open()))
    arguments.out.write_text(picture(rows, arguments.window))


if __name__ == "__main__":
    main()
