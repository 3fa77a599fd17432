//! The secret of masks, in a file of the data directory. It is made once and never replaced: equal values stay equal.

use super::secrets::{random, write_new};
use audit_core::mask::{MaskSecret, SECRET_BYTES};
use audit_core::message::hex;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::path::Path;

/// A process of the server works in its data directory.
const FILE: &str = "audit_cdc_mask_secret";
const MADE: &str = "audit_cdc_mask_secret.made";

thread_local! {
    static SECRET: Cell<Option<MaskSecret>> = const { Cell::new(None) };
}

/// As the file has it.
pub fn mask_secret() -> Result<MaskSecret, Error> {
    if let Some(secret) = SECRET.get() {
        return Ok(secret);
    }
    let secret =
        parsed(&fs::read_to_string(FILE)?).ok_or_else(|| Error::new(ErrorKind::InvalidData, "it is damaged"))?;
    SECRET.set(Some(secret));
    Ok(secret)
}

/// The caller keeps others from doing the same. True: there was none.
pub fn make_mask_secret() -> Result<bool, Error> {
    if Path::new(FILE).try_exists()? {
        return mask_secret().map(|_| false);
    }
    // of two who make one at the same time, in two databases, the first counts
    write_new(MADE, &format!("{}\n", hex(&random()?)))?;
    match fs::hard_link(MADE, FILE) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        linked => linked?,
    }
    fs::remove_file(MADE)?;
    File::open(Path::new("."))?.sync_all()?;
    Ok(true)
}

fn parsed(file: &str) -> Option<MaskSecret> {
    let digits = file.trim_end();
    if digits.len() != 2 * SECRET_BYTES || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; SECRET_BYTES];
    for (byte, place) in bytes.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(digits.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(MaskSecret(bytes))
}
