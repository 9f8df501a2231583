//! The number types that every kernel is generic over.

use std::borrow::Cow;
use std::iter::Sum;
use std::ops::AddAssign;

use tract_onnx::prelude::tract_ndarray::LinalgScalar;
use tract_onnx::prelude::tract_num_traits::Float;
use tract_onnx::prelude::{Datum, Tensor, TractResult};

use super::rule::{Kernel, Rule};

/// `f32` for work, `f64` for proofs.
pub trait Real: Float + LinalgScalar + AddAssign + Sum + Datum + Send + Sync + 'static {
    /// The nearest value of this type.
    fn of(value: f64) -> Self;

    /// The value as `f64`.
    fn widen(self) -> f64;

    /// A rule's arithmetic in this type.
    fn kernel(rule: &dyn Rule) -> &dyn Kernel<Self>;

    /// The error function, accurate to the type's own precision.
    #[must_use]
    fn erf(self) -> Self {
        Self::of(erf(self.widen()))
    }

    /// The numbers of a tensor, borrowed where it already holds this type.
    fn read(tensor: &Tensor) -> TractResult<Cow<'_, [Self]>> {
        if tensor.datum_type() == Self::datum_type() {
            return Ok(Cow::Borrowed(tensor.try_as_plain_ram()?.as_slice::<Self>()?));
        }
        let cast = tensor.cast_to::<Self>()?;
        Ok(Cow::Owned(cast.try_as_plain_ram()?.as_slice::<Self>()?.to_vec()))
    }
}

impl Real for f32 {
    fn of(value: f64) -> f32 {
        value as f32
    }

    fn widen(self) -> f64 {
        f64::from(self)
    }

    fn kernel(rule: &dyn Rule) -> &dyn Kernel<f32> {
        rule
    }
}

impl Real for f64 {
    fn of(value: f64) -> f64 {
        value
    }

    fn widen(self) -> f64 {
        self
    }

    fn kernel(rule: &dyn Rule) -> &dyn Kernel<f64> {
        rule
    }
}

/// erf(x) = 2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!, whose terms all have one sign
/// (Abramowitz and Stegun 7.1.6), so nothing cancels.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_agrees_with_published_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (-1.0, -0.842_700_792_949_714_9),
            (5.0, 0.999_999_999_998_462_5),
            (9.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 1e-14, "erf({x}) = {}", erf(x));
        }
    }
}
