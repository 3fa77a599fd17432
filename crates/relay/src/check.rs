//! `audit-relay check`: each thing that must be there, asked one after the other.

use crate::config::Source;
use crate::database::Database;
use crate::metrics::Metrics;
use std::fmt::Display;
use std::process::ExitCode;

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
}

pub async fn check(source: &Source) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let database = Database::of(source.common(), Metrics::new())?;
    match database.connect().await {
        Ok(mut connection) => {
            report.line::<String>("database", &Ok(database.address()));
            let extension = database.extension(&mut connection).await;
            let found = extension.map(|(schema, version)| format!("audit_cdc {version} in schema {schema}"));
            report.line("extension", &found);
            if found.is_ok() {
                report.line("role", &database.writer().probe().await.map(|()| "may call audit_ingest".to_owned()));
            }
        }
        Err(failure) => report.line("database", &Err(format!("{}: {failure}", database.address()))),
    }
    report.line("source", &source.check().await);
    Ok(if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
