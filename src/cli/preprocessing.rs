//! The preprocessing flags, the same for every command that reads photographs.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::CliError;
use crate::backbones::{Description, PreprocessingChoice};
use crate::terminal::{fraction, triple};
use crate::vision::{ChannelOrder, Preprocessing, Preset, ResizePolicy, UnknownName};

/// The heading of these flags. Not `next_help_heading`, under which clap would put the flags of the
/// command that come after them, too.
const HEADING: &str = "Preprocessing (default: the backbone's own)";

/// What is said of the preprocessing; the backbone's own stands for the rest.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PreprocessingFlags {
    /// A well-known normalisation.
    #[arg(long, help_heading = HEADING, value_parser = one_of::<Preset>(Preset::ALL.iter().map(|one| one.name())))]
    preset: Option<Preset>,
    /// How a photograph fills the square; crop takes the centre, the shorter side being S/0.875.
    #[arg(long, help_heading = HEADING, value_parser = one_of::<ResizePolicy>(ResizePolicy::ALL.iter().map(|one| one.name())))]
    resize: Option<ResizePolicy>,
    /// Order of the channels.
    #[arg(long, help_heading = HEADING, value_parser = one_of::<ChannelOrder>(ChannelOrder::ALL.iter().map(|one| one.name())))]
    channels: Option<ChannelOrder>,
    /// Factor on pixels of 0 to 255, a number or a fraction such as 1/255.
    #[arg(long, help_heading = HEADING, value_parser = fraction)]
    scale: Option<f32>,
    /// Taken off after scaling, in the model's channel order: R,G,B or one number for all.
    #[arg(long, help_heading = HEADING, value_parser = triple, allow_hyphen_values = true)]
    mean: Option<[f32; 3]>,
    /// Divided by after that, in the model's channel order: R,G,B or one number for all.
    #[arg(long, help_heading = HEADING, value_parser = triple)]
    std: Option<[f32; 3]>,
    /// Side of the square input in pixels, for networks that leave it open.
    #[arg(long, help_heading = HEADING)]
    size: Option<u32>,
    /// A TOML file with these and other parts of a backbone.toml.
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
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

/// For clap: one of `names`, which help and completions then show.
fn one_of<T>(names: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = UnknownName> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}
