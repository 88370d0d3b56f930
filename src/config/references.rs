//! Values that point elsewhere: services by URL, secrets by name.
//!
//! A secret never stands in a configuration: a file, an environment and a process list are read by
//! too many. What is refused here is not repeated in the message, for it may be one.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;

use auxo_sst::s3::address::{Bucket, Endpoint};

use super::units::as_text;
use crate::environment::Environment;

/// Where the write-ahead log is: `local://PATH`, `memory://`, `kafka://…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalUrl(String);

/// Where the sorted files are: `local://PATH`, `memory://`, `s3://BUCKET[/PREFIX]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreUrl(String);

/// The server of a bucket; empty for that of AWS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreEndpoint(Option<Endpoint>);

impl WalUrl {
    /// The URL as it was written, or as it follows from `data_dir`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Not written yet: follows from `data_dir`.
    pub(super) fn derived() -> Self {
        Self(String::new())
    }
}

impl WalUrl {
    /// Name of the log service: the URL's scheme.
    pub(crate) fn service(&self) -> &str {
        self.0.split("://").next().unwrap_or_default()
    }
}

impl StoreUrl {
    /// The URL as it was written, or as it follows from `data_dir`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The bucket, where it names one.
    pub(crate) fn bucket(&self) -> Option<Bucket> {
        self.0.strip_prefix("s3://")?.parse().ok()
    }

    /// Not written yet: follows from `data_dir`.
    pub(super) fn derived() -> Self {
        Self(String::new())
    }
}

impl FromStr for WalUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        checked(text, &["local", "memory", "kafka"]).map(Self)
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = checked(text, &["local", "memory", "s3"])?;
        if let Some(bucket) = url.strip_prefix("s3://") {
            bucket.parse::<Bucket>()?;
        }
        Ok(Self(url))
    }
}

impl StoreEndpoint {
    /// The server, where one is named.
    pub(crate) fn given(&self) -> Option<&Endpoint> {
        self.0.as_ref()
    }
}

impl FromStr for StoreEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self(None)),
            text => text.parse().map(Some).map(Self),
        }
    }
}

impl fmt::Display for StoreEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |endpoint| endpoint.fmt(f))
    }
}

fn checked(text: &str, schemes: &[&str]) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("not a URL: it starts with {}", either(schemes)));
    };
    if !schemes.contains(&scheme) {
        return Err(format!(
            "unknown scheme {scheme:?}: use {}",
            either(schemes)
        ));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err("a URL here holds no user and no password".to_owned());
    }
    if scheme == "local" && rest.is_empty() {
        return Err("local:// needs a directory".to_owned());
    }
    Ok(text.to_owned())
}

fn either(schemes: &[&str]) -> String {
    let named: Vec<_> = schemes.iter().map(|name| format!("{name}://")).collect();
    named.join(", ")
}

impl fmt::Display for WalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a secret is found: `env:NAME` or `file:PATH`; empty for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretRef {
    None,
    Env(String),
    File(PathBuf),
}

impl SecretRef {
    /// Fetches the secret. A variable that is not set is no secret; a file that cannot be read is
    /// an error. White space around it is no part of it.
    pub(crate) fn resolve(&self, environment: &Environment) -> anyhow::Result<Option<String>> {
        let found = match self {
            Self::None => None,
            Self::Env(name) => environment.get(name).map(str::to_owned),
            Self::File(path) => Some(std::fs::read_to_string(path).map_err(|error| {
                crate::exit::usage(format!("secret file:{}: {error}", path.display()))
            })?),
        };
        let trimmed = found.map(|secret| secret.trim().to_owned());
        Ok(trimmed.filter(|secret| !secret.is_empty()))
    }
}

impl FromStr for SecretRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            _ if text.is_empty() => Ok(Self::None),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("a secret is named, not written: env:NAME or file:PATH".to_owned()),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Where the store's credentials come from: `env` (the variables its own tools use) or
/// `file:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    Env,
    File(PathBuf),
}

impl FromStr for Credentials {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("file:")) {
            ("env", _) => Ok(Self::Env),
            (_, Some(path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("credentials are named, not written: env or file:PATH".to_owned()),
        }
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env => f.write_str("env"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Which events are logged: a level, or levels by module as `info,auxo_engine=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directives(String);

impl Directives {
    /// The text, which is known to be one a subscriber takes.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Directives {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The library takes a word that is no level for the name of a module, of which all is logged, and
        // nothing at all for a level.
        let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
        let is_known = |part: &str| part.contains('=') || is_level(part.trim());
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) if text.split(',').all(is_known) => Ok(Self(text.to_owned())),
            _ => Err(format!(
                "{text:?} is not a level: error, warn, info, debug or trace, or MODULE=LEVEL,…"
            )),
        }
    }
}

impl fmt::Display for Directives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(
    WalUrl,
    StoreUrl,
    StoreEndpoint,
    SecretRef,
    Credentials,
    Directives
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_known_service_and_hold_no_password() {
        for good in [
            "local:///var/lib",
            "local://./x",
            "memory://",
            "kafka://b1:9092,b2:9092",
        ] {
            assert_eq!(good.parse::<WalUrl>().unwrap().as_str(), good);
        }
        for (wrong, said) in [
            ("/var/lib", "not a URL"),
            ("kafak://b1", "unknown scheme \"kafak\""),
            ("local://", "needs a directory"),
            ("kafka://user:canary@b1", "no user"),
        ] {
            let error = wrong.parse::<WalUrl>().unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
            assert!(!error.contains("canary"));
        }
        assert!("kafka://b".parse::<StoreUrl>().is_err());
        let bucket = "s3://bucket/prefix".parse::<StoreUrl>().unwrap().bucket();
        assert_eq!(bucket.unwrap().to_string(), "bucket/prefix");
        for wrong in ["s3://", "s3://bucket/prefix?region=eu", "s3://b"] {
            assert!(wrong.parse::<StoreUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_never_written_and_never_repeated() {
        let error = "auxo_canary".parse::<SecretRef>().unwrap_err();
        assert!(!error.contains("canary"), "{error}");
        let environment = Environment::of([("T", " s3cret\n")]);
        let named: SecretRef = "env:T".parse().unwrap();
        assert_eq!(named.resolve(&environment).unwrap().unwrap(), "s3cret");
        let absent: SecretRef = "env:U".parse().unwrap();
        assert_eq!(absent.resolve(&environment).unwrap(), None);
        let missing: SecretRef = "file:/no/such/file".parse().unwrap();
        assert!(missing.resolve(&environment).is_err());
    }

    #[test]
    fn levels_are_checked() {
        assert!("info,auxo_engine=debug".parse::<Directives>().is_ok());
        assert!("".parse::<Directives>().is_err());
        assert!("auxo=loud".parse::<Directives>().is_err());
        assert!("inof".parse::<Directives>().is_err());
    }
}
