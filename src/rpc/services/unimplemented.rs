//! Services of the contract whose work is yet to come: every method answers UNIMPLEMENTED.

use crate::proto::graft::explanation_service_server::ExplanationService;
use crate::proto::graft::head_service_server::HeadService;
use crate::proto::graft::sample_service_server::SampleService;
use crate::proto::graft::training_service_server::TrainingService;

/// Stands for a service until it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unimplemented;

impl ExplanationService for Unimplemented {}
impl SampleService for Unimplemented {}
impl TrainingService for Unimplemented {}
impl HeadService for Unimplemented {}
