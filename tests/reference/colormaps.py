"""Writes the fixture `colormaps.bin` and prints the anchor colours of `src/vision/colormap.rs`.

The fixture holds matplotlib's own 256 colours (RGB, 8 bits) of jet, turbo, viridis, inferno and
magma, one map after the other; a unit test compares graftd's interpolation with them.

Needs matplotlib and numpy:  python tests/reference/colormaps.py
"""

from pathlib import Path

import matplotlib
import numpy

NAMES = ["jet", "turbo", "viridis", "inferno", "magma"]
ANCHORS = 33

fixture = []
for name in NAMES:
    colors = matplotlib.colormaps[name](numpy.linspace(0, 1, 256), bytes=True)[:, :3]
    fixture.append(colors)
    positions = numpy.linspace(0, 255, ANCHORS)
    anchors = [
        numpy.rint([numpy.interp(p, numpy.arange(256), colors[:, c]) for c in range(3)]).astype(int)
        for p in positions
    ]
    if name == "jet":
        continue  # piecewise linear by definition: the source has its corners
    print(f"const {name.upper()}: &str = \"\\")
    words = ["%02x%02x%02x" % tuple(a) for a in anchors]
    for i in range(0, len(words), 11):
        print("    " + " ".join(words[i : i + 11]) + (" \\" if i + 11 < len(words) else "\";"))
    approximate = numpy.array(
        [numpy.interp(numpy.arange(256), positions, [a[c] for a in anchors]) for c in range(3)]
    ).T
    print("//", name, "largest difference", numpy.abs(approximate - colors).max())

Path(__file__).with_name("colormaps.bin").write_bytes(numpy.stack(fixture).tobytes())
