//! Numbers of entries: `audit_logs.id`. They come from a sequence, for which no session waits. Who has the rights of
//! `pg_write_all_data` may set it, back or to its end. So what does not follow the last entry is not taken, and the
//! sequence is set anew.

use crate::pg::{BuiltinOid, Sequence, Statement};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// More numbers than anybody takes between two looks.
const MOST_SKIPPED: i64 = 1 << 32;
/// So long a session does not look which numbers others have stored.
const LOOK_EVERY: Duration = Duration::from_secs(1);

thread_local! {
    static LAST_STORED: Statement = const { Statement::new(
        "SELECT max(last_id) FROM audit_cdc_internal.tallies", &[]) };

    static RENUMBER: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.renumber_log($1)", &[BuiltinOid::INT8OID]) };

    /// That this session knows of.
    static LAST: Cell<i64> = const { Cell::new(0) };
    /// Of which sequence, and when it looked for others.
    static LOOKED_AT: Cell<Option<(Sequence, Instant)>> = const { Cell::new(None) };
}

/// The last that this session has taken.
pub fn last_number() -> i64 {
    LAST.get()
}

pub struct Numbers(Sequence);

impl Numbers {
    pub fn begin() -> Self {
        let sequence = Sequence::named(c"log_id_seq");
        match LOOKED_AT.get() {
            Some((same, at)) if same == sequence && at.elapsed() < LOOK_EVERY => {}
            Some((same, _)) if same == sequence => look(sequence),
            _ => {
                LAST.set(0);
                look(sequence);
            }
        }
        Self(sequence)
    }

    pub fn next(&self) -> i64 {
        let number = self.0.next();
        let number = if follows(LAST.get(), number) { number } else { self.next_in_order() };
        LAST.set(number);
        number
    }

    fn next_in_order(&self) -> i64 {
        look(self.0);
        let number = self.0.next();
        if follows(LAST.get(), number) {
            return number;
        }
        RENUMBER.with(|renumber| renumber.read(|| vec![LAST.get().into()], |_| Ok(())));
        self.0.next()
    }
}

/// Before a number is taken, so that it comes after those that are seen.
fn look(sequence: Sequence) {
    let last = LAST_STORED.with(|last| last.read(Vec::new, |rows| rows.first().get_one::<i64>()));
    LAST.set(LAST.get().max(last.unwrap_or(0)));
    LOOKED_AT.set(Some((sequence, Instant::now())));
}

fn follows(last: i64, number: i64) -> bool {
    number > last && number - last <= MOST_SKIPPED
}

#[cfg(test)]
mod tests {
    use super::{MOST_SKIPPED, follows};

    #[test]
    fn what_was_set_back_or_far_ahead_does_not_follow() {
        assert!(follows(0, 1) && follows(100, 101) && follows(100, 1_000_000));
        assert!(!follows(100, 100) && !follows(100, 1) && !follows(100, i64::MAX) && !follows(i64::MAX, 1));
        assert!(follows(i64::MAX - MOST_SKIPPED, i64::MAX));
    }
}
