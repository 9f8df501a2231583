//! A perceptron with one hidden layer, by `AdamW` (Loshchilov and Hutter 2019) with early stopping.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::blocks::read_block;
use super::folds::{of_samples, split_samples};
use super::linear_algebra::{Operand, multiply};
use super::{Samples, TrainError};
use crate::base::cancel::Cancel;
use crate::heads::{Linear, Matrix, Perceptron, Transform};

/// How the perceptron is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerceptronOptions {
    /// Hidden units, 1 to 4096.
    pub hidden: usize,
    /// Step size of `AdamW`.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Most passes over the samples.
    pub epochs: usize,
    /// Passes without a better held-out loss after which training stops.
    pub patience: usize,
    /// Share of each target that is spread over all classes.
    pub label_smoothing: f32,
    /// Of initial weights, order of samples and held-out part.
    pub seed: u64,
}

impl Default for PerceptronOptions {
    fn default() -> Self {
        Self {
            hidden: 128,
            learning_rate: 1e-3,
            weight_decay: 1e-2,
            epochs: 100,
            patience: 10,
            label_smoothing: 0.0,
            seed: 0,
        }
    }
}

const BATCH: usize = 32;
/// One part in so many tells when to stop.
const PARTS: usize = 8;
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Trains on seven eighths of `samples` and keeps the weights with the least loss on the rest, but for
/// changed copies, which are trained on with their original or not at all.
///
/// # Errors
/// [`TrainError::Invalid`] for options out of range, [`TrainError::Diverged`],
/// [`TrainError::Cancelled`] within one batch.
pub fn fit(
    samples: &Samples<'_>,
    transform: &Transform,
    options: &PerceptronOptions,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<Perceptron, TrainError> {
    let valid = (1..=4096).contains(&options.hidden)
        && options.learning_rate > 0.0
        && options.weight_decay >= 0.0
        && (0.0..1.0).contains(&options.label_smoothing);
    if !valid {
        return Err(TrainError::Invalid("the perceptron's options are out of range".into()));
    }
    let (classes, width) = (samples.classes.len(), samples.rows.width());
    let mut random = Pcg64::seed_from_u64(options.seed);
    let (mut kept, held_out) = divided(samples, options.seed);
    let mut network = Network::new(width, options.hidden, classes, &mut random);
    let mut batch = Batch::new(samples, transform, options.label_smoothing);
    let mut best = (f64::INFINITY, network.parameters.clone());
    let mut stale = 0;
    for epoch in 1..=options.epochs {
        kept.shuffle(&mut random);
        for chunk in kept.chunks(BATCH) {
            cancel.check()?;
            batch.load(chunk);
            network.step(&mut batch, options);
        }
        let mut loss = 0.0;
        let judged = if held_out.is_empty() { &kept } else { &held_out };
        for chunk in judged.chunks(BATCH) {
            cancel.check()?;
            batch.load(chunk);
            loss += network.loss(&mut batch);
        }
        loss /= judged.len() as f64;
        if !loss.is_finite() {
            return Err(TrainError::Diverged("the perceptron's loss is not finite"));
        }
        progress(epoch, loss);
        if loss < best.0 {
            best = (loss, network.parameters.clone());
            stale = 0;
        } else {
            stale += 1;
            if stale >= options.patience {
                break;
            }
        }
    }
    network.parameters = best.1;
    network.into_perceptron()
}

/// Which samples are trained on, the only original of a class always, and which tell when to stop.
fn divided(samples: &Samples<'_>, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut assigned = of_samples(samples, PARTS, seed);
    let mut learnt = vec![false; samples.classes.len()];
    for (&label, &part) in samples.labels.iter().zip(&assigned) {
        learnt[label as usize] |= part != 0;
    }
    for (&label, part) in samples.labels.iter().zip(&mut assigned) {
        if !learnt[label as usize] {
            *part = 1;
        }
    }
    split_samples(samples, &assigned, 0)
}

/// All parameters in one vector, so that `AdamW` is one loop: hidden weights (hidden x width), hidden
/// biases, output weights (classes x hidden), output biases.
struct Network {
    width: usize,
    hidden: usize,
    classes: usize,
    parameters: Vec<f32>,
    gradient: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    steps: i32,
}

impl Network {
    fn new(width: usize, hidden: usize, classes: usize, random: &mut Pcg64) -> Self {
        let size = hidden * (width + 1) + classes * (hidden + 1);
        let mut parameters = vec![0.0; size];
        // He et al. 2015 for the rectified layer, its mean-preserving form for the last.
        let mut fill = |values: &mut [f32], bound: f32| {
            values.iter_mut().for_each(|v| *v = random.random_range(-bound..bound));
        };
        fill(&mut parameters[..hidden * width], (6.0 / width as f32).sqrt());
        let output = hidden * (width + 1);
        let bound = (3.0 / hidden as f32).sqrt();
        fill(&mut parameters[output..output + classes * hidden], bound);
        let zeros = vec![0.0; size];
        Self {
            width,
            hidden,
            classes,
            parameters,
            gradient: zeros.clone(),
            first_moment: zeros.clone(),
            second_moment: zeros,
            steps: 0,
        }
    }

    /// Hidden activations and logits of the batch.
    fn forward(&self, batch: &mut Batch<'_>) {
        let rows = batch.labels.len();
        let (w1, rest) = self.parameters.split_at(self.hidden * self.width);
        let (b1, rest) = rest.split_at(self.hidden);
        let (w2, b2) = rest.split_at(self.classes * self.hidden);
        batch.hidden.resize(rows * self.hidden, 0.0);
        batch.logits.resize(rows * self.classes, 0.0);
        let x = Operand::new(&batch.values, rows, self.width);
        let w1 = Operand::new(w1, self.hidden, self.width);
        multiply(1.0, x, w1.t(), 0.0, &mut batch.hidden, self.hidden);
        for row in batch.hidden.chunks_exact_mut(self.hidden) {
            row.iter_mut().zip(b1).for_each(|(v, b)| *v = (*v + b).max(0.0));
        }
        let h = Operand::new(&batch.hidden, rows, self.hidden);
        let w2 = Operand::new(w2, self.classes, self.hidden);
        multiply(1.0, h, w2.t(), 0.0, &mut batch.logits, self.classes);
        for row in batch.logits.chunks_exact_mut(self.classes) {
            row.iter_mut().zip(b2).for_each(|(v, b)| *v += b);
        }
    }

    fn loss(&self, batch: &mut Batch<'_>) -> f64 {
        self.forward(batch);
        batch.residuals(self.classes)
    }

    fn step(&mut self, batch: &mut Batch<'_>, options: &PerceptronOptions) {
        self.forward(batch);
        batch.residuals(self.classes);
        self.backward(batch);
        self.steps += 1;
        let rate = options.learning_rate * (1.0 - BETA2.powi(self.steps)).sqrt()
            / (1.0 - BETA1.powi(self.steps));
        let decay = 1.0 - options.learning_rate * options.weight_decay;
        let moments = self.first_moment.iter_mut().zip(&mut self.second_moment);
        for ((p, &g), (m, v)) in self.parameters.iter_mut().zip(&self.gradient).zip(moments) {
            *m = BETA1 * *m + (1.0 - BETA1) * g;
            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
            *p = *p * decay - rate * *m / (v.sqrt() + EPSILON);
        }
    }

    fn backward(&mut self, batch: &mut Batch<'_>) {
        let rows = batch.labels.len();
        let scale = 1.0 / rows as f32;
        let output = self.hidden * (self.width + 1);
        let (g_hidden, g_output) = self.gradient.split_at_mut(output);
        let (g_w1, g_b1) = g_hidden.split_at_mut(self.hidden * self.width);
        let (g_w2, g_b2) = g_output.split_at_mut(self.classes * self.hidden);
        let residuals = Operand::new(&batch.logits, rows, self.classes);
        let h = Operand::new(&batch.hidden, rows, self.hidden);
        multiply(scale, residuals.t(), h, 0.0, g_w2, self.hidden);
        sum_rows(&batch.logits, scale, g_b2);
        let w2 = &self.parameters[output..output + self.classes * self.hidden];
        let w2 = Operand::new(w2, self.classes, self.hidden);
        batch.hidden_gradient.resize(rows * self.hidden, 0.0);
        multiply(1.0, residuals, w2, 0.0, &mut batch.hidden_gradient, self.hidden);
        for (g, h) in batch.hidden_gradient.iter_mut().zip(&batch.hidden) {
            if *h <= 0.0 {
                *g = 0.0;
            }
        }
        let g = Operand::new(&batch.hidden_gradient, rows, self.hidden);
        let x = Operand::new(&batch.values, rows, self.width);
        multiply(scale, g.t(), x, 0.0, g_w1, self.width);
        sum_rows(&batch.hidden_gradient, scale, g_b1);
    }

    fn into_perceptron(self) -> Result<Perceptron, TrainError> {
        let mut rest = self.parameters;
        let mut tail = rest.split_off(self.hidden * self.width);
        let w1 = Matrix::new(self.hidden, self.width, rest)?;
        let mut output = tail.split_off(self.hidden);
        let b2 = output.split_off(self.classes * self.hidden);
        let w2 = Matrix::new(self.classes, self.hidden, output)?;
        Ok(Perceptron::new(Linear::new(w1, tail)?, Linear::new(w2, b2)?)?)
    }
}

fn sum_rows(values: &[f32], scale: f32, out: &mut [f32]) {
    out.fill(0.0);
    for row in values.chunks_exact(out.len()) {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += scale * v);
    }
}

/// A few samples and what the network makes of them.
struct Batch<'a> {
    samples: &'a Samples<'a>,
    transform: &'a Transform,
    smoothing: f32,
    values: Vec<f32>,
    labels: Vec<usize>,
    weights: Vec<f32>,
    hidden: Vec<f32>,
    hidden_gradient: Vec<f32>,
    /// Logits, then residuals.
    logits: Vec<f32>,
}

impl<'a> Batch<'a> {
    fn new(samples: &'a Samples<'a>, transform: &'a Transform, smoothing: f32) -> Self {
        Self {
            samples,
            transform,
            smoothing,
            values: Vec::new(),
            labels: Vec::new(),
            weights: Vec::new(),
            hidden: Vec::new(),
            hidden_gradient: Vec::new(),
            logits: Vec::new(),
        }
    }

    fn load(&mut self, indices: &[usize]) {
        let width = self.samples.rows.width();
        self.values.resize(indices.len() * width, 0.0);
        self.labels.clear();
        self.weights.clear();
        for (&index, row) in indices.iter().zip(self.values.chunks_exact_mut(width)) {
            read_block(self.samples.rows, self.transform, index, row);
            self.labels.push(self.samples.labels[index] as usize);
            self.weights.push(self.samples.weight(index));
        }
    }

    /// Replaces logits by `weight * (probability - target)`; returns the weighted loss.
    fn residuals(&mut self, classes: usize) -> f64 {
        let mut loss = 0.0;
        let spread = self.smoothing / classes as f32;
        for (row, (&label, &weight)) in
            self.logits.chunks_exact_mut(classes).zip(self.labels.iter().zip(&self.weights))
        {
            let log_sum = crate::heads::log_sum_exp(row);
            let mean: f32 = row.iter().sum::<f32>() * spread;
            let target = (1.0 - self.smoothing) * row[label] + mean;
            loss += f64::from(weight * (log_sum - target));
            for (class, value) in row.iter_mut().enumerate() {
                let wanted = spread + if class == label { 1.0 - self.smoothing } else { 0.0 };
                *value = weight * ((*value - log_sum).exp() - wanted);
            }
        }
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::DenseRows;

    /// Four clouds of points at the corners of a square; those of opposite corners are of one class, so
    /// that no line divides the classes.
    fn corners(count: usize) -> (Vec<f32>, Vec<u32>) {
        let noise = |i: usize, step: usize| ((i * step + 11) % 101) as f32 / 101.0 - 0.5;
        let values = (0..count).flat_map(|i| {
            let side = |bit: usize| if i >> bit & 1 == 1 { 1.0 } else { -1.0 };
            [side(0) + noise(i, 37), side(1) + noise(i, 59)]
        });
        let labels = (0..count).map(|i| (i & 1 ^ i >> 1 & 1) as u32);
        (values.collect(), labels.collect())
    }

    fn classes(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    #[test]
    fn the_gradient_is_that_of_central_differences() {
        let (count, width, hidden) = (12, 4, 5);
        let values: Vec<f32> = (0..count * width).map(|i| (i as f32 * 1.7).sin()).collect();
        let rows = DenseRows::new(&values, width).unwrap();
        let labels = (0..count).map(|i| (i % 3) as u32).collect();
        let weights = (0..count).map(|i| 0.5 + i as f32 / 6.0).collect();
        let samples = Samples { weights, ..Samples::new(&rows, labels, classes(3)) };
        let transform = Transform::default();
        let mut network = Network::new(width, hidden, 3, &mut Pcg64::seed_from_u64(3));
        for (index, parameter) in network.parameters.iter_mut().enumerate() {
            *parameter = 0.8 * (index as f32 * 2.3 + 1.0).sin();
        }
        let mut batch = Batch::new(&samples, &transform, 0.1);
        batch.load(&(0..count).collect::<Vec<_>>());
        network.loss(&mut batch);
        network.backward(&mut batch);
        let gradient = network.gradient.clone();
        assert!(gradient.iter().any(|g| g.abs() > 0.05), "{gradient:?}");
        for (index, &found) in gradient.iter().enumerate() {
            let parameter = network.parameters[index];
            let mut loss = |delta: f32| {
                network.parameters[index] = parameter + delta;
                network.loss(&mut batch) / count as f64
            };
            let numeric = (loss(2e-3) - loss(-2e-3)) / 4e-3;
            network.parameters[index] = parameter;
            assert!((numeric - f64::from(found)).abs() < 3e-3, "{index}: {numeric} {found}");
        }
    }

    #[test]
    fn copies_do_not_judge_when_to_stop_and_go_with_their_original() {
        let (values, labels) = corners(80);
        let rows = DenseRows::new(&values, 2).unwrap();
        // Samples 40 to 79 are copies of 0 to 39.
        let labels = [&labels[..40], &labels[..40]].concat();
        let copy_of = (0..80).map(|i| i % 40).collect();
        let samples = Samples { copy_of, ..Samples::new(&rows, labels, classes(2)) };
        for seed in 0..8 {
            let (kept, held_out) = divided(&samples, seed);
            assert_eq!((kept.len(), held_out.len()), (70, 5));
            assert!(held_out.iter().all(|&i| i < 40 && !kept.contains(&(i + 40))));
        }
    }

    #[test]
    fn a_class_of_one_original_is_trained_on_with_its_copies_wherever_it_is_dealt() {
        let (values, mut labels) = corners(42);
        let rows = DenseRows::new(&values, 2).unwrap();
        // The rare class is dealt first; sample 41 is a copy of its only original, 0.
        labels.iter_mut().for_each(|label| *label += 1);
        (labels[0], labels[41]) = (0, 0);
        let copy_of = (0..42).map(|i| if i == 41 { 0 } else { i }).collect();
        let samples = Samples { copy_of, ..Samples::new(&rows, labels, classes(3)) };
        for seed in 0..8 {
            let (kept, held_out) = divided(&samples, seed);
            assert!(kept.contains(&0) && kept.contains(&41), "{kept:?}");
            assert!(!held_out.is_empty() && held_out.iter().all(|&i| i != 0 && i != 41));
        }
    }

    #[test]
    fn classes_that_no_line_divides_are_told_apart_on_samples_that_were_not_shown() {
        let (values, labels) = corners(600);
        let (learnt, shown) = (400, 200);
        let rows = DenseRows::new(&values[..2 * learnt], 2).unwrap();
        let samples = Samples::new(&rows, labels[..learnt].to_vec(), classes(2));
        let options =
            PerceptronOptions { hidden: 16, learning_rate: 1e-2, ..PerceptronOptions::default() };
        let mut losses = Vec::new();
        let transform = Transform::default();
        let fitted =
            fit(&samples, &transform, &options, &Cancel::default(), &mut |_, l| losses.push(l));
        let fitted = fitted.unwrap();
        assert!(losses.last().unwrap() < &(0.5 * losses[0]), "{losses:?}");
        let right =
            values[2 * learnt..].chunks_exact(2).zip(&labels[learnt..]).filter(|(x, label)| {
                let scores = fitted.logits(x);
                u32::from(scores[1] > scores[0]) == **label
            });
        let accuracy = right.count() as f64 / f64::from(shown);
        assert!(accuracy > 0.95, "{accuracy}");
    }
}
