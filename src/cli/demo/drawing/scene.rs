//! One photograph: a thing on a background, lit, seen from above by a camera with noise.

use std::f32::consts::TAU;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::background::{Background, Color, blend, times};
use super::damage::Damage;
use super::geometry::{Point, length, smoothstep, turned};
use super::light::Light;
use super::part::{Kind, Part};
use super::{Circle, Drawing, SIDE, Subject, duck, noise};
use crate::vision::Picture;

/// What lies on the table.
#[derive(Clone, Debug)]
enum Thing {
    Part { part: Part, metal: Metal, damage: Option<Damage> },
    Duck,
}

#[derive(Clone, Copy, Debug)]
struct Metal {
    color: Color,
    gloss: f32,
    /// Of the marks that brushing left.
    seed: u32,
}

/// A thing in its place. Coordinates of the scene: the picture reaches from -1 to 1, y downwards.
#[derive(Clone, Debug)]
struct Scene {
    thing: Thing,
    centre: Point,
    angle: f32,
    /// Of the thing's unit.
    scale: f32,
    background: Background,
    light: Light,
    /// Standard deviation of the camera's noise, in grey levels.
    noise: f32,
}

/// Draws a subject; the same `seed` gives the same picture.
pub(crate) fn draw(subject: Subject, seed: u64) -> Drawing {
    let mut random = Pcg64::seed_from_u64(seed);
    let scene = Scene::random(subject, &mut random);
    Drawing { picture: scene.render(&mut random), damage: scene.damage() }
}

impl Scene {
    fn random(subject: Subject, random: &mut Pcg64) -> Self {
        let thing = match subject {
            Subject::Sound(kind) => Thing::part(kind, false, random),
            Subject::Damaged(kind) => Thing::part(kind, true, random),
            Subject::Duck => Thing::Duck,
        };
        let size = match &thing {
            Thing::Part { part, .. } => part.scale(),
            Thing::Duck => 1.0,
        };
        Self {
            thing,
            centre: std::array::from_fn(|_| random.random_range(-0.10..0.10)),
            angle: random.random_range(0.0..TAU),
            scale: size * random.random_range(0.54..0.64),
            background: Background::random(random),
            light: Light::random(random),
            noise: random.random_range(1.0..5.0),
        }
    }

    fn damage(&self) -> Option<Circle> {
        let Thing::Part { damage: Some(damage), .. } = &self.thing else { return None };
        let (centre, radius) = damage.extent();
        let [x, y] = turned(centre, self.angle);
        let pixels = SIDE as f32 / 2.0;
        Some(Circle {
            x: (1.0 + self.centre[0] + x * self.scale) * pixels,
            y: (1.0 + self.centre[1] + y * self.scale) * pixels,
            radius: radius * self.scale * pixels,
        })
    }

    fn render(&self, random: &mut Pcg64) -> Picture {
        let mut pixels = Vec::with_capacity((SIDE * SIDE * 3) as usize);
        for y in 0..SIDE {
            for x in 0..SIDE {
                let color = self.pixel(x as f32, y as f32);
                // The sum of three uniform numbers is near enough to a normal one.
                let grain: f32 = (0..3).map(|_| random.random_range(-1.0_f32..1.0)).sum();
                for channel in color {
                    // Gamma 2.2 in, because surfaces are computed as light.
                    let level = 255.0 * channel.clamp(0.0, 1.0).powf(1.0 / 2.2);
                    pixels.push((level + grain * self.noise).round().clamp(0.0, 255.0) as u8);
                }
            }
        }
        Picture { width: SIDE, height: SIDE, pixels }
    }

    /// The mean over a pixel: of 9 points where an edge may run, of 4 on the thing, of 1 beside it.
    fn pixel(&self, x: f32, y: f32) -> Color {
        let at = |dx: f32, dy: f32| [(x + dx), (y + dy)].map(|v| v * 2.0 / SIDE as f32 - 1.0);
        let distance = self.thing.distance(self.local(at(0.5, 0.5))) * self.scale;
        let pixel = 2.0 / SIDE as f32;
        let points: u8 = if distance.abs() < 2.0 * pixel {
            3
        } else if distance < 0.0 {
            2
        } else {
            1
        };
        let step = 1.0 / f32::from(points);
        let mut sum = [0.0; 3];
        for row in 0..points {
            for column in 0..points {
                let offset = |index: u8| (f32::from(index) + 0.5) * step;
                let color = self.color(at(offset(column), offset(row)));
                sum = std::array::from_fn(|channel| sum[channel] + color[channel] * step * step);
            }
        }
        sum
    }

    /// A point of the scene in the thing's own coordinates.
    fn local(&self, p: Point) -> Point {
        let from_centre = [p[0] - self.centre[0], p[1] - self.centre[1]];
        turned(from_centre, -self.angle).map(|value| value / self.scale)
    }

    /// The light that comes from a point.
    fn color(&self, p: Point) -> Color {
        let local = self.local(p);
        let distance = self.thing.distance(local);
        let lit = if distance < 0.0 { self.on_thing(local) } else { self.on_table(p, distance) };
        times(lit, 1.0 - self.light.vignette * (0.5 * length(p)).powi(2))
    }

    fn on_table(&self, p: Point, distance: f32) -> Color {
        let offset = self.light.shadow(0.10 * self.scale);
        let caster = self.local([p[0] - offset[0], p[1] - offset[1]]);
        let cast = 1.0 - smoothstep(-0.02, 0.14, self.thing.distance(caster));
        let contact = 1.0 - smoothstep(0.0, 0.10, distance);
        let color = self.background.color(p, 2.0 / SIDE as f32);
        // Backgrounds are given as they look on a screen.
        let color = color.map(|channel| channel.max(0.0).powf(2.2));
        self.light.on_table(color, (0.75 * cast).max(0.5 * contact))
    }

    fn on_thing(&self, local: Point) -> Color {
        const STEP: f32 = 0.006;
        let height = |dx: f32, dy: f32| self.thing.height([local[0] + dx, local[1] + dy]);
        let here = height(0.0, 0.0);
        let slope = [(height(STEP, 0.0) - here) / STEP, (height(0.0, STEP) - here) / STEP];
        let (color, gloss) = self.thing.surface(local);
        self.light.on_surface(color, turned(slope, self.angle), gloss)
    }
}

impl Thing {
    fn part(kind: Kind, damaged: bool, random: &mut Pcg64) -> Self {
        let part = Part::of(kind, random);
        let (color, gloss) = match kind {
            Kind::Washer => ([0.40, 0.42, 0.45], 1.0), // zinc
            Kind::Nut => ([0.45, 0.32, 0.10], 0.9),    // brass
            Kind::Bolt => ([0.09, 0.09, 0.10], 0.5),   // black oxide
            Kind::Gear => ([0.27, 0.28, 0.30], 0.8),   // raw steel
        };
        let shade = random.random_range(0.85..1.15);
        let color = times(color, shade);
        let metal = Metal { color, gloss, seed: random.random() };
        Self::Part { part, metal, damage: damaged.then(|| Damage::to(part, random)) }
    }

    fn distance(&self, p: Point) -> f32 {
        match self {
            Self::Part { part, damage, .. } => {
                let whole = part.distance(p);
                damage.as_ref().map_or(whole, |damage| whole.max(-damage.missing(p)))
            }
            Self::Duck => duck::distance(p),
        }
    }

    fn height(&self, p: Point) -> f32 {
        match self {
            Self::Part { part, damage, .. } => {
                let whole = part.height(p, part.distance(p));
                damage.as_ref().map_or(whole, |damage| {
                    let pits = noise::smooth([p[0] * 30.0, p[1] * 30.0], 7) * damage.rust(p);
                    let lip = 0.06 * (1.0 - smoothstep(0.0, 0.08, damage.missing(p)));
                    whole - 0.03 * pits - lip - 0.04 * damage.crack(p)
                })
            }
            Self::Duck => duck::height(p),
        }
    }

    /// Colour and gloss.
    fn surface(&self, p: Point) -> (Color, f32) {
        match self {
            Self::Part { metal, damage, .. } => {
                let brushed = noise::smooth([p[0] * 3.0, p[1] * 60.0], metal.seed) - 0.5;
                let stained = noise::rough([p[0] * 2.0, p[1] * 2.0], metal.seed ^ 0x57) - 0.5;
                let bare = times(metal.color, 1.0 + 0.16 * brushed + 0.22 * stained);
                let Some(damage) = damage else { return (bare, metal.gloss) };
                let spots = noise::rough([p[0] * 16.0, p[1] * 16.0], metal.seed ^ 0x2B);
                let rust = blend([0.16, 0.045, 0.015], [0.62, 0.20, 0.04], spots);
                let share = damage.rust(p);
                let color = blend(bare, rust, 0.95 * share);
                (times(color, 1.0 - 0.9 * damage.crack(p)), metal.gloss * (1.0 - share))
            }
            Self::Duck => (duck::color(p), 0.35),
        }
    }
}
