//! How good an explanation is: insertion and deletion curves, average drop, pointing game, energy.

use super::occlusion::mask_input;
use super::{ExplainError, Explainer, Explanation, Judge, ScoreKind};
use crate::base::cancel::Cancel;
use crate::graph::Network;
use crate::vision::{BoundingBox, Placement, TensorLayout};

/// Points of each curve after the first.
pub const STEPS: usize = 50;

/// Measures of an explanation's faith to the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    /// The class's probability while the hottest pixels are put into a blurred picture first (Petsiuk
    /// et al. 2018); `STEPS + 1` values from none to all pixels.
    pub insertion_curve: Vec<f32>,
    /// The same while the hottest pixels are replaced by the picture's mean colour first.
    pub deletion_curve: Vec<f32>,
    /// Area under the insertion curve, 0 to 1; more is better.
    pub insertion: f32,
    /// Area under the deletion curve, 0 to 1; less is better.
    pub deletion: f32,
    /// Share of the class's probability that is lost when the input is weighted with the map
    /// (Chattopadhay et al. 2018), 0 to 1; less is better.
    pub average_drop: f32,
}

/// How an explanation lies beside the true boxes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pointing {
    /// Whether the peak lies in a true box (Zhang et al. 2016).
    pub hit: bool,
    /// Share of the map's sum, enlarged to the input, inside the true boxes.
    pub energy: f32,
}

/// Where the object really is, on the photograph.
#[derive(Debug, Clone, Copy)]
pub struct Truth<'a> {
    /// The boxes.
    pub boxes: &'a [BoundingBox],
    /// Where the input lies on the photograph.
    pub placement: &'a Placement,
}

impl Truth<'_> {
    /// Whether the explanation's peak lies in a box.
    pub fn is_hit(&self, explanation: &Explanation) -> bool {
        explanation.region.is_some_and(|region| {
            let (x, y) = (f64::from(region.peak.0), f64::from(region.peak.1));
            let (x, y) = self.placement.to_picture(x, y);
            self.boxes.iter().any(|area| super::map::within(area, x as f32, y as f32))
        })
    }

    /// The pointing game and the energy inside: no run of the network.
    ///
    /// # Errors
    /// [`ExplainError::NotFinite`] where the map has no size.
    pub fn pointing(&self, explanation: &Explanation) -> Result<Pointing, ExplainError> {
        let energy = explanation.map.energy_inside(self.boxes, self.placement)?;
        Ok(Pointing { hit: self.is_hit(explanation), energy })
    }
}

/// Measures `explanation` of `input`: about a hundred forward runs. `None` where no pixel of the map is
/// hot: then there is no order in which to put pixels in or take them out.
///
/// # Errors
/// As [`super::explain`]; stops before the next run when `cancel` is raised.
pub fn measure(
    explainer: &Explainer,
    network: &Network,
    input: &[f32],
    judge: &Judge<'_>,
    explanation: &Explanation,
    cancel: &Cancel,
) -> Result<Option<Quality>, ExplainError> {
    let size = network.input().size;
    let heat = explanation.map.enlarged(size)?;
    if heat.iter().all(|value| *value == 0.0) {
        return Ok(None);
    }
    let score = super::Score { kind: ScoreKind::Probability, against: None, ..explanation.score };
    let probability = |input: &[f32]| -> Result<f32, ExplainError> {
        cancel.checkpoint()?;
        let value = score.value(&judge.logits(&explainer.forward(network, input)?)?);
        if value.is_finite() { Ok(value) } else { Err(ExplainError::NotFinite("probability")) }
    };
    let mut order: Vec<usize> = (0..heat.len()).collect();
    order.sort_by(|a, b| heat[*b].total_cmp(&heat[*a]));
    let image = Image::of(network);
    let insertion_curve = curve(&image, image.blurred(input), input, &order, &probability)?;
    let mean = image.mean_colour(input);
    let deletion_curve = curve(&image, input.to_vec(), &mean, &order, &probability)?;
    let mut weighted = vec![0.0; input.len()];
    mask_input(network, input, &heat, &mut weighted);
    let whole = probability(input)?;
    let kept = probability(&weighted)?;
    let average_drop = if whole > 0.0 { ((whole - kept) / whole).max(0.0) } else { 0.0 };
    Ok(Some(Quality {
        insertion: area(&insertion_curve),
        deletion: area(&deletion_curve),
        insertion_curve,
        deletion_curve,
        average_drop,
    }))
}

/// Probabilities while the pixels of `from` become those of `to` in the given order.
fn curve(
    image: &Image,
    mut from: Vec<f32>,
    to: &[f32],
    order: &[usize],
    probability: &dyn Fn(&[f32]) -> Result<f32, ExplainError>,
) -> Result<Vec<f32>, ExplainError> {
    let mut points = vec![probability(&from)?];
    let mut done = 0;
    for step in 1..=STEPS {
        let end = order.len() * step / STEPS;
        for pixel in &order[done..end] {
            for channel in 0..image.channels {
                let at = image.offset(*pixel, channel);
                from[at] = to[at];
            }
        }
        done = end;
        points.push(probability(&from)?);
    }
    Ok(points)
}

/// Trapezoidal area over 0 to 1.
fn area(curve: &[f32]) -> f32 {
    let inner: f32 = curve.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).sum();
    inner / (curve.len() - 1).max(1) as f32
}

/// The shape of an input tensor.
struct Image {
    channels: usize,
    size: usize,
    layout: TensorLayout,
}

impl Image {
    fn of(network: &Network) -> Image {
        let input = network.input();
        Image { channels: input.channels, size: input.size, layout: input.layout }
    }

    fn offset(&self, pixel: usize, channel: usize) -> usize {
        match self.layout {
            TensorLayout::Nchw => channel * self.size * self.size + pixel,
            TensorLayout::Nhwc => pixel * self.channels + channel,
        }
    }

    /// Every pixel the picture's mean.
    fn mean_colour(&self, input: &[f32]) -> Vec<f32> {
        let pixels = self.size * self.size;
        let mut mean = vec![0.0; input.len()];
        for channel in 0..self.channels {
            let sum: f32 = (0..pixels).map(|pixel| input[self.offset(pixel, channel)]).sum();
            (0..pixels).for_each(|p| mean[self.offset(p, channel)] = sum / pixels as f32);
        }
        mean
    }

    /// Three box filters in each direction: nearly a Gaussian, wide enough to hide the object.
    fn blurred(&self, input: &[f32]) -> Vec<f32> {
        let radius = (self.size / 20).max(1);
        let mut image = input.to_vec();
        for channel in 0..self.channels {
            for _ in 0..3 {
                for line in 0..self.size {
                    self.box_filter(&mut image, radius, |i| {
                        self.offset(line * self.size + i, channel)
                    });
                    self.box_filter(&mut image, radius, |i| {
                        self.offset(i * self.size + line, channel)
                    });
                }
            }
        }
        image
    }

    fn box_filter(&self, image: &mut [f32], radius: usize, at: impl Fn(usize) -> usize) {
        let line: Vec<f32> = (0..self.size).map(|i| image[at(i)]).collect();
        for i in 0..self.size {
            let near = &line[i.saturating_sub(radius)..(i + radius + 1).min(self.size)];
            image[at(i)] = near.iter().sum::<f32>() / near.len() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_trapezoidal() {
        assert!((area(&[0.0, 1.0]) - 0.5).abs() < 1e-6);
        assert!((area(&[1.0, 1.0, 0.0]) - 0.75).abs() < 1e-6);
    }

    #[test]
    fn blurring_keeps_a_flat_picture_and_spreads_a_point() {
        for layout in [TensorLayout::Nchw, TensorLayout::Nhwc] {
            let image = Image { channels: 3, size: 40, layout };
            let flat = vec![2.0; 4800];
            assert!(image.blurred(&flat).iter().all(|v| (v - 2.0).abs() < 1e-5));
            let mut point = vec![0.0; 4800];
            point[image.offset(20 * 40 + 20, 1)] = 1.0;
            let blurred = image.blurred(&point);
            assert!(blurred[image.offset(20 * 40 + 20, 1)] < 0.1);
            assert!(blurred[image.offset(20 * 40 + 23, 1)] > 0.0);
            assert_eq!(blurred[image.offset(20 * 40 + 20, 0)], 0.0);
        }
    }
}
