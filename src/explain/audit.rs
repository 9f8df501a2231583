//! Looking at many explanations at once: does a network look at the object or at its background?

use std::collections::BTreeMap;

use super::rank::correlation;
use super::{ExplainError, Map};
use crate::vision::{BoundingBox, Placement};

/// Cells along a side of the grid on which maps are compared.
pub const GRID: usize = 32;
/// The border of the audit is this share of the side, on each side.
pub const BORDER: f32 = 0.125;

/// What one image adds to an audit.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Name of the image, for the report.
    pub image: String,
    /// The map over what the network saw, `GRID` x `GRID`, 0 to 1.
    pub map: Vec<f32>,
    /// Share of the map's sum in the border.
    pub border_energy: f32,
    /// Share of the map's sum outside the true boxes; `None` where none are known.
    pub outside_energy: Option<f32>,
}

impl Look {
    /// Takes the map of one explained image.
    ///
    /// # Errors
    /// [`ExplainError::NotFinite`] where the map has no size.
    pub fn new(
        image: impl Into<String>,
        map: &Map,
        truth: Option<(&[BoundingBox], &Placement)>,
    ) -> Result<Look, ExplainError> {
        let grid = map.enlarged(GRID)?;
        let margin = BORDER * GRID as f32;
        let near = |cell: usize| {
            let at = cell as f32 + 0.5;
            at < margin || at > GRID as f32 - margin
        };
        let border = |index: usize| near(index % GRID) || near(index / GRID);
        let whole: f32 = grid.iter().sum();
        let part: f32 = (0..grid.len()).filter(|index| border(*index)).map(|i| grid[i]).sum();
        let outside = truth
            .map(|(boxes, placement)| {
                map.energy_inside(boxes, placement).map(|inside| 1.0 - inside)
            })
            .transpose()?;
        Ok(Look {
            image: image.into(),
            border_energy: if whole > 0.0 { part / whole } else { 0.0 },
            outside_energy: outside,
            map: grid,
        })
    }

    fn is_zero(&self) -> bool {
        self.map.iter().all(|value| *value == 0.0)
    }
}

/// An image whose map differs from its class's mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Deviation {
    /// The image.
    pub image: String,
    /// Pearson's correlation of its map with the mean map of its class, -1 to 1.
    pub correlation: f64,
}

/// What an audit found of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassAudit {
    /// The class.
    pub class: String,
    /// Images looked at.
    pub images: usize,
    /// Images whose map shows no evidence at all.
    pub without_evidence: usize,
    /// Mean of the maps, `GRID` x `GRID`.
    pub mean_map: Vec<f32>,
    /// Mean share of energy in the border. A map of even heat has 0.44 there.
    pub border_energy: f32,
    /// Mean share of energy outside the true boxes, over the images that have some.
    pub outside_energy: Option<f32>,
    /// All images, the one that deviates most first.
    pub deviations: Vec<Deviation>,
}

/// Collects looks by class.
#[derive(Debug, Default)]
pub struct Audit {
    classes: BTreeMap<String, Vec<Look>>,
}

impl Audit {
    /// Adds one image of a class.
    pub fn add(&mut self, class: impl Into<String>, look: Look) {
        self.classes.entry(class.into()).or_default().push(look);
    }

    /// The findings, class by class in alphabetical order.
    pub fn finish(&self) -> Vec<ClassAudit> {
        self.classes.iter().map(|(class, looks)| audit_class(class, looks)).collect()
    }
}

fn audit_class(class: &str, looks: &[Look]) -> ClassAudit {
    let seen: Vec<&Look> = looks.iter().filter(|look| !look.is_zero()).collect();
    let mean = |values: &mut dyn Iterator<Item = f32>| -> Option<f32> {
        let (sum, count) = values.fold((0.0, 0_usize), |(sum, n), value| (sum + value, n + 1));
        (count > 0).then(|| sum / count as f32)
    };
    let mut mean_map = vec![0.0; GRID * GRID];
    for look in &seen {
        mean_map.iter_mut().zip(&look.map).for_each(|(m, v)| *m += v / seen.len() as f32);
    }
    let wide = |map: &[f32]| -> Vec<f64> { map.iter().map(|v| f64::from(*v)).collect() };
    let middle = wide(&mean_map);
    let mut deviations: Vec<Deviation> = looks
        .iter()
        .map(|look| Deviation {
            image: look.image.clone(),
            correlation: correlation(&wide(&look.map), &middle),
        })
        .collect();
    deviations.sort_by(|a, b| a.correlation.total_cmp(&b.correlation));
    ClassAudit {
        class: class.to_string(),
        images: looks.len(),
        without_evidence: looks.len() - seen.len(),
        border_energy: mean(&mut seen.iter().map(|look| look.border_energy)).unwrap_or(0.0),
        outside_energy: mean(&mut seen.iter().filter_map(|look| look.outside_energy)),
        mean_map,
        deviations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{Evidence, Scaling};

    fn look(name: &str, hot: usize) -> Look {
        let mut raw = vec![0.0; 49];
        raw[hot] = 1.0;
        let map = Map::new((7, 7), raw, Evidence::For, Scaling::Maximum).unwrap();
        Look::new(name, &map, None).unwrap()
    }

    #[test]
    fn the_image_that_looks_elsewhere_deviates_most_and_border_energy_tells_corners() {
        let mut audit = Audit::default();
        for (name, hot) in [("a", 24), ("b", 24), ("c", 25), ("odd", 0)] {
            audit.add("bolt", look(name, hot));
        }
        let found = audit.finish();
        assert_eq!(found[0].deviations[0].image, "odd");
        assert!(look("corner", 0).border_energy > 0.8);
        assert!(look("centre", 24).border_energy < 0.01);
    }

    #[test]
    fn an_even_map_has_the_documented_share_of_energy_in_the_border() {
        let map = Map::new((7, 7), vec![1.0; 49], Evidence::For, Scaling::Maximum).unwrap();
        let share = Look::new("even", &map, None).unwrap().border_energy;
        assert!((share - 0.44).abs() < 0.01, "{share}");
    }

    #[test]
    fn an_image_without_evidence_is_counted_and_leaves_the_mean_alone() {
        let map = Map::new((1, 2), vec![-1.0, -2.0], Evidence::For, Scaling::Maximum).unwrap();
        let mut audit = Audit::default();
        audit.add("bolt", Look::new("dark", &map, None).unwrap());
        audit.add("bolt", look("a", 24));
        let found = audit.finish().remove(0);
        assert_eq!((found.images, found.without_evidence), (2, 1));
        assert!(found.mean_map.iter().copied().fold(0.0, f32::max) > 0.5);
    }
}
