//! The parts on the line, new: their outlines and their relief. One unit is half a part's length.

use std::f32::consts::TAU;

use rand::Rng;
use rand_pcg::Pcg64;

use super::geometry::{Point, length, polygon, rectangle, smoothstep};

/// The kinds of part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Washer,
    Nut,
    Bolt,
    Gear,
}

/// A part with the measures that vary from piece to piece.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Washer { hole: f32 },
    Nut { hole: f32 },
    Bolt { shank: f32, head: f32, threads: f32 },
    Gear { teeth: u32, root: f32, hole: f32, windows: u32 },
}

/// Where a bolt's head ends.
const NECK: f32 = -0.58;

impl Part {
    /// A piece of one kind.
    pub(super) fn of(kind: Kind, random: &mut Pcg64) -> Self {
        match kind {
            Kind::Washer => Self::Washer { hole: random.random_range(0.42..0.62) },
            Kind::Nut => Self::Nut { hole: random.random_range(0.42..0.52) },
            Kind::Bolt => Self::Bolt {
                shank: random.random_range(0.18..0.26),
                head: random.random_range(0.40..0.50),
                threads: random.random_range(8.0..12.0),
            },
            Kind::Gear => Self::Gear {
                teeth: random.random_range(10..16),
                root: random.random_range(0.76..0.82),
                hole: random.random_range(0.16..0.26),
                windows: random.random_range(0..3) * 2 + 2,
            },
        }
    }

    /// How large one unit is against that of the other parts, so that all look of a size.
    pub(super) fn scale(self) -> f32 {
        match self {
            Self::Washer { .. } => 0.92,
            Self::Nut { .. } | Self::Gear { .. } => 1.0,
            Self::Bolt { .. } => 1.2,
        }
    }

    /// Signed distance to the outline.
    pub(super) fn distance(self, p: Point) -> f32 {
        let radius = length(p);
        match self {
            Self::Washer { hole } => (radius - 1.0).max(hole - radius),
            Self::Nut { hole } => polygon(p, 6, 0.86).max(radius - 0.97).max(hole - radius),
            Self::Bolt { shank, head, threads } => {
                let groove = 0.025 * (wave(p, threads) - 1.0) * f32::from(p[1] > NECK + 0.25);
                let middle = f32::midpoint(NECK, 1.0);
                let rod = rectangle([p[0], p[1] - middle], shank + groove, (1.0 - NECK) / 2.0);
                let tip = p[0].abs() + p[1] - (1.0 + shank * 0.55);
                let cap = rectangle([p[0], p[1] - (NECK - 0.2)], head, 0.22)
                    .max(p[0].abs() - p[1] - (head + 0.92));
                rod.max(tip).min(cap)
            }
            Self::Gear { teeth, root, hole, windows } => {
                let angle = p[1].atan2(p[0]);
                let tooth = (0.5 + 1.5 * (angle * teeth as f32).cos()).clamp(0.0, 1.0);
                let rim = (radius - root - (1.0 - root) * tooth) * 0.8;
                let sector = TAU / windows as f32;
                let turned = angle.rem_euclid(sector) - sector / 2.0;
                let centre = 0.5;
                let window = 0.12 - length([radius * turned.cos() - centre, radius * turned.sin()]);
                let window = if windows > 2 { window } else { f32::MIN };
                rim.max(hole - radius).max(window)
            }
        }
    }

    /// Height of the surface above the table at a point whose [`Part::distance`] is known.
    pub(super) fn height(self, p: Point, distance: f32) -> f32 {
        let bevel = |width: f32| smoothstep(0.0, width, -distance) * width;
        let radius = length(p);
        match self {
            Self::Washer { .. } => bevel(0.09),
            Self::Nut { hole } => {
                let chamfer = 0.5 * (0.82 - radius).min(0.0);
                let thread = 0.03 * ((radius - hole) * 70.0).sin();
                let threaded = 1.0 - smoothstep(0.10, 0.13, radius - hole);
                bevel(0.06) + chamfer + thread * threaded
            }
            Self::Bolt { shank, head, threads } => {
                if p[1] < NECK {
                    // Three of the head's six sides are seen.
                    let side = (p[0].abs() - head * 0.5).max(0.0);
                    return bevel(0.05) - 0.7 * side + 0.35;
                }
                let across = (p[0] / (shank + 0.03)).clamp(-1.0, 1.0);
                let round = shank * (1.0 - across * across).sqrt();
                let threaded = smoothstep(NECK + 0.22, NECK + 0.28, p[1]);
                round + 0.035 * wave(p, threads) * threaded
            }
            Self::Gear { root, hole, .. } => {
                let hub = 1.0 - smoothstep(hole + 0.12, hole + 0.17, radius);
                let rim = smoothstep(root - 0.17, root - 0.12, radius);
                bevel(0.06) + 0.06 * hub.max(rim)
            }
        }
    }
}

/// A bolt's thread, -1 to 1.
fn wave(p: Point, threads: f32) -> f32 {
    ((p[1] + 0.12 * p[0]) * threads * TAU / 1.4).sin()
}
