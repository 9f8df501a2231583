//! The configuration: defaults, then a file, then `GRAFTD__SECTION__KEY`, then flags.
//!
//! Every value is first held against the table of keys, so that all mistakes are told at once; only
//! then is anything read from it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{File, FileFormat, Source as _, Value, ValueKind};
use serde::Deserialize;

use super::AppError;
use super::keys::{KEYS, default_toml};

/// The prefix of environment variables.
const ENVIRONMENT: &str = "GRAFTD__";

/// Where configuration comes from, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables by name; only those that begin with `GRAFTD__` count.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags: key and value in TOML's words.
    pub flags: Vec<(&'static str, String)>,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key, or the name of the file that cannot be read.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A configuration in which every value is allowed.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    server: ServerSection,
    engine: EngineSection,
    backbones: BackbonesSection,
    log: LogSection,
}

#[derive(Clone, Debug, Deserialize)]
struct ServerSection {
    listen: SocketAddr,
    insecure_network: bool,
    max_message_mib: usize,
    max_connections: usize,
    max_streams: u32,
    drain_seconds: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct EngineSection {
    workers: usize,
    queue: usize,
    max_megapixels: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct BackbonesSection {
    default: String,
    enabled: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct LogSection {
    level: String,
    format: String,
}

impl ConfigSource {
    /// A source with a file, the process's environment and flags.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Self {
        Self { file, environment: std::env::vars_os().collect(), flags }
    }
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// [`AppError::Config`] with every mistake that was found.
    pub fn load(source: &ConfigSource) -> Result<Self, AppError> {
        let mut values = flat(&parse(&default_toml()).map_err(|reason| one("defaults", reason))?);
        let mut mistakes = Vec::new();
        let mut given = BTreeMap::new();
        if let Some(path) = &source.file {
            match read(path) {
                Ok(value) => given.extend(flat(&value)),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        for (name, text) in &source.environment {
            let name = name.to_string_lossy();
            let Some(path) = name.strip_prefix(ENVIRONMENT) else { continue };
            let key = path.to_lowercase().replace("__", ".");
            if let Some(text) = text.to_str() {
                given.insert(key, typed(text));
            } else {
                mistakes.push(Mistake { key, reason: format!("{name} is not UTF-8") });
            }
        }
        for (key, text) in &source.flags {
            given.insert((*key).to_owned(), typed(text));
        }

        let objections = objections(&given);
        // What is wrong by itself does not count, so that the rest can be judged together.
        given.retain(|path, _| objections.iter().all(|mistake| mistake.key != *path));
        mistakes.extend(objections);
        values.extend(given);
        let config = deserialise(values).map_err(|reason| one("configuration", reason))?;
        mistakes.extend(config.contradictions());
        if mistakes.is_empty() { Ok(config) } else { Err(AppError::Config(mistakes)) }
    }

    /// What is wrong though every single value is allowed.
    fn contradictions(&self) -> Option<Mistake> {
        let exposed = !self.server.listen.ip().is_loopback() && !self.server.insecure_network;
        exposed.then(|| Mistake {
            key: "server.listen".into(),
            reason: format!(
                "{} can be reached by other machines and there is no transport security yet; listen \
                 on 127.0.0.1, or accept it with --insecure-network (server.insecure_network)",
                self.server.listen
            ),
        })
    }

    /// Address of the gRPC server.
    pub fn listen(&self) -> SocketAddr {
        self.server.listen
    }

    /// Largest message, in bytes.
    pub fn max_message_bytes(&self) -> usize {
        self.server.max_message_mib << 20
    }

    /// Connections at a time.
    pub fn max_connections(&self) -> usize {
        self.server.max_connections
    }

    /// Calls at a time on one connection.
    pub fn max_streams(&self) -> u32 {
        self.server.max_streams
    }

    /// How long running requests may take to finish once the daemon stops.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.server.drain_seconds)
    }

    /// Worker threads.
    pub fn workers(&self) -> usize {
        match self.engine.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }

    /// Requests that may wait.
    pub fn queue(&self) -> usize {
        self.engine.queue
    }

    /// Largest picture, in pixels.
    pub fn max_pixels(&self) -> u64 {
        self.engine.max_megapixels * 1_000_000
    }

    /// What answers a request that names nothing.
    pub fn default_target(&self) -> Option<&str> {
        Some(self.backbones.default.as_str()).filter(|name| !name.is_empty())
    }

    /// Backbones to load; empty for all.
    pub fn enabled_backbones(&self) -> &[String] {
        &self.backbones.enabled
    }

    /// Directives for the log.
    pub fn log_level(&self) -> &str {
        &self.log.level
    }

    /// Whether log lines are JSON.
    pub fn logs_json(&self) -> bool {
        self.log.format == "json"
    }
}

fn one(key: &str, reason: String) -> AppError {
    AppError::Config(vec![Mistake { key: key.to_owned(), reason }])
}

fn parse(toml: &str) -> Result<Value, String> {
    let built = config::Config::builder()
        .add_source(File::from_str(toml, FileFormat::Toml))
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Value::new(None, ValueKind::Table(built.collect().map_err(|error| error.to_string())?)))
}

fn collect_error(path: &Path, reason: impl std::fmt::Display) -> Mistake {
    Mistake { key: path.display().to_string(), reason: reason.to_string() }
}

fn read(path: &Path) -> Result<Value, Mistake> {
    let text = std::fs::read_to_string(path).map_err(|error| collect_error(path, error))?;
    parse(&text).map_err(|reason| collect_error(path, reason))
}

/// All values by dotted path. Lists count as values, and so do empty tables: nothing is passed over
/// but an empty section.
fn flat(value: &Value) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
        let section = prefix.is_empty() || KEYS.iter().any(|key| key.section() == prefix);
        if let ValueKind::Table(table) = &value.kind
            && (section || !table.is_empty())
        {
            for (key, value) in table {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                walk(&path, value, into);
            }
        } else {
            into.insert(prefix.to_owned(), value.clone());
        }
    }
    let mut values = BTreeMap::new();
    walk("", value, &mut values);
    values
}

/// Text from a flag or the environment; the table of keys decides later what it has to be.
fn typed(text: &str) -> Value {
    Value::new(None, ValueKind::String(text.to_owned()))
}

fn objections(values: &BTreeMap<String, Value>) -> Vec<Mistake> {
    let judge = |(path, value): (&String, &Value)| {
        let reason = match KEYS.iter().find(|key| key.path == path) {
            Some(key) => key.objection(value)?,
            None => format!("there is no such key{}", suggestion(path)),
        };
        Some(Mistake { key: path.clone(), reason })
    };
    values.iter().filter_map(judge).collect()
}

fn suggestion(path: &str) -> String {
    let known = KEYS.iter().flat_map(|key| [key.path, key.section()]);
    match known.min_by_key(|known| distance(known, path)) {
        Some(known) if distance(known, path) <= 4 => format!("; did you mean {known}?"),
        _ => "; `graftd check-config --print-default` lists all".to_owned(),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn deserialise(values: BTreeMap<String, Value>) -> Result<Config, String> {
    let mut builder = config::Config::builder();
    for (path, value) in values {
        let value = match (path.as_str(), &value.kind) {
            // From the environment a list comes as one text.
            ("backbones.enabled", ValueKind::String(text)) => {
                let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                Value::new(None, ValueKind::Array(names.map(typed).collect()))
            }
            _ => value,
        };
        builder = builder.set_override(&path, value).map_err(|error| error.to_string())?;
    }
    let built = builder.build().map_err(|error| error.to_string())?;
    built.try_deserialize().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(toml: &str) -> (tempfile::TempDir, ConfigSource) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("graftd.toml");
        crate::base::atomic::write(&path, toml.as_bytes()).unwrap();
        (folder, ConfigSource { file: Some(path), ..ConfigSource::default() })
    }

    fn mistakes(source: &ConfigSource) -> Vec<String> {
        match Config::load(source) {
            Err(AppError::Config(mistakes)) => mistakes.into_iter().map(|m| m.key).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_a_valid_configuration() {
        let (_folder, written_out) = source(&default_toml());
        Config::load(&written_out).unwrap();
        let config = Config::load(&ConfigSource::default()).unwrap();
        assert!(config.listen().ip().is_loopback());
        assert_eq!(config.max_message_bytes(), 32 << 20);
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file() {
        let (_folder, mut source) =
            source("[engine]\nqueue = 1\nworkers = 1\n[server]\nmax_streams = 1\n");
        source.environment = vec![
            ("GRAFTD__ENGINE__QUEUE".into(), "2".into()),
            ("GRAFTD__SERVER__MAX_STREAMS".into(), "2".into()),
        ];
        source.flags = vec![("server.max_streams", "3".into())];
        let config = Config::load(&source).unwrap();
        assert_eq!((config.workers(), config.queue(), config.max_streams()), (1, 2, 3));
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_key() {
        let toml = "[server]\nlisten = \"nowhere\"\nlisten_adress = 1\n[engine]\nqueue = 0\n[log]\nformat = \"xml\"\n";
        let (_folder, source) = source(toml);
        let found = mistakes(&source);
        assert_eq!(found, ["engine.queue", "log.format", "server.listen", "server.listen_adress"]);
    }

    #[test]
    fn what_contradicts_is_told_beside_what_is_wrong_by_itself() {
        let (_folder, source) = source("[server]\nlisten = \"0.0.0.0:1\"\n[engine]\nqueue = 0\n");
        assert_eq!(mistakes(&source), ["engine.queue", "server.listen"]);
    }

    #[test]
    fn nothing_is_taken_for_what_it_is_not() {
        for (section, line) in [
            ("engine", "queue = 2.7"),
            ("engine", "workers = true"),
            ("server", "insecure_network = 1"),
            ("server", "listen = {}"),
            ("log", "level = \"graftd=loud\""),
            ("log", "level = \"loud\""),
            ("log", "level = \"info,graftd\""),
            ("log", "level = 5"),
            ("backbones", "default = \"../mine\""),
            ("backbones", "default = \"mine@1\""),
            ("backbones", "enabled = [1]"),
        ] {
            let (_folder, source) = source(&format!("[{section}]\n{line}\n"));
            let (key, _) = line.split_once(' ').unwrap();
            assert_eq!(mistakes(&source), [format!("{section}.{key}")], "{line}");
        }
        let environment = vec![("GRAFTD__ENGINE__WORKERS".into(), "yes".into())];
        let source = ConfigSource { environment, ..ConfigSource::default() };
        assert_eq!(mistakes(&source), ["engine.workers"]);
    }

    #[test]
    fn levels_and_directives_of_a_target_are_both_understood() {
        for level in ["off", "DEBUG", "warn,graftd::engine=trace", "info,[predict{id=3}]=debug"] {
            let (_folder, source) = source(&format!("[log]\nlevel = \"{level}\"\n"));
            Config::load(&source).unwrap();
        }
    }

    #[test]
    fn every_bad_element_of_a_list_is_told() {
        let (_folder, source) = source("[backbones]\nenabled = [\"ok\", \"../x\", 3, \"Y\"]\n");
        let message = Config::load(&source).unwrap_err().to_string();
        for part in ["../x", "3 is not a name", "\"Y\""] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }

    #[test]
    fn an_empty_table_is_a_mistake_unless_it_is_a_section() {
        let (_folder, source) = source("[servr]\n[engine]\n[log.colour]\n");
        assert_eq!(mistakes(&source), ["log.colour", "servr"]);
    }

    #[test]
    fn a_variable_that_is_no_text_is_a_mistake_only_if_it_is_ours() {
        use std::os::unix::ffi::OsStringExt as _;
        let broken = || OsString::from_vec(vec![b'a', 0xFF]);
        let mut source = ConfigSource {
            environment: vec![("TERM".into(), broken()), (broken(), "1".into())],
            ..ConfigSource::default()
        };
        Config::load(&source).unwrap();
        source.environment.push(("GRAFTD__LOG__LEVEL".into(), broken()));
        assert_eq!(mistakes(&source), ["log.level"]);
    }

    #[test]
    fn an_address_that_others_reach_needs_consent() {
        let (_folder, mut source) = source("[server]\nlisten = \"0.0.0.0:7411\"\n");
        assert_eq!(mistakes(&source), ["server.listen"]);
        source.flags = vec![("server.insecure_network", "true".into())];
        assert!(Config::load(&source).is_ok());
    }

    #[test]
    fn a_misspelt_key_gets_a_suggestion() {
        assert!(suggestion("engine.quue").contains("engine.queue"));
        assert!(suggestion("servr").contains("mean server?"));
        assert!(suggestion("nothing.like.it.at.all").contains("--print-default"));
    }

    #[test]
    fn names_may_come_from_the_environment_as_one_text() {
        let environment = vec![("GRAFTD__BACKBONES__ENABLED".into(), "a, b".into())];
        let config =
            Config::load(&ConfigSource { environment, ..ConfigSource::default() }).unwrap();
        assert_eq!(config.enabled_backbones(), ["a", "b"]);
    }
}
