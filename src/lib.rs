use pgrx::prelude::*;
mod message;
::pgrx::pg_module_magic!();
