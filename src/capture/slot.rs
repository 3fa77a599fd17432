//! Reading a slot, without consuming it.

use super::source::Source;
use crate::pg::{BuiltinOid, ErrorReport, Peek, Statement, as_extension, check_for_interrupts, pinned, quietly};
use audit_core::wire::{Captured, Commit, Decoded, Decoder, Failure};
use pgrx::prelude::*;
use std::ffi::CStr;

/// So many changes, and bytes of messages, are in memory at once.
const MOST_CHANGES: usize = 2_000;
const MOST_BYTES: usize = 8 << 20;

const PLUGIN_NAME: &str = "audit_cdc";

thread_local! {
    static CAPTURED: Statement = const { Statement::new(
        "SELECT slot::text, publication::text FROM audit_cdc_internal.captures", &[]) };

    static PUBLICATION: Statement = const { Statement::new(
        "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)", &[BuiltinOid::TEXTOID]) };

    static PLUGIN: Statement = const { Statement::new(
        "SELECT plugin::text FROM pg_replication_slots WHERE slot_name = $1", &[BuiltinOid::TEXTOID]) };
}

/// A slot and the publication that is read from it.
pub struct Slot {
    pub slot: String,
    pub publication: String,
}

/// What was read of a slot.
#[derive(Default)]
pub struct Read {
    /// Position of the first transaction.
    pub first_lsn: Option<u64>,
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
            captured.read(Vec::new, |rows| rows.first().get_two::<String, String>().or(Ok((None, None))))
        });
        let (Some(slot), Some(publication)) = row else {
            return Err(ErrorReport::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "nothing is captured in this database",
                "captured",
            )
            .set_hint("Start with audit_capture_start(publication)."));
        };
        Ok(Self { slot, publication })
    }

    /// Gives what is committed to `take`, in steps; it takes it out of the lists. Stops after the transaction in
    /// which the stream's messages reach `upto`.
    pub fn read(&self, upto: Option<i32>, mut take: impl FnMut(&mut Decoded)) -> Result<Read, ErrorReport> {
        self.require_our_plugin()?;
        let mut decoder = Decoder::new(Source::here());
        let (mut decoded, mut read, mut bytes) = (Decoded::default(), Read::default(), 0);
        let mut peek = quietly(|| Peek::new(&self.slot, upto, &self.publication));
        while let Some(message) = peek.message() {
            read.count += 1;
            bytes += message.len();
            if let Some(commit) = decoder.decode(message, &mut decoded).map_err(|failure| self.report(failure))? {
                read.first_lsn.get_or_insert(commit.lsn);
                read.end_lsn = commit.end_lsn;
                read.last = Some(commit).filter(|commit| commit.has_changes).or(read.last);
            }
            if decoded.changes.len() >= MOST_CHANGES || bytes >= MOST_BYTES {
                check_for_interrupts();
                take(&mut decoded);
                bytes = 0;
            }
        }
        take(&mut decoded);
        Ok(read)
    }

    fn require_our_plugin(&self) -> Result<(), ErrorReport> {
        let plugin = PLUGIN.with(|plugin| {
            plugin.read(|| vec![self.slot.as_str().into()], |rows| rows.first().get_one::<String>().or(Ok(None)))
        });
        match plugin {
            Some(plugin) if plugin != PLUGIN_NAME => {
                let message = format!("replication slot \"{}\" was not made for audit_cdc", self.slot);
                let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
                Err(ErrorReport::new(code, message, "read")
                    .set_detail(format!("Its output plugin is \"{plugin}\"."))
                    .set_hint("Make one with the output plugin audit_cdc, as audit_capture_start() does."))
            }
            // one that does not exist is PostgreSQL's to tell
            _ => Ok(()),
        }
    }

    /// For who names one. Capture goes on without: what it misses is a gap.
    fn require_publication(&self) -> Result<(), ErrorReport> {
        let is_there = PUBLICATION.with(|publication| {
            publication.read(|| vec![self.publication.as_str().into()], |rows| rows.first().get_one::<bool>())
        });
        if is_there == Some(true) {
            return Ok(());
        }
        let message = format!("publication \"{}\" does not exist", self.publication);
        Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, message, "read"))
    }

    fn report(&self, failure: Failure) -> ErrorReport {
        let message = format!("cannot decode the changes of replication slot \"{}\"", self.slot);
        ErrorReport::new(PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION, message, "read")
            .set_detail(format!("The output plugin's message is not understood: {failure:?}."))
    }
}

#[pg_extern(
    sql = r#"CREATE FUNCTION @extschema@.audit_pending_changes(
    slot name DEFAULT NULL, publication name DEFAULT NULL, upto_nchanges integer DEFAULT NULL)
  RETURNS SETOF json LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000
  SET search_path = pg_catalog, pg_temp
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["install"]
)]
fn audit_pending_changes(
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
    let mut changes = Vec::new();
    pinned(|| {
        slot.require_publication()?;
        slot.read(upto_nchanges, |decoded| changes.append(&mut decoded.changes))
    })?;
    Ok(SetOfIterator::new(changes.into_iter().map(|change: Captured| change.whole())))
}
