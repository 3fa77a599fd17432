//! Values of variable length.

use pgrx::pg_sys::{self, Datum};
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, varlena_to_byte_slice};

/// A value that did not change and stands where the table keeps large ones: it was not logged again
/// (PostgreSQL source, `postgres.h`, `VARATT_IS_EXTERNAL_ONDISK`).
pub fn is_on_disk(value: Datum) -> bool {
    let pointer = value.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the value is of variable length.
    unsafe {
        varatt_is_1b_e(pointer)
            && u32::from((*pointer.cast::<pg_sys::varattrib_1b_e>()).va_tag) == pg_sys::vartag_external::VARTAG_ONDISK
    }
}

/// Its bytes. Those that had to be put together live in the current memory context.
pub fn bytes_of<'a>(value: Datum) -> &'a [u8] {
    let pointer = value.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the value is of variable length, and all of it is there.
    unsafe { varlena_to_byte_slice(if is_plain(value) { pointer } else { pg_sys::pg_detoast_datum_packed(pointer) }) }
}

/// How many there are, without putting them together.
pub fn size_of(value: Datum) -> usize {
    if is_plain(value) {
        return bytes_of(value).len();
    }
    // SAFETY: the value is of variable length.
    unsafe { pg_sys::toast_raw_datum_size(value) }
}

/// Neither compressed nor elsewhere.
fn is_plain(value: Datum) -> bool {
    let pointer = value.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the value is of variable length.
    unsafe { !varatt_is_1b_e(pointer) && !varatt_is_4b_c(pointer) }
}
