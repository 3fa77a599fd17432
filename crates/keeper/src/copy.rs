//! The stream of COPY in PostgreSQL's binary format: taken apart into rows, and put together again. Its SHA-256 is the
//! digest of a month: what is read from the database and what is read from an archive give the same bytes.

use anyhow::{Context, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

/// Signature, no flags, and a header extension of no length.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: i16 = -1;

/// The fields of a row; none where it is null.
pub type Row = Vec<Option<Bytes>>;

/// Takes a stream apart, in whatever parts it comes.
pub struct Splitter {
    pending: BytesMut,
    digest: Sha256,
    has_begun: bool,
    has_ended: bool,
}

impl Splitter {
    pub fn new() -> Self {
        Self { pending: BytesMut::new(), digest: Sha256::new(), has_begun: false, has_ended: false }
    }

    pub fn push(&mut self, part: &[u8]) {
        self.digest.update(part);
        self.pending.extend_from_slice(part);
    }

    /// The next row that is there whole, and how many bytes it takes.
    pub fn next_row(&mut self) -> anyhow::Result<Option<(Row, usize)>> {
        if !self.has_begun {
            if self.pending.len() < HEADER.len() {
                return Ok(None);
            }
            ensure!(self.pending.starts_with(HEADER), "the server sends COPY in another format");
            self.pending.advance(HEADER.len());
            self.has_begun = true;
        }
        let Some(length) = length_of_row(&self.pending)? else { return Ok(None) };
        let mut rest = self.pending.split_to(length).freeze();
        let count = rest.get_i16();
        if count == TRAILER {
            self.has_ended = true;
            return Ok(None);
        }
        let mut row = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let length = rest.get_i32();
            row.push((length >= 0).then(|| rest.split_to(length as usize)));
        }
        Ok(Some((row, length)))
    }

    /// The digest of the stream, once it has come to its end.
    pub fn finish(self) -> anyhow::Result<String> {
        ensure!(self.has_ended && self.pending.is_empty(), "the stream of the server breaks off");
        Ok(hex(&self.digest.finalize()))
    }
}

/// `None`: it is not there whole.
fn length_of_row(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let number = |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(i32::from_be_bytes);
    let Some(count) = bytes.get(..2).and_then(|two| two.try_into().ok()).map(i16::from_be_bytes) else {
        return Ok(None);
    };
    let mut length = 2;
    for _ in 0..count.max(0) {
        let Some(field) = number(length) else { return Ok(None) };
        length += 4 + usize::try_from(field.max(0)).context("a field has no length")?;
    }
    Ok((bytes.len() >= length).then_some(length))
}

/// Puts a stream together.
pub struct Joiner {
    digest: Sha256,
}

impl Joiner {
    /// With the bytes by which a stream begins.
    pub fn new() -> (Self, Bytes) {
        let mut joiner = Self { digest: Sha256::new() };
        let header = joiner.counted(Bytes::from_static(HEADER));
        (joiner, header)
    }

    pub fn rows(&mut self, rows: &[Row]) -> anyhow::Result<Bytes> {
        let mut bytes = BytesMut::new();
        for row in rows {
            bytes.put_i16(row.len().try_into()?);
            for field in row {
                match field {
                    Some(field) => {
                        bytes.put_i32(field.len().try_into()?);
                        bytes.extend_from_slice(field);
                    }
                    None => bytes.put_i32(-1),
                }
            }
        }
        Ok(self.counted(bytes.freeze()))
    }

    /// The bytes by which a stream ends, and its digest.
    pub fn finish(mut self) -> (Bytes, String) {
        let trailer = self.counted(Bytes::copy_from_slice(&TRAILER.to_be_bytes()));
        (trailer, hex(&self.digest.finalize()))
    }

    fn counted(&mut self, bytes: Bytes) -> Bytes {
        self.digest.update(&bytes);
        bytes
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Joiner, Row, Splitter};
    use bytes::Bytes;

    fn rows() -> Vec<Row> {
        vec![
            vec![Some(Bytes::from_static(b"one")), None],
            vec![Some(Bytes::new()), Some(Bytes::from(vec![7; 1000]))],
            vec![None, None],
        ]
    }

    fn stream() -> (Vec<u8>, String) {
        let (mut joiner, header) = Joiner::new();
        let middle = joiner.rows(&rows()).unwrap_or_default();
        let (trailer, digest) = joiner.finish();
        ([&header[..], &middle, &trailer].concat(), digest)
    }

    #[test]
    fn a_stream_is_the_same_in_whatever_parts_it_comes() {
        let (bytes, digest) = stream();
        for size in [1, 2, 7, 100, 10_000] {
            let (mut splitter, mut found) = (Splitter::new(), vec![]);
            for part in bytes.chunks(size) {
                splitter.push(part);
                while let Ok(Some((row, _))) = splitter.next_row() {
                    found.push(row);
                }
            }
            assert_eq!(found, rows());
            assert_eq!(splitter.finish().ok(), Some(digest.clone()));
        }
    }

    #[test]
    fn a_stream_that_breaks_off_has_no_digest() {
        let (bytes, _) = stream();
        for end in 0..bytes.len() {
            let mut splitter = Splitter::new();
            splitter.push(&bytes[..end]);
            while let Ok(Some(_)) = splitter.next_row() {}
            assert!(splitter.finish().is_err(), "{end}");
        }
    }
}
