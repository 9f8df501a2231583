//! The rows of one request, run on all workers at once.

use std::collections::VecDeque;
use std::time::Instant;

use super::model::{self, Model};
use super::tensors;
use crate::base::cancel::Cancel;
use crate::engine::{Answer, Embedded, EngineError, Priority, Subject, Ticket};
use crate::rpc::error::RpcError;
use crate::rpc::services::Shared;

/// A row that waits or runs. Dropping it frees its place.
enum Row {
    Answer(Ticket<Result<Answer, EngineError>>, Subject),
    Embedding(Ticket<Result<Embedded, EngineError>>),
}

/// Runs `rows`, which came in `raw_input_contents` if `raw`, on `model` and returns their values by row, then by output of the model.
///
/// All are answered by the answerer of `model`, whatever goes live meanwhile.
///
/// As many rows run as there are workers and one more waits, so that no worker idles between two of
/// them, yet one request never fills the queue. Dropping the future drops the rows that have not run.
///
/// # Errors
/// Of the first row that fails, with its place in the request; the rows after it are dropped.
pub async fn run(
    shared: &Shared,
    model: &Model,
    rows: Vec<Subject>,
    raw: bool,
    deadline: Option<Instant>,
) -> Result<Vec<Vec<Vec<f32>>>, RpcError> {
    let at = |row, error: EngineError| {
        RpcError::from(error).with_picture_at(tensors::picture_field(row, raw))
    };
    let at_once = shared.engine.statistics().workers + 1;
    let count = rows.len();
    let mut rows = rows.into_iter().peekable();
    let mut begun: VecDeque<Row> = VecDeque::with_capacity(at_once);
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        while begun.len() < at_once
            && let Some(row) = rows.peek()
        {
            match begin(shared, model, row.clone(), deadline) {
                Ok(row) => begun.push_back(row),
                // Other callers filled the queue: go on once a row of ours is through.
                Err(EngineError::QueueFull { .. }) if !begun.is_empty() => break,
                Err(error) => return Err(at(values.len() + begun.len(), error)),
            }
            rows.next();
        }
        let Some(first) = begun.pop_front() else { break };
        let row = values.len();
        values.push(first.values(shared).await.map_err(|error| at(row, error))?);
    }
    Ok(values)
}

fn begin(
    shared: &Shared,
    model: &Model,
    row: Subject,
    deadline: Option<Instant>,
) -> Result<Row, EngineError> {
    let (engine, cancel) = (&shared.engine, Cancel::with_deadline(deadline));
    if model.is_extractor() {
        engine.embed_by(Priority::Foreground, model.by.clone(), row, cancel).map(Row::Embedding)
    } else {
        let ticket = engine.predict_by(model.by.clone(), row.clone(), cancel)?;
        Ok(Row::Answer(ticket, row))
    }
}

impl Row {
    /// Its values, in the order of the model's outputs.
    async fn values(self, shared: &Shared) -> Result<Vec<Vec<f32>>, EngineError> {
        let (values, by, inference) = match self {
            Self::Answer(ticket, subject) => {
                let answer = ticket.await??;
                shared.learning.capture(&answer, &subject);
                (model::values(&answer), answer.by, answer.timings.inference)
            }
            Self::Embedding(ticket) => {
                let embedded = ticket.await??;
                (vec![embedded.embedding], embedded.by, embedded.timings.inference)
            }
        };
        shared.meter.answered(&by.backbone.name, inference);
        Ok(values)
    }
}
