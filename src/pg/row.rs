use super::{Call, TypeInput, type_name};
use pgrx::{PgTupleDesc, pg_sys};

/// A row type: how to read each of its columns.
pub struct RowType {
    oid: pg_sys::Oid,
    /// Of this layout: ALTER TABLE makes another.
    layout: u64,
    columns: Vec<Option<Column>>,
}

pub struct Column {
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
                        let column = || Column {
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

    pub fn name(&self) -> String {
        type_name(self.oid, -1)
    }

    /// A row of which `value` gives every column's, `None` for NULL. It is told what `base`, a row of this type,
    /// has there.
    pub fn form<E>(
        &mut self,
        base: Option<pg_sys::Datum>,
        mut value: impl FnMut(&mut Column, Option<pg_sys::Datum>) -> Result<Option<pg_sys::Datum>, E>,
    ) -> Result<pg_sys::Datum, E> {
        let layout = layout_of(self.oid);
        let before = base.map_or_else(|| vec![None; layout.len()], |base| deform(base, &layout));
        let (mut values, mut nulls) = (Vec::with_capacity(layout.len()), Vec::with_capacity(layout.len()));
        for (column, before) in self.columns.iter_mut().zip(before) {
            let datum = match column {
                Some(column) => value(column, before)?,
                None => None,
            };
            values.push(datum.unwrap_or(pg_sys::Datum::null()));
            nulls.push(datum.is_none());
        }
        // SAFETY: values and nulls are as many as the layout has columns, each of its column's type.
        Ok(unsafe {
            let tuple = pg_sys::heap_form_tuple(layout.as_ptr(), values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
        })
    }
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
