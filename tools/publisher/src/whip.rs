//! The HTTP side of a WHIP client (RFC 9725): POST an offer, DELETE the session. Knows SDP only as text.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, bail};
use reqwest::{Client, Url, header};

/// Longest wait for an answer to one request, as in OBS.
const TIMEOUT: Duration = Duration::from_secs(8);

/// A WHIP endpoint and the token for it.
#[derive(Clone)]
pub struct WhipClient {
    http: Client,
    endpoint: Url,
    token: Option<String>,
}

impl fmt::Debug for WhipClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhipClient")
            .field("endpoint", &self.endpoint.as_str())
            .finish_non_exhaustive()
    }
}

/// What the endpoint answered to an accepted offer.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The SDP answer.
    pub answer: String,
    /// The session URL of `Location`.
    pub session: Url,
    /// `ETag`, as sent.
    pub etag: Option<String>,
}

/// The endpoint answered with something else than 201; find it with `error.downcast_ref::<Refused>()`.
#[derive(Clone, Debug)]
pub struct Refused {
    /// HTTP status code.
    pub status: u16,
    /// `Retry-After` in seconds, if given.
    pub retry_after: Option<u64>,
    /// Body as text, at most the first 4096 characters.
    pub body: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the WHIP endpoint answered {}: {}",
            self.status,
            self.body.trim()
        )
    }
}

impl std::error::Error for Refused {}

impl WhipClient {
    /// For one endpoint; `token` is sent as bearer token with every request.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Self> {
        let endpoint =
            Url::parse(endpoint).with_context(|| format!("{endpoint:?} is not a URL"))?;
        let http = Client::builder()
            .timeout(TIMEOUT)
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self {
            http,
            endpoint,
            token,
        })
    }

    /// Sends an offer. Anything but 201 with a `Location` is an error; a status is found in [`Refused`].
    pub async fn post(&self, offer: &str) -> Result<Accepted> {
        let request = self
            .http
            .post(self.endpoint.clone())
            .header(header::CONTENT_TYPE, "application/sdp")
            .body(offer.to_owned());
        let response = self
            .authorized(request)
            .send()
            .await
            .with_context(|| format!("cannot POST to {}", self.endpoint))?;
        let url = response.url().clone();
        let text = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let (location, etag) = (text(header::LOCATION), text(header::ETAG));
        let retry_after = text(header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
        let status = response.status().as_u16();
        let body = response.text().await.context("the answer was cut off")?;
        if status != 201 {
            bail!(Refused {
                status,
                retry_after,
                body: body.chars().take(4096).collect()
            });
        }
        let location = location.context("201 without Location")?;
        let session = url
            .join(&location)
            .with_context(|| format!("Location {location:?} is not a URL"))?;
        Ok(Accepted {
            answer: body,
            session,
            etag,
        })
    }

    /// Ends the session at `session`; gives the HTTP status.
    pub async fn delete(&self, session: &Url) -> Result<u16> {
        let request = self.http.delete(session.clone());
        let response = self
            .authorized(request)
            .send()
            .await
            .with_context(|| format!("cannot DELETE {session}"))?;
        Ok(response.status().as_u16())
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}
