//! The configuration file gives options other defaults: so flags and environment go before it, and every rule for a
//! value holds for it too.

use super::route::{Route, routes};
use clap::Command;
use clap::error::ErrorKind;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Before the command line is read, as it may be incomplete without the file.
pub fn path(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else { continue };
        if text == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    std::env::var_os("AUDIT_RELAY_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// `known_sections` may be there, whatever is in them.
pub fn apply(mut command: Command, path: &Path, known_sections: &[&str]) -> Result<(Command, Vec<Route>), clap::Error> {
    let complain = |command: &mut Command, what: String| {
        command.error(ErrorKind::InvalidValue, format!("configuration file {}: {what}", path.display()))
    };
    let table = match std::fs::read_to_string(path) {
        Ok(text) => text.parse::<Table>().map_err(|error| without_excerpt(&text, &error)),
        Err(error) => Err(error.to_string()),
    };
    let mut table = table.map_err(|error| complain(&mut command, error))?;
    let routed = match table.remove("database") {
        Some(Value::Table(sections)) => routes(&sections),
        Some(one) => {
            table.insert("database".to_owned(), one);
            Ok(Vec::new())
        }
        None => Ok(Vec::new()),
    };
    let routed = routed.map_err(|error| complain(&mut command, error))?;
    let (sections, top): (Vec<_>, Vec<_>) = table.into_iter().partition(|(_, value)| value.is_table());
    let mut known = BTreeSet::new();
    command = with_defaults(command, &top, &sections, &mut known);
    for (name, section) in &sections {
        if !known_sections.contains(&name.as_str()) {
            return Err(complain(&mut command, format!("no source is called \"{name}\"")));
        }
        let compiled = command.find_subcommand(name).is_some();
        for key in section.as_table().into_iter().flatten().map(|(key, _)| key) {
            if compiled && !known.contains(&format!("{name}.{key}")) {
                return Err(complain(&mut command, format!("there is no option \"{key}\" in section [{name}]")));
            }
        }
    }
    match top.iter().find(|(key, _)| !known.contains(key)) {
        Some((key, _)) => Err(complain(&mut command, format!("there is no option \"{key}\" at the top"))),
        None => Ok((command, routed)),
    }
}

/// The parser's own message quotes the line, which may hold a secret.
fn without_excerpt(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| text.get(..span.start).unwrap_or(text).lines().count().max(1));
    format!("line {line}: {}", error.message())
}

fn with_defaults(
    command: Command,
    top: &[(String, Value)],
    sections: &[(String, Value)],
    known: &mut BTreeSet<String>,
) -> Command {
    command.mut_subcommands(|mut sub| {
        let name = sub.get_name().to_owned();
        let section = sections.iter().find(|(section, _)| *section == name).and_then(|(_, value)| value.as_table());
        let own: Vec<_> =
            section.into_iter().flatten().map(|(key, value)| (key, value, format!("{name}.{key}"))).collect();
        let common = top.iter().map(|(key, value)| (key, value, key.clone()));
        for (key, value, path) in common.chain(own) {
            let is_common = |heading: Option<&str>| heading == Some("Options of all sources");
            let belongs = sub.get_arguments().any(|arg| {
                arg.get_id() == key.as_str() && key != "config" && (path == *key) == is_common(arg.get_help_heading())
            });
            if belongs {
                sub = sub.mut_arg(key, |arg| arg.required(false).default_values(texts(value)));
                known.insert(path);
            }
        }
        with_defaults(sub, top, sections, known)
    })
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}
