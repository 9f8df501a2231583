//! The preprocessing flags, the same for every command that reads photographs.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::CliError;
use crate::backbones::{Description, PreprocessingChoice};
use crate::vision::{ChannelOrder, Preprocessing, Preset, ResizePolicy};

/// What is said of the preprocessing; the backbone's own stands for the rest.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Preprocessing (default: the backbone's own)")]
pub(crate) struct PreprocessingFlags {
    /// A well-known normalisation: imagenet, tf, caffe or unit.
    #[arg(long)]
    preset: Option<Preset>,
    /// How a photograph fills the square: crop (shorter side S/0.875, centre), squash or pad.
    #[arg(long)]
    resize: Option<ResizePolicy>,
    /// Order of the channels: rgb, bgr or gray.
    #[arg(long)]
    channels: Option<ChannelOrder>,
    /// Factor on pixels of 0 to 255, a number or a fraction such as 1/255.
    #[arg(long, value_parser = fraction)]
    scale: Option<f32>,
    /// Taken off after scaling, in the model's channel order: R,G,B or one number for all.
    #[arg(long, value_parser = triple, allow_hyphen_values = true)]
    mean: Option<[f32; 3]>,
    /// Divided by after that, in the model's channel order: R,G,B or one number for all.
    #[arg(long, value_parser = triple)]
    std: Option<[f32; 3]>,
    /// Side of the square input in pixels, for networks that leave it open.
    #[arg(long)]
    size: Option<u32>,
    /// A TOML file with these and other parts of a backbone.toml.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl PreprocessingFlags {
    /// The manifest file, where one is named.
    pub(crate) fn description(&self) -> Result<Description, CliError> {
        Ok(self.manifest.as_deref().map(Description::read).transpose()?.unwrap_or_default())
    }

    /// What flags and manifest file choose together; flags first.
    pub(crate) fn choice(&self) -> Result<PreprocessingChoice, CliError> {
        let flags = PreprocessingChoice {
            preset: self.preset,
            size: self.size,
            resize: self.resize,
            channels: self.channels,
            scale: self.scale,
            mean: self.mean,
            std: self.std,
        };
        Ok(flags.or(self.description()?.preprocessing))
    }

    /// The backbone's own preprocessing with what is chosen here put over it.
    pub(crate) fn over(&self, own: &Preprocessing) -> Result<Preprocessing, CliError> {
        let chosen = self.choice()?.or(PreprocessingChoice::all_of(own)).resolve(None)?;
        if chosen.size == own.size {
            Ok(chosen)
        } else {
            let (asked, fixed) = (chosen.size, own.size);
            Err(CliError::Other(format!(
                "--size {asked}: the backbone was added with an input of {fixed} x {fixed}"
            )))
        }
    }
}

fn fraction(text: &str) -> Result<f32, String> {
    let number =
        |part: &str| f32::from_str(part.trim()).map_err(|_| format!("{text:?} is no number"));
    match text.split_once('/') {
        Some((above, below)) => Ok(number(above)? / number(below)?),
        None => number(text),
    }
}

fn triple(text: &str) -> Result<[f32; 3], String> {
    let parts = text.split(',').map(fraction).collect::<Result<Vec<_>, _>>()?;
    match parts.as_slice() {
        [all] => Ok([*all; 3]),
        [first, second, third] => Ok([*first, *second, *third]),
        _ => Err(format!("{text:?} has {} numbers, not 1 or 3", parts.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_and_triples_are_read_and_nonsense_is_not() {
        assert_eq!(fraction("1/255"), Ok(1.0 / 255.0));
        assert_eq!(triple("104, 117,123"), Ok([104.0, 117.0, 123.0]));
        assert_eq!(triple("0.5"), Ok([0.5; 3]));
        assert!(triple("1,2").is_err() && triple("a").is_err() && fraction("").is_err());
    }
}
