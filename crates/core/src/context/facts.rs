//! What the server knows of a session. Of this the client chooses its application's name only.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// Which facts are told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fields(u8);

const NAMES: [&str; 6] =
    ["session_user", "current_user", "application_name", "client_address", "backend_start", "transaction_start"];

impl Fields {
    pub const NONE: Self = Self(0);

    /// Of a list of names with commas between them. `Err`: what is no such name.
    pub fn parse(list: &str) -> Result<Self, &str> {
        let mut fields = Self(0);
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let index = NAMES.iter().position(|known| *known == name).ok_or(name)?;
            fields.0 |= 1 << index;
        }
        Ok(fields)
    }

    pub fn names() -> String {
        NAMES.join(", ")
    }

    fn has(self, index: usize) -> bool {
        self.0 & 1 << index != 0
    }
}

/// `None`: there is none, such as the address of who came through a Unix socket.
#[derive(Serialize, Default)]
pub struct Facts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_user: Option<String>,
    /// As whom the session acts; `None`: as `current_user`, with which it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_start: Option<String>,
    /// Microseconds since 2000-01-01. It stands beside the others: they are the same for many transactions.
    #[serde(skip)]
    pub transaction_start: Option<i64>,
}

impl Facts {
    /// Without what is not to be told.
    pub fn only(self, fields: Fields) -> Self {
        let text = |index, fact: Option<String>| fact.filter(|_| fields.has(index));
        Self {
            session_user: text(0, self.session_user),
            current_user: text(1, self.current_user),
            role: text(1, self.role),
            application_name: text(2, self.application_name),
            client_address: text(3, self.client_address),
            backend_start: text(4, self.backend_start),
            transaction_start: self.transaction_start.filter(|_| fields.has(5)),
        }
    }

    /// Without the start of the transaction.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same, as a part of other JSON.
    pub fn raw(&self) -> Option<Box<RawValue>> {
        to_raw_value(self).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(list: &str) -> Option<String> {
        let facts = Facts {
            session_user: Some("ada \"1\"".to_owned()),
            current_user: Some("owner".to_owned()),
            role: Some("shop".to_owned()),
            application_name: Some("psql".to_owned()),
            transaction_start: Some(7),
            ..Facts::default()
        };
        let facts = facts.only(Fields::parse(list).ok()?);
        Some(format!("{} {:?}", facts.json(), facts.transaction_start))
    }

    #[test]
    fn what_is_named_is_told() {
        assert_eq!(told("session_user,client_address").as_deref(), Some(r#"{"session_user":"ada \"1\""} None"#));
        assert_eq!(
            told(&Fields::names()).as_deref(),
            Some(
                r#"{"session_user":"ada \"1\"","current_user":"owner","role":"shop","application_name":"psql"} Some(7)"#
            )
        );
        assert_eq!(told(" , transaction_start").as_deref(), Some("{} Some(7)"));
        assert_eq!(told("").as_deref(), Some("{} None"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!(Fields::parse("session_user, user").err(), Some("user"));
    }
}
