//! Statements, and what becomes of their errors.

mod bisect;
mod cursor;
mod plans;
mod row;
mod statement;
mod subtransaction;
mod text_rows;

pub use bisect::{Isolation, at_once_or_isolated, isolated};
pub use cursor::{Cursor, with_pinned};
pub use row::{Row, Rows};
pub use statement::{Statement, succeeded};
pub use subtransaction::{caught, rolled_back, subtransaction, tried};
pub use text_rows::{TextRow, first_texts, text_rows};
