//! A text that no log shows, and that no argument may hold.

use std::fmt;

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

    /// A URL: a secret only if it has a password.
    pub fn url(text: &str) -> Result<Self, String> {
        let (_, rest) = text.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let has_password = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        let public = !has_password && !rest.to_ascii_lowercase().contains("password=");
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
