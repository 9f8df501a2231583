//! Operators that only move numbers: slices, padding, concatenation, transposition, broadcast.
//!
//! Each is a list of boxes copied from an input to the output, so one kernel serves them all:
//! forward copies, the directional derivative copies the tangent, and the reverse adds each output
//! element's cotangent to the input element it came from.

use tract_onnx::prelude::DatumType;
use tract_onnx::tract_core::internal::AxisOp;
use tract_onnx::tract_core::internal::DimLike;
use tract_onnx::tract_core::ops::Downsample;
use tract_onnx::tract_core::ops::array::{MultiBroadcastTo, Pad, PadMode, Slice, TypedConcat};
use tract_onnx::tract_core::ops::cast::Cast;

use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};
use crate::grad::walk::{Walk, broadcast_strides, dense_strides, volume};

/// Copies of boxes from inputs into an output that is otherwise filled with one number.
#[derive(Debug)]
pub struct Movement {
    input_lens: Vec<usize>,
    output_len: usize,
    fill: f64,
    pieces: Vec<Piece>,
}

/// One box: element `i` of the walk goes from the input's offset plus `i` to the output's.
#[derive(Debug)]
struct Piece {
    input: usize,
    from: isize,
    to: isize,
    walk: Walk<2>,
}

impl Piece {
    /// Calls `visit(input offset, output offset)` for every element.
    fn each(&self, mut visit: impl FnMut(usize, usize)) {
        self.walk.rows(|row| {
            row.each_offset([self.from, self.to], |[from, to]| visit(from, to));
        });
    }
}

impl Movement {
    fn rule(site: &Site, pieces: Vec<Piece>) -> Box<dyn Rule> {
        Box::new(Movement {
            input_lens: site.inputs.iter().map(|shape| volume(shape)).collect(),
            output_len: volume(&site.output),
            fill: 0.0,
            pieces,
        })
    }

    fn copy<T: Real>(&self, inputs: &[Option<&[T]>], fill: T) -> Vec<T> {
        let mut output = vec![fill; self.output_len];
        for piece in &self.pieces {
            if let Some(input) = inputs[piece.input] {
                piece.each(|from, to| output[to] = input[from]);
            }
        }
        output
    }
}

impl<T: Real> Kernel<T> for Movement {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let inputs: Vec<_> = inputs.iter().map(|input| Some(*input)).collect();
        self.copy(&inputs, T::of(self.fill))
    }

    fn jvp(&self, _inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        self.copy(tangents, T::zero())
    }

    fn vjp(&self, _: &Values<'_, T>, cotangent: Vec<T>, wanted: &[bool]) -> Vec<Option<Vec<T>>> {
        let mut inputs: Vec<Option<Vec<T>>> = wanted
            .iter()
            .zip(&self.input_lens)
            .map(|(wanted, len)| wanted.then(|| vec![T::zero(); *len]))
            .collect();
        for piece in &self.pieces {
            if let Some(input) = &mut inputs[piece.input] {
                piece.each(|from, to| input[from] += cotangent[to]);
            }
        }
        inputs
    }
}

impl Rule for Movement {
    fn needs(&self, wanted: &[bool]) -> Needs {
        Needs::nothing(wanted.len())
    }
}

/// The numbers stay where they are: reshapes, added and removed axes, casts between float types.
#[derive(Debug)]
pub struct Stay;

impl<T: Real> Kernel<T> for Stay {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        inputs[0].to_vec()
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        tangents[0].map_or_else(|| vec![T::zero(); inputs[0].len()], <[T]>::to_vec)
    }

    fn vjp(&self, _: &Values<'_, T>, cotangent: Vec<T>, _: &[bool]) -> Vec<Option<Vec<T>>> {
        vec![Some(cotangent)]
    }
}

impl Rule for Stay {
    fn needs(&self, wanted: &[bool]) -> Needs {
        Needs::nothing(wanted.len())
    }
}

/// Identity and reshape.
pub fn stay(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    if site.inputs.first().map(|shape| volume(shape)) == Some(volume(&site.output)) {
        Ok(Box::new(Stay))
    } else {
        Err(Unsupported::new("it changes the number of elements"))
    }
}

/// A cast between float types; the derivative of a rounding to integers is zero by nature, which
/// no network needs, so it is left uncovered.
pub fn cast(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let to = site.op_as::<Cast>()?.to;
    if matches!(to, DatumType::F16 | DatumType::F32 | DatumType::F64) {
        stay(site)
    } else {
        Err(Unsupported::new(format!("a cast to {to:?}")))
    }
}

/// Adding, removing, reshaping axes moves nothing; `Move(from, to)` is a transposition.
pub fn axis(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let &AxisOp::Move(from, to) = site.op_as::<AxisOp>()? else { return stay(site) };
    let mut strides = dense_strides(&site.inputs[0]);
    let moved = strides.remove(from);
    strides.insert(to, moved);
    let walk = Walk::new(&site.output, [&strides, &dense_strides(&site.output)]);
    Ok(Movement::rule(site, vec![Piece { input: 0, from: 0, to: 0, walk }]))
}

/// A range of one axis.
pub fn slice(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<Slice>()?;
    let start = op.start.to_usize().map_err(|_| Unsupported::new("a symbolic range"))?;
    let strides = dense_strides(&site.inputs[0]);
    let from = start as isize * strides[op.axis];
    let walk = Walk::new(&site.output, [&strides, &dense_strides(&site.output)]);
    Ok(Movement::rule(site, vec![Piece { input: 0, from, to: 0, walk }]))
}

/// Every `stride`th element of one axis, from the end where the stride is negative.
pub fn downsample(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<Downsample>()?;
    let mut strides = dense_strides(&site.inputs[0]);
    let len = site.inputs[0][op.axis];
    let first = if op.stride < 0 { len.saturating_sub(1) } else { op.modulo };
    let from = first as isize * strides[op.axis];
    strides[op.axis] *= op.stride;
    let walk = Walk::new(&site.output, [&strides, &dense_strides(&site.output)]);
    Ok(Movement::rule(site, vec![Piece { input: 0, from, to: 0, walk }]))
}

/// Inputs one after another along one axis.
pub fn concat(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let axis = site.op_as::<TypedConcat>()?.axis;
    let to_strides = dense_strides(&site.output);
    let mut offset = 0;
    let mut pieces = Vec::with_capacity(site.inputs.len());
    for (input, shape) in site.inputs.iter().enumerate() {
        let walk = Walk::new(shape, [&dense_strides(shape), &to_strides]);
        pieces.push(Piece { input, from: 0, to: offset as isize * to_strides[axis], walk });
        offset += shape[axis];
    }
    Ok(Movement::rule(site, pieces))
}

/// A broadcast to a larger shape, aligned at the last axis.
pub fn broadcast(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    site.op_as::<MultiBroadcastTo>()?;
    let missing = site.output.len().saturating_sub(site.inputs[0].len());
    let mut shape = vec![1; missing];
    shape.extend(&site.inputs[0]);
    let strides = broadcast_strides(&shape, &site.output);
    let walk = Walk::new(&site.output, [&strides, &dense_strides(&site.output)]);
    Ok(Movement::rule(site, vec![Piece { input: 0, from: 0, to: 0, walk }]))
}

/// A stretch of an axis of a padded array and where its elements come from.
struct Stretch {
    from: usize,
    step: isize,
    to: usize,
    len: usize,
}

/// Padding with a constant, with the edge, or with the reflection.
pub fn pad(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<Pad>()?;
    let input = &site.inputs[0];
    let mut fill = 0.0;
    let mut stretches = Vec::with_capacity(input.len());
    for (&len, &(before, after)) in input.iter().zip(&op.pads) {
        let mut axis = vec![Stretch { from: 0, step: 1, to: before, len }];
        match &op.mode {
            PadMode::Constant(value) => {
                fill = value
                    .cast_to_scalar::<f64>()
                    .map_err(|_| Unsupported::new("a padding value that is no number"))?;
            }
            PadMode::Edge => {
                axis.push(Stretch { from: 0, step: 0, to: 0, len: before });
                axis.push(Stretch { from: len - 1, step: 0, to: before + len, len: after });
            }
            PadMode::Reflect if before < len && after < len => {
                axis.push(Stretch { from: before, step: -1, to: 0, len: before });
                let from = len.saturating_sub(2);
                axis.push(Stretch { from, step: -1, to: before + len, len: after });
            }
            PadMode::Reflect => return Err(Unsupported::new("a reflection wider than the input")),
        }
        axis.retain(|stretch| stretch.len > 0);
        stretches.push(axis);
    }
    let from_strides = dense_strides(input);
    let to_strides = dense_strides(&site.output);
    let pieces = boxes(&stretches, &from_strides, &to_strides);
    Ok(Box::new(Movement {
        input_lens: vec![volume(input)],
        output_len: volume(&site.output),
        fill,
        pieces,
    }))
}

/// Every combination of one stretch an axis.
fn boxes(stretches: &[Vec<Stretch>], from_strides: &[isize], to_strides: &[isize]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut choice = vec![0; stretches.len()];
    if stretches.iter().any(Vec::is_empty) {
        return pieces;
    }
    loop {
        let chosen: Vec<&Stretch> =
            choice.iter().zip(stretches).map(|(&index, axis)| &axis[index]).collect();
        let shape: Vec<usize> = chosen.iter().map(|stretch| stretch.len).collect();
        let strides: Vec<isize> =
            chosen.iter().zip(from_strides).map(|(s, stride)| s.step * stride).collect();
        let offset = |start: fn(&Stretch) -> usize, strides: &[isize]| -> isize {
            chosen.iter().zip(strides).map(|(s, stride)| start(s) as isize * stride).sum()
        };
        pieces.push(Piece {
            input: 0,
            from: offset(|s| s.from, from_strides),
            to: offset(|s| s.to, to_strides),
            walk: Walk::new(&shape, [&strides, to_strides]),
        });
        let Some(axis) =
            (0..choice.len()).rev().find(|&axis| choice[axis] + 1 < stretches[axis].len())
        else {
            return pieces;
        };
        choice[axis] += 1;
        choice[axis + 1..].fill(0);
    }
}
