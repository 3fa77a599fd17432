//! Files of JSON lines, each a body: a message, or a whole batch. For replays and recovery; running it again does
//! no harm.

use crate::batch::gather;
use crate::body;
use crate::relay::Relay;
use anyhow::Context;
use clap::Args;
use futures_util::future::{join, join_all};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::{Mutex, mpsc};

#[derive(Args, Debug)]
pub struct Options {
    /// Files to read; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub paths: Vec<PathBuf>,
}

struct Line {
    body: String,
    /// For people: where it stands.
    at: String,
    /// In the file, its end included.
    bytes: u64,
}

impl Options {
    pub async fn run(&self, relay: Relay) -> anyhow::Result<ExitCode> {
        let start = std::time::Instant::now();
        let bar = progress_bar(&self.paths);
        // each writer may have its next batch ready
        let (sender, receiver) = mpsc::channel(relay.connections * relay.limits.messages);
        let receiver = Mutex::new(receiver);
        let writers = (0..relay.connections).map(|_| write(&relay, &receiver, &bar));
        let (reading, refused) = join(read(&self.paths, &relay, sender), join_all(writers)).await;
        let refused: usize = refused.into_iter().sum();
        bar.finish_and_clear();
        reading?;
        let counts = relay.metrics.counts();
        let messages = counts.inserted + counts.duplicates + counts.rejected;
        println!(
            "{messages} messages in {:.1} s: {} inserted, {} duplicates, {} rejected",
            start.elapsed().as_secs_f64(),
            counts.inserted,
            counts.duplicates,
            counts.rejected
        );
        if refused > 0 {
            println!("{refused} lines were refused by the database and are not stored");
        }
        if relay.stop.soon.is_cancelled() {
            println!("stopped before the end: run it again, what is stored is not stored twice");
        }
        Ok(if refused > 0 || relay.stop.soon.is_cancelled() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    pub async fn check(&self) -> anyhow::Result<String> {
        for path in &self.paths {
            open(path).await?;
        }
        Ok(format!("{} can be read", if self.paths.len() == 1 { "the file" } else { "all files" }))
    }
}

fn progress_bar(paths: &[PathBuf]) -> ProgressBar {
    let sizes: Option<Vec<u64>> =
        paths.iter().map(|path| std::fs::metadata(path).ok().map(|found| found.len())).collect();
    let (bar, template) = match sizes {
        Some(sizes) => (
            ProgressBar::new(sizes.into_iter().sum()),
            "{bar:40} {bytes}/{total_bytes}, {msg}, {bytes_per_sec}, {eta} left",
        ),
        None => (ProgressBar::no_length(), "{spinner} {bytes}, {msg}, {bytes_per_sec}, {elapsed}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message("0 messages")
}

async fn open(path: &Path) -> anyhow::Result<Pin<Box<dyn AsyncRead + Send>>> {
    if path == Path::new("-") {
        return Ok(Box::pin(tokio::io::stdin()));
    }
    Ok(Box::pin(File::open(path).await.with_context(|| format!("cannot open {}", path.display()))?))
}

/// Ends early, without an error, when the relay is to stop.
async fn read(paths: &[PathBuf], relay: &Relay, lines: mpsc::Sender<Line>) -> anyhow::Result<()> {
    for path in paths {
        let mut reader = BufReader::with_capacity(1 << 20, open(path).await?);
        for number in 1.. {
            let mut line = Vec::new();
            let reading = relay.stop.soon.run_until_cancelled(reader.read_until(b'\n', &mut line));
            let Some(read) = reading.await else { return Ok(()) };
            let bytes = read.with_context(|| format!("cannot read {}", path.display()))? as u64;
            if bytes == 0 {
                break;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let line = Line { body: body::text(line), at: format!("{}:{number}", path.display()), bytes };
            // the writers may have ended before they took it
            if relay.stop.now.run_until_cancelled(lines.send(line)).await.is_none_or(|sent| sent.is_err()) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// How many lines the database refused.
async fn write(relay: &Relay, lines: &Mutex<mpsc::Receiver<Line>>, bar: &ProgressBar) -> usize {
    let mut writer = relay.databases.writers();
    let mut refused = 0;
    loop {
        let batch = {
            let mut lines = lines.lock().await;
            gather(relay.limits, async || lines.recv().await, |line| line.body.len()).await
        };
        if batch.is_empty() {
            return refused;
        }
        let bodies: Vec<&str> = batch.iter().map(|line| line.body.as_str()).collect();
        let Some(verdicts) = writer.store(&bodies, &relay.stop).await else { return refused };
        for (line, _) in batch.iter().zip(&verdicts).filter(|(_, stored)| !**stored) {
            tracing::error!("{} is refused by the database", line.at);
            refused += 1;
        }
        let counts = relay.metrics.counts();
        bar.inc(batch.iter().map(|line| line.bytes).sum());
        bar.set_message(format!("{} messages", counts.inserted + counts.duplicates + counts.rejected));
    }
}
