//! versitygw: a server that speaks S3 over a directory of this machine.
//!
//! 1. `install` builds it from the Go module proxy into the cache, once a machine.
//! 2. A gateway gets a free port, a folder and keys of its own. It is ready when it answers a request
//!    signed with those, so that another server on the same port is never taken for it.
//! 3. Buckets are made by requests, as on any other server.
//!
//! Its data's file system needs extended attributes of users. It does not sync: what it
//! acknowledged outlives its end, not a loss of power.
//!
//! Never here: TLS (this server breaks connections of refused puts over it), users besides the root.

use std::path::{Path, PathBuf};
use std::process::Command;
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

use super::watched::Watched;
use super::{VERSITYGW, install_alone, ports, run};
use crate::duckdb::cache;
use crate::{disk, wait};

/// The package that `go install` builds.
const PACKAGE: &str = "github.com/versity/versitygw/cmd/versitygw";

/// How long a gateway may take until it is ready, on a machine that has other things to do.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take to stop before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// How long one question of ours may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How long a signed request is good.
const SIGNED_FOR: Duration = Duration::from_secs(60);

/// How often other ports are tried when somebody else was faster.
const ATTEMPTS: usize = 3;

/// The gateway of the pinned release; built at the first call on a machine.
///
/// * errors: says which program is missing or what failed.
/// * effects: may take minutes and use the network.
pub async fn install() -> Result<PathBuf> {
    let _alone = install_alone("versitygw").await?;
    let folder = cache().join(format!("versitygw-{VERSITYGW}"));
    let binary = folder.join("versitygw");
    if binary.exists() {
        return Ok(binary);
    }
    run(Command::new("go").arg("version"))?;
    eprintln!(
        "building versitygw {VERSITYGW} from the Go module proxy into {}: some minutes",
        folder.display()
    );
    let part = folder.with_extension(format!("part-{}", std::process::id()));
    run(Command::new("go")
        .args(["install", "-trimpath", "-ldflags=-s -w"])
        .arg(format!("{PACKAGE}@v{VERSITYGW}"))
        .env("GOBIN", &part)
        .env("CGO_ENABLED", "0")
        // It asks for a newer Go than some distributions have: Go fetches that itself then.
        .env("GOTOOLCHAIN", "auto"))?;
    std::fs::create_dir_all(&folder)?;
    std::fs::rename(part.join("versitygw"), &binary)?;
    std::fs::remove_dir_all(&part)?;
    Ok(binary)
}

/// A gateway and its files; both end with it, but for the files when a test panics.
pub struct Versitygw {
    binary: PathBuf,
    port: u16,
    asking: Asking,
    process: Option<Watched>,
    place: PathBuf,
    /// Removes the place; `None` once the files are to stay.
    folder: Option<TempDir>,
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

impl Versitygw {
    /// Starts a gateway without buckets and waits until it is ready; installs it at the first call on
    /// a machine.
    ///
    /// * errors: end with the last lines of its log.
    pub async fn start() -> Result<Self> {
        let binary = install().await?;
        let mut attempt = 1;
        loop {
            let mut gateway = Self::new(&binary)?;
            gateway.restart()?;
            let Err(error) = gateway.ready().await else {
                return Ok(gateway);
            };
            let log = gateway.log_tail();
            if attempt == ATTEMPTS || !log.contains("address already in use") {
                let kept = gateway.keep_files();
                bail!("{error:#}\n{log}\nfiles are kept in {kept}");
            }
            attempt += 1;
        }
    }

    fn new(binary: &Path) -> Result<Self> {
        let random = Random::from_system();
        let folder = disk::folder("versitygw")?;
        let place = folder.path().to_owned();
        for name in ["iam", "data"] {
            std::fs::create_dir(place.join(name))?;
        }
        let [port] = ports::free()?;
        let asking = Asking {
            endpoint: format!("http://127.0.0.1:{port}"),
            access_key: format!("{:016x}", random.next_u64()),
            secret_key: format!("{:032x}", random.next_u128()),
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(ANSWER_TIME)
                .build()?,
        };
        let gateway = Self {
            binary: binary.to_owned(),
            port,
            asking,
            process: None,
            place,
            folder: Some(folder),
        };
        let keys = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            gateway.asking.access_key, gateway.asking.secret_key
        );
        std::fs::write(gateway.credentials(), keys)?;
        Ok(gateway)
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> &str {
        &self.asking.endpoint
    }

    /// A file of credentials with all rights.
    pub fn credentials(&self) -> PathBuf {
        self.place.join("keys")
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

    /// Makes a bucket.
    pub async fn make_bucket(&self, name: &str) -> Result<()> {
        let answer = self.asking.send(Method::PUT, name).await;
        answer.with_context(|| format!("bucket {name}"))
    }

    /// Waits until it answers as itself.
    pub async fn ready(&mut self) -> Result<()> {
        let asking = &self.asking;
        let process = self.process.as_mut().context("the gateway was killed")?;
        let answered = wait::until("versitygw is ready", READY_WITHIN, || {
            let ended = process.ended();
            async move {
                if let Some(status) = ended? {
                    return Ok(Err(anyhow::anyhow!("versitygw ended with {status}")));
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
            None => bail!("the gateway does not run"),
        }
    }

    /// Starts it after a kill, on the same port and data; does not wait.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command
            .arg("--port")
            .arg(format!("127.0.0.1:{}", self.port))
            .args(["--quiet", "--keep-alive", "--iam-cache-ttl", "1"])
            .arg("--iam-dir")
            .arg(self.place.join("iam"))
            // Without this flag a LIST shows names of objects that are being written.
            .args(["posix", "--disableotmp"])
            .arg(self.place.join("data"))
            .env("ROOT_ACCESS_KEY", &self.asking.access_key)
            .env("ROOT_SECRET_KEY", &self.asking.secret_key);
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
        self.process.as_ref().context("the gateway does not run")
    }
}

impl Drop for Versitygw {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("files of versitygw are kept in {}", self.keep_files());
        }
    }
}
