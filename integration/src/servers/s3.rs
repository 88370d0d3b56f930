//! A server of buckets as a process.
//!
//! 1. A server gets a free port, a folder and keys of its own. It is ready when it answers a request
//!    signed with those, so that another server on the same port is never taken for it.
//! 2. Buckets are made by requests, as on any other server.
//!
//! Its data's file system needs extended attributes of users.
//!
//! Rooms: this file (the server and what can be done to it), [`product`] (which one, how it is had and
//! started), [`lent`] (keys of few rights).
//!
//! Never here: users; rights are those of the root, or of keys that it lends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use auxo_proto::random::Random;
use auxo_sst::s3::credentials::Credentials;
use auxo_sst::s3::{S3Settings, S3Store};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::signer::Signer;
use reqwest::Method;
use rustix::process::Signal;
use tempfile::TempDir;

use super::authority::Certificate;
use super::ports;
use super::watched::Watched;
use crate::{disk, wait};

mod lent;
pub mod product;

pub use product::Product;

/// How long a server may take until it is ready, on a machine that has other things to do.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take to stop before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// How long one question of ours may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How long a signed request is good.
const SIGNED_FOR: Duration = Duration::from_secs(60);

/// How often other ports are tried when somebody else was faster.
const ATTEMPTS: usize = 3;

/// What a server is like.
#[derive(Clone)]
pub struct Setup {
    /// Which one.
    pub product: Product,
    /// It speaks TLS, and shows this; MinIO only.
    pub certificate: Option<Certificate>,
    /// Buckets are also found as `BUCKET.` in front of this name; MinIO only.
    pub domain: Option<String>,
}

impl Setup {
    /// A server that speaks plain HTTP and is asked by paths.
    pub fn new(product: Product) -> Self {
        Self {
            product,
            certificate: None,
            domain: None,
        }
    }

    /// Starts it without buckets and waits until it is ready; installs it at the first call on a machine.
    ///
    /// * errors: end with the last lines of its log.
    pub async fn start(&self) -> Result<S3Server> {
        let binary = self.product.install().await?;
        let mut attempt = 1;
        loop {
            let mut server = S3Server::new(self, &binary)?;
            server.restart()?;
            let Err(error) = server.ready().await else {
                return Ok(server);
            };
            let log = server.log_tail();
            if attempt == ATTEMPTS || !log.contains("address already in use") {
                let kept = server.keep_files();
                bail!("{error:#}\n{log}\nfiles are kept in {kept}");
            }
            attempt += 1;
        }
    }
}

/// A server and its files; both end with it, but for the files when a test panics.
pub struct S3Server {
    setup: Setup,
    binary: PathBuf,
    port: u16,
    asking: Asking,
    process: Option<Watched>,
    place: PathBuf,
    /// Removes the place; `None` once the files are to stay.
    folder: Option<TempDir>,
}

/// Where a server's objects lie in its place.
fn data_of(place: &Path) -> PathBuf {
    place.join("data")
}

/// Where its certificate lies.
fn certificates_of(place: &Path) -> PathBuf {
    place.join("certificates")
}

/// Requests on the server itself, signed by its root.
struct Asking {
    endpoint: String,
    access_key: String,
    secret_key: String,
    http: reqwest::Client,
}

impl Asking {
    /// One request on the server (path empty) or on a bucket.
    async fn send(&self, method: Method, path: &str) -> Result<()> {
        // With the bucket in the host's name, which the endpoint given here lacks, paths are taken as
        // they are.
        let builder = AmazonS3Builder::new()
            .with_bucket_name("none")
            .with_endpoint(&self.endpoint)
            .with_virtual_hosted_style_request(true)
            .with_allow_http(true)
            .with_access_key_id(&self.access_key)
            .with_secret_access_key(&self.secret_key);
        let signer = builder.build()?;
        let key = Key::from(path);
        let url = signer.signed_url(method.clone(), &key, SIGNED_FOR).await?;
        let answer = self.http.request(method, url).send().await?;
        let status = answer.status();
        if !status.is_success() {
            bail!("{status}: {}", answer.text().await?);
        }
        Ok(())
    }
}

impl S3Server {
    fn new(setup: &Setup, binary: &Path) -> Result<Self> {
        let random = Random::from_system();
        let folder = disk::folder(setup.product.name())?;
        let place = folder.path().to_owned();
        let certificates = certificates_of(&place);
        for part in [&place.join("iam"), &data_of(&place), &certificates] {
            std::fs::create_dir(part)?;
        }
        let mut scheme = "http";
        if let Some(certificate) = &setup.certificate {
            scheme = "https";
            std::fs::write(certificates.join("public.crt"), &certificate.pem)?;
            std::fs::write(certificates.join("private.key"), &certificate.key)?;
        }
        let [port] = ports::free()?;
        let asking = Asking {
            endpoint: format!("{scheme}://127.0.0.1:{port}"),
            access_key: format!("{:016x}", random.next_u64()),
            secret_key: format!("{:032x}", random.next_u128()),
            http: reqwest::Client::builder()
                .no_proxy()
                // Who answers to our keys is ours, whatever it shows.
                .danger_accept_invalid_certs(true)
                .timeout(ANSWER_TIME)
                .build()?,
        };
        let server = Self {
            setup: setup.clone(),
            binary: binary.to_owned(),
            port,
            asking,
            process: None,
            place,
            folder: Some(folder),
        };
        let keys = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            server.asking.access_key, server.asking.secret_key
        );
        std::fs::write(server.credentials(), keys)?;
        Ok(server)
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> &str {
        &self.asking.endpoint
    }

    /// A file of credentials with all rights.
    pub fn credentials(&self) -> PathBuf {
        self.place.join("keys")
    }

    /// Where it keeps objects, in its own way.
    pub fn data(&self) -> PathBuf {
        data_of(&self.place)
    }

    /// What a client needs for a place of it, written `BUCKET` or `BUCKET/PREFIX`.
    pub fn settings(&self, bucket: &str) -> Result<S3Settings> {
        let bucket = bucket.parse().map_err(anyhow::Error::msg)?;
        let endpoint = self.endpoint().parse().map_err(anyhow::Error::msg)?;
        let mut settings = S3Settings::new(bucket, Credentials::File(self.credentials()));
        settings.endpoint = Some(endpoint);
        Ok(settings)
    }

    /// A client of a place of it.
    pub fn store(&self, bucket: &str) -> Result<S3Store> {
        Ok(S3Store::open(&self.settings(bucket)?)?)
    }

    /// Lines of a node's configuration that put its files there.
    pub fn config(&self, bucket: &str) -> String {
        self.config_through(self.endpoint(), bucket)
    }

    /// The same for a node that comes by another address.
    pub fn config_through(&self, endpoint: &str, bucket: &str) -> String {
        format!(
            "[store]\nurl = \"s3://{bucket}\"\nendpoint = {endpoint:?}\ncredentials = \"file:{}\"\n",
            self.credentials().display()
        )
    }

    /// A file of credentials for some minutes with those rights that the policy (JSON, as S3's) allows;
    /// MinIO only.
    pub async fn lend(&self, policy: &str) -> Result<PathBuf> {
        let keys = self.asking.lend(policy).await?;
        let file = self.place.join("lent");
        std::fs::write(&file, keys)?;
        Ok(file)
    }

    /// Makes a bucket.
    pub async fn make_bucket(&self, name: &str) -> Result<()> {
        let answer = self.asking.send(Method::PUT, name).await;
        answer.with_context(|| format!("bucket {name}"))
    }

    /// Waits until it answers as itself.
    pub async fn ready(&mut self) -> Result<()> {
        let (asking, name) = (&self.asking, self.setup.product.name());
        let what = format!("{name} is ready");
        let process = self.process.as_mut().context("the server was killed")?;
        let answered = wait::until(&what, READY_WITHIN, || {
            let ended = process.ended();
            async move {
                if let Some(status) = ended? {
                    return Ok(Err(anyhow::anyhow!("{name} ended with {status}")));
                }
                asking.send(Method::GET, "").await.map(Ok)
            }
        });
        answered.await?
    }

    /// Stops its processor time (SIGSTOP): connections stay, nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.running()?.signal(Signal::STOP)
    }

    /// Ends a pause.
    pub fn resume(&self) -> Result<()> {
        self.running()?.signal(Signal::CONT)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => bail!("the server does not run"),
        }
    }

    /// Starts it after a kill, on the same port and data; does not wait.
    pub fn restart(&mut self) -> Result<()> {
        let (setup, product) = (&self.setup, self.setup.product);
        let mut command = product.command(&self.binary, &self.place, self.port, setup);
        let [user, password] = product.root_variables();
        command
            .env(user, &self.asking.access_key)
            .env(password, &self.asking.secret_key);
        self.process = Some(Watched::start(&mut command, &self.place.join("log"))?);
        Ok(())
    }

    /// Ends it in its own way; one that does not get through is killed.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM)?;
            if process.exited(STOPPED_WITHIN).await.is_err() {
                process.kill()?;
            }
        }
        Ok(())
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let process = self.process.as_ref();
        process.map(Watched::log_tail).unwrap_or_default()
    }

    /// The files stay when this ends; returns where.
    pub fn keep_files(&mut self) -> String {
        match self.folder.take() {
            Some(folder) => folder.keep().display().to_string(),
            None => "the place already named".to_owned(),
        }
    }

    fn running(&self) -> Result<&Watched> {
        self.process.as_ref().context("the server does not run")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let name = self.setup.product.name();
            eprintln!("files of {name} are kept in {}", self.keep_files());
        }
    }
}
