//! Which change a message tells of. Equal identity and commit time: delivered before.

use super::change::{Action, Change};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The first 128 bits of a SHA-256. The commit time stands beside it in the unique key.
pub type Identity = [u8; 16];

/// Hashes fields with their lengths, so that no two lists of fields run together.
#[derive(Default)]
struct Fields(Sha256);

impl Fields {
    fn add(mut self, field: &str) -> Self {
        self.0.update((field.len() as u64).to_le_bytes());
        self.0.update(field);
        self
    }

    fn identity(self) -> Identity {
        let mut identity = [0; 16];
        identity.copy_from_slice(&self.0.finalize()[..16]);
        identity
    }
}

impl Change<'_> {
    /// Database, table and idempotency key: neither of two databases, nor two tables, share a change.
    /// For a `read` also the record key and the image, by the digest that PostgreSQL took of it as
    /// `jsonb`: a whole backfill can have one key (Sequin's keys are described in the README).
    pub fn identity(&self, image_digest: Option<&str>) -> Identity {
        let fields = self.located(Fields::default());
        match self.action {
            Action::Read => self.keyed(fields).add(image_digest.unwrap_or_default()).identity(),
            _ => fields.identity(),
        }
    }

    /// Identity of this change as a reject: what makes it different from the change that it may
    /// be in conflict with belongs to it.
    pub fn reject_digest(&self) -> Identity {
        let fields = self
            .located(Fields::default().add("change"))
            .add(&self.commit_microseconds.to_string())
            .add(self.action.as_str())
            .add(&format!("{:?}", (self.commit_lsn, self.commit_idx)));
        let fields = self.keyed(fields);
        match self.action {
            Action::Read => fields.add(self.new_values.unwrap_or_default()).identity(),
            _ => fields.identity(),
        }
    }

    /// Same action, position and record: not a conflict. A message without `record_pks` contradicts nothing, and
    /// the position of a read is not known.
    pub fn agrees_with(&self, other: &Change) -> bool {
        self.action == other.action
            && (self.action == Action::Read
                || (self.commit_lsn, self.commit_idx) == (other.commit_lsn, other.commit_idx))
            && match (&self.key, &other.key) {
                (Some(one), Some(two)) => one.without_empty().eq(two.without_empty()),
                _ => true,
            }
    }

    fn located(&self, fields: Fields) -> Fields {
        let table = &self.table;
        fields.add(&table.database_id).add(&table.schema).add(&table.name).add(&self.idempotency_key)
    }

    fn keyed(&self, fields: Fields) -> Fields {
        let key = self.key.iter().flat_map(|key| key.without_empty());
        key.fold(fields, Fields::add).add("")
    }
}

/// Identity of a message that could not be understood.
pub fn text_digest(text: &str) -> Identity {
    Fields::default().add("text").add(text).identity()
}

pub fn hex_digest(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
