//! JSON: objects whose members stay raw text, and `jsonb`'s binary form.

mod jsonb;
pub(crate) mod object;

pub use jsonb::*;
