//! From a raw map to the map that is shown: sign, scale, peak, box, energy.

use std::borrow::Cow;

use super::ExplainError;
use crate::vision::{BoundingBox, HeatMap, Placement};

/// Which evidence a map shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// For the class: `max(raw, 0)`.
    #[default]
    For,
    /// Against the class: `max(-raw, 0)`.
    Against,
    /// Both: `raw`, so that the map reaches from -1 to 1.
    Signed,
}

/// How a map is brought to its range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Scaling {
    /// Divided by its largest magnitude.
    #[default]
    Maximum,
    /// Its minimum subtracted first, as pytorch-grad-cam does. A signed map ignores this.
    MinimumToMaximum,
}

/// A map over the input of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Row by row, signed, before rectification; finite.
    pub raw: Vec<f32>,
    /// Row by row, 0 to 1 (-1 to 1 where signed); all zero where there is no evidence of the sign
    /// that was asked for.
    pub values: Vec<f32>,
    /// Which evidence `values` shows.
    pub evidence: Evidence,
}

/// The hottest region of a map, in pixels of the network's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Box around the connected region above the threshold that holds the peak.
    pub bounds: BoundingBox,
    /// Centre of the hottest cell.
    pub peak: (f32, f32),
    /// Share of the map's sum that lies inside the box, 0 to 1.
    pub energy: f32,
}

impl Map {
    /// Scales `raw` (`height` x `width`).
    ///
    /// # Errors
    /// [`ExplainError::NotFinite`] where a number is NaN or infinite.
    pub fn new(
        (height, width): (usize, usize),
        raw: Vec<f32>,
        evidence: Evidence,
        scaling: Scaling,
    ) -> Result<Map, ExplainError> {
        if raw.iter().any(|value| !value.is_finite()) {
            return Err(ExplainError::NotFinite("gradient or activation"));
        }
        let shown = |value: &f32| match evidence {
            Evidence::For => value.max(0.0),
            Evidence::Against => (-value).max(0.0),
            Evidence::Signed => *value,
        };
        let mut values: Vec<f32> = raw.iter().map(shown).collect();
        if scaling == Scaling::MinimumToMaximum && evidence != Evidence::Signed {
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            values.iter_mut().for_each(|value| *value -= least);
        }
        let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        if most > 0.0 {
            // Divided, not multiplied by the reciprocal: a tiny maximum has an infinite one.
            values.iter_mut().for_each(|value| *value /= most);
        }
        Ok(Map { height, width, raw, values, evidence })
    }

    /// Whether anything speaks for the class.
    pub fn has_positive_evidence(&self) -> bool {
        self.raw.iter().any(|value| *value > 0.0)
    }

    /// Whether there is nothing to show.
    pub fn is_zero(&self) -> bool {
        self.values.iter().all(|value| *value == 0.0)
    }

    /// The values as colours show them, 0 to 1: of a signed map 0 is the middle of the colours.
    pub fn drawn(&self) -> Cow<'_, [f32]> {
        match self.evidence {
            Evidence::For | Evidence::Against => Cow::Borrowed(&self.values),
            Evidence::Signed => self.values.iter().map(|v| f32::midpoint(*v, 1.0)).collect(),
        }
    }

    /// The map as it lies over the input.
    pub fn heat_map(&self) -> Result<HeatMap<'_>, ExplainError> {
        HeatMap::new(self.height, self.width, &self.values)
            .map_err(|_| ExplainError::NotFinite("map's size"))
    }

    /// Bilinear enlargement to the network's input, `size` x `size`; negative values become zero.
    pub fn enlarged(&self, size: usize) -> Result<Vec<f32>, ExplainError> {
        let mut values = self.heat_map()?.resize(size, size);
        values.iter_mut().for_each(|value| *value = value.max(0.0));
        Ok(values)
    }

    /// The hottest region at `threshold` (a share of the maximum) on an input of `size` x `size`
    /// pixels; `None` where the map is zero or below everywhere.
    pub fn region(&self, size: usize, threshold: f32) -> Result<Option<Region>, ExplainError> {
        let Some((peak, most)) = hottest(&self.values) else { return Ok(None) };
        let cell = |index: usize, cells: usize| (index as f32 + 0.5) * size as f32 / cells as f32;
        let peak = (cell(peak % self.width, self.width), cell(peak / self.width, self.height));
        let enlarged = self.enlarged(size)?;
        let start = |at: f32| (at as usize).min(size.saturating_sub(1));
        let seed = start(peak.1) * size + start(peak.0);
        // The cell's centre may fall between pixels, so the enlarged peak is a little lower.
        let level = (threshold * most).min(enlarged[seed]);
        let bounds = component(&enlarged, size, seed, level);
        let energy = share_within(&enlarged, size, |x, y| within(&bounds, x, y));
        Ok(Some(Region { bounds, peak, energy }))
    }

    /// The share of the map's sum that falls inside any of `boxes`, given on the photograph; what
    /// the network did not see counts nowhere. 0 for a zero map.
    pub fn energy_inside(
        &self,
        boxes: &[BoundingBox],
        placement: &Placement,
    ) -> Result<f32, ExplainError> {
        let size = placement.input_size() as usize;
        let inside = |x: f32, y: f32| {
            let (x, y) = placement.to_picture(f64::from(x), f64::from(y));
            boxes.iter().any(|area| within(area, x as f32, y as f32))
        };
        Ok(share_within(&self.enlarged(size)?, size, inside))
    }
}

/// Whether a point lies in a box.
pub fn within(area: &BoundingBox, x: f32, y: f32) -> bool {
    area.x0 <= x && x < area.x1 && area.y0 <= y && y < area.y1
}

/// Index and value of the largest number above zero.
fn hottest(values: &[f32]) -> Option<(usize, f32)> {
    let largest = |best: (usize, f32), (index, value): (usize, &f32)| {
        if *value > best.1 { (index, *value) } else { best }
    };
    let best = values.iter().enumerate().fold((0, 0.0), largest);
    (best.1 > 0.0).then_some(best)
}

/// Bounds of the pixels at or above `level` that hang together with `seed` (four neighbours).
fn component(values: &[f32], size: usize, seed: usize, level: f32) -> BoundingBox {
    let mut seen = vec![false; values.len()];
    let mut pending = vec![seed];
    seen[seed] = true;
    let (mut left, mut top, mut right, mut bottom) = (size, size, 0, 0);
    while let Some(at) = pending.pop() {
        let (x, y) = (at % size, at / size);
        (left, right) = (left.min(x), right.max(x + 1));
        (top, bottom) = (top.min(y), bottom.max(y + 1));
        let neighbours = [
            (x > 0).then(|| at - 1),
            (x + 1 < size).then(|| at + 1),
            (y > 0).then(|| at - size),
            (y + 1 < size).then(|| at + size),
        ];
        for next in neighbours.into_iter().flatten() {
            if !seen[next] && values[next] >= level {
                seen[next] = true;
                pending.push(next);
            }
        }
    }
    BoundingBox { x0: left as f32, y0: top as f32, x1: right as f32, y1: bottom as f32 }
}

/// Share of the sum over the pixels whose centre `inside` accepts.
fn share_within(values: &[f32], size: usize, inside: impl Fn(f32, f32) -> bool) -> f32 {
    let (mut part, mut whole) = (0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let (x, y) = ((index % size) as f32 + 0.5, (index / size) as f32 + 0.5);
        whole += f64::from(*value);
        if inside(x, y) {
            part += f64::from(*value);
        }
    }
    if whole > 0.0 { (part / whole) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(raw: &[f32], evidence: Evidence, scaling: Scaling) -> Map {
        Map::new((2, 2), raw.to_vec(), evidence, scaling).unwrap()
    }

    #[test]
    fn a_map_is_the_rectified_raw_map_over_its_maximum() {
        let raw = [-2.0, 1.0, 4.0, 0.0];
        let of = |evidence, scaling| map(&raw, evidence, scaling).values;
        assert_eq!(of(Evidence::For, Scaling::Maximum), [0.0, 0.25, 1.0, 0.0]);
        assert_eq!(of(Evidence::Against, Scaling::Maximum), [1.0, 0.0, 0.0, 0.0]);
        assert_eq!(of(Evidence::Signed, Scaling::Maximum), [-0.5, 0.25, 1.0, 0.0]);
        let signed = map(&raw, Evidence::Signed, Scaling::Maximum);
        assert_eq!(*signed.drawn(), [0.25, 0.625, 1.0, 0.5]);
        let positive = map(&[1.0, 2.0, 3.0, 5.0], Evidence::For, Scaling::MinimumToMaximum);
        assert_eq!(positive.values, [0.0, 0.25, 0.5, 1.0]);
    }

    #[test]
    fn without_positive_evidence_the_map_is_zero_and_says_so() {
        for raw in [[-1.0, -2.0, -3.0, -4.0], [0.0; 4]] {
            let map = map(&raw, Evidence::For, Scaling::Maximum);
            assert!(map.is_zero() && !map.has_positive_evidence());
            assert_eq!(map.region(8, 0.5).unwrap(), None);
        }
        let flat = map(&[3.0; 4], Evidence::For, Scaling::MinimumToMaximum);
        assert!(flat.is_zero() && flat.has_positive_evidence());
    }

    #[test]
    fn tiny_maxima_scale_to_one_and_nan_is_an_error() {
        let tiny = map(&[1e-44, 0.0, 0.0, 0.0], Evidence::For, Scaling::Maximum);
        assert_eq!(tiny.values, [1.0, 0.0, 0.0, 0.0]);
        for bad in [f32::NAN, f32::INFINITY] {
            let result = Map::new((1, 1), vec![bad], Evidence::For, Scaling::Maximum);
            assert!(matches!(result, Err(ExplainError::NotFinite(_))));
        }
    }

    #[test]
    fn the_region_holds_the_peak_and_leaves_out_what_does_not_hang_together() {
        let mut raw = vec![0.0; 49];
        raw[2 * 7 + 1] = 1.0;
        raw[5 * 7 + 5] = 0.9;
        let map = Map::new((7, 7), raw, Evidence::For, Scaling::Maximum).unwrap();
        let region = map.region(224, 0.5).unwrap().unwrap();
        assert_eq!(region.peak, (48.0, 80.0));
        let BoundingBox { x0, y0, x1, y1 } = region.bounds;
        assert!(x0 < 48.0 && 48.0 < x1 && y0 < 80.0 && 80.0 < y1);
        assert!(x1 < 100.0 && y1 < 130.0, "{:?}", region.bounds);
        assert!(region.energy > 0.25 && region.energy < 0.6, "{}", region.energy);
    }

    proptest::proptest! {
        #[test]
        fn any_finite_raw_map_gives_a_map_in_its_range(
            raw in proptest::collection::vec(-1e38_f32..1e38, 6),
            evidence in proptest::sample::select(
                vec![Evidence::For, Evidence::Against, Evidence::Signed]),
            scaling in proptest::sample::select(
                vec![Scaling::Maximum, Scaling::MinimumToMaximum]),
        ) {
            let map = Map::new((2, 3), raw, evidence, scaling).unwrap();
            assert!(map.values.iter().all(|value| value.abs() <= 1.0));
            map.region(16, 0.5).unwrap();
        }
    }
}
