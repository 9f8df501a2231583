//! Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3):
//! `y_c = x_c s_c^-beta` with `s_c = bias + alpha / size * sum of x^2` over `size` channels around
//! `c`.

use tract_onnx_opl::lrn::Lrn;

use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};

/// LRN over axis 1 of a fixed shape.
#[derive(Debug)]
pub struct Normalised {
    batch: usize,
    channels: usize,
    /// Elements of one channel's plane.
    plane: usize,
    alpha_over_size: f64,
    beta: f64,
    bias: f64,
    /// Channels before and after the centre that its sum reads.
    before: usize,
    after: usize,
}

/// The rule of LRN.
pub fn rule(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<Lrn>()?;
    let [batch, channels, spatial @ ..] = site.inputs[0].as_slice() else {
        return Err(Unsupported::new("an input without a channel axis"));
    };
    if op.size == 0 {
        return Err(Unsupported::new("a window of no channels"));
    }
    Ok(Box::new(Normalised {
        batch: *batch,
        channels: *channels,
        plane: spatial.iter().product(),
        alpha_over_size: f64::from(op.alpha) / op.size as f64,
        beta: f64::from(op.beta),
        bias: f64::from(op.bias),
        before: (op.size - 1) / 2,
        after: (op.size - 1).div_ceil(2),
    }))
}

impl Normalised {
    /// For each channel the sum of `value` over `before` channels ahead of it and `after` behind.
    fn window_sums<T: Real>(&self, before: usize, after: usize, value: &[T]) -> Vec<T> {
        let mut sums = vec![T::zero(); value.len()];
        for n in 0..self.batch {
            for c in 0..self.channels {
                let to = (n * self.channels + c) * self.plane;
                for other in c.saturating_sub(before)..=(c + after).min(self.channels - 1) {
                    let from = (n * self.channels + other) * self.plane;
                    for p in 0..self.plane {
                        sums[to + p] += value[from + p];
                    }
                }
            }
        }
        sums
    }

    fn scales<T: Real>(&self, input: &[T]) -> Vec<T> {
        let squares: Vec<T> = input.iter().map(|x| *x * *x).collect();
        let mut scales = self.window_sums(self.before, self.after, &squares);
        let (bias, factor) = (T::of(self.bias), T::of(self.alpha_over_size));
        for scale in &mut scales {
            *scale = bias + factor * *scale;
        }
        scales
    }
}

impl<T: Real> Kernel<T> for Normalised {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let beta = T::of(self.beta);
        let scales = self.scales(inputs[0]);
        inputs[0].iter().zip(scales).map(|(x, s)| *x / s.powf(beta)).collect()
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        let Some(tangent) = tangents[0] else { return vec![T::zero(); inputs[0].len()] };
        let input = inputs[0];
        let scales = self.scales(input);
        let products: Vec<T> = input.iter().zip(tangent).map(|(x, t)| *x * *t).collect();
        let moved = self.window_sums(self.before, self.after, &products);
        let (beta, factor) = (T::of(self.beta), T::of(2.0 * self.alpha_over_size));
        (0..input.len())
            .map(|i| {
                let power = scales[i].powf(-beta);
                power * tangent[i] - beta * factor * input[i] * power / scales[i] * moved[i]
            })
            .collect()
    }

    fn vjp(&self, values: &Values<'_, T>, cotangent: Vec<T>, _: &[bool]) -> Vec<Option<Vec<T>>> {
        let input = values.input(0);
        let scales = self.scales(input);
        let beta = T::of(self.beta);
        let powers: Vec<T> = scales.iter().map(|s| s.powf(-beta)).collect();
        let pulled: Vec<T> =
            (0..input.len()).map(|i| cotangent[i] * input[i] * powers[i] / scales[i]).collect();
        // Channel j is read by the centres whose window holds it: the window turned round.
        let pulled = self.window_sums(self.after, self.before, &pulled);
        let factor = T::of(2.0 * self.alpha_over_size) * beta;
        let grad = (0..input.len())
            .map(|i| cotangent[i] * powers[i] - factor * input[i] * pulled[i])
            .collect();
        vec![Some(grad)]
    }
}

impl Rule for Normalised {
    fn needs(&self, _: &[bool]) -> Needs {
        Needs::inputs(vec![true])
    }
}
