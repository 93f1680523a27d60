//! Who may play and administer, and the bearer tokens it is judged by (RFC 6750).
//!
//! Judging comes before anything is looked up, so that nobody without a token learns what exists. Tokens are compared
//! in constant time and never logged. Publishing is judged by [`PublishTokens`] inside the WHIP endpoint.
//!
//! A player sends `Authorization: Bearer <token>`. Where a header cannot be set, as by a `<video>` element, `?token=`
//! does; because the URIs inside a playlist do not repeat the query, a right one also sets a cookie for that one
//! session's playlists and media.

use actix_web::{
    Error,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderValue},
    },
    middleware::Next,
    web,
};

use super::{AppState, client, problem::Problem};
use crate::{
    config::{Access, Config},
    id::SessionId,
    recording::FileName,
    transport::BoxFuture,
    whip::{AuthorizeRequest, Authorizer, Denied},
};

/// Name of the cookie that stands in for `?token=`.
const COOKIE: &str = "whipgate_play";

/// What came with a request.
struct Presented {
    header: Option<String>,
    query: Option<String>,
    cookie: Option<String>,
}

impl Presented {
    fn of(headers: &HeaderMap, query: &str) -> Self {
        Self {
            header: headers
                .get(header::AUTHORIZATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map(|(_, token)| token.trim().to_owned()),
            query: query
                .split('&')
                .find_map(|pair| pair.strip_prefix("token="))
                .map(percent_decode),
            cookie: headers
                .get_all(header::COOKIE)
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(';'))
                .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
                .map(str::to_owned),
        }
    }

    fn any(&self) -> bool {
        self.header.is_some() || self.query.is_some() || self.cookie.is_some()
    }
}

fn is_right(access: &Access, token: Option<&str>) -> bool {
    match (access, token) {
        (Access::Anyone, _) => true,
        (Access::Tokens(_), None) => false,
        // All are compared, so that the time does not tell which one came close.
        (Access::Tokens(tokens), Some(token)) => tokens.iter().fold(false, |right, known| {
            right | known.matches(token.as_bytes())
        }),
    }
}

/// `%41` to `A`; `+` stays, because it may stand in a token. What is not UTF-8 is no token.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
        rest = match decoded {
            Some(_) => after.get(2..).unwrap_or_default(),
            None => after,
        };
    }
    String::from_utf8(bytes).unwrap_or_default()
}

fn unauthorized(token_was_sent: bool) -> Problem {
    let (challenge, detail) = if token_was_sent {
        (
            "Bearer realm=\"whipgate\", error=\"invalid_token\"",
            "the token is not one of those that are accepted here",
        )
    } else {
        (
            "Bearer realm=\"whipgate\"",
            "a token is needed: send Authorization: Bearer <token>",
        )
    };
    Problem::new(StatusCode::UNAUTHORIZED, detail).header(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(challenge),
    )
}

/// Lets through who may watch and download.
pub(super) async fn play<B: MessageBody + 'static>(
    state: web::Data<AppState>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let access = &state.auth.play;
    if *access == Access::Anyone {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let presented = Presented::of(request.headers(), request.query_string());
    let by_query = is_right(access, presented.query.as_deref());
    if !by_query
        && !is_right(access, presented.header.as_deref())
        && !is_right(access, presented.cookie.as_deref())
    {
        let refusal = unauthorized(presented.any()).response();
        return Ok(request.into_response(refusal).map_into_right_body());
    }
    let cookie = presented
        .query
        .filter(|_| by_query)
        .and_then(|token| cookie(&request, &token, state.https));
    let mut response = next.call(request).await?;
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response.map_into_left_body())
}

/// The cookie that lets the media of one session, or of one recording, follow its playlist; for playlists only, which are
/// not cached.
fn cookie(request: &ServiceRequest, token: &str, https: bool) -> Option<HeaderValue> {
    let path = cookie_path(request.path())?;
    let secure = if https { "; Secure" } else { "" };
    let mut value = HeaderValue::from_str(&format!(
        "{COOKIE}={token}; Path={path}; HttpOnly; SameSite=Strict{secure}"
    ))
    .ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What belongs to the playlist at `path`; `None` for anything else.
fn cookie_path(path: &str) -> Option<String> {
    let folder = path.strip_suffix(super::hls::PLAYLIST)?.strip_suffix('/')?;
    let mut names = folder.strip_prefix('/')?.split('/');
    let (area, session, more) = (names.next()?, names.next()?, names.next());
    let session: SessionId = session.parse().ok()?;
    match (area, more) {
        ("hls", _) => Some(format!("/hls/{session}/")),
        ("recordings", Some(file)) => {
            let file: FileName = file.parse().ok()?;
            Some(format!("/recordings/{session}/{file}"))
        }
        _ => None,
    }
}

/// Lets through who may administer. Without a token to ask for, that is everybody where everybody may do everything
/// (a loopback listener, `http.allow_open`), and otherwise only who sits at this machine.
pub(super) async fn admin<B: MessageBody + 'static>(
    state: web::Data<AppState>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let refusal = match &state.auth.admin {
        Access::Anyone => {
            let local = || {
                client::is_local(
                    request.peer_addr(),
                    request.headers(),
                    &state.trusted_proxies,
                )
            };
            (!state.open_admin && !local()).then(|| {
                Problem::new(
                    StatusCode::FORBIDDEN,
                    "without auth.admin only clients on the gateway's own machine may administer it: set a token there",
                )
            })
        }
        access @ Access::Tokens(_) => {
            let presented = Presented::of(request.headers(), "");
            (!is_right(access, presented.header.as_deref()))
                .then(|| unauthorized(presented.header.is_some()))
        }
    };
    match refusal {
        Some(problem) => Ok(request
            .into_response(problem.response())
            .map_into_right_body()),
        None => Ok(next.call(request).await?.map_into_left_body()),
    }
}

/// Judges publishers by the tokens of `auth.publish`.
#[derive(Clone, Debug)]
pub struct PublishTokens(Access);

impl PublishTokens {
    /// The judge that a configuration asks for.
    pub fn new(config: &Config) -> Self {
        Self(config.auth.publish.clone())
    }
}

impl Authorizer for PublishTokens {
    fn authorize<'a>(&'a self, request: AuthorizeRequest<'a>) -> BoxFuture<'a, Result<(), Denied>> {
        let right = is_right(&self.0, request.token);
        Box::pin(std::future::ready(
            right.then_some(()).ok_or(Denied::Unauthorized),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use proptest::prelude::*;

    #[test]
    fn tokens_are_found_where_they_may_be() {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "bEARER  one== ".parse().unwrap());
        headers.insert(
            header::COOKIE,
            "a=b; whipgate_play=three; c=d".parse().unwrap(),
        );
        let presented = Presented::of(&headers, "x=1&token=t%77o+%2F%zz&token=no");
        assert_eq!(presented.header.as_deref(), Some("one=="));
        assert_eq!(presented.query.as_deref(), Some("two+/%zz"));
        assert_eq!(presented.cookie.as_deref(), Some("three"));
        headers.insert(header::AUTHORIZATION, "Basic abc".parse().unwrap());
        headers.insert(header::COOKIE, "whipgate_player=x".parse().unwrap());
        assert!(!Presented::of(&headers, "tokens=x").any());
    }

    #[test]
    fn any_of_the_tokens_is_right() {
        let access = Access::Tokens(vec![Secret::new("one"), Secret::new("two")]);
        assert!(is_right(&access, Some("one")) && is_right(&access, Some("two")));
        for wrong in [None, Some(""), Some("three"), Some("on"), Some("onetwo")] {
            assert!(!is_right(&access, wrong), "{wrong:?}");
        }
        assert!(is_right(&Access::Anyone, None));
    }

    #[test]
    fn a_cookie_reaches_what_its_playlist_names() {
        for (path, reach) in [
            ("/hls/a/index.m3u8", Some("/hls/a/")),
            ("/hls/a/video/index.m3u8", Some("/hls/a/")),
            (
                "/recordings/a/2026-11-22T06-37-00Z.mp4/index.m3u8",
                Some("/recordings/a/2026-11-22T06-37-00Z.mp4"),
            ),
            ("/recordings/a/x.mp4/index.m3u8", None),
            ("/recordings/a/index.m3u8", None),
            ("/hls/a/video/k-s1.mp4", None),
            ("/hls/index.m3u8", None),
            ("/hls/.a/index.m3u8", None),
        ] {
            assert_eq!(cookie_path(path).as_deref(), reach, "{path}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_keeps_plain_text(text in "[a-z%0-9+é]{0,20}") {
            let decoded = percent_decode(&text);
            if !text.contains('%') {
                prop_assert_eq!(decoded, text);
            }
        }
    }
}
