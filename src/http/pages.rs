//! The pages for people: console, browser publisher, player, and the files they load.
//!
//! Everything is embedded at build time and answered from memory. Pages know the gateway only by its HTTP API.

use std::future::ready;

use actix_web::{
    HttpRequest, HttpResponse,
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
    asset!("watch.js", "text/javascript; charset=utf-8"),
    Asset {
        name: "hls.js",
        content_type: "text/javascript; charset=utf-8",
        body: include_bytes!(concat!(env!("OUT_DIR"), "/hls.js")),
    },
];

/// Scripts only from here; the player runs its worker and its media from blobs it makes itself.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; media-src 'self' blob:; worker-src 'self' blob:; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'";

/// Adds the pages `/`, `/publish/{session_id}`, `/watch/{session_id}` and `/assets/{name}`.
pub fn pages(cfg: &mut web::ServiceConfig) {
    cfg.service(read_only("/", || ready(page(INDEX))))
        .service(read_only(
            "/publish/{session_id}",
            |id: web::Path<String>| ready(session_page(&id, PUBLISH)),
        ))
        .service(read_only("/watch/{session_id}", |id: web::Path<String>| {
            ready(session_page(&id, WATCH))
        }))
        .service(read_only(
            "/assets/{name}",
            |request: HttpRequest, name: web::Path<String>| ready(asset(&request, &name)),
        ));
}

/// A page for a name that no session can have would only fail later.
fn session_page(id: &str, body: &'static str) -> Result<HttpResponse, Problem> {
    match id.parse::<SessionId>() {
        Ok(_) => Ok(page(body)),
        Err(error) => Err(Problem::not_found(error.to_string())),
    }
}

fn page(body: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
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
