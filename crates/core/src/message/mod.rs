//! From the text of a *body* to *changes*, without PostgreSQL and total on any input:
//! a body is split into messages, a message is understood as a change or refused as a [`Reject`](crate::Reject).
//!
//! Row images stay the text that they came in, until they are stored as `jsonb`.

mod annotations;
mod body;
mod change;
mod digest;
mod holdable;
mod idempotency_key;
mod identity;
mod image;
mod key_change;
mod origin;
mod record_key;
mod source_table;
mod written;

pub use annotations::{Annotations, Large, MOST_KEPT, kept};
pub use body::{Message, Parsed, changes};
pub use change::{Action, Change};
pub use digest::{Identity, delivered_digest, hex, sha256, text_digest};
pub use identity::Logged;
pub use image::jsonb_holds;
pub use origin::Origin;
pub use record_key::array_literal;
pub use source_table::Table;
pub use written::{About, Known, LargePart, Written, known_time};

#[cfg(test)]
mod properties;
