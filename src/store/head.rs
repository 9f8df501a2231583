//! Heads: numbered versions of opaque bytes with JSON beside them, one of them active.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Result, StoreError};
use super::open::Store;
use super::writer::{Session, Urgency};
use crate::base::clock::{self, Timestamp};
use crate::base::digest::Digest;
use crate::base::name::Name;

/// Activations that are remembered, which is how far back a head can be rolled.
const ACTIVATIONS: i64 = 32;

/// A version of a head on its way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHeadVersion {
    /// A JSON object: snapshot, options, seed, scores, backbone; the store does not look into it.
    pub metadata: String,
    /// The head itself.
    pub bytes: Vec<u8>,
}

/// A version of a head without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadVersion {
    /// The head.
    pub head: Name,
    /// 1 for the first; never given twice, also after a deletion.
    pub version: u32,
    /// When it was stored.
    pub created_at: Timestamp,
    /// As it was given.
    pub metadata: String,
    /// SHA-256 of the bytes.
    pub sha256: Digest,
    /// Number of bytes.
    pub size: u64,
}

/// A head and what is live of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its name.
    pub name: Name,
    /// When its first version was stored.
    pub created_at: Timestamp,
    /// The active version, if any was ever activated.
    pub active: Option<u32>,
    /// What a rollback returns to.
    pub previous: Option<u32>,
}

impl Store {
    /// Stores the next version of a head, making the head with its first; returns the number.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where the metadata is no JSON.
    pub fn add_head_version(&self, head: &Name, new: NewHeadVersion) -> Result<u32> {
        check_json("metadata", &new.metadata)?;
        let head = head.clone();
        self.write(Urgency::Now, move |session| {
            let connection = session.connection;
            let now = clock::now().0;
            connection.execute(
                "INSERT INTO heads (name, next_version, created_at) VALUES (?1, 1, ?2)
                 ON CONFLICT (name) DO NOTHING",
                params![head.as_str(), now],
            )?;
            let (number, version): (i64, u32) = connection.query_row(
                "UPDATE heads SET next_version = next_version + 1 WHERE name = ?1
                 RETURNING number, next_version - 1",
                [head.as_str()],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            connection.execute(
                "INSERT INTO head_versions (head, version, created_at, metadata, sha256, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![number, version, now, new.metadata, Digest::of(&new.bytes).0, new.bytes],
            )?;
            Ok(version)
        })
    }

    /// All heads by name.
    ///
    /// # Errors
    /// Only the store's own failures.
    pub fn heads(&self) -> Result<Vec<Head>> {
        self.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT number, name, created_at FROM heads ORDER BY name")?;
            let mut rows = statement.query([])?;
            let mut heads = Vec::new();
            while let Some(row) = rows.next()? {
                heads.push(head_from_row(connection, row)?);
            }
            Ok(heads)
        })
    }

    /// One head.
    ///
    /// # Errors
    /// [`StoreError::UnknownHead`].
    pub fn head(&self, head: &Name) -> Result<Head> {
        self.read(|connection| {
            let number = number(connection, head)?;
            let mut statement = connection
                .prepare_cached("SELECT number, name, created_at FROM heads WHERE number = ?1")?;
            let mut rows = statement.query([number])?;
            let row = rows.next()?.ok_or_else(|| StoreError::UnknownHead(head.clone()))?;
            head_from_row(connection, row)
        })
    }

    /// The versions of a head, the oldest first, without their bytes.
    ///
    /// # Errors
    /// [`StoreError::UnknownHead`].
    pub fn head_versions(&self, head: &Name) -> Result<Vec<HeadVersion>> {
        self.read(|connection| {
            let number = number(connection, head)?;
            let mut statement = connection.prepare_cached(
                "SELECT version, created_at, metadata, sha256, length(bytes) FROM head_versions
                 WHERE head = ?1 ORDER BY version",
            )?;
            let mut rows = statement.query([number])?;
            let mut versions = Vec::new();
            while let Some(row) = rows.next()? {
                versions.push(version_from_row(head, row)?);
            }
            Ok(versions)
        })
    }

    /// One version with its bytes, which are compared with their digest.
    ///
    /// # Errors
    /// [`StoreError::UnknownHeadVersion`], [`StoreError::Corrupt`].
    pub fn head_version(&self, head: &Name, version: u32) -> Result<(HeadVersion, Vec<u8>)> {
        self.read(|connection| {
            let number = number(connection, head)?;
            let mut statement = connection.prepare_cached(
                "SELECT version, created_at, metadata, sha256, length(bytes), bytes
                 FROM head_versions WHERE head = ?1 AND version = ?2",
            )?;
            let mut rows = statement.query(params![number, version])?;
            let row = rows.next()?.ok_or_else(|| unknown_version(head, version))?;
            let found = version_from_row(head, row)?;
            let bytes: Vec<u8> = row.get(5)?;
            if Digest::of(&bytes) == found.sha256 {
                Ok((found, bytes))
            } else {
                Err(StoreError::Corrupt(format!("version {version} of head {head}")))
            }
        })
    }

    /// Makes a version the active one.
    ///
    /// # Errors
    /// [`StoreError::UnknownHeadVersion`].
    pub fn activate_head_version(&self, head: &Name, version: u32) -> Result<Head> {
        let head = head.clone();
        self.write(Urgency::Now, move |session| {
            let number = number(session.connection, &head)?;
            activate(session, number, &head, version)?;
            reread(session.connection, number)
        })
    }

    /// Makes a version the active one if `from` still is; tells whether it did.
    ///
    /// # Errors
    /// [`StoreError::UnknownHeadVersion`].
    pub fn replace_active_head_version(
        &self,
        head: &Name,
        from: Option<u32>,
        version: u32,
    ) -> Result<bool> {
        let head = head.clone();
        self.write(Urgency::Now, move |session| {
            let number = number(session.connection, &head)?;
            let unchanged = activations(session.connection, number)?.first().copied() == from;
            if unchanged {
                activate(session, number, &head, version)?;
            }
            Ok(unchanged)
        })
    }

    /// Makes the version active that was so before the present one.
    ///
    /// # Errors
    /// [`StoreError::NothingToRollBack`].
    pub fn roll_back_head(&self, head: &Name) -> Result<Head> {
        let head = head.clone();
        self.write(Urgency::Now, move |session| {
            let number = number(session.connection, &head)?;
            if activations(session.connection, number)?.len() < 2 {
                return Err(StoreError::NothingToRollBack(head));
            }
            session.connection.execute(
                "DELETE FROM activations WHERE number =
                 (SELECT max(number) FROM activations WHERE head = ?1)",
                [number],
            )?;
            reread(session.connection, number)
        })
    }

    /// Deletes a version that is not active.
    ///
    /// # Errors
    /// [`StoreError::UnknownHeadVersion`], [`StoreError::HeadVersionActive`].
    pub fn delete_head_version(&self, head: &Name, version: u32) -> Result<()> {
        self.making_room(|_| {
            let name = head.clone();
            self.write(Urgency::Now, move |session| {
                let number = number(session.connection, &name)?;
                require_version(session, number, &name, version)?;
                if activations(session.connection, number)?.first() == Some(&version) {
                    return Err(StoreError::HeadVersionActive { head: name, version });
                }
                remove_version(session, number, version)
            })
        })?;
        self.erase().map(|_| ())
    }

    /// Deletes the oldest versions until `keep` are left; the active one, the one that a rollback
    /// returns to and those of `others` always stay. Returns the numbers that went.
    ///
    /// # Errors
    /// [`StoreError::UnknownHead`].
    pub fn prune_head_versions(
        &self,
        head: &Name,
        keep: usize,
        others: &[u32],
    ) -> Result<Vec<u32>> {
        let (head, others) = (head.clone(), others.to_vec());
        self.write(Urgency::Now, move |session| {
            let number = number(session.connection, &head)?;
            let versions: Vec<u32> = session
                .connection
                .prepare_cached(
                    "SELECT version FROM head_versions WHERE head = ?1 ORDER BY version",
                )?
                .query_map([number], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let mut stay = activations(session.connection, number)?;
            stay.truncate(2);
            stay.extend(others);
            let excess = versions.len().saturating_sub(keep);
            let gone: Vec<u32> =
                versions.into_iter().filter(|v| !stay.contains(v)).take(excess).collect();
            for version in &gone {
                remove_version(session, number, *version)?;
            }
            Ok(gone)
        })
    }

    /// Deletes these versions, but for the active one and the one that a rollback returns to.
    /// Returns the numbers that went.
    ///
    /// # Errors
    /// [`StoreError::UnknownHead`].
    pub fn thin_head_versions(&self, head: &Name, versions: &[u32]) -> Result<Vec<u32>> {
        let (head, versions) = (head.clone(), versions.to_vec());
        self.write(Urgency::Now, move |session| {
            let number = number(session.connection, &head)?;
            let mut stay = activations(session.connection, number)?;
            stay.truncate(2);
            let gone: Vec<u32> = versions.into_iter().filter(|v| !stay.contains(v)).collect();
            for version in &gone {
                remove_version(session, number, *version)?;
            }
            Ok(gone)
        })
    }

    /// Deletes a head with all its versions.
    ///
    /// # Errors
    /// [`StoreError::UnknownHead`].
    pub fn delete_head(&self, head: &Name) -> Result<()> {
        self.making_room(|_| {
            let name = head.clone();
            self.write(Urgency::Now, move |session| {
                let number = number(session.connection, &name)?;
                session.effects.erase = true;
                session.connection.execute("DELETE FROM heads WHERE number = ?1", [number])?;
                Ok(())
            })
        })?;
        self.erase().map(|_| ())
    }
}

pub(super) fn check_json(field: &str, text: &str) -> Result<()> {
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| StoreError::invalid(field, format!("is not JSON: {error}")))
}

fn number(connection: &Connection, head: &Name) -> Result<i64> {
    connection
        .prepare_cached("SELECT number FROM heads WHERE name = ?1")?
        .query_row([head.as_str()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| StoreError::UnknownHead(head.clone()))
}

/// The latest activations that still have their version, the active one first. A version never
/// stands twice in a row.
fn activations(connection: &Connection, head: i64) -> Result<Vec<u32>> {
    Ok(connection
        .prepare_cached("SELECT version FROM activations WHERE head = ?1 ORDER BY number DESC")?
        .query_map([head], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

fn activate(session: &Session<'_>, number: i64, head: &Name, version: u32) -> Result<()> {
    require_version(session, number, head, version)?;
    if activations(session.connection, number)?.first() == Some(&version) {
        return Ok(());
    }
    session.connection.execute(
        "INSERT INTO activations (head, version, activated_at) VALUES (?1, ?2, ?3)",
        params![number, version, clock::now().0],
    )?;
    session.connection.execute(
        "DELETE FROM activations WHERE head = ?1 AND number NOT IN (
         SELECT number FROM activations WHERE head = ?1 ORDER BY number DESC LIMIT ?2)",
        params![number, ACTIVATIONS],
    )?;
    Ok(())
}

fn require_version(session: &Session<'_>, number: i64, head: &Name, version: u32) -> Result<()> {
    let exists: bool = session
        .connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM head_versions WHERE head = ?1 AND version = ?2)",
        )?
        .query_row(params![number, version], |row| row.get(0))?;
    if exists { Ok(()) } else { Err(unknown_version(head, version)) }
}

fn remove_version(session: &mut Session<'_>, number: i64, version: u32) -> Result<()> {
    let connection = session.connection;
    connection.execute(
        "DELETE FROM head_versions WHERE head = ?1 AND version = ?2",
        params![number, version],
    )?;
    // Without it two equal activations could become neighbours: those collapse into one.
    connection.execute(
        "DELETE FROM activations WHERE head = ?1 AND version = ?2",
        params![number, version],
    )?;
    connection.execute(
        "DELETE FROM activations WHERE head = ?1 AND number IN (
         SELECT number FROM (SELECT number, version, lag(version) OVER (ORDER BY number) AS before
         FROM activations WHERE head = ?1) WHERE version = before)",
        [number],
    )?;
    session.effects.erase = true;
    Ok(())
}

fn reread(connection: &Connection, number: i64) -> Result<Head> {
    let mut statement = connection
        .prepare_cached("SELECT number, name, created_at FROM heads WHERE number = ?1")?;
    let mut rows = statement.query([number])?;
    let row = rows.next()?.ok_or_else(|| StoreError::Corrupt(format!("head row {number}")))?;
    head_from_row(connection, row)
}

fn head_from_row(connection: &Connection, row: &Row<'_>) -> Result<Head> {
    let number: i64 = row.get(0)?;
    let name: String = row.get(1)?;
    let activations = activations(connection, number)?;
    Ok(Head {
        name: name.parse().map_err(|_| StoreError::Corrupt(format!("head row {number}")))?,
        created_at: Timestamp(row.get(2)?),
        active: activations.first().copied(),
        previous: activations.get(1).copied(),
    })
}

fn version_from_row(head: &Name, row: &Row<'_>) -> Result<HeadVersion> {
    Ok(HeadVersion {
        head: head.clone(),
        version: row.get(0)?,
        created_at: Timestamp(row.get(1)?),
        metadata: row.get(2)?,
        sha256: Digest(row.get(3)?),
        size: row.get::<_, i64>(4)?.unsigned_abs(),
    })
}

fn unknown_version(head: &Name, version: u32) -> StoreError {
    StoreError::UnknownHeadVersion { head: head.clone(), version }
}
