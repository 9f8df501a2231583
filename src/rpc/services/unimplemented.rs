//! Services of the contract whose work is yet to come: every method answers UNIMPLEMENTED.

use crate::proto::graft::explanation_service_server::ExplanationService;

/// Stands for a service until it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unimplemented;

impl ExplanationService for Unimplemented {}
