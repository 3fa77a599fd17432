//! Flags and environment.

use crate::month::Month;
use clap::{Args, Parser, Subcommand};
use std::fmt;

/// Keeps closed months of the audit log as Parquet files, in a folder or in S3.
///
/// Every option can also be given in the environment. S3 takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and
/// others from there, as Amazon's own programs do.
#[derive(Debug, Parser)]
#[command(name = "audit-keeper", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write months that are over and not archived yet, and those that have changed since
    Archive {
        #[command(flatten)]
        common: Common,
        /// The last month to archive; without it, the last one that is over
        #[arg(long, env = "AUDIT_KEEPER_UNTIL", value_name = "YYYY-MM")]
        until: Option<Month>,
        /// Read each archived month in the log again, and write those that differ in whatever way
        #[arg(long)]
        compare: bool,
        /// Go on with an archive of another server: this database was restored or upgraded from it
        #[arg(long)]
        accept_server: bool,
    },
    /// Compare archive and log, and files with their manifests. Tells what differs; the exit status is 1 then
    Verify {
        #[command(flatten)]
        common: Common,
    },
    /// Bring a month back, into the table audit_archive.log_YYYY_MM
    Restore {
        #[command(flatten)]
        common: Common,
        #[arg(long, value_name = "YYYY-MM")]
        month: Month,
    },
}

#[derive(Debug, Args)]
pub struct Common {
    /// The audit database, e.g. postgres://keeper@db.example/audit?sslmode=verify-full. What it does not say comes from
    /// PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, PGPASSFILE, PGSSLMODE and PGSSLROOTCERT, as with psql. With a
    /// password in it: only from the environment
    #[arg(
        long,
        env = "AUDIT_KEEPER_DATABASE",
        value_name = "URL",
        hide_env_values = true,
        hide_default_value = true,
        default_value = "postgres:"
    )]
    pub database: Address,
    /// The archive: a folder, or s3://bucket/prefix
    #[arg(long, env = "AUDIT_KEEPER_TO", value_name = "PLACE")]
    pub to: String,
}

/// It may have a password in it, and is never shown.
#[derive(Clone)]
pub struct Address(String);

impl Address {
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn has_password(&self) -> bool {
        url::Url::parse(&self.0)
            .map_or(true, |url| url.password().is_some() || url.query_pairs().any(|(key, _)| key == "password"))
    }
}

impl std::str::FromStr for Address {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

impl Command {
    pub fn common(&self) -> &Common {
        match self {
            Self::Archive { common, .. } | Self::Verify { common } | Self::Restore { common, .. } => common,
        }
    }
}

/// Ends the program, with a message, if the arguments are not right.
pub fn read() -> Command {
    let arguments: Vec<_> = std::env::args_os().collect();
    let command = Cli::parse_from(&arguments).command;
    let is_argument =
        arguments.iter().any(|one| one.to_str().is_some_and(|text| text.split('=').next() == Some("--database")));
    if is_argument && command.common().database.has_password() {
        use clap::CommandFactory;
        let refused = "a password in --database would be seen by everybody in ps: put it into AUDIT_KEEPER_DATABASE";
        Cli::command().error(clap::error::ErrorKind::ArgumentConflict, refused).exit();
    }
    command
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn a_password_is_seen() -> Result<(), std::convert::Infallible> {
        let address = |text: &str| text.parse::<Address>();
        assert!(address("postgres://keeper:hunter2@db/audit")?.has_password());
        assert!(address("postgres://db/audit?password=hunter2")?.has_password());
        assert!(address("host=db password=hunter2")?.has_password());
        assert!(!address("postgres://keeper@db/audit")?.has_password());
        assert!(!address("postgres:")?.has_password());
        assert_eq!(format!("{:?}", address("postgres://keeper:hunter2@db")?), "(not shown)");
        Ok(())
    }
}
