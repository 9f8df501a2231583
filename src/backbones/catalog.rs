//! What can be downloaded.

use std::path::Path;

use serde::Deserialize;

use super::{BackboneError, Labels, PreprocessingChoice, as_text};
use crate::base::digest::Digest;
use crate::base::name::Name;

/// The list of downloadable backbones; `models/catalog.toml` is the one that graftd knows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Addresses before an entry's `path`, in the order in which they are tried.
    mirrors: Vec<String>,
    #[serde(rename = "backbone")]
    entries: Vec<CatalogEntry>,
}

/// One downloadable backbone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogEntry {
    /// Its id on the device unless told otherwise.
    #[serde(with = "as_text")]
    pub id: Name,
    /// Its name for people.
    pub name: String,
    /// Where it lies below a mirror.
    pub path: String,
    /// SHA-256 of the ONNX file: decides whether a download is accepted.
    #[serde(with = "as_text")]
    pub sha256: Digest,
    /// Size of the ONNX file.
    pub size_bytes: u64,
    /// Licence of the weights, an SPDX expression.
    pub licence: String,
    /// Name of a labels file in `models/labels`.
    labels: LabelSet,
    /// How a photograph becomes its input.
    pub preprocessing: PreprocessingChoice,
    /// Whether its file was fetched and seen to answer rightly when the list was written.
    pub verified: bool,
}

/// The labels files that come with graftd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LabelSet {
    Imagenet,
    ImagenetDevkit,
}

impl Catalog {
    /// The catalogue that graftd was built with.
    ///
    /// # Errors
    /// None in a build whose tests passed.
    pub fn built_in() -> Result<Self, BackboneError> {
        Self::parse("the built-in catalogue", include_str!("../../models/catalog.toml"))
    }

    /// Reads a catalogue from a file.
    ///
    /// # Errors
    /// A file that cannot be read or is not a catalogue.
    pub fn read(path: &Path) -> Result<Self, BackboneError> {
        let text = std::fs::read_to_string(path).map_err(BackboneError::io(path))?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads a catalogue; `origin` names it in errors.
    ///
    /// # Errors
    /// Text that is not a catalogue.
    pub fn parse(origin: &str, text: &str) -> Result<Self, BackboneError> {
        let fault = |reason: String| BackboneError::Manifest { origin: origin.to_owned(), reason };
        let catalog: Self = toml::from_str(text).map_err(|error| fault(error.to_string()))?;
        for entry in &catalog.entries {
            entry
                .preprocessing
                .resolve(None)
                .map_err(|error| fault(format!("backbone {}: {error}", entry.id)))?;
        }
        Ok(catalog)
    }

    /// All entries, in the order of the file.
    pub fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    /// The entry `id`.
    ///
    /// # Errors
    /// [`BackboneError::NotInCatalog`].
    pub fn get(&self, id: &Name) -> Result<&CatalogEntry, BackboneError> {
        let entry = self.entries.iter().find(|entry| entry.id == *id);
        entry.ok_or_else(|| BackboneError::NotInCatalog(id.clone()))
    }

    /// Where to download an entry, in the order in which to try.
    pub fn addresses(&self, entry: &CatalogEntry) -> Vec<String> {
        self.mirrors.iter().map(|mirror| format!("{mirror}{}", entry.path)).collect()
    }
}

impl CatalogEntry {
    /// The text of its labels file.
    pub fn labels_text(&self) -> &'static str {
        match self.labels {
            LabelSet::Imagenet => include_str!("../../models/labels/imagenet.txt"),
            LabelSet::ImagenetDevkit => include_str!("../../models/labels/imagenet-devkit.txt"),
        }
    }

    /// Its labels.
    pub fn labels(&self) -> Labels {
        Labels::parse(self.labels_text())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;

    use super::*;
    use crate::vision::ChannelOrder;

    fn catalog() -> Catalog {
        Catalog::built_in().unwrap()
    }

    fn entry(id: &str) -> CatalogEntry {
        catalog().get(&id.parse().unwrap()).unwrap().clone()
    }

    #[test]
    fn every_architecture_that_was_promised_is_there_once_with_a_thousand_labels() {
        let catalog = catalog();
        let ids: Vec<&str> = catalog.entries().iter().map(|entry| entry.id.as_str()).collect();
        for id in [
            "mobilenet-v2",
            "resnet-18-v1",
            "resnet-34-v1",
            "resnet-50-v1",
            "resnet-101-v1",
            "resnet-18-v2",
            "resnet-34-v2",
            "resnet-50-v2",
            "resnet-101-v2",
            "densenet-121",
            "googlenet",
            "inception-v1",
            "inception-v2",
            "squeezenet-1.1",
            "shufflenet-v2",
            "efficientnet-lite4",
            "vgg-16",
            "vgg-19",
            "alexnet",
            "caffenet",
            "zfnet-512",
        ] {
            assert_eq!(ids.iter().filter(|other| **other == id).count(), 1, "{id}");
        }
        for entry in catalog.entries() {
            assert_eq!(entry.labels().len(), 1000, "{}", entry.id);
            assert!(!entry.labels().get(0).id.is_empty());
            let addresses = catalog.addresses(entry);
            assert!(addresses.iter().all(|url| url.starts_with("https://")));
            // The zoo itself stopped serving its large files: the mirror that lives is asked first.
            assert!(addresses[0].starts_with("https://huggingface.co/"), "{addresses:?}");
        }
    }

    #[test]
    fn digests_and_sizes_are_those_of_the_zoo() {
        let assets = std::env::var_os("GRAFTD_ASSETS").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/assets"),
            PathBuf::from,
        );
        let Ok(table) = std::fs::read_to_string(assets.join("onnx_model_zoo_classification.tsv"))
        else {
            println!("skipped: the table of the zoo's checksums is not here");
            return;
        };
        let zoo: HashMap<&str, (&str, &str)> = table
            .lines()
            .filter_map(|line| {
                let mut fields = line.split('\t');
                Some((fields.next()?, (fields.next()?, fields.next()?)))
            })
            .collect();
        for entry in catalog().entries() {
            let (sha256, size) = zoo[entry.path.as_str()];
            assert_eq!(entry.sha256.to_string(), sha256, "{}", entry.id);
            assert_eq!(entry.size_bytes.to_string(), size, "{}", entry.id);
        }
    }

    #[test]
    fn preprocessing_follows_the_origin_of_the_weights() {
        let googlenet = entry("googlenet").preprocessing.resolve(None).unwrap();
        assert_eq!((googlenet.channels, googlenet.mean), (ChannelOrder::Bgr, [104., 117., 123.]));
        let lite = entry("efficientnet-lite4").preprocessing.resolve(None).unwrap();
        let normalised = |pixel: f32| (pixel * lite.scale - lite.mean[0]) / lite.std[0];
        assert!(normalised(127.0).abs() < 1e-6 && (normalised(255.0) - 1.0).abs() < 1e-6);
        let densenet = entry("densenet-121").preprocessing.resolve(None).unwrap();
        assert_eq!(densenet.channels, ChannelOrder::Bgr);
        assert!((103.94_f32 * densenet.scale - densenet.mean[0]).abs() < 1e-5);
    }

    #[test]
    fn the_development_kit_order_holds_the_same_classes_elsewhere() {
        let (sorted, kit) = (entry("inception-v1").labels(), entry("inception-v2").labels());
        for (index, id) in [(79, "n02391049"), (124, "n02099601"), (173, "n02123045")] {
            assert_eq!(kit.get(index).id, id);
        }
        let ids = |labels: &Labels| {
            let mut ids: Vec<String> = (0..1000).map(|index| labels.get(index).id).collect();
            ids.sort();
            ids
        };
        assert_eq!(ids(&kit), ids(&sorted));
    }
}
