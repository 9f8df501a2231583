//! Shuffled and poisoned labels: whatever the training is told, nothing goes live that is worse.

use graftd::base::cancel::Cancel;
use graftd::engine::learning::{Promotion, decide};
use graftd::heads::{Head, Kind};
use graftd::train::{DenseRows, Options, Samples, evaluate, fit};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

const WIDTH: usize = 8;
const CLASSES: usize = 3;

/// Noisy points around the corners of a simplex, and their classes.
fn points(count: usize, seed: u64) -> (Vec<f32>, Vec<u32>) {
    let mut random = Pcg64::seed_from_u64(seed);
    let labels: Vec<u32> = (0..count).map(|i| (i % CLASSES) as u32).collect();
    let values = labels
        .iter()
        .flat_map(|&label| {
            let row: Vec<f32> = (0..WIDTH)
                .map(|j| {
                    let noise: f32 = (0..4).map(|_| random.random_range(-0.5..0.5)).sum();
                    0.5 * noise + f32::from(j % CLASSES == label as usize)
                })
                .collect();
            row
        })
        .collect();
    (values, labels)
}

fn train(values: &[f32], labels: Vec<u32>, kind: Kind, seed: u64) -> Option<Head> {
    let rows = DenseRows::new(values, WIDTH).unwrap();
    let samples = Samples::new(&rows, labels, classes());
    let options = Options {
        kind: Some(kind),
        inverse_penalty: Some(30.0),
        seed,
        novelty: None,
        ..Options::default()
    };
    // Labels may be so poisoned that a class has none left: then there is no head at all.
    fit(&samples, &options, &Cancel::default(), &mut |_| {}).ok().map(|trained| trained.head)
}

fn classes() -> Vec<String> {
    ["a", "b", "c"].map(String::from).to_vec()
}

#[test]
fn of_200_poisoned_trainings_none_goes_live_that_is_worse_by_more_than_the_tolerance() {
    let (values, clean) = points(240, 1);
    let (held_out, held_out_labels) = points(1500, 2);
    let (reference, reference_labels) = points(6000, 3);
    let promotion = Promotion::default();
    let judge = |head: &Head, values: &[f32], labels: &[u32]| {
        let rows = DenseRows::new(values, WIDTH).unwrap();
        let samples = Samples::new(&rows, labels.to_vec(), classes());
        evaluate(head, &samples, &Cancel::default()).unwrap()
    };
    let live = train(&values, clean.clone(), Kind::Softmax, 0).unwrap();
    let live_held_out = judge(&live, &held_out, &held_out_labels);
    let live_reference = judge(&live, &reference, &reference_labels).accuracy;
    assert!(live_reference > 0.9, "{live_reference}");
    let (mut promoted, mut refused) = (0, 0);
    for seed in 0..200_u64 {
        let mut random = Pcg64::seed_from_u64(100 + seed);
        let mut labels = clean.clone();
        match seed % 4 {
            0 => labels.shuffle(&mut random),
            // One class is turned into another.
            1 => {
                let (from, to) = ((seed / 4 % 3) as u32, ((seed / 4 + 1) % 3) as u32);
                let share: f64 = random.random();
                for label in labels.iter_mut().filter(|label| **label == from) {
                    if random.random_bool(share) {
                        *label = to;
                    }
                }
            }
            // Some share of all labels is made up.
            2 => {
                let share: f64 = random.random();
                for label in &mut labels {
                    if random.random_bool(share) {
                        *label = random.random_range(0..CLASSES as u32);
                    }
                }
            }
            // All labels are moved round.
            _ => labels.iter_mut().for_each(|label| *label = (*label + 1) % CLASSES as u32),
        }
        let kind = [Kind::Softmax, Kind::Lda, Kind::Prototype, Kind::Slda][(seed / 4 % 4) as usize];
        let Some(head) = train(&values, labels, kind, seed) else { continue };
        let new = judge(&head, &held_out, &held_out_labels);
        if decide(&promotion, Some(&new), Some(&live_held_out), true).promote {
            promoted += 1;
            let accuracy = judge(&head, &reference, &reference_labels).accuracy;
            // A hundredth more for chance: the held-out samples are not all there could be.
            let least = live_reference - promotion.tolerance - 0.01;
            assert!(accuracy >= least, "seed {seed}: {accuracy} against {live_reference}");
        } else {
            refused += 1;
        }
    }
    assert!(refused >= 100 && promoted >= 5, "{promoted} promoted, {refused} refused");
}
