//! SIGTERM and SIGINT: first nothing more is taken, then, after a while, what is still held is returned.

use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
pub struct Stop {
    /// Take nothing more.
    pub soon: CancellationToken,
    /// Return what is held.
    pub now: CancellationToken,
}

impl Stop {
    pub fn on_signal(patience: Duration) -> anyhow::Result<Self> {
        let stop = Self::default();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn({
            let stop = stop.clone();
            async move {
                tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
                tracing::info!("stopping");
                stop.soon.cancel();
                // a second signal ends the patience
                tokio::select! {
                    _ = terminate.recv() => (),
                    _ = interrupt.recv() => (),
                    () = tokio::time::sleep(patience) => (),
                }
                stop.now.cancel();
            }
        });
        Ok(stop)
    }

    /// What has begun ends, but no later than `span` after nothing more is to be taken: then it is `None`.
    pub async fn run_a_little_longer<T>(&self, work: impl Future<Output = T>, span: Duration) -> Option<T> {
        let too_late = async {
            self.soon.cancelled().await;
            self.now.run_until_cancelled(tokio::time::sleep(span)).await;
        };
        tokio::select! {
            done = work => Some(done),
            () = too_late => None,
        }
    }

    /// Sleeps; `false` if it was woken to take nothing more.
    pub async fn sleep(&self, duration: Duration) -> bool {
        self.soon.run_until_cancelled(tokio::time::sleep(duration)).await.is_some()
    }
}
