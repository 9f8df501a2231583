//! What can go wrong with a part: a piece broken away, cracks that run on from there, and rust that
//! has got into the break.

use std::f32::consts::TAU;

use rand::Rng;
use rand_pcg::Pcg64;

use super::geometry::{Point, length, minus, segment, smoothstep};
use super::noise;
use super::part::Part;

/// Corners of a crack.
const CORNERS: usize = 5;

/// The damage of one piece.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    centre: Point,
    /// Unit vector away from the part.
    outwards: Point,
    /// Of the broken piece, in the part's units.
    radius: f32,
    cracks: Vec<[Point; CORNERS]>,
    seed: u32,
}

impl Damage {
    /// Damage at some place on the edge of `part`.
    pub(super) fn to(part: Part, random: &mut Pcg64) -> Self {
        let centre = edge_point(part, random);
        let outwards = match part {
            Part::Bolt { .. } => [centre[0].signum(), 0.0],
            Part::Washer { .. } | Part::Nut { .. } | Part::Gear { .. } => {
                centre.map(|value| value / length(centre))
            }
        };
        let radius = random.random_range(0.22..0.32);
        let cracks = (0..3).map(|_| crack(centre, outwards, radius, random)).collect();
        Self { centre, outwards, radius, cracks, seed: random.random() }
    }

    /// Distance to what is broken away; negative where it is missing.
    pub(super) fn missing(&self, p: Point) -> f32 {
        let [x, y] = minus(p, self.centre);
        // Outwards the break is endless: no splinter is left floating.
        let out = 0.75 * (x * self.outwards[0] + y * self.outwards[1]).max(0.0);
        let (x, y) = (x - out * self.outwards[0], y - out * self.outwards[1]);
        let angle = y.atan2(x);
        // The break is jagged: its radius is noise over the angle, the same after a whole turn.
        let at = [3.0 * angle.cos() + 9.0, 3.0 * angle.sin() + 9.0];
        let radius = self.radius * (0.35 + 0.7 * noise::rough(at, self.seed));
        x.hypot(y) - radius
    }

    /// How rusty a point is, 0 to 1.
    pub(super) fn rust(&self, p: Point) -> f32 {
        let reach = length(minus(p, self.centre)) / self.radius;
        let patches = noise::rough([p[0] * 7.0, p[1] * 7.0], self.seed ^ 0x5EED);
        smoothstep(0.0, 0.35, 2.1 - reach + 1.4 * (patches - 0.5))
    }

    /// How much of a crack is at a point, 0 to 1.
    pub(super) fn crack(&self, p: Point) -> f32 {
        // Cracks never reach farther than this.
        if length(minus(p, self.centre)) > self.radius + 0.6 {
            return 0.0;
        }
        let along = |crack: &[Point; CORNERS]| {
            crack.windows(2).map(|ends| segment(p, ends[0], ends[1])).fold(f32::MAX, f32::min)
        };
        let nearest = self.cracks.iter().map(along).fold(f32::MAX, f32::min);
        1.0 - smoothstep(0.008, 0.026, nearest)
    }

    /// Centre and radius of the circle that holds the break and most of the rust, in the part's units.
    pub(super) fn extent(&self) -> (Point, f32) {
        (self.centre, 1.8 * self.radius)
    }
}

/// A random point close to the outer edge, on the part.
fn edge_point(part: Part, random: &mut Pcg64) -> Point {
    for _ in 0..10_000 {
        let p = [random.random_range(-1.0..1.0), random.random_range(-1.0..1.0)];
        let on_the_edge = (-0.12..-0.02).contains(&part.distance(p));
        // A bolt is narrow: its break is at a side of the rod, not at its tip.
        let bolt = matches!(part, Part::Bolt { .. }) && p[1] < 0.75;
        if on_the_edge && (bolt || length(p) > 0.7) {
            return p;
        }
    }
    [0.8, 0.0] // out of luck ten thousand times: no part that exists
}

/// A zigzag line from the break inwards.
fn crack(centre: Point, outwards: Point, radius: f32, random: &mut Pcg64) -> [Point; CORNERS] {
    let inwards = (-outwards[1]).atan2(-outwards[0]);
    let mut heading = inwards + random.random_range(-0.18 * TAU..0.18 * TAU);
    let mut p =
        [centre[0] + 0.6 * radius * heading.cos(), centre[1] + 0.6 * radius * heading.sin()];
    std::array::from_fn(|_| {
        let corner = p;
        heading += random.random_range(-0.7..0.7);
        let step = random.random_range(0.06..0.13);
        p = [p[0] + step * heading.cos(), p[1] + step * heading.sin()];
        corner
    })
}
