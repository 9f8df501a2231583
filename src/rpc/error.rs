//! Why a request is not answered, and where in the request that lies.

use std::borrow::Cow;
use std::time::Duration;

use super::convert::field::FieldError;
use crate::engine::learning::LearningError;
use crate::engine::{EngineError, KeeperError};
use crate::store::StoreError;

/// Why a request is not answered.
#[derive(Debug)]
pub enum RpcError {
    /// A field is not as it must be.
    Field(FieldError),
    /// The engine refused or failed.
    Engine(EngineError, Box<Place>),
    /// A backbone cannot be brought in, loaded, unloaded or deleted.
    Keeper(KeeperError),
    /// Samples, training or heads.
    Learning(LearningError, Box<Place>),
    /// As many of these (`backbones`, `heads`) are being uploaded as may be at a time.
    TooManyUploads(&'static str, usize),
    /// The sender of an upload has been silent for this time.
    Silent(Duration),
    /// The sender of an upload brings fewer bytes a second than these.
    Slow(u32),
    /// The answer has more bytes than a message may have.
    AnswerTooLarge {
        /// Bytes of the answer.
        bytes: usize,
        /// The most bytes of a message.
        limit: usize,
    },
    /// Part of the wire contract that this version does not do yet.
    NotYet(&'static str),
}

/// Where the fields stand that layers below the edge complain of without knowing the request.
#[derive(Clone, Debug)]
pub struct Place {
    /// The message that holds them; empty for the request itself.
    parent: String,
    picture: Cow<'static, str>,
    options: &'static str,
}

impl Default for Place {
    fn default() -> Self {
        Self { parent: String::new(), picture: Cow::Borrowed("image"), options: "options" }
    }
}

impl Place {
    /// The path of `field`.
    pub fn field(&self, field: &str) -> String {
        if self.parent.is_empty() { field.to_owned() } else { format!("{}.{field}", self.parent) }
    }

    /// The path of the picture's field.
    pub fn picture(&self) -> String {
        self.field(&self.picture)
    }

    /// The path of `field` in the explanation's options.
    pub fn option(&self, field: &str) -> String {
        self.field(&format!("{}.{field}", self.options))
    }
}

impl RpcError {
    /// The same error where the picture stands in another field than `image`.
    #[must_use]
    pub fn with_picture_at(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        if let Some(place) = self.place() {
            place.picture = path.into();
        }
        self
    }

    /// The same error where the explanation's options stand in another field than `options`.
    #[must_use]
    pub fn with_options_at(mut self, path: &'static str) -> Self {
        if let Some(place) = self.place() {
            place.options = path;
        }
        self
    }

    /// The same error seen from the message that holds the request in its field `parent`.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        if let Self::Field(error) = self {
            return Self::Field(error.within(parent));
        }
        if let Some(place) = self.place() {
            let inner = std::mem::take(&mut place.parent);
            place.parent =
                if inner.is_empty() { parent.to_owned() } else { format!("{parent}.{inner}") };
        }
        self
    }

    fn place(&mut self) -> Option<&mut Place> {
        match self {
            Self::Engine(_, place) | Self::Learning(_, place) => Some(place),
            Self::Field(_)
            | Self::Keeper(_)
            | Self::TooManyUploads(..)
            | Self::Silent(_)
            | Self::Slow(_)
            | Self::AnswerTooLarge { .. }
            | Self::NotYet(_) => None,
        }
    }
}

impl From<FieldError> for RpcError {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

impl From<KeeperError> for RpcError {
    fn from(error: KeeperError) -> Self {
        Self::Keeper(error)
    }
}

impl From<EngineError> for RpcError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error, Box::default())
    }
}

impl From<LearningError> for RpcError {
    fn from(error: LearningError) -> Self {
        #[allow(clippy::wildcard_enum_match_arm)] // the engine's own, and the rest
        match error {
            LearningError::Engine(error) => error.into(),
            error => Self::Learning(error, Box::default()),
        }
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        LearningError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_grow_from_the_message_inside_to_the_request() {
        let error = RpcError::from(EngineError::Cancelled).with_options_at("explain");
        let RpcError::Engine(_, place) = error.within("request").within("item") else { panic!() };
        assert_eq!(place.picture(), "item.request.image");
        assert_eq!(place.option("layers"), "item.request.explain.layers");
        assert_eq!(place.field("labels[0]"), "item.request.labels[0]");
        assert_eq!(Place::default().option("class"), "options.class");
    }
}
