//! PostgreSQL's types and calls of functions, as far as they are only known when they run.

mod call;
mod result_set;
mod row_type;
mod type_input;

pub use call::{Call, PassedRow, any_element};
pub use result_set::{ResultSet, jsonb_datum, passed_bigint, passed_jsonb, passed_oid, text_datum};
pub use row_type::{ColumnInput, RowType, relation_of_type};
pub(super) use type_input::type_name;
pub use type_input::{TypeInput, code_type, read_shape, written_shape};
