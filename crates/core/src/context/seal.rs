//! A seal: HMAC-SHA256 (RFC 2104) over a declaration, its database and its transaction. Whoever lacks the secret makes
//! none, and one of another transaction is not true in this one.

use crate::message::push_hex;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub const SECRET_BYTES: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret {
    /// Tells which one of several it is.
    pub id: u64,
    pub bytes: [u8; SECRET_BYTES],
}

/// A secret, made ready to seal with it many times.
pub struct Sealer {
    secret: Secret,
    keyed: Hmac<Sha256>,
}

impl Sealer {
    pub fn new(secret: Secret) -> Self {
        // a key that is shorter than a block is filled up with zeros (RFC 2104, section 2)
        let mut key = [0; 64];
        key[..SECRET_BYTES].copy_from_slice(&secret.bytes);
        Self { secret, keyed: Hmac::<Sha256>::new(&key.into()) }
    }

    pub fn is_of(&self, secret: &Secret) -> bool {
        self.secret == *secret
    }

    /// As a logical message carries it: `<id of the secret> <seal> <declaration>`, the first two in hex.
    pub fn seal(&self, declaration: &str, database: u32, transaction: u32) -> String {
        let seal: [u8; 32] = self.mac(declaration, database, transaction).finalize().into_bytes().into();
        let mut sealed = String::with_capacity(2 * (size_of::<u64>() + seal.len()) + 2 + declaration.len());
        push_hex(&mut sealed, &self.secret.id.to_be_bytes());
        sealed.push(' ');
        push_hex(&mut sealed, &seal);
        sealed.push(' ');
        sealed.push_str(declaration);
        sealed
    }

    fn mac(&self, declaration: &str, database: u32, transaction: u32) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        for part in [&database.to_be_bytes()[..], &transaction.to_be_bytes(), declaration.as_bytes()] {
            mac.update(part);
        }
        mac
    }
}

/// The declaration of a message, if its seal is one of this transaction. `secret` finds the secret with an id.
pub fn open(
    content: &[u8],
    secret: impl FnOnce(u64) -> Option<Secret>,
    database: u32,
    transaction: u32,
) -> Option<&str> {
    let content = std::str::from_utf8(content).ok()?;
    let (id, rest) = content.split_once(' ')?;
    let (seal, declaration) = rest.split_once(' ')?;
    if !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None; // a sign, for example
    }
    let secret = secret(u64::from_str_radix(id, 16).ok()?)?;
    let seal = bytes_of_hex(seal)?;
    let mac = Sealer::new(secret).mac(declaration, database, transaction);
    mac.verify_slice(&seal).is_ok().then_some(declaration)
}

pub(super) fn bytes_of_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(text.get(2 * digits..2 * digits + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret(id: u64) -> Option<Secret> {
        (id < 10).then_some(Secret { id, bytes: [id as u8; 32] })
    }

    fn sealed() -> String {
        Sealer::new(secret(7).expect("a secret")).seal("{}", 5, 900)
    }

    #[test]
    fn a_true_seal_opens() {
        assert_eq!(open(sealed().as_bytes(), secret, 5, 900), Some("{}"));
    }

    #[test]
    fn it_is_hmac_sha256() {
        // as Python's hmac has it, over 0x00000005, 0x00000384 and the declaration
        let mac = "3e9b7043ba287db2cfcc425d113172aea50f961dadef56416abc1d80dd1390d3";
        assert_eq!(sealed(), format!("0000000000000007 {mac} {{}}"));
    }

    #[test]
    fn of_another_transaction_database_or_secret_it_does_not() {
        let sealed = sealed();
        assert_eq!(open(sealed.as_bytes(), secret, 5, 901), None);
        assert_eq!(open(sealed.as_bytes(), secret, 6, 900), None);
        assert_eq!(open(sealed.as_bytes(), |_| None, 5, 900), None);
        assert_eq!(open(sealed.as_bytes(), |_| secret(8), 5, 900), None);
        assert_eq!(open(sealed.replace("{}", "{ }").as_bytes(), secret, 5, 900), None);
    }

    proptest! {
        #[test]
        fn nothing_else_opens(content in any::<Vec<u8>>()) {
            prop_assert_eq!(open(&content, secret, 5, 900), None);
        }

        #[test]
        fn a_sign_in_the_id_closes_it(sign in "[+-]") {
            let content = sealed().replacen('0', &sign, 1);
            prop_assert_eq!(open(content.as_bytes(), secret, 5, 900), None);
        }

        #[test]
        fn one_other_byte_closes_it(at in 0..85usize, byte in any::<u8>()) {
            let mut content = sealed().into_bytes();
            prop_assume!(at < content.len() && !content[at].eq_ignore_ascii_case(&byte));
            content[at] = byte;
            prop_assert_eq!(open(&content, secret, 5, 900), None);
        }
    }
}
