//! What is to be done with a month, by what the database has of it now and had when it was archived.

use crate::manifest::Seen;

#[derive(Debug, PartialEq)]
pub enum Plan {
    /// There is nothing to archive.
    Nothing,
    /// It is archived, and nothing has changed.
    Keep,
    /// Its file is written, from the log alone.
    Write,
    /// The log's entries are written anew, and what the archive has of others stays there.
    Merge,
    /// The log has lost entries, and retention did not remove them. The archive stays as it is.
    Lost(u64),
}

pub fn plan(now: Seen, then: Option<Seen>) -> Plan {
    let Some(then) = then else {
        return if now.entries == 0 { Plan::Nothing } else { Plan::Write };
    };
    let (have, had) = (now.entries + now.removed, then.entries + then.removed);
    if have < had {
        Plan::Lost(had - have)
    } else if now.entries == 0 || have == had && now.erasures == then.erasures {
        Plan::Keep
    } else {
        Plan::Merge
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, Seen, plan};

    fn seen(entries: u64, removed: u64, erasures: u64) -> Seen {
        Seen { entries, removed, erasures }
    }

    #[test]
    fn a_month_is_written_once_and_again_when_something_came_or_was_erased() {
        assert_eq!(plan(seen(0, 0, 0), None), Plan::Nothing);
        assert_eq!(plan(seen(5, 0, 0), None), Plan::Write);
        assert_eq!(plan(seen(5, 0, 0), Some(seen(5, 0, 0))), Plan::Keep);
        assert_eq!(plan(seen(6, 0, 0), Some(seen(5, 0, 0))), Plan::Merge);
        assert_eq!(plan(seen(5, 0, 1), Some(seen(5, 0, 0))), Plan::Merge);
    }

    #[test]
    fn what_retention_has_removed_stays_in_the_archive() {
        assert_eq!(plan(seen(0, 5, 0), Some(seen(5, 0, 0))), Plan::Keep);
        assert_eq!(plan(seen(2, 3, 0), Some(seen(5, 0, 0))), Plan::Keep);
        assert_eq!(plan(seen(2, 3, 1), Some(seen(5, 0, 0))), Plan::Merge);
        assert_eq!(plan(seen(3, 3, 0), Some(seen(5, 0, 0))), Plan::Merge);
        assert_eq!(plan(seen(0, 5, 1), Some(seen(5, 0, 0))), Plan::Keep);
    }

    #[test]
    fn what_was_lost_otherwise_is_told() {
        assert_eq!(plan(seen(3, 1, 0), Some(seen(5, 0, 0))), Plan::Lost(1));
        assert_eq!(plan(seen(0, 0, 0), Some(seen(5, 0, 0))), Plan::Lost(5));
    }
}
