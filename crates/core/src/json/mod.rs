//! JSON: objects whose members stay raw text, and `jsonb`'s binary form.

mod canonical;
mod forgotten;
mod holdable;
mod jsonb;
mod members;
pub(crate) mod object;
mod string;
mod told;

pub use canonical::is_canonical;
pub use forgotten::jsonb_forgets;
pub(crate) use holdable::LONGEST_IMAGE;
pub use holdable::{is_too_deep, jsonb_takes};
pub use jsonb::*;
pub use members::*;
pub use string::{push_string, string};
pub use told::{is_marked, marked, marked_text, plain, plain_diff, texts, told};
