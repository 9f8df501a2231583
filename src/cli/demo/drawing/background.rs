//! What the parts lie on.

use rand::Rng;
use rand_pcg::Pcg64;

use super::geometry::{Point, mix, smoothstep, turned};
use super::noise;

/// Red, green, blue; 0 to 1.
pub(super) type Color = [f32; 3];

/// `color` brightened or darkened by a factor.
pub(super) fn times(color: Color, factor: f32) -> Color {
    color.map(|channel| channel * factor)
}

/// `share` of the way from one colour to another.
pub(super) fn blend(from: Color, to: Color, share: f32) -> Color {
    std::array::from_fn(|channel| mix(from[channel], to[channel], share))
}

#[derive(Clone, Copy, Debug)]
enum Material {
    Rubber,
    CuttingMat,
    Concrete,
    Tray,
    Paper,
}

/// A table or a belt, turned at random.
#[derive(Clone, Copy, Debug)]
pub(super) struct Background {
    material: Material,
    angle: f32,
    /// Of its pattern.
    scale: f32,
    tint: Color,
    seed: u32,
}

impl Background {
    /// Some background.
    pub(super) fn random(random: &mut Pcg64) -> Self {
        use Material::{Concrete, CuttingMat, Paper, Rubber, Tray};
        let materials = [Rubber, CuttingMat, Concrete, Tray, Paper];
        Self {
            material: materials[random.random_range(0..materials.len())],
            angle: random.random_range(0.0..std::f32::consts::TAU),
            scale: random.random_range(0.8..1.25),
            tint: std::array::from_fn(|_| random.random_range(0.95..1.05)),
            seed: random.random(),
        }
    }

    /// The colour at `p`; the picture is 2 units wide, a pixel `pixel` units.
    pub(super) fn color(&self, p: Point, pixel: f32) -> Color {
        let [x, y] = turned(p, self.angle).map(|value| value * self.scale);
        let pixel = pixel * self.scale;
        let grain = noise::rough([x * 40.0, y * 40.0], self.seed) - 0.5;
        let clouds = noise::rough([x * 2.5, y * 2.5], self.seed ^ 0xC1) - 0.5;
        let color = match self.material {
            Material::Rubber => {
                let ribs = line(x, 0.16, 0.035, pixel);
                times([0.17, 0.17, 0.18], 1.0 + 0.5 * grain + 0.2 * clouds + 0.35 * ribs)
            }
            Material::CuttingMat => {
                let grid = line(x, 0.25, 0.008, pixel).max(line(y, 0.25, 0.008, pixel));
                let mat = times([0.10, 0.36, 0.27], 1.0 + 0.2 * grain + 0.1 * clouds);
                blend(mat, [0.72, 0.80, 0.62], 0.7 * grid)
            }
            Material::Concrete => {
                let pits = smoothstep(0.70, 0.78, noise::rough([x * 22.0, y * 22.0], self.seed));
                times([0.56, 0.55, 0.53], 1.0 + 0.25 * grain + 0.3 * clouds - 0.3 * pits)
            }
            Material::Tray => times([0.16, 0.33, 0.58], 1.0 + 0.1 * grain + 0.2 * clouds),
            Material::Paper => times([0.80, 0.79, 0.77], 1.0 + 0.05 * grain + 0.06 * clouds),
        };
        std::array::from_fn(|channel| color[channel] * self.tint[channel])
    }
}

/// Parallel lines `spacing` apart and `width` wide: 1 on a line, 0 beside it, without jagged edges.
fn line(x: f32, spacing: f32, width: f32, pixel: f32) -> f32 {
    let away = ((x / spacing).rem_euclid(1.0) - 0.5).abs() * spacing;
    1.0 - smoothstep(width / 2.0, width / 2.0 + 1.5 * pixel, away)
}
