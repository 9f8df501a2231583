//! A rubber duck: what nobody taught.

use super::background::Color;
use super::geometry::{Point, ellipse, length, minus};

const HEAD: Point = [-0.42, -0.48];
const YELLOW: Color = [0.98, 0.82, 0.10];
const ORANGE: Color = [0.95, 0.45, 0.08];
const BLACK: Color = [0.06, 0.05, 0.05];

/// Signed distance to the outline.
pub(super) fn distance(p: Point) -> f32 {
    body(p).min(head(p)).min(tail(p)).min(beak(p))
}

/// Height of the surface above the table.
pub(super) fn height(p: Point) -> f32 {
    let dome = |distance: f32, size: f32| {
        let share = (1.0 + distance / size).clamp(0.0, 1.0);
        size * (1.0 - share * share).sqrt()
    };
    let wing = 0.08 * (-wing(p) / 0.2).clamp(0.0, 1.0).sqrt();
    (dome(body(p), 0.52) + wing)
        .max(dome(head(p), 0.40) + 0.06)
        .max(dome(tail(p), 0.2))
        .max(dome(beak(p), 0.12))
}

/// The colour at `p`.
pub(super) fn color(p: Point) -> Color {
    let eye = length(minus(p, [HEAD[0] - 0.12, HEAD[1] - 0.08]));
    if eye < 0.07 {
        BLACK
    } else if beak(p) < 0.0 && head(p) > -0.06 {
        ORANGE
    } else {
        YELLOW
    }
}

fn body(p: Point) -> f32 {
    ellipse(minus(p, [0.12, 0.28]), 0.80, 0.52)
}

fn head(p: Point) -> f32 {
    length(minus(p, HEAD)) - 0.40
}

fn tail(p: Point) -> f32 {
    ellipse(minus(p, [0.84, -0.02]), 0.20, 0.28)
}

fn beak(p: Point) -> f32 {
    ellipse(minus(p, [HEAD[0] - 0.44, HEAD[1] + 0.08]), 0.20, 0.12)
}

fn wing(p: Point) -> f32 {
    ellipse(minus(p, [0.28, 0.24]), 0.40, 0.24)
}
