//! Sequin Stream, Sequin's HTTP API: receive, store, ack. A reply is a body as it is.
//!
//! Source: `lib/sequin_web/controllers/pull_controller.ex` and `router.ex` of sequinstream/sequin.

use crate::body;
use crate::config::Secret;
use crate::config::common::positive;
use crate::relay::Relay;
use anyhow::{Context, bail};
use clap::Args;
use futures_util::future::join_all;
use humantime::Duration;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration as Span;

/// Sequin keeps to these bounds.
const SHORTEST_WAIT: Span = Span::from_millis(500);
const LONGEST_WAIT: Span = Span::from_secs(300);
const MOST_MESSAGES: usize = 1000;

/// How long a reply may take beyond the time that Sequin was asked to wait.
const PATIENCE: Span = Span::from_secs(30);
/// After an error, before the source is asked again.
const PAUSE: Span = Span::from_secs(1);

#[derive(Args, Debug)]
pub struct Options {
    /// The stream, e.g. https://sequin.example/api/sequin_streams/audit
    #[arg(long, env = "AUDIT_RELAY_STREAM_URL", value_name = "URL", required = true)]
    url: Option<Url>,
    /// Sequin's API token. Only from environment or file
    #[arg(long, env = "AUDIT_RELAY_STREAM_TOKEN", value_name = "TOKEN", hide_env_values = true,
          hide_default_value = true, value_parser = Secret::text)]
    token: Option<Secret>,
    /// How long Sequin waits for messages before it replies that there are none: 500ms to 5m
    #[arg(long, env = "AUDIT_RELAY_STREAM_WAIT", value_name = "TIME", default_value = "5s", value_parser = wait)]
    wait: Duration,
    /// How long Sequin may take to reply to an ack, before it is sent again
    #[arg(
        long, env = "AUDIT_RELAY_STREAM_ACK_TIMEOUT", value_name = "TIME", default_value = "10s",
        value_parser = positive
    )]
    ack_timeout: Duration,
}

fn wait(text: &str) -> Result<Duration, String> {
    let wait = positive(text)?;
    if (SHORTEST_WAIT..=LONGEST_WAIT).contains(&*wait) { Ok(wait) } else { Err("must be from 500ms to 5m".into()) }
}

#[derive(Deserialize)]
struct Received {
    data: Vec<Delivery>,
}

#[derive(Deserialize)]
struct Delivery {
    ack_id: String,
}

struct Stream {
    client: Client,
    url: Url,
    token: Option<Secret>,
    wait: Span,
    ack_timeout: Span,
}

impl Options {
    pub async fn run(&self, relay: Relay) -> anyhow::Result<ExitCode> {
        let stream = self.stream()?;
        join_all((0..relay.connections).map(|_| work(&relay, &stream))).await;
        Ok(ExitCode::SUCCESS)
    }

    /// An ack without ids: refused as such, once token and stream were found to be right.
    pub async fn check(&self) -> anyhow::Result<String> {
        let stream = self.stream()?;
        let request = stream.post("ack", &json!({"ack_ids": []}), stream.ack_timeout)?;
        let reply = request.send().await.map_err(reqwest::Error::without_url).context("Sequin cannot be reached")?;
        match reply.status() {
            StatusCode::BAD_REQUEST => Ok(format!("{} answers, and knows token and stream", stream.url)),
            StatusCode::OK => bail!("{} takes what Sequin would refuse: is it a stream of Sequin's?", stream.url),
            status => bail!("Sequin answers with {status}: {}", meaning(status)),
        }
    }

    fn stream(&self) -> anyhow::Result<Stream> {
        let mut url = self.url.clone().context("there is no url")?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
        }
        let client = Client::builder().connect_timeout(Span::from_secs(10)).build()?;
        Ok(Stream { client, url, token: self.token.clone(), wait: *self.wait, ack_timeout: *self.ack_timeout })
    }
}

fn meaning(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "the token is wrong",
        StatusCode::NOT_FOUND => "there is no such stream",
        _ => "look at Sequin's own log",
    }
}

async fn work(relay: &Relay, stream: &Stream) {
    let mut writer = relay.databases.writers();
    let messages = relay.limits.messages.min(MOST_MESSAGES);
    while !relay.stop.soon.is_cancelled() {
        let (body, ack_ids) = match stream.receive(messages).await {
            Ok((_, ack_ids)) if ack_ids.is_empty() => continue,
            Ok(received) => received,
            Err(error) => {
                tracing::warn!("nothing received: {error:#}");
                relay.stop.sleep(PAUSE).await;
                continue;
            }
        };
        let verdict = writer.store(&[&body], &relay.stop).await;
        let settled = match verdict.as_deref() {
            Some([true]) => stream.settle("ack", &ack_ids).await,
            // Sequin delivers them again, at once
            _ => stream.settle("nack", &ack_ids).await,
        };
        if let Err(error) = settled {
            relay.metrics.not_acknowledged(ack_ids.len());
            tracing::warn!("{} messages will be delivered again: {error:#}", ack_ids.len());
        }
        if verdict == Some(vec![false]) {
            relay.stop.sleep(PAUSE).await;
        }
    }
}

impl Stream {
    fn post(&self, verb: &str, json: &serde_json::Value, patience: Span) -> anyhow::Result<RequestBuilder> {
        let mut url = self.url.clone();
        match url.path_segments_mut() {
            Ok(mut path) => path.push(verb),
            Err(()) => bail!("{} is no address of a stream", self.url),
        };
        let request = self.client.post(url).json(json).timeout(patience);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        })
    }

    /// A body, and what acknowledges its messages.
    async fn receive(&self, messages: usize) -> anyhow::Result<(String, Vec<String>)> {
        let asked = json!({"batch_size": messages, "wait_for": self.wait.as_millis() as u64});
        let reply =
            self.post("receive", &asked, self.wait + PATIENCE)?.send().await.map_err(reqwest::Error::without_url)?;
        if !reply.status().is_success() {
            bail!("Sequin answers with {}: {}", reply.status(), meaning(reply.status()));
        }
        let body = body::text(reply.bytes().await.map_err(reqwest::Error::without_url)?.into());
        let received: Received = match serde_json::from_str(&body) {
            Ok(received) => received,
            // the parser's message may quote a value
            Err(error) => {
                bail!("Sequin's reply is no list of deliveries (line {}, column {})", error.line(), error.column())
            }
        };
        Ok((body, received.data.into_iter().map(|delivery| delivery.ack_id).collect()))
    }

    /// Tried twice: what is not acknowledged is delivered again, which is harmless.
    async fn settle(&self, verb: &str, ack_ids: &[String]) -> anyhow::Result<()> {
        let ids = json!({"ack_ids": ack_ids});
        let mut outcome = self.try_settle(verb, &ids).await;
        if outcome.is_err() {
            outcome = self.try_settle(verb, &ids).await;
        }
        outcome
    }

    async fn try_settle(&self, verb: &str, ids: &serde_json::Value) -> anyhow::Result<()> {
        let reply = self.post(verb, ids, self.ack_timeout)?.send().await.map_err(reqwest::Error::without_url)?;
        if !reply.status().is_success() {
            bail!("Sequin answers to {verb} with {}", reply.status());
        }
        Ok(())
    }
}
