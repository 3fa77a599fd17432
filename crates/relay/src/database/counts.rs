//! What became of the messages of one call, as audit_ingest tells.

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub inserted: u64,
    pub duplicates: u64,
    pub rejected: u64,
}
