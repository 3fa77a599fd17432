//! `audit-relay check`: each thing that must be there, asked one after the other.

use crate::config::Source;
use crate::database::{Database, Databases};
use crate::metrics::Metrics;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Default)]
struct Report {
    failed: bool,
}

impl Report {
    fn line<E: Display>(&mut self, what: &str, found: &Result<String, E>) {
        match found {
            Ok(found) => println!("ok      {what}: {found}"),
            Err(error) => println!("FAILED  {what}: {error:#}"),
        }
        self.failed |= found.is_err();
    }

    async fn database(&mut self, database: &Arc<Database>, taken: Option<String>) {
        if let Some(taken) = taken {
            self.line::<String>("sources", &Ok(taken));
        }
        let mut connection = match database.connect().await {
            Ok(connection) => connection,
            Err(failure) => return self.line("database", &Err(format!("{}: {failure}", database.address()))),
        };
        self.line::<String>("database", &Ok(database.address()));
        let extension = database.extension(&mut connection).await;
        let found = extension.map(|(schema, version)| format!("audit_cdc {version} in schema {schema}"));
        self.line("extension", &found);
        if found.is_ok() {
            self.line("role", &database.writer().probe().await.map(|()| "may call audit_ingest".to_owned()));
        }
    }
}

pub async fn check(source: &Source) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let databases = Databases::of(source.common(), &Metrics::new())?;
    for (database, taken) in databases.each() {
        report.database(database, taken).await;
    }
    report.line("source", &source.check().await);
    Ok(if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
