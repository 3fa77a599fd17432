//! Where messages come from, and how each source is told that they are stored.

#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "sqs")]
pub mod sqs;
#[cfg(feature = "stream")]
pub mod stream;
#[cfg(feature = "webhook")]
pub mod webhook;
