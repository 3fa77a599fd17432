//! A walk along a partition's unique index, beside keys in its order. What lies close together is passed, and not
//! searched for anew.

use pgrx::pg_sys;
use pgrx::pg_sys::ScanDirection::ForwardScanDirection;
use std::ptr::null_mut;

/// Commit time in PostgreSQL's microseconds, and identity: what the index is ordered by.
pub type Key = (i64, [u8; 16]);

/// So many entries are passed before the index is searched.
const NEAR: usize = 4;

pub(super) struct Walk {
    scan: pg_sys::IndexScanDesc,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    /// `(commit_timestamp, identity) >= …`
    members: Box<[pg_sys::ScanKeyData; 2]>,
    /// To which the comparison points.
    identity: Box<[u8; 16]>,
    /// The entry at which it stands; `None`: beyond the last.
    at: Option<Key>,
}

impl Walk {
    /// Sees what `snapshot` shows. It begins at `first`, or where that would be.
    pub fn new(relation: pg_sys::Relation, index: pg_sys::Relation, snapshot: pg_sys::Snapshot, first: &Key) -> Self {
        let member = |number, compare: u32, flags: u32| {
            let mut member = pg_sys::ScanKeyData {
                sk_flags: (pg_sys::SK_ROW_MEMBER | flags) as i32,
                sk_attno: number,
                sk_strategy: pg_sys::BTGreaterEqualStrategyNumber as pg_sys::StrategyNumber,
                ..pg_sys::ScanKeyData::default()
            };
            // SAFETY: the function is one of PostgreSQL's own.
            unsafe { pg_sys::fmgr_info(compare.into(), &mut member.sk_func) };
            member
        };
        let members = [member(1, pg_sys::F_TIMESTAMPTZ_CMP, 0), member(2, pg_sys::F_UUID_CMP, pg_sys::SK_ROW_END)];
        // SAFETY: relation and index are open as long as this lives; the snapshot is registered until `drop`.
        unsafe {
            let snapshot = pg_sys::RegisterSnapshot(snapshot);
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(relation, index, snapshot, 1, 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(relation, index, snapshot, null_mut(), 1, 0);
            // rows are fetched only for keys that are looked for
            (*scan).xs_want_itup = true;
            let slot = pg_sys::table_slot_create(relation, null_mut());
            let mut walk =
                Self { scan, snapshot, slot, members: Box::new(members), identity: Box::default(), at: None };
            walk.search(first);
            walk
        }
    }

    /// The row with this key, which is not before the last one that was asked for.
    pub fn row(&mut self, key: &Key) -> Option<*mut pg_sys::TupleTableSlot> {
        let mut passed = 0;
        while self.at.is_some_and(|at| at < *key) {
            if passed == NEAR {
                self.search(key)
            } else {
                self.step()
            }
            passed += 1;
        }
        // what was rolled back may stand there too
        while self.at == Some(*key) {
            // SAFETY: the scan stands at an entry, and the slot is one of its table.
            unsafe {
                if pg_sys::index_fetch_heap(self.scan, self.slot) {
                    let width = (*(*self.slot).tts_tupleDescriptor).natts;
                    // some access methods give all columns at once
                    if i32::from((*self.slot).tts_nvalid) < width {
                        pg_sys::slot_getsomeattrs_int(self.slot, width);
                    }
                    return Some(self.slot);
                }
            }
            self.step();
        }
        None
    }

    fn search(&mut self, (time, identity): &Key) {
        *self.identity = *identity;
        self.members[0].sk_argument = (*time).into();
        self.members[1].sk_argument = self.identity.as_ptr().into();
        let mut comparison = pg_sys::ScanKeyData {
            sk_flags: pg_sys::SK_ROW_HEADER as i32,
            sk_attno: 1,
            sk_strategy: pg_sys::BTGreaterEqualStrategyNumber as pg_sys::StrategyNumber,
            sk_argument: self.members.as_mut_ptr().into(),
            ..pg_sys::ScanKeyData::default()
        };
        // SAFETY: the comparison is copied; its members, and what they point to, live as long as the scan.
        unsafe { pg_sys::index_rescan(self.scan, &mut comparison, 1, null_mut(), 0) };
        self.step();
    }

    fn step(&mut self) {
        // SAFETY: the scan gives the entry of the index, whose two columns are never null.
        unsafe {
            self.at = (!pg_sys::index_getnext_tid(self.scan, ForwardScanDirection).is_null()).then(|| {
                let (entry, columns) = ((*self.scan).xs_itup, (*self.scan).xs_itupdesc);
                let time = pg_sys::nocache_index_getattr(entry, 1, columns).value() as i64;
                (time, *pg_sys::nocache_index_getattr(entry, 2, columns).cast_mut_ptr::<[u8; 16]>())
            });
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        // after an error the end of the (sub)transaction closes it
        if !std::thread::panicking() {
            // SAFETY: opened by `new`, under the same resource owner.
            unsafe {
                pg_sys::index_endscan(self.scan);
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::UnregisterSnapshot(self.snapshot);
            }
        }
    }
}
