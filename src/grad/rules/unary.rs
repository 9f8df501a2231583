//! Element-wise functions.
//!
//! Each is a value and a derivative written from the input `x` and the value `y`, whichever is
//! cheaper to have; the list says which of the two the reverse reads.

use tract_onnx::tract_core::internal::ElementWiseMiniOp;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::{
    Abs, Acos, Acosh, Asin, Asinh, Atan, Atanh, Cos, Cosh, Erf, Exp, Ln, Neg, PowConst, Recip,
    Rsqrt, Sin, Sinh, Sqrt, Square, Tan, Tanh,
};
use tract_onnx::tract_core::ops::nn::gelu_exact::GeluExact;
use tract_onnx::tract_core::ops::nn::{GeluApproximate, HardSwish, LeakyRelu, Sigmoid, Silu};

use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};

/// Which function of one number, with its parameter where it has one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function {
    /// |x|
    Abs,
    /// arc cosine
    Acos,
    /// inverse hyperbolic cosine
    Acosh,
    /// arc sine
    Asin,
    /// inverse hyperbolic sine
    Asinh,
    /// arc tangent
    Atan,
    /// inverse hyperbolic tangent
    Atanh,
    /// cosine
    Cos,
    /// hyperbolic cosine
    Cosh,
    /// error function
    Erf,
    /// exponential
    Exp,
    /// x Phi(x), Phi the normal distribution
    GeluExact,
    /// x / 2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^n))), n = 3, or 2 as some exports have it
    GeluTanh(i32),
    /// x clip(x / 6 + 1/2, 0, 1)
    HardSwish,
    /// x, or slope x below zero
    LeakyRelu(f64),
    /// natural logarithm
    Ln,
    /// -x
    Neg,
    /// x to a fixed power
    Power(f64),
    /// 1 / x
    Recip,
    /// 1 / sqrt(x)
    Rsqrt,
    /// 1 / (1 + exp(-x))
    Sigmoid,
    /// x sigmoid(x), also called swish
    Silu,
    /// sine
    Sin,
    /// hyperbolic sine
    Sinh,
    /// square root
    Sqrt,
    /// x^2
    Square,
    /// tangent
    Tan,
    /// hyperbolic tangent
    Tanh,
}

fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

/// The argument of the tanh in the approximate GELU, and its derivative.
fn gelu_argument<T: Real>(x: T, power: i32) -> (T, T) {
    let root = T::of((2.0 / std::f64::consts::PI).sqrt());
    let cubic = T::of(0.044_715);
    let slope = cubic * T::of(f64::from(power)) * x.powi(power - 1);
    (root * (x + cubic * x.powi(power)), root * (T::one() + slope))
}

impl Function {
    fn of(op: &dyn ElementWiseMiniOp) -> Option<Function> {
        if let Some(op) = op.downcast_ref::<LeakyRelu>() {
            return Some(Function::LeakyRelu(f64::from(op.alpha)));
        }
        if let Some(op) = op.downcast_ref::<PowConst>() {
            return Some(Function::Power(f64::from(op.exponent)));
        }
        if let Some(op) = op.downcast_ref::<GeluApproximate>() {
            return Some(Function::GeluTanh(if op.fast_impl { 2 } else { 3 }));
        }
        macro_rules! named {
            ($($name:ident),*) => {
                $(if op.is::<$name>() { return Some(Function::$name); })*
            };
        }
        named!(
            Abs, Acos, Acosh, Asin, Asinh, Atan, Atanh, Cos, Cosh, Erf, Exp, GeluExact, HardSwish,
            Ln, Neg, Recip, Rsqrt, Sigmoid, Silu, Sin, Sinh, Sqrt, Square, Tan, Tanh
        );
        None
    }

    fn value<T: Real>(self, x: T) -> T {
        let (one, half) = (T::one(), T::of(0.5));
        match self {
            Function::Abs => x.abs(),
            Function::Acos => x.acos(),
            Function::Acosh => x.acosh(),
            Function::Asin => x.asin(),
            Function::Asinh => x.asinh(),
            Function::Atan => x.atan(),
            Function::Atanh => x.atanh(),
            Function::Cos => x.cos(),
            Function::Cosh => x.cosh(),
            Function::Erf => Real::erf(x),
            Function::Exp => x.exp(),
            Function::GeluExact => {
                half * x * (one + Real::erf(x * T::of(std::f64::consts::FRAC_1_SQRT_2)))
            }
            Function::GeluTanh(power) => half * x * (one + gelu_argument(x, power).0.tanh()),
            Function::HardSwish => x * (x * T::of(1.0 / 6.0) + half).max(T::zero()).min(one),
            Function::LeakyRelu(slope) => {
                if x < T::zero() {
                    T::of(slope) * x
                } else {
                    x
                }
            }
            Function::Ln => x.ln(),
            Function::Neg => -x,
            Function::Power(exponent) => x.powf(T::of(exponent)),
            Function::Recip => x.recip(),
            Function::Rsqrt => x.sqrt().recip(),
            Function::Sigmoid => sigmoid(x),
            Function::Silu => x * sigmoid(x),
            Function::Sin => x.sin(),
            Function::Sinh => x.sinh(),
            Function::Sqrt => x.sqrt(),
            Function::Square => x * x,
            Function::Tan => x.tan(),
            Function::Tanh => x.tanh(),
        }
    }

    /// Whether [`Function::slope`] reads the value and not the input.
    fn reads_output(self) -> bool {
        matches!(
            self,
            Function::Exp
                | Function::Recip
                | Function::Rsqrt
                | Function::Sigmoid
                | Function::Sqrt
                | Function::Tan
                | Function::Tanh
        )
    }

    /// The derivative, at the value `v = y` where [`Function::reads_output`], else at `v = x`.
    fn slope<T: Real>(self, v: T) -> T {
        let (zero, one, half, two) = (T::zero(), T::one(), T::of(0.5), T::of(2.0));
        match self {
            Function::Abs if v > zero => one,
            Function::Abs if v < zero => -one,
            Function::Abs => zero,
            Function::Acos => -(one - v * v).sqrt().recip(),
            Function::Acosh => (v * v - one).sqrt().recip(),
            Function::Asin => (one - v * v).sqrt().recip(),
            Function::Asinh => (v * v + one).sqrt().recip(),
            Function::Atan => (v * v + one).recip(),
            Function::Atanh => (one - v * v).recip(),
            Function::Cos => -v.sin(),
            Function::Cosh => v.sinh(),
            Function::Erf => T::of(std::f64::consts::FRAC_2_SQRT_PI) * (-v * v).exp(),
            Function::Exp => v,
            Function::GeluExact => {
                let normal = T::of(0.5 * std::f64::consts::FRAC_2_SQRT_PI)
                    * T::of(std::f64::consts::FRAC_1_SQRT_2)
                    * (-half * v * v).exp();
                half * (one + Real::erf(v * T::of(std::f64::consts::FRAC_1_SQRT_2))) + v * normal
            }
            Function::GeluTanh(power) => {
                let (argument, rate) = gelu_argument(v, power);
                let tanh = argument.tanh();
                half * (one + tanh) + half * v * (one - tanh * tanh) * rate
            }
            Function::HardSwish if v <= T::of(-3.0) => zero,
            Function::HardSwish if v >= T::of(3.0) => one,
            Function::HardSwish => v * T::of(1.0 / 3.0) + half,
            Function::LeakyRelu(slope) if v <= zero => T::of(slope),
            Function::LeakyRelu(_) => one,
            Function::Ln => v.recip(),
            Function::Neg => -one,
            Function::Power(exponent) => T::of(exponent) * v.powf(T::of(exponent) - one),
            Function::Recip => -v * v,
            Function::Rsqrt => -half * v * v * v,
            Function::Sigmoid => v * (one - v),
            Function::Silu => {
                let s = sigmoid(v);
                s * (one + v * (one - s))
            }
            Function::Sin => v.cos(),
            Function::Sinh => v.cosh(),
            Function::Sqrt => half / v,
            Function::Square => two * v,
            Function::Tan => one + v * v,
            Function::Tanh => one - v * v,
        }
    }
}

/// An element-wise operator.
#[derive(Debug)]
pub struct Unary {
    function: Function,
}

/// The rule of an element-wise operator.
pub fn rule(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<ElementWiseOp>()?;
    let function =
        Function::of(op.0.as_ref()).ok_or_else(|| Unsupported::new("an unexpected function"))?;
    Ok(Box::new(Unary { function }))
}

impl<T: Real> Kernel<T> for Unary {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        inputs[0].iter().map(|x| self.function.value(*x)).collect()
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        let Some(tangent) = tangents[0] else { return vec![T::zero(); inputs[0].len()] };
        let slope = |x: T| {
            let read = if self.function.reads_output() { self.function.value(x) } else { x };
            self.function.slope(read)
        };
        inputs[0].iter().zip(tangent).map(|(x, t)| slope(*x) * *t).collect()
    }

    fn vjp(
        &self,
        values: &Values<'_, T>,
        mut cotangent: Vec<T>,
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let read = if self.function.reads_output() { values.output() } else { values.input(0) };
        for (c, v) in cotangent.iter_mut().zip(read) {
            // A cotangent of zero stays zero where the slope is infinite, as sqrt has it at zero.
            if *c != T::zero() {
                *c = *c * self.function.slope(*v);
            }
        }
        vec![Some(cotangent)]
    }
}

impl Rule for Unary {
    fn needs(&self, wanted: &[bool]) -> Needs {
        if self.function.reads_output() {
            Needs::output(wanted.len())
        } else {
            Needs::inputs(vec![true])
        }
    }
}
