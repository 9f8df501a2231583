//! Records of jobs: what was asked, how far it is, how it ended. They outlive the process.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Result, StoreError};
use super::head::check_json;
use super::open::Store;
use super::writer::Urgency;
use crate::base::clock::{self, Timestamp};

/// Jobs that are remembered; beyond that the oldest finished ones go.
const KEPT: i64 = 1000;

/// A job's number; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waits for its turn.
    Queued,
    /// Works.
    Running,
    /// Did what was asked.
    Succeeded,
    /// Could not; `error` says why.
    Failed,
    /// Was told to stop.
    Cancelled,
    /// The process ended under it; it can be started again from its request.
    Interrupted,
}

const STATES: [(JobState, &str); 6] = [
    (JobState::Queued, "queued"),
    (JobState::Running, "running"),
    (JobState::Succeeded, "succeeded"),
    (JobState::Failed, "failed"),
    (JobState::Cancelled, "cancelled"),
    (JobState::Interrupted, "interrupted"),
];

impl JobState {
    /// Whether nothing more will happen to the job.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    fn to_text(self) -> &'static str {
        STATES.iter().find(|(state, _)| *state == self).map_or("failed", |(_, text)| text)
    }
}

/// A job on its way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// For example `training`.
    pub kind: String,
    /// What was asked, as a JSON object.
    pub request: String,
}

/// What is to be noted about a job; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobUpdate {
    /// Where it stands; a final state also notes the time.
    pub state: Option<JobState>,
    /// How far it is, as JSON.
    pub progress: Option<String>,
    /// What came out, as JSON.
    pub report: Option<String>,
    /// Why it failed, for people.
    pub error: Option<String>,
}

/// A job as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// For example `training`.
    pub kind: String,
    /// Where it stands.
    pub state: JobState,
    /// What was asked, as JSON.
    pub request: String,
    /// How far it came, as JSON.
    pub progress: Option<String>,
    /// What came out, as JSON.
    pub report: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it began to run.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

const COLUMNS: &str =
    "number, kind, state, request, progress, report, error, created_at, started_at, finished_at";

impl Store {
    /// Records a job as queued.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where the request is no JSON.
    pub fn add_job(&self, new: NewJob) -> Result<Job> {
        check_json("request", &new.request)?;
        self.write(Urgency::Now, move |session| {
            session.connection.execute(
                "INSERT INTO jobs (kind, state, request, created_at) VALUES (?1, ?2, ?3, ?4)",
                params![new.kind, JobState::Queued.to_text(), new.request, clock::now().0],
            )?;
            let number = session.connection.last_insert_rowid();
            session.connection.execute(
                "DELETE FROM jobs WHERE number <= ?1 AND state NOT IN ('queued', 'running')",
                [number - KEPT],
            )?;
            find(session.connection, JobId(number.unsigned_abs()))
        })
    }

    /// Notes what became of a job.
    ///
    /// # Errors
    /// [`StoreError::UnknownJob`].
    pub fn update_job(&self, id: JobId, update: JobUpdate) -> Result<Job> {
        for (field, json) in [("progress", &update.progress), ("report", &update.report)] {
            json.as_ref().map_or(Ok(()), |json| check_json(field, json))?;
        }
        // Progress alone may share a COMMIT; a change of state is wanted at once.
        let urgency = if update.state.is_some() { Urgency::Now } else { Urgency::Batch };
        self.write(urgency, move |session| {
            let started = update.state == Some(JobState::Running);
            let finished = update.state.is_some_and(JobState::is_final);
            session
                .connection
                .prepare_cached(
                    "UPDATE jobs SET state = coalesce(?2, state), progress = coalesce(?3, progress),
                     report = coalesce(?4, report), error = coalesce(?5, error),
                     started_at = CASE WHEN ?6 THEN ?8 ELSE started_at END,
                     finished_at = CASE WHEN ?7 THEN ?8 ELSE finished_at END WHERE number = ?1",
                )?
                .execute(params![
                    id.0 as i64,
                    update.state.map(JobState::to_text),
                    update.progress,
                    update.report,
                    update.error,
                    started,
                    finished,
                    clock::now().0,
                ])?;
            find(session.connection, id)
        })
    }

    /// One job.
    ///
    /// # Errors
    /// [`StoreError::UnknownJob`].
    pub fn job(&self, id: JobId) -> Result<Job> {
        self.read(|connection| find(connection, id))
    }

    /// Up to `limit` jobs, the latest first, all older than `before` where that is given.
    ///
    /// # Errors
    /// Only the store's own failures.
    pub fn jobs(&self, before: Option<JobId>, limit: usize) -> Result<Vec<Job>> {
        let before = before.map_or(i64::MAX, |id| i64::try_from(id.0).unwrap_or(i64::MAX));
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM jobs WHERE number < ?1 ORDER BY number DESC LIMIT ?2"
            ))?;
            let mut rows = statement.query(params![before, limit as i64])?;
            let mut jobs = Vec::new();
            while let Some(row) = rows.next()? {
                jobs.push(from_row(row)?);
            }
            Ok(jobs)
        })
    }
}

/// At opening: what says that it runs was left by a process that is no more.
pub(super) fn mark_interrupted(connection: &Connection) -> Result<()> {
    connection.execute(
        "UPDATE jobs SET state = 'interrupted', finished_at = ?1
         WHERE state IN ('queued', 'running')",
        [clock::now().0],
    )?;
    Ok(())
}

fn find(connection: &Connection, id: JobId) -> Result<Job> {
    let number = i64::try_from(id.0).map_err(|_| StoreError::UnknownJob(id))?;
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE number = ?1"))?
        .query_row([number], |row| Ok(from_row(row)))
        .optional()?
        .unwrap_or(Err(StoreError::UnknownJob(id)))
}

fn from_row(row: &Row<'_>) -> Result<Job> {
    let number: i64 = row.get(0)?;
    let state: String = row.get(2)?;
    Ok(Job {
        id: JobId(number.unsigned_abs()),
        kind: row.get(1)?,
        state: STATES
            .iter()
            .find(|(_, text)| *text == state)
            .map(|(state, _)| *state)
            .ok_or_else(|| StoreError::Corrupt(format!("state of job {number}")))?,
        request: row.get(3)?,
        progress: row.get(4)?,
        report: row.get(5)?,
        error: row.get(6)?,
        created_at: Timestamp(row.get(7)?),
        started_at: row.get::<_, Option<i64>>(8)?.map(Timestamp),
        finished_at: row.get::<_, Option<i64>>(9)?.map(Timestamp),
    })
}
