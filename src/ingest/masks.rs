//! Masks at the door. A message of a table that has masks is written anew before anything of it is stored, also before
//! it is set aside.

use crate::here;
use crate::pg::BuiltinOid::TEXTOID;
use crate::pg::{self, BuiltinOid, ErrorReport, Statement};
use audit_core::Reject;
use audit_core::mask::{How, MaskSecret, Masker, TableMasks, hidden_digest, masked_message};
use audit_core::message::{Action, Change, Digest, RawMessage, SourceTable};
use pgrx::prelude::*;
use pgrx::spi::{SpiHeapTupleData, SpiResult};
use std::cell::OnceCell;
use std::collections::BTreeMap;

thread_local! {
    static MASKS: Statement = const { Statement::new(
        "SELECT database_id, table_schema, table_name, masked_column, how, unmasked_at IS NULL, path, masked
         FROM audit_cdc_internal.masks", &[] as &[BuiltinOid]) };
    static KEY_COLUMNS: Statement = const { Statement::new(
        "SELECT key_columns FROM audit_cdc_internal.described_tables
         WHERE database_id = $1 AND table_schema = $2 AND table_name = $3 ORDER BY valid_from DESC LIMIT 1",
        &[TEXTOID, TEXTOID, TEXTOID]) };
    static OWN_KEY_COLUMNS: Statement = const { Statement::new(
        "SELECT array_agg(a.attname::text ORDER BY k.place)
         FROM pg_namespace AS n
         JOIN pg_class AS c ON c.relnamespace = n.oid
         JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
         CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, place)
         JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number
         WHERE $1 IS NOT NULL AND n.nspname = $2 AND c.relname = $3 AND k.place <= i.indnkeyatts
         HAVING count(*) > 0",
        &[TEXTOID, TEXTOID, TEXTOID]) };
}

/// Where texts with masks are kept while a call goes on: by change.
pub type MaskedTexts = OnceCell<Vec<Option<String>>>;

/// What is kept of a text that nobody can tell the table of, where masks are set.
pub const WITHHELD: &str = "(not kept: masks are set, and its table could not be read)";

/// All that were ever set. As of a change they are read once the log is locked: who sets one waits for that lock.
pub struct Masks {
    masks: Vec<Mask>,
    /// `None`: no mask is set, and nobody can read the file.
    secret: Option<MaskSecret>,
}

struct Mask {
    /// `None`: any.
    database_id: Option<String>,
    table: (String, String),
    /// As it was given.
    masked: String,
    column: String,
    /// To the member of it that is masked; empty: the whole column is.
    path: Vec<String>,
    how: How,
    is_set: bool,
}

impl Mask {
    fn is_of(&self, table: &SourceTable) -> bool {
        self.database_id.as_ref().is_none_or(|id| *id == table.database_id)
            && (&*self.table.0, &*self.table.1) == (&*table.schema, &*table.name)
    }
}

impl Masks {
    /// `None`, as nearly always: there never was one.
    pub fn read() -> Option<Self> {
        if pg::never_had_rows(c"masks") {
            return None;
        }
        let masks: Vec<Mask> = MASKS.with(|masks| masks.read(Vec::new, |rows| rows.map(|row| mask(&row)).collect()));
        if masks.is_empty() {
            return None;
        }
        let secret = match pg::mask_secret() {
            Ok(secret) => Some(secret),
            Err(error) if masks.iter().any(|mask| mask.is_set) => lacks_secret(&error),
            Err(_) => None,
        };
        Some(Self { masks, secret })
    }

    /// Puts masks on `changes`. Messages that are no changes with them are given back, with why.
    pub fn put_on<'a>(
        &self,
        changes: &mut Vec<Change<'a>>,
        texts: &'a MaskedTexts,
        was_masked: bool,
    ) -> Vec<(RawMessage<'a>, Reject)> {
        let texts = texts.get_or_init(|| {
            let mut tables = BTreeMap::new();
            let text = |change: &Change<'a>| {
                let masks = tables.entry(change.table.clone()).or_insert_with(|| self.of(&change.table));
                // what could not be written anew would not be a change
                let masks = masks.as_ref()?;
                let key_columns = change.original.key_columns();
                Some(masks.with_key(&change.original.text(), key_columns.as_deref(), was_masked).unwrap_or_default())
            };
            changes.iter().map(text).collect()
        });
        let mut refused = Vec::new();
        let came = std::mem::take(changes).into_iter().zip(texts);
        changes.extend(came.filter_map(|(change, text)| {
            let Some(text) = text else { return Some(change) };
            let message = RawMessage { text, position: change.original.position() };
            change.masked(message).map_err(|reject| refused.push((message, reject))).ok()
        }));
        refused
    }

    /// Those that are set for a table. `None`: none is.
    pub fn of(&self, table: &SourceTable) -> Option<MasksOfTable> {
        let mut masks = TableMasks::default();
        let set = self.masks.iter().filter(|mask| mask.is_set && mask.is_of(table));
        for mask in set {
            if !mask.path.is_empty() {
                // of a table that nobody knows it may as well be the name of a column
                masks.add(mask.masked.clone(), Vec::new(), mask.how);
            }
            masks.add(mask.column.clone(), mask.path.clone(), mask.how);
        }
        let secret = self.secret.filter(|_| !masks.is_empty())?;
        Some(MasksOfTable { masks, key_columns: key_columns(table), secret })
    }

    /// May what was delivered be of a table with masks, whatever it is?
    pub fn may_be_of_any(&self) -> bool {
        let here = here::database_id();
        self.masks.iter().any(|mask| mask.is_set && mask.database_id.as_ref() != Some(&here))
    }

    /// Under which identities a read may stand in the log: the first is that under which it is stored.
    pub fn identities(&self, change: &Change, identity: Digest) -> (Digest, Option<Digest>) {
        let has_had = || self.masks.iter().any(|mask| mask.is_of(&change.table));
        match &self.secret {
            Some(secret) if change.action == Action::Read && has_had() => {
                let hidden = hidden_digest(&identity, secret);
                if change.unmasked.is_some() { (hidden, Some(identity)) } else { (identity, Some(hidden)) }
            }
            _ => (identity, None),
        }
    }

    /// Of a text that is not kept.
    pub fn hidden(&self, digest: Digest) -> Digest {
        self.secret.as_ref().map_or(digest, |secret| hidden_digest(&digest, secret))
    }
}

pub struct MasksOfTable {
    masks: TableMasks,
    key_columns: Option<Vec<String>>,
    secret: MaskSecret,
}

impl MasksOfTable {
    /// The message with masks. `None`: nobody can tell what is in it. `was_masked`: it was before, too.
    pub fn masked(&self, text: &str, was_masked: bool) -> Option<String> {
        self.with_key(text, None, was_masked)
    }

    /// `key_columns`: as they were at the change; `None`: as the table has them now.
    fn with_key(&self, text: &str, key_columns: Option<&[String]>, was_masked: bool) -> Option<String> {
        let masker = Masker { secret: self.secret, was_masked };
        masked_message(text, &self.masks, key_columns.or(self.key_columns.as_deref()), &masker)
    }
}

fn mask(row: &SpiHeapTupleData) -> SpiResult<Mask> {
    let text = |column| row.get::<String>(column).map(Option::unwrap_or_default);
    Ok(Mask {
        database_id: row.get(1)?,
        table: (text(2)?, text(3)?),
        masked: text(8)?,
        column: text(4)?,
        path: row.get::<Vec<Option<String>>>(7)?.unwrap_or_default().into_iter().flatten().collect(),
        how: How::parse(&text(5)?).unwrap_or(How::Omit),
        is_set: row.get(6)?.unwrap_or(true),
    })
}

/// As it was described; of a table here, as it is.
fn key_columns(table: &SourceTable) -> Option<Vec<String>> {
    let is_here = table.database_id == here::database_id();
    let statement = if is_here { &OWN_KEY_COLUMNS } else { &KEY_COLUMNS };
    statement.with(|columns| {
        columns.read(
            || vec![(&*table.database_id).into(), (&*table.schema).into(), (&*table.name).into()],
            |mut rows| {
                let columns = rows.next().map(|row| row.get::<Vec<Option<String>>>(1)).transpose()?.flatten();
                Ok(columns.map(|columns| columns.into_iter().flatten().collect()))
            },
        )
    })
}

/// Nothing is stored without it: hashes of another secret would be of no use, and nobody would know.
fn lacks_secret<T>(error: &std::io::Error) -> Option<T> {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_IO_ERROR, "the secret of masks cannot be read", "read")
        .set_detail(format!("File \"audit_cdc_mask_secret\" of the data directory: {error}."))
        .set_hint("Copy it from the server that this one was restored from, or call audit_mask(), which makes another.")
        .report(PgLogLevel::ERROR);
    None
}
