//! Division by the root mean square, as layer normalisation does after it has taken off the mean.

use tract_onnx::tract_core::ops::nn::RmsNorm;

use super::reduce::Groups;
use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};

/// `y = x r` with `r = 1 / sqrt(mean of x^2 + epsilon)` along one axis, at a fixed shape.
///
/// With n elements along the axis and c the cotangent: `r c - x r^3 / n sum c x`. The derivative is
/// symmetric, so the tangent takes the same way as the cotangent.
#[derive(Debug)]
pub struct RootMeanSquare {
    groups: Groups,
    epsilon: f64,
}

/// The rule of a root mean square normalisation.
pub fn rule(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<RmsNorm>()?;
    let epsilon = op.eps.cast_to_scalar::<f32>();
    let epsilon = epsilon.map_err(|_| Unsupported::new("an epsilon that is no number"))?;
    let groups = Groups::along(&[op.axis], &site.inputs[0]);
    Ok(Box::new(RootMeanSquare { groups, epsilon: f64::from(epsilon) }))
}

impl RootMeanSquare {
    /// `r` of each group.
    fn factors<T: Real>(&self, input: &[T]) -> Vec<T> {
        let size = T::of(self.groups.size() as f64);
        let mut means = self.groups.sum(|element| input[element] * input[element] / size);
        for mean in &mut means {
            *mean = (*mean + T::of(self.epsilon)).sqrt().recip();
        }
        means
    }

    fn along<T: Real>(&self, input: &[T], direction: &[T]) -> Vec<T> {
        let size = T::of(self.groups.size() as f64);
        let factors = self.factors(input);
        let means = self.groups.sum(|element| input[element] * direction[element] / size);
        self.groups.spread(|element, group| {
            let factor = factors[group];
            factor * direction[element] - input[element] * factor * factor * factor * means[group]
        })
    }
}

impl<T: Real> Kernel<T> for RootMeanSquare {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let factors = self.factors(inputs[0]);
        self.groups.spread(|element, group| inputs[0][element] * factors[group])
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        match tangents[0] {
            Some(tangent) => self.along(inputs[0], tangent),
            None => vec![T::zero(); inputs[0].len()],
        }
    }

    fn vjp(&self, values: &Values<'_, T>, cotangent: Vec<T>, _: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![Some(self.along(values.input(0), &cotangent))]
    }
}

impl Rule for RootMeanSquare {
    fn needs(&self, _: &[bool]) -> Needs {
        Needs::inputs(vec![true])
    }
}
