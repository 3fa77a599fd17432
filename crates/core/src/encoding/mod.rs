//! A PostgreSQL value's text to JSON, and back.

mod read;
mod time;
mod type_shape;
pub(crate) mod write;

pub use read::{Text, input_text};
pub use type_shape::Shape;
pub use write::{Kind, string};
