//! JSON: objects whose members stay raw text, and `jsonb`'s binary form.

mod jsonb;
pub(crate) mod object;
mod string;

pub use jsonb::*;
pub use string::{push_string, string};
