//! Which entry of its record stands before each of some that are asked for, by time.

use std::collections::HashMap;

/// Where an entry stands by time. A read without position stands after the changes of its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stand {
    pub time: i64,
    pub lsn: i64,
    pub idx: i32,
    pub id: i64,
}

/// An entry that is asked for, and the last one that was offered between the one asked for before it and itself.
#[derive(Debug)]
struct Asked<T> {
    at: Stand,
    before: Option<(Stand, T)>,
}

/// What is asked for, by record, in order; and the entries before them.
#[derive(Debug)]
pub struct Before<T>(HashMap<Vec<u8>, Vec<Asked<T>>>);

impl<T> Before<T> {
    #[must_use]
    pub fn of(entries: impl IntoIterator<Item = (Vec<u8>, Stand)>) -> Self {
        let mut records: HashMap<_, Vec<_>> = HashMap::new();
        for (record, at) in entries {
            records.entry(record).or_default().push(Asked { at, before: None });
        }
        records.values_mut().for_each(|asked| asked.sort_unstable_by_key(|asked| asked.at));
        Self(records)
    }

    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(Vec::as_slice)
    }

    /// An entry of the log, in whatever order they come. Only where it may be the answer, it is kept.
    pub fn offer(&mut self, record: &[u8], at: Stand, keep: impl FnOnce() -> T) {
        let Some(asked) = self.0.get_mut(record) else { return };
        let behind = asked.partition_point(|asked| asked.at <= at);
        let Some(next) = asked.get_mut(behind) else { return };
        if next.before.as_ref().is_none_or(|(other, _)| *other < at) {
            next.before = Some((at, keep()));
        }
    }

    /// Of one that is asked for.
    #[must_use]
    pub fn find(&self, record: &[u8], at: Stand) -> Option<&T> {
        let asked = self.0.get(record)?;
        let up_to = asked.partition_point(|asked| asked.at <= at);
        asked[..up_to].iter().rev().find_map(|asked| asked.before.as_ref()).map(|(_, kept)| kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_entry() -> impl Strategy<Value = (Vec<u8>, Stand)> {
        (0..3_u8, 0..4_i64, 0..3_i64, 0..2_i32, 0..40_i64)
            .prop_map(|(record, time, lsn, idx, id)| (vec![record], Stand { time, lsn, idx, id }))
    }

    proptest! {
        /// As if all were sorted for each.
        #[test]
        fn it_is_the_last_one_before(
            log in proptest::collection::vec(any_entry(), 0..30),
            wanted in proptest::collection::vec(any_entry(), 0..12),
        ) {
            let mut before = Before::of(wanted.iter().cloned());
            for (record, at) in &log {
                before.offer(record, *at, || *at);
            }
            for (record, at) in &wanted {
                let earlier = log.iter().filter(|(of, other)| of == record && other < at);
                prop_assert_eq!(before.find(record, *at), earlier.map(|(_, other)| other).max());
            }
        }
    }

    #[test]
    fn what_cannot_be_the_answer_is_not_kept() {
        let at = |time| Stand { time, lsn: 0, idx: 0, id: 0 };
        let mut before = Before::of([(vec![1], at(5))]);
        let mut kept = 0;
        for (record, time) in [(1, 3), (1, 2), (1, 4), (1, 5), (1, 9), (2, 4)] {
            before.offer(&[record], at(time), || kept += 1);
        }
        assert_eq!(kept, 2);
    }
}
