//! What Prometheus is told.

use crate::database::{Counts, Failure};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Code {
    code: u16,
}

pub struct Metrics {
    registry: Registry,
    messages: Family<Outcome, Counter>,
    calls: Family<Outcome, Counter>,
    call_duration: Histogram,
    last_stored: Gauge,
    ready: Gauge,
    unacknowledged: Counter,
    requests: Family<Code, Counter>,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("audit_relay");
        let messages = Family::default();
        registry.register("messages", "Messages that the database took, by what became of them", messages.clone());
        let calls = Family::default();
        registry.register("calls", "Calls of audit_ingest, by outcome", calls.clone());
        let call_duration = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        registry.register_with_unit(
            "call_duration",
            "Duration of calls of audit_ingest",
            Unit::Seconds,
            call_duration.clone(),
        );
        let last_stored = Gauge::default();
        registry.register_with_unit(
            "last_stored_timestamp",
            "When a call last succeeded, as Unix time; 0: never",
            Unit::Seconds,
            last_stored.clone(),
        );
        let ready = Gauge::default();
        registry.register("ready", "1 if the database answered when it was last asked", ready.clone());
        let unacknowledged = Counter::default();
        registry.register(
            "unacknowledged",
            "Stored messages that could not be acknowledged, so that the source will deliver them again",
            unacknowledged.clone(),
        );
        let requests = Family::default();
        registry.register("requests", "Requests to the webhook, by status code", requests.clone());
        Arc::new(Self { registry, messages, calls, call_duration, last_stored, ready, unacknowledged, requests })
    }

    pub fn called(&self, took: Duration, result: &Result<Counts, Failure>) {
        let outcome = match result {
            Ok(_) => "stored",
            Err(failure) if failure.refused => "refused",
            Err(_) => "failed",
        };
        self.calls.get_or_create(&Outcome { outcome }).inc();
        self.call_duration.observe(took.as_secs_f64());
        if let Ok(counts) = result {
            for (outcome, count) in
                [("inserted", counts.inserted), ("duplicate", counts.duplicates), ("rejected", counts.rejected)]
            {
                self.messages.get_or_create(&Outcome { outcome }).inc_by(count);
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_stored.set(now.as_secs() as i64);
        }
    }

    /// Messages so far: inserted, duplicates, rejected.
    pub fn counts(&self) -> Counts {
        let count = |outcome| self.messages.get_or_create(&Outcome { outcome }).get();
        Counts { inserted: count("inserted"), duplicates: count("duplicate"), rejected: count("rejected") }
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    pub fn is_ready(&self) -> bool {
        self.ready.get() == 1
    }

    pub fn not_acknowledged(&self, messages: usize) {
        self.unacknowledged.inc_by(messages as u64);
    }

    pub fn answered(&self, code: u16) {
        self.requests.get_or_create(&Code { code }).inc();
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        // writing to a String does not fail
        let _ = encode(&mut text, &self.registry);
        text
    }
}
