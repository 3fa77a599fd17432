//! From the text of a *body* to *changes*, without PostgreSQL and total on any input. A body is split into messages. A
//! message is understood as a change, or refused as a [`Reject`](crate::Reject).
//!
//! Row images stay what they came as, until they are stored as `jsonb`.

mod action;
mod annotations;
mod body;
mod change;
mod digest;
mod exact;
mod idempotency_key;
mod identity;
mod image;
mod key_change;
mod origin;
mod original;
mod raw_message;
mod record_key;
mod source_table;
mod texts;
mod who;
mod written;

pub use action::Action;
pub use annotations::{Annotations, Large, MOST_KEPT, kept};
pub use body::{Parsed, changes};
pub use change::{Change, EPOCH_MICROSECONDS, Sent, commit_time_of};
pub use digest::{Digest, delivered_digest, hex, push_hex, sha256, text_digest};
pub use exact::{Told, ToldImage};
pub use idempotency_key::key_of_position;
pub use identity::Logged;
pub(crate) use image::MOST_ELEMENTS;
pub use image::{Image, jsonb_holds};
pub use origin::Origin;
pub use original::{Original, Tellable};
pub use raw_message::RawMessage;
pub use record_key::{RecordKey, array_literal};
pub use source_table::SourceTable;
pub use who::{ServerContext, Who};
pub use written::{About, Known, LargePart, Written};

#[cfg(test)]
pub(crate) use digest::annotations_digest;
#[cfg(test)]
mod properties;
