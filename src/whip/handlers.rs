//! What each method does on the two URLs.
//!
//! Every request goes the same way: name, authorization, body, session, action; so nobody without a token learns what
//! exists, and nothing is parsed for them.

use actix_web::{
    HttpRequest, HttpResponse,
    dev::Payload,
    http::{
        Method,
        header::{self, HeaderMap, HeaderValue},
    },
    web,
};

use super::{
    AuthorizeRequest, Denied, PublishTransportProvider, WhipEndpoint,
    authorize::bearer_token,
    body,
    cors::is_preflight,
    error::{WhipError, accept_header},
    etag::{self, IfMatch},
    sdp_fragment::SdpFragment,
};
use crate::{
    id::SessionId,
    transport::{EndReason, PublicationId, PublishError},
};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// Which of the two URLs a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// `/whip/{session_id}`: whoever publishes now.
    Endpoint,
    /// `/whip/{session_id}/{resource_id}`: one publisher.
    Session,
}

impl Target {
    const fn allow(self) -> &'static str {
        match self {
            Self::Endpoint => "GET, HEAD, POST, PATCH, DELETE, OPTIONS",
            Self::Session => "GET, HEAD, PATCH, DELETE, OPTIONS",
        }
    }
}

/// Answers any request for either URL.
pub(super) async fn handle<P: PublishTransportProvider>(
    endpoint: WhipEndpoint<P>,
    target: Target,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let mut payload = payload.into_inner();
    let method = request.method().clone();
    let answered = match name(&request) {
        Ok(session_id) => {
            let call = Call {
                endpoint: &endpoint,
                request: &request,
                session_id: &session_id,
            };
            let answered = call.answer(target, &mut payload).await;
            answered.inspect_err(|error| error.log(&method, session_id.as_str()))
        }
        Err(error) => Err(error),
    };
    let mut response =
        answered.unwrap_or_else(|error| body::keep_unread(error.response(), payload));
    let cors = &endpoint.options.cors;
    cors.apply(&method, request.headers(), response.headers_mut());
    response
}

/// The session's name. The router has decoded the path; what it leaves encoded (`%2F`, `%25`) is in no name.
fn name(request: &HttpRequest) -> Result<SessionId, WhipError> {
    let name = request.match_info().get("session_id").unwrap_or_default();
    Ok(name.parse()?)
}

/// One request of a session with a valid name.
struct Call<'a, P> {
    endpoint: &'a WhipEndpoint<P>,
    request: &'a HttpRequest,
    session_id: &'a SessionId,
}

impl<P: PublishTransportProvider> Call<'_, P> {
    async fn answer(
        &self,
        target: Target,
        payload: &mut Payload,
    ) -> Result<HttpResponse, WhipError> {
        match (self.request.method(), target) {
            (&Method::GET | &Method::HEAD, _) => Ok(HttpResponse::NoContent().finish()),
            (&Method::OPTIONS, _) => Ok(self.options(target).await),
            (&Method::POST, Target::Endpoint) => {
                self.authorize().await?;
                self.post(payload).await
            }
            (&Method::PATCH, _) => {
                self.authorize().await?;
                self.patch(target, payload).await
            }
            (&Method::DELETE, _) => {
                self.authorize().await?;
                self.delete(target).await
            }
            (method, _) => Err(WhipError::MethodNotAllowed {
                method: method.as_str().chars().take(20).collect(),
                allow: target.allow(),
            }),
        }
    }

    /// RFC 9725 section 4.7.1.
    async fn authorize(&self) -> Result<(), WhipError> {
        let Some(authorizer) = &self.endpoint.options.authorizer else {
            return Ok(());
        };
        let token = bearer_token(self.request.headers())?;
        let request = AuthorizeRequest {
            session_id: self.session_id,
            token,
            peer: self.request.peer_addr(),
        };
        authorizer
            .authorize(request)
            .await
            .map_err(|denied| match denied {
                Denied::Unauthorized => WhipError::Unauthorized {
                    token_sent: token.is_some(),
                },
                Denied::Forbidden(why) => WhipError::Forbidden(why),
            })
    }

    /// Sections 4.2 and 4.6: never needs a token, but only who may publish is told of the ICE servers, for their
    /// credentials are worth something. A preflight is the browser's and tells nobody.
    async fn options(&self, target: Target) -> HttpResponse {
        let mut response = HttpResponse::NoContent().finish();
        let request = self.request.headers();
        let tell = target == Target::Endpoint
            && !is_preflight(&Method::OPTIONS, request)
            && self.authorize().await.is_ok();
        let headers = response.headers_mut();
        headers.insert(header::ALLOW, HeaderValue::from_static(target.allow()));
        if target == Target::Endpoint {
            headers.insert(accept_header(&Method::POST), HeaderValue::from_static(SDP));
        }
        insert_accept_patch(headers);
        if tell {
            self.link(headers);
        }
        response
    }

    /// Section 4.2: offer in, answer out.
    async fn post(&self, payload: &mut Payload) -> Result<HttpResponse, WhipError> {
        let offer = self.body(SDP, payload).await?;
        if !offer.starts_with("v=0") {
            return Err(WhipError::NotSdp("it does not begin with v=0"));
        }
        let provider = &self.endpoint.provider;
        let transport = provider
            .get_publish_transport(self.session_id.as_str())
            .await?;
        let publication = transport.publish(&offer).await?;

        let mut response = HttpResponse::Created()
            .content_type(SDP)
            .body(publication.answer);
        let headers = response.headers_mut();
        let location = HeaderValue::try_from(self.location(publication.id));
        headers.insert(header::LOCATION, location.map_err(PublishError::internal)?);
        insert_etag(headers, &publication.etag)?;
        insert_accept_patch(headers);
        self.link(headers);
        Ok(response)
    }

    /// Section 4.3: candidates, or an ICE restart.
    async fn patch(
        &self,
        target: Target,
        payload: &mut Payload,
    ) -> Result<HttpResponse, WhipError> {
        let condition = IfMatch::of(self.request.headers());
        let body = self.body(FRAGMENT, payload).await?;
        let candidates = SdpFragment::parse(&body)?.into_remote_candidates();
        let id = self.publication(target)?;
        let provider = &self.endpoint.provider;
        let transport = provider
            .find_publish_transport(self.session_id.as_str())
            .await?;
        // An unknown publication is 404 whatever the condition.
        let current = transport.etag(id)?;
        match condition {
            IfMatch::Any => {
                if candidates.ice.is_none() {
                    return Err(WhipError::RestartWithoutCredentials);
                }
                let restarted = transport.restart_ice(id, candidates).await?;
                let fragment = SdpFragment::restart(
                    &restarted.answer,
                    restarted.restart.ice,
                    restarted.restart.candidates,
                );
                let mut response = HttpResponse::Ok()
                    .content_type(FRAGMENT)
                    .body(fragment.to_string());
                insert_etag(response.headers_mut(), &restarted.etag)?;
                return Ok(response);
            }
            IfMatch::Tags(tags) if tags.contains(&current) => {}
            IfMatch::Tags(_) => {
                return Err(WhipError::PreconditionFailed(
                    "If-Match names no strong ETag of the present ICE session",
                ));
            }
            IfMatch::Malformed => {
                return Err(WhipError::PreconditionFailed(
                    "If-Match is neither * nor a list of quoted entity tags",
                ));
            }
            IfMatch::Missing if target == Target::Session => {}
            IfMatch::Missing => return Err(WhipError::PreconditionRequired),
        }
        transport.add_candidates(id, candidates).await?;
        Ok(HttpResponse::NoContent().finish())
    }

    /// Section 4.2: 200 exactly, for OBS takes anything else as a failure.
    async fn delete(&self, target: Target) -> Result<HttpResponse, WhipError> {
        let id = self.publication(target)?;
        let provider = &self.endpoint.provider;
        let transport = provider
            .find_publish_transport(self.session_id.as_str())
            .await?;
        transport.delete(id, EndReason::Deleted).await?;
        Ok(HttpResponse::Ok().finish())
    }

    /// The publication a URL names; what cannot be a name is as unknown as any other.
    fn publication(&self, target: Target) -> Result<Option<PublicationId>, WhipError> {
        match target {
            Target::Endpoint => Ok(None),
            Target::Session => self
                .request
                .match_info()
                .get("resource_id")
                .and_then(|id| id.parse().ok())
                .map(Some)
                .ok_or(WhipError::Publish(PublishError::UnknownPublication)),
        }
    }

    async fn body(
        &self,
        accepts: &'static str,
        payload: &mut Payload,
    ) -> Result<String, WhipError> {
        body::read(self.request, payload, accepts, self.endpoint.options.limits).await
    }

    /// An absolute path without a query, beside the URL that was asked for, whatever scope the endpoint is mounted in.
    /// OBS puts any other form together wrongly.
    fn location(&self, id: PublicationId) -> String {
        let path = self.request.path();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        format!("{parent}/{}/{id}", self.session_id)
    }

    fn link(&self, headers: &mut HeaderMap) {
        for link in &self.endpoint.options.links {
            headers.append(header::LINK, link.clone());
        }
    }
}

fn insert_accept_patch(headers: &mut HeaderMap) {
    headers.insert(
        accept_header(&Method::PATCH),
        HeaderValue::from_static(FRAGMENT),
    );
}

fn insert_etag(headers: &mut HeaderMap, etag: &str) -> Result<(), WhipError> {
    let value = etag::header_value(etag).map_err(PublishError::internal)?;
    headers.insert(header::ETAG, value);
    Ok(())
}
