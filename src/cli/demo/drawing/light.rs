//! How the scene is lit: one lamp with a colour, and the room's own light.

use rand::Rng;
use rand_pcg::Pcg64;

use super::background::Color;
use super::geometry::Point;

/// The lamp and the room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Light {
    /// Unit vector towards the lamp; z points at the camera.
    towards: [f32; 3],
    /// Halfway between lamp and camera, where highlights are.
    halfway: [f32; 3],
    color: Color,
    room: f32,
    /// How much darker the picture's corners are, 0 to 1.
    pub(super) vignette: f32,
}

impl Light {
    /// Some light.
    pub(super) fn random(random: &mut Pcg64) -> Self {
        let angle: f32 = random.random_range(0.0..std::f32::consts::TAU);
        let elevation: f32 = random.random_range(0.6..1.15);
        let towards = normalised([
            elevation.cos() * angle.cos(),
            elevation.cos() * angle.sin(),
            elevation.sin(),
        ]);
        let warmth = random.random_range(-0.10..0.10);
        let exposure: f32 = random.random_range(0.78..1.12);
        Self {
            towards,
            halfway: normalised([towards[0], towards[1], towards[2] + 1.0]),
            color: [1.0 + warmth, 1.0, 1.0 - warmth].map(|channel| channel * exposure),
            room: random.random_range(0.30..0.48),
            vignette: random.random_range(0.0..0.35),
        }
    }

    /// Light that falls on a flat table.
    pub(super) fn on_table(&self, color: Color, shadow: f32) -> Color {
        let lamp = 0.75 * self.towards[2] * (1.0 - shadow);
        std::array::from_fn(|channel| {
            color[channel] * self.color[channel] * (self.room * (1.0 - 0.5 * shadow) + lamp)
        })
    }

    /// Light that a surface gives back: `slope` is its height's gradient, `gloss` 0 (dull) to 1
    /// (polished metal).
    pub(super) fn on_surface(&self, color: Color, slope: Point, gloss: f32) -> Color {
        let normal = normalised([-slope[0], -slope[1], 1.0]);
        let lamp = dot(normal, self.towards).max(0.0);
        let highlight = dot(normal, self.halfway).max(0.0).powi(24);
        // Metal mirrors the room: light from the lamp's side, dark from the other.
        let mirrored =
            0.5 + 0.5 * (normal[0] * self.towards[0] + normal[1] * self.towards[1]) * 1.6;
        let body = self.room + 0.75 * lamp * (1.0 - 0.35 * gloss) + 0.35 * gloss * mirrored;
        std::array::from_fn(|channel| {
            self.color[channel] * (color[channel] * body + 0.45 * gloss * highlight)
        })
    }

    /// Where the shadow of something `height` above the table falls, seen from its foot.
    pub(super) fn shadow(&self, height: f32) -> Point {
        let reach = height / self.towards[2];
        [-self.towards[0] * reach, -self.towards[1] * reach]
    }
}

fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn normalised(v: [f32; 3]) -> [f32; 3] {
    let length = dot(v, v).sqrt().max(1e-9);
    v.map(|value| value / length)
}
