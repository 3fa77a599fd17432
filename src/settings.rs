//! Settings under the prefix `audit_cdc`, and those that are pinned while our code runs with more rights than its
//! caller.

use crate::pg::{self, Checked};
use crate::retention::TimeOfDay;
use audit_core::context::{Fields, is_object};
use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::{CStr, CString};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum OnReject {
    set_aside,
    error,
}

static ON_REJECT: GucSetting<OnReject> = GucSetting::<OnReject>::new(OnReject::set_aside);

static CAPTURE_ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static CAPTURE_NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static CAPTURE_DELAY: GucSetting<i32> = GucSetting::<i32>::new(200);
static CAPTURE_MAX_CHANGES: GucSetting<i32> = GucSetting::<i32>::new(20_000);

static CAPTURE_FAILOVER: GucSetting<bool> = GucSetting::<bool>::new(false);

static SERVER_CONTEXT: GucSetting<bool> = GucSetting::<bool>::new(true);
static SERVER_CONTEXT_FIELDS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(
    c"session_user, current_user, application_name, client_address, backend_start, transaction_start",
));

static USERNAME: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static SOURCE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static REQUEST_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static METADATA: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

static RULE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static MAX_NEW_MONTHS: GucSetting<i32> = GucSetting::<i32>::new(12);
static MAX_MONTHS: GucSetting<i32> = GucSetting::<i32>::new(240);
static RETENTION_AT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ARCHIVE_FIRST: GucSetting<bool> = GucSetting::<bool>::new(false);
static LARGE_MONTH: GucSetting<i32> = GucSetting::<i32>::new(200 * 1024);
static MAX_NEW_TABLES: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static SKIP_MISSING_NODES: GucSetting<bool> = GucSetting::<bool>::new(false);

pub fn init() {
    GucRegistry::define_enum_guc(
        c"audit_cdc.on_reject",
        c"What audit_ingest does with a message that it cannot take.",
        c"set_aside (default) keeps it in audit_rejects and stores the others; error fails the whole call.",
        &ON_REJECT,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"audit_cdc.capture_enabled",
        c"Whether background workers capture changes.",
        c"off pauses them, in every database; their slots keep what is committed meanwhile.",
        &CAPTURE_ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"audit_cdc.capture_naptime",
        c"How long a capture worker sleeps when no commit wakes it.",
        c"Then it only lets go of WAL that other databases have written.",
        &CAPTURE_NAPTIME,
        100,
        3_600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"audit_cdc.capture_delay",
        c"How long a capture worker rests after it has captured what was committed.",
        c"The longer, the less capture costs, and the later it sees the next commits.",
        &CAPTURE_DELAY,
        0,
        1_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"audit_cdc.capture_max_changes",
        c"After how many changes a transaction of a capture worker ends.",
        c"It ends between transactions of the source: one with more changes is stored in one transaction all the same.",
        &CAPTURE_MAX_CHANGES,
        1,
        1_000_000_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"audit_cdc.capture_failover",
        c"Whether audit_capture_start makes a slot that standbys keep too.",
        c"Before PostgreSQL 17 there is none.",
        &CAPTURE_FAILOVER,
        GucContext::Sighup,
        GucFlags::default(),
    );
    init_who();
    GucRegistry::define_int_guc(
        c"audit_cdc.rule_timeout",
        c"How long an ingest or a capture lets a projection's rule run.",
        c"Then its entries wait, and it is slow until audit_retry_projection(). 0: as long as it takes.",
        &RULE_TIMEOUT,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    define_limit(
        c"audit_cdc.max_new_months",
        c"How many new months one call of audit_ingest may add to the log.",
        c"What is beyond is set aside. The present month and those beside it do not count.",
        &MAX_NEW_MONTHS,
    );
    define_limit(
        c"audit_cdc.max_months",
        c"How many months the log may have before audit_ingest adds no more.",
        c"What is beyond is set aside. Queries over the whole log lock each month's table.",
        &MAX_MONTHS,
    );
    GucRegistry::define_int_guc(
        c"audit_cdc.large_month",
        c"From which size of a month on the next that are made are divided into days.",
        c"With its indexes; of the two months before the new one. 0: months are never divided.",
        &LARGE_MONTH,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
    define_limit(
        c"audit_cdc.max_new_tables",
        c"How many source tables one call of audit_ingest may name that the log does not know.",
        c"What is beyond is set aside.",
        &MAX_NEW_TABLES,
    );
    let retention_at = (
        c"audit_cdc.retention_at",
        c"When the capture worker applies retention each day.",
        c"A time of day in UTC, such as 03:30. Empty: never.",
    );
    pg::define_checked::<DailyTime>(retention_at, &RETENTION_AT, GucContext::Sighup);
    GucRegistry::define_bool_guc(
        c"audit_cdc.archive_first",
        c"Whether retention leaves entries until their month is archived.",
        c"Archived is what audit-keeper has noted in audit_archives, and what has not changed since.",
        &ARCHIVE_FIRST,
        GucContext::Sighup,
        GucFlags::default(),
    );
    let skip_missing_nodes = (
        c"audit_cdc.skip_missing_nodes",
        c"Whether audit_all_logs leaves out nodes that cannot be connected, with a warning of each.",
        c"Where client_min_messages hides warnings, such a node is an error, as without this setting.",
    );
    pg::define_planned_bool(skip_missing_nodes, &SKIP_MISSING_NODES);
    pg::reserve_setting_prefix();
}

/// Who makes changes: what a transaction tells before its first one.
fn init_who() {
    GucRegistry::define_bool_guc(
        c"audit_cdc.server_context",
        c"Whether a transaction that writes tells what the server knows of its session.",
        c"Capture shows it as server_context of audit_logs.",
        &SERVER_CONTEXT,
        GucContext::Suset,
        GucFlags::default(),
    );
    let fields = (
        c"audit_cdc.server_context_fields",
        c"What of its session a transaction tells.",
        c"Names with commas between them; by default all.",
    );
    pg::define_checked::<OfFields>(fields, &SERVER_CONTEXT_FIELDS, GucContext::Suset);
    let annotations = [
        (c"audit_cdc.username", c"Annotates changes with who makes them.", &USERNAME),
        (c"audit_cdc.source", c"Annotates changes with from where they are made.", &SOURCE),
        (c"audit_cdc.request_id", c"Annotates changes with the request that makes them.", &REQUEST_ID),
    ];
    for (name, short, setting) in annotations {
        let long = c"Told with the first write of a transaction; audit_annotate() wins over it. Empty: not at all.";
        pg::define_checked::<Annotation>((name, short, long), setting, GucContext::Userset);
    }
    let metadata = (
        c"audit_cdc.metadata",
        c"Annotates changes with why they are made, and the like.",
        c"A JSON object, told with the first write of a transaction. Empty: not at all.",
    );
    pg::define_checked::<Metadata>(metadata, &METADATA, GucContext::Userset);
}

struct OfFields;
impl Checked for OfFields {
    fn check(list: &str) -> Result<(), String> {
        let refused = |name| format!("\"{name}\" is none of {}.", Fields::names());
        Fields::parse(list).map(drop).map_err(refused)
    }
}

/// Bytes of a setting that each transaction tells anew.
const MOST_ANNOTATED: usize = 10_000;

struct Annotation;
impl Checked for Annotation {
    fn check(text: &str) -> Result<(), String> {
        if text.len() <= MOST_ANNOTATED {
            return Ok(());
        }
        Err(format!("It must not be longer than {MOST_ANNOTATED} bytes."))
    }
}

struct Metadata;
impl Checked for Metadata {
    fn check(text: &str) -> Result<(), String> {
        Annotation::check(text)?;
        // it becomes a member of another object
        let is_fine = text.is_empty() || is_object(text) && is_object(&format!("{{\"metadata\": {text}}}"));
        if is_fine { Ok(()) } else { Err("It must be a JSON object that jsonb takes.".to_owned()) }
    }
}

struct DailyTime;
impl Checked for DailyTime {
    fn check(text: &str) -> Result<(), String> {
        let is_fine = text.is_empty() || TimeOfDay::parse(text).is_some();
        if is_fine { Ok(()) } else { Err("It must be a time of day such as 03:30.".to_owned()) }
    }
}

/// `None`: the worker applies no retention.
pub fn retention_at() -> Option<TimeOfDay> {
    TimeOfDay::parse(&RETENTION_AT.get()?.to_string_lossy())
}

/// Asked so, and not by its name: before the library is loaded, anybody could set a setting of this name.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.archive_first() RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn archive_first() -> bool {
    ARCHIVE_FIRST.get()
}

pub fn server_context() -> bool {
    SERVER_CONTEXT.get()
}

/// Of what [`server_context_fields`] is made.
pub fn server_context_list() -> Option<CString> {
    SERVER_CONTEXT_FIELDS.get()
}

pub fn server_context_fields() -> Fields {
    let list = server_context_list().unwrap_or_default();
    Fields::parse(&list.to_string_lossy()).unwrap_or(Fields::NONE)
}

/// Username, source, request_id and metadata; `None` and empty: not annotated.
pub fn annotations() -> [Option<String>; 4] {
    [&USERNAME, &SOURCE, &REQUEST_ID, &METADATA]
        .map(|setting| setting.get().map(|text| text.to_string_lossy().into_owned()))
}

fn define_limit(name: &'static CStr, short: &'static CStr, long: &'static CStr, setting: &'static GucSetting<i32>) {
    GucRegistry::define_int_guc(name, short, long, setting, 0, i32::MAX, GucContext::Suset, GucFlags::default());
}

pub fn max_new_months() -> usize {
    MAX_NEW_MONTHS.get().unsigned_abs() as usize
}

pub fn max_months() -> usize {
    MAX_MONTHS.get().unsigned_abs() as usize
}

pub fn max_new_tables() -> usize {
    MAX_NEW_TABLES.get().unsigned_abs() as usize
}

pub fn capture_enabled() -> bool {
    CAPTURE_ENABLED.get()
}

pub fn capture_naptime() -> Duration {
    Duration::from_millis(CAPTURE_NAPTIME.get().unsigned_abs().into())
}

pub fn capture_delay() -> Duration {
    Duration::from_millis(CAPTURE_DELAY.get().unsigned_abs().into())
}

pub fn capture_max_changes() -> i32 {
    CAPTURE_MAX_CHANGES.get()
}

pub fn capture_failover() -> bool {
    CAPTURE_FAILOVER.get()
}

/// `None`: as long as it takes.
pub fn rule_timeout() -> Option<Duration> {
    let milliseconds = RULE_TIMEOUT.get().unsigned_abs();
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()))
}

pub fn skip_missing_nodes() -> bool {
    SKIP_MISSING_NODES.get()
}

pub fn on_reject() -> OnReject {
    ON_REJECT.get()
}

/// Settings under which code of ours runs that has more rights than its caller.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.pinned_settings() RETURNS TABLE (name text, value text)
  LANGUAGE c STABLE PARALLEL SAFE ROWS 20 AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn pinned_settings() -> TableIterator<'static, (name!(name, &'static str), name!(value, &'static str))> {
    TableIterator::new(crate::pg::pinned_settings())
}
