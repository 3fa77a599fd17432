//! Who makes changes: what the server knows of a session, and what its settings annotate.
//!
//! `facts` is what the server knows. `said` is what a transaction has told so far, and what is due. A `declaration`
//! tells it in a logical message, and its `seal` is why that is believed. What was told is `unsent` until a captured
//! change needs it.

mod declaration;
mod facts;
mod said;
mod seal;
mod secrets;
mod settings;
mod unsent;

pub use declaration::{Annotated, Declaration};
pub use facts::{Facts, Fields};
pub use said::{At, Due, Roles, Said, Tell};
pub use seal::{SECRET_BYTES, Sealer, Secret, open};
pub use secrets::Secrets;
pub use settings::{annotations_of_settings, is_object, missing};
pub use unsent::Unsent;
