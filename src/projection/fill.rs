//! Filling a projection from the log while ingest goes on.

use super::run::{Patience, Projection};
use super::settle::{number, settle, while_filling};
use super::unprojected::note_refused;
use crate::pg::{BuiltinOid, Cursor, Statement, rolled_back, show_progress, with_progress};
use pgrx::prelude::*;
use std::ffi::CStr;

const IN_THE_ORDER_OF_COMMITS: &CStr =
    c"SELECT * FROM audit_cdc_internal.log WHERE id > $1 AND id <= $2 AND action <> 'complete'
      ORDER BY commit_timestamp, commit_lsn, commit_idx, id";

/// So few entries that others may wait for them.
const FEW: i64 = 2_000;
const FETCHED: i64 = 1_000;
const NOTICE_EVERY: i64 = 100_000;

thread_local! {
    static STORED: Statement = const { Statement::new(
        "SELECT coalesce(sum(stored), 0)::bigint FROM audit_cdc_internal.tallies", &[]) };

    static WAITED: Statement = const { Statement::new(
        "DELETE FROM audit_cdc_internal.unprojected WHERE projection = $1 AND sqlstate IS NULL",
        &[BuiltinOid::INT4OID]) };
}

/// Feeds every entry after `after`, in the order of commits as far as they are there when it begins, and then what
/// came meanwhile. Afterwards nothing waits, and the log is settled. Returns how many entries went through the rule,
/// and the last id.
pub fn fill(projection: &Projection, after: i64) -> (i64, i64) {
    let mut filling = Filling { projection, done: 0, total: number(&STORED) };
    let feed_all = || {
        let mut from = after;
        loop {
            // entries are numbered while the log is locked: up to here all are there now
            let up_to = rolled_back(settle);
            filling.feed(from, up_to);
            let came_meanwhile = up_to - from;
            from = up_to;
            if came_meanwhile <= FEW {
                break;
            }
        }
        loop {
            // triggers of the target may add entries in this very session
            let last = settle();
            if last == from {
                return last;
            }
            filling.feed(from, last);
            from = last;
        }
    };
    let last = with_progress(|| while_filling(projection.id, feed_all));
    WAITED.with(|waited| waited.run(|| vec![projection.id.into()], |_| Ok(())));
    (filling.done, last)
}

struct Filling<'p> {
    projection: &'p Projection,
    done: i64,
    total: i64,
}

impl Filling<'_> {
    fn feed(&mut self, after: i64, up_to: i64) {
        if after >= up_to {
            return;
        }
        let mut cursor = Cursor::open(IN_THE_ORDER_OF_COMMITS, &[after.into(), up_to.into()]);
        loop {
            self.show();
            let fed = cursor.fetch_log(FETCHED, |entries| {
                let taken = self.projection.run(entries, Patience::Endless);
                note_refused(self.projection, taken.refused);
                entries.len() as i64
            });
            if fed == 0 {
                return;
            }
            let before = self.done;
            self.done += fed;
            if self.done / NOTICE_EVERY > before / NOTICE_EVERY {
                let total = self.total.max(self.done);
                notice!("projection \"{}\": {} of about {total} entries", self.projection.name, self.done);
            }
        }
    }

    fn show(&self) {
        show_progress(self.projection.target, self.done, self.total.max(1));
    }
}
