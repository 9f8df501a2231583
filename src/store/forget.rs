//! Forgetting what a backbone made of the samples.

use rusqlite::{OptionalExtension, params};

use super::change::{self, Deletion};
use super::error::Result;
use super::key::SampleKey;
use super::ledger::Backbone;
use super::open::Store;
use super::query;
use super::reserve::Pace;
use super::writer::{Session, Urgency};
use crate::base::digest::Digest;

/// Embeddings deleted in one transaction.
const AT_ONCE: i64 = 500;
/// The same on a full disk.
const AT_ONCE_WHEN_FULL: i64 = 16;

impl Store {
    /// Deletes all embeddings that one backbone made, in every dataset. A sample of which nothing else
    /// is stored goes with its embedding; [`Deletion::removed`] counts embeddings.
    ///
    /// # Errors
    /// Only the store's own failures; what was deleted before one stays deleted.
    pub fn delete_embeddings(&self, backbone: Digest) -> Result<Deletion> {
        let mut total = Deletion { removed: 0, bytes: 0, erased: true };
        let Some(backbone) = self.ledger().backbone(backbone) else { return Ok(total) };
        self.making_room(|pace| {
            let at_once = match pace {
                Pace::Usual => AT_ONCE,
                Pace::Careful => AT_ONCE_WHEN_FULL,
            };
            loop {
                if pace == Pace::Careful {
                    self.erase()?;
                }
                let (removed, bytes) =
                    self.write(Urgency::Now, move |session| some(session, backbone, at_once))?;
                if removed == 0 {
                    return Ok(());
                }
                total.removed += removed;
                total.bytes += bytes;
            }
        })?;
        total.erased = total.removed == 0 || self.erase()?;
        Ok(total)
    }
}

/// Deletes up to `at_once` embeddings; returns how many, and their bytes.
fn some(session: &mut Session<'_>, backbone: Backbone, at_once: i64) -> Result<(u64, u64)> {
    let offset = SampleKey::embedding_offset(backbone.number);
    let connection = session.connection;
    let found: Vec<(i64, i64)> = connection
        .prepare_cached(
            "SELECT key, length(halves) FROM embeddings WHERE key >= ?1 AND key < ?2 LIMIT ?3",
        )?
        .query_map([offset, offset + (1 << 48), at_once], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let (mut removed, mut bytes) = (0, 0);
    for (key, length) in found {
        let sample = query::sound(query::by_key(connection, SampleKey(key - offset)))?.flatten();
        connection.prepare_cached("DELETE FROM embeddings WHERE key = ?1")?.execute([key])?;
        removed += 1;
        bytes += length.unsigned_abs();
        let Some(sample) = sample else { continue };
        if has_more(session, sample.key)? {
            let mut smaller = sample.clone();
            smaller.bytes = smaller.bytes.saturating_sub(length.unsigned_abs());
            change::rewrite(session, &sample, &smaller)?;
        } else {
            change::remove(session, &sample)?;
        }
    }
    session.effects.erase |= removed > 0;
    Ok((removed, bytes))
}

/// Whether a picture or an embedding of the sample is stored.
fn has_more(session: &Session<'_>, key: SampleKey) -> Result<bool> {
    let exists = |sql: &str, key: i64| -> Result<bool> {
        let found: Option<i64> = session
            .connection
            .prepare_cached(sql)?
            .query_row(params![key], |row| row.get(0))
            .optional()?;
        Ok(found.is_some())
    };
    if exists("SELECT 1 FROM images WHERE key = ?1", key.0)? {
        return Ok(true);
    }
    let numbers: Vec<_> = session.ledger().backbones().iter().map(|b| b.number).collect();
    for number in numbers {
        if exists("SELECT 1 FROM embeddings WHERE key = ?1", key.embedding(number))? {
            return Ok(true);
        }
    }
    Ok(false)
}
