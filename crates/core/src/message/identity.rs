//! Which change a message tells of. Equal identity and commit time: delivered before.

use super::action::Action;
use super::change::Change;
use super::digest::{Digest, Fields};
use super::image::Image;
use super::origin::Origin;

/// What the log holds under a change's identity and commit time.
pub struct Logged {
    pub has_same_action: bool,
    pub commit_lsn: Option<i64>,
    pub commit_idx: Option<i32>,
    /// The record key, if the change had one.
    pub key: Option<Vec<String>>,
}

impl Change<'_> {
    /// The origin's space, database, table and idempotency key: neither of two databases, nor two tables, share a
    /// change. For a `read` also the record key and the image, by the digest that PostgreSQL took of it as `jsonb`. A
    /// whole backfill can have one key: docs/sequin.md describes Sequin's keys. Masks, which come and go, change
    /// nothing of it.
    pub fn identity(&self, origin: Origin, image_digest: Option<&str>) -> Digest {
        let came = self.without_masks();
        let fields = came.located(Fields::default().add(origin.space()));
        match self.action {
            Action::Read => came.keyed(fields).add(image_digest.unwrap_or_default()).digest(),
            _ => fields.digest(),
        }
    }

    /// Of this change as a reject: what makes it different from the change that it may be in conflict with belongs
    /// to it.
    pub fn reject_digest(&self) -> Digest {
        let fields = self
            .located(Fields::default().add("change"))
            .add(&self.commit_microseconds.to_string())
            .add(&self.action.label().to_string_lossy())
            .add(&format!("{:?}", (self.commit_lsn, self.commit_idx)));
        let fields = self.keyed(fields);
        match self.action {
            Action::Read => fields.add(self.new_values.and_then(Image::text).unwrap_or_default()).digest(),
            _ => fields.digest(),
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

    /// The same for what the log holds, with masks or without.
    pub fn agrees_with_logged(&self, logged: &Logged) -> bool {
        let has_key = |change: &Self| match (&change.key, &logged.key) {
            (Some(one), Some(two)) => one.without_empty().eq(two.iter().filter(|value| !value.is_empty())),
            _ => true,
        };
        logged.has_same_action
            && (self.action == Action::Read
                || (self.commit_lsn, self.commit_idx) == (logged.commit_lsn, logged.commit_idx))
            && (has_key(self) || has_key(self.without_masks()))
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
