//! How many bodies go into one call.

use crate::config::Common;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub messages: usize,
    /// No more is taken once there are so many: a single body may be larger.
    pub bytes: usize,
    /// How long to wait for more once there is one.
    pub wait: Duration,
}

impl Limits {
    pub fn of(common: &Common) -> Self {
        Self {
            messages: common.batch_messages as usize,
            bytes: common.batch_bytes.as_u64() as usize,
            wait: *common.batch_wait,
        }
    }

    /// What one of several writers takes of what is under way, so that the others do not idle. Not if it is to wait
    /// for more.
    pub fn share(self, under_way: usize, writers: usize) -> Self {
        let share = if self.wait.is_zero() { under_way.div_ceil(writers) } else { self.messages };
        Self { messages: share.clamp(1, self.messages), ..self }
    }
}

/// The next batch; empty only when `next` has come to its end.
pub async fn gather<T>(
    limits: Limits,
    mut next: impl AsyncFnMut() -> Option<T>,
    bytes_of: impl Fn(&T) -> usize,
) -> Vec<T> {
    let mut batch = Vec::new();
    let Some(first) = next().await else { return batch };
    let deadline = Instant::now() + limits.wait;
    let mut bytes = bytes_of(&first);
    batch.push(first);
    while batch.len() < limits.messages && bytes < limits.bytes {
        let Ok(Some(more)) = timeout_at(deadline, next()).await else { break };
        bytes += bytes_of(&more);
        batch.push(more);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    const LIMITS: Limits = Limits { messages: 3, bytes: 10, wait: Duration::from_millis(50) };

    async fn batches(limits: Limits, bodies: &[(u64, &str)]) -> Vec<Vec<String>> {
        let (sender, mut receiver) = mpsc::channel(100);
        let bodies: Vec<_> = bodies.iter().map(|(at, body)| (*at, (*body).to_owned())).collect();
        tokio::spawn(async move {
            let start = Instant::now();
            for (at, body) in bodies {
                tokio::time::sleep_until(start + Duration::from_millis(at)).await;
                assert!(sender.send(body).await.is_ok());
            }
        });
        let mut all = Vec::new();
        loop {
            let batch = gather(limits, async || receiver.recv().await, String::len).await;
            if batch.is_empty() {
                return all;
            }
            all.push(batch);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_full_by_number() {
        assert_eq!(batches(LIMITS, &[(0, "a"), (0, "b"), (0, "c"), (0, "d")]).await, [vec!["a", "b", "c"], vec!["d"]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_full_by_bytes_and_a_large_body_goes_alone() {
        assert_eq!(batches(LIMITS, &[(0, "aaaaaa"), (0, "bbbb"), (0, "c")]).await, [vec!["aaaaaa", "bbbb"], vec!["c"]]);
        assert_eq!(batches(LIMITS, &[(0, "aaaaaaaaaaaa"), (0, "b")]).await, [vec!["aaaaaaaaaaaa"], vec!["b"]]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_more_from_the_first_on_and_no_longer() {
        assert_eq!(batches(LIMITS, &[(0, "a"), (40, "b"), (60, "c")]).await, [vec!["a", "b"], vec!["c"]]);
    }

    #[test]
    fn writers_share_what_waits() {
        let hasty = Limits { messages: 10, wait: Duration::ZERO, ..LIMITS };
        let shares = |limits: Limits| [1, 8, 9, 100].map(|under_way| limits.share(under_way, 2).messages);
        assert_eq!(shares(hasty), [1, 4, 5, 10]);
        assert_eq!(shares(Limits { messages: 10, ..LIMITS }), [10; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_waiting_it_takes_what_is_there() {
        let hasty = Limits { wait: Duration::ZERO, ..LIMITS };
        assert_eq!(batches(hasty, &[(0, "a"), (0, "b"), (1, "c")]).await, [vec!["a", "b"], vec!["c"]]);
    }
}
