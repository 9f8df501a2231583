//! Every configuration key, with what it means and what it may be.
//!
//! A key that is not in this table does not exist: the sample configuration, `check-config` and the
//! defaults all come from here.

use std::net::SocketAddr;

use config::{Value, ValueKind};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::base::name::Name;

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section and name, for example `server.listen`.
    pub path: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// The default, in TOML.
    pub default: &'static str,
    /// What it is for, as sentences with units.
    pub about: &'static str,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `address:port`.
    Address,
    /// `true` or `false`.
    Flag,
    /// A whole number within bounds.
    Integer(i64, i64),
    /// The name of a backbone or head; may be empty.
    OptionalName,
    /// What is logged, in the words of [`EnvFilter`].
    Directives,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of names of backbones or heads.
    Names,
}

/// All keys, by section.
pub const KEYS: &[Key] = &[
    Key {
        path: "server.listen",
        kind: Kind::Address,
        default: "\"127.0.0.1:7411\"",
        about: "Address and port of the gRPC server. Port 0 takes a free one. Any other than a \
                loopback address needs server.insecure_network.",
    },
    Key {
        path: "server.insecure_network",
        kind: Kind::Flag,
        default: "false",
        about: "Allows an address that other machines reach. There is no transport security yet: \
                whoever reaches the port may use and teach the device.",
    },
    Key {
        path: "server.max_message_mib",
        kind: Kind::Integer(1, 1024),
        default: "32",
        about: "Largest message in and out, in MiB; also the largest encoded image.",
    },
    Key {
        path: "server.max_connections",
        kind: Kind::Integer(1, 65_536),
        default: "1024",
        about: "Connections at a time; more wait until one closes.",
    },
    Key {
        path: "server.max_streams",
        kind: Kind::Integer(1, 65_536),
        default: "256",
        about: "Calls at a time on one connection.",
    },
    Key {
        path: "server.drain_seconds",
        kind: Kind::Integer(0, 3600),
        default: "10",
        about: "How long running requests may take to finish after SIGTERM, in seconds.",
    },
    Key {
        path: "engine.workers",
        kind: Kind::Integer(0, 1024),
        default: "0",
        about: "Worker threads, each running one image at a time. 0 means one a core.",
    },
    Key {
        path: "engine.queue",
        kind: Kind::Integer(1, 100_000),
        default: "256",
        about: "Requests that may wait for a worker; more are refused with RESOURCE_EXHAUSTED.",
    },
    Key {
        path: "engine.max_megapixels",
        kind: Kind::Integer(1, 1000),
        default: "50",
        about: "Largest picture, in millions of pixels, checked before a pixel is decoded. A worker \
                takes up to 6 MB for each of a JPEG, 8 MB of another kind and 12 MB of an animated \
                WebP; a progressive JPEG may have half as many.",
    },
    Key {
        path: "backbones.default",
        kind: Kind::OptionalName,
        default: "\"\"",
        about: "Backbone or head that answers a request that names none. Empty: the only backbone \
                that was added, else the latest added, else the built-in one.",
    },
    Key {
        path: "backbones.enabled",
        kind: Kind::Names,
        default: "[]",
        about: "Backbones to load at the start. Empty: all that are on the device and enabled.",
    },
    Key {
        path: "log.level",
        kind: Kind::Directives,
        default: "\"info\"",
        about: "What is logged: error, warn, info, debug, trace, or directives such as \
                \"info,graftd::engine=debug\".",
    },
    Key {
        path: "log.format",
        kind: Kind::Choice(&["text", "json"]),
        default: "\"text\"",
        about: "How lines on standard error look.",
    },
];

impl Key {
    /// The section, for example `server`.
    pub(super) fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// Why `value` cannot be the value of this key; `None` if it can. A text from a flag or the
    /// environment may spell a number, a flag or a list; nothing else is taken for what it is not.
    pub(super) fn objection(&self, value: &Value) -> Option<String> {
        match self.kind {
            Kind::Address => text(value)
                .is_none_or(|text| text.parse::<SocketAddr>().is_err())
                .then(|| format!("{value} is not an address and port like 127.0.0.1:7411")),
            Kind::Flag => {
                flag(value).is_none().then(|| format!("{value} is neither true nor false"))
            }
            Kind::Integer(least, most) => integer(value)
                .is_none_or(|number| !(least..=most).contains(&number))
                .then(|| format!("{value} is not a whole number from {least} to {most}")),
            Kind::OptionalName => match text(value) {
                Some("") => None,
                Some(name) => name.parse::<Name>().err().map(|error| error.to_string()),
                None => Some(format!("{value} is not a name")),
            },
            Kind::Directives => match text(value) {
                Some(text) => {
                    let refused = EnvFilter::try_new(text).err().map(|error| error.to_string());
                    bare_target(text).or(refused).map(|problem| format!("{value}: {problem}"))
                }
                None => Some(format!("{value} is not a level like info")),
            },
            Kind::Choice(words) => text(value)
                .is_none_or(|text| !words.contains(&text))
                .then(|| format!("{value} is none of {}", words.join(", "))),
            Kind::Names => no_names(value),
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    if let ValueKind::String(text) = &value.kind { Some(text) } else { None }
}

fn flag(value: &Value) -> Option<bool> {
    #[allow(clippy::wildcard_enum_match_arm)] // a number is no flag
    match &value.kind {
        ValueKind::Boolean(flag) => Some(*flag),
        ValueKind::String(_) => value.clone().into_bool().ok(),
        _ => None,
    }
}

/// Not [`Value::into_int`], which rounds fractions and counts flags.
fn integer(value: &Value) -> Option<i64> {
    #[allow(clippy::wildcard_enum_match_arm)] // TOML's whole numbers have 64 bits
    match &value.kind {
        ValueKind::I64(number) => Some(*number),
        ValueKind::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// What is wrong with the first directive that names neither a level nor one for a target: a misspelt
/// level is a target to [`EnvFilter`], of which everything is logged, and of all else nothing.
fn bare_target(directives: &str) -> Option<String> {
    let bare = |part: &&str| !part.is_empty() && !part.contains(['=', '[', ']', '{', '}']);
    let part = directives
        .split(',')
        .map(str::trim)
        .filter(bare)
        .find(|part| part.parse::<LevelFilter>().is_err())?;
    let levels = "error, warn, info, debug, trace or off";
    Some(format!("{part} is no level ({levels}); of a part of graftd say it like {part}=debug"))
}

/// What is wrong with the elements of a list of names, all of them; from the environment it may come as
/// one text with commas.
fn no_names(value: &Value) -> Option<String> {
    let problem = |name: &str| name.parse::<Name>().err().map(|error| error.to_string());
    #[allow(clippy::wildcard_enum_match_arm)]
    // whatever else a value may be, it is no list of names
    let problems: Vec<String> = match &value.kind {
        ValueKind::Array(items) => {
            let of = |item: &Value| match text(item) {
                Some(name) => problem(name),
                None => Some(format!("{item} is not a name")),
            };
            items.iter().filter_map(of).collect()
        }
        ValueKind::String(list) => {
            let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
            names.filter_map(problem).collect()
        }
        _ => vec!["must be a list of names".to_owned()],
    };
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// The defaults as a commented TOML file: the sample configuration.
pub fn default_toml() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if of != section {
            text.push_str(if section.is_empty() { "" } else { "\n" });
            text.push_str(&format!("[{of}]\n"));
            section = of;
        }
        for line in wrapped(key.about, 96) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("{name} = {}\n", key.default));
    }
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
