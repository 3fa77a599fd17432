//! Bodies that wait to be stored. Each database has a queue, writers and room of its own, so that one that hangs
//! holds up no other.

use super::answer::Answer;
use crate::batch::gather;
use crate::database::{Database, Databases};
use crate::relay::Relay;
use futures_util::future::join_all;
use std::cell::Cell;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// A body, or what one database gets of it, and who waits for it.
struct Waiting {
    body: String,
    answer: oneshot::Sender<Answer>,
    /// Given back when the body is: of all queues, and of this one.
    _room: [Option<OwnedSemaphorePermit>; 2],
}

struct Queue {
    waiting: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
}

/// The queues of all databases, in their order.
pub struct Queues {
    databases: Arc<Databases>,
    queues: Vec<Queue>,
    /// Bytes that one queue holds at most. A body that is longer goes alone.
    share: usize,
}

/// And what empties them, until nobody can fill them any more. They share `most_held` bytes.
pub fn open(relay: &Relay, most_held: usize) -> (Queues, impl Future<Output = ()>) {
    let databases: Vec<_> = relay.databases.each().map(|(database, _)| database.clone()).collect();
    let share = (most_held / databases.len()).max(1);
    let (queues, receivers): (Vec<_>, Vec<_>) = databases
        .iter()
        .map(|_| {
            let (waiting, receiver) = mpsc::unbounded_channel();
            (Queue { waiting, room: Arc::new(Semaphore::new(share)) }, receiver)
        })
        .unzip();
    let relay = relay.clone();
    let queues = Queues { databases: relay.databases.clone(), queues, share };
    let writing = async move {
        let writers = databases.iter().zip(receivers);
        join_all(writers.map(|(database, receiver)| empty(&relay, database, receiver))).await;
    };
    (queues, writing)
}

impl Queues {
    /// Waits until all parts of the body are stored, or one cannot be. `room` is what the body takes.
    pub async fn store(&self, body: String, mut room: Option<OwnedSemaphorePermit>) -> Answer {
        let (parts, homeless) = self.databases.divide(body);
        let waiting: Vec<_> = parts
            .into_iter()
            .map(|(database, part)| {
                let room = room.as_mut().and_then(|room| room.split(part.len().min(room.num_permits())));
                self.queues[database].add(part, room, self.share)
            })
            .collect();
        // what was of no part is not held any longer
        drop(room);
        let mut answers = Vec::with_capacity(waiting.len() + 1);
        for part in waiting {
            answers.push(match part {
                // neither end is dropped without an answer, but by a writer that panicked or was stopped
                Ok(answered) => answered.await.unwrap_or(Answer::NotStored),
                Err(answer) => answer,
            });
        }
        if let Some(failure) = homeless {
            tracing::error!("not stored: {failure}");
            answers.push(Answer::NoDatabase);
        }
        Answer::of_parts(&answers)
    }
}

impl Queue {
    fn add(
        &self,
        body: String,
        room: Option<OwnedSemaphorePermit>,
        share: usize,
    ) -> Result<oneshot::Receiver<Answer>, Answer> {
        let own = self.room.clone().try_acquire_many_owned(body.len().min(share) as u32);
        let own = own.map_err(|_| Answer::NoRoom)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { body, answer, _room: [room, Some(own)] };
        self.waiting.send(waiting).map_err(|_| Answer::NotStored)?;
        Ok(answered)
    }
}

async fn empty(relay: &Relay, database: &Arc<Database>, waiting: mpsc::UnboundedReceiver<Waiting>) {
    let (waiting, storing) = (Mutex::new(waiting), Cell::new(0));
    join_all((0..relay.connections).map(|_| write(relay, database, &waiting, &storing))).await;
}

/// `storing`: bodies in calls of all writers of this database.
async fn write(
    relay: &Relay,
    database: &Arc<Database>,
    waiting: &Mutex<mpsc::UnboundedReceiver<Waiting>>,
    storing: &Cell<usize>,
) {
    let mut writer = database.writer();
    loop {
        let mut batch = {
            let mut waiting = waiting.lock().await;
            let Some(first) = waiting.recv().await else { return };
            let limits = relay.limits.share(waiting.len() + 1 + storing.get(), relay.connections);
            let mut first = Some(first);
            let next = async || match first.take() {
                Some(first) => Some(first),
                None => waiting.recv().await,
            };
            gather(limits, next, |waiting| waiting.body.len()).await
        };
        // whoever has waited too long will deliver again
        batch.retain(|waiting| !waiting.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        let bodies: Vec<&str> = batch.iter().map(|waiting| waiting.body.as_str()).collect();
        storing.update(|storing| storing + bodies.len());
        let results = writer.ingest(&bodies).await;
        storing.update(|storing| storing - bodies.len());
        for (waiting, result) in batch.into_iter().zip(results) {
            let answer = match result {
                Ok(()) => Answer::Stored,
                Err(failure) if failure.refused => Answer::Refused,
                Err(_) => Answer::NotStored,
            };
            // it may have given up meanwhile
            let _ = waiting.answer.send(answer);
        }
    }
}
