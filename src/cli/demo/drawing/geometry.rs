//! Points, curves and signed distances in the plane: negative inside a shape, 0 on its edge.

use std::f32::consts::TAU;

/// A point or a vector: x to the right, y downwards.
pub(super) type Point = [f32; 2];

pub(super) fn length([x, y]: Point) -> f32 {
    x.hypot(y)
}

pub(super) fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1]]
}

/// `p` turned by `angle` radians about the origin.
pub(super) fn turned([x, y]: Point, angle: f32) -> Point {
    let (sin, cos) = angle.sin_cos();
    [x * cos - y * sin, x * sin + y * cos]
}

/// 0 up to `from`, 1 from `to` on, smooth in between.
pub(super) fn smoothstep(from: f32, to: f32, x: f32) -> f32 {
    let share = ((x - from) / (to - from)).clamp(0.0, 1.0);
    share * share * (3.0 - 2.0 * share)
}

pub(super) fn mix(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}

/// Distance to a rectangle about the origin.
pub(super) fn rectangle([x, y]: Point, half_width: f32, half_height: f32) -> f32 {
    let (x, y) = (x.abs() - half_width, y.abs() - half_height);
    x.max(0.0).hypot(y.max(0.0)) + x.max(y).min(0.0)
}

/// Distance to a regular polygon about the origin, exact inside; `apothem` is the distance from its
/// centre to its sides.
pub(super) fn polygon(p: Point, sides: u32, apothem: f32) -> f32 {
    let sector = TAU / sides as f32;
    let angle = (p[1].atan2(p[0]) + sector / 2.0).rem_euclid(sector) - sector / 2.0;
    length(p) * angle.cos() - apothem
}

/// Distance to the line from `a` to `b`.
pub(super) fn segment(p: Point, a: Point, b: Point) -> f32 {
    let (from, along) = (minus(p, a), minus(b, a));
    let square = along[0] * along[0] + along[1] * along[1];
    let share = ((from[0] * along[0] + from[1] * along[1]) / square.max(1e-12)).clamp(0.0, 1.0);
    length([from[0] - share * along[0], from[1] - share * along[1]])
}

/// Distance to an ellipse about the origin, near enough for shading and exact on its edge.
pub(super) fn ellipse([x, y]: Point, half_width: f32, half_height: f32) -> f32 {
    (length([x / half_width, y / half_height]) - 1.0) * half_width.min(half_height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_negative_inside_zero_on_the_edge_and_positive_outside() {
        let shapes: [fn(Point) -> f32; 3] =
            [|p| rectangle(p, 1.0, 2.0), |p| polygon(p, 6, 1.0), |p| ellipse(p, 1.0, 2.0)];
        for distance in shapes {
            assert!(distance([0.5, 0.0]) < -0.1);
            assert!(distance([1.0, 0.0]).abs() < 1e-6);
            assert!(distance([1.5, 0.0]) > 0.1);
        }
        assert!((segment([0.5, 2.0], [0.0, 0.0], [1.0, 0.0]) - 2.0).abs() < 1e-6);
    }
}
