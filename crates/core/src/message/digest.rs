//! Digests, of which nobody can craft two alike.

use super::origin::Origin;
use sha2::{Digest as _, Sha256};

/// The first 128 bits of a SHA-256. The commit time stands beside it in the unique key.
pub type Digest = [u8; 16];

/// Hashes fields with their lengths, so that no two lists of fields run together.
#[derive(Default)]
pub struct Fields(Sha256);

impl Fields {
    pub fn add(self, field: &str) -> Self {
        self.add_bytes(field.as_bytes())
    }

    fn add_bytes(mut self, field: &[u8]) -> Self {
        self.0.update((field.len() as u64).to_le_bytes());
        self.0.update(field);
        self
    }

    pub fn digest(self) -> Digest {
        let mut digest = [0; 16];
        digest.copy_from_slice(&self.0.finalize()[..16]);
        digest
    }
}

/// Of a text as a whole, such as a message that could not be understood.
pub fn text_digest(text: impl AsRef<[u8]>) -> Digest {
    Fields::default().add("text").add_bytes(text.as_ref()).digest()
}

/// Of large annotations: nobody who delivers the same ones holds up capture, or the delivery of another
/// source.
pub fn annotations_digest(origin: Origin, database_id: &str, text: &[u8]) -> Digest {
    Fields::default().add(origin.space()).add(database_id).add_bytes(text).digest()
}

/// Of what a server knew of a session.
pub fn context_digest(text: &str) -> Digest {
    Fields::default().add("server_context").add(text).digest()
}

/// Of a reject: two who deliver the same text have a reject each.
pub fn delivered_digest(digest: &Digest, origin: Origin, by: Option<&str>) -> Digest {
    let mut fields = Fields::default().add(origin.space()).add(by.unwrap_or_default());
    fields.0.update(digest);
    fields.digest()
}

pub fn hex_digest(text: &str) -> String {
    hex_digest_of(text.as_bytes())
}

pub fn hex_digest_of(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    text
}

pub fn push_hex(text: &mut String, bytes: &[u8]) {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
}
