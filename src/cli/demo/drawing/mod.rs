//! Small parts for inspection, drawn by code: washers, nuts, bolts and gears, some damaged, on varied
//! backgrounds in varied light. Every picture follows from its seed.
//!
//! ```text
//! part + damage (or duck) --outline, relief, colour--> scene --background, light--> Drawing
//! ```

mod background;
mod damage;
mod duck;
mod geometry;
mod light;
mod noise;
mod part;
mod scene;

pub(crate) use part::Kind;
pub(crate) use scene::draw;

use crate::vision::Picture;

/// Sides of a drawing, in pixels.
pub(crate) const SIDE: u32 = 224;

/// What a drawing shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A part as it should be.
    Sound(Kind),
    /// A part with a corroded break at its edge.
    Damaged(Kind),
    /// A rubber duck.
    Duck,
}

/// A picture and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Drawing {
    /// The picture, [`SIDE`] square.
    pub(crate) picture: Picture,
    /// Where the damage is, if there is any.
    pub(crate) damage: Option<Circle>,
}

/// A circle on a drawing, in pixels from its upper left corner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circle {
    /// Centre, from the left.
    pub(crate) x: f32,
    /// Centre, from the top.
    pub(crate) y: f32,
    /// Radius.
    pub(crate) radius: f32,
}

impl Circle {
    /// Whether a point, in pixels, lies in it.
    pub(crate) fn holds(&self, x: f32, y: f32) -> bool {
        (x - self.x).hypot(y - self.y) <= self.radius
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 4] = [Kind::Washer, Kind::Nut, Kind::Bolt, Kind::Gear];

    /// Share of pixels that differ clearly.
    fn difference(a: &Drawing, b: &Drawing) -> f32 {
        let pixels = a.picture.pixels.iter().zip(&b.picture.pixels);
        let differing = pixels.filter(|(a, b)| a.abs_diff(**b) > 24).count();
        differing as f32 / a.picture.pixels.len() as f32
    }

    #[test]
    fn the_same_seed_draws_the_same_picture_and_another_one_another() {
        let subject = Subject::Damaged(Kind::Gear);
        let first = draw(subject, 3);
        assert_eq!(first.picture, draw(subject, 3).picture);
        assert!(difference(&first, &draw(subject, 4)) > 0.2);
        assert_eq!(first.picture.pixels.len() as u32, 3 * SIDE * SIDE);
    }

    #[test]
    fn another_kind_changes_the_picture() {
        let drawings = KINDS.map(|kind| draw(Subject::Sound(kind), 5));
        for (index, drawing) in drawings.iter().enumerate() {
            for other in &drawings[..index] {
                assert!(difference(drawing, other) > 0.05);
            }
        }
    }

    #[test]
    fn damage_lies_inside_the_picture_and_is_told_only_where_there_is_some() {
        for kind in KINDS {
            assert!(draw(Subject::Sound(kind), 1).damage.is_none());
            for seed in 0..4 {
                let Circle { x, y, radius } = draw(Subject::Damaged(kind), seed).damage.unwrap();
                let inside = 0.0..SIDE as f32;
                assert!(inside.contains(&x) && inside.contains(&y), "{kind:?} {seed}: {x} {y}");
                assert!((5.0..60.0).contains(&radius));
            }
        }
        assert!(draw(Subject::Duck, 1).damage.is_none());
    }
}
