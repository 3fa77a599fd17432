//! Row types: columns by name, rows taken apart and formed.

use super::call::Call;
use super::type_input::{TypeInput, type_name};
use pgrx::{PgTupleDesc, pg_sys};

/// A row type: how to read each of its columns.
pub struct RowType {
    oid: pg_sys::Oid,
    /// Of this layout: ALTER TABLE makes another.
    layout: u64,
    columns: Vec<Option<ColumnInput>>,
}

pub struct ColumnInput {
    pub name: String,
    pub input: TypeInput,
}

impl RowType {
    /// `None` for a type that is not a row's.
    pub fn of(call: Call, oid: pg_sys::Oid) -> Option<&'static mut Self> {
        // SAFETY: reads the catalogs' caches.
        let layout = unsafe {
            if pg_sys::get_typtype(oid) as u8 != pg_sys::TYPTYPE_COMPOSITE {
                return None;
            }
            pg_sys::assign_record_type_identifier(oid, -1)
        };
        Some(call.kept(
            |kept: &Self| kept.oid == oid && kept.layout == layout,
            |context| {
                let columns = layout_of(oid)
                    .iter()
                    .map(|attribute| {
                        let column = || ColumnInput {
                            name: attribute.name().to_owned(),
                            input: TypeInput::new(attribute.type_oid().value(), attribute.type_mod(), context),
                        };
                        (!attribute.is_dropped()).then(column)
                    })
                    .collect();
                Self { oid, layout, columns }
            },
        ))
    }

    /// Names of its columns; `None` for a type that is not a row's.
    pub fn columns_of(oid: pg_sys::Oid) -> Option<Vec<String>> {
        relation_of_type(oid)?;
        let layout = layout_of(oid);
        let columns = layout.iter().filter(|column| !column.is_dropped());
        Some(columns.map(|column| column.name().to_owned()).collect())
    }

    pub fn name(&self) -> String {
        type_name(self.oid, -1)
    }

    /// As `TypeInput::require_least_rights`, for each column.
    pub fn require_least_rights(&self) {
        self.columns.iter().flatten().for_each(|column| column.input.require_least_rights());
    }

    pub fn column(&self, index: usize) -> Option<&ColumnInput> {
        self.columns.get(index)?.as_ref()
    }

    /// Every column's value, as `value` gives it. It is told the column's index and what `base`, a row of this
    /// type, has there.
    pub fn values<E>(
        &mut self,
        base: Option<pg_sys::Datum>,
        mut value: impl FnMut(usize, &mut ColumnInput, Option<pg_sys::Datum>) -> Result<Option<pg_sys::Datum>, E>,
    ) -> Result<Vec<Option<pg_sys::Datum>>, E> {
        let before = base.map(|base| deform(base, &layout_of(self.oid))).unwrap_or_default();
        let before = before.into_iter().chain(std::iter::repeat(None));
        let columns = self.columns.iter_mut().zip(before).enumerate();
        columns
            .map(|(index, (column, before))| column.as_mut().map_or(Ok(None), |column| value(index, column, before)))
            .collect()
    }

    /// A row of these values, `None` for NULL.
    pub fn form(&self, values: &[Option<pg_sys::Datum>]) -> pg_sys::Datum {
        let layout = layout_of(self.oid);
        let nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
        let values: Vec<pg_sys::Datum> = values.iter().map(|value| value.unwrap_or(pg_sys::Datum::null())).collect();
        // SAFETY: values and nulls are as many as the layout has columns, each of its column's type.
        unsafe {
            let tuple = pg_sys::heap_form_tuple(layout.as_ptr(), values.as_ptr().cast_mut(), nulls.as_ptr().cast_mut());
            pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
        }
    }
}

/// Of a row type: its table, or what stands for one.
pub fn relation_of_type(oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: reads the catalogs' caches.
    let relation = unsafe { pg_sys::get_typ_typrelid(oid) };
    (relation != pg_sys::InvalidOid).then_some(relation)
}

fn layout_of(oid: pg_sys::Oid) -> PgTupleDesc<'static> {
    // SAFETY: the descriptor is counted, and let go when it is dropped.
    unsafe { PgTupleDesc::from_pg(pg_sys::lookup_rowtype_tupdesc(oid, -1)) }
}

fn deform(row: pg_sys::Datum, layout: &PgTupleDesc) -> Vec<Option<pg_sys::Datum>> {
    let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); layout.len()], vec![true; layout.len()]);
    // SAFETY: the row's header tells its length; the layout is its type's.
    unsafe {
        let header = pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let length = pgrx::varlena::varsize(header.cast()) as u32;
        let mut tuple = pg_sys::HeapTupleData { t_len: length, t_data: header, ..Default::default() };
        pg_sys::heap_deform_tuple(&mut tuple, layout.as_ptr(), values.as_mut_ptr(), nulls.as_mut_ptr());
    }
    values.into_iter().zip(nulls).map(|(value, null)| (!null).then_some(value)).collect()
}
