//! Kafka: each connection is a member of the consumer group, and commits offsets after the database's commit.
//!
//! A member reads its partitions in order and stores batch after batch, so whatever stands before an offset that it
//! commits is stored. A rebalance may make another member read messages again; never is one passed over.

use crate::batch::gather;
use crate::body;
use crate::config::Secret;
use crate::relay::Relay;
use anyhow::{Context, bail, ensure};
use clap::Args;
use futures_util::future::join_all;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::{block_in_place, spawn_blocking};

/// Before the database is asked again for what it refused.
const PAUSE: Duration = Duration::from_secs(1);
/// Properties that nobody else sets.
const OURS: &[&str] = &[
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "enable.partition.eof",
];
/// A broker that is away is told of no more often.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(10);
const CHECK_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub struct Options {
    /// Brokers to begin with; several with commas
    #[arg(long, env = "AUDIT_RELAY_KAFKA_BROKERS", value_name = "HOST:PORT", required = true, value_delimiter = ',')]
    brokers: Vec<String>,
    /// Topics; several with commas
    #[arg(long, env = "AUDIT_RELAY_KAFKA_TOPIC", value_name = "TOPIC", required = true, value_delimiter = ',')]
    topic: Vec<String>,
    /// Consumer group
    #[arg(long, env = "AUDIT_RELAY_KAFKA_GROUP", value_name = "GROUP", default_value = "audit-relay")]
    group: String,
    /// Password for SASL. Only from environment or file
    #[arg(long, env = "AUDIT_RELAY_KAFKA_SASL_PASSWORD", value_name = "PASSWORD", hide_env_values = true,
          hide_default_value = true, value_parser = Secret::text)]
    sasl_password: Option<Secret>,
    /// Further properties of librdkafka, e.g. security.protocol=SASL_SSL; again for each, or several with ;
    #[arg(long, env = "AUDIT_RELAY_KAFKA_PROPERTY", value_name = "KEY=VALUE", hide_env_values = true,
          hide_default_value = true, value_delimiter = ';', value_parser = Secret::property)]
    property: Vec<Secret>,
}

impl Options {
    pub async fn run(&self, relay: Relay) -> anyhow::Result<ExitCode> {
        let topics: Vec<_> = self.topic.iter().map(String::as_str).collect();
        let mut members = Vec::new();
        for _ in 0..relay.connections {
            let consumer: Member = self.configuration()?.create_with_context(Reporter::default())?;
            consumer.subscribe(&topics)?;
            members.push(work(&relay, Arc::new(consumer)));
        }
        join_all(members).await;
        Ok(ExitCode::SUCCESS)
    }

    pub async fn check(&self) -> anyhow::Result<String> {
        let consumer: Member = self.configuration()?.create_with_context(Reporter::default())?;
        let mut partitions = 0;
        for topic in &self.topic {
            let metadata =
                block_in_place(|| consumer.fetch_metadata(Some(topic), CHECK_PATIENCE)).context("no broker answers")?;
            match metadata.topics() {
                [found] if found.error().is_none() && !found.partitions().is_empty() => {
                    partitions += found.partitions().len()
                }
                _ => bail!("there is no topic \"{topic}\", or it may not be read"),
            }
        }
        block_in_place(|| consumer.fetch_group_list(Some(&self.group), CHECK_PATIENCE))
            .context("the group cannot be read")?;
        Ok(format!("brokers answer, {partitions} partitions, group {}", self.group))
    }

    /// What keeps the promise cannot be set otherwise.
    fn configuration(&self) -> anyhow::Result<ClientConfig> {
        let mut configuration = ClientConfig::new();
        configuration.set_log_level(RDKafkaLogLevel::Warning);
        // a message that is too large for what is usual must come nevertheless
        configuration.set("client.id", "audit-relay").set("fetch.message.max.bytes", "67108864");
        // what one member holds that the database has not taken yet
        configuration.set("queued.max.messages.kbytes", "65536");
        for property in &self.property {
            let Some((key, value)) = property.expose().split_once('=') else { continue };
            ensure!(!OURS.contains(&key), "the property {key} keeps the relay's promise, or is an option of its own");
            configuration.set(key, value);
        }
        if let Some(password) = &self.sasl_password {
            configuration.set("sasl.password", password.expose());
        }
        configuration.set("bootstrap.servers", self.brokers.join(",")).set("group.id", &self.group);
        configuration.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        configuration.set("auto.offset.reset", "earliest").set("enable.partition.eof", "false");
        Ok(configuration)
    }
}

type Member = StreamConsumer<Reporter>;

/// Says what librdkafka has to say, in our log.
#[derive(Default)]
struct Reporter {
    complained: Mutex<Option<Instant>>,
}

impl ClientContext for Reporter {
    /// What matters comes as an error, too.
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!("kafka: {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| last.elapsed() >= BETWEEN_COMPLAINTS) {
            *complained = Some(Instant::now());
            tracing::warn!("kafka: {error}: {reason}");
        }
    }
}

impl ConsumerContext for Reporter {
    fn post_rebalance(&self, _: &rdkafka::consumer::BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => tracing::info!("assigned {} partitions", partitions.count()),
            Rebalance::Revoke(partitions) => tracing::info!("gave {} partitions back", partitions.count()),
            Rebalance::Error(error) => tracing::warn!("kafka: {error}"),
        }
    }
}

struct Record {
    topic: String,
    partition: i32,
    offset: i64,
    /// `None`: a tombstone, which is no change.
    body: Option<String>,
}

impl From<BorrowedMessage<'_>> for Record {
    fn from(message: BorrowedMessage<'_>) -> Self {
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            body: message.payload().map(|payload| body::text(payload.to_vec())),
        }
    }
}

impl Record {
    fn bytes(&self) -> usize {
        self.body.as_ref().map_or(0, String::len)
    }
}

async fn work(relay: &Relay, consumer: Arc<Member>) {
    let mut writer = relay.databases.writers();
    // read while the batch before was being stored
    let mut ahead: Vec<Record> = Vec::new();
    loop {
        let mut early = std::mem::take(&mut ahead).into_iter();
        let next = async || match early.next() {
            Some(record) => Some(record),
            None => receive(&consumer, relay).await,
        };
        let batch = gather(relay.limits, next, Record::bytes).await;
        ahead.extend(early);
        if batch.is_empty() {
            return;
        }
        let bodies: Vec<&str> = batch.iter().filter_map(|record| record.body.as_deref()).collect();
        loop {
            let storing = writer.store(&bodies, &relay.stop);
            let Some(verdicts) = while_polling(storing, &consumer, relay, &mut ahead).await else { return };
            if verdicts.iter().all(|stored| *stored) {
                break;
            }
            // an offset says that everything before it is done: nothing can be left out
            tracing::error!("the database refuses messages of this topic: nothing after them is taken");
            if !relay.stop.sleep(PAUSE).await {
                return;
            }
        }
        let (committer, offsets) = (consumer.clone(), offsets_after(&batch));
        let committing = spawn_blocking(move || committer.commit(&offsets, CommitMode::Sync));
        if let Ok(Err(error)) = while_polling(committing, &consumer, relay, &mut ahead).await {
            relay.metrics.not_acknowledged(batch.len());
            tracing::warn!("offsets not committed, {} messages may be delivered again: {error}", batch.len());
        }
        if relay.stop.soon.is_cancelled() {
            return;
        }
    }
}

/// The next record; `None` when the relay is to stop.
async fn receive(consumer: &Member, relay: &Relay) -> Option<Record> {
    loop {
        match relay.stop.soon.run_until_cancelled(consumer.recv()).await? {
            Ok(message) => return Some(message.into()),
            // librdkafka tries again by itself, in its own time; a pause here would hold up what it says next
            Err(error) => tracing::debug!("nothing received: {error}"),
        }
    }
}

/// Goes on polling, without which the group would take the partitions away, and reads ahead by up to a batch.
async fn while_polling<T>(
    work: impl Future<Output = T>,
    consumer: &Member,
    relay: &Relay,
    ahead: &mut Vec<Record>,
) -> T {
    tokio::pin!(work);
    let mut paused = None;
    let done = loop {
        let full = ahead.len() >= relay.limits.messages
            || ahead.iter().map(Record::bytes).sum::<usize>() >= relay.limits.bytes;
        if full && let Ok(assigned) = consumer.assignment() {
            // also what was assigned since the last time
            paused = consumer.pause(&assigned).ok().map(|()| assigned);
        }
        tokio::select! {
            done = &mut work => break done,
            record = receive(consumer, relay) => match record {
                Some(record) => ahead.push(record),
                None => break work.await,
            },
        }
    };
    if let Some(paused) = paused
        && let Err(error) = consumer.resume(&paused)
    {
        tracing::debug!("partitions are gone meanwhile: {error}");
    }
    done
}

fn offsets_after(batch: &[Record]) -> TopicPartitionList {
    let mut next = BTreeMap::new();
    for record in batch {
        let offset = next.entry((record.topic.clone(), record.partition)).or_insert(0);
        *offset = record.offset + 1;
    }
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in next {
        // fails only for offsets below 0
        let _ = list.add_partition_offset(&topic, partition, Offset::Offset(offset));
    }
    list
}
