//! Two-input arithmetic with broadcasting.
//!
//! | operator | derivative |
//! |---|---|
//! | Add, Sub, SubF | c, c; c, -c; -c, c |
//! | Mul | c b, c a |
//! | Div | c / b, -c a / b^2 |
//! | Max, Min | to the chosen input; between two variables halves where they are equal; beside a constant nothing where they are equal, as relu(0) and clip have it |
//! | Pow | c b a^(b-1), c a^b ln a |

use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::math::{Add, Div, Max, Min, Mul, Pow, Sub, SubF};

use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};
use crate::grad::walk::{Walk, broadcast_strides, dense_strides, volume};

/// Which function of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Add,
    Sub,
    /// Sub with its arguments swapped.
    SubF,
    Mul,
    Div,
    Max,
    Min,
    Pow,
}

impl Function {
    fn of(op: &TypedBinOp) -> Option<Function> {
        let op = &op.0;
        if op.is::<Add>() {
            Some(Function::Add)
        } else if op.is::<Sub>() {
            Some(Function::Sub)
        } else if op.is::<SubF>() {
            Some(Function::SubF)
        } else if op.is::<Mul>() {
            Some(Function::Mul)
        } else if op.is::<Div>() {
            Some(Function::Div)
        } else if op.is::<Max>() {
            Some(Function::Max)
        } else if op.is::<Min>() {
            Some(Function::Min)
        } else if op.is::<Pow>() {
            Some(Function::Pow)
        } else {
            None
        }
    }

    fn value<T: Real>(self, a: T, b: T) -> T {
        match self {
            Function::Add => a + b,
            Function::Sub => a - b,
            Function::SubF => b - a,
            Function::Mul => a * b,
            Function::Div => a / b,
            Function::Max => a.max(b),
            Function::Min => a.min(b),
            Function::Pow => a.powf(b),
        }
    }

    /// Partial derivatives by `a` and `b`; `tie` is what each gets where Max or Min are equal.
    fn partials<T: Real>(self, a: T, b: T, tie: T) -> (T, T) {
        let (zero, one) = (T::zero(), T::one());
        let chosen = |first: bool, second: bool| match (first, second) {
            (true, _) => (one, zero),
            (_, true) => (zero, one),
            _ => (tie, tie),
        };
        match self {
            Function::Add => (one, one),
            Function::Sub => (one, -one),
            Function::SubF => (-one, one),
            Function::Mul => (b, a),
            Function::Div => (one / b, -a / (b * b)),
            Function::Max => chosen(a > b, b > a),
            Function::Min => chosen(a < b, b < a),
            Function::Pow => (b * a.powf(b - one), a.powf(b) * a.ln()),
        }
    }

    fn is_linear(self) -> bool {
        matches!(self, Function::Add | Function::Sub | Function::SubF)
    }

    fn is_choice(self) -> bool {
        matches!(self, Function::Max | Function::Min)
    }
}

/// A binary operator at fixed shapes.
#[derive(Debug)]
pub struct Binary {
    function: Function,
    lens: [usize; 2],
    output_len: usize,
    constant: [bool; 2],
    /// Over output, first and second input.
    walk: Walk<3>,
}

/// The rule of a binary operator.
pub fn rule(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let function = Function::of(site.op_as::<TypedBinOp>()?)
        .ok_or_else(|| Unsupported::new("an unexpected function"))?;
    let [a, b] = site.inputs.as_slice() else {
        return Err(Unsupported::new("it has not two inputs"));
    };
    let walk = Walk::new(
        &site.output,
        [
            &dense_strides(&site.output),
            &broadcast_strides(a, &site.output),
            &broadcast_strides(b, &site.output),
        ],
    );
    Ok(Box::new(Binary {
        function,
        lens: [volume(a), volume(b)],
        output_len: volume(&site.output),
        constant: [site.constant[0], site.constant[1]],
        walk,
    }))
}

impl Binary {
    /// What each of two equal arguments of Max or Min receives.
    fn tie<T: Real>(&self) -> T {
        if self.constant == [false, false] { T::of(0.5) } else { T::zero() }
    }

    /// Whether the reverse reads the output in place of a variable that stands beside a constant:
    /// `max(x, k) > k` exactly where `x > k`. It spares a plan the value before a clip.
    fn reads_output(&self, wanted: &[bool]) -> bool {
        let variable = usize::from(self.constant[0]);
        self.function.is_choice()
            && self.constant[0] != self.constant[1]
            && !wanted[1 - variable]
            && self.lens[variable] == self.output_len
    }
}

impl<T: Real> Kernel<T> for Binary {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let mut output = vec![T::zero(); self.output_len];
        self.walk.rows(|row| {
            row.each(|[o, a, b]| output[o] = self.function.value(inputs[0][a], inputs[1][b]));
        });
        output
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        let mut output = vec![T::zero(); self.output_len];
        self.walk.rows(|row| {
            row.each(|[o, a, b]| {
                let (da, db) = self.function.partials(inputs[0][a], inputs[1][b], self.tie());
                if let Some(tangent) = tangents[0] {
                    output[o] += da * tangent[a];
                }
                if let Some(tangent) = tangents[1] {
                    output[o] += db * tangent[b];
                }
            });
        });
        output
    }

    fn vjp(
        &self,
        values: &Values<'_, T>,
        cotangent: Vec<T>,
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        if self.function.is_linear() {
            return self.linear_vjp(cotangent, wanted);
        }
        let variable = usize::from(self.constant[0]);
        let mut read = [values.inputs[0], values.inputs[1]];
        if self.reads_output(wanted) {
            read[variable] = values.output;
            if let (Some(&[bound]), true) = (values.inputs[1 - variable], wanted[variable]) {
                return self.clip_vjp(variable, bound, values.output(), cotangent);
            }
        }
        let none = [T::zero()];
        let [a_values, b_values] = read.map(|values| values.unwrap_or(&none));
        let pick = |slice: &[T], index: usize| slice.get(index).copied().unwrap_or(T::zero());
        let mut grad_a = wanted[0].then(|| vec![T::zero(); self.lens[0]]);
        let mut grad_b = wanted[1].then(|| vec![T::zero(); self.lens[1]]);
        let tie = self.tie();
        self.walk.rows(|row| {
            row.each(|[o, a, b]| {
                let (da, db) = self.function.partials(pick(a_values, a), pick(b_values, b), tie);
                if let Some(grad) = &mut grad_a {
                    grad[a] += da * cotangent[o];
                }
                if let Some(grad) = &mut grad_b {
                    grad[b] += db * cotangent[o];
                }
            });
        });
        vec![grad_a, grad_b]
    }
}

impl Binary {
    /// Max or Min with one number: the cotangent passes where the variable was chosen.
    fn clip_vjp<T: Real>(
        &self,
        variable: usize,
        bound: T,
        output: &[T],
        mut cotangent: Vec<T>,
    ) -> Vec<Option<Vec<T>>> {
        let pairs = cotangent.iter_mut().zip(output);
        if self.function == Function::Max {
            pairs.for_each(|(c, y)| *c = if *y > bound { *c } else { T::zero() });
        } else {
            pairs.for_each(|(c, y)| *c = if *y < bound { *c } else { T::zero() });
        }
        let mut grads = vec![None, None];
        grads[variable] = Some(cotangent);
        grads
    }

    fn linear_vjp<T: Real>(&self, cotangent: Vec<T>, wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let (sign_a, sign_b) = match self.function {
            Function::Sub => (T::one(), -T::one()),
            Function::SubF => (-T::one(), T::one()),
            Function::Add
            | Function::Mul
            | Function::Div
            | Function::Max
            | Function::Min
            | Function::Pow => (T::one(), T::one()),
        };
        let reduced = |side: usize, sign: T| {
            let mut grad = vec![T::zero(); self.lens[side]];
            self.walk.rows(|row| {
                row.each(|at| grad[at[1 + side]] += sign * cotangent[at[0]]);
            });
            grad
        };
        let whole = |side: usize| self.lens[side] == self.output_len;
        // The common residual sum: hand the cotangent on instead of copying it.
        if wanted == [true, false] && whole(0) && sign_a == T::one() {
            return vec![Some(cotangent), None];
        }
        if wanted == [false, true] && whole(1) && sign_b == T::one() {
            return vec![None, Some(cotangent)];
        }
        vec![wanted[0].then(|| reduced(0, sign_a)), wanted[1].then(|| reduced(1, sign_b))]
    }
}

impl Rule for Binary {
    fn needs(&self, wanted: &[bool]) -> Needs {
        match self.function {
            Function::Add | Function::Sub | Function::SubF => Needs::nothing(2),
            Function::Mul => Needs::inputs(vec![wanted[1], wanted[0]]),
            Function::Div => Needs::inputs(vec![wanted[1], true]),
            Function::Max | Function::Min if self.reads_output(wanted) => {
                Needs { inputs: self.constant.to_vec(), output: true }
            }
            Function::Max | Function::Min | Function::Pow => Needs::inputs(vec![true, true]),
        }
    }
}
