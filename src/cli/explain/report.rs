//! What `graftd explain` prints of an explanation.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::output;
use crate::engine::Explained;
use crate::explain::{Evidence, sanity};
use crate::terminal::{self, print};
use crate::vision::ResizePolicy;

/// An explained image, and what became of its map when the network forgot.
pub(super) struct Shown<'a> {
    pub image: &'a Path,
    pub explained: &'a Explained,
    pub cascade: Option<sanity::Cascade>,
}

impl Shown<'_> {
    /// The command contract's object, and after it what the options add.
    pub(super) fn object(&self) -> Value {
        let Explained { answer, explanation, labels, placement, .. } = self.explained;
        let score = explanation.score;
        let on_picture = explanation.region.map(|region| placement.box_to_picture(region.bounds));
        let mut timings = output::timings(&answer.timings);
        timings["explain"] =
            json!(terminal::milliseconds(self.explained.elapsed.as_secs_f64() * 1e3));
        let mut object = json!({
            "image": self.image.to_string_lossy(),
            "backbone": answer.by.backbone.name.as_str(),
            "layer": explanation.layers.join("+"),
            "method": explanation.method.name(),
            "class": { "index": score.class, "label": labels.0 },
            "height": explanation.map.height,
            "width": explanation.map.width,
            "map": explanation.map.values,
            "raw": explanation.map.raw,
            "box": on_picture.map(|b| [b.x0, b.y0, b.x1, b.y1]),
            "timings_ms": timings,
            "has_positive_evidence": explanation.map.has_positive_evidence(),
        });
        if let Some(head) = &answer.by.head {
            object["head"] = json!(head.name.as_str());
        }
        if let Some(index) = score.against {
            object["against"] = json!({ "index": index, "label": labels.1 });
        }
        if let Some(region) = explanation.region {
            let (x, y) = placement.to_picture_within(region.peak.0.into(), region.peak.1.into());
            object["peak"] = json!([x, y]);
            object["box_energy"] = json!(region.energy);
        }
        if let Some(pointing) = self.explained.pointing {
            object["peak_in_box"] = json!(pointing.hit);
            object["energy_in_boxes"] = json!(pointing.energy);
        }
        if let Some(quality) = &self.explained.quality {
            object["quality"] = json!({
                "insertion": quality.insertion,
                "deletion": quality.deletion,
                "average_drop": quality.average_drop,
                "insertion_curve": quality.insertion_curve,
                "deletion_curve": quality.deletion_curve,
            });
        }
        if let Some(cascade) = &self.cascade {
            let stage = |stage: &sanity::Stage| json!({ "node": stage.node, "rank_correlation": stage.correlation });
            object["sanity"] = cascade.stages().iter().map(stage).collect();
            object["sanity_verdict"] = json!({
                "changed": cascade.changed(),
                "rank_correlation": cascade.at_the_end(),
                "threshold": sanity::THRESHOLD,
            });
        }
        object
    }

    /// The same for a person.
    pub(super) fn print(&self) {
        print::line(format_args!("{}  {}: {}", self.image.display(), self.class(), self.place()));
        if let Some(pointing) = self.explained.pointing {
            print::line(format_args!(
                "  peak {} the true boxes, {:.0} % of the energy inside",
                if pointing.hit { "inside" } else { "outside" },
                100.0 * pointing.energy
            ));
        }
        if let Some(quality) = &self.explained.quality {
            print::line(format_args!(
                "  insertion {:.3}, deletion {:.3}, average drop {:.3}",
                quality.insertion, quality.deletion, quality.average_drop
            ));
        }
        if let Some(cascade) = &self.cascade {
            for stage in cascade.stages() {
                print::line(format_args!(
                    "  shuffled down to {}: rank correlation {:.3}",
                    stage.node, stage.correlation
                ));
            }
            match cascade.at_the_end().zip(cascade.changed()) {
                Some((correlation, changed)) => print::line(format_args!(
                    "  the map {}: rank correlation {correlation:.3} with all shuffled, at most {:.2} \
                     either way counts as changed",
                    if changed { "changed" } else { "did not change enough" },
                    sanity::THRESHOLD
                )),
                None => print::line(format_args!(
                    "  no verdict: the map is the same everywhere, so it has no ranks that could change"
                )),
            }
        }
    }

    fn class(&self) -> String {
        let Explained { explanation, labels, .. } = self.explained;
        let name = |index: usize, label: &str| match label {
            "" => format!("class {index}"),
            label => label.to_owned(),
        };
        let class = name(explanation.score.class, &labels.0);
        match (explanation.score.against, &labels.1) {
            (Some(index), Some(label)) => format!("{class} rather than {}", name(index, label)),
            _ => class,
        }
    }

    fn place(&self) -> String {
        let Explained { explanation, placement, .. } = self.explained;
        let (seen, what) = match explanation.map.evidence {
            Evidence::For | Evidence::Signed => ("looked at", "for"),
            Evidence::Against => ("evidence against it at", "against"),
        };
        let Some(region) = explanation.region else {
            let rest = if explanation.map.is_zero() { "; the map is zero" } else { "" };
            return format!("nothing in the picture speaks {what} it{rest}");
        };
        let found = placement.box_to_picture(region.bounds);
        format!(
            "{seen} x {:.0} to {:.0}, y {:.0} to {:.0} ({:.0} % of the evidence)",
            found.x0,
            found.x1,
            found.y0,
            found.y1,
            100.0 * region.energy
        )
    }
}

/// Sums over images.
#[derive(Default)]
pub(super) struct Tally {
    pointed: usize,
    hits: usize,
    energy: f32,
    measured: usize,
    insertion: f32,
    deletion: f32,
    drop: f32,
    resize: ResizePolicy,
}

impl Tally {
    pub(super) fn add(&mut self, explained: &Explained) {
        self.resize = explained.answer.by.backbone.preprocessing.resize;
        if let Some(pointing) = explained.pointing {
            self.pointed += 1;
            self.hits += usize::from(pointing.hit);
            self.energy += pointing.energy;
        }
        if let Some(quality) = &explained.quality {
            self.measured += 1;
            self.insertion += quality.insertion;
            self.deletion += quality.deletion;
            self.drop += quality.average_drop;
        }
    }

    pub(super) fn print(&self) {
        if self.pointed > 1 {
            // What a crop cuts away counts nowhere, so the share depends on it.
            let seen = match self.resize {
                ResizePolicy::Crop => "the middle that --resize crop keeps",
                ResizePolicy::Squash => "the whole photograph, --resize squash",
                ResizePolicy::Pad => "the whole photograph, --resize pad",
            };
            print::line(format_args!(
                "pointing game: {} of {}; mean energy inside the boxes {:.2} (map enlarged to the \
                 input, over {seen})",
                self.hits,
                self.pointed,
                self.energy / self.pointed as f32
            ));
        }
        if self.measured > 1 {
            let count = self.measured as f32;
            print::line(format_args!(
                "mean of {} images: insertion {:.3}, deletion {:.3}, average drop {:.3}",
                self.measured,
                self.insertion / count,
                self.deletion / count,
                self.drop / count
            ));
        }
    }
}
