//! Settings under the prefix `audit_cdc`.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum OnReject {
    set_aside,
    error,
}

static ON_REJECT: GucSetting<OnReject> = GucSetting::<OnReject>::new(OnReject::set_aside);

pub fn init() {
    GucRegistry::define_enum_guc(
        c"audit_cdc.on_reject",
        c"What audit_ingest does with a message that it cannot take.",
        c"set_aside (default) keeps it in audit_rejects and stores the others; error fails the whole call.",
        &ON_REJECT,
        GucContext::Userset,
        GucFlags::default(),
    );
    crate::pg::reserve_setting_prefix();
}

pub fn on_reject() -> OnReject {
    ON_REJECT.get()
}
