//! What is known of tables, until something says that it is not so any more.

use super::describe::describe;
use super::published::TableRole;
use pg_sys::SysCacheIdentifier::{NAMESPACEOID, PUBLICATIONNAMESPACEMAP, PUBLICATIONOID, PUBLICATIONRELMAP};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, c_int};

/// By number. With each, the tables on whose description it depends.
pub struct Tables {
    known: HashMap<u32, (TableRole, Vec<u32>)>,
    /// All of these.
    depended_on: HashSet<u32>,
    memory: pg_sys::MemoryContext,
}

impl Tables {
    /// `memory` lives as long.
    pub fn new(memory: pg_sys::MemoryContext) -> Self {
        watch();
        STALE.with(|stale| stale.clear());
        Self { known: HashMap::new(), depended_on: HashSet::new(), memory }
    }

    /// A table that is open, as it is now.
    pub fn table(&mut self, relation: pg_sys::Relation, publication: &CStr) -> &mut TableRole {
        if STALE.with(|stale| stale.is_any.get()) {
            self.forget();
        }
        // SAFETY: it is open.
        let number = unsafe { (*relation).rd_id.to_u32() };
        let known = match self.known.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let (table, depends_on) = describe(relation, publication, self.memory);
                self.depended_on.extend(&depends_on);
                vacant.insert((table, depends_on))
            }
        };
        &mut known.0
    }

    /// What was said of it last is not how it is published.
    pub fn forget_table(&mut self, number: u32) {
        if let Some((TableRole::Published(table), _)) = self.known.remove(&number) {
            // SAFETY: it is a child of ours, and nobody else holds anything of it.
            unsafe { pg_sys::MemoryContextDelete(table.memory) };
        }
    }

    /// What is not as it was.
    fn forget(&mut self) {
        let (all, tables) = STALE.with(Stale::take);
        let is_stale = |depends_on: &[u32]| all || depends_on.iter().any(|table| tables.contains(table));
        if all || tables.iter().any(|table| self.depended_on.contains(table)) {
            self.known.retain(|_, (table, depends_on)| {
                let is_stale = is_stale(depends_on);
                if let (true, TableRole::Published(table)) = (is_stale, table) {
                    // SAFETY: it is a child of ours, and nobody else holds anything of it.
                    unsafe { pg_sys::MemoryContextDelete(table.memory) };
                }
                !is_stale
            });
        }
    }
}

/// What PostgreSQL has told since it was last asked.
#[derive(Default)]
struct Stale {
    is_any: Cell<bool>,
    is_all: Cell<bool>,
    tables: RefCell<HashSet<u32>>,
}

/// More are taken for all.
const MOST_STALE: usize = 10_000;

thread_local! {
    static STALE: Stale = Stale::default();
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
}

impl Stale {
    fn add(&self, table: Option<u32>) {
        self.is_any.set(true);
        let mut tables = self.tables.borrow_mut();
        match table {
            Some(table) if tables.len() < MOST_STALE => drop(tables.insert(table)),
            _ => self.is_all.set(true),
        }
    }

    fn take(&self) -> (bool, HashSet<u32>) {
        self.is_any.set(false);
        (self.is_all.replace(false), self.tables.take())
    }

    fn clear(&self) {
        self.take();
    }
}

/// There are few places for who wants to be told: once a process.
fn watch() {
    if !IS_WATCHED.replace(true) {
        // SAFETY: the callbacks live as long as the process.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), pg_sys::Datum::null());
            for cache in [PUBLICATIONOID, PUBLICATIONRELMAP, PUBLICATIONNAMESPACEMAP, NAMESPACEOID] {
                pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(catalog_changed), pg_sys::Datum::null());
            }
        }
    }
}

/// Zero: any table.
#[pg_guard]
unsafe extern "C-unwind" fn table_changed(_argument: pg_sys::Datum, table: pg_sys::Oid) {
    STALE.with(|stale| stale.add(Some(table.to_u32()).filter(|table| *table != 0)));
}

#[pg_guard]
unsafe extern "C-unwind" fn catalog_changed(_argument: pg_sys::Datum, _cache: c_int, _hash: u32) {
    STALE.with(|stale| stale.add(None));
}
