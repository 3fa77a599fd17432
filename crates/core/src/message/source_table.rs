//! The table of a change, as its source names it.

use super::raw_message::RawMessage;
use crate::Reject;
use crate::SqlState;
use crate::json::object::{Object, required};
use std::borrow::Cow;

/// Stands for the database in messages of Sequin releases that did not name it.
pub(super) const UNKNOWN_DATABASE: &str = "unknown";

/// PostgreSQL's names end at 63 bytes; these are indexed, where an entry holds at most about 2,700.
const LONGEST_NAME: usize = 500;

/// Which table of which database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceTable<'a> {
    pub database_id: Cow<'a, str>,
    pub database_name: Option<Cow<'a, str>>,
    pub schema: Cow<'a, str>,
    pub name: Cow<'a, str>,
}

impl<'a> SourceTable<'a> {
    /// Of a message that may be no change otherwise.
    pub fn of(message: RawMessage<'a>) -> Option<Self> {
        let mut metadata = Object::parse(message.text)?.object("metadata").ok()??;
        Self::parse(&mut metadata).ok()
    }

    /// By its id or its name.
    pub fn names_database(&self) -> bool {
        self.database_id != UNKNOWN_DATABASE || self.database_name.is_some()
    }

    pub(super) fn parse(metadata: &mut Object<'a>) -> Result<Self, Reject> {
        let (mut database_id, mut database_name) = (None, None);
        if let Some(database) = metadata.object("database")? {
            database_id = name(&database, "id")?;
            database_name = name(&database, "name")?;
        }
        if database_name.is_none() {
            database_name = name(metadata, "database_name")?;
        }
        Ok(Self {
            database_id: database_id.unwrap_or(Cow::Borrowed(UNKNOWN_DATABASE)),
            database_name,
            schema: required(name(metadata, "table_schema")?, "table_schema")?,
            name: required(name(metadata, "table_name")?, "table_name")?,
        })
    }
}

/// An empty name is none.
fn name<'a>(object: &Object<'a>, key: &'static str) -> Result<Option<Cow<'a, str>>, Reject> {
    match object.string(key)?.filter(|name| !name.is_empty()) {
        Some(name) if name.len() > LONGEST_NAME => {
            Err(Reject::new(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("\"{key}\" is longer than {LONGEST_NAME} bytes")))
        }
        name => Ok(name),
    }
}
