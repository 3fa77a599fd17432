//! Retention: what is older than its rules goes. `sql/retention` decides what that is.

mod daily;
mod removal;
mod time_of_day;

pub use daily::Daily;
pub use time_of_day::TimeOfDay;
