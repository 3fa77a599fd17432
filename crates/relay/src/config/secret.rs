//! A text that no log shows, and that no argument may hold.

use std::fmt;

/// Of a database's URL.
pub const PARAMETERS: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "options",
    "application_name",
];

#[derive(Clone)]
pub struct Secret {
    text: String,
    public: bool,
}

impl Secret {
    pub fn text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("must not be empty".into())
        } else {
            Ok(Self { text: text.to_owned(), public: false })
        }
    }

    /// A URL: no secret if it certainly has no password.
    pub fn url(text: &str) -> Result<Self, String> {
        let public = url::Url::parse(text).is_ok_and(|url| {
            ["postgres", "postgresql"].contains(&url.scheme())
                && url.password().is_none()
                && url.query_pairs().all(|(key, _)| PARAMETERS.contains(&key.as_ref()) && key != "password")
        });
        Ok(Self { text: text.to_owned(), public })
    }

    /// KEY=VALUE: a secret only if the key says so.
    pub fn property(text: &str) -> Result<Self, String> {
        let (key, _) = text.split_once('=').ok_or("must be KEY=VALUE")?;
        let public = !["password", "secret", "key.pem", "oauthbearer.config"].iter().any(|word| key.contains(word));
        Ok(Self { text: text.to_owned(), public })
    }

    pub fn expose(&self) -> &str {
        &self.text
    }

    pub fn is_public(&self) -> bool {
        self.public
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}
