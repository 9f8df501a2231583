//! The image input of a network: which it is, how its axes lie, how large it is.

use super::network::Options;
use super::onnx::{OnnxModel, declared_shape};
use super::{GraphError, layout};
use crate::vision::TensorLayout;

/// The largest side of an input: a larger one is a mistake or an attack.
const MAX_SIDE: usize = 4096;

/// The image input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Name of the ONNX input.
    pub name: String,
    /// Order of its axes.
    pub layout: TensorLayout,
    /// 3 or 1.
    pub channels: usize,
    /// Side of the square, in pixels.
    pub size: usize,
}

/// Finds the one image input and fixes its shape in `model`.
pub(super) fn find(model: &mut OnnxModel, options: &Options) -> Result<Input, GraphError> {
    let graph = model.graph();
    let text = |shape: &Option<Vec<Option<usize>>>| match shape {
        Some(dims) => {
            let dims = dims.iter().map(|d| d.map_or("?".to_owned(), |extent| extent.to_string()));
            format!("[{}]", dims.collect::<Vec<_>>().join(", "))
        }
        None => "[of unknown shape]".to_owned(),
    };
    let inputs: Vec<(String, Option<Vec<Option<usize>>>)> =
        graph.input.iter().map(|input| (input.name.clone(), declared_shape(input))).collect();
    let listed = inputs.iter().map(|(name, shape)| format!("{name:?} {}", text(shape)));
    let listed =
        if inputs.is_empty() { "none".to_owned() } else { listed.collect::<Vec<_>>().join(", ") };
    let refuse =
        |reason: &str| GraphError::Input { reason: reason.to_owned(), inputs: listed.clone() };

    let wanted = options.overrides.input.as_deref();
    let is_image = |(name, shape): &&(String, Option<Vec<Option<usize>>>)| {
        wanted.map_or(shape.as_ref().is_some_and(|shape| shape.len() == 4), |wanted| name == wanted)
    };
    let mut images = inputs.iter().filter(is_image);
    let (Some((name, Some(shape))), None) = (images.next(), images.next()) else {
        return Err(refuse("exactly one input with four axes is needed"));
    };
    if inputs.len() > 1 || shape.len() != 4 {
        return Err(refuse("no other input than one with four axes can be fed"));
    }
    let layout = layout::of_input(shape, &graph.node, name)
        .ok_or_else(|| refuse("neither axis 1 nor axis 3 has three channels"))?;
    let (channels, height, width) = match layout {
        TensorLayout::Nchw => (shape[1], shape[2], shape[3]),
        TensorLayout::Nhwc => (shape[3], shape[1], shape[2]),
    };
    let channels = channels.unwrap_or(3);
    let asked = options.size.map(|size| size as usize);
    let size = height.or(width).or(asked).ok_or_else(|| {
        refuse("the file leaves height and width open: give the side of the square with --size")
    })?;
    let fixed = height.or(width).filter(|_| height.is_none() || width.is_none() || height == width);
    if let (Some(fixed), Some(asked)) = (fixed, asked)
        && fixed != asked
    {
        return Err(refuse(&format!(
            "the network takes {fixed} x {fixed} only, but --size {asked} was asked for: leave --size \
             out, or say --size {fixed}"
        )));
    }
    let contradicts = |side: Option<usize>| side.is_some_and(|side| side != size);
    if contradicts(height) || contradicts(width) || contradicts(asked) || size > MAX_SIDE {
        return Err(refuse(
            "height, width and the size asked for must be one number of at most 4096",
        ));
    }
    let input = Input { name: name.clone(), layout, channels, size };
    let shape = match layout {
        TensorLayout::Nchw => [1, channels, size, size],
        TensorLayout::Nhwc => [1, size, size, channels],
    };
    model.set_input_shape(&input.name, shape);
    Ok(input)
}
