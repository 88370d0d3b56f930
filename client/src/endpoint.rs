//! Where a client sends, as whom, and the plain JSON requests that need nothing more.
//!
//! Never follows a redirect and never goes through a proxy the environment names: a batch must not
//! end up anywhere but at the address that was given.

use std::time::Duration;

use auxo_proto::{clock::Clock, random::Random};
use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response, Url, header};
use serde_json::Value;
use uuid::Uuid;

use crate::{Error, Refusal};

/// The longest body of a JSON answer or refusal that is read, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// The credential of a caller; never shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token as it was issued.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of any node, such as `http://127.0.0.1:7400`.
    pub url: String,
    /// Who is calling; nobody in particular if absent.
    pub token: Option<Token>,
    /// Database of statements and lines that name none.
    pub database: String,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long one plain request, or one attempt to write, may take.
    pub request_timeout: Duration,
    /// How long a reply may stand still between two pieces.
    pub idle_timeout: Duration,
    /// Wall time, for the ids of statements and batches.
    pub clock: Clock,
    /// Dice, for ids and for spreading retries.
    pub random: Random,
}

impl Settings {
    /// Usual delays: 5 s to connect, 60 s for a request, 60 s between pieces of a reply.
    pub fn new(url: impl Into<String>, clock: Clock, random: Random) -> Self {
        Self {
            url: url.into(),
            token: None,
            database: "main".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            clock,
            random,
        }
    }
}

/// A client of one address; clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    pub(crate) settings: Settings,
}

impl Client {
    /// Checks the address and makes a client; nothing is sent yet.
    ///
    /// * errors: `Address`.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let address = |reason: String| Error::Address {
            url: settings.url.clone(),
            reason,
        };
        let mut base = Url::parse(&settings.url).map_err(|error| address(error.to_string()))?;
        match base.scheme() {
            "http" => {}
            "https" => return Err(address("this build speaks plain http only".to_owned())),
            other => return Err(address(format!("scheme {other:?} is not http"))),
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut headers = header::HeaderMap::new();
        if let Some(Token(secret)) = &settings.token {
            let mut bearer = header::HeaderValue::from_str(&format!("Bearer {secret}"))
                .map_err(|_| address("the token holds characters no header can".to_owned()))?;
            bearer.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, bearer);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("auxo/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.idle_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .map_err(|error| address(error.to_string()))?;
        Ok(Self {
            http,
            base,
            settings,
        })
    }

    /// The address this client sends to, always with a path that ends in a slash.
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// The database of statements and lines that name none.
    pub fn database(&self) -> &str {
        &self.settings.database
    }

    /// The same client for another database; connections stay shared.
    pub fn with_database(&self, database: impl Into<String>) -> Self {
        let mut other = self.clone();
        other.settings.database = database.into();
        other
    }

    /// A fresh UUIDv7, which names a statement or a batch.
    pub fn fresh_id(&self) -> Uuid {
        let now_ms = self.settings.clock.now_ms();
        self.settings.random.uuid_v7(now_ms)
    }

    /// `GET`, answered with JSON. Safe to repeat.
    ///
    /// * `path`: its parts, which may hold any character.
    /// * errors: any but `Cut`; a status that is no success is `Refused`.
    pub async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Error> {
        let request = self.request(Method::GET, path).query(query);
        json_of(&self.whole(request).await?)
    }

    /// `POST` without a body, answered with JSON.
    ///
    /// * errors: any but `Cut`; after some of them it is not known whether it was done.
    pub async fn post(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Error> {
        let request = self.request(Method::POST, path).query(query);
        json_of(&self.whole(request).await?)
    }

    /// `GET /v1/ready`: what the node checks about itself. An unready node's answer is an answer.
    ///
    /// * errors: as [`Client::get`], but a 503 with a report is none.
    pub async fn ready(&self) -> Result<Value, Error> {
        let limit = self.settings.request_timeout;
        let request = self.request(Method::GET, &["v1", "ready"]);
        let ask = async {
            let response = self.head(request, limit).await?;
            let status = response.status();
            let body = read_whole(response, self.settings.idle_timeout).await?;
            let report = json_of(&body)
                .ok()
                .filter(|report| report["ready"].is_boolean());
            report.ok_or_else(|| {
                let refusal = Refusal::read(status.as_u16(), None, &body);
                Error::Refused(Box::new(refusal))
            })
        };
        within(limit, ask).await
    }

    /// Stops a statement on every node. A statement that has ended already is no error.
    ///
    /// * errors: any but `Cut`.
    pub async fn cancel(&self, query_id: Uuid) -> Result<(), Error> {
        let id = query_id.to_string();
        let request = self.request(Method::DELETE, &["v1", "queries", &id]);
        match self.whole(request).await {
            Ok(_) => Ok(()),
            Err(Error::Refused(refusal)) if refusal.status == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Why a statement failed, as the node remembers it for some minutes: for a reply that was cut in a
    /// format that cannot say.
    pub async fn failure_of(&self, query_id: Uuid) -> Option<Refusal> {
        let id = query_id.to_string();
        let known = self.get(&["v1", "queries", &id], &[]).await.ok()?;
        let problem = known.get("error")?;
        let status = problem["status"].as_u64().unwrap_or(500);
        let status = u16::try_from(status).unwrap_or(500);
        Some(Refusal::read(status, None, problem.to_string().as_bytes()))
    }

    /// A request for a path below the address, which may itself have a path.
    pub(crate) fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        // Every http address has a path, so its parts can be added to.
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(path);
        }
        self.http.request(method, url)
    }

    /// Sends, and waits for the head of any reply at most `limit`.
    async fn head(&self, request: RequestBuilder, limit: Duration) -> Result<Response, Error> {
        match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Error::before_head(self.url(), limit, &error)),
            Err(_) => {
                let what = "the answer";
                Err(Error::Timeout { what, limit })
            }
        }
    }

    /// Sends, and waits for the head of a good reply at most `limit`; reads the refusal otherwise.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        limit: Duration,
    ) -> Result<Response, Error> {
        let response = self.head(request, limit).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let retry_after_s = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        // The status alone is an answer already: a refusal whose text is cut stays a refusal.
        let body = tokio::time::timeout(limit, read_whole(response, self.settings.idle_timeout))
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default();
        let refusal = Refusal::read(status, retry_after_s, &body);
        Err(Error::Refused(Box::new(refusal)))
    }

    /// Sends, and reads a short reply to its end within the request's deadline.
    async fn whole(&self, request: RequestBuilder) -> Result<Bytes, Error> {
        let limit = self.settings.request_timeout;
        let idle = self.settings.idle_timeout;
        within(limit, async {
            read_whole(self.send(request, limit).await?, idle).await
        })
        .await
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let what = "the whole answer";
    let late = |_| Err(Error::Timeout { what, limit });
    tokio::time::timeout(limit, work).await.unwrap_or_else(late)
}

fn json_of(body: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Reply {
        reason: format!("no JSON: {error}"),
    })
}

/// Reads a body of bounded length to its end.
pub(crate) async fn read_whole(mut response: Response, idle: Duration) -> Result<Bytes, Error> {
    let mut body = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| Error::in_body(idle, &error))?
    {
        if body.len() + piece.len() > BODY_BYTES_MAX {
            let reason = format!("longer than {BODY_BYTES_MAX} bytes");
            return Err(Error::Reply { reason });
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str, token: Option<&str>) -> Result<Client, Error> {
        let mut settings = Settings::new(url, Clock::from_fn(|| 0), Random::seeded(1));
        settings.token = token.map(Token::new);
        Client::new(settings)
    }

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        for (url, said) in [
            ("localhost:7400", "scheme \"localhost\" is not http"),
            ("https://n:7400", "this build speaks plain http only"),
            ("http://", "empty host"),
        ] {
            let error = client(url, None).unwrap_err().to_string();
            assert!(error.contains(said), "{url}: {error}");
        }
        assert!(client("http://n", Some("a\nb")).is_err());
    }

    #[test]
    fn a_path_in_the_address_is_kept() {
        let client = client("http://n:1/below", None).unwrap();
        assert_eq!(client.url(), "http://n:1/below/");
        let request = client.request(Method::GET, &["v1", "tables", "a/b ?"]);
        assert_eq!(
            request.build().unwrap().url().as_str(),
            "http://n:1/below/v1/tables/a%2Fb%20%3F"
        );
    }

    #[test]
    fn a_token_is_never_shown() {
        let client = client("http://n", Some("auxo_canary")).unwrap();
        assert!(!format!("{client:?}").contains("canary"));
    }
}
