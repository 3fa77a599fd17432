//! A call of a function of ours: its arguments, and what it keeps for the next.

use pgrx::datum::{AnyElement, DatumWithOid};
use pgrx::pg_sys::BuiltinOid;
use pgrx::{FromDatum, PgMemoryContexts, pg_sys};
use std::ffi::CStr;

/// The call of one of our functions whose arguments Rust types do not describe.
#[derive(Clone, Copy)]
pub struct Call(pg_sys::FunctionCallInfo);

impl Call {
    /// `fcinfo` is what PostgreSQL gave to the function that runs now.
    pub fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self(fcinfo)
    }

    /// `None` where the caller's expression is not known, as in a call through SPI's or C's own means.
    pub fn type_of(self, argument: i32) -> Option<pg_sys::Oid> {
        // SAFETY: flinfo belongs to the running call.
        let oid = unsafe { pg_sys::get_fn_expr_argtype((*self.0).flinfo, argument) };
        (oid != pg_sys::InvalidOid).then_some(oid)
    }

    /// What called it, if that is no expression.
    pub(in crate::pg) fn context(self) -> pg_sys::fmNodePtr {
        // SAFETY: the call is the running one.
        unsafe { (*self.0).context }
    }

    pub(in crate::pg) fn info(self) -> pg_sys::FunctionCallInfo {
        self.0
    }

    /// An argument on its way into a query, of this type.
    pub fn passed(self, index: usize, oid: BuiltinOid) -> DatumWithOid<'static> {
        match self.argument(index) {
            // SAFETY: the argument is declared so.
            Some(datum) => unsafe { DatumWithOid::new(datum, oid.value()) },
            None => DatumWithOid::null_oid(oid.value()),
        }
    }

    /// An argument that is a row.
    pub fn row(self, index: usize) -> Option<PassedRow> {
        let datum = self.argument(index)?;
        // SAFETY: the argument is declared as a row.
        Some(unsafe { PassedRow::of(datum) })
    }

    pub fn argument(self, index: usize) -> Option<pg_sys::Datum> {
        // SAFETY: our functions are declared with the arguments that they ask for.
        let argument = unsafe { *(*self.0).args.as_slice((*self.0).nargs as usize).get(index)? };
        (!argument.isnull).then_some(argument.value)
    }

    pub fn oid(self, index: usize) -> Option<pg_sys::Oid> {
        self.argument(index).map(|oid| pg_sys::Oid::from(oid.value() as u32))
    }

    /// The text of a `jsonb` argument.
    pub fn jsonb(self, index: usize) -> Option<String> {
        let datum = self.argument(index)?;
        // SAFETY: the argument is declared jsonb; the text is palloced, NUL-terminated and, in a UTF8 database, UTF-8.
        unsafe {
            let varlena = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            let jsonb = varlena.cast::<pg_sys::Jsonb>();
            let size = pgrx::varlena::varsize(varlena) as i32;
            let text = pg_sys::JsonbToCString(std::ptr::null_mut(), &raw mut (*jsonb).root, size);
            let text = CStr::from_ptr(text);
            Some(text.to_str().map_or_else(|_| text.to_string_lossy().into_owned(), str::to_owned))
        }
    }

    /// What follows the length in a `jsonb` argument. It lives as long as the call.
    pub fn jsonb_bytes(self, index: usize) -> Option<&'static [u8]> {
        let datum = self.argument(index)?;
        // SAFETY: the argument is declared jsonb. Detoasted it lives in the memory of the call, and no caller keeps it.
        unsafe {
            let value = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            Some(std::slice::from_raw_parts(value.cast::<u8>().add(4), pgrx::varlena::varsize(value) - 4))
        }
    }

    /// A `text` argument.
    pub fn text(self, index: usize) -> Option<String> {
        let datum = self.argument(index)?;
        // SAFETY: the argument is declared text.
        unsafe { String::from_datum(datum, false) }
    }

    /// The elements, without nulls, of a `text[]` argument.
    pub fn texts(self, index: usize) -> Option<Vec<String>> {
        let datum = self.argument(index)?;
        // SAFETY: the argument is declared text[].
        let texts = unsafe { Vec::<Option<String>>::from_datum(datum, false) };
        texts.map(|texts| texts.into_iter().flatten().collect())
    }

    /// The elements, without nulls, of a `bigint[]` argument.
    pub fn bigints(self, index: usize) -> Option<Vec<i64>> {
        let datum = self.argument(index)?;
        // SAFETY: the argument is declared bigint[].
        let numbers = unsafe { Vec::<Option<i64>>::from_datum(datum, false) };
        numbers.map(|numbers| numbers.into_iter().flatten().collect())
    }

    /// What the first argument of an aggregate's function keeps from row to row, and its datum.
    pub fn aggregated<T>(self, make: impl FnOnce() -> T) -> (&'static mut T, pg_sys::Datum) {
        // SAFETY: the function is declared to take what it returned for the row before. That lives as long as the
        // group, and no caller keeps the reference beyond its call.
        unsafe {
            let kept = self.argument(0).map(|kept| kept.cast_mut_ptr::<T>()).unwrap_or_else(|| {
                let mut context = std::ptr::null_mut();
                pg_sys::AggCheckCallContext(self.0, &mut context);
                if context.is_null() {
                    context = pg_sys::CurrentMemoryContext;
                }
                PgMemoryContexts::For(context).leak_and_drop_on_delete(make())
            });
            (&mut *kept, kept.into())
        }
    }

    /// What is kept from one call of an expression to its next, made anew when it is not `fresh`.
    pub fn kept<T>(
        self,
        fresh: impl FnOnce(&T) -> bool,
        make: impl FnOnce(pg_sys::MemoryContext) -> T,
    ) -> &'static mut T {
        // SAFETY: fn_extra is ours alone, of one type a function. It lives as long as fn_mcxt, which outlives this
        // call, and no caller of `kept` keeps the reference beyond its call.
        unsafe {
            let flinfo = (*self.0).flinfo;
            let kept = (*flinfo).fn_extra.cast::<T>();
            if kept.is_null() || !fresh(&*kept) {
                let context = (*flinfo).fn_mcxt;
                (*flinfo).fn_extra = PgMemoryContexts::For(context).leak_and_drop_on_delete(make(context)).cast();
            }
            &mut *(*flinfo).fn_extra.cast::<T>()
        }
    }
}

/// A row as one value: among a call's arguments, there as long as the call, or in a column of a query.
#[derive(Clone, Copy)]
pub struct PassedRow {
    datum: pg_sys::Datum,
    oid: pg_sys::Oid,
}

impl PassedRow {
    /// # Safety
    /// The datum is a row. What is made of it lives as long as the current memory context.
    pub(in crate::pg) unsafe fn of(datum: pg_sys::Datum) -> Self {
        // SAFETY: a row's header tells its type.
        unsafe {
            let header = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
            Self { datum: pg_sys::Datum::from(header), oid: (*header).t_choice.t_datum.datum_typeid }
        }
    }

    /// The same, whatever becomes of the datum.
    ///
    /// # Safety
    /// The datum is a row.
    pub(in crate::pg) unsafe fn copied(datum: pg_sys::Datum) -> Self {
        // SAFETY: as above.
        unsafe { Self::of(pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr()))) }
    }

    /// On its way into a query.
    pub fn passed(self) -> DatumWithOid<'static> {
        // SAFETY: the datum is a row of that type.
        unsafe { DatumWithOid::new(self.datum, self.oid) }
    }
}

/// A value of a polymorphic result.
pub fn any_element(datum: pg_sys::Datum, oid: pg_sys::Oid) -> Option<AnyElement> {
    // SAFETY: `datum` is of type `oid`: callers read it by that type's input function, or got it as such.
    unsafe { AnyElement::from_polymorphic_datum(datum, false, oid) }
}
