//! What is loaded: a backbone ready to run, a head ready to answer.

use std::sync::{Arc, Mutex, PoisonError};

use super::EngineError;
use crate::backbones::{
    Abilities, BUILT_IN, Backbone, BackboneError, Labels, abilities, built_in_preprocessing,
    load_built_in,
};
use crate::base::clock::Timestamp;
use crate::base::digest::{Digest, Hasher};
use crate::base::name::{InvalidName, Name};
use crate::graph::{self, Network, Part, Tensor};
use crate::heads::{Head, Provenance};
use crate::vision::Preprocessing;

/// Where a backbone came from; decides what answers a request that names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Part of graftd.
    BuiltIn,
    /// Added or pulled by the user, at this time.
    Added(Timestamp),
}

/// A backbone that is loaded.
#[derive(Debug)]
pub struct LiveBackbone {
    /// Its name.
    pub name: Name,
    /// Where it came from.
    pub origin: Origin,
    /// How it wants its photographs.
    pub preprocessing: Preprocessing,
    /// Labels of its own classifier.
    pub labels: Labels,
    /// The network.
    pub network: Network,
    abilities: Mutex<Option<Arc<[Abilities]>>>,
}

/// A version of a head that is loaded. Requests that began with it finish with it.
#[derive(Debug)]
pub struct LiveHead {
    /// The head's name.
    pub name: Name,
    /// The version, from 1.
    pub version: u32,
    /// The backbone whose embedding it takes.
    pub backbone: Name,
    /// The classifier.
    pub head: Head,
}

/// Where the versions of heads lie that are not kept in memory.
pub trait HeadSource: std::fmt::Debug + Send + Sync {
    /// A version, from memory or from the device.
    ///
    /// # Errors
    /// [`EngineError::HeadFile`].
    fn fetch(&self, name: &Name, version: u32) -> Result<Arc<LiveHead>, EngineError>;

    /// Drops what is kept in memory of a head: its numbers may come to mean others.
    fn forget(&self, name: &Name);
}

/// A version of a head that can answer: in memory, or fetched when somebody asks for it.
#[derive(Clone, Debug)]
pub struct HeadHandle {
    /// The backbone whose embedding it takes.
    pub backbone: Name,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Memory(Arc<LiveHead>),
    Device(Arc<dyn HeadSource>),
}

impl HeadHandle {
    /// A version that stays in memory.
    pub fn in_memory(head: Arc<LiveHead>) -> Self {
        Self { backbone: head.backbone.clone(), place: Place::Memory(head) }
    }

    /// A version that is fetched when it is asked for.
    pub fn on_device(backbone: Name, source: Arc<dyn HeadSource>) -> Self {
        Self { backbone, place: Place::Device(source) }
    }

    /// The head, which is version `version` of `name`.
    ///
    /// # Errors
    /// [`EngineError::HeadFile`] where it cannot be read.
    pub fn get(&self, name: &Name, version: u32) -> Result<Arc<LiveHead>, EngineError> {
        match &self.place {
            Place::Memory(head) => Ok(Arc::clone(head)),
            Place::Device(source) => source.fetch(name, version),
        }
    }

    /// The head, if it stays in memory.
    pub fn memory(&self) -> Option<&Arc<LiveHead>> {
        match &self.place {
            Place::Memory(head) => Some(head),
            Place::Device(_) => None,
        }
    }
}

/// What a backbone computed of one image.
#[derive(Debug)]
pub struct Forward {
    outputs: Vec<Tensor>,
    has_map: bool,
}

impl LiveBackbone {
    /// A network as the backbone `name`.
    pub fn new(
        name: Name,
        origin: Origin,
        preprocessing: Preprocessing,
        labels: Labels,
        network: Network,
    ) -> Self {
        Self { name, origin, preprocessing, labels, network, abilities: Mutex::default() }
    }

    /// Loads the backbone that is part of the program.
    ///
    /// # Errors
    /// None in a build that passed its tests.
    pub fn built_in() -> Result<Self, BackboneError> {
        let network = load_built_in()?;
        let unfit = |error: InvalidName| BackboneError::Mismatch(error.to_string());
        let name = BUILT_IN.parse().map_err(unfit)?;
        let preprocessing = built_in_preprocessing();
        Ok(Self::new(name, Origin::BuiltIn, preprocessing, Labels::default(), network))
    }

    /// Loads a backbone of the state folder.
    ///
    /// # Errors
    /// What is wrong with its files.
    pub fn installed(backbone: &Backbone) -> Result<Self, BackboneError> {
        let labels = backbone.labels()?;
        let network = backbone.load()?;
        let origin = Origin::Added(backbone.manifest.added_at);
        let preprocessing = backbone.manifest.preprocessing;
        Ok(Self::new(backbone.id.clone(), origin, preprocessing, labels, network))
    }

    /// What can be asked of each layer, in the order of [`Network::layers`]. Found out once, by the
    /// first who asks, since it takes the network's file and tens of megabytes; others wait for that.
    ///
    /// # Errors
    /// See [`abilities`]; the next who asks tries again.
    pub fn abilities(&self) -> Result<Arc<[Abilities]>, BackboneError> {
        let mut known = self.abilities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(Arc::clone(known));
        }
        let found: Arc<[Abilities]> = abilities(&self.network)?.into();
        Ok(Arc::clone(known.insert(found)))
    }

    /// Runs the network on an input tensor.
    ///
    /// # Errors
    /// A tensor of another length, a failure inside the network, or an answer that is no number.
    pub fn forward(&self, input: &[f32]) -> Result<Forward, EngineError> {
        let outputs = self.network.run(input)?;
        let has_map = self.network.parts().contains(&Part::FeatureMap);
        Ok(Forward { outputs, has_map })
    }

    /// Names the embeddings that this backbone makes: another file or another preprocessing makes
    /// others, which must not be mixed with them.
    pub fn embedding_key(&self) -> Digest {
        let Preprocessing { size, resize, channels, scale, mean, std } = self.preprocessing;
        let mut hasher = Hasher::default();
        hasher.update(&self.network.digest().0);
        // Of the same file another tensor may be taken.
        let graph::Overrides { logits, embedding, no_classifier, .. } = self.network.overrides();
        if self.origin != Origin::BuiltIn
            && (logits.is_some() || embedding.is_some() || *no_classifier)
        {
            hasher.update(self.network.embedding().tensor.as_bytes());
            hasher.update(self.network.embedding().pooled_from.as_deref().unwrap_or("").as_bytes());
        }
        hasher.update(&size.to_le_bytes());
        hasher.update(resize.name().as_bytes());
        hasher.update(channels.name().as_bytes());
        for value in [scale].into_iter().chain(mean).chain(std) {
            hasher.update(&value.to_le_bytes());
        }
        hasher.finish()
    }

    /// Whether this makes the embeddings that `head` was trained on, as far as the head remembers.
    pub fn suits(&self, head: &Head) -> bool {
        let Provenance { backbone_sha256, embeddings, .. } = head.provenance();
        let is = |known: &str, own: Digest| known.is_empty() || known == own.to_string();
        is(backbone_sha256, self.network.digest())
            && is(embeddings, self.embedding_key())
            && head.width() == self.network.embedding().width
    }

    /// Checks that `head` was trained on what this makes of a picture.
    ///
    /// # Errors
    /// [`EngineError::OtherBackbone`].
    pub fn check_head(&self, head: &LiveHead) -> Result<(), EngineError> {
        if self.suits(&head.head) {
            return Ok(());
        }
        let (head, backbone) = (head.name.to_string(), self.name.to_string());
        Err(EngineError::OtherBackbone { head, backbone })
    }
}

impl Forward {
    /// Embedding and logits alone, without a feature map.
    pub(super) fn of_classifier(outputs: [Tensor; 2]) -> Self {
        Self { outputs: outputs.into(), has_map: false }
    }

    /// The vector that enters the classifier.
    pub fn embedding(&self) -> &[f32] {
        self.outputs.first().map_or(&[], Tensor::values)
    }

    /// The backbone's own logits.
    pub fn logits(&self) -> &[f32] {
        self.outputs.get(1).map_or(&[], Tensor::values)
    }

    /// The last spatial layer, where there is one.
    pub fn feature_map(&self) -> Option<&Tensor> {
        self.outputs.get(2).filter(|_| self.has_map)
    }
}

/// What answers a request: a backbone, and a head on it unless its own classifier does.
#[derive(Clone, Debug)]
pub struct Answerer {
    /// The backbone that runs.
    pub backbone: Arc<LiveBackbone>,
    /// The head that answers; `None` for the backbone's own classifier.
    pub head: Option<Arc<LiveHead>>,
}

impl Answerer {
    /// Labels of all classes, in the classifier's order; empty ones where the backbone has none.
    pub fn labels(&self) -> Vec<String> {
        let Some(live) = &self.head else {
            let classes = self.backbone.network.classifier().map_or(0, |found| found.classes);
            return (0..classes).map(|index| self.backbone.labels.get(index).text).collect();
        };
        live.head.classes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_who_ask_at_once_for_the_abilities_get_what_was_found_out_once() {
        let backbone = LiveBackbone::built_in().unwrap();
        let first = backbone.abilities().unwrap();
        assert_eq!(first.len(), backbone.network.layers().len());
        let backbone = LiveBackbone::built_in().unwrap();
        let found: Vec<_> = std::thread::scope(|scope| {
            let ask = |_| scope.spawn(|| backbone.abilities().unwrap());
            let asking: Vec<_> = (0..24).map(ask).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.iter().all(|one| Arc::ptr_eq(one, &found[0])));
    }
}
