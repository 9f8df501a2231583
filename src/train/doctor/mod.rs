//! The dataset doctor: what is likely wrong with a dataset, with the samples that show it.

mod advice;
mod duplicates;

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

pub use advice::advice;
pub use duplicates::{Duplicate, DuplicateGroup, groups};

use super::calibration::top;
use super::fit::Options;
use super::progress::{Meter, Phase};
use super::recipe::{self, candidates};
use super::rows::Subset;
use super::selection::{ROUGH, Selection, select};
use super::{MAX_LEARNT_CLASSES, Samples, TrainError, blocks};
use crate::base::cancel::Cancel;
use crate::heads::{Kind, softmax};

/// Classes with fewer samples are reported.
const FEW_SAMPLES: usize = 20;
/// Photographs whose shorter side is less are tiny.
const TINY_PIXELS: u32 = 64;
/// Variance of the Laplacian below which a photograph is blurred.
const BLURRED_SHARPNESS: f32 = 15.0;
/// Standard deviation of grey values below which a photograph has one colour.
const ONE_COLOUR_CONTRAST: f32 = 6.0;
/// Most findings of one sort.
const MAX_FINDINGS: usize = 500;
/// Most pairs of classes.
const MAX_CONFUSIONS: usize = 10;
/// With more classes labels are judged by prototypes, which take less memory and time.
const SOFTMAX_CLASSES: usize = 200;

/// What is known of a sample's photograph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhotographFacts {
    /// Shorter side in pixels.
    pub shorter_side: u32,
    /// Variance of the Laplacian of the grey picture (0 to 255) at a shorter side of at most 256.
    pub sharpness: f32,
    /// Standard deviation of the grey picture, 0 to 127.5.
    pub contrast: f32,
    /// Perceptual hash: alike pictures differ in few bits.
    pub hash: u64,
}

/// What is wrong with a photograph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// Shorter side under 64 pixels.
    Tiny,
    /// Hardly an edge.
    Blurred,
    /// Hardly a difference between pixels.
    OneColoured,
}

/// A sample whose label is doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Doubt {
    /// Index of the sample.
    pub sample: usize,
    /// Class that it is labelled as.
    pub labelled: usize,
    /// Class that a head which had not seen it says.
    pub likely: usize,
    /// Probability of that class, 0 to 1.
    pub confidence: f32,
    /// Probability of the class that it is labelled as, 0 to 1.
    pub label_probability: f32,
}

/// A class and how many samples it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The label.
    pub label: String,
    /// Samples of it.
    pub samples: usize,
}

/// The doctor's report. Indices are positions in the samples, classes positions in their classes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Samples by class.
    pub counts: Vec<ClassCount>,
    /// Samples of the largest class for one of the smallest.
    pub imbalance: f64,
    /// Classes with fewer than 20 samples.
    pub few: Vec<usize>,
    /// Pairs that show the same, the most alike first.
    pub duplicates: Vec<Duplicate>,
    /// Likely wrong labels, the surest first.
    pub doubts: Vec<Doubt>,
    /// Flawed photographs.
    pub flaws: Vec<(usize, Flaw)>,
    /// Truth, prediction and how often, the most frequent first.
    pub confused: Vec<(usize, usize, u32)>,
    /// Share that heads which had not seen the sample are right about; `None` where a class has a
    /// single sample.
    pub accuracy: Option<f64>,
}

/// Examines a dataset. `facts` is empty or has one entry a sample. A dataset of one class, or of more
/// than can be learnt, is examined too, but for its labels.
///
/// # Errors
/// As [`super::fit`], for samples that cannot be learnt.
pub fn examine(
    samples: &Samples<'_>,
    facts: &[Option<PhotographFacts>],
    seed: u64,
    cancel: &Cancel,
) -> Result<Diagnosis, TrainError> {
    match samples.check(cancel) {
        Err(TrainError::OneClass(_) | TrainError::TooManyClasses { .. }) => {
            blocks::check_finite(samples.rows, cancel)?;
        }
        other => other?,
    }
    let numbers = samples.counts();
    let (least, most) =
        numbers.iter().fold((usize::MAX, 0), |(low, high), &n| (low.min(n), high.max(n)));
    let can_be_judged = least >= 2 && (2..=MAX_LEARNT_CLASSES).contains(&numbers.len());
    let (doubts, confused, accuracy) =
        if can_be_judged { judge(samples, seed, cancel)? } else { (Vec::new(), Vec::new(), None) };
    Ok(Diagnosis {
        imbalance: most as f64 / least.max(1) as f64,
        few: (0..numbers.len()).filter(|&class| numbers[class] < FEW_SAMPLES).collect(),
        counts: samples
            .classes
            .iter()
            .zip(numbers)
            .map(|(label, samples)| ClassCount { label: label.clone(), samples })
            .collect(),
        duplicates: duplicates::find(samples, facts, cancel)?,
        doubts,
        flaws: flaws(facts),
        confused,
        accuracy,
    })
}

fn flaws(facts: &[Option<PhotographFacts>]) -> Vec<(usize, Flaw)> {
    let of = |facts: &PhotographFacts| {
        if facts.shorter_side < TINY_PIXELS {
            Some(Flaw::Tiny)
        } else if facts.contrast < ONE_COLOUR_CONTRAST {
            Some(Flaw::OneColoured)
        } else if facts.sharpness < BLURRED_SHARPNESS {
            Some(Flaw::Blurred)
        } else {
            None
        }
    };
    let found = facts.iter().enumerate().filter_map(|(i, f)| Some((i, of(f.as_ref()?)?)));
    found.take(MAX_FINDINGS).collect()
}

type Judgement = (Vec<Doubt>, Vec<(usize, usize, u32)>, Option<f64>);

/// Confident learning (Northcutt et al. 2021): a label is doubtful where a head that had not seen
/// the sample is surer of another class than it is, on average, of that class's own samples. Labels of
/// classes that this head does not know are not judged.
fn judge(samples: &Samples<'_>, seed: u64, cancel: &Cancel) -> Result<Judgement, TrainError> {
    let classes = samples.classes.len();
    let options = Options {
        kind: Some(if classes <= SOFTMAX_CLASSES { Kind::Softmax } else { Kind::Prototype }),
        inverse_penalty: Some(30.0),
        seed,
        ..Options::default()
    };
    let mut nobody = |_| {};
    let meter = Meter::new(Phase::Selecting, 1.0, &mut nobody);
    let held_out = select(samples, &candidates(&options), &options, cancel, &meter)?;
    let rows = held_out.chosen.iter().zip(held_out.scores.chunks_exact(classes));
    let mut said: Vec<Doubt> =
        rows.map(|(&sample, row)| says(samples, sample, row, held_out.temperature)).collect();
    said.extend(of_the_rest(samples, &held_out, &options, cancel)?);
    said.retain(|said| held_out.known[said.labelled]);
    let mut own = vec![(0.0_f64, 0_u32); classes];
    for said in &said {
        own[said.labelled].0 += f64::from(said.label_probability);
        own[said.labelled].1 += 1;
    }
    let usual: Vec<f64> = own.iter().map(|&(sum, n)| sum / f64::from(n.max(1))).collect();
    let right = said.iter().filter(|said| said.likely == said.labelled).count();
    let confused = most_confused(said.iter().map(|said| (said.labelled, said.likely)));
    let mut doubts = said;
    doubts.retain(|said| {
        said.likely != said.labelled && f64::from(said.confidence) >= usual[said.likely]
    });
    doubts.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.sample.cmp(&b.sample)));
    doubts.truncate(MAX_FINDINGS);
    Ok((doubts, confused, Some(right as f64 / samples.len() as f64)))
}

/// What the scores of a sample say of its label.
fn says(samples: &Samples<'_>, sample: usize, scores: &[f32], temperature: f32) -> Doubt {
    let scaled: Vec<f32> = scores.iter().map(|v| v / temperature).collect();
    let probabilities = softmax(&scaled);
    let (labelled, likely) = (samples.labels[sample] as usize, top(&probabilities));
    let (confidence, label_probability) = (probabilities[likely], probabilities[labelled]);
    Doubt { sample, labelled, likely, confidence, label_probability }
}

/// Where cross-validation looked at a part of very many samples, what a head that learnt this part says
/// of all others.
fn of_the_rest(
    samples: &Samples<'_>,
    held_out: &Selection,
    options: &Options,
    cancel: &Cancel,
) -> Result<Vec<Doubt>, TrainError> {
    let mut is_learnt = vec![false; samples.len()];
    held_out.chosen.iter().for_each(|&index| is_learnt[index] = true);
    let rest: Vec<usize> = (0..samples.len()).filter(|&index| !is_learnt[index]).collect();
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    let rows = Subset::new(samples.rows, &held_out.chosen);
    let part = samples.pick(&rows, &held_out.chosen);
    let fitted = recipe::fit(&held_out.recipe, &part, options, ROUGH, cancel, &mut |_, _| {})?;
    let blocks = rest.par_chunks(blocks::BLOCK_ROWS).map(|block| {
        let rows = Subset::new(samples.rows, block);
        let scores = fitted.scores(&samples.pick(&rows, block), cancel)?;
        let rows = block.iter().zip(scores.chunks_exact(samples.classes.len()));
        Ok(rows
            .map(|(&sample, row)| says(samples, sample, row, held_out.temperature))
            .collect::<Vec<_>>())
    });
    Ok(blocks.collect::<Result<Vec<_>, TrainError>>()?.concat())
}

/// The pairs of classes that are mistaken for each other most: truth, prediction, how often.
fn most_confused(pairs: impl Iterator<Item = (usize, usize)>) -> Vec<(usize, usize, u32)> {
    let mut counts = BTreeMap::new();
    for pair in pairs.filter(|(truth, said)| truth != said) {
        *counts.entry(pair).or_insert(0_u32) += 1;
    }
    let mut found: Vec<_> =
        counts.into_iter().map(|((truth, said), count)| (truth, said, count)).collect();
    found.sort_by_key(|&(truth, said, count)| (std::cmp::Reverse(count), truth, said));
    found.truncate(MAX_CONFUSIONS);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::DenseRows;

    fn noise(i: usize, j: usize) -> f32 {
        ((i * 2_654_435_761 + j * 40_503) % 1009) as f32 / 1009.0
    }

    /// 60 samples of two classes in 16 dimensions; sample 40 is a copy of 3 under another label,
    /// sample 50 is of the first class but labelled as of the second.
    fn dataset() -> (Vec<f32>, Vec<u32>) {
        let mut labels: Vec<u32> = (0..60).map(|i| (i % 2) as u32).collect();
        let mut rows: Vec<Vec<f32>> = (0..60)
            .map(|i| (0..16).map(|j| noise(i, j) + 2.0 * f32::from(j % 2 == i % 2)).collect())
            .collect();
        rows[40] = rows[3].clone();
        labels[50] = 1;
        (rows.concat(), labels)
    }

    #[test]
    fn copies_and_wrong_labels_are_found() {
        let (values, labels) = dataset();
        let rows = DenseRows::new(&values, 16).unwrap();
        let samples = Samples::new(&rows, labels, vec!["a".into(), "b".into()]);
        let diagnosis = examine(&samples, &[], 0, &Cancel::default()).unwrap();
        let copy = diagnosis.duplicates[0];
        assert_eq!((copy.first, copy.second, copy.across_classes), (3, 40, true));
        let doubted: Vec<usize> = diagnosis.doubts.iter().map(|d| d.sample).collect();
        assert!(doubted.contains(&50) && doubted.contains(&40), "{doubted:?}");
        assert!(doubted.len() <= 4, "{doubted:?}");
    }

    #[test]
    fn every_label_is_judged_of_more_samples_than_cross_validation_looks_at() {
        let count = 9000;
        let row = |i: usize| (0..4).map(move |j| noise(i, j) + 2.0 * f32::from(j % 2 == i % 2));
        let values: Vec<f32> = (0..count).flat_map(row).collect();
        let rows = DenseRows::new(&values, 4).unwrap();
        let mut labels: Vec<u32> = (0..count).map(|i| (i % 2) as u32).collect();
        let wrong: Vec<usize> = (7..count).step_by(450).collect();
        wrong.iter().for_each(|&i| labels[i] = 1 - labels[i]);
        // Of a class with one sample no head that judges it knows anything.
        labels[0] = 2;
        let samples = Samples::new(&rows, labels, ["a", "b", "c"].map(String::from).to_vec());
        let (doubts, confused, accuracy) = judge(&samples, 0, &Cancel::default()).unwrap();
        assert!(!doubts.is_empty() && doubts.iter().all(|doubt| wrong.contains(&doubt.sample)));
        // Each wrong label is taken for what it ought to be, wherever it is.
        assert_eq!(confused.iter().map(|(_, _, count)| count).sum::<u32>(), 20);
        assert!((accuracy.unwrap() - (1.0 - 21.0 / count as f64)).abs() < 1e-9, "{accuracy:?}");
    }

    #[test]
    fn pairs_of_classes_come_in_the_order_of_their_confusions() {
        let pairs = [(0, 1), (2, 2), (1, 0), (0, 1), (2, 0), (1, 0)];
        assert_eq!(most_confused(pairs.into_iter()), [(0, 1, 2), (1, 0, 2), (2, 0, 1)]);
    }

    #[test]
    fn more_labels_than_can_be_learnt_are_counted_and_duplicates_found() {
        let (mut values, _) = dataset();
        values = values.repeat(40);
        let rows = DenseRows::new(&values, 16).unwrap();
        let classes: Vec<String> = (0..1200).map(|class| format!("class {class}")).collect();
        let labels = (0..2400).map(|i| i % 1200).collect();
        let samples = Samples::new(&rows, labels, classes);
        let diagnosis = examine(&samples, &[], 0, &Cancel::default()).unwrap();
        assert_eq!((diagnosis.counts.len(), diagnosis.accuracy), (1200, None));
        assert!(!diagnosis.duplicates.is_empty() && diagnosis.doubts.is_empty());
        assert!(advice(&diagnosis)[0].contains("at most 1000"), "{:?}", advice(&diagnosis));
    }

    #[test]
    fn one_class_alone_is_examined_but_for_its_labels() {
        let (values, _) = dataset();
        let rows = DenseRows::new(&values, 16).unwrap();
        let samples = Samples::new(&rows, vec![0; 60], vec!["a".into()]);
        let diagnosis = examine(&samples, &[], 0, &Cancel::default()).unwrap();
        assert!(!diagnosis.duplicates.is_empty() && diagnosis.doubts.is_empty());
        assert_eq!(diagnosis.accuracy, None);
        assert!(advice(&diagnosis)[0].contains("second class"), "{:?}", advice(&diagnosis));
    }

    #[test]
    fn flawed_photographs_are_named_by_their_flaw() {
        let good = PhotographFacts { shorter_side: 256, sharpness: 400.0, contrast: 50.0, hash: 0 };
        let facts = [
            Some(good),
            Some(PhotographFacts { shorter_side: 20, ..good }),
            Some(PhotographFacts { contrast: 1.0, sharpness: 0.0, ..good }),
            None,
            Some(PhotographFacts { sharpness: 3.0, ..good }),
        ];
        assert_eq!(flaws(&facts), [(1, Flaw::Tiny), (2, Flaw::OneColoured), (4, Flaw::Blurred)]);
    }
}
