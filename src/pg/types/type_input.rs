//! Types: their input functions, and how Sequin encodes their values.

use crate::pg::role::{require_least_rights, with_least_rights};
use audit_core::encoding::TypeShape;
use pgrx::{PgTupleDesc, pg_sys};
use std::ffi::{CStr, CString};

/// A type's input function, and what decides how values of the type are encoded.
pub struct TypeInput {
    function: pg_sys::FmgrInfo,
    parameter: pg_sys::Oid,
    oid: pg_sys::Oid,
    modifier: i32,
    pub shape: TypeShape,
    /// Of the category of strings: any text is a value of it.
    pub is_textual: bool,
    /// Whose code may run when a value is read, the outermost first.
    code_owners: Vec<pg_sys::Oid>,
}

impl TypeInput {
    /// `context` holds what the input function keeps from call to call, and must outlive this.
    pub fn new(oid: pg_sys::Oid, modifier: i32, context: pg_sys::MemoryContext) -> Self {
        let base = base_type(oid);
        // SAFETY: reads the catalogs' caches; a type that does not exist is an error.
        unsafe {
            let (mut input, mut parameter, mut function) = (pg_sys::InvalidOid, pg_sys::InvalidOid, Default::default());
            pg_sys::getTypeInputInfo(oid, &mut input, &mut parameter);
            pg_sys::fmgr_info_cxt(input, &mut function, context);
            let (mut category, mut preferred) = (0, false);
            pg_sys::get_type_category_preferred(base, &mut category, &mut preferred);
            let is_textual = category as u8 == pg_sys::TYPCATEGORY_STRING;
            let code_owners = code_owners(oid);
            Self { function, parameter, oid, modifier, shape: shape(oid), is_textual, code_owners }
        }
    }

    /// Raises what the input function raises.
    pub fn read(&mut self, text: &str) -> pg_sys::Datum {
        let text = CString::new(text).unwrap_or_default();
        // SAFETY: the function is the type's own, and gets its parameter and modifier.
        let mut read = || unsafe {
            pg_sys::InputFunctionCall(&mut self.function, text.as_ptr().cast_mut(), self.parameter, self.modifier)
        };
        if self.code_owners.is_empty() { read() } else { with_least_rights(&self.code_owners, read) }
    }

    /// An error if neither the caller nor whose code may run has all rights of the other.
    pub fn require_least_rights(&self) {
        require_least_rights(&self.code_owners);
    }

    pub fn name(&self) -> String {
        type_name(self.oid, self.modifier)
    }
}

/// As captured values of the type are encoded. A type that is gone travels as text, as does a domain over a domain.
pub fn written_shape(oid: u32) -> TypeShape {
    let oid = pg_sys::Oid::from(oid);
    // SAFETY: reads the catalogs' caches, and is null for a type that does not exist.
    let exists = unsafe {
        pg_sys::SearchSysCacheExists(pg_sys::SysCacheIdentifier::TYPEOID as i32, oid.into(), zero(), zero(), zero())
    };
    if !exists || domains(oid) > 1 {
        return TypeShape::Text;
    }
    let base = base_type(oid);
    match shape(base) {
        TypeShape::Array { delimiter, .. } => {
            // SAFETY: reads the catalogs' caches.
            let element = unsafe { pg_sys::get_element_type(base) };
            TypeShape::Array { element: Box::new(written_shape(element.to_u32())), delimiter }
        }
        plain => plain.as_written(),
    }
}

/// As values of a type are read that is there.
pub fn read_shape(oid: u32) -> TypeShape {
    shape(pg_sys::Oid::from(oid))
}

fn zero() -> pg_sys::Datum {
    pg_sys::Datum::null()
}

pub fn type_name(oid: pg_sys::Oid, modifier: i32) -> String {
    // SAFETY: gives a palloced string for any oid.
    unsafe { CStr::from_ptr(pg_sys::format_type_with_typemod(oid, modifier)).to_string_lossy().into_owned() }
}

fn base_type(oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: reads the catalogs' caches.
    unsafe { pg_sys::getBaseType(oid) }
}

fn shape(oid: pg_sys::Oid) -> TypeShape {
    let base = base_type(oid);
    // SAFETY: reads the catalogs' caches.
    let element = unsafe { pg_sys::get_element_type(base) };
    let is_vector = matches!(base, pg_sys::INT2VECTOROID | pg_sys::OIDVECTOROID); // written without braces
    if element != pg_sys::InvalidOid && !is_vector {
        return TypeShape::Array { element: Box::new(shape(element)), delimiter: delimiter(element) };
    }
    match base {
        pg_sys::BOOLOID => TypeShape::Boolean,
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::OIDOID => TypeShape::Integer,
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID => TypeShape::Float,
        pg_sys::JSONOID | pg_sys::JSONBOID if domains(oid) > 1 => TypeShape::JsonInString,
        pg_sys::JSONOID => TypeShape::Json,
        pg_sys::JSONBOID => TypeShape::Jsonb,
        pg_sys::DATEOID => TypeShape::Date,
        pg_sys::DATERANGEOID => TypeShape::DateRange,
        pg_sys::TIMESTAMPOID => TypeShape::Timestamp,
        pg_sys::TIMESTAMPTZOID => TypeShape::TimestampTz,
        pg_sys::TIMETZOID => TypeShape::TimeTz,
        pg_sys::INTERVALOID => TypeShape::Interval,
        pg_sys::BYTEAOID => TypeShape::Bytea,
        pg_sys::TSVECTOROID => TypeShape::TsVector,
        _ if type_name(base, -1).rsplit('.').next() == Some("hstore") => TypeShape::Hstore,
        _ => TypeShape::Text,
    }
}

/// Whose code may run when a value of the type is read. First who owns the outermost type that may hold a domain, then
/// those of what stands within it now.
fn code_owners(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let (mut owners, mut seen, mut next) = (Vec::new(), Vec::new(), vec![oid]);
    while let Some(part) = next.pop() {
        let Some(holder) = code_type(part) else { continue };
        if !seen.contains(&holder.oid) {
            seen.push(holder.oid);
            if !owners.contains(&holder.typowner) {
                owners.push(holder.typowner);
            }
            next.extend(parts(&holder));
        }
    }
    owners
}

/// Of which a type is made.
fn parts(holder: &pg_sys::FormData_pg_type) -> Vec<pg_sys::Oid> {
    // SAFETY: reads the catalogs' caches; the layout is counted, and let go when it is dropped.
    unsafe {
        match holder.typtype as u8 {
            pg_sys::TYPTYPE_DOMAIN => vec![holder.typbasetype],
            pg_sys::TYPTYPE_RANGE => vec![pg_sys::get_range_subtype(holder.oid)],
            pg_sys::TYPTYPE_MULTIRANGE => vec![pg_sys::get_multirange_range(holder.oid)],
            _ => {
                let layout = PgTupleDesc::from_pg(pg_sys::lookup_rowtype_tupdesc(holder.oid, -1));
                layout.iter().filter(|column| !column.attisdropped).map(|column| column.atttypid).collect()
            }
        }
    }
}

/// The outermost type that users have made and that may hold a domain, whether it does now or not.
pub fn code_type(oid: pg_sys::Oid) -> Option<pg_sys::FormData_pg_type> {
    let row = type_row(oid)?;
    let holds_types = matches!(
        row.typtype as u8,
        pg_sys::TYPTYPE_DOMAIN | pg_sys::TYPTYPE_COMPOSITE | pg_sys::TYPTYPE_RANGE | pg_sys::TYPTYPE_MULTIRANGE
    );
    if holds_types && oid.to_u32() >= pg_sys::FirstNormalObjectId {
        Some(row)
    } else if row.typelem != pg_sys::InvalidOid {
        code_type(row.typelem)
    } else {
        None
    }
}

/// `None`: there is no such type.
fn type_row(oid: pg_sys::Oid) -> Option<pg_sys::FormData_pg_type> {
    // SAFETY: the cache entry is a pg_type row, released after reading.
    unsafe {
        let entry = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID as i32, oid.into());
        if entry.is_null() {
            return None;
        }
        let row = *pg_sys::GETSTRUCT(entry).cast::<pg_sys::FormData_pg_type>();
        pg_sys::ReleaseSysCache(entry);
        Some(row)
    }
}

/// How many domains stand between the type and its base.
fn domains(mut oid: pg_sys::Oid) -> usize {
    let mut count = 0;
    while let Some(row) = type_row(oid).filter(|row| row.typtype as u8 == pg_sys::TYPTYPE_DOMAIN) {
        (oid, count) = (row.typbasetype, count + 1);
    }
    count
}

fn delimiter(element: pg_sys::Oid) -> char {
    type_row(element).map_or(',', |row| (row.typdelim as u8).into())
}
