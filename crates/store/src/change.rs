//! Records as the rest of the agent sees them, and changes to them as plain values.
//!
//! Everything that can fail in a record's own code (serializing, parsing) happens here, on the caller's task; the
//! database's thread handles text only.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};

/// A value that the database keeps, as JSON under a key that is unique in its table.
///
/// Stored types are kept apart from live ones: they change only together with their version.
pub trait Record: Serialize + DeserializeOwned + Send + 'static {
    /// The table's name; unique among all record types, and never reused for another.
    const TABLE: &'static str;
    /// The version of the JSON shape; rows with any other are quarantined when they are loaded.
    const VERSION: u32;

    /// The key of this record in its table.
    fn key(&self) -> String;
}

/// Writes and deletions that happen together, in the order given, or not at all.
#[derive(Debug, Default)]
pub struct Change {
    pub(crate) rows: Vec<Row>,
}

/// One row's part of a change.
#[derive(Debug)]
pub(crate) enum Row {
    Put { table: &'static str, key: String, version: u32, body: String },
    Delete { table: &'static str, key: String },
}

/// All records of one type, and what could not be read as one.
#[derive(Debug)]
pub struct Loaded<R> {
    /// The records, in the order of their keys.
    pub records: Vec<R>,
    /// Rows that are none: a load has moved them to the `quarantine` table, a peek has left them where they are.
    pub quarantined: Vec<Quarantined>,
}

/// A row that was set aside because it could not be understood; its text is kept in the `quarantine` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The table that the row was in.
    pub table: &'static str,
    /// Its key.
    pub key: String,
    /// The version that it was written with.
    pub version: u32,
    /// Why it could not be read.
    pub reason: String,
    /// Its key as it is, which need not be text.
    pub(crate) raw_key: Vec<u8>,
}

/// A row in the `quarantine` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The table that it was in.
    pub table: String,
    /// Its key there.
    pub key: String,
    /// What was in it, as far as it is text.
    pub text: String,
    /// Why it could not be read.
    pub reason: String,
}

/// A row as it lies in the database, which somebody else may have written.
#[derive(Debug)]
pub(crate) struct StoredRow {
    pub(crate) key: String,
    pub(crate) raw_key: Vec<u8>,
    /// `None` for what is no version.
    pub(crate) version: Option<u32>,
    /// `None` for what is no text.
    pub(crate) body: Option<String>,
}

impl Change {
    /// A change that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the record, replacing the one with its key.
    pub fn put<R: Record>(mut self, record: &R) -> Result<Self> {
        let key = record.key();
        match serde_json::to_string(record) {
            Ok(body) => self.rows.push(Row::Put { table: R::TABLE, key, version: R::VERSION, body }),
            Err(source) => {
                return Err(Error::Encode { table: R::TABLE, key, source });
            }
        }
        Ok(self)
    }

    /// Deletes the record with the key; one that does not exist is deleted already.
    pub fn delete<R: Record>(mut self, key: impl Into<String>) -> Self {
        self.rows.push(Row::Delete { table: R::TABLE, key: key.into() });
        self
    }
}

impl StoredRow {
    /// The record in this row, or why there is none.
    pub(crate) fn parse<R: Record>(&self) -> std::result::Result<R, Quarantined> {
        let parsed = match (self.version, &self.body) {
            (Some(version), Some(body)) if version == R::VERSION => {
                serde_json::from_str::<R>(body).map_err(|error| error.to_string())
            }
            (Some(version), Some(_)) => {
                Err(format!("version {version} is not {}, the one known", R::VERSION))
            }
            (_, None) => Err("it is no text".to_owned()),
            (None, _) => Err("its version is no number".to_owned()),
        };
        let agreeing = parsed.and_then(|record| match record.key() == self.key {
            true => Ok(record),
            false => Err(format!("it is the record of {}", record.key())),
        });
        agreeing.map_err(|reason| Quarantined {
            table: R::TABLE,
            key: self.key.clone(),
            version: self.version.unwrap_or_default(),
            reason,
            raw_key: self.raw_key.clone(),
        })
    }
}
