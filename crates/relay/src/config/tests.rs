//! What the command line, the environment and a file make of the configuration.

use super::*;
use std::path::PathBuf;

fn read(arguments: &str) -> Result<Source, String> {
    let arguments = arguments.split_whitespace().map(Into::into).collect();
    match read_from(arguments) {
        Ok(Command::Run(source) | Command::Check { source }) => Ok(source),
        Err(error) => Err(error.to_string()),
    }
}

fn with_file(toml: &str, arguments: &str) -> Result<Source, String> {
    let path =
        std::env::temp_dir().join(format!("audit-relay-{}-{:?}.toml", std::process::id(), std::thread::current().id()));
    std::fs::write(&path, toml).map_err(|error| error.to_string())?;
    let source = read(&format!("{arguments} --config {}", path.display()));
    std::fs::remove_file(path).map_err(|error| error.to_string())?;
    source
}

fn refusal(outcome: Result<Source, String>) -> String {
    outcome.err().unwrap_or_else(|| "was accepted".into())
}

#[test]
fn every_option_has_help_and_an_environment_variable() {
    let mut command = Cli::command();
    command.build();
    for sub in command.get_subcommands().filter(|sub| SECTIONS.contains(&sub.get_name())) {
        for arg in sub.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
            assert!(arg.get_help().is_some(), "{} {}", sub.get_name(), arg.get_id());
            let variable = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
            assert!(variable.starts_with("AUDIT_RELAY_") || arg.is_positional(), "{} {}", sub.get_name(), arg.get_id());
        }
    }
}

#[cfg(feature = "file")]
#[test]
fn a_flag_goes_before_the_file_and_the_file_before_what_is_usual() {
    let toml = "connections = 7\nbatch_messages = 9\n[file]\npaths = ['a', 'b']\n";
    let common = |source: Result<Source, String>| source.map(|s| (s.common().connections, s.common().batch_messages));
    assert_eq!(common(read("audit-relay file x")), Ok((2, 1000)));
    assert_eq!(common(with_file(toml, "audit-relay file")), Ok((7, 9)));
    assert_eq!(common(with_file(toml, "audit-relay check file --connections 3")), Ok((3, 9)));
    let Ok(Source::File { options, .. }) = with_file(toml, "audit-relay file") else { panic!("no source file") };
    assert_eq!(options.paths, [PathBuf::from("a"), PathBuf::from("b")]);
}

#[cfg(feature = "file")]
#[test]
fn what_the_file_misspells_is_refused() {
    assert!(refusal(with_file("conections = 7", "audit-relay file x")).contains("no option \"conections\" at the top"));
    assert!(
        refusal(with_file("[file]\nconnections = 7", "audit-relay file x"))
            .contains("no option \"connections\" in section [file]")
    );
    assert!(refusal(with_file("paths = 'x'", "audit-relay file x")).contains("no option \"paths\" at the top"));
    assert!(refusal(with_file("[files]", "audit-relay file x")).contains("no source is called \"files\""));
    assert!(refusal(with_file("connections = 0", "audit-relay file x")).contains("invalid value '0'"));
    assert!(refusal(read("audit-relay file x --config /nowhere")).contains("/nowhere"));
}

#[cfg(feature = "webhook")]
#[test]
fn a_secret_is_refused_in_arguments_and_never_shown() {
    let refused = refusal(read("audit-relay webhook --secret hunter2"));
    assert!(refused.contains("seen by everybody in ps") && !refused.contains("hunter2"), "{refused}");
    let url = "postgres://relay:hunter2@db/audit";
    let refused = refusal(read(&format!("audit-relay webhook --database {url}")));
    assert!(refused.contains("seen by everybody in ps") && !refused.contains("hunter2"), "{refused}");
    assert!(read("audit-relay webhook --allow-anyone --database postgres://relay@db/audit").is_ok());

    let toml = format!("database = '{url}'\n[webhook]\nsecret = 'hunter2'\n");
    let shown = with_file(&toml, "audit-relay webhook").map(|source| format!("{source:?}"));
    assert_eq!(shown.map(|text| text.contains("hunter2")), Ok(false));
    assert!(!refusal(with_file(&toml, "audit-relay webhook --help")).contains("hunter2"));
    assert!(!refusal(with_file("[webhook]\nsecret = hunter2", "audit-relay webhook")).contains("hunter2"));
}
