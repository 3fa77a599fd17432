//! What a publication publishes (PostgreSQL documentation, "CREATE PUBLICATION").

use crate::pg::list::elements;
use pg_sys::SysCacheIdentifier::{PUBLICATIONNAMESPACEMAP, PUBLICATIONRELMAP};
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, c_char};

// PostgreSQL's numbers of pg_publication_rel's columns, not wrapped
const PRQUAL: i16 = 4;
const PRATTRS: i16 = 5;

unsafe extern "C-unwind" {
    /// PostgreSQL's function (PostgreSQL source, `partition.h`), not wrapped.
    fn get_partition_ancestors(table: Oid) -> *mut pg_sys::List;
}

/// From the parent to the root.
pub fn ancestors(partition: Oid) -> Vec<Oid> {
    // SAFETY: nothing is dropped in the call, whatever it raises; the list holds oids.
    unsafe {
        let ancestors = pg_sys::ffi::pg_guard_ffi_boundary(|| get_partition_ancestors(partition));
        elements(ancestors).iter().map(|cell| cell.oid_value).collect()
    }
}

pub struct Publication {
    oid: Oid,
    is_for_all: bool,
    via_root: bool,
    /// Stored generated columns are sent, where no list says which are.
    with_generated: bool,
    pub actions: pg_sys::PublicationActions,
}

impl Publication {
    pub fn named(name: &CStr) -> Option<Self> {
        // SAFETY: null for one that does not exist; palloced otherwise.
        unsafe {
            let found = pg_sys::GetPublicationByName(name.as_ptr(), true).as_ref()?;
            #[cfg(feature = "pg18")]
            let with_generated = found.pubgencols_type == pg_sys::PublishGencolsType::PUBLISH_GENCOLS_STORED;
            #[cfg(not(feature = "pg18"))]
            let with_generated = false;
            Some(Self {
                oid: found.oid,
                is_for_all: found.alltables,
                via_root: found.pubviaroot,
                with_generated,
                actions: found.pubactions,
            })
        }
    }

    /// As which table it publishes one: itself or an ancestor; `None`: it does not.
    pub fn publishes_as(&self, table: Oid, row: &pg_sys::FormData_pg_class, ancestors: &[Oid]) -> Option<Oid> {
        // the rows of a partitioned table are those of its partitions
        if row.relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE && !self.via_root {
            return None;
        }
        let root = if self.is_for_all { ancestors.last().copied() } else { self.topmost(ancestors) };
        match root {
            Some(root) if self.via_root => Some(root),
            Some(_) => Some(table),
            None => (self.is_for_all || self.names(table) || self.names_schema(row.relnamespace)).then_some(table),
        }
    }

    /// Of those that are published, the one next to the root.
    fn topmost(&self, ancestors: &[Oid]) -> Option<Oid> {
        ancestors.iter().rev().copied().find(|ancestor| {
            // SAFETY: reads the catalogs' caches.
            self.names(*ancestor) || self.names_schema(unsafe { pg_sys::get_rel_namespace(*ancestor) })
        })
    }

    fn names(&self, table: Oid) -> bool {
        self.with_entry(table, |_| ()).is_some()
    }

    fn names_schema(&self, schema: Oid) -> bool {
        // SAFETY: reads the catalogs' caches.
        unsafe {
            pg_sys::SearchSysCacheExists(
                PUBLICATIONNAMESPACEMAP as i32,
                schema.into(),
                self.oid.into(),
                pg_sys::Datum::null(),
                pg_sys::Datum::null(),
            )
        }
    }

    /// Numbers of the columns that it lists of a table; `None`: it lists none.
    pub fn columns_of(&self, table: Oid) -> Option<Vec<i16>> {
        if self.is_for_all {
            return None;
        }
        self.with_entry(table, |entry| {
            let list = attribute(entry, PRATTRS)?;
            // SAFETY: the column is an int2vector; of the set, members are taken out until it is empty.
            unsafe {
                let set = pg_sys::pub_collist_to_bitmapset(std::ptr::null_mut(), list, pg_sys::CurrentMemoryContext);
                let next = |after: &i32| Some(pg_sys::bms_next_member(set, *after)).filter(|number| *number >= 0);
                Some(std::iter::successors(next(&-1), next).map(|number| number as i16).collect())
            }
        })?
    }

    /// Of the table as which rows are published, as PostgreSQL keeps expressions.
    pub fn filter_of(&self, table: pg_sys::Relation) -> Option<*mut c_char> {
        // SAFETY: the table is open.
        let (number, schema) = unsafe { ((*table).rd_id, (*(*table).rd_rel).relnamespace) };
        if self.is_for_all || self.names_schema(schema) {
            return None;
        }
        self.with_entry(number, |entry| {
            let filter = attribute(entry, PRQUAL)?;
            // SAFETY: the column is a pg_node_tree, laid out as text.
            Some(unsafe { pg_sys::text_to_cstring(filter.cast_mut_ptr()) })
        })?
    }

    pub fn sends(&self, column: &pg_sys::FormData_pg_attribute, list: Option<&[i16]>) -> bool {
        let is_generated = column.attgenerated != 0;
        match list {
            Some(list) => list.contains(&column.attnum) && (cfg!(feature = "pg18") || !is_generated),
            None => !is_generated || self.with_generated && column.attgenerated as u8 == b's',
        }
    }

    /// Its entry for a table.
    fn with_entry<T>(&self, table: Oid, read: impl FnOnce(pg_sys::HeapTuple) -> T) -> Option<T> {
        // SAFETY: the cache entry is released after reading.
        unsafe {
            let entry = pg_sys::SearchSysCache2(PUBLICATIONRELMAP as i32, table.into(), self.oid.into());
            if entry.is_null() {
                return None;
            }
            let result = read(entry);
            pg_sys::ReleaseSysCache(entry);
            Some(result)
        }
    }
}

/// Of an entry.
fn attribute(entry: pg_sys::HeapTuple, number: i16) -> Option<pg_sys::Datum> {
    let mut is_null = true;
    // SAFETY: the entry is of this cache.
    let value = unsafe { pg_sys::SysCacheGetAttr(PUBLICATIONRELMAP as i32, entry, number, &mut is_null) };
    (!is_null).then_some(value)
}
