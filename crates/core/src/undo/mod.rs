//! Undo and redo: from changes of the log to the statements that take them back, or make them once more.

mod change;
mod equal;
mod image;
mod moves;
mod needs;
mod plan;
mod promise;
mod replay;
mod sets;
mod statement;
mod table;
#[cfg(test)]
mod tests;
mod todo;
mod value;
mod waits;
mod why_not;

pub use change::{Action, Change, Direction};
pub use image::Image;
pub use plan::{Step, Work, checks, plan};
pub use promise::Check;
pub use replay::{Event, replayed};
pub use statement::Statement;
pub use table::{Column, Equality, ForeignKey, Table};
