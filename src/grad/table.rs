//! The closed table of operators: which have a rule, and which have no derivative by nature.
//! Everything else is missing, and an error that names it.

use tract_onnx::prelude::TypedOp;
use tract_onnx::tract_core::internal::{AxisOp, ElementWiseMiniOp};
use tract_onnx::tract_core::ops::Downsample;
use tract_onnx::tract_core::ops::array::{
    FiniteReshape, MultiBroadcastTo, Pad, Slice, TypedConcat,
};
use tract_onnx::tract_core::ops::binary::{BinMiniOp, TypedBinOp};
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::cnn::{Conv, MaxPool, SumPool};
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::logic::{
    And, CompEq, CompGT, CompGTE, CompLT, CompLTE, CompNE, Iff, Not, Or, Xor,
};
use tract_onnx::tract_core::ops::math::{self, Add, Div, Max, Min, Mul, Pow, Sub, SubF};
use tract_onnx::tract_core::ops::nn::gelu_exact::GeluExact;
use tract_onnx::tract_core::ops::nn::{
    GeluApproximate, HardSwish, LeakyRelu, Reduce, RmsNorm, Sigmoid, Silu, Softmax,
};
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx_opl::lrn::Lrn;

use super::rule::{Rule, Site, Unsupported};
use super::rules::{binary, conv, einsum, lrn, movement, norm, pool, reduce, select, unary};

/// What the table knows of an operator.
#[derive(Clone, Copy)]
pub enum State {
    /// It has a rule, built for the place where it stands.
    Rule(fn(&Site) -> Result<Box<dyn Rule>, Unsupported>),
    /// Its output does not move with its input, or jumps: no derivative by nature, counted as zero.
    Flat,
}

/// One operator of the table.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Name, as tract prints it.
    pub operator: &'static str,
    /// File under `grad/rules` that holds the rule; empty where there is none.
    pub family: &'static str,
    /// The reverse derivative in words or as a formula: `c` the cotangent, `x` input, `y` output.
    pub derivative: &'static str,
    /// Rule or none by nature.
    pub state: State,
    is: fn(&dyn TypedOp) -> bool,
}

fn is_op<O: TypedOp>(op: &dyn TypedOp) -> bool {
    op.is::<O>()
}

fn is_function<F: ElementWiseMiniOp>(op: &dyn TypedOp) -> bool {
    op.downcast_ref::<ElementWiseOp>().is_some_and(|op| op.0.is::<F>())
}

fn is_binary<F: BinMiniOp>(op: &dyn TypedOp) -> bool {
    op.downcast_ref::<TypedBinOp>().is_some_and(|op| op.0.is::<F>())
}

macro_rules! table {
    (@state $family:ident :: $rule:ident) => { State::Rule($family::$rule) };
    ($($operator:literal $is:ident<$type:ty> $family:ident :: $rule:ident $derivative:literal;)*
     flat { $($flat:literal $flat_is:ident<$flat_type:ty>;)* }) => {
        &[
            $(Entry {
                operator: $operator,
                family: stringify!($family),
                derivative: $derivative,
                state: table!(@state $family :: $rule),
                is: $is::<$type>,
            },)*
            $(Entry {
                operator: $flat,
                family: "",
                derivative: "none by nature",
                state: State::Flat,
                is: $flat_is::<$flat_type>,
            },)*
        ]
    };
}

/// All operators that derivatives know.
pub const TABLE: &[Entry] = table! {
    "Conv" is_op<Conv> conv::rule "col2im(W' c); c im2col(x)'; sum c";
    "EinSum" is_op<EinSum> einsum::rule "c B over the axes of A; A c over the axes of B";
    "Add" is_binary<Add> binary::rule "c; c";
    "Sub" is_binary<Sub> binary::rule "c; -c";
    "SubF" is_binary<SubF> binary::rule "-c; c";
    "Mul" is_binary<Mul> binary::rule "c b; c a";
    "Div" is_binary<Div> binary::rule "c / b; -c a / b^2";
    "Max" is_binary<Max> binary::rule "c to the larger";
    "Min" is_binary<Min> binary::rule "c to the smaller";
    "Pow" is_binary<Pow> binary::rule "c b a^(b-1); c y ln a";
    "Abs" is_function<math::Abs> unary::rule "c sign(x)";
    "Acos" is_function<math::Acos> unary::rule "-c / sqrt(1 - x^2)";
    "Acosh" is_function<math::Acosh> unary::rule "c / sqrt(x^2 - 1)";
    "Asin" is_function<math::Asin> unary::rule "c / sqrt(1 - x^2)";
    "Asinh" is_function<math::Asinh> unary::rule "c / sqrt(x^2 + 1)";
    "Atan" is_function<math::Atan> unary::rule "c / (x^2 + 1)";
    "Atanh" is_function<math::Atanh> unary::rule "c / (1 - x^2)";
    "Cos" is_function<math::Cos> unary::rule "-c sin x";
    "Cosh" is_function<math::Cosh> unary::rule "c sinh x";
    "Erf" is_function<math::Erf> unary::rule "c 2/sqrt(pi) exp(-x^2)";
    "Exp" is_function<math::Exp> unary::rule "c y";
    "GeluExact" is_function<GeluExact> unary::rule "c (Phi(x) + x phi(x))";
    "GeluApproximate" is_function<GeluApproximate> unary::rule "c d/dx of its tanh form";
    "HardSwish" is_function<HardSwish> unary::rule "c (x/3 + 1/2) for |x| < 3, else 0 or c";
    "LeakyRelu" is_function<LeakyRelu> unary::rule "c, or slope c for x <= 0";
    "Ln" is_function<math::Ln> unary::rule "c / x";
    "Neg" is_function<math::Neg> unary::rule "-c";
    "PowConst" is_function<math::PowConst> unary::rule "c n x^(n-1)";
    "Recip" is_function<math::Recip> unary::rule "-c y^2";
    "Rsqrt" is_function<math::Rsqrt> unary::rule "-c y^3 / 2";
    "Sigmoid" is_function<Sigmoid> unary::rule "c y (1 - y)";
    "Silu" is_function<Silu> unary::rule "c s (1 + x (1 - s)), s = sigmoid(x)";
    "Sin" is_function<math::Sin> unary::rule "c cos x";
    "Sinh" is_function<math::Sinh> unary::rule "c cosh x";
    "Sqrt" is_function<math::Sqrt> unary::rule "c / (2 y)";
    "Square" is_function<math::Square> unary::rule "2 c x";
    "Tan" is_function<math::Tan> unary::rule "c (1 + y^2)";
    "Tanh" is_function<math::Tanh> unary::rule "c (1 - y^2)";
    "Reduce" is_op<Reduce> reduce::rule "c; 2 c x / n; c shared by the extrema";
    "Softmax" is_op<Softmax> reduce::softmax "y (c - sum c y); log: c - exp(y) sum c";
    "RmsNorm" is_op<RmsNorm> norm::rule "r c - x r^3 mean of c x, r = 1 / rms of x";
    "Lrn" is_op<Lrn> lrn::rule "c s^-b - 2 a b / n x sum c x s^(-b-1)";
    "MaxPool" is_op<MaxPool> pool::maximum "c to the first largest of the window";
    "SumPool" is_op<SumPool> pool::sum "c / count to every tap";
    "Pad" is_op<Pad> movement::pad "c at the source, added up";
    "Concat" is_op<TypedConcat> movement::concat "the part of c";
    "Slice" is_op<Slice> movement::slice "c in the range, else 0";
    "Downsample" is_op<Downsample> movement::downsample "c at the kept places, else 0";
    "MultiBroadcastTo" is_op<MultiBroadcastTo> movement::broadcast "c summed over the copies";
    "AxisOp" is_op<AxisOp> movement::axis "c moved back";
    "Reshape" is_op<FiniteReshape> movement::stay "c";
    "Identity" is_op<Identity> movement::stay "c";
    "Cast" is_op<Cast> movement::cast "c, between float types";
    "Iff" is_op<Iff> select::rule "c to the chosen side";
    flat {
        "Source" is_op<TypedSource>;
        "Const" is_op<Const>;
        "Floor" is_function<math::Floor>;
        "Ceil" is_function<math::Ceil>;
        "Round" is_function<math::Round>;
        "RoundHalfToEven" is_function<math::RoundHalfToEven>;
        "Sign" is_function<math::Sign>;
        "IsInf" is_function<math::IsInf>;
        "IsNan" is_function<math::IsNan>;
        "Not" is_function<Not>;
        "And" is_binary<And>;
        "Or" is_binary<Or>;
        "Xor" is_binary<Xor>;
        "Eq" is_binary<CompEq>;
        "NE" is_binary<CompNE>;
        "LT" is_binary<CompLT>;
        "LTE" is_binary<CompLTE>;
        "GT" is_binary<CompGT>;
        "GTE" is_binary<CompGTE>;
    }
};

impl Entry {
    /// The entry of an operator, `None` where it is missing.
    pub fn of(op: &dyn TypedOp) -> Option<&'static Entry> {
        TABLE.iter().find(|entry| (entry.is)(op))
    }
}

/// The operator's name in the table's spelling, or tract's where the table lacks it.
pub fn operator_of(op: &dyn TypedOp) -> String {
    Entry::of(op).map_or_else(|| op.name().into_owned(), |entry| entry.operator.to_string())
}
