//! Heads whose classes do not exclude each other.

use super::fit::Options;
use super::lbfgs::Stop;
use super::logistic::{self, LogisticOptions, Targets};
use super::{Rows, TrainError, blocks};
use crate::base::cancel::Cancel;
use crate::heads::{Classifier, Head, Kind, Step, Transform, check_label};

/// Inverse penalty where none is chosen.
const INVERSE_PENALTY: f64 = 30.0;

/// Fits one logistic regression a class on unit-length embeddings. `sets[i]` are the classes of
/// sample `i`, none of them twice; an empty set is a sample of no class.
///
/// # Errors
/// [`TrainError::Invalid`] for labels out of range or lengths that differ, a class without samples
/// as [`TrainError::TooFew`]; the rest as [`logistic::fit`].
pub fn fit_multi_label(
    rows: &dyn Rows,
    sets: &[Vec<u32>],
    classes: &[String],
    options: &Options,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<Head, TrainError> {
    if rows.is_empty() || sets.is_empty() {
        return Err(TrainError::Empty);
    }
    if rows.len() != sets.len() {
        let (labels, embeddings) = (sets.len(), rows.len());
        return Err(TrainError::Invalid(format!(
            "{labels} label sets for {embeddings} embeddings"
        )));
    }
    let mut counts = vec![0_usize; classes.len()];
    for &label in sets.iter().flatten() {
        *counts.get_mut(label as usize).ok_or_else(|| {
            TrainError::Invalid(format!("label {label} of {} classes", classes.len()))
        })? += 1;
    }
    for (class, &samples) in classes.iter().zip(&counts) {
        check_label(class)?;
        if samples == 0 {
            let (class, purpose) = (class.clone(), "to learn it");
            return Err(TrainError::TooFew { class, samples, needed: 1, purpose });
        }
    }
    blocks::check_finite(rows)?;
    let transform = Transform::new(vec![Step::UnitLength])?;
    let logistic = LogisticOptions {
        inverse_penalty: options.inverse_penalty.unwrap_or(INVERSE_PENALTY),
        label_smoothing: f64::from(options.label_smoothing),
        stop: Stop::default(),
    };
    let targets = Targets::Sets(sets);
    let count = classes.len();
    let fitted =
        logistic::fit(rows, &targets, &[], count, &transform, &logistic, cancel, progress)?;
    Ok(Head::new(Kind::MultiLabel, classes.to_vec(), transform, Classifier::Linear(fitted.linear))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::DenseRows;

    #[test]
    fn a_sample_may_be_of_two_classes_or_of_none() {
        // Feature 0 means "striped", feature 1 "winged"; feature 2 is always there.
        let sets: Vec<Vec<u32>> =
            (0..80).map(|i| (0..2).filter(|bit| i >> bit & 1 == 1).collect()).collect();
        let values: Vec<f32> = (0..80)
            .flat_map(|i| [f32::from(i & 1 == 1), f32::from(i >> 1 & 1 == 1), 0.5_f32])
            .collect();
        let rows = DenseRows::new(&values, 3).unwrap();
        let classes = ["striped", "winged"].map(String::from);
        let head = fit_multi_label(
            &rows,
            &sets,
            &classes,
            &Options { inverse_penalty: Some(1000.0), ..Options::default() },
            &Cancel::default(),
            &mut |_, _| {},
        )
        .unwrap();
        let both = head.predict(&[1.0, 1.0, 0.5]).unwrap().probabilities;
        let none = head.predict(&[0.0, 0.0, 0.5]).unwrap().probabilities;
        assert!(both.iter().all(|p| *p > 0.6), "{both:?}");
        assert!(none.iter().all(|p| *p < 0.4), "{none:?}");
    }
}
