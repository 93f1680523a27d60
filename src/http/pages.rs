//! The pages for people: console, browser publisher, player, and the files they load.
//!
//! Everything is embedded at build time and answered from memory. Pages know the gateway only by its HTTP API.

use std::future::ready;

use actix_web::{
    HttpRequest, HttpResponse,
    body::MessageBody,
    http::{StatusCode, header},
    web,
};

use super::{problem::Problem, read_only};
use crate::id::SessionId;

const INDEX: &str = include_str!("../../web/src/index.html");
const PUBLISH: &str = include_str!("../../web/src/publish.html");
const WATCH: &str = include_str!("../../web/src/watch.html");

/// One embedded file.
struct Asset {
    name: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

macro_rules! asset {
    ($name:literal, $content_type:literal) => {
        Asset {
            name: $name,
            content_type: $content_type,
            body: include_bytes!(concat!("../../web/src/", $name)),
        }
    };
}

const ASSETS: &[Asset] = &[
    asset!("style.css", "text/css; charset=utf-8"),
    asset!("common.js", "text/javascript; charset=utf-8"),
    asset!("index.js", "text/javascript; charset=utf-8"),
    asset!("publish.js", "text/javascript; charset=utf-8"),
    asset!("poster.js", "text/javascript; charset=utf-8"),
    asset!("watch.js", "text/javascript; charset=utf-8"),
    asset!("watch-controls.js", "text/javascript; charset=utf-8"),
    asset!("watch-meters.js", "text/javascript; charset=utf-8"),
    asset!("watch-player.js", "text/javascript; charset=utf-8"),
    asset!("watch-start.js", "text/javascript; charset=utf-8"),
    Asset {
        name: "hls.js",
        content_type: "text/javascript; charset=utf-8",
        body: include_bytes!(concat!(env!("OUT_DIR"), "/hls.js")),
    },
];

/// Scripts only from here; the player runs its worker and its media from blobs it makes itself. Posters, which may need a
/// token in a header, are blobs as well.
macro_rules! content_security_policy {
    () => {
        "default-src 'self'; media-src 'self' blob:; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; \
         img-src 'self' data: blob:; object-src 'none'; base-uri 'none'"
    };
}

/// Who may show a page inside another one.
#[derive(Clone, Copy)]
enum Framing {
    /// Nobody: a click must be meant for this page.
    Nobody,
    /// Everybody, files on a disk included.
    Anybody,
}

impl Framing {
    const fn content_security_policy(self) -> &'static str {
        match self {
            Self::Nobody => concat!(content_security_policy!(), "; frame-ancestors 'none'"),
            Self::Anybody => content_security_policy!(),
        }
    }
}

/// Adds the pages `/`, `/publish/{session_id}`, `/watch/{session_id}` and `/assets/{name}`.
pub fn pages(cfg: &mut web::ServiceConfig) {
    cfg.service(read_only("/", || ready(page(INDEX, Framing::Nobody))))
        .service(read_only(
            "/publish/{session_id}",
            |id: web::Path<String>| ready(session_page(&id, PUBLISH)),
        ))
        .service(read_only(
            "/watch/{session_id}",
            |request: HttpRequest, id: web::Path<String>| ready(watch_page(&request, &id)),
        ))
        .service(read_only(
            "/assets/{name}",
            |request: HttpRequest, name: web::Path<String>| ready(asset(&request, &name)),
        ));
}

/// A page for a name that no session can have would only fail later.
fn session_page(id: &str, body: &'static str) -> Result<HttpResponse, Problem> {
    session_name(id).map(|()| page(body, Framing::Nobody))
}

/// The player's page; with `embed=1` in the query, the player alone, to be framed by any page.
fn watch_page(request: &HttpRequest, id: &str) -> Result<HttpResponse, Problem> {
    session_name(id)?;
    let embedded = request
        .query_string()
        .split('&')
        .any(|pair| pair == "embed=1");
    Ok(if embedded {
        let body = WATCH.replacen("<html ", "<html class=\"embed\" ", 1);
        page(body, Framing::Anybody)
    } else {
        page(WATCH, Framing::Nobody)
    })
}

fn session_name(id: &str) -> Result<(), Problem> {
    match id.parse::<SessionId>() {
        Ok(_) => Ok(()),
        Err(error) => Err(Problem::not_found(error.to_string())),
    }
}

fn page(body: impl MessageBody + 'static, framing: Framing) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            framing.content_security_policy(),
        ))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(body)
}

/// Files change with the binary only, so the version of the build is their entity tag.
fn asset(request: &HttpRequest, name: &str) -> Result<HttpResponse, Problem> {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return Err(Problem::not_found("there is no such file"));
    };
    let tag = format!(
        "\"{}-{:x}\"",
        env!("CARGO_PKG_VERSION"),
        fingerprint(asset.body)
    );
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::ETAG, tag.as_str()))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .content_type(asset.content_type);
    let known = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value
                .split(',')
                .any(|each| each.trim().trim_start_matches("W/") == tag)
        });
    Ok(if known {
        response.status(StatusCode::NOT_MODIFIED).finish()
    } else {
        response.body(asset.body)
    })
}

/// FNV-1a, enough to tell two builds of one file apart.
fn fingerprint(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
