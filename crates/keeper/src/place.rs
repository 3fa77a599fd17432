//! Where an archive is: a folder, or a bucket of S3 with a prefix. A file is there whole, or is not there.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, WriteMultipart};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::io::{BufReader, Read};
use std::path::{Path as FolderPath, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Parts of an upload; S3 takes 10,000 of them.
const PART: usize = 8 << 20;
/// Parts that may be on their way at once.
const PARTS_ON_THEIR_WAY: usize = 2;
const READ_AT_ONCE: usize = 1 << 20;

pub struct Place {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// `None`: it is no folder of this machine.
    folder: Option<PathBuf>,
    /// As the database has it on record: the same however it was said.
    pub name: String,
    /// Of a folder that is written to. It is let go when the program ends, however it ends.
    _lock: Option<File>,
}

/// DuckDB and Spark pass over such a name.
const LOCK: &str = ".lock";

impl Place {
    /// `to`: a folder, or s3://bucket/prefix. What else S3 needs to know comes from the environment.
    /// Only one program at a time writes to a folder. Of a bucket nothing tells.
    pub fn new(to: &str, writes: bool) -> anyhow::Result<Self> {
        if let Some(rest) = to.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            ensure!(!bucket.is_empty(), "\"{to}\" names no bucket");
            let store = AmazonS3Builder::from_env().with_bucket_name(bucket).build();
            let store = store.context("S3 cannot be used so")?;
            let prefix = Path::parse(prefix)?;
            let name = format!("s3://{bucket}/{prefix}").trim_end_matches('/').to_owned();
            return Ok(Self { store: Arc::new(store), prefix, folder: None, name, _lock: None });
        }
        ensure!(!to.contains("://"), "\"{to}\" is neither a folder nor s3://bucket/prefix");
        if writes {
            std::fs::create_dir_all(to).with_context(|| format!("the folder {to} cannot be made"))?;
        }
        let folder = std::fs::canonicalize(to).with_context(|| format!("there is no folder {to}"))?;
        let lock = if writes { Some(locked(&folder)?) } else { None };
        let store = LocalFileSystem::new_with_prefix(&folder)?;
        let name = folder.display().to_string();
        Ok(Self { store: Arc::new(store), prefix: Path::default(), folder: Some(folder), name, _lock: lock })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.child(part))
    }

    /// Names of folders in it.
    pub async fn folders(&self) -> anyhow::Result<Vec<String>> {
        let found = self.store.list_with_delimiter(Some(&self.prefix)).await?;
        Ok(found.common_prefixes.iter().filter_map(|path| path.filename()).map(str::to_owned).collect())
    }

    /// `None`: there is no such file.
    pub async fn get(&self, name: &str) -> anyhow::Result<Option<Bytes>> {
        match self.store.get(&self.path(name)).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes and SHA-256 of a file; `None`: there is no such file.
    pub async fn sum(&self, name: &str) -> anyhow::Result<Option<(u64, String)>> {
        let mut parts = match self.store.get(&self.path(name)).await {
            Ok(found) => found.into_stream(),
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut sum = Sum::default();
        while let Some(part) = parts.try_next().await? {
            sum.add(&part);
        }
        Ok(Some(sum.finish()))
    }

    /// `None`: there is no such file.
    pub async fn size(&self, name: &str) -> anyhow::Result<Option<u64>> {
        match self.store.head(&self.path(name)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        Ok(self.store.delete(&self.path(name)).await?)
    }

    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        self.store.put(&self.path(name), bytes.into()).await?;
        self.settle(name)
    }

    /// A file that becomes visible once it is finished.
    pub async fn begin(&self, name: &str) -> anyhow::Result<Upload> {
        self.sweep(name)?;
        let upload = self.store.put_multipart(&self.path(name)).await?;
        Ok(Upload { to: WriteMultipart::new_with_chunk_size(upload, PART), sum: Sum::default(), name: name.to_owned() })
    }

    /// What a run that was killed has left beside a file: it may hold what was erased since.
    fn sweep(&self, name: &str) -> anyhow::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = folder.join(name);
        let (Some(parent), Some(file)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Ok(());
        };
        let Ok(beside) = std::fs::read_dir(parent) else { return Ok(()) };
        for found in beside {
            let found = found?;
            let is_left = found.file_name().to_str().is_some_and(|name| is_left_of(name, file));
            if is_left {
                std::fs::remove_file(found.path())?;
            }
        }
        Ok(())
    }

    /// Of a folder: onto the disk, so that a power failure takes nothing back.
    fn settle(&self, name: &str) -> anyhow::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = folder.join(name);
        File::open(&path)?.sync_all()?;
        for folder in path.ancestors().skip(1).take(2) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// A file to be read here and there, from a thread that may wait.
    pub async fn open(&self, name: &str) -> anyhow::Result<Remote> {
        let path = self.path(name);
        let size = self.store.head(&path).await?.size;
        Ok(Remote { store: self.store.clone(), path, size, runtime: Handle::current() })
    }
}

fn locked(folder: &FolderPath) -> anyhow::Result<File> {
    let path = folder.join(LOCK);
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another audit-keeper is writing to {}", folder.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("{} cannot be locked", path.display())),
    }
}

fn is_left_of(name: &str, file: &str) -> bool {
    let number = name.strip_prefix(file).and_then(|rest| rest.strip_prefix('#'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[derive(Clone, Default)]
struct Sum {
    bytes: u64,
    digest: Sha256,
}

impl Sum {
    fn add(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        self.digest.update(part);
    }

    fn finish(self) -> (u64, String) {
        (self.bytes, crate::copy::hex(&self.digest.finalize()))
    }
}

pub struct Upload {
    to: WriteMultipart,
    sum: Sum,
    name: String,
}

impl Upload {
    pub async fn write(&mut self, part: Vec<u8>) -> anyhow::Result<()> {
        self.sum.add(&part);
        self.to.wait_for_capacity(PARTS_ON_THEIR_WAY).await?;
        self.to.put(part.into());
        Ok(())
    }

    /// Bytes so far, and their SHA-256.
    pub fn sum(&self) -> (u64, String) {
        self.sum.clone().finish()
    }

    /// Makes it visible, in place of a file of this name.
    pub async fn finish(self, place: &Place) -> anyhow::Result<()> {
        self.to.finish().await?;
        place.settle(&self.name)
    }

    pub async fn abort(self) {
        // what stays is not visible, and the next run sweeps it
        let _ = self.to.abort().await;
    }
}

pub struct Remote {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    runtime: Handle,
}

impl Length for Remote {
    fn len(&self) -> u64 {
        self.size
    }
}

impl Remote {
    fn range(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = self.size.min(start.saturating_add(length as u64));
        let asked = self.store.get_range(&self.path, start..end);
        self.runtime.block_on(asked).map_err(|error| ParquetError::External(Box::new(error)))
    }
}

impl ChunkReader for Remote {
    type T = BufReader<Tail>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let file =
            Self { store: self.store.clone(), path: self.path.clone(), size: self.size, runtime: self.runtime.clone() };
        Ok(BufReader::with_capacity(READ_AT_ONCE, Tail { file, at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.range(start, length)
    }
}

/// A file, from a place on.
pub struct Tail {
    file: Remote,
    at: u64,
}

impl Read for Tail {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.file.size || to.is_empty() {
            return Ok(0);
        }
        let found = self.file.range(self.at, to.len()).map_err(std::io::Error::other)?;
        let count = found.len().min(to.len());
        to[..count].copy_from_slice(&found[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::is_left_of;

    #[test]
    fn only_what_a_killed_run_has_left_is_swept() {
        assert!(is_left_of("log.parquet#1", "log.parquet") && is_left_of("log.parquet#12", "log.parquet"));
        for name in ["log.parquet", "log.parquet#", "log.parquet#a", "other.parquet#1", "_manifest.json"] {
            assert!(!is_left_of(name, "log.parquet"), "{name}");
        }
    }
}
