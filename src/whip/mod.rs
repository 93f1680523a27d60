//! The WHIP endpoint (RFC 9725) as a set of actix-web routes that fit into anybody's application.
//!
//! Owns the HTTP side of the signalling: methods, conditions, statuses, problem documents, CORS, ICE server links. It
//! must not know how a session is made or kept (the application's [`PublishTransportProvider`] does) nor how an offer
//! is answered ([`PublishTransport`] does). With `http`, it is the only place that names actix-web.
//!
//! | method | WHIP endpoint `/whip/{session_id}` | WHIP session URL `/whip/{session_id}/{resource_id}` |
//! | --- | --- | --- |
//! | `POST` | offer -> 201 with the answer, `Location`, `ETag`, `Link` (4.2) | 405 |
//! | `PATCH` | trickle ICE, ICE restart of the publisher now in place (4.3) | the same, of that publisher only |
//! | `DELETE` | ends the publisher now in place -> 200 (4.2) | the same, of that publisher only |
//! | `OPTIONS` | 204, `Accept-Post`, CORS preflight (4.2, 4.7.1) | 204, `Accept-Patch`, CORS preflight |
//! | `GET`, `HEAD` | 204 (4.1) | 204 |
//!
//! One decision differs from the letter of the text: a trickle `PATCH` of the session URL without `If-Match` is taken,
//! where section 4.3.1 asks for 428. Clients in use send none, the URL's 128 random bits already say which publisher is
//! meant, and candidates of an outdated ICE session are recognised by their credentials. On the endpoint URL, where
//! nothing else says who is meant, a missing `If-Match` is 428.

mod authorize;
mod body;
mod cors;
mod error;
mod etag;
mod handlers;
mod link;
pub mod sdp_fragment;

use std::{fmt, sync::Arc, time::Duration};

use actix_web::web;

use crate::transport::{PublishError, PublishTransport};

pub use self::{
    authorize::{AuthorizeRequest, Authorizer, Denied},
    link::{IceServer, InvalidIceServer},
};

/// Finds the receiving end of a session. Implemented by the application that mounts a [`WhipEndpoint`].
///
/// Written as a plain `async fn`:
///
/// ```
/// use std::{collections::HashMap, sync::Arc};
/// use whipgate::{
///     transport::{PublishError, PublishTransport},
///     whip::PublishTransportProvider,
/// };
///
/// /// Sessions that were registered beforehand.
/// struct Sessions(HashMap<String, Arc<PublishTransport>>);
///
/// impl PublishTransportProvider for Sessions {
///     async fn get_publish_transport(&self, session_id: &str) -> Result<Arc<PublishTransport>, PublishError> {
///         self.0.get(session_id).cloned().ok_or(PublishError::UnknownSession)
///     }
/// }
/// ```
pub trait PublishTransportProvider: Send + Sync + 'static {
    /// The transport of `session_id`, which is a valid [`SessionId`](crate::id::SessionId): 1 to 128 characters of
    /// `[A-Za-z0-9._~-]`, not starting with a dot.
    ///
    /// # Errors
    ///
    /// Any; the client gets the status that belongs to it, so [`PublishError::UnknownSession`] arrives as 404.
    fn get_publish_transport(
        &self,
        session_id: &str,
    ) -> impl Future<Output = Result<Arc<PublishTransport>, PublishError>> + Send;

    /// The same for requests that change or end a publication (`PATCH`, `DELETE`) and so never need a new session.
    ///
    /// A provider that makes sessions on demand overrides this to look only: otherwise a flood of requests with
    /// invented names would make as many sessions.
    ///
    /// # Errors
    ///
    /// As [`get_publish_transport`](Self::get_publish_transport).
    fn find_publish_transport(
        &self,
        session_id: &str,
    ) -> impl Future<Output = Result<Arc<PublishTransport>, PublishError>> + Send {
        self.get_publish_transport(session_id)
    }
}

impl<P: PublishTransportProvider> PublishTransportProvider for Arc<P> {
    fn get_publish_transport(
        &self,
        session_id: &str,
    ) -> impl Future<Output = Result<Arc<PublishTransport>, PublishError>> + Send {
        P::get_publish_transport(self, session_id)
    }

    fn find_publish_transport(
        &self,
        session_id: &str,
    ) -> impl Future<Output = Result<Arc<PublishTransport>, PublishError>> + Send {
        P::find_publish_transport(self, session_id)
    }
}

/// What one request may cost.
///
/// Candidates are limited per publication, by
/// [`PublishOptions::max_candidates`](crate::transport::PublishOptions::max_candidates).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request body; one more is 413.
    pub body: usize,
    /// Time for a request body to arrive; after that it is 408.
    pub body_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 * 1024,
            body_time: Duration::from_secs(30),
        }
    }
}

#[derive(Clone, Default)]
struct Options {
    authorizer: Option<Arc<dyn Authorizer>>,
    cors: cors::Cors,
    /// `Link` header values, made once.
    links: Vec<actix_web::http::header::HeaderValue>,
    limits: Limits,
}

/// A WHIP endpoint (RFC 9725) for sessions that `P` knows.
///
/// Cheap to clone, so that an application factory can hold one. Without [`authorize`](Self::authorize) anybody may
/// publish.
///
/// # Examples
///
/// Inside an application of one's own, under a scope of one's own; `Location` follows the scope:
///
/// ```
/// use std::{collections::HashMap, sync::Arc};
/// use actix_web::{App, test, web};
/// use whipgate::{
///     transport::{PublishError, PublishTransport},
///     whip::{PublishTransportProvider, WhipEndpoint},
/// };
///
/// struct Sessions(HashMap<String, Arc<PublishTransport>>);
///
/// impl PublishTransportProvider for Sessions {
///     async fn get_publish_transport(&self, session_id: &str) -> Result<Arc<PublishTransport>, PublishError> {
///         self.0.get(session_id).cloned().ok_or(PublishError::UnknownSession)
///     }
/// }
///
/// # #[actix_web::main]
/// # async fn main() {
/// let whip = WhipEndpoint::new(Sessions(HashMap::new()));
/// let app = App::new().service(web::scope("/live").configure(|cfg| whip.configure(cfg)));
///
/// let app = test::init_service(app).await;
/// let offer = test::TestRequest::post()
///     .uri("/live/whip/nobody")
///     .insert_header(("content-type", "application/sdp"))
///     .set_payload("v=0\r\n")
///     .to_request();
/// assert_eq!(test::call_service(&app, offer).await.status(), 404);
/// # }
/// ```
pub struct WhipEndpoint<P> {
    provider: Arc<P>,
    options: Arc<Options>,
}

impl<P: PublishTransportProvider> WhipEndpoint<P> {
    /// An endpoint for the sessions of `provider`, given as a value or in an `Arc`.
    pub fn new(provider: P) -> Self {
        Self {
            provider: Arc::new(provider),
            options: Arc::default(),
        }
    }

    /// Asks `authorizer` before every `POST`, `PATCH` and `DELETE` (RFC 9725 section 4.7.1).
    #[must_use]
    pub fn authorize(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.options_mut().authorizer = Some(authorizer);
        self
    }

    /// Web pages of these origins (`https://example.org`) may publish; `*` means all, which is the default.
    #[must_use]
    pub fn cors_origins<S: Into<String>>(mut self, origins: impl IntoIterator<Item = S>) -> Self {
        self.options_mut().cors = cors::Cors::new(origins.into_iter().map(Into::into));
        self
    }

    /// STUN and TURN servers that publishers are told of by `Link` headers (RFC 9725 section 4.6). Only who is allowed
    /// to publish gets them.
    #[must_use]
    pub fn ice_servers<'a>(mut self, servers: impl IntoIterator<Item = &'a IceServer>) -> Self {
        self.options_mut().links = servers.into_iter().map(IceServer::link).collect();
        self
    }

    /// What one request may cost.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options_mut().limits = limits;
        self
    }

    /// Adds the routes `whip/{session_id}` and `whip/{session_id}/{resource_id}` to an application or scope.
    pub fn configure(&self, cfg: &mut web::ServiceConfig) {
        // The patterns also match what is no valid name, so that it is refused with a reason.
        for (pattern, target) in [
            ("/whip/{session_id:[^/]*}", handlers::Target::Endpoint),
            (
                "/whip/{session_id:[^/]*}/{resource_id:.*}",
                handlers::Target::Session,
            ),
        ] {
            let endpoint = self.clone();
            cfg.service(web::resource(pattern).to(move |request, payload| {
                handlers::handle(endpoint.clone(), target, request, payload)
            }));
        }
    }

    fn options_mut(&mut self) -> &mut Options {
        Arc::make_mut(&mut self.options)
    }
}

impl<P> Clone for WhipEndpoint<P> {
    fn clone(&self) -> Self {
        Self {
            provider: Arc::clone(&self.provider),
            options: Arc::clone(&self.options),
        }
    }
}

impl<P> fmt::Debug for WhipEndpoint<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhipEndpoint")
            .field("authorizes", &self.options.authorizer.is_some())
            .field("cors", &self.options.cors)
            .field("ice_servers", &self.options.links.len())
            .field("limits", &self.options.limits)
            .finish_non_exhaustive()
    }
}
