//! Logistic regression by full-batch L-BFGS: multinomial (softmax) and independent (multi-label).

use super::blocks::{self, Block};
use super::lbfgs::{self, Minimum, Stop};
use super::linear_algebra::{Operand, multiply};
use super::rows::Rows;
use super::{Samples, TrainError};
use crate::base::cancel::Cancel;
use crate::heads::{Linear, Matrix, Transform};

/// What is minimised, and how far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogisticOptions {
    /// Inverse strength of the penalty, as scikit-learn's `C`: the objective is
    /// `mean(weight * loss) + |W|^2 / (2 C sum(weight))`, biases free.
    pub inverse_penalty: f64,
    /// Share of each target that is spread over all classes, 0 to below 1.
    pub label_smoothing: f64,
    /// When to stop.
    pub stop: Stop,
}

impl Default for LogisticOptions {
    fn default() -> Self {
        Self { inverse_penalty: 1.0, label_smoothing: 0.0, stop: Stop::default() }
    }
}

/// The targets of logistic regression.
pub enum Targets<'a> {
    /// One class a sample: softmax.
    Classes(&'a [u32]),
    /// Any number of classes a sample: one sigmoid a class.
    Sets {
        /// The classes of each sample.
        sets: &'a [Vec<u32>],
        /// For each class how much samples without and with it count; empty means 1 each.
        factors: &'a [[f64; 2]],
    },
}

/// A fitted classifier with what the optimiser says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LogisticFit {
    /// The classifier on transformed embeddings.
    pub linear: Linear,
    /// The objective reached.
    pub objective: f64,
    /// Iterations done.
    pub iterations: usize,
    /// Passes over the data.
    pub evaluations: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
}

/// Softmax regression on `samples`. `progress` hears of each iteration and its objective.
///
/// # Errors
/// [`TrainError::Invalid`] for options out of range, [`TrainError::Diverged`],
/// [`TrainError::Cancelled`] within one block of rows.
pub fn fit_softmax(
    samples: &Samples<'_>,
    transform: &Transform,
    options: &LogisticOptions,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<LogisticFit, TrainError> {
    fit(
        samples.rows,
        &Targets::Classes(&samples.labels),
        &samples.weights,
        samples.classes.len(),
        transform,
        options,
        cancel,
        progress,
    )
}

/// Logistic regression on any targets; `weights` empty means 1 each.
///
/// # Errors
/// As [`fit_softmax`].
pub fn fit(
    rows: &dyn Rows,
    targets: &Targets<'_>,
    weights: &[f32],
    classes: usize,
    transform: &Transform,
    options: &LogisticOptions,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<LogisticFit, TrainError> {
    let valid = options.inverse_penalty > 0.0
        && options.inverse_penalty.is_finite()
        && (0.0..1.0).contains(&options.label_smoothing);
    if !valid {
        return Err(TrainError::Invalid(
            "the inverse penalty must be positive and the label smoothing from 0 to below 1".into(),
        ));
    }
    let width = rows.width();
    let total: f64 = if weights.is_empty() {
        rows.len() as f64
    } else {
        weights.iter().map(|&w| f64::from(w)).sum()
    };
    // With two classes both rows of weights share what the usual one-vector form puts into one:
    // doubling the penalty makes the two forms equal.
    let doubled = if classes == 2 && matches!(targets, Targets::Classes(_)) { 2.0 } else { 1.0 };
    let objective = Objective {
        rows,
        targets,
        weights,
        classes,
        transform,
        penalty: doubled / (options.inverse_penalty * total),
        scale: 1.0 / total,
        smoothing: options.label_smoothing,
        cancel,
    };
    let start = vec![0.0; classes * (width + 1)];
    let Minimum { x, value, iterations, evaluations, converged } =
        lbfgs::minimise(start, &options.stop, |x, g| objective.evaluate(x, g), progress)?;
    let (weights, bias) = x.split_at(classes * width);
    let weights = Matrix::new(classes, width, weights.iter().map(|&w| w as f32).collect())?;
    let linear = Linear::new(weights, bias.iter().map(|&b| b as f32).collect())?;
    Ok(LogisticFit { linear, objective: value, iterations, evaluations, converged })
}

struct Objective<'a> {
    rows: &'a dyn Rows,
    targets: &'a Targets<'a>,
    weights: &'a [f32],
    classes: usize,
    transform: &'a Transform,
    penalty: f64,
    scale: f64,
    smoothing: f64,
    cancel: &'a Cancel,
}

/// One lane's share of the loss and its gradient.
struct Sum {
    loss: f64,
    weights: Vec<f64>,
    bias: Vec<f64>,
    /// Scratch: logits, then residuals, of a block.
    residuals: Vec<f32>,
    /// Scratch: gradient of a block.
    product: Vec<f32>,
}

impl Objective<'_> {
    /// `x` is the weights (classes x width), then the biases; the gradient has the same layout.
    fn evaluate(&self, x: &[f64], gradient: &mut [f64]) -> Result<f64, TrainError> {
        let (classes, width) = (self.classes, self.rows.width());
        let (w, bias) = x.split_at(classes * width);
        let w32: Vec<f32> = w.iter().map(|&v| v as f32).collect();
        let start = || Sum {
            loss: 0.0,
            weights: vec![0.0; classes * width],
            bias: vec![0.0; classes],
            residuals: vec![0.0; blocks::BLOCK_ROWS * classes],
            product: vec![0.0; classes * width],
        };
        let bytes = classes * width * (size_of::<f64>() + size_of::<f32>());
        let add = |sum: &mut Sum, block: &Block<'_>| {
            self.add_block(sum, block, &w32, bias);
            Ok(())
        };
        let lanes = blocks::pass(self.rows, self.transform, bytes, self.cancel, start, add)?;
        gradient.fill(0.0);
        let (gradient_w, gradient_bias) = gradient.split_at_mut(classes * width);
        let mut loss = 0.0;
        for lane in &lanes {
            loss += lane.loss;
            gradient_w.iter_mut().zip(&lane.weights).for_each(|(g, v)| *g += v);
            gradient_bias.iter_mut().zip(&lane.bias).for_each(|(g, v)| *g += v);
        }
        let mut squares = 0.0;
        for (g, &v) in gradient_w.iter_mut().zip(w) {
            *g = *g * self.scale + self.penalty * v;
            squares += v * v;
        }
        gradient_bias.iter_mut().for_each(|g| *g *= self.scale);
        Ok(loss * self.scale + 0.5 * self.penalty * squares)
    }

    fn add_block(&self, sum: &mut Sum, block: &Block<'_>, w: &[f32], bias: &[f64]) {
        let (classes, width) = (self.classes, self.rows.width());
        let x = Operand::new(block.values, block.rows, width);
        let logits = &mut sum.residuals[..block.rows * classes];
        multiply(1.0, x, Operand::new(w, classes, width).t(), 0.0, logits, classes);
        for (offset, row) in logits.chunks_exact_mut(classes).enumerate() {
            let index = block.start + offset;
            let weight = self.weights.get(index).map_or(1.0, |&w| f64::from(w));
            sum.loss += weight
                * match self.targets {
                    Targets::Classes(labels) => {
                        softmax_residual(row, bias, labels[index] as usize, self.smoothing)
                    }
                    Targets::Sets { sets, factors } => {
                        sigmoid_residual(row, bias, &sets[index], factors, self.smoothing)
                    }
                };
            for (value, total) in row.iter_mut().zip(&mut sum.bias) {
                *value *= weight as f32;
                *total += f64::from(*value);
            }
        }
        let residuals = Operand::new(&sum.residuals[..block.rows * classes], block.rows, classes);
        multiply(1.0, residuals.t(), x, 0.0, &mut sum.product, width);
        for (total, &value) in sum.weights.iter_mut().zip(&sum.product) {
            *total += f64::from(value);
        }
    }
}

/// Replaces logits without bias by `probability - target`; returns the cross-entropy.
fn softmax_residual(row: &mut [f32], bias: &[f64], label: usize, smoothing: f64) -> f64 {
    let mut largest = f64::NEG_INFINITY;
    for (logit, &b) in row.iter_mut().zip(bias) {
        *logit += b as f32;
        largest = largest.max(f64::from(*logit));
    }
    let spread = smoothing / row.len() as f64;
    let mut sum = 0.0;
    let mut mean_logit = 0.0;
    for &logit in &*row {
        sum += (f64::from(logit) - largest).exp();
        mean_logit += f64::from(logit);
    }
    let log_sum = largest + sum.ln();
    let target = (1.0 - smoothing) * f64::from(row[label]) + spread * mean_logit;
    for (class, value) in row.iter_mut().enumerate() {
        let probability = (f64::from(*value) - log_sum).exp();
        let wanted = spread + if class == label { 1.0 - smoothing } else { 0.0 };
        *value = (probability - wanted) as f32;
    }
    log_sum - target
}

/// Replaces logits without bias by `probability - target`; returns the sum of the classes' binary
/// cross-entropies, each times its factor.
fn sigmoid_residual(
    row: &mut [f32],
    bias: &[f64],
    labels: &[u32],
    factors: &[[f64; 2]],
    smoothing: f64,
) -> f64 {
    let mut loss = 0.0;
    for (class, (value, &b)) in row.iter_mut().zip(bias).enumerate() {
        let logit = f64::from(*value) + b;
        let positive = labels.contains(&(class as u32));
        let wanted = 0.5 * smoothing + if positive { 1.0 - smoothing } else { 0.0 };
        let factor = factors.get(class).map_or(1.0, |sides| sides[usize::from(positive)]);
        // log(1 + exp(z)) - wanted z, without overflow.
        loss += factor * (logit.max(0.0) + (-logit.abs()).exp().ln_1p() - wanted * logit);
        *value = (factor * (1.0 / (1.0 + (-logit).exp()) - wanted)) as f32;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::DenseRows;

    fn toy(range: std::ops::Range<usize>) -> (Vec<f32>, Vec<u32>) {
        let mut values = Vec::new();
        let mut labels = Vec::new();
        for i in range {
            let label = (i % 3) as u32;
            for column in 0..4 {
                values.push(
                    ((i * 31 + column * 17) % 23) as f32 / 23.0
                        + f32::from(column == label as usize),
                );
            }
            labels.push(label);
        }
        (values, labels)
    }

    fn classes(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("c{i}")).collect()
    }

    #[test]
    fn the_gradient_is_that_of_central_differences() {
        let (values, labels) = toy(0..40);
        let rows = DenseRows::new(&values, 4).unwrap();
        let sets: Vec<Vec<u32>> =
            labels.iter().map(|&l| if l == 0 { vec![0, 2] } else { vec![l] }).collect();
        let weights: Vec<f32> = (0..40).map(|i| 0.5 + i as f32 / 40.0).collect();
        let factors = [[0.7, 1.6], [0.5, 4.0], [1.0, 1.0]];
        let plain = Targets::Sets { sets: &sets, factors: &[] };
        let balanced = Targets::Sets { sets: &sets, factors: &factors };
        for targets in [Targets::Classes(&labels), plain, balanced] {
            let objective = Objective {
                rows: &rows,
                targets: &targets,
                weights: &weights,
                classes: 3,
                transform: &Transform::default(),
                penalty: 0.1,
                scale: 1.0 / 40.0,
                smoothing: 0.1,
                cancel: &Cancel::default(),
            };
            let x: Vec<f64> = (0..15).map(|i| (f64::from(i) * 1.3).sin()).collect();
            let mut gradient = vec![0.0; 15];
            objective.evaluate(&x, &mut gradient).unwrap();
            for i in 0..15 {
                let value = |delta: f64| {
                    let mut y = x.clone();
                    y[i] += delta;
                    objective.evaluate(&y, &mut [0.0; 15]).unwrap()
                };
                let numeric = (value(1e-2) - value(-1e-2)) / 2e-2;
                assert!((numeric - gradient[i]).abs() < 1e-4, "{i}: {numeric} {}", gradient[i]);
            }
        }
    }

    #[test]
    fn weights_are_the_same_bytes_on_one_thread_and_on_many() {
        let (values, labels) = toy(0..1000);
        let rows = DenseRows::new(&values, 4).unwrap();
        let samples = Samples::new(&rows, labels, classes(3));
        let fit = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (transform, options) = (Transform::default(), LogisticOptions::default());
            pool.install(|| {
                fit_softmax(&samples, &transform, &options, &Cancel::default(), &mut |_, _| {})
            })
            .unwrap()
        };
        assert_eq!(fit(1), fit(3));
    }

    #[test]
    fn a_cancelled_fit_stops() {
        let (values, labels) = toy(0..100);
        let rows = DenseRows::new(&values, 4).unwrap();
        let samples = Samples::new(&rows, labels, classes(3));
        let cancel = Cancel::default();
        let flag = cancel.clone();
        let result = fit_softmax(
            &samples,
            &Transform::default(),
            &LogisticOptions::default(),
            &cancel,
            &mut |_, _| flag.cancel(),
        );
        assert!(matches!(result, Err(TrainError::Cancelled(_))));
    }
}
