"""Procedural pictures: dead leaves, textures and shapes, drawn from nothing but a seed.

Dead leaves (Lee, Mumford and Huang 2001): opaque shapes with a power law of sizes cover each
other; they share edge, scale and occlusion statistics with photographs. Each leaf carries a flat
colour, a gradient, stripes, spots or cloud noise.
"""

import numpy as np
from PIL import Image, ImageDraw

LEAVES = 60


def clouds(rng, size, roughness):
    """Noise `[size, size]` in 0..1 whose amplitude falls with frequency as f^-roughness."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = 1
    spectrum = f**-roughness * np.exp(2j * np.pi * rng.random(f.shape))
    noise = np.fft.irfft2(spectrum, (size, size))
    return (noise - noise.min()) / np.ptp(noise)


def pattern(rng, size):
    """A scalar field `[size, size]` in 0..1: gradient, stripes, spots, checks or clouds."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / size
    u = x * np.cos(angle) + y * np.sin(angle)
    v = y * np.cos(angle) - x * np.sin(angle)
    frequency = np.exp(rng.uniform(np.log(3), np.log(40))) * 2 * np.pi
    kind = rng.integers(5)
    if kind == 0:
        return (u - u.min()) / np.ptp(u)
    if kind == 1:
        return 0.5 + 0.5 * np.sin(frequency * u + rng.uniform(0, 6))
    if kind == 2:
        return np.clip(np.sin(frequency * u) * np.sin(frequency * v) * 3, 0, 1)
    if kind == 3:
        return (np.sin(frequency * u) * np.sin(frequency * v) > 0).astype(float)
    return clouds(rng, size, rng.uniform(0.8, 2.2))


def colour(rng):
    """An RGB colour; half of them muted, as in photographs."""
    value = rng.random(3)
    if rng.random() < 0.5:
        value = value.mean() + (value - value.mean()) * rng.uniform(0, 0.5)
    return value * 255


def texture(rng, size):
    """RGB `[size, size, 3]`: two colours mixed by a pattern, with a little grain."""
    mix = pattern(rng, size)[..., None]
    grain = rng.normal(0, rng.uniform(0, 12), (size, size, 1))
    return colour(rng) * mix + colour(rng) * (1 - mix) + grain


def outline(rng, centre, radius):
    """Polygon points of an ellipse, a regular polygon, a star or a wobbly blob."""
    kind = rng.integers(4)
    count = 40 if kind in (0, 3) else int(rng.integers(3, 9))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.uniform(0, 6)
    radii = np.full(count, radius)
    if kind == 2:
        radii[::2] *= rng.uniform(0.3, 0.7)
    if kind == 3:
        for wave in range(2, 6):
            radii = radii * (1 + rng.normal(0, 0.12) * np.sin(wave * angles + rng.uniform(0, 6)))
    stretch = rng.uniform(0.4, 1)
    turn = rng.uniform(0, np.pi)
    x, y = radii * np.cos(angles), radii * np.sin(angles) * stretch
    rotated = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1)
    return [tuple(point) for point in rotated + centre]


def picture(seed, size):
    """One picture, uint8 `[size, size, 3]`; the same seed draws the same picture."""
    rng = np.random.default_rng(seed)
    canvas = texture(rng, size)
    patterns = [texture(rng, size) for _ in range(6)]
    for _ in range(int(rng.integers(1, LEAVES))):
        radius = size * 0.02 * (1 - rng.random() * 0.998) ** -0.5
        mask = Image.new("L", (size, size))
        points = outline(rng, rng.uniform(0, size, 2), min(radius, size * 0.5))
        ImageDraw.Draw(mask).polygon(points, fill=255)
        covered = np.asarray(mask) > 0
        fill = patterns[rng.integers(6)] if rng.random() < 0.6 else colour(rng)
        canvas[covered] = fill[covered] if np.ndim(fill) == 3 else fill
    light = 1 + rng.uniform(0, 0.4) * (clouds(rng, size, 2.5)[..., None] - 0.5)
    return np.clip(canvas * light, 0, 255).astype(np.uint8)
