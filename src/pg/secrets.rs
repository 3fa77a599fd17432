//! The server's secrets, with which it seals what it says. They are in a file of the data directory and in shared
//! memory, where no role can read them.

use audit_core::context::{SECRET_BYTES, Sealer, Secret, Secrets};
use pgrx::prelude::*;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{PgLwLock, pg_shmem_init};
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A process of the server works in its data directory.
const FILE: &str = "audit_cdc_secrets";

/// Empty until the first one is asked for.
#[derive(Clone, Copy, Default)]
struct Shared(Secrets);

// SAFETY: no pointers in it.
unsafe impl PGRXSharedMemory for Shared {}

// SAFETY: the name is ours.
static SECRETS: PgLwLock<Shared> = unsafe { PgLwLock::new(c"audit_cdc secrets") };

/// They are there: this process has seen them, and nobody takes them away.
static HAS_SEEN: AtomicBool = AtomicBool::new(false);

/// This process has said that it cannot.
static HAS_SAID: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Of the secret with which this process has sealed last.
    static SEALER: RefCell<Option<Sealer>> = const { RefCell::new(None) };
}

/// To be called while the library is preloaded.
#[allow(unexpected_cfgs)] // of the macro, for releases that are not supported here
pub fn init_secrets() {
    pg_shmem_init!(SECRETS);
}

/// Runs `work` with the secret in use, which is not replaced meanwhile. `None`: there is none, and the server's log
/// tells why.
pub fn with_sealer<T>(work: impl FnOnce(&Sealer) -> T) -> Option<T> {
    if !has_secrets() {
        return None;
    }
    let secrets = SECRETS.share();
    let secret = secrets.0.in_use()?;
    SEALER.with_borrow_mut(|last| {
        last.take_if(|last| !last.is_of(&secret));
        Some(work(last.get_or_insert_with(|| Sealer::new(secret))))
    })
}

/// The one with this id, if it may have sealed what ends at this position of the WAL.
pub fn secret_at(id: u64, position: u64) -> Option<Secret> {
    if has_secrets() { SECRETS.share().0.at(id, position) } else { None }
}

/// Another one from here on.
pub fn replace_secret() -> Result<(), Error> {
    // a damaged file is replaced too
    if let Err(error) = load()
        && error.kind() != ErrorKind::InvalidData
    {
        return Err(error);
    }
    let mut secrets = SECRETS.exclusive();
    // SAFETY: reads shared memory. Who seals holds the lock until its message is written.
    let position = unsafe { pg_sys::GetXLogInsertRecPtr() };
    let next = secrets.0.with_next(random()?, position);
    write(&next)?;
    secrets.0 = next;
    Ok(())
}

fn has_secrets() -> bool {
    if !super::wal::is_preloaded() {
        return false;
    }
    if HAS_SEEN.load(Relaxed) {
        return true;
    }
    match load() {
        Ok(()) => {
            HAS_SEEN.store(true, Relaxed);
            true
        }
        Err(error) => {
            if !HAS_SAID.swap(true, Relaxed) {
                let reason = error.to_string();
                ereport!(
                    LOG,
                    PgSqlErrorCode::ERRCODE_IO_ERROR,
                    "audit_cdc cannot seal what it says of transactions",
                    format!("File \"{FILE}\" of the data directory: {reason}.")
                );
            }
            false
        }
    }
}

/// From the file, which is made if it is not there.
fn load() -> Result<(), Error> {
    let mut secrets = SECRETS.exclusive();
    if secrets.0.in_use().is_some() {
        return Ok(());
    }
    secrets.0 = match fs::read_to_string(FILE) {
        Ok(file) => Secrets::parse(&file).ok_or_else(|| Error::new(ErrorKind::InvalidData, "it is damaged"))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let first = Secrets::default().with_next(random()?, 0);
            write(&first)?;
            first
        }
        Err(error) => return Err(error),
    };
    Ok(())
}

fn write(secrets: &Secrets) -> Result<(), Error> {
    write_new(FILE, &secrets.file())
}

/// A file of the data directory, whole or not at all, for nobody else to read.
pub(super) fn write_new(name: &str, text: &str) -> Result<(), Error> {
    let new = format!("{name}.new");
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, name)?;
    File::open(Path::new("."))?.sync_all()
}

pub(super) fn random() -> Result<[u8; SECRET_BYTES], Error> {
    let mut bytes = [0; SECRET_BYTES];
    // SAFETY: writes so many bytes.
    if unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) } {
        Ok(bytes)
    } else {
        Err(Error::other("the system gives no random bytes"))
    }
}
