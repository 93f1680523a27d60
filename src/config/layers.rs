//! Where values come from: defaults < TOML file < environment < `--set`, each checked at its own source.
//!
//! Every layer is checked on its own before it is merged, so that a complaint names the file's line, the variable or
//! the argument that is to blame. The merging is our own because a value from the environment has no TOML type yet:
//! it is tried as text first (an all-digit token stays text), then as TOML, then as a comma-separated list.

use std::{
    ffi::OsString,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{Table, Value};

use super::Config;

/// What the environment variables of the gateway start with; sections and keys follow, joined by two underscores.
const ENVIRONMENT_PREFIX: &str = "WHIPGATE__";

/// Where a configuration is read from; a later field wins over an earlier one.
#[derive(Clone, Default)]
pub struct Sources {
    /// The TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without our prefix are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// Texts of the form `section.key=value`.
    pub overrides: Vec<String>,
}

impl Sources {
    /// The file, the overrides and this process's environment.
    pub fn of_process(file: Option<PathBuf>, overrides: Vec<String>) -> Self {
        Self {
            file,
            environment: std::env::vars_os().collect(),
            overrides,
        }
    }
}

/// Values may be secrets: only their number shows.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("environment", &self.environment.len())
            .field("overrides", &self.overrides.len())
            .finish()
    }
}

/// Why a configuration is refused. The texts name the source and the key, never a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's text is refused.
    #[error("{file}:{line}:{column}: {message}{excerpt}")]
    File {
        /// The file's name.
        file: String,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
        /// What is wrong.
        message: String,
        /// The line itself with a caret, on lines of their own; empty where it could show a secret.
        excerpt: String,
    },
    /// An environment variable or an argument is refused.
    #[error("{origin}: {message}")]
    Override {
        /// `environment variable WHIPGATE__HLS__WINDOW` or `--set hls.window`.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// Each value can be read, but together they make no sense.
    #[error("{}", problems.join("\n"))]
    Invalid {
        /// All broken rules, each with its key and the way out.
        problems: Vec<String>,
    },
}

impl Config {
    /// Reads all sources, merges them in order and checks the result with [`Config::validate`].
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut merged = match &sources.file {
            Some(path) => read_file(path)?,
            None => Table::new(),
        };
        for (name, value) in &sources.environment {
            let Some(key) = name
                .to_str()
                .and_then(|name| name.strip_prefix(ENVIRONMENT_PREFIX))
            else {
                continue;
            };
            let origin = format!("environment variable {ENVIRONMENT_PREFIX}{key}");
            let key = key.to_lowercase().replace("__", ".");
            let value = value.to_str().ok_or_else(|| ConfigError::Override {
                origin: origin.clone(),
                message: "the value is not UTF-8".to_owned(),
            })?;
            apply(&mut merged, &origin, &key, value)?;
        }
        for text in &sources.overrides {
            let (key, value) = text.split_once('=').ok_or_else(|| ConfigError::Override {
                origin: "--set".to_owned(),
                message: "expected section.key=value".to_owned(),
            })?;
            let key = key.trim();
            apply(&mut merged, &format!("--set {key}"), key, value)?;
        }
        let config = Self::deserialize(merged).map_err(|error| ConfigError::Override {
            origin: "configuration".to_owned(),
            message: reword(error.message()),
        })?;
        config.validate()?;
        Ok(config)
    }

    /// Reads one TOML text without any other source and without [`Config::validate`]; `name` is for messages.
    pub fn from_toml(text: &str, name: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| file_error(&error, text, name))
    }
}

fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Config::from_toml(&text, &name)?;
    toml::from_str(&text).map_err(|error| file_error(&error, &text, &name))
}

/// Checks one value against its key alone and puts it into `merged`.
fn apply(merged: &mut Table, origin: &str, key: &str, text: &str) -> Result<(), ConfigError> {
    let refused = |message: String| ConfigError::Override {
        origin: origin.to_owned(),
        message,
    };
    let (section, key) = match key.split_once('.') {
        Some((section, key)) if !section.is_empty() && !key.is_empty() => (section, key),
        _ => {
            return Err(refused(format!(
                "unknown key `{key}`: a key is section.key"
            )));
        }
    };
    let value = interpret(section, key, text).map_err(refused)?;
    let entry = merged
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(table) = entry {
        table.insert(key.to_owned(), value);
    }
    Ok(())
}

/// The first reading of `text` that the key accepts: text, TOML, list.
fn interpret(section: &str, key: &str, text: &str) -> Result<Value, String> {
    let accepted = |value: &Value| -> Result<(), String> {
        let one = Table::from_iter([(key.to_owned(), value.clone())]);
        let all = Table::from_iter([(section.to_owned(), Value::Table(one))]);
        Config::deserialize(all).map(drop).map_err(|error| {
            let message = reword(error.message());
            if message.starts_with("unknown key") {
                format!("unknown key `{section}.{key}`: {message}")
            } else {
                message
            }
        })
    };
    let plain = Value::String(text.to_owned());
    let as_text = match accepted(&plain) {
        Ok(()) => return Ok(plain),
        Err(message) => message,
    };
    let typed = toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"));
    if let Some(value) = typed {
        return accepted(&value).map(|()| value.clone()).or_else(|as_toml| {
            // A key that takes text complains about the text, unless TOML is plainly meant.
            let is_toml = value.is_table() || value.is_array();
            let complaint = if is_toml || as_text.starts_with("invalid type: string") {
                as_toml
            } else {
                as_text
            };
            as_list(text)
                .filter(|list| accepted(list).is_ok())
                .ok_or(complaint)
        });
    }
    match as_list(text) {
        Some(list) => match accepted(&list) {
            Ok(()) => Ok(list),
            // A key that takes a list complains about the item; any other about the text as it was given.
            Err(message) if as_text.contains("expected a sequence") => Err(message),
            Err(_) => Err(as_text),
        },
        None => Err(as_text),
    }
}

/// `a, b` as a list of texts, an empty text as the empty list; `None` for what wants to be a TOML array.
fn as_list(text: &str) -> Option<Value> {
    let text = text.trim();
    if text.starts_with('[') {
        return None;
    }
    Some(Value::Array(
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| Value::String(item.to_owned()))
            .collect(),
    ))
}

/// serde says "field" where an operator says "key".
fn reword(message: &str) -> String {
    message
        .trim()
        .replace("unknown field", "unknown key")
        .replace("duplicate field", "duplicate key")
        .replace("missing field", "missing key")
}

fn file_error(error: &toml::de::Error, text: &str, name: &str) -> ConfigError {
    let place = Place::of(text, error.span().unwrap_or(0..0));
    let excerpt = if place.may_be_secret {
        String::new()
    } else {
        let gutter = place.line.to_string();
        let margin = " ".repeat(gutter.len());
        format!(
            "\n{margin} |\n{gutter} | {}\n{margin} | {}{}",
            place.text,
            " ".repeat(place.column.saturating_sub(1)),
            "^".repeat(place.width),
        )
    };
    ConfigError::File {
        file: name.to_owned(),
        line: place.line,
        column: place.column,
        message: reword(error.message()),
        excerpt,
    }
}

/// A place in a text.
struct Place<'a> {
    line: usize,
    column: usize,
    width: usize,
    text: &'a str,
    /// In the section of the tokens, or on a line with a credential.
    may_be_secret: bool,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, span: Range<usize>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text
            .get(line_start..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or("");
        let column = before.get(line_start..).map_or(0, |s| s.chars().count()) + 1;
        let width = text
            .get(span)
            .map_or(0, |s| s.lines().next().unwrap_or("").chars().count())
            .max(1);
        let section = text
            .get(..line_start + line.len())
            .unwrap_or(text)
            .lines()
            .rev()
            .map(str::trim_start)
            .find(|line| line.starts_with('['));
        let names_secret = |line: &str| {
            ["auth", "credential", "publish", "play", "admin"]
                .iter()
                .any(|word| line.contains(word))
        };
        Self {
            line: before.matches('\n').count() + 1,
            column,
            width,
            text: line,
            may_be_secret: section.is_some_and(names_secret) || names_secret(line),
        }
    }
}
