//! PostgreSQL's values to JSON and back: `write` as Sequin encodes them, `read` to the text that a type's input
//! function takes. What decides how is a type's shape.

mod held;
mod literal;
mod read;
mod spelled;
mod time;
mod type_shape;
mod write;

pub use held::{Held, held};
pub use read::{Text, exact_text, input_text};
pub use spelled::is_spelled;
pub use type_shape::TypeShape;
pub use write::{push_json, push_jsonb};

/// PostgreSQL's arrays have no more (PostgreSQL source, `array.h`, `MAXDIM`).
const MOST_DIMENSIONS: usize = 6;
