//! The work itself, without a daemon: decode, resize, run the network.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use graftd::base::cancel::Cancel;
use graftd::engine::{Answerer, Subject, Timings, classify, prepare};
use graftd::vision::Limits;

use super::{BACKBONE, Error};

/// A network in this process and the photograph for it.
#[derive(Clone)]
pub struct Local {
    by: Answerer,
    jpeg: Bytes,
}

impl Local {
    /// Loads the network of a state folder.
    pub fn load(state: &Path, jpeg: Bytes) -> Result<Self, Error> {
        let backbone = Arc::new(graftd::app::load_backbone(state, Some(BACKBONE))?);
        Ok(Self { by: Answerer { backbone, head: None }, jpeg })
    }

    /// The photograph's bytes.
    pub fn jpeg(&self) -> &Bytes {
        &self.jpeg
    }

    /// The most probable class, on this thread and without a queue.
    pub fn answer(&self) -> Result<usize, Error> {
        let (cancel, mut timings) = (Cancel::default(), Timings::default());
        let subject = Subject::Encoded(self.jpeg.clone());
        let prepared = prepare(&self.by, subject, &Limits::default(), &cancel, &mut timings)?;
        let answer = classify(self.by.clone(), &prepared.tensor, timings)?;
        Ok(answer.top(1).first().ok_or("the network has no classes")?.index)
    }
}
