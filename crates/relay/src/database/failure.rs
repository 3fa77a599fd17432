//! Why a call failed, and what that means for the messages.

use std::fmt;

#[derive(Clone, Debug)]
pub struct Failure {
    /// The database refuses these bodies: they, not it, would have to change. So it is with audit_cdc.on_reject =
    /// error.
    pub refused: bool,
    /// No answer came: the same call may succeed at once over another connection.
    pub connection_lost: bool,
    sqlstate: Option<String>,
    message: String,
}

impl Failure {
    /// What is in the body would have to change, or the configuration.
    pub fn refusal(message: impl Into<String>) -> Self {
        Self { refused: true, ..Self::away(message) }
    }

    pub fn away(message: impl Into<String>) -> Self {
        Self { refused: false, connection_lost: false, sqlstate: None, message: message.into() }
    }
}

impl From<sqlx::Error> for Failure {
    /// Without DETAIL, which may quote a row.
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => {
                let sqlstate = error.code().map(|code| code.into_owned());
                let class = sqlstate.as_deref().and_then(|code| code.get(..2)).unwrap_or_default();
                Self {
                    refused: matches!(class, "22" | "23" | "54"),
                    connection_lost: class == "08" || class == "57" && sqlstate.as_deref() != Some("57014"),
                    message: error.message().to_owned(),
                    sqlstate,
                }
            }
            other => {
                let connection_lost = matches!(other, sqlx::Error::Io(_) | sqlx::Error::Protocol(_));
                Self { refused: false, connection_lost, sqlstate: None, message: other.to_string() }
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sqlstate {
            Some(sqlstate) => write!(f, "{} (SQLSTATE {sqlstate})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Failure {}
