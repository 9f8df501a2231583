//! Einstein sums: fully connected layers, 1x1 convolutions, batched products.
//!
//! A product of two operands is linear in each, so every derivative is an Einstein sum again: with
//! `out = A B`, the cotangent of A is the sum of `out` and B over the axes that A lacks.

use tract_onnx::tract_core::internal::InOut;
use tract_onnx::tract_core::ops::einsum::EinSum;

use super::gemm::multiply_add;
use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};
use crate::grad::walk::{Walk, dense_strides, volume};

/// One index of the sum with its stride in each array; `None` where the array lacks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    len: usize,
    a: Option<usize>,
    b: Option<usize>,
    out: Option<usize>,
}

impl Axis {
    fn with_roles(self, a: Option<usize>, b: Option<usize>, out: Option<usize>) -> Axis {
        Axis { len: self.len, a, b, out }
    }
}

/// An Einstein sum of one or two operands at fixed shapes.
#[derive(Debug)]
pub struct Contraction {
    axes: Vec<Axis>,
    operands: usize,
    lens: [usize; 2],
    output_len: usize,
}

/// The rule of an Einstein sum.
pub fn rule(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<EinSum>()?;
    if op.q_params.is_some() {
        return Err(Unsupported::new("a quantised product"));
    }
    let operands = site.inputs.len();
    if !(1..=2).contains(&operands) {
        return Err(Unsupported::new(format!("{operands} operands")));
    }
    let shapes: Vec<&[usize]> =
        site.inputs.iter().chain([&site.output]).map(Vec::as_slice).collect();
    let strides: Vec<Vec<isize>> = shapes.iter().map(|shape| dense_strides(shape)).collect();
    let mut axes = Vec::new();
    for axis in op.axes.iter_all_axes() {
        let mut positions = Vec::with_capacity(operands + 1);
        for slot in 0..=operands {
            let side = if slot == operands { InOut::Out(0) } else { InOut::In(slot) };
            match axis.interface(side) {
                [] => positions.push(None),
                [position] => positions.push(Some(*position)),
                _ => return Err(Unsupported::new("a diagonal")),
            }
        }
        let len_in = |slot: usize| positions[slot].map_or(1, |position| shapes[slot][position]);
        let len = (0..=operands).map(len_in).max().unwrap_or(1);
        // An array that holds this axis with one element only is broadcast along it.
        let stride = |slot: usize| {
            positions[slot]
                .filter(|position| shapes[slot][*position] == len)
                .map(|position| strides[slot][position] as usize)
        };
        let b = if operands == 2 { stride(1) } else { None };
        axes.push(Axis { len, a: stride(0), b, out: stride(operands) });
    }
    Ok(Box::new(Contraction {
        axes,
        operands,
        lens: [volume(shapes[0]), if operands == 2 { volume(shapes[1]) } else { 1 }],
        output_len: volume(&site.output),
    }))
}

/// `out += sum over a b`, by one matrix product for each index of the axes that fit into none.
fn contract<T: Real>(axes: &[Axis], a: &[T], b: &[T], out: &mut [T]) {
    let mut loops: Vec<Axis> = Vec::new();
    // Axes of the left matrix's rows, of the right one's columns, and summed in between.
    let mut groups: [Vec<Axis>; 3] = [const { Vec::new() }; 3];
    for axis in axes.iter().filter(|axis| axis.len != 1) {
        match (axis.a, axis.b, axis.out) {
            (Some(_), None, Some(_)) => groups[0].push(*axis),
            (None, Some(_), Some(_)) => groups[1].push(*axis),
            (Some(_), Some(_), None) => groups[2].push(*axis),
            _ => loops.push(*axis),
        }
    }
    let single = Axis { len: 1, a: Some(0), b: Some(0), out: Some(0) };
    let [m, n, k] = groups.map(|group| {
        let mut merged = merge(group);
        merged.sort_by_key(|axis| std::cmp::Reverse(axis.len));
        let largest = if merged.is_empty() { single } else { merged.remove(0) };
        loops.append(&mut merged);
        largest
    });
    let shape: Vec<usize> = loops.iter().map(|axis| axis.len).collect();
    let strides = |of: fn(&Axis) -> Option<usize>| -> Vec<isize> {
        loops.iter().map(|axis| of(axis).unwrap_or(0) as isize).collect()
    };
    let stride = |stride: Option<usize>| stride.unwrap_or(0);
    Walk::new(&shape, [&strides(|x| x.a), &strides(|x| x.b), &strides(|x| x.out)]).rows(|row| {
        row.each(|[at_a, at_b, at_out]| {
            multiply_add(
                (m.len, k.len, n.len),
                (&a[at_a..], (stride(m.a), stride(k.a))),
                (&b[at_b..], (stride(k.b), stride(n.b))),
                (&mut out[at_out..], (stride(m.out), stride(n.out))),
            );
        });
    });
}

/// Joins axes that are evenly spaced in every array that has them.
fn merge(mut axes: Vec<Axis>) -> Vec<Axis> {
    axes.sort_by_key(|axis| std::cmp::Reverse((axis.a, axis.b, axis.out)));
    let mut merged: Vec<Axis> = Vec::new();
    for axis in axes {
        let follows = |outer: Option<usize>, inner: Option<usize>| match (outer, inner) {
            (Some(outer), Some(inner)) => outer == inner * axis.len,
            (outer, inner) => outer == inner,
        };
        match merged.last_mut() {
            Some(last)
                if follows(last.a, axis.a)
                    && follows(last.b, axis.b)
                    && follows(last.out, axis.out) =>
            {
                *last = Axis { len: last.len * axis.len, ..axis };
            }
            _ => merged.push(axis),
        }
    }
    merged
}

impl Contraction {
    fn product<T: Real>(&self, a: &[T], b: &[T]) -> Vec<T> {
        let mut out = vec![T::zero(); self.output_len];
        contract(&self.axes, a, b, &mut out);
        out
    }

    fn cotangent_of<T: Real>(&self, side: usize, cotangent: &[T], other: &[T]) -> Vec<T> {
        let axes: Vec<Axis> = self
            .axes
            .iter()
            .map(|axis| match side {
                0 => axis.with_roles(axis.out, axis.b, axis.a),
                _ => axis.with_roles(axis.a, axis.out, axis.b),
            })
            .collect();
        let mut grad = vec![T::zero(); self.lens[side]];
        match side {
            0 => contract(&axes, cotangent, other, &mut grad),
            _ => contract(&axes, other, cotangent, &mut grad),
        }
        grad
    }
}

impl<T: Real> Kernel<T> for Contraction {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let one = [T::one()];
        self.product(inputs[0], inputs.get(1).copied().unwrap_or(&one))
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        let one: &[T] = &[T::one()];
        let mut out = vec![T::zero(); self.output_len];
        if let Some(tangent) = tangents[0] {
            contract(&self.axes, tangent, inputs.get(1).copied().unwrap_or(one), &mut out);
        }
        if let Some(Some(tangent)) = tangents.get(1) {
            contract(&self.axes, inputs[0], tangent, &mut out);
        }
        out
    }

    fn vjp(
        &self,
        values: &Values<'_, T>,
        cotangent: Vec<T>,
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let one: &[T] = &[T::one()];
        (0..self.operands)
            .map(|side| {
                wanted[side].then(|| {
                    let other = if self.operands == 2 { values.input(1 - side) } else { one };
                    self.cotangent_of(side, &cotangent, other)
                })
            })
            .collect()
    }
}

impl Rule for Contraction {
    fn needs(&self, wanted: &[bool]) -> Needs {
        match *wanted {
            [a, b] => Needs::inputs(vec![b, a]),
            _ => Needs::nothing(wanted.len()),
        }
    }
}
