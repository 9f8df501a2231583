//! Limited-memory BFGS with a line search for the strong Wolfe conditions (Nocedal and Wright 2006,
//! "Numerical optimization", algorithms 7.4, 3.5 and 3.6).

use std::collections::VecDeque;

use super::TrainError;

/// Pairs of steps and gradient changes that are remembered.
const MEMORY: usize = 10;
/// Sufficient decrease.
const C1: f64 = 1e-4;
/// Curvature.
const C2: f64 = 0.9;
/// Evaluations in one line search.
const MAX_SEARCH: usize = 20;
/// The objective is summed from f32 products: differences below this share of it mean nothing.
const NOISE: f64 = 1e-10;

/// Bytes that minimising over so many parameters takes: the memory, and what a line search holds.
pub fn working_bytes(parameters: usize) -> usize {
    (2 * MEMORY + 8) * parameters * size_of::<f64>()
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stop {
    /// Largest absolute element of the gradient.
    pub gradient: f64,
    /// Relative decrease of the objective in an iteration, three times in a row.
    pub decrease: f64,
    /// Number of iterations.
    pub iterations: usize,
}

impl Default for Stop {
    /// To convergence, as far as f32 embeddings allow.
    fn default() -> Self {
        Self { gradient: 1e-8, decrease: 1e-9, iterations: 2000 }
    }
}

/// The point that was reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Minimum {
    /// The point.
    pub x: Vec<f64>,
    /// The objective there.
    pub value: f64,
    /// Iterations done.
    pub iterations: usize,
    /// Evaluations of objective and gradient.
    pub evaluations: usize,
    /// Whether it stopped by tolerance and not by the number of iterations.
    pub converged: bool,
}

/// Minimises `objective`, which writes its gradient at `x` to its second argument and returns its
/// value. `progress` hears of every iteration and its value.
///
/// # Errors
/// What `objective` returns; [`TrainError::Diverged`] if it is not finite at the start.
pub fn minimise(
    mut x: Vec<f64>,
    stop: &Stop,
    mut objective: impl FnMut(&[f64], &mut [f64]) -> Result<f64, TrainError>,
    mut progress: impl FnMut(usize, f64),
) -> Result<Minimum, TrainError> {
    let mut gradient = vec![0.0; x.len()];
    let mut value = objective(&x, &mut gradient)?;
    if !value.is_finite() || gradient.iter().any(|g| !g.is_finite()) {
        return Err(TrainError::Diverged("the objective is not finite at the start"));
    }
    let mut evaluations = 1;
    let mut memory: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    let mut calm = 0;
    for iteration in 0..stop.iterations {
        let steepest = gradient.iter().fold(0.0_f64, |m, g| m.max(g.abs()));
        if steepest <= stop.gradient || calm >= 3 {
            return Ok(Minimum { x, value, iterations: iteration, evaluations, converged: true });
        }
        let mut direction = descent(&gradient, &memory);
        let mut slope = inner(&direction, &gradient);
        if slope >= 0.0 {
            memory.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -inner(&gradient, &gradient);
        }
        let first = if memory.is_empty() {
            1.0_f64.min(1.0 / gradient.iter().map(|g| g.abs()).sum::<f64>())
        } else {
            1.0
        };
        let mut evaluate = |step: f64| -> Result<Trial, TrainError> {
            let point: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
            let mut gradient = vec![0.0; point.len()];
            let value = objective(&point, &mut gradient)?;
            let slope = inner(&direction, &gradient);
            Ok(Trial { step, value, slope, point, gradient })
        };
        let (found, spent) = search(&mut evaluate, value, slope, first)?;
        evaluations += spent;
        let Some(found) = found else {
            if memory.is_empty() {
                // Not even the steepest descent descends: the objective's noise floor.
                return Ok(Minimum {
                    x,
                    value,
                    iterations: iteration,
                    evaluations,
                    converged: true,
                });
            }
            memory.clear();
            continue;
        };
        let s: Vec<f64> = found.point.iter().zip(&x).map(|(new, old)| new - old).collect();
        let y: Vec<f64> =
            found.gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        let curvature = inner(&s, &y);
        if curvature > f64::EPSILON * inner(&y, &y) {
            if memory.len() == MEMORY {
                memory.pop_front();
            }
            memory.push_back(Pair { s, y, inverse: 1.0 / curvature });
        }
        let decrease = (value - found.value) / value.abs().max(f64::MIN_POSITIVE);
        calm = if decrease <= stop.decrease { calm + 1 } else { 0 };
        x = found.point;
        gradient = found.gradient;
        value = found.value;
        progress(iteration + 1, value);
    }
    Ok(Minimum { x, value, iterations: stop.iterations, evaluations, converged: false })
}

struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    inverse: f64,
}

struct Trial {
    step: f64,
    value: f64,
    slope: f64,
    point: Vec<f64>,
    gradient: Vec<f64>,
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0_f64; 4];
    let (a_blocks, a_rest) = a.as_chunks::<4>();
    let (b_blocks, b_rest) = b.as_chunks::<4>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..4 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// The two-loop recursion: minus the approximate inverse Hessian times the gradient.
fn descent(gradient: &[f64], memory: &VecDeque<Pair>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(memory.len());
    for pair in memory.iter().rev() {
        let alpha = pair.inverse * inner(&pair.s, &q);
        q.iter_mut().zip(&pair.y).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    if let Some(last) = memory.back() {
        let scale = 1.0 / (last.inverse * inner(&last.y, &last.y));
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for (pair, alpha) in memory.iter().zip(alphas.iter().rev()) {
        let beta = pair.inverse * inner(&pair.y, &q);
        q.iter_mut().zip(&pair.s).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q
}

/// Finds a step that satisfies the strong Wolfe conditions, or at least descends; `None` if none of
/// the tries did. Also says how many tries there were.
fn search(
    evaluate: &mut impl FnMut(f64) -> Result<Trial, TrainError>,
    value: f64,
    slope: f64,
    first: f64,
) -> Result<(Option<Trial>, usize), TrainError> {
    let tolerance = NOISE * value.abs();
    let descends = |t: &Trial| t.value <= value + C1 * t.step * slope + tolerance;
    let flat = |t: &Trial| t.slope.abs() <= -C2 * slope;
    // The bracket: `low` descends and is the best so far, `high` is on the other side.
    let mut low = Ends { step: 0.0, value, slope };
    let mut high: Option<Ends> = None;
    let mut best: Option<Trial> = None;
    let mut step = first;
    for tries in 1..=MAX_SEARCH {
        let trial = evaluate(step)?;
        let ends = Ends { step: trial.step, value: trial.value, slope: trial.slope };
        if !trial.value.is_finite() {
            high = Some(Ends { step, value: f64::INFINITY, slope: f64::INFINITY });
        } else if !descends(&trial) || (trial.value > low.value + tolerance && low.step > 0.0) {
            high = Some(ends);
        } else if flat(&trial) {
            return Ok((Some(trial), tries));
        } else {
            if trial.slope * (high.as_ref().map_or(1.0, |h| h.step - low.step)) >= 0.0 {
                high = Some(low);
            }
            low = ends;
            best = Some(trial);
        }
        step = match &high {
            None => low.step * 2.5,
            Some(high) => interpolate(&low, high),
        };
        if high.as_ref().is_some_and(|h| (h.step - low.step).abs() < 1e-12 * low.step.max(1e-3)) {
            return Ok((best, tries));
        }
    }
    Ok((best, MAX_SEARCH))
}

#[derive(Clone, Copy)]
struct Ends {
    step: f64,
    value: f64,
    slope: f64,
}

/// Minimiser of the cubic through both ends, kept away from them.
fn interpolate(low: &Ends, high: &Ends) -> f64 {
    let width = high.step - low.step;
    let middle = low.step + 0.5 * width;
    if !high.value.is_finite() {
        return low.step + 0.1 * width;
    }
    let d1 = low.slope + high.slope - 3.0 * (low.value - high.value) / (low.step - high.step);
    let discriminant = d1 * d1 - low.slope * high.slope;
    if discriminant < 0.0 {
        return middle;
    }
    let d2 = width.signum() * discriminant.sqrt();
    let step = high.step - width * (high.slope + d2 - d1) / (high.slope - low.slope + 2.0 * d2);
    let (from, to) = (low.step + 0.1 * width, low.step + 0.9 * width);
    if step.is_finite() { step.clamp(from.min(to), from.max(to)) } else { middle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rosenbrock_valley_is_followed_to_its_end() {
        let rosenbrock = |x: &[f64], g: &mut [f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            g[0] = -2.0 * a - 400.0 * x[0] * b;
            g[1] = 200.0 * b;
            Ok(a * a + 100.0 * b * b)
        };
        let found = minimise(vec![-1.2, 1.0], &Stop::default(), rosenbrock, |_, _| {}).unwrap();
        assert!(found.converged && found.evaluations < 120, "{found:?}");
        assert!((found.x[0] - 1.0).abs() < 1e-5 && (found.x[1] - 1.0).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn an_objective_that_is_not_finite_is_an_error() {
        let nan = |_: &[f64], _: &mut [f64]| Ok(f64::NAN);
        assert!(minimise(vec![0.0], &Stop::default(), nan, |_, _| {}).is_err());
    }
}
