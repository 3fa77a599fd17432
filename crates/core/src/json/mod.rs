//! JSON: objects whose members stay raw text, and `jsonb`'s binary form.

mod jsonb;
mod members;
pub(crate) mod object;
mod string;

pub use jsonb::*;
pub use members::*;
pub use string::{push_string, string};
