//! One row for each use of an operator that differs in shape, stride, groups, padding and so on.

use tract_onnx::prelude::tract_itertools::Itertools;
use tract_onnx::prelude::{DatumType, Tensor, TypedOp, tensor0, tvec};
use tract_onnx::tract_core::internal::{AxesMapping, AxisOp, ElementWiseMiniOp, ToDim};
use tract_onnx::tract_core::ops::Downsample;
use tract_onnx::tract_core::ops::array::{
    FiniteReshape, MultiBroadcastTo, Pad, PadMode, Slice, TypedConcat,
};
use tract_onnx::tract_core::ops::binary::{BinMiniOp, TypedBinOp};
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::cnn::{
    Conv, KernelFormat, MaxPool, PaddingSpec, PoolSpec, SumPool,
};
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_core::ops::logic::Iff;
use tract_onnx::tract_core::ops::math;
use tract_onnx::tract_core::ops::nn::gelu_exact::GeluExact;
use tract_onnx::tract_core::ops::nn::{
    DataFormat, GeluApproximate, HardSwish, LeakyRelu, Reduce, Reducer, RmsNorm, Sigmoid, Silu,
    Softmax, SoftmaxKind,
};
use tract_onnx_opl::lrn::Lrn;

/// One input of a row.
#[derive(Debug, Clone)]
pub struct Input {
    pub shape: Vec<usize>,
    /// Values are drawn evenly from this range.
    pub range: (f64, f64),
    /// Whether it stands in the graph as a constant.
    pub constant: bool,
    /// A condition: drawn as true or false, and held fixed.
    pub condition: bool,
}

impl Input {
    fn of(shape: &[usize]) -> Input {
        Input { shape: shape.to_vec(), range: (-2.0, 2.0), constant: false, condition: false }
    }

    fn within(mut self, low: f64, high: f64) -> Input {
        self.range = (low, high);
        self
    }

    fn constant(mut self) -> Input {
        self.constant = true;
        self
    }

    fn condition(mut self) -> Input {
        self.condition = true;
        self
    }
}

/// An operator at a place.
#[derive(Debug)]
pub struct Row {
    pub what: String,
    pub op: Box<dyn TypedOp>,
    pub inputs: Vec<Input>,
    /// How far tract's f32 may lie from ours, relative to the largest value: more where tract
    /// approximates the function.
    pub f32_tolerance: f64,
}

fn row(what: impl Into<String>, op: impl Into<Box<dyn TypedOp>>, inputs: Vec<Input>) -> Row {
    Row { what: what.into(), op: op.into(), inputs, f32_tolerance: 2e-6 }
}

/// All rows.
pub fn rows() -> Vec<Row> {
    [convolutions(), contractions(), binaries(), unaries(), reductions(), pools(), movements()]
        .into_iter()
        .flatten()
        .collect()
}

/// Everything a convolution row can vary.
struct ConvCase {
    format: DataFormat,
    kernel_format: KernelFormat,
    size: Vec<usize>,
    kernel: Vec<usize>,
    stride: usize,
    dilation: usize,
    padding: PaddingSpec,
    group: usize,
    channels: (usize, usize),
    scalar_bias: bool,
}

impl Default for ConvCase {
    fn default() -> ConvCase {
        ConvCase {
            format: DataFormat::CHW,
            kernel_format: KernelFormat::OIHW,
            size: vec![6, 7],
            kernel: vec![3, 3],
            stride: 1,
            dilation: 1,
            padding: PaddingSpec::Valid,
            group: 1,
            channels: (4, 6),
            scalar_bias: false,
        }
    }
}

fn pool_spec(case: &ConvCase) -> PoolSpec {
    let rank = case.kernel.len();
    PoolSpec {
        data_format: case.format,
        kernel_shape: case.kernel.iter().copied().collect(),
        padding: case.padding.clone(),
        dilations: Some(std::iter::repeat_n(case.dilation, rank).collect()),
        strides: Some(std::iter::repeat_n(case.stride, rank).collect()),
        input_channels: case.channels.0,
        output_channels: case.channels.1,
    }
}

fn image_shape(case: &ConvCase, channels: usize) -> Vec<usize> {
    case.format.from_n_c_hw(2, channels, case.size.clone()).expect("a shape").shape.to_vec()
}

fn convolution(case: &ConvCase) -> Row {
    let (channels_in, channels_out) = case.channels;
    let kernel = match case.kernel_format {
        KernelFormat::OIHW => {
            [vec![channels_out, channels_in / case.group], case.kernel.clone()].concat()
        }
        KernelFormat::HWIO => {
            [case.kernel.clone(), vec![channels_in, channels_out / case.group]].concat()
        }
        KernelFormat::OHWI => {
            [vec![channels_out / case.group], case.kernel.clone(), vec![channels_in]].concat()
        }
    };
    let bias = if case.scalar_bias { vec![] } else { vec![channels_out] };
    let what = format!(
        "{:?} {:?} {:?} kernel {:?} stride {} dilation {} {:?} group {} channels {:?}",
        case.format,
        case.kernel_format,
        case.size,
        case.kernel,
        case.stride,
        case.dilation,
        case.padding,
        case.group,
        case.channels
    );
    let op = Conv {
        pool_spec: pool_spec(case),
        kernel_fmt: case.kernel_format,
        group: case.group,
        q_params: None,
    };
    let image = image_shape(case, channels_in);
    row(what, op, vec![Input::of(&image), Input::of(&kernel), Input::of(&bias)])
}

fn explicit(before: [usize; 2], after: [usize; 2]) -> PaddingSpec {
    PaddingSpec::Explicit(before.into_iter().collect(), after.into_iter().collect())
}

fn convolutions() -> Vec<Row> {
    let mut cases = vec![ConvCase::default(), ConvCase { scalar_bias: true, ..Default::default() }];
    let formats = [DataFormat::NCHW, DataFormat::NHWC, DataFormat::CHW, DataFormat::HWC];
    let kernels = [KernelFormat::OIHW, KernelFormat::HWIO, KernelFormat::OHWI];
    for (format, kernel_format) in formats.into_iter().cartesian_product(kernels) {
        for group in [1, 2, 4] {
            let padding = explicit([1, 0], [2, 1]);
            cases.push(ConvCase {
                format,
                kernel_format,
                group,
                padding,
                stride: 2,
                channels: (4, 8),
                ..Default::default()
            });
        }
        cases.push(ConvCase {
            format,
            kernel_format,
            group: 4,
            padding: PaddingSpec::SameUpper,
            channels: (4, 4),
            ..Default::default()
        });
    }
    for padding in [
        PaddingSpec::SameUpper,
        PaddingSpec::SameLower,
        explicit([3, 1], [0, 2]),
        PaddingSpec::Valid,
    ] {
        for (stride, dilation) in [(1, 1), (2, 1), (1, 2), (3, 1), (2, 2)] {
            for (group, channels) in [(1, (3, 5)), (3, (3, 3)), (2, (4, 6)), (3, (3, 6))] {
                let padding = padding.clone();
                let kernel = vec![2, 3];
                cases.push(ConvCase {
                    kernel,
                    stride,
                    dilation,
                    padding,
                    group,
                    channels,
                    ..Default::default()
                });
            }
        }
    }
    for (size, kernel, stride) in
        [(vec![5, 5], vec![1, 1], 1), (vec![7, 4], vec![1, 1], 2), (vec![9], vec![3], 2)]
    {
        for format in [DataFormat::CHW, DataFormat::NHWC] {
            let (size, kernel) = (size.clone(), kernel.clone());
            cases.push(ConvCase { format, size, kernel, stride, ..Default::default() });
        }
    }
    cases.iter().map(convolution).collect()
}

fn contractions() -> Vec<Row> {
    [
        ("mk,kn->mn", vec![vec![3, 4], vec![4, 5]]),
        ("km,nk->nm", vec![vec![4, 3], vec![5, 4]]),
        ("oi,i->o", vec![vec![6, 5], vec![5]]),
        ("oi,ihw->ohw", vec![vec![6, 5], vec![5, 3, 4]]),
        ("ihw,oi->hwo", vec![vec![5, 3, 4], vec![6, 5]]),
        ("nihw,oi->nohw", vec![vec![2, 5, 3, 4], vec![6, 5]]),
        ("bmk,bkn->bmn", vec![vec![3, 4, 5], vec![3, 5, 2]]),
        ("bmk,bkn->mbn", vec![vec![1, 4, 5], vec![3, 5, 2]]),
        ("gio,ghwi->ghwo", vec![vec![2, 3, 4], vec![2, 5, 2, 3]]),
        ("mk,k->m", vec![vec![9, 12], vec![12]]),
        ("abc,b->a", vec![vec![3, 4, 5], vec![4]]),
        ("ab->ba", vec![vec![3, 4]]),
        ("abc->b", vec![vec![3, 4, 5]]),
        ("a,b->ab", vec![vec![3], vec![4]]),
    ]
    .into_iter()
    .map(|(formula, shapes)| {
        let axes: AxesMapping = formula.parse().expect("an axes mapping");
        let inputs = shapes.iter().map(|shape| Input::of(shape)).collect();
        row(formula, EinSum::new(axes, DatumType::F32), inputs)
    })
    .collect()
}

fn binaries() -> Vec<Row> {
    let functions: Vec<Box<dyn BinMiniOp>> = vec![
        Box::new(math::Add),
        Box::new(math::Sub),
        Box::new(math::SubF),
        Box::new(math::Mul),
        Box::new(math::Div),
        Box::new(math::Max),
        Box::new(math::Min),
        Box::new(math::Pow),
    ];
    let shapes: [[&[usize]; 2]; 6] = [
        [&[3, 4, 5], &[3, 4, 5]],
        [&[3, 4, 5], &[3, 1, 1]],
        [&[1, 4, 1], &[3, 1, 5]],
        [&[3, 4, 5], &[1, 1, 1]],
        [&[1, 1], &[4, 5]],
        [&[], &[]],
    ];
    let mut rows = Vec::new();
    for function in functions {
        let divides = function.is::<math::Div>();
        let powers = function.is::<math::Pow>();
        for [a, b] in shapes {
            for constant in [None, Some(0), Some(1)] {
                let mut inputs = vec![Input::of(a), Input::of(b)];
                if divides || powers {
                    inputs[1] = Input::of(b).within(0.5, 2.0);
                }
                if powers {
                    inputs[0] = Input::of(a).within(0.5, 2.0);
                }
                if let Some(side) = constant {
                    inputs[side].constant = true;
                }
                let what = format!("{} {a:?} {b:?} constant {constant:?}", function.name());
                rows.push(row(what, TypedBinOp(function.clone(), None), inputs));
            }
        }
    }
    let condition = Input::of(&[3, 1, 5]).condition();
    let sides = vec![condition, Input::of(&[3, 4, 5]), Input::of(&[1, 1, 1])];
    rows.push(row("Iff broadcasting", Iff, sides));
    let condition = Input::of(&[3, 4]).condition();
    rows.push(row("Iff", Iff, vec![condition, Input::of(&[3, 4]), Input::of(&[3, 4]).constant()]));
    rows
}

fn unaries() -> Vec<Row> {
    let everywhere = (-3.0, 3.0);
    let functions: Vec<(Box<dyn ElementWiseMiniOp>, (f64, f64))> = vec![
        (Box::new(math::Abs {}), everywhere),
        (Box::new(math::Acos {}), (-0.9, 0.9)),
        (Box::new(math::Acosh {}), (1.1, 3.0)),
        (Box::new(math::Asin {}), (-0.9, 0.9)),
        (Box::new(math::Asinh {}), everywhere),
        (Box::new(math::Atan {}), everywhere),
        (Box::new(math::Atanh {}), (-0.9, 0.9)),
        (Box::new(math::Cos {}), everywhere),
        (Box::new(math::Cosh {}), everywhere),
        (Box::new(math::Erf {}), everywhere),
        (Box::new(math::Exp {}), everywhere),
        (Box::new(GeluExact {}), everywhere),
        (Box::new(GeluApproximate { fast_impl: false }), everywhere),
        (Box::new(GeluApproximate { fast_impl: true }), everywhere),
        (Box::new(HardSwish {}), (-5.0, 5.0)),
        (Box::new(LeakyRelu { alpha: 0.1 }), everywhere),
        (Box::new(LeakyRelu { alpha: -0.5 }), everywhere),
        (Box::new(math::Ln {}), (0.1, 3.0)),
        (Box::new(math::Neg {}), everywhere),
        (Box::new(math::PowConst { exponent: 2.5 }), (0.1, 3.0)),
        (Box::new(math::PowConst { exponent: 3.0 }), everywhere),
        (Box::new(math::Recip {}), (0.2, 3.0)),
        (Box::new(math::Rsqrt {}), (0.2, 3.0)),
        (Box::new(Sigmoid {}), (-6.0, 6.0)),
        (Box::new(Silu {}), (-6.0, 6.0)),
        (Box::new(math::Sin {}), everywhere),
        (Box::new(math::Sinh {}), everywhere),
        (Box::new(math::Sqrt {}), (0.1, 3.0)),
        (Box::new(math::Square {}), everywhere),
        (Box::new(math::Tan {}), (-1.2, 1.2)),
        (Box::new(math::Tanh {}), everywhere),
    ];
    functions
        .into_iter()
        .map(|(function, (low, high))| {
            let inputs = vec![Input::of(&[5, 7]).within(low, high)];
            let mut row = row(format!("{function:?}"), ElementWiseOp(function, None), inputs);
            row.f32_tolerance = 2e-5;
            row
        })
        .collect()
}

fn reductions() -> Vec<Row> {
    let mut rows = Vec::new();
    for reducer in [Reducer::Sum, Reducer::Max, Reducer::Min, Reducer::MeanOfSquares] {
        for axes in [tvec!(1), tvec!(1, 2), tvec!(0), tvec!(0, 2), tvec!(0, 1, 2)] {
            let what = format!("{reducer:?} over {axes:?}");
            rows.push(row(what, Reduce { axes, reducer }, vec![Input::of(&[3, 4, 5])]));
        }
    }
    for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax] {
        for axes in [tvec!(0), tvec!(1), tvec!(2), tvec!(1, 2)] {
            let what = format!("{kind:?} over {axes:?}");
            let op = Softmax { axes, quant_output_dt: None, kind };
            let mut row = row(what, op, vec![Input::of(&[3, 4, 8])]);
            row.f32_tolerance = 1e-5;
            rows.push(row);
        }
    }
    for axis in [0, 1, 2] {
        let eps: Tensor = tensor0(1e-5_f32);
        let mut row = row(format!("RmsNorm over {axis}"), RmsNorm { axis, eps: eps.into() }, {
            vec![Input::of(&[3, 4, 9])]
        });
        row.f32_tolerance = 1e-5;
        rows.push(row);
    }
    for size in [1, 2, 3, 5, 20] {
        let op = Lrn { alpha: 0.8, beta: 0.75, bias: 1.5, size };
        rows.push(row(format!("Lrn size {size}"), op, vec![Input::of(&[2, 7, 3, 2])]));
    }
    rows
}

fn onnx_pool(before: [usize; 2], after: [usize; 2], ceil: bool) -> PaddingSpec {
    let (before, after) = (before.into_iter().collect(), after.into_iter().collect());
    PaddingSpec::ExplicitOnnxPool(before, after, ceil)
}

fn pools() -> Vec<Row> {
    let mut rows = Vec::new();
    for format in [DataFormat::CHW, DataFormat::NHWC] {
        for (stride, dilation) in [(1, 1), (2, 1), (2, 2), (3, 1)] {
            for padding in [
                PaddingSpec::Valid,
                PaddingSpec::SameUpper,
                PaddingSpec::SameLower,
                explicit([1, 1], [1, 0]),
                onnx_pool([0, 0], [0, 0], true),
                onnx_pool([1, 1], [1, 1], true),
                onnx_pool([1, 0], [0, 1], false),
            ] {
                let case = ConvCase {
                    format,
                    kernel: vec![3, 2],
                    stride,
                    dilation,
                    padding,
                    channels: (3, 3),
                    ..Default::default()
                };
                let spec = pool_spec(&case);
                let what =
                    format!("{format:?} stride {stride} dilation {dilation} {:?}", case.padding);
                let inputs = vec![Input::of(&image_shape(&case, 3))];
                let op = MaxPool { pool_spec: spec.clone(), with_index_outputs: None };
                rows.push(row(format!("MaxPool {what}"), op, inputs.clone()));
                for (count_include_pad, normalize) in [(true, true), (false, true), (true, false)] {
                    let pool_spec = spec.clone();
                    let op = SumPool { pool_spec, count_include_pad, normalize };
                    let what = format!("SumPool pad {count_include_pad} mean {normalize} {what}");
                    rows.push(row(what, op, inputs.clone()));
                }
            }
        }
    }
    let case = ConvCase {
        size: vec![9],
        kernel: vec![3],
        stride: 2,
        padding: PaddingSpec::ExplicitOnnxPool(tvec!(1), tvec!(1), true),
        channels: (2, 2),
        ..Default::default()
    };
    let inputs = vec![Input::of(&image_shape(&case, 2))];
    let op = SumPool { pool_spec: pool_spec(&case), count_include_pad: true, normalize: true };
    rows.push(row("SumPool one axis", op, inputs));
    rows
}

fn movements() -> Vec<Row> {
    let image = || vec![Input::of(&[3, 6, 5])];
    let dims = |dims: &[usize]| dims.iter().map(ToDim::to_dim).collect();
    let pads = vec![(0, 1), (2, 3), (1, 0)];
    let seven: Tensor = tensor0(7.0_f32);
    let constant = PadMode::Constant(seven.into());
    vec![
        row("pad constant", Pad { pads: pads.clone(), mode: constant }, image()),
        row("pad edge", Pad { pads: pads.clone(), mode: PadMode::Edge }, image()),
        row("pad reflect", Pad { pads, mode: PadMode::Reflect }, image()),
        row("slice", Slice::new(1, 2, 5), image()),
        row("slice of the first axis", Slice::new(0, 1, 2), image()),
        row("downsample", Downsample { axis: 1, stride: 2, modulo: 0 }, image()),
        row("downsample modulo", Downsample { axis: 2, stride: 2, modulo: 1 }, image()),
        row("downsample reversed", Downsample { axis: 1, stride: -2, modulo: 0 }, image()),
        row("concat", TypedConcat { axis: 1 }, {
            vec![Input::of(&[3, 1, 5]), Input::of(&[3, 4, 5]), Input::of(&[3, 2, 5]).constant()]
        }),
        row("concat of the first axis", TypedConcat { axis: 0 }, {
            vec![Input::of(&[3, 5]), Input::of(&[2, 5])]
        }),
        row("broadcast", MultiBroadcastTo { shape: [2, 3, 4, 5].into() }, {
            vec![Input::of(&[3, 1, 5])]
        }),
        row("move forth", AxisOp::Move(0, 2), image()),
        row("move back", AxisOp::Move(2, 0), image()),
        row("move one", AxisOp::Move(1, 2), image()),
        row("add axis", AxisOp::Add(1), image()),
        row("remove axis", AxisOp::Rm(1), vec![Input::of(&[3, 1, 5])]),
        row("reshape axes", AxisOp::Reshape(1, dims(&[6, 5]), dims(&[2, 15])), image()),
        row("reshape", FiniteReshape { shape: tvec!(9, 10) }, image()),
        row("identity", Identity, image()),
        // To its own type: here all numbers are of one. `halves.rs` has casts that round.
        row("cast", cast(DatumType::F32), image()),
    ]
}
