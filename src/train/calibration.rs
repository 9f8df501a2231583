//! Making probabilities mean what they say (Guo et al. 2017, "On calibration of modern neural
//! networks"): one temperature, fitted on held-out samples.

use crate::base::cancel::{Cancel, Cancelled};
use crate::heads::{log_sum_exp, softmax};

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
    let mut scaled = vec![0.0_f32; classes];
    let mut loss = 0.0;
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        cancel.check()?;
        scaled.iter_mut().zip(row).for_each(|(s, v)| *s = v / temperature);
        loss += f64::from(log_sum_exp(&scaled) - scaled[label as usize]);
    }
    Ok(loss / labels.len().max(1) as f64)
}

/// The temperature with the least cross-entropy, by golden-section search of its logarithm (the loss
/// is convex in 1/T, so there is one minimum). 1 for no samples.
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
    let loss = |log: f64| log_loss(logits, labels, classes, log.exp() as f32, cancel);
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (RANGE.0.ln(), RANGE.1.ln());
    let (mut a, mut b) = (high - golden * (high - low), low + golden * (high - low));
    let (mut loss_a, mut loss_b) = (loss(a)?, loss(b)?);
    while high - low > 1e-4 {
        if loss_a <= loss_b {
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

/// Expected calibration error, 0 to 1: the mean distance between confidence and accuracy over 15
/// bins of equal width.
pub fn calibration_error(logits: &[f32], labels: &[u32], classes: usize, temperature: f32) -> f64 {
    let mut bins = Bins::default();
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let scaled: Vec<f32> = row.iter().map(|v| v / temperature).collect();
        bins.add(&scaled, label as usize);
    }
    bins.error(labels.len())
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

    #[test]
    fn the_temperature_undoes_overconfidence() {
        // Two classes, right three times in four, logits far too large: p = 3/4 wants a
        // difference of ln 3, so the temperature is 20 / ln 3.
        let logits = [20.0, 0.0].repeat(4);
        let labels = [0, 0, 0, 1];
        let temperature = fit_temperature(&logits, &labels, 2, &Cancel::default()).unwrap();
        assert!((temperature - 20.0 / 3.0_f32.ln()).abs() < 0.01, "{temperature}");
        assert!(calibration_error(&logits, &labels, 2, 1.0) > 0.24);
        assert!(calibration_error(&logits, &labels, 2, temperature) < 1e-3);
    }

    #[test]
    fn a_raised_flag_ends_the_search_for_a_temperature() {
        let cancel = Cancel::default();
        cancel.cancel();
        assert!(fit_temperature(&[1.0, 0.0], &[0], 2, &cancel).is_err());
    }
}
