//! What a request is answered with.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Stored,
    Refused,
    NoDatabase,
    NotStored,
    NoRoom,
    TooLate,
    TooLarge,
    Broken,
    Unknown,
    NotAllowed,
}

impl Answer {
    /// Of a body in parts. What may succeed later decides: the body comes again then.
    pub fn of_parts(answers: &[Self]) -> Self {
        let later = answers.iter().find(|answer| answer.told().0 == StatusCode::SERVICE_UNAVAILABLE);
        let never = || answers.iter().find(|answer| **answer != Self::Stored);
        later.or_else(never).copied().unwrap_or(Self::Stored)
    }

    pub fn told(self) -> (StatusCode, &'static str) {
        match self {
            Self::Stored => (StatusCode::NO_CONTENT, ""),
            Self::Refused => {
                (StatusCode::INTERNAL_SERVER_ERROR, "refused by the database (audit_cdc.on_reject is error)\n")
            }
            Self::NoDatabase => {
                (StatusCode::INTERNAL_SERVER_ERROR, "no database takes a message of this body, as the log tells\n")
            }
            Self::NotStored => {
                (StatusCode::SERVICE_UNAVAILABLE, "not stored by the database, whose reason is in the log\n")
            }
            Self::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, "too many bodies are waiting\n"),
            Self::TooLate => (StatusCode::SERVICE_UNAVAILABLE, "not stored in time\n"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"),
            Self::Broken => (StatusCode::BAD_REQUEST, "the body could not be read\n"),
            Self::Unknown => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is neither plain nor gzip\n"),
            Self::NotAllowed => (StatusCode::UNAUTHORIZED, "wrong secret\n"),
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (status, text) = self.told();
        match status {
            StatusCode::SERVICE_UNAVAILABLE => (status, [(header::RETRY_AFTER, "2")], text).into_response(),
            StatusCode::UNAUTHORIZED => (status, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response(),
            _ => (status, text).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Answer::*;
    use super::*;

    #[test]
    fn what_may_succeed_later_decides() {
        for (answers, expected) in [
            (&[][..], Stored),
            (&[Stored, Stored], Stored),
            (&[Stored, Refused], Refused),
            (&[NoDatabase, NotStored, Stored], NotStored),
            (&[Refused, NoRoom], NoRoom),
        ] {
            assert_eq!(Answer::of_parts(answers), expected, "{answers:?}");
        }
    }
}
