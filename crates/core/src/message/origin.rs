//! How a change came here.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Read from this server's own WAL.
    Capture,
    /// A row that was there, read by a backfill of capture.
    Backfill,
    /// Delivered to `audit_ingest`.
    Ingest,
}

impl Origin {
    /// As the log keeps it.
    pub fn letter(self) -> i8 {
        match self {
            Self::Capture => b'c' as i8,
            Self::Backfill => b'b' as i8,
            Self::Ingest => b'i' as i8,
        }
    }

    pub fn of(letter: i8) -> Self {
        [Self::Capture, Self::Backfill].into_iter().find(|origin| origin.letter() == letter).unwrap_or(Self::Ingest)
    }

    /// Identities of different spaces are never equal: what somebody delivers cannot stand for what was captured.
    pub(super) fn space(self) -> &'static str {
        match self {
            Self::Capture | Self::Backfill => "local",
            Self::Ingest => "ingest",
        }
    }
}
