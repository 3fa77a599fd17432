//! Reading a slot, without consuming it.

use super::decode::{Commit, Decoder, Failure};
use super::source::Source;
use crate::message::Written;
use crate::pg::{Cursor, ErrorReport, as_extension, pinned, quietly};
use crate::statement::Statement;
use pgrx::prelude::*;
use std::ffi::CStr;

pgrx::extension_sql_file!(
    "../../sql/capture.sql",
    name = "capture",
    requires = [
        "projections",
        "excluded_tables",
        audit_changes,
        capture_pass,
        last_look,
        lock_capture,
        advance_capture,
        note_look,
        pinned_settings,
        drop_slot_if_rolled_back,
        is_preloaded,
        start_capture_worker
    ]
);

/// PostgreSQL puts what it peeks into a file where it is large; from there it is read in steps.
const PEEK: &CStr = c"SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, $2, 'proto_version', '1', 'publication_names', quote_ident($3), 'messages', 'true')";
const FETCHED: i64 = 1_000;

thread_local! {
    static CAPTURED: Statement = const { Statement::new(
        "SELECT slot::text, publication::text, EXISTS (SELECT FROM pg_publication WHERE pubname = publication) FROM audit_cdc_internal.captures", &[]) };
}

/// A slot and the publication that is read from it.
pub struct Slot {
    pub slot: String,
    pub publication: String,
}

/// What was read of a slot.
#[derive(Default)]
pub struct Read {
    /// The last transaction that has changes for the log.
    pub last: Option<Commit>,
    /// Position after the last transaction.
    pub end_lsn: u64,
    /// Messages of the stream.
    pub count: i64,
}

impl Slot {
    /// The one that is captured.
    pub fn captured() -> Result<Self, ErrorReport> {
        let row = CAPTURED.with(|captured| {
            captured.read(Vec::new, |rows| rows.first().get_three::<String, String, bool>().or(Ok((None, None, None))))
        });
        let (Some(slot), Some(publication), Some(is_there)) = row else {
            return Err(ErrorReport::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "nothing is captured in this database",
                "captured",
            )
            .set_hint("Start with audit_capture_start(publication)."));
        };
        // earlier releases fail by themselves where its changes are; 18 passes over them
        if cfg!(feature = "pg18") && !is_there {
            let message = format!("publication \"{publication}\" does not exist");
            return Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, message, "captured")
                .set_hint("Create it again, or CALL audit_capture_stop(discard_pending => true)."));
        }
        Ok(Self { slot, publication })
    }

    /// Gives the committed changes to `take`, in steps; it takes them out of the list. Stops after the transaction in which the stream's
    /// messages reach `upto`.
    pub fn read(&self, upto: Option<i32>, mut take: impl FnMut(&mut Vec<Written>)) -> Result<Read, ErrorReport> {
        let mut decoder = Decoder::new(Source::here());
        let (mut changes, mut read) = (Vec::new(), Read::default());
        let arguments = [self.slot.as_str().into(), upto.into(), self.publication.as_str().into()];
        let mut cursor = Cursor::open(PEEK, &arguments);
        loop {
            let decode = |messages: &[&[u8]]| {
                for message in messages {
                    if let Some(commit) = decoder.decode(message, &mut changes)? {
                        read.end_lsn = commit.end_lsn;
                        read.last = Some(commit).filter(|commit| commit.has_changes).or(read.last);
                    }
                }
                Ok(messages.len() as i64)
            };
            // the first fetch does all the work of the server
            let fetched = quietly(|| cursor.fetch_bytes(FETCHED, decode));
            match fetched.map_err(|failure| self.report(failure))? {
                0 => return Ok(read),
                fetched => read.count += fetched,
            }
            take(&mut changes);
        }
    }

    fn report(&self, failure: Failure) -> ErrorReport {
        let message = format!("cannot decode the changes of replication slot \"{}\"", self.slot);
        ErrorReport::new(PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION, message, "read")
            .set_detail(format!("The output plugin's message is not understood: {failure:?}."))
    }
}

#[pg_extern(
    sql = r#"CREATE FUNCTION @extschema@.audit_changes(slot name DEFAULT NULL, publication name DEFAULT NULL, upto_nchanges integer DEFAULT NULL)
  RETURNS SETOF json LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000
  SET search_path = pg_catalog, pg_temp
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["install"]
)]
fn audit_changes(
    slot: Option<&CStr>,
    publication: Option<&CStr>,
    upto_nchanges: Option<i32>,
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let name = |argument: Option<&CStr>| argument.map(|name| name.to_string_lossy().into_owned());
    let slot = match (name(slot), name(publication)) {
        (Some(slot), Some(publication)) => Slot { slot, publication },
        (slot, publication) => {
            let captured = as_extension(Slot::captured)?;
            Slot { slot: slot.unwrap_or(captured.slot), publication: publication.unwrap_or(captured.publication) }
        }
    };
    let mut messages = Vec::new();
    pinned(|| slot.read(upto_nchanges, |changes| messages.append(changes)))?;
    Ok(SetOfIterator::new(messages.into_iter().map(|message: Written| message.whole().into_owned())))
}
