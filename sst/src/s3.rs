//! A bucket of S3, or of a server that speaks its protocol, as an object store.
//!
//! Rooms: [`address`] (which bucket, at which server), [`credentials`] (who asks), [`requests`] (how
//! often), [`causes`] (why not). What is decided here is how requests are made:
//! - Create is `If-None-Match: *`. 412 and 409 arrive as `AlreadyExists`, and so does an own success
//!   whose answer was a 5xx, for the client repeats such a put; a broken connection or a timeout
//!   of a Create is not repeated and arrives as an error: the outcome is unknown. Whoever creates
//!   reads the object back before it believes either, as [`crate::manifest_store`] does.
//! - Reads, lists, deletes and plain puts are repeated by the client within [`RETRIES`] and
//!   [`RETRY_TIME`]: what lands twice is the same bytes under the same name.
//! - Each request ends within its own time, so a server that hangs costs that and no more.
//! - An object is one put, whose bytes are signed, so the server refuses what changed on the way.
//!
//! Never here: uploads in parts and copies (nothing of ours uses them), a bucket that is made, a
//! secret in what is printed.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, ClientOptions, CopyOptions, Error, GetOptions, GetResult, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, RetryConfig,
};

pub mod address;
mod causes;
pub mod credentials;
pub mod requests;

use address::{Bucket, Endpoint};
use causes::{body_told, each_told, told};
use credentials::{Credentials, CredentialsError};
use requests::Requests;

/// How often a request is repeated by the client, beside its first attempt.
pub const RETRIES: usize = 4;

/// Age of a request at which it is not repeated any more.
pub const RETRY_TIME: Duration = Duration::from_secs(10);

/// Pauses between attempts double from the first of these to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Where a bucket is and how it is asked.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// The bucket and the prefix below which everything lies.
    pub bucket: Bucket,
    /// The server; that of AWS for the region unless set.
    pub endpoint: Option<Endpoint>,
    /// Part of each signature; servers other than AWS mostly take any.
    pub region: String,
    /// Whether the bucket is part of the server's name, not of the path.
    pub virtual_hosted: bool,
    /// Accept plain HTTP to another machine.
    pub allow_http: bool,
    /// Who asks.
    pub credentials: Credentials,
    /// Longest time of one attempt of a request, with its body.
    pub request_time: Duration,
}

impl S3Settings {
    /// The region of a server that has only one, and of AWS where none is named.
    pub const REGION: &str = "us-east-1";

    /// Longest time of one attempt unless set: 64 MiB at 18 Mbit/s.
    pub const REQUEST_TIME: Duration = Duration::from_secs(30);

    /// A bucket with everything else at its default.
    pub fn new(bucket: Bucket, credentials: Credentials) -> Self {
        Self {
            bucket,
            endpoint: None,
            region: Self::REGION.to_owned(),
            virtual_hosted: false,
            allow_http: false,
            credentials,
            request_time: Self::REQUEST_TIME,
        }
    }
}

/// The settings do not make a client; the bucket was not asked.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Plain HTTP would carry rows and signatures over the network.
    #[error("plain http:// to another machine is refused unless it is allowed by name")]
    PlainHttp,
    /// The credentials are not there or cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The client refuses them, or has no way to trust a server.
    #[error("the client cannot be made: {0}")]
    Client(Error),
}

/// A bucket, rooted at its prefix.
pub struct S3Store {
    files: PrefixStore<AmazonS3>,
    name: String,
    requests: Requests,
}

impl S3Store {
    /// A client of the bucket; asks nothing yet.
    ///
    /// * errors: [`SetupError`].
    /// * effects: reads a file of credentials if one is named.
    pub fn open(settings: &S3Settings) -> Result<Self, SetupError> {
        let plain = settings.endpoint.as_ref().is_some_and(Endpoint::is_plain);
        let near = settings
            .endpoint
            .as_ref()
            .is_some_and(Endpoint::is_loopback);
        if plain && !near && !settings.allow_http {
            return Err(SetupError::PlainHttp);
        }
        let client = ClientOptions::new()
            .with_allow_http(plain)
            .with_connect_timeout(CONNECT_TIME)
            .with_timeout(settings.request_time);
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: PAUSES.0,
                max_backoff: PAUSES.1,
                base: 2.0,
            },
            max_retries: RETRIES,
            retry_timeout: RETRY_TIME,
        };
        let bucket = &settings.bucket;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket.name())
            .with_region(&settings.region)
            .with_virtual_hosted_style_request(settings.virtual_hosted)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(client)
            .with_retry(retry);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(match settings.virtual_hosted {
                true => endpoint.of_bucket(bucket),
                false => endpoint.to_string(),
            });
        }
        let builder = settings.credentials.give(builder)?;
        let store = builder.build().map_err(SetupError::Client)?;
        let at = settings.endpoint.as_ref();
        let at = at.map_or_else(|| settings.region.clone(), Endpoint::to_string);
        Ok(Self {
            files: PrefixStore::new(store, bucket.prefix().clone()),
            name: format!("s3://{bucket} at {at}"),
            requests: Requests::default(),
        })
    }

    /// What it is asked, from now on as well.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "S3".to_owned(),
    }
}

impl fmt::Display for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.requests.put();
        let put = self.files.put_opts(location, payload, options);
        put.await.map_err(told)
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(unsupported("multipart upload"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.requests.get();
        let found = self.files.get_opts(location, options);
        found.await.map(body_told).map_err(told)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let requests = self.requests.clone();
        let counted = locations.inspect_ok(move |_| requests.delete());
        each_told(self.files.delete_stream(counted.boxed()))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.requests.list();
        each_told(self.files.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.requests.list();
        each_told(self.files.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.requests.list();
        let listed = self.files.list_with_delimiter(prefix);
        listed.await.map_err(told)
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(unsupported("copy"))
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    fn settings(endpoint: &str) -> S3Settings {
        let secrets = [
            ("AWS_ACCESS_KEY_ID", "someone"),
            ("AWS_SECRET_ACCESS_KEY", "canary"),
        ];
        let mut settings = S3Settings::new(
            "rows/eu".parse().unwrap(),
            Credentials::from_variables(secrets),
        );
        settings.endpoint = Some(endpoint.parse().unwrap());
        settings
    }

    #[test]
    fn plain_http_leaves_this_machine_only_when_told() {
        assert!(S3Store::open(&settings("http://127.0.0.1:1")).is_ok());
        assert!(S3Store::open(&settings("https://s3.example:1")).is_ok());
        let mut far = settings("http://s3.example:1");
        let refused = S3Store::open(&far);
        assert!(matches!(refused, Err(SetupError::PlainHttp)));
        far.allow_http = true;
        assert!(S3Store::open(&far).is_ok());
    }

    #[tokio::test]
    async fn it_is_named_without_its_secrets_and_writes_objects_whole() {
        let store = S3Store::open(&settings("http://localhost:1")).unwrap();
        assert_eq!(store.to_string(), "s3://rows/eu at http://localhost:1");
        assert!(!format!("{store:?}").contains("canary"));
        let (a, b) = (Path::from("a"), Path::from("b"));
        assert!(store.put_multipart(&a).await.is_err());
        assert!(store.copy(&a, &b).await.is_err());
    }
}
