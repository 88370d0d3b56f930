//! Who asks: from variables of the environment, from a file, or from the machine itself.
//!
//! Variables are tried in this order; the first way that is complete is taken:
//! 1. `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, with `AWS_SESSION_TOKEN` if set;
//! 2. `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN` (a Kubernetes service account), with
//!    `AWS_ROLE_SESSION_NAME` and `AWS_ENDPOINT_URL_STS` if set;
//! 3. `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` (a task of ECS);
//! 4. `AWS_CONTAINER_CREDENTIALS_FULL_URI` and `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE` (a pod
//!    identity of EKS);
//! 5. the metadata service of the machine, in its second version only (a role of EC2).
//!
//! What 2 to 5 give out ends, and is fetched again before it does. A file is read again every
//! [`REREAD`], so that keys can be replaced while the process runs.
//!
//! Never here: other variables with that prefix, profiles, a secret in a message.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::{CredentialProvider, Error};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The variables that are looked at.
pub const VARIABLES: [&str; 10] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// How old what was read from a file may be.
pub const REREAD: Duration = Duration::from_secs(60);

/// Longest file of credentials, in bytes.
const FILE_BYTES_MAX: usize = 64 << 10;

/// Where keys come from.
#[derive(Clone)]
pub enum Credentials {
    /// Variables by name, only [`VARIABLES`], none empty.
    Variables(BTreeMap<&'static str, String>),
    /// A file as AWS's own tools write it: the section `[default]`, or none.
    File(PathBuf),
}

/// Credentials that cannot be used, without a word of their content.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file is not there or cannot be read.
    #[error("{file} cannot be read: {reason}")]
    Unreadable {
        /// Where it is.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// A key is missing in the file.
    #[error("{file} has no {missing} in its section [default]")]
    Incomplete {
        /// Where it is.
        file: String,
        /// The first key that is missing.
        missing: &'static str,
    },
    /// One half of a pair of variables.
    #[error("{set} is set and {missing} is not")]
    Half {
        /// The variable that is there.
        set: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
}

impl Credentials {
    /// What of these variables is looked at; an empty one counts as none.
    pub fn from_variables<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let known = |(name, value): (&str, &str)| {
            let known = VARIABLES.into_iter().find(|known| *known == name)?;
            (!value.is_empty()).then(|| (known, value.to_owned()))
        };
        Self::Variables(variables.into_iter().filter_map(known).collect())
    }

    /// Hands them to the client.
    pub(super) fn give(
        &self,
        builder: AmazonS3Builder,
    ) -> Result<AmazonS3Builder, CredentialsError> {
        match self {
            Self::Variables(variables) => {
                let pair = [VARIABLES[0], VARIABLES[1]];
                for (set, missing) in [(pair[0], pair[1]), (pair[1], pair[0])] {
                    if variables.contains_key(set) && !variables.contains_key(missing) {
                        return Err(CredentialsError::Half { set, missing });
                    }
                }
                Ok(variables.iter().fold(builder, |builder, (name, value)| {
                    match name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                        Ok(key) => builder.with_config(key, value),
                        Err(_) => builder,
                    }
                }))
            }
            Self::File(path) => {
                let file = CredentialsFile::new(path.clone(), REREAD);
                let text = std::fs::read_to_string(path);
                let found = file.parsed(text)?;
                *file.last.lock() = Some((Instant::now(), found));
                Ok(builder.with_credentials(Arc::new(file)))
            }
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variables(variables) => f.debug_set().entries(variables.keys()).finish(),
            Self::File(path) => path.fmt(f),
        }
    }
}

/// A file of credentials and what it said last.
struct CredentialsFile {
    path: PathBuf,
    /// How long that is believed.
    reread: Duration,
    /// When it was read, and what was found; never held over a read.
    last: Mutex<Option<(Instant, Arc<AwsCredential>)>>,
}

impl CredentialsFile {
    fn new(path: PathBuf, reread: Duration) -> Self {
        let last = Mutex::default();
        Self { path, reread, last }
    }

    fn parsed(
        &self,
        text: std::io::Result<String>,
    ) -> Result<Arc<AwsCredential>, CredentialsError> {
        let file = self.path.display().to_string();
        let unreadable = |reason: String| CredentialsError::Unreadable {
            file: file.clone(),
            reason,
        };
        let text = text.map_err(|error| unreadable(error.to_string()))?;
        if text.len() > FILE_BYTES_MAX {
            return Err(unreadable("it is too long".to_owned()));
        }
        parse(&text).map(Arc::new).map_err(|missing| {
            let file = file.clone();
            CredentialsError::Incomplete { file, missing }
        })
    }
}

impl fmt::Debug for CredentialsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

#[async_trait]
impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>, Error> {
        let last = self.last.lock().clone();
        let old = match last {
            Some((read, found)) if read.elapsed() < self.reread => return Ok(found),
            old => old.map(|(_, found)| found),
        };
        let text = tokio::fs::read_to_string(&self.path).await;
        let found = match (self.parsed(text), old) {
            (Ok(found), _) => found,
            (Err(error), Some(old)) => {
                tracing::warn!(%error, "the store's credentials stay as they were");
                old
            }
            (Err(error), None) => {
                return Err(Error::Generic {
                    store: "S3",
                    source: Box::new(error),
                });
            }
        };
        *self.last.lock() = Some((Instant::now(), Arc::clone(&found)));
        Ok(found)
    }
}

/// Reads `key = value` lines of the section `[default]`, which a file without sections is.
///
/// * errors: the name of the first key that is missing.
fn parse(text: &str) -> Result<AwsCredential, &'static str> {
    let mut found = BTreeMap::new();
    let mut in_default = true;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_default = line == "[default]";
        } else if let Some((key, value)) = line.split_once('=')
            && in_default
            && !line.starts_with(['#', ';'])
        {
            found.insert(key.trim().to_ascii_lowercase(), value.trim());
        }
    }
    let value = |key: &str| {
        let value = found.get(key).filter(|value| !value.is_empty());
        value.map(|value| (*value).to_owned())
    };
    let needed = |key: &'static str| value(key).ok_or(key);
    Ok(AwsCredential {
        key_id: needed("aws_access_key_id")?,
        secret_key: needed("aws_secret_access_key")?,
        token: value("aws_session_token"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<(String, String, Option<String>), &'static str> {
        let found = parse(text)?;
        Ok((found.key_id, found.secret_key, found.token))
    }

    #[test]
    fn a_file_is_read_as_the_tools_of_aws_write_it() {
        let found = file(
            "# who\n[other]\naws_access_key_id = no\n[default]\nregion = x\naws_access_key_id = a\n\
             aws_secret_access_key=s=3/+\n; aws_session_token = no\n",
        );
        assert_eq!(found, Ok(("a".into(), "s=3/+".into(), None)));
        let bare = "AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b\nAWS_SESSION_TOKEN=c\n";
        assert_eq!(file(bare), Ok(("a".into(), "b".into(), Some("c".into()))));
        assert_eq!(file(""), Err("aws_access_key_id"));
        let half = "[default]\naws_access_key_id = a\naws_secret_access_key =\n";
        assert_eq!(file(half), Err("aws_secret_access_key"));
    }

    #[test]
    fn only_known_variables_count_and_nothing_of_them_is_printed() {
        let found = Credentials::from_variables([
            ("AWS_ACCESS_KEY_ID", "canary"),
            ("AWS_SESSION_TOKEN", ""),
            ("AWS_SKIP_SIGNATURE", "true"),
            ("HOME", "/root"),
        ]);
        assert_eq!(format!("{found:?}"), "{\"AWS_ACCESS_KEY_ID\"}");
        let half = found.give(AmazonS3Builder::new()).unwrap_err();
        assert_eq!(
            half.to_string(),
            "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"
        );
        for name in VARIABLES {
            let key = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>();
            assert!(key.is_ok(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_again_and_outlives_a_bad_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let write = |id: &str| {
            let text = format!("aws_access_key_id = {id}\naws_secret_access_key = s\n");
            std::fs::write(&path, text).unwrap();
        };
        let lazy = CredentialsFile::new(path.clone(), REREAD);
        let eager = CredentialsFile::new(path.clone(), Duration::ZERO);
        let id = async |keys: &CredentialsFile| {
            let found = keys.get_credential().await.ok()?;
            Some(found.key_id.clone())
        };
        assert_eq!(id(&eager).await, None);
        write("one");
        assert_eq!(id(&lazy).await.as_deref(), Some("one"));
        assert_eq!(id(&eager).await.as_deref(), Some("one"));
        write("two");
        assert_eq!(id(&lazy).await.as_deref(), Some("one"));
        assert_eq!(id(&eager).await.as_deref(), Some("two"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(id(&eager).await.as_deref(), Some("two"));
    }
}
