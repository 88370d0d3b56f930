//! Which bucket, at which server: two texts and their rules.
//!
//! Never here: a secret. What would hold one is refused.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use object_store::path::Path;

/// A bucket and a prefix in it, written `BUCKET` or `BUCKET/PREFIX`.
///
/// * shape: 3 to 63 of `a-z 0-9 . -` beginning and ending with a letter or digit, as AWS has it for
///   new buckets; a prefix without empty parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    name: String,
    prefix: Path,
}

impl Bucket {
    /// Name of the bucket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where everything lies in it; empty for the whole bucket.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }
}

impl FromStr for Bucket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, prefix) = text.split_once('/').unwrap_or((text, ""));
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let legal = name
            .bytes()
            .all(|byte| inner(byte) || b".-".contains(&byte))
            && name.bytes().next().is_some_and(inner)
            && name.bytes().last().is_some_and(inner);
        if !legal || !(3..=63).contains(&name.len()) {
            return Err(format!(
                "{name:?} is no bucket: 3 to 63 of a-z, 0-9, '.' and '-'"
            ));
        }
        if prefix.contains(['?', '#']) || prefix.starts_with('/') {
            return Err(format!(
                "{prefix:?} is no prefix: no '?', no '#', no empty part; settings are keys of their own"
            ));
        }
        let prefix = Path::parse(prefix.strip_suffix('/').unwrap_or(prefix));
        Ok(Self {
            name: name.to_owned(),
            prefix: prefix.map_err(|error| error.to_string())?,
        })
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.prefix.as_ref() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

/// A server, written `https://HOST[:PORT][/PATH]` or `http://…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    scheme: &'static str,
    host: String,
    /// Port and path as they were written.
    rest: String,
}

impl Endpoint {
    /// Whether what is sent can be read on the way.
    pub fn is_plain(&self) -> bool {
        self.scheme == "http"
    }

    /// Whether nothing leaves this machine.
    pub fn is_loopback(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let address = bare.parse::<IpAddr>();
        bare == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// The server under the name it has for one bucket.
    pub fn of_bucket(&self, bucket: &Bucket) -> String {
        let Self { scheme, host, rest } = self;
        format!("{scheme}://{}.{host}{rest}", bucket.name())
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => ("https", rest),
            (_, Some(rest)) => ("http", rest),
            _ => return Err("a server begins with https:// or http://".to_owned()),
        };
        if rest.contains(['?', '#', '@', ' ']) {
            return Err("a server is a host, a port and a path, without a user".to_owned());
        }
        let rest = rest.trim_end_matches('/');
        let end = match rest.starts_with('[') {
            true => rest.find(']').map(|at| at + 1),
            false => Some(rest.find([':', '/']).unwrap_or(rest.len())),
        };
        let (host, rest) = end.map_or(("", ""), |end| rest.split_at(end));
        let (port, _) = rest.split_once('/').unwrap_or((rest, ""));
        let port_is_good = match port.strip_prefix(':') {
            Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
            None => port.is_empty(),
        };
        if host.is_empty() || !port_is_good {
            return Err("a server has a host, and a port from 1 to 65535 if any".to_owned());
        }
        Ok(Self {
            scheme,
            host: host.to_owned(),
            rest: rest.to_owned(),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, rest } = self;
        write!(f, "{scheme}://{host}{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_a_legal_name_and_perhaps_a_prefix() {
        for (text, name, prefix) in [
            ("rows", "rows", ""),
            ("rows/", "rows", ""),
            ("my.rows-1/a/b/", "my.rows-1", "a/b"),
        ] {
            let bucket: Bucket = text.parse().unwrap();
            assert_eq!((bucket.name(), bucket.prefix().as_ref()), (name, prefix));
            assert_eq!(bucket.to_string(), text.trim_end_matches('/'));
        }
        for wrong in [
            "",
            "ab",
            "Rows",
            "-rows",
            "rows.",
            "rows//a",
            "rows/a/../b",
            "rows?region=eu",
            "rows/a?region=eu",
            "user:canary@rows",
        ] {
            assert!(wrong.parse::<Bucket>().is_err(), "{wrong}");
        }
        assert!(format!("{:064}", 0).parse::<Bucket>().is_err());
    }

    #[test]
    fn a_server_is_near_or_far_and_plain_or_not() {
        for (text, plain, near) in [
            ("http://127.0.0.1:9000", true, true),
            ("http://localhost", true, true),
            ("http://[::1]:9000", true, true),
            ("https://10.0.0.5:9000", false, false),
            ("http://localhost.example.org:80", true, false),
            ("https://s3.example.org/gateway", false, false),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            let found = (endpoint.is_plain(), endpoint.is_loopback());
            assert_eq!(found, (plain, near), "{text}");
            assert_eq!(endpoint.to_string(), text);
        }
        for wrong in [
            "s3.example.org",
            "ftp://s3.example.org",
            "https://",
            "https://user:canary@host",
            "https://host:0",
            "https://host:x",
            "https://[::1",
            "https://[::1]x",
            "https://host/?a=b",
        ] {
            let error = wrong.parse::<Endpoint>().unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_bucket_can_be_part_of_the_servers_name() {
        let endpoint: Endpoint = "https://s3.example.org:9000".parse().unwrap();
        let bucket = "rows/eu".parse().unwrap();
        let named = endpoint.of_bucket(&bucket);
        assert_eq!(named, "https://rows.s3.example.org:9000");
    }
}
