//! Keys that may do less than the root, and end: what STS calls a role that is assumed.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use auxo_sst::s3::S3Settings;
use http::Request;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;

use super::Asking;

/// How long the keys are good: the shortest time that MinIO gives.
const GOOD_FOR: Duration = Duration::from_secs(15 * 60);

impl Asking {
    /// Keys with those of the root's rights that the policy (JSON, as S3's) allows, written as a file of
    /// credentials.
    ///
    /// * errors: the server has no STS (versitygw), or refuses the policy.
    pub(super) async fn lend(&self, policy: &str) -> Result<String> {
        let seconds = GOOD_FOR.as_secs().to_string();
        let asked = [
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("DurationSeconds", &seconds),
            ("Policy", policy),
        ];
        let mut request = self.http.post(&self.endpoint).form(&asked).build()?;
        let form = request.body().and_then(reqwest::Body::as_bytes);
        let form = HttpRequestBody::from(form.unwrap_or_default().to_vec());
        let mut signed = Request::post(request.url().as_str()).body(form)?;
        *signed.headers_mut() = request.headers().clone();
        let root = AwsCredential {
            key_id: self.access_key.clone(),
            secret_key: self.secret_key.clone(),
            token: None,
        };
        AwsAuthorizer::new(&root, "sts", S3Settings::REGION).authorize(&mut signed, None);
        *request.headers_mut() = signed.into_parts().0.headers;
        let answer = self.http.execute(request).await?;
        let (status, told) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("{status}: {told}");
        }
        let of = |name: &str| {
            let (_, rest) = told.split_once(&format!("<{name}>"))?;
            let (value, _) = rest.split_once(&format!("</{name}>"))?;
            Some(value)
        };
        let of = |name: &str| of(name).with_context(|| format!("{name} in {told}"));
        Ok(format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\naws_session_token = {}\n",
            of("AccessKeyId")?,
            of("SecretAccessKey")?,
            of("SessionToken")?
        ))
    }
}
