//! Which drawings there are: for learning, for testing, and one that nobody taught.

use rayon::prelude::*;
use tokio::sync::mpsc;

use super::drawing::{Circle, Drawing, Kind, Subject, draw};
use crate::vision::{ImageFormat, Picture, VisionError, encode};

/// The classes, in the order in which they are drawn.
pub(super) const CLASSES: [&str; 5] = ["bolt", "damaged", "gear", "nut", "washer"];

const KINDS: [Kind; 4] = [Kind::Bolt, Kind::Gear, Kind::Nut, Kind::Washer];

/// What drawings are for: each purpose has its own, which no other ever sees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Learning = 1,
    Testing = 2,
    Unknown = 3,
}

/// A drawing with its label, as a camera would send it.
#[derive(Clone, Debug)]
pub(super) struct Lesson {
    pub(super) label: &'static str,
    /// Unique and short, for example `damaged-007`.
    pub(super) id: String,
    pub(super) picture: Picture,
    /// The picture as a JPEG file.
    pub(super) file: Vec<u8>,
    pub(super) damage: Option<Circle>,
}

/// The lesson with a number: the classes take turns.
pub(super) fn lesson(purpose: Purpose, seed: u64, number: usize) -> Result<Lesson, VisionError> {
    let (round, class) = (number / CLASSES.len(), number % CLASSES.len());
    let label = CLASSES[class];
    let subject = match label {
        "bolt" => Subject::Sound(Kind::Bolt),
        "gear" => Subject::Sound(Kind::Gear),
        "nut" => Subject::Sound(Kind::Nut),
        "washer" => Subject::Sound(Kind::Washer),
        _ => Subject::Damaged(KINDS[round % KINDS.len()]),
    };
    drawn(subject, label, format!("{label}-{round:03}"), seed_of(purpose, seed, number))
}

/// What no lesson has shown.
pub(super) fn duck(seed: u64, number: usize) -> Result<Lesson, VisionError> {
    let seed = seed_of(Purpose::Unknown, seed, number);
    drawn(Subject::Duck, "duck", format!("duck-{number:03}"), seed)
}

fn drawn(
    subject: Subject,
    label: &'static str,
    id: String,
    seed: u64,
) -> Result<Lesson, VisionError> {
    let Drawing { picture, damage } = draw(subject, seed);
    let file = encode(&picture, ImageFormat::Jpeg { quality: 92 })?;
    Ok(Lesson { label, id, picture, file, damage })
}

fn seed_of(purpose: Purpose, seed: u64, number: usize) -> u64 {
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((purpose as u64) << 40) ^ number as u64
}

/// Draws lessons on all cores, in order, as fast as they are taken. Dropping the receiver ends it.
pub(super) fn draw_all(
    purpose: Purpose,
    seed: u64,
    numbers: std::ops::Range<usize>,
) -> mpsc::Receiver<Result<Lesson, VisionError>> {
    const AT_ONCE: usize = 8;
    let (sender, receiver) = mpsc::channel(AT_ONCE);
    tokio::task::spawn_blocking(move || {
        let numbers: Vec<usize> = numbers.collect();
        for chunk in numbers.chunks(AT_ONCE) {
            let drawn: Vec<_> =
                chunk.par_iter().map(|&number| lesson(purpose, seed, number)).collect();
            for lesson in drawn {
                if sender.blocking_send(lesson).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_takes_its_turn_and_no_purpose_sees_the_drawings_of_another() {
        let seen: Vec<_> =
            (0..5).map(|number| lesson(Purpose::Learning, 1, number).unwrap().label).collect();
        assert_eq!(seen, CLASSES);
        let testing = lesson(Purpose::Testing, 1, 0).unwrap();
        assert_ne!(testing.picture, lesson(Purpose::Learning, 1, 0).unwrap().picture);
        let again = lesson(Purpose::Testing, 1, 0).unwrap();
        assert_eq!(again.file, testing.file);
    }
}
