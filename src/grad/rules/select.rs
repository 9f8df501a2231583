//! `Iff(condition, a, b)`: the element of `a` where the condition holds, else that of `b`.
//! The condition has no derivative by nature.

use tract_onnx::tract_core::ops::logic::Iff;

use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};
use crate::grad::walk::{Walk, broadcast_strides, dense_strides, volume};

/// A selection at fixed shapes.
#[derive(Debug)]
pub struct Select {
    lens: [usize; 3],
    output_len: usize,
    /// Over output, condition and both choices.
    walk: Walk<4>,
}

/// The rule of a selection.
pub fn rule(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    site.op_as::<Iff>()?;
    let [condition, a, b] = site.inputs.as_slice() else {
        return Err(Unsupported::new("it has not three inputs"));
    };
    let strides = |shape: &[usize]| broadcast_strides(shape, &site.output);
    let walk = Walk::new(
        &site.output,
        [&dense_strides(&site.output), &strides(condition), &strides(a), &strides(b)],
    );
    let lens = [volume(condition), volume(a), volume(b)];
    Ok(Box::new(Select { lens, output_len: volume(&site.output), walk }))
}

impl Select {
    fn choose<T: Real>(&self, condition: &[T], a: Option<&[T]>, b: Option<&[T]>) -> Vec<T> {
        let mut output = vec![T::zero(); self.output_len];
        self.walk.rows(|row| {
            row.each(|[o, c, at_a, at_b]| {
                let (choice, at) = if condition[c] == T::zero() { (b, at_b) } else { (a, at_a) };
                output[o] = choice.map_or(T::zero(), |choice| choice[at]);
            });
        });
        output
    }
}

impl<T: Real> Kernel<T> for Select {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        self.choose(inputs[0], Some(inputs[1]), Some(inputs[2]))
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        self.choose(inputs[0], tangents[1], tangents[2])
    }

    fn vjp(
        &self,
        values: &Values<'_, T>,
        cotangent: Vec<T>,
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let condition = values.input(0);
        let mut grad_a = wanted[1].then(|| vec![T::zero(); self.lens[1]]);
        let mut grad_b = wanted[2].then(|| vec![T::zero(); self.lens[2]]);
        self.walk.rows(|row| {
            row.each(|[o, c, a, b]| {
                let (grad, at) =
                    if condition[c] == T::zero() { (&mut grad_b, b) } else { (&mut grad_a, a) };
                if let Some(grad) = grad {
                    grad[at] += cotangent[o];
                }
            });
        });
        let nothing = wanted[0].then(|| vec![T::zero(); self.lens[0]]);
        vec![nothing, grad_a, grad_b]
    }
}

impl Rule for Select {
    fn needs(&self, _: &[bool]) -> Needs {
        Needs::inputs(vec![true, false, false])
    }
}
