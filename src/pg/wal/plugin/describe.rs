//! A table as it was at the change.

use super::filter::RowFilter;
use super::memory::new_memory;
use super::publication::{Publication, ancestors};
use super::published::{Published, TableRole};
use super::row::Columns;
use crate::pg::list::elements;
use crate::pg::table::key_columns;

use crate::pg::written_shape;
use audit_core::wire::ReplicaIdentity;
use audit_core::wire::protocol::{Relation, RelationColumn};
use pgrx::pg_sys::{FormData_pg_attribute, Oid};
use pgrx::{PgTupleDesc, pg_sys};
use std::ffi::CStr;

const SCHEMA: &CStr = c"audit_cdc_internal";
const SCHEMA_CHANGES: &[u8] = b"schema_changes";

/// With the tables on which it depends.
pub fn describe(
    relation: pg_sys::Relation,
    publication: &CStr,
    memory: pg_sys::MemoryContext,
) -> (TableRole, Vec<u32>) {
    // SAFETY: the relation is open.
    let (number, row) = unsafe { ((*relation).rd_id, &*(*relation).rd_rel) };
    let above = if row.relispartition { ancestors(number) } else { Vec::new() };
    let depends_on = [number].iter().chain(&above).map(|table| table.to_u32()).collect();
    let table = match Publication::named(publication) {
        // SAFETY: as above.
        _ if unsafe { !pg_sys::is_publishable_relation(relation) } => TableRole::Unpublished,
        _ if schema_of(row) == SCHEMA && name_of(&row.relname) == SCHEMA_CHANGES => TableRole::SchemaChanges,
        _ if schema_of(row) == SCHEMA => TableRole::OfTheLog,
        // who took it away is in schema_changes, and so is the gap
        None => TableRole::Unpublished,
        Some(publication) => match publication.publishes_as(number, row, &above) {
            None => TableRole::Unpublished,
            Some(published_as) => {
                TableRole::Published(Box::new(published(relation, &publication, published_as, memory)))
            }
        },
    };
    (table, depends_on)
}

fn published(
    relation: pg_sys::Relation,
    publication: &Publication,
    published_as: Oid,
    memory: pg_sys::MemoryContext,
) -> Published {
    // SAFETY: the relation is open.
    let (number, letter) = unsafe { ((*relation).rd_id, (*(*relation).rd_rel).relreplident as u8) };
    let is_within_root = published_as != number;
    let root = Opened::new(is_within_root.then_some(published_as));
    let target = root.0.unwrap_or(relation);
    let (own, attributes) = (attributes(relation), attributes(target));
    let identity = ReplicaIdentity::of(letter).unwrap_or(ReplicaIdentity::Nothing);
    let identity_columns = names(&own, identity_index(relation));
    let list = publication.columns_of(published_as);
    let memory = new_memory(memory);
    let mut columns = Columns::new(memory);
    let (mut described, mut never_sent, mut key) = (Vec::new(), Vec::new(), Vec::new());
    let key_columns = primary_key(target);
    for attribute in attributes.iter().filter(|attribute| !attribute.attisdropped) {
        let name = text(&attribute.attname);
        match source_of(attribute, &own).filter(|_| publication.sends(attribute, list.as_deref())) {
            Some(source) => {
                if key_columns.contains(&attribute.attnum) {
                    key.push(described.len() as u16);
                }
                let shape = written_shape(attribute.atttypid.to_u32());
                columns.add(source, attribute, shape.clone());
                described.push(RelationColumn {
                    shape,
                    is_identity: identity == ReplicaIdentity::Full || identity_columns.contains(&name),
                    name,
                });
            }
            None => never_sent.push(name),
        }
    }
    if key.len() < key_columns.len() {
        key.clear();
    }
    // SAFETY: the target is open.
    let row = unsafe { &*(*target).rd_rel };
    let description = Relation {
        number: number.to_u32(),
        oid: published_as.to_u32(),
        schema: schema_of(row).to_string_lossy().into_owned(),
        name: text(&row.relname),
        identity,
        columns: described,
        key,
        never_sent,
    };
    Published {
        number: number.to_u32(),
        description: Some(description),
        columns,
        filter: publication
            .filter_of(target)
            .map(|filter| RowFilter::new(filter, target, sources(&own, &attributes), memory)),
        actions: publication.actions,
        is_full: identity == ReplicaIdentity::Full,
        root: is_within_root.then_some(published_as),
        memory,
    }
}

/// A partition under its own name, which excluding `root` leaves out too. A TRUNCATE tells no columns.
pub fn partition_itself(relation: pg_sys::Relation, root: Oid) -> Relation {
    // SAFETY: the relation is open.
    let (number, row) = unsafe { ((*relation).rd_id, &*(*relation).rd_rel) };
    Relation {
        number: number.to_u32(),
        oid: root.to_u32(),
        schema: schema_of(row).to_string_lossy().into_owned(),
        name: text(&row.relname),
        identity: ReplicaIdentity::of(row.relreplident as u8).unwrap_or(ReplicaIdentity::Nothing),
        columns: Vec::new(),
        key: Vec::new(),
        never_sent: Vec::new(),
    }
}

/// For each column of the table that is published, where the row has it.
fn sources(own: &[FormData_pg_attribute], published: &[FormData_pg_attribute]) -> Vec<Option<(usize, bool)>> {
    let source = |attribute| source_of(attribute, own).map(|source| (source, attribute.attlen == -1));
    published.iter().map(source).collect()
}

fn source_of(attribute: &FormData_pg_attribute, own: &[FormData_pg_attribute]) -> Option<usize> {
    let is_same = |own: &FormData_pg_attribute| {
        !own.attisdropped && !attribute.attisdropped && name_of(&own.attname) == name_of(&attribute.attname)
    };
    own.iter().position(is_same)
}

/// A table that is open besides the one that PostgreSQL has opened.
struct Opened(Option<pg_sys::Relation>);

impl Opened {
    fn new(table: Option<Oid>) -> Self {
        // SAFETY: the catalogs are those of the change, in which it is there; null otherwise.
        Self(table.map(|table| unsafe { pg_sys::RelationIdGetRelation(table) }).filter(|opened| !opened.is_null()))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // after an error the end of the transaction closes it
        if let Some(opened) = self.0.filter(|_| !std::thread::panicking()) {
            // SAFETY: opened above.
            unsafe { pg_sys::RelationClose(opened) };
        }
    }
}

fn attributes(relation: pg_sys::Relation) -> Vec<FormData_pg_attribute> {
    // SAFETY: the relation is open.
    let descriptor = unsafe { PgTupleDesc::from_pg_unchecked((*relation).rd_att) };
    descriptor.iter().copied().collect()
}

/// Columns of the index by which old rows are told, in the table's own numbers.
fn identity_index(relation: pg_sys::Relation) -> Vec<i16> {
    // SAFETY: the relation is open.
    let index = unsafe { pg_sys::RelationGetReplicaIndex(relation) };
    with_index(index, key_columns).unwrap_or_default()
}

/// In the order of columns. A key that is deferrable is one too.
fn primary_key(relation: pg_sys::Relation) -> Vec<i16> {
    // SAFETY: the relation is open; the list holds oids.
    let indexes = unsafe { pg_sys::RelationGetIndexList(relation) };
    let key = |index: &pg_sys::ListCell| {
        // SAFETY: as above.
        let index = unsafe { index.oid_value };
        with_index(index, |index| (index.indisprimary && index.indisvalid).then(|| key_columns(index))).flatten()
    };
    elements(indexes).iter().find_map(key).unwrap_or_default()
}

fn with_index<T>(index: Oid, read: impl FnOnce(&pg_sys::FormData_pg_index) -> T) -> Option<T> {
    // SAFETY: the cache entry is a pg_index row, released after reading.
    unsafe {
        let entry = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::INDEXRELID as i32, index.into());
        if entry.is_null() {
            return None;
        }
        let result = read(&*pg_sys::GETSTRUCT(entry).cast::<pg_sys::FormData_pg_index>());
        pg_sys::ReleaseSysCache(entry);
        Some(result)
    }
}

fn names(attributes: &[FormData_pg_attribute], numbers: Vec<i16>) -> Vec<String> {
    let named = attributes.iter().filter(|attribute| numbers.contains(&attribute.attnum));
    named.map(|attribute| text(&attribute.attname)).collect()
}

fn schema_of(row: &pg_sys::FormData_pg_class) -> &CStr {
    // SAFETY: a palloced string, or null for a schema that is gone.
    unsafe {
        let name = pg_sys::get_namespace_name(row.relnamespace);
        if name.is_null() { c"" } else { CStr::from_ptr(name) }
    }
}

fn name_of(name: &pg_sys::NameData) -> &[u8] {
    // SAFETY: a name ends with a zero byte.
    unsafe { CStr::from_ptr(name.data.as_ptr()) }.to_bytes()
}

fn text(name: &pg_sys::NameData) -> String {
    String::from_utf8_lossy(name_of(name)).into_owned()
}
