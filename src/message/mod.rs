//! From the text of a *body* to *changes*, without PostgreSQL and total on any input:
//! a body is split into messages, a message is understood as a change or refused as a [`Reject`].
//!
//! Row images stay the text that they came in, until they are stored as `jsonb`.

mod annotations;
mod body;
mod change;
mod digest;
mod holdable;
mod idempotency;
mod identity;
mod image;
mod json;
mod key;
mod origin;
mod reject;
mod rekeyed;
mod table;
mod written;

pub use annotations::{Annotations, Large, MOST_KEPT, kept};
pub use body::{Message, Parsed, changes};
pub use change::{Action, Change};
pub use digest::{Identity, delivered_digest, hex, sha256, text_digest};
pub use identity::Logged;
pub use image::jsonb_holds;
pub use key::array_literal;
pub use origin::Origin;
pub use reject::Reject;
pub use table::Table;
pub use written::{About, Known, LargePart, Written, known_time};

#[cfg(test)]
mod properties;
