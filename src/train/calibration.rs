//! Making probabilities mean what they say (Guo et al. 2017, "On calibration of modern neural
//! networks"): one temperature, fitted on held-out samples.

use crate::base::cancel::{Cancel, Cancelled};
use crate::heads::softmax;

/// Bins of confidence in the calibration error.
const BINS: usize = 15;
/// Range of temperatures that are tried.
const RANGE: (f64, f64) = (0.01, 100.0);

/// Mean cross-entropy of `logits / temperature` (rows of `classes`).
///
/// # Errors
/// Cancelled, within one row.
pub fn log_loss(
    logits: &[f32],
    labels: &[u32],
    classes: usize,
    temperature: f32,
    cancel: &Cancel,
) -> Result<f64, Cancelled> {
    let mut loss = 0.0;
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        cancel.check()?;
        let below = f64::from(largest(row.iter())) - f64::from(row[label as usize]);
        loss += log_sum(row, 1.0 / f64::from(temperature)) + below / f64::from(temperature);
    }
    Ok(loss / labels.len().max(1) as f64)
}

/// The temperature with the least cross-entropy, by golden-section search of its logarithm (the loss
/// is convex in 1/T, so there is one minimum). 1 for no samples.
///
/// A few samples that are all right must not make a head certain: each of `n` counts for its class by
/// `(n + 1) / (n + 2)` and for the likeliest other one by the rest, which thousands hardly feel. (Platt
/// 1999, "Probabilistic outputs for support vector machines", section 2.2, of all samples together.)
///
/// # Errors
/// Cancelled, within one row.
pub fn fit_temperature(
    logits: &[f32],
    labels: &[u32],
    classes: usize,
    cancel: &Cancel,
) -> Result<f32, Cancelled> {
    if labels.is_empty() {
        return Ok(1.0);
    }
    let doubt = 1.0 / (labels.len() as f64 + 2.0);
    // How far the targets lie below the largest logit: the loss is linear in it.
    let mut below = 0.0;
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let (before, from) = row.split_at(label as usize);
        let (own, other) = (from[0], largest(before.iter().chain(&from[1..])));
        let top = f64::from(own.max(other));
        below += (1.0 - doubt) * (top - f64::from(own));
        if other.is_finite() {
            below += doubt * (top - f64::from(other));
        }
    }
    let loss = |log: f64| {
        let inverse = (-log).exp();
        let mut loss = below * inverse;
        for row in logits.chunks_exact(classes) {
            cancel.check()?;
            loss += log_sum(row, inverse);
        }
        Ok::<_, Cancelled>(loss)
    };
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (RANGE.0.ln(), RANGE.1.ln());
    let (mut a, mut b) = (high - golden * (high - low), low + golden * (high - low));
    let (mut loss_a, mut loss_b) = (loss(a)?, loss(b)?);
    while high - low > 1e-4 {
        // Of equals the less certain.
        if loss_a < loss_b {
            (high, b, loss_b) = (b, a, loss_a);
            a = high - golden * (high - low);
            loss_a = loss(a)?;
        } else {
            (low, a, loss_a) = (a, b, loss_b);
            b = low + golden * (high - low);
            loss_b = loss(b)?;
        }
    }
    Ok(f64::midpoint(low, high).exp() as f32)
}

/// `log(sum(exp((x - largest x) * inverse)))`, in f64: in f32 a small loss is lost beside 1.
fn log_sum(row: &[f32], inverse: f64) -> f64 {
    let top = f64::from(largest(row.iter()));
    row.iter().map(|v| ((f64::from(*v) - top) * inverse).exp()).sum::<f64>().ln()
}

fn largest<'a>(values: impl Iterator<Item = &'a f32>) -> f32 {
    values.copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Confidence and hits by bin of confidence.
#[derive(Debug, Clone, Default)]
pub(super) struct Bins([(f64, f64); BINS]);

impl Bins {
    /// Adds a sample; a `label` beyond the logits is a mistake.
    pub(super) fn add(&mut self, logits: &[f32], label: usize) {
        let probabilities = softmax(logits);
        let top = top(&probabilities);
        let confidence = f64::from(probabilities[top]);
        let bin = &mut self.0[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin.0 += confidence;
        bin.1 += f64::from(u8::from(top == label));
    }

    /// The error over `samples` that were added.
    pub(super) fn error(&self, samples: usize) -> f64 {
        self.0.iter().map(|(confidence, hits)| (confidence - hits).abs()).sum::<f64>()
            / samples.max(1) as f64
    }
}

/// Index of the largest value; the first of equals.
pub(super) fn top(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected calibration error: the mean distance between confidence and accuracy over the bins.
    fn calibration_error(logits: &[f32], labels: &[u32], temperature: f32) -> f64 {
        let mut bins = Bins::default();
        for (row, &label) in logits.chunks_exact(2).zip(labels) {
            let scaled: Vec<f32> = row.iter().map(|v| v / temperature).collect();
            bins.add(&scaled, label as usize);
        }
        bins.error(labels.len())
    }

    #[test]
    fn the_temperature_undoes_overconfidence() {
        // Two classes, right three times in four, logits far too large: p = 3/4 wants a
        // difference of ln 3, so the temperature is 20 / ln 3.
        let logits = [20.0, 0.0].repeat(4000);
        let labels = [0, 0, 0, 1].repeat(1000);
        let temperature = fit_temperature(&logits, &labels, 2, &Cancel::default()).unwrap();
        assert!((temperature - 20.0 / 3.0_f32.ln()).abs() < 0.02, "{temperature}");
        assert!(calibration_error(&logits, &labels, 1.0) > 0.24);
        assert!(calibration_error(&logits, &labels, temperature) < 1e-3);
    }

    /// Two classes, every score right; the own class leads by 0.05 to 0.5.
    fn separated(count: usize) -> (Vec<f32>, Vec<u32>) {
        let labels: Vec<u32> = (0..count).map(|i| (i % 2) as u32).collect();
        let row = |i: usize| {
            let lead = 0.05 * (1 + i / 2 % 10) as f32;
            if i.is_multiple_of(2) { [lead, 0.0] } else { [0.0, lead] }
        };
        ((0..count).flat_map(row).collect(), labels)
    }

    #[test]
    fn a_few_samples_that_are_all_right_do_not_make_a_head_certain() {
        let (logits, labels) = separated(40);
        let temperature = fit_temperature(&logits, &labels, 2, &Cancel::default()).unwrap();
        let sure = |lead: f32| softmax(&[lead / temperature, 0.0])[0];
        assert!(sure(0.05) < 0.75 && sure(0.5) > 0.95, "{temperature}");
        // The more of them, the more certain.
        let (logits, labels) = separated(4000);
        let of_many = fit_temperature(&logits, &labels, 2, &Cancel::default()).unwrap();
        assert!(of_many < 0.7 * temperature, "{of_many} {temperature}");
    }

    #[test]
    fn far_classes_do_not_count_as_the_likeliest_other_one() {
        // A third class that nothing resembles, or that the head does not have.
        let (logits, labels) = separated(40);
        let expected = fit_temperature(&logits, &labels, 2, &Cancel::default()).unwrap();
        for far in [-1000.0, f32::NEG_INFINITY] {
            let with = logits.chunks_exact(2).flat_map(|row| [row[0], row[1], far]);
            let with: Vec<f32> = with.collect();
            let found = fit_temperature(&with, &labels, 3, &Cancel::default()).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-3, "{far}: {found} {expected}");
        }
    }

    #[test]
    fn a_raised_flag_ends_the_search_for_a_temperature() {
        let cancel = Cancel::default();
        cancel.cancel();
        assert!(fit_temperature(&[1.0, 0.0], &[0], 2, &cancel).is_err());
    }
}
