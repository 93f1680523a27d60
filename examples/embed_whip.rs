//! A WHIP endpoint inside an actix-web application of one's own.
//!
//! The application keeps its own sessions, registered beforehand, and counts the RTP packets that arrive in each:
//!
//! ```sh
//! cargo run --example embed_whip
//! ffmpeg -re -f lavfi -i testsrc2=size=640x360:rate=30 -c:v libx264 -profile:v baseline -g 60 -f whip http://127.0.0.1:8080/live/whip/studio
//! ```
//!
//! `Location`, the URL that ends the session, follows the scope: `/live/whip/studio/<resource>`.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, PoisonError, RwLock},
};

use actix_web::{App, HttpServer, web};
use tokio::{runtime::Handle, sync::mpsc};
use tracing::info;
use whipgate::{
    media::MediaKind,
    transport::{
        Connector, PublishError, PublishEvent, PublishOptions, PublishTransport, channel,
        webrtc::{WebRtc, WebRtcConfig},
    },
    whip::{PublishTransportProvider, WhipEndpoint},
};

/// The application's sessions, by name.
struct Sessions {
    connector: Arc<dyn Connector>,
    transports: RwLock<HashMap<String, Arc<PublishTransport>>>,
}

impl Sessions {
    /// Makes a session that publishers may send to, and the events of those who do.
    fn register(&self, name: &str) -> (Arc<PublishTransport>, mpsc::Receiver<PublishEvent>) {
        // Room for about a second of media: a receiver that is slower than that loses packets, nobody else does.
        let (sink, events) = channel(1024);
        let options = PublishOptions {
            // Peers outlive the worker of the web server that took their offer.
            runtime: Some(Handle::current()),
            ..PublishOptions::default()
        };
        let transport = PublishTransport::new(Arc::clone(&self.connector), Arc::new(sink), options);
        self.transports
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Arc::clone(&transport));
        (transport, events)
    }
}

impl PublishTransportProvider for Sessions {
    async fn get_publish_transport(
        &self,
        session_id: &str,
    ) -> Result<Arc<PublishTransport>, PublishError> {
        self.transports
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(session_id)
            .cloned()
            .ok_or(PublishError::UnknownSession)
    }
}

/// What becomes of the media: here it is counted.
async fn count(
    name: &'static str,
    transport: Arc<PublishTransport>,
    mut events: mpsc::Receiver<PublishEvent>,
) {
    let (mut packets, mut bytes) = (0_u64, 0_usize);
    while let Some(event) = events.recv().await {
        match event {
            PublishEvent::Started { tracks, .. } => {
                (packets, bytes) = (0, 0);
                for (index, track) in tracks.iter().enumerate() {
                    info!(name, index, codec = %track.codec, fmtp = track.fmtp, "track");
                    if track.codec.kind() == MediaKind::Video {
                        // A receiver that starts in mid-stream cannot decode before the next keyframe.
                        transport.request_keyframe(index);
                    }
                }
            }
            PublishEvent::Rtp { packet, .. } => {
                packets += 1;
                bytes += packet.payload.len();
            }
            PublishEvent::SenderReport { track, report, .. } => {
                info!(
                    name,
                    track,
                    ntp = report.ntp,
                    packets,
                    bytes,
                    "sender report"
                );
            }
            PublishEvent::Ended { reason, .. } => info!(name, %reason, packets, bytes, "ended"),
            PublishEvent::Withdrawn { .. } => info!(name, "does not return"),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();

    let sessions = Arc::new(Sessions {
        // Loopback, a UDP port of the system's choice. For the outside world, set `listen_udp` and `public_addresses`.
        connector: WebRtc::bind(WebRtcConfig::default()).await?,
        transports: RwLock::default(),
    });
    for name in ["studio", "stage"] {
        let (transport, events) = sessions.register(name);
        tokio::spawn(count(name, transport, events));
    }

    let whip = WhipEndpoint::new(sessions);
    let server = HttpServer::new(move || {
        let whip = whip.clone();
        App::new().service(web::scope("/live").configure(move |cfg| whip.configure(cfg)))
    })
    // A client that hangs up while its offer waits for another publisher withdraws it.
    .h1_allow_half_closed(false)
    .bind(("127.0.0.1", 8080))?;
    info!("publish to http://127.0.0.1:8080/live/whip/studio");
    server.run().await?;
    Ok(())
}
