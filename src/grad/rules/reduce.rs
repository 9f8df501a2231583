//! Sums, means of squares and extrema over axes, and the softmax family that normalises over them.

use tract_onnx::tract_core::ops::nn::{Reduce, Reducer, Softmax, SoftmaxKind};

use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};
use crate::grad::walk::{Walk, dense_strides, volume};

/// A group of elements for each element of the reduced shape.
#[derive(Debug)]
pub(super) struct Groups {
    input_len: usize,
    count: usize,
    /// Over the elements and their group.
    walk: Walk<2>,
}

impl Groups {
    /// All elements that differ only along `axes`.
    pub(super) fn along(axes: &[usize], shape: &[usize]) -> Groups {
        let reduced: Vec<usize> =
            shape.iter().enumerate().map(|(i, d)| if axes.contains(&i) { 1 } else { *d }).collect();
        let mut strides = dense_strides(&reduced);
        for axis in axes {
            strides[*axis] = 0;
        }
        Groups {
            input_len: volume(shape),
            count: volume(&reduced),
            walk: Walk::new(shape, [&dense_strides(shape), &strides]),
        }
    }

    /// Elements in a group.
    pub(super) fn size(&self) -> usize {
        self.input_len.checked_div(self.count).unwrap_or(0)
    }

    /// Calls `visit(element, group)` for every element.
    fn each(&self, mut visit: impl FnMut(usize, usize)) {
        self.walk.rows(|row| row.each(|[element, group]| visit(element, group)));
    }

    pub(super) fn sum<T: Real>(&self, value: impl Fn(usize) -> T) -> Vec<T> {
        let mut sums = vec![T::zero(); self.count];
        self.each(|element, group| sums[group] += value(element));
        sums
    }

    pub(super) fn spread<T: Real>(&self, value: impl Fn(usize, usize) -> T) -> Vec<T> {
        let mut elements = vec![T::zero(); self.input_len];
        self.each(|element, group| elements[element] = value(element, group));
        elements
    }
}

/// Which number a group is reduced to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduction {
    Sum,
    MeanOfSquares,
    Max,
    Min,
}

/// A reduction at a fixed shape. Equal extrema share the cotangent evenly.
#[derive(Debug)]
pub struct Reduced {
    reduction: Reduction,
    groups: Groups,
}

/// The rule of a reduction.
pub fn rule(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<Reduce>()?;
    let reduction = match op.reducer {
        Reducer::Sum => Reduction::Sum,
        Reducer::MeanOfSquares => Reduction::MeanOfSquares,
        Reducer::Max => Reduction::Max,
        Reducer::Min => Reduction::Min,
        other @ (Reducer::ArgMax(_)
        | Reducer::ArgMin(_)
        | Reducer::Prod
        | Reducer::All
        | Reducer::Any) => return Err(Unsupported::new(format!("reduction by {other:?}"))),
    };
    Ok(Box::new(Reduced { reduction, groups: Groups::along(&op.axes, &site.inputs[0]) }))
}

impl Reduced {
    fn extrema<T: Real>(&self, input: &[T]) -> Vec<T> {
        let (start, pick): (T, fn(T, T) -> T) = if self.reduction == Reduction::Max {
            (T::neg_infinity(), T::max)
        } else {
            (T::infinity(), T::min)
        };
        let mut extrema = vec![start; self.groups.count];
        self.groups.each(|element, group| extrema[group] = pick(extrema[group], input[element]));
        extrema
    }

    /// What each element contributes to its group when it moves by one.
    fn weights<T: Real>(&self, input: &[T], output: &[T]) -> Vec<T> {
        match self.reduction {
            Reduction::Sum => vec![T::one(); self.groups.input_len],
            Reduction::MeanOfSquares => {
                let factor = T::of(2.0 / self.groups.size() as f64);
                input.iter().map(|x| factor * *x).collect()
            }
            Reduction::Max | Reduction::Min => {
                let mut ties = vec![T::zero(); self.groups.count];
                self.groups.each(|element, group| {
                    if input[element] == output[group] {
                        ties[group] += T::one();
                    }
                });
                self.groups.spread(|element, group| {
                    if input[element] == output[group] { ties[group].recip() } else { T::zero() }
                })
            }
        }
    }
}

impl<T: Real> Kernel<T> for Reduced {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let input = inputs[0];
        match self.reduction {
            Reduction::Sum => self.groups.sum(|element| input[element]),
            Reduction::MeanOfSquares => {
                let size = T::of(self.groups.size() as f64);
                self.groups.sum(|element| input[element] * input[element] / size)
            }
            Reduction::Max | Reduction::Min => self.extrema(input),
        }
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        let Some(tangent) = tangents[0] else { return vec![T::zero(); self.groups.count] };
        let output = Kernel::<T>::forward(self, inputs);
        let weights = self.weights(inputs[0], &output);
        self.groups.sum(|element| weights[element] * tangent[element])
    }

    fn vjp(&self, values: &Values<'_, T>, cotangent: Vec<T>, _: &[bool]) -> Vec<Option<Vec<T>>> {
        if self.reduction == Reduction::Sum {
            return vec![Some(self.groups.spread(|_, group| cotangent[group]))];
        }
        let output = values.output.unwrap_or(&[]);
        let mut weights = self.weights(values.input(0), output);
        self.groups.each(|element, group| weights[element] = weights[element] * cotangent[group]);
        vec![Some(weights)]
    }
}

impl Rule for Reduced {
    fn needs(&self, _: &[bool]) -> Needs {
        match self.reduction {
            Reduction::Sum => Needs::nothing(1),
            Reduction::MeanOfSquares => Needs::inputs(vec![true]),
            Reduction::Max | Reduction::Min => Needs { inputs: vec![true], output: true },
        }
    }
}

/// Softmax or its logarithm at a fixed shape.
///
/// With y the output and c the cotangent: softmax y (c - sum c y), log-softmax c - exp(y) sum c.
#[derive(Debug)]
pub struct Normalised {
    logarithm: bool,
    groups: Groups,
}

/// The rule of softmax and log-softmax.
pub fn softmax(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<Softmax>()?;
    if op.quant_output_dt.is_some() {
        return Err(Unsupported::new("a quantised softmax"));
    }
    let logarithm = op.kind == SoftmaxKind::LogSoftmax;
    Ok(Box::new(Normalised { logarithm, groups: Groups::along(&op.axes, &site.inputs[0]) }))
}

impl<T: Real> Kernel<T> for Normalised {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let input = inputs[0];
        let mut largest = vec![T::neg_infinity(); self.groups.count];
        self.groups.each(|element, group| largest[group] = largest[group].max(input[element]));
        let exponent = self.groups.spread(|element, group| input[element] - largest[group]);
        let sums = self.groups.sum(|element| exponent[element].exp());
        self.groups.spread(|element, group| {
            if self.logarithm {
                exponent[element] - sums[group].ln()
            } else {
                exponent[element].exp() / sums[group]
            }
        })
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        let Some(tangent) = tangents[0] else { return vec![T::zero(); self.groups.input_len] };
        let output = Kernel::<T>::forward(self, inputs);
        let share = |element: usize| {
            if self.logarithm { output[element].exp() } else { output[element] }
        };
        let means = self.groups.sum(|element| share(element) * tangent[element]);
        self.groups.spread(|element, group| {
            let centred = tangent[element] - means[group];
            if self.logarithm { centred } else { output[element] * centred }
        })
    }

    fn vjp(&self, values: &Values<'_, T>, cotangent: Vec<T>, _: &[bool]) -> Vec<Option<Vec<T>>> {
        let output = values.output();
        let grad = if self.logarithm {
            let sums = self.groups.sum(|element| cotangent[element]);
            self.groups
                .spread(|element, group| cotangent[element] - output[element].exp() * sums[group])
        } else {
            let sums = self.groups.sum(|element| cotangent[element] * output[element]);
            self.groups
                .spread(|element, group| output[element] * (cotangent[element] - sums[group]))
        };
        vec![Some(grad)]
    }
}

impl Rule for Normalised {
    fn needs(&self, _: &[bool]) -> Needs {
        Needs::output(1)
    }
}
