//! Sequin's webhook sink: a POST is answered with 204 once its body is committed, and with 503 in time for Sequin
//! to deliver it again. Bodies that wait at the same time share a call.

mod answer;
mod queue;

use crate::config::Secret;
use crate::config::common::positive;
use crate::relay::Relay;
use crate::{body, service};
use answer::Answer;
use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytesize::ByteSize;
use clap::Args;
use flate2::read::MultiGzDecoder;
use futures_util::StreamExt;
use humantime::Duration;
use queue::Queues;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration as Span;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

#[derive(Args, Debug)]
pub struct Options {
    /// Address to listen at, an IP. TLS is for a proxy before it
    #[arg(long, env = "AUDIT_RELAY_WEBHOOK_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Path that Sequin posts to
    #[arg(
        long, env = "AUDIT_RELAY_WEBHOOK_PATH", value_name = "PATH", default_value = "/",
        value_parser = starts_with_slash
    )]
    path: String,
    /// What Sequin sends in its secret header. Only from environment or file; several, with commas, while you change it
    #[arg(long, env = "AUDIT_RELAY_WEBHOOK_SECRET", value_name = "SECRET", hide_env_values = true,
          hide_default_value = true, value_delimiter = ',', value_parser = Secret::text)]
    secret: Vec<Secret>,
    /// Header that holds the secret. In Authorization, "Bearer " may stand before it
    #[arg(long, env = "AUDIT_RELAY_WEBHOOK_SECRET_HEADER", value_name = "NAME", default_value = "authorization")]
    secret_header: HeaderName,
    /// Take what comes without a secret, too
    #[arg(
        long, env = "AUDIT_RELAY_WEBHOOK_ALLOW_ANYONE", num_args = 0..=1, default_missing_value = "true",
        default_value_t = false
    )]
    allow_anyone: bool,
    /// How long a request may take before it is answered with 503: less than the sink's ack_wait_ms
    #[arg(
        long, env = "AUDIT_RELAY_WEBHOOK_TIMEOUT", value_name = "TIME", default_value = "25s",
        value_parser = positive
    )]
    timeout: Duration,
    /// Longest body that is taken, unpacked
    #[arg(long, env = "AUDIT_RELAY_WEBHOOK_MAX_BODY", value_name = "SIZE", default_value = "64MiB")]
    max_body: ByteSize,
    /// Bytes of bodies that are held at a time: beyond it the answer is 503. Several databases share them equally.
    /// Reckon with four times as much memory
    #[arg(long, env = "AUDIT_RELAY_WEBHOOK_MAX_HELD", value_name = "SIZE", default_value = "256MiB")]
    max_held: ByteSize,
}

const BEARER: &[u8] = b"Bearer ";

/// How long answers may take to be sent when the relay stops.
const LAST_ANSWERS: Span = Span::from_secs(1);

fn starts_with_slash(path: &str) -> Result<String, String> {
    let plain = path.starts_with('/') && !path.contains(['{', '}', '?', '#']);
    if plain { Ok(path.to_owned()) } else { Err("must start with /, without {}, ? or #".into()) }
}

/// Bytes of a body, and the room that they take of what all bodies may take together.
struct Held {
    bytes: Vec<u8>,
    most: usize,
    room: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn add(&mut self, part: &[u8], room: &Arc<Semaphore>) -> Result<(), Answer> {
        if self.bytes.len() + part.len() > self.most {
            return Err(Answer::TooLarge);
        }
        let more = room.clone().try_acquire_many_owned(part.len() as u32).map_err(|_| Answer::NoRoom)?;
        match &mut self.room {
            Some(room) => room.merge(more),
            None => self.room = Some(more),
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    /// All members of gzip (RFC 1952, section 2.2), to the last byte.
    fn unpacked(self, room: &Arc<Semaphore>) -> Result<Self, Answer> {
        let mut unpacked = Self { bytes: Vec::new(), most: self.most, room: None };
        let (mut decoder, mut part) = (MultiGzDecoder::new(&self.bytes[..]), vec![0; 1 << 16]);
        loop {
            match decoder.read(&mut part) {
                Ok(0) => return Ok(unpacked),
                Ok(length) => unpacked.add(&part[..length], room)?,
                Err(_) => return Err(Answer::Broken),
            }
        }
    }
}

struct Webhook {
    queues: Queues,
    room: Arc<Semaphore>,
    relay: Relay,
    secrets: Vec<Secret>,
    secret_header: HeaderName,
    allow_anyone: bool,
    timeout: Duration,
    max_body: usize,
}

impl Options {
    pub async fn run(&self, relay: Relay) -> anyhow::Result<ExitCode> {
        self.must_make_sense()?;
        let most_held = self.max_held.as_u64() as usize;
        let (queues, writing) = queue::open(&relay, most_held);
        let webhook = Webhook {
            queues,
            room: Arc::new(Semaphore::new(most_held)),
            relay: relay.clone(),
            secrets: self.secret.clone(),
            secret_header: self.secret_header.clone(),
            allow_anyone: self.allow_anyone,
            timeout: self.timeout,
            max_body: self.max_body.as_u64() as usize,
        };
        let router = Router::new()
            .route(&self.path, post(receive))
            .fallback(elsewhere)
            .method_not_allowed_fallback(elsewhere)
            .with_state(Arc::new(webhook))
            .merge(service::router(&relay.metrics));
        let listener = service::listen(self.listen).await?;
        service::watch(&relay);
        let serving = tokio::spawn(service::serve(listener, router, relay.stop.soon.clone()));
        // the writers end when no request can bring them anything more, or without their answers: those are 503
        relay.stop.now.run_until_cancelled(writing).await;
        let _ = timeout(LAST_ANSWERS, serving).await;
        Ok(ExitCode::SUCCESS)
    }

    pub async fn check(&self) -> anyhow::Result<String> {
        self.must_make_sense()?;
        match TcpListener::bind(self.listen).await {
            Ok(_) => Ok(format!("can listen at {}, path {}", self.listen, self.path)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                Ok(format!("{} is in use: by this relay, if it runs already", self.listen))
            }
            Err(error) => Err(error).with_context(|| format!("cannot listen at {}", self.listen)),
        }
    }

    fn must_make_sense(&self) -> anyhow::Result<()> {
        ensure!(
            !["/healthz", "/readyz", "/metrics"].contains(&self.path.as_str()),
            "path \"{}\" is the relay's own",
            self.path
        );
        ensure!(self.max_body <= self.max_held, "max_body is more than max_held: such a body could never be taken");
        ensure!(
            self.allow_anyone || !self.secret.is_empty(),
            "there is no secret: set AUDIT_RELAY_WEBHOOK_SECRET (or allow_anyone, if nobody else can reach {})",
            self.listen
        );
        Ok(())
    }
}

async fn receive(State(webhook): State<Arc<Webhook>>, headers: HeaderMap, body: Body) -> Response {
    let answer = match webhook.allows(&headers) {
        true => timeout(*webhook.timeout, webhook.take(&headers, body)).await.unwrap_or(Answer::TooLate),
        false => Answer::NotAllowed,
    };
    if answer != Answer::Stored {
        tracing::warn!("request not taken: {}", answer.told().1.trim_end());
    }
    let response = answer.into_response();
    webhook.relay.metrics.answered(response.status().as_u16());
    response
}

/// A sink that posts to a wrong path should not go unnoticed.
async fn elsewhere(State(webhook): State<Arc<Webhook>>, method: Method, uri: Uri) -> Response {
    tracing::warn!("request not taken: {method} {}", uri.path());
    webhook.relay.metrics.answered(StatusCode::NOT_FOUND.as_u16());
    (StatusCode::NOT_FOUND, "nothing is here: POST to the path of the webhook\n").into_response()
}

impl Webhook {
    /// Every secret is compared to its end, so that the time tells nothing.
    fn allows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(&self.secret_header).map(|value| value.as_bytes()).unwrap_or_default();
        let bare = match given.split_at_checked(BEARER.len()) {
            Some((scheme, token))
                if self.secret_header == header::AUTHORIZATION && scheme.eq_ignore_ascii_case(BEARER) =>
            {
                token
            }
            _ => given,
        };
        let matches =
            self.secrets.iter().fold(0, |any, secret| any | secret.expose().as_bytes().ct_eq(bare).unwrap_u8());
        matches == 1 || self.allow_anyone
    }

    async fn take(&self, headers: &HeaderMap, body: Body) -> Answer {
        let encoding = headers.get(header::CONTENT_ENCODING).map_or(&b""[..], |value| value.as_bytes());
        let packed = encoding.eq_ignore_ascii_case(b"gzip");
        if !packed && !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity") {
            return Answer::Unknown;
        }
        let mut held = Held { bytes: Vec::new(), most: self.max_body, room: None };
        let mut parts = body.into_data_stream();
        while let Some(part) = parts.next().await {
            let Ok(part) = part else { return Answer::Broken };
            if let Err(answer) = held.add(&part, &self.room) {
                return answer;
            }
        }
        if packed {
            let room = self.room.clone();
            match spawn_blocking(move || held.unpacked(&room)).await {
                Ok(Ok(unpacked)) => held = unpacked,
                Ok(Err(answer)) => return answer,
                Err(_) => return Answer::Broken,
            }
        }
        self.queues.store(body::text(held.bytes), held.room).await
    }
}
