//! Amazon SQS: long poll, store, delete. While the database keeps a batch waiting, its messages stay invisible to
//! others.

use crate::body;
use crate::config::common::positive;
use crate::relay::Relay;
use anyhow::{Context, anyhow};
use aws_config::{BehaviorVersion, Region};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, QueueAttributeName,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use clap::Args;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use humantime::Duration;
use std::process::ExitCode;
use std::time::Duration as Span;
use tokio::time::Instant;

/// What one request of SQS takes or gives at most.
const MOST_MESSAGES: usize = 10;
/// Requests at a time while a batch is gathered or deleted.
const PARALLEL: usize = 8;
/// SQS waits for a first message no longer.
const LONGEST_WAIT: Span = Span::from_secs(20);
/// More messages are asked for no longer than that, lest those that are held become visible to others.
const LONGEST_GATHERING: Span = Span::from_secs(1);
/// A request that is under way when the relay is to stop may have taken messages: its reply is awaited no longer.
const LAST_REPLY: Span = Span::from_secs(2);
/// After an error, before the source is asked again.
const PAUSE: Span = Span::from_secs(1);

#[derive(Args, Debug)]
pub struct Options {
    /// The queue's URL. Credentials are found as by every tool of Amazon's: environment, profile, role
    #[arg(long, env = "AUDIT_RELAY_SQS_QUEUE_URL", value_name = "URL", required = true)]
    queue_url: Option<String>,
    /// Region, if neither AWS_REGION nor the profile tells
    #[arg(long, env = "AUDIT_RELAY_SQS_REGION", value_name = "REGION")]
    region: Option<String>,
    /// Address of the service, if it is not Amazon's
    #[arg(long, env = "AUDIT_RELAY_SQS_ENDPOINT_URL", value_name = "URL")]
    endpoint_url: Option<String>,
    /// How long SQS waits for messages before it replies that there are none: up to 20s
    #[arg(long, env = "AUDIT_RELAY_SQS_WAIT", value_name = "TIME", default_value = "20s", value_parser = wait)]
    wait: Duration,
    /// How long a message that was received stays invisible to others; renewed while it waits: from 1s
    #[arg(
        long, env = "AUDIT_RELAY_SQS_VISIBILITY_TIMEOUT", value_name = "TIME", default_value = "60s",
        value_parser = whole_seconds
    )]
    visibility_timeout: Duration,
}

fn wait(text: &str) -> Result<Duration, String> {
    let time = whole_seconds(text)?;
    if *time <= LONGEST_WAIT { Ok(time) } else { Err("must be up to 20s".into()) }
}

fn whole_seconds(text: &str) -> Result<Duration, String> {
    let time = positive(text)?;
    if time.subsec_nanos() == 0 && time.as_secs() <= 43_200 {
        Ok(time)
    } else {
        Err("must be whole seconds, up to 12h".into())
    }
}

struct Queue {
    client: Client,
    url: String,
    wait: Span,
    visibility: Span,
}

impl Options {
    pub async fn run(&self, relay: Relay) -> anyhow::Result<ExitCode> {
        let queue = self.queue().await?;
        join_all((0..relay.connections).map(|_| work(&relay, &queue))).await;
        Ok(ExitCode::SUCCESS)
    }

    pub async fn check(&self) -> anyhow::Result<String> {
        let queue = self.queue().await?;
        let request = queue.client.get_queue_attributes().queue_url(&queue.url);
        let wanted = [QueueAttributeName::ApproximateNumberOfMessages, QueueAttributeName::RedrivePolicy];
        let reply = request.set_attribute_names(Some(wanted.to_vec())).send().await;
        let reply = reply.map_err(told).context("the queue cannot be reached")?;
        let attributes = reply.attributes.unwrap_or_default();
        let waiting = attributes.get(&QueueAttributeName::ApproximateNumberOfMessages).map_or("?", String::as_str);
        let dead_letters = match attributes.contains_key(&QueueAttributeName::RedrivePolicy) {
            true => {
                "; its redrive policy moves messages away while the database is down for long: raise maxReceiveCount"
            }
            false => "",
        };
        Ok(format!("the queue answers, about {waiting} messages wait{dead_letters}"))
    }

    async fn queue(&self) -> anyhow::Result<Queue> {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.endpoint_url {
            loader = loader.endpoint_url(endpoint);
        }
        let url = self.queue_url.clone().context("there is no queue_url")?;
        Ok(Queue {
            client: Client::new(&loader.load().await),
            url,
            wait: *self.wait,
            visibility: *self.visibility_timeout,
        })
    }
}

/// Without the reply, which may hold messages.
fn told<E: ProvideErrorMetadata, R>(error: SdkError<E, R>) -> anyhow::Error {
    match &error {
        SdkError::ServiceError(refusal) => match refusal.err().code() {
            Some(code) => anyhow!("{code}: {}", refusal.err().message().unwrap_or("no reason was given")),
            None => anyhow!("the reply cannot be understood"),
        },
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(failure) => anyhow!("{}", causes(failure)),
            None => anyhow!("the request could not be sent"),
        },
        SdkError::TimeoutError(_) => anyhow!("no reply in time"),
        SdkError::ResponseError(_) => anyhow!("the reply cannot be understood"),
        _ => anyhow!("the request cannot be made: are region and credentials there?"),
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A message that is to be stored and deleted.
struct Held {
    body: String,
    receipt: String,
}

async fn work(relay: &Relay, queue: &Queue) {
    let mut writer = relay.databases.writers();
    while !relay.stop.soon.is_cancelled() {
        let held = match queue.gather(relay).await {
            Ok(held) if held.is_empty() => continue,
            Ok(held) => held,
            Err(error) => {
                tracing::warn!("nothing received: {error:#}");
                relay.stop.sleep(PAUSE).await;
                continue;
            }
        };
        let bodies: Vec<&str> = held.iter().map(|held| held.body.as_str()).collect();
        let verdicts = tokio::select! {
            verdicts = writer.store(&bodies, &relay.stop) => verdicts,
            never = queue.keep_invisible(&held) => never,
        };
        match verdicts {
            Some(verdicts) => {
                // what the database refuses comes again, and goes where the queue's redrive policy says
                let stored: Vec<&Held> =
                    held.iter().zip(verdicts).filter(|(_, stored)| *stored).map(|(held, _)| held).collect();
                let left = queue.delete(&stored).await;
                if left > 0 {
                    relay.metrics.not_acknowledged(left);
                    tracing::warn!("{left} messages could not be deleted and will be delivered again");
                }
            }
            None => queue.set_visibility(&held, 0).await,
        }
    }
}

impl Queue {
    /// Waits for a first message; then, if there seem to be many, asks several times at once.
    async fn gather(&self, relay: &Relay) -> anyhow::Result<Vec<Held>> {
        let limits = relay.limits;
        let first = self.receive(self.wait.as_secs() as i32, limits.messages);
        let Some(first) = relay.stop.run_a_little_longer(first, LAST_REPLY).await else { return Ok(Vec::new()) };
        let mut held = first?;
        let (deadline, last) = (
            Instant::now() + limits.wait,
            Instant::now() + limits.wait.max(LONGEST_GATHERING.min(self.visibility / 4)),
        );
        let mut many = held.len() == MOST_MESSAGES;
        while !held.is_empty() && Instant::now() <= last && !relay.stop.soon.is_cancelled() {
            if !many {
                if Instant::now() >= deadline {
                    break;
                }
                tokio::time::sleep_until(deadline).await;
            }
            let bytes: usize = held.iter().map(|held| held.body.len()).sum();
            let missing = limits.messages.saturating_sub(held.len());
            if missing == 0 || bytes >= limits.bytes {
                break;
            }
            let requests = missing.div_ceil(MOST_MESSAGES).min(PARALLEL);
            let replies = (0..requests).map(|_| self.receive(0, missing / requests));
            let replies: Vec<_> = stream::iter(replies).buffer_unordered(PARALLEL).collect().await;
            let before = held.len();
            // what was received is held, whatever became of the other requests
            held.extend(replies.into_iter().flat_map(Result::unwrap_or_default));
            many = held.len() - before >= requests * MOST_MESSAGES / 2;
        }
        Ok(held)
    }

    async fn receive(&self, wait_seconds: i32, most: usize) -> anyhow::Result<Vec<Held>> {
        let reply = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(most.clamp(1, MOST_MESSAGES) as i32)
            .wait_time_seconds(wait_seconds)
            .visibility_timeout(self.visibility.as_secs() as i32)
            .send()
            .await
            .map_err(told)?;
        let held =
            |message: Message| Some(Held { body: body::text(message.body?.into()), receipt: message.receipt_handle? });
        Ok(reply.messages.unwrap_or_default().into_iter().filter_map(held).collect())
    }

    /// Ends only when it is dropped.
    async fn keep_invisible<T>(&self, held: &[Held]) -> T {
        loop {
            tokio::time::sleep(self.visibility / 2).await;
            self.set_visibility(held, self.visibility.as_secs() as i32).await;
        }
    }

    /// At worst a message is delivered again, which is harmless.
    async fn set_visibility(&self, held: &[Held], seconds: i32) {
        let requests = held.chunks(MOST_MESSAGES).map(async |chunk| {
            let entries = chunk.iter().zip(0..).filter_map(|(held, n)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(format!("m{n}"));
                entry.receipt_handle(&held.receipt).visibility_timeout(seconds).build().ok()
            });
            let request = self.client.change_message_visibility_batch().queue_url(&self.url);
            request.set_entries(Some(entries.collect())).send().await.is_ok()
        });
        let outcomes: Vec<bool> = stream::iter(requests).buffer_unordered(PARALLEL).collect().await;
        if outcomes.contains(&false) {
            tracing::warn!("some messages could not be kept and may be delivered again");
        }
    }

    /// How many could not be deleted.
    async fn delete(&self, held: &[&Held]) -> usize {
        let requests = held.chunks(MOST_MESSAGES).map(async |chunk| {
            let entries = chunk.iter().zip(0..).filter_map(|(held, n)| {
                DeleteMessageBatchRequestEntry::builder().id(format!("m{n}")).receipt_handle(&held.receipt).build().ok()
            });
            let request = self.client.delete_message_batch().queue_url(&self.url);
            match request.set_entries(Some(entries.collect())).send().await {
                Ok(reply) => reply.failed.len(),
                Err(_) => chunk.len(),
            }
        });
        stream::iter(requests).buffer_unordered(PARALLEL).fold(0, async |left, failed| left + failed).await
    }
}
