//! Where a weight of an ONNX file stands in the decluttered graph, which may hold it with a batch norm
//! multiplied in, or in pieces.

use std::ops::Range;

use graftd::grad::weights;
use serde_json::Value;
use tract_onnx::prelude::{OutletId, TypedModel};

use crate::common::json::{list, numbers};

/// A weight of the file as constants of the graph.
pub struct Standing {
    /// Its pieces along the second axis (input channels), or the one that is whole.
    pub pieces: Vec<OutletId>,
    /// Output channels: extent of the first axis.
    rows: usize,
    /// What the graph's weight is of the file's, a number for each output channel.
    factors: Vec<f64>,
}

impl Standing {
    /// Looks for the fixture's weight `kernel` by its first values; `None` where the graph has nothing
    /// that begins like it.
    pub fn find(model: &TypedModel, kernel: &Value) -> Option<Self> {
        let (first, fold) = (numbers(&kernel["first"]), numbers(&kernel["fold"]));
        let len = kernel["len"].as_u64()? as usize;
        let rows = list(&kernel["shape"]).first()?.as_u64()? as usize;
        let begins = |outlet, factor: f64| {
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs().max(1e-3 * factor.abs());
            values(model, outlet).iter().zip(&first).all(|(a, b)| close(f64::from(*a), b * factor))
        };
        let all = weights(model);
        let whole = |factor| {
            let fits = |outlet| values(model, outlet).len() == len && begins(outlet, factor);
            all.iter().map(|weight| weight.outlet).find(|outlet| fits(*outlet))
        };
        if let Some(outlet) = whole(1.0) {
            return Some(Self { pieces: vec![outlet], rows, factors: vec![1.0; rows] });
        }
        if let Some(outlet) = fold.first().and_then(|factor| whole(*factor)) {
            return Some(Self { pieces: vec![outlet], rows, factors: fold });
        }
        // A product with a concatenation becomes a sum of products with its parts.
        let (name, range) = all
            .iter()
            .filter(|weight| begins(weight.outlet, 1.0))
            .find_map(|weight| piece_of_concatenation(&weight.node))?;
        let mut pieces: Vec<(Range<usize>, OutletId)> = all
            .iter()
            .filter_map(|weight| Some((piece_of_concatenation(&weight.node)?, weight.outlet)))
            .filter_map(|((stem, range), outlet)| (stem == name).then_some((range, outlet)))
            .collect();
        pieces.sort_by_key(|(range, _)| range.start);
        let covered = pieces.iter().map(|(_, outlet)| values(model, *outlet).len()).sum::<usize>();
        let pieces = pieces.into_iter().map(|(_, outlet)| outlet).collect();
        (range.start == 0 && covered == len).then_some(Self {
            pieces,
            rows,
            factors: vec![1.0; rows],
        })
    }

    /// The gradient by the file's weight, from those by the pieces.
    pub fn gradient(&self, by_pieces: &[Vec<f64>]) -> Vec<f64> {
        let row = |row: usize| {
            let part = move |piece: &Vec<f64>| {
                let width = piece.len() / self.rows;
                piece[row * width..(row + 1) * width].to_vec()
            };
            by_pieces.iter().flat_map(part).map(move |value| value * self.factors[row])
        };
        (0..self.rows).flat_map(row).collect()
    }
}

fn values(model: &TypedModel, outlet: OutletId) -> Vec<f32> {
    let constant = model.outlet_fact(outlet).unwrap().konst.clone().unwrap();
    constant.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
}

/// `conv25.einsum.concat-einsum-I.0..256` is the piece 0..256 of `conv25.einsum`.
fn piece_of_concatenation(node: &str) -> Option<(&str, Range<usize>)> {
    let (name, range) = node.split_once(".concat-einsum-I.")?;
    let (start, end) = range.split_once("..")?;
    Some((name, start.parse().ok()?..end.parse().ok()?))
}
