//! One publisher's connection: made, guarded until its end, and taken down.
//!
//! Owns the stack's peer connection and the one task that ends it. The state both sides touch is in
//! [`Link`](super::link::Link), the packets' way in [`Receiver`](super::receiver::Receiver).

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use rtc::{
    ice::mdns::MulticastDnsMode,
    rtp_transceiver::rtp_sender::{RTCRtpCodec, RTCRtpCodecParameters, RtpCodecKind},
    shared::error::Error,
};
use tokio::sync::{oneshot, watch};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
    RTCIceCandidateInit, RTCIceConnectionState, RTCIceGatheringState, RTCPeerConnectionState,
    RTCSessionDescription, Registry, SettingEngineBuilder,
};

use super::{
    answer::{fingerprint_of, plain_offer},
    candidates::Candidates,
    link::Link,
    receiver::Receiver,
    routes::Routes,
    socket::{PeerRuntime, Shared},
};
use crate::{
    media::{MediaKind, TrackIndex},
    transport::{
        BoxFuture, IceCredentials, IceRestart, Peer, PeerStats, PublishError, RemoteCandidates,
        offer::{Offer, usable_candidate},
    },
};

/// Pause between two rounds of connectivity checks; the stack's 200 ms make every start that much slower.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Unasked checks of one candidate pair. Few, because the addresses are the word of whoever sent the offer; a publisher
/// can reach us or is of no use, and each check of its own is answered by one of ours.
const CHECKS: u16 = 5;

/// Pause between two consent checks (RFC 7675).
const CONSENT_INTERVAL: Duration = Duration::from_secs(4);

/// Packets of one stream within which a repetition is still taken for new: seconds, where the stack's own 64 packets
/// are a tenth of a second at 6 Mbit/s and would throw away what NACK brings back.
const REPLAY_WINDOW: usize = 2048;

/// The stack's part of gathering is a matter of microseconds; this is for a machine in trouble.
const GATHERING: Duration = Duration::from_secs(2);

/// Most time for the farewell: the stack waits 100 ms at most for its driver.
const FAREWELL: Duration = Duration::from_millis(1500);

/// [`Peer::close`] returns after this time in any case.
const CLOSING: Duration = Duration::from_secs(2);

/// The address families the UDP port takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Families {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

/// A peer connection that has answered, and our DTLS fingerprint.
pub(super) struct Started {
    pub(super) peer: Arc<Publisher>,
    pub(super) fingerprint: String,
}

/// Makes the peer connection for a checked offer. Runs on the engine's runtime.
pub(super) async fn start(
    offer: &Offer,
    link: Arc<Link>,
    shared: Shared,
    families: Families,
    candidates: Candidates,
) -> Result<Started, PublishError> {
    let (gathered, gathering_done) = oneshot::channel();
    let handler = Handler {
        link: Arc::clone(&link),
        gathered: std::sync::Mutex::new(Some(gathered)),
    };
    let connection = Box::pin(build(offer, &link, &shared, handler, families))
        .await
        .map_err(PublishError::internal)?;
    let connection: Arc<dyn PeerConnection> = connection;
    // From here on the guard owns the connection's end, whatever happens to this function.
    let (closed, is_closed) = watch::channel(false);
    let publisher = Arc::new(Publisher {
        link: Arc::clone(&link),
        routes: Arc::clone(&shared.routes),
        offer_ice: offer.ice.clone(),
        candidates,
        connection: Arc::downgrade(&connection),
        closed: is_closed,
    });
    let handle = shared.handle.clone();
    handle.spawn(guard(link, Arc::clone(&connection), shared, closed));
    let fingerprint = negotiate(&*connection, offer).await?;
    let gathered = tokio::time::timeout(GATHERING, gathering_done).await;
    if !matches!(gathered, Ok(Ok(()))) {
        return Err(PublishError::internal("gathering did not end"));
    }
    Ok(Started {
        peer: publisher,
        fingerprint,
    })
}

async fn build(
    offer: &Offer,
    link: &Arc<Link>,
    shared: &Shared,
    handler: Handler,
    families: Families,
) -> Result<Arc<dyn PeerConnection>, Error> {
    let mut media = MediaEngine::default();
    for track in &offer.tracks {
        let info = &track.info;
        let kind = match info.codec.kind() {
            MediaKind::Video => RtpCodecKind::Video,
            MediaKind::Audio => RtpCodecKind::Audio,
        };
        media.register_codec(
            RTCRtpCodecParameters {
                rtp_codec: RTCRtpCodec {
                    mime_type: format!("{}/{}", info.codec.kind(), info.codec.encoding_name()),
                    clock_rate: info.clock_rate,
                    channels: info.channels.into(),
                    ..RTCRtpCodec::default()
                },
                payload_type: info.payload_type,
            },
            kind,
        )?;
    }
    let settings = SettingEngineBuilder::new()
        .with_ice_credentials(link.ice().ufrag.clone(), link.ice().pwd.clone())
        .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS))
        // ICE alone never ends a connection: FFmpeg answers no consent checks while its media flows.
        .with_ice_timeouts(
            Some(Duration::ZERO),
            Some(Duration::ZERO),
            Some(CONSENT_INTERVAL),
        )
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .with_srtp_replay_protection_window(REPLAY_WINDOW)
        .build();
    let registry = Registry::new().with(
        rtc::interceptor::Slot::NackGenerator,
        Receiver::new(Arc::clone(link), &offer.tracks),
    );
    // Each address names one virtual socket; the port is only a name within the agent.
    let mut addresses = Vec::new();
    if families.ipv4 {
        addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    }
    if families.ipv6 {
        addresses.push(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
    }
    let builder = PeerConnectionBuilder::<SocketAddr>::new()
        .with_media_engine(media)
        .with_setting_engine(settings)
        .with_interceptor_registry(registry)
        .with_runtime(Arc::new(PeerRuntime::new(Arc::clone(link), shared.clone())))
        .with_handler(Arc::new(handler))
        .with_udp_addrs(addresses);
    Ok(Arc::new(Box::pin(builder.build()).await?))
}

/// Offer and answer within the stack; returns our fingerprint.
async fn negotiate(connection: &dyn PeerConnection, offer: &Offer) -> Result<String, PublishError> {
    let remote =
        RTCSessionDescription::offer(plain_offer(offer)).map_err(PublishError::internal)?;
    connection
        .set_remote_description(remote)
        .await
        .map_err(PublishError::internal)?;
    let local = connection
        .create_answer(None)
        .await
        .map_err(PublishError::internal)?;
    let fingerprint = fingerprint_of(&local.sdp)
        .ok_or_else(|| PublishError::internal("the stack's answer has no fingerprint"))?
        .to_owned();
    connection
        .set_local_description(local)
        .await
        .map_err(PublishError::internal)?;
    Ok(fingerprint)
}

/// Waits for the peer's end and takes everything of it down: the DTLS `close_notify` goes out, then the ways to the
/// peer are forgotten.
async fn guard(
    link: Arc<Link>,
    connection: Arc<dyn PeerConnection>,
    shared: Shared,
    closed: watch::Sender<bool>,
) {
    link.life().stopped().await;
    match tokio::time::timeout(FAREWELL, connection.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "closing a peer connection"),
        Err(_) => tracing::warn!("a peer connection did not close in time"),
    }
    shared.routes.remove(&link);
    link.close_tcp();
    drop((connection, shared));
    closed.send_replace(true);
}

/// What the stack reports.
struct Handler {
    link: Arc<Link>,
    gathered: std::sync::Mutex<Option<oneshot::Sender<()>>>,
}

type Reported<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl PeerConnectionEventHandler for Handler {
    fn on_ice_connection_state_change<'a, 'b>(
        &'a self,
        state: RTCIceConnectionState,
    ) -> Reported<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        if state == RTCIceConnectionState::Connected {
            // The driver has just made a ClientHello and would send it at its next deadline only.
            self.link.life().nudge();
        }
        Box::pin(std::future::ready(()))
    }

    fn on_ice_gathering_state_change<'a, 'b>(&'a self, state: RTCIceGatheringState) -> Reported<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        if state == RTCIceGatheringState::Complete
            && let Ok(mut gathered) = self.gathered.lock()
            && let Some(gathered) = gathered.take()
        {
            let _nobody_waits = gathered.send(());
        }
        Box::pin(std::future::ready(()))
    }

    fn on_connection_state_change<'a, 'b>(&'a self, state: RTCPeerConnectionState) -> Reported<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        if state == RTCPeerConnectionState::Connected {
            self.link.connect();
        }
        Box::pin(std::future::ready(()))
    }
}

/// The handle to one publisher's connection; letting go of it closes the connection.
pub(super) struct Publisher {
    link: Arc<Link>,
    routes: Arc<Routes>,
    /// The publisher's credentials in the offer.
    offer_ice: IceCredentials,
    /// What publishers are told to send to.
    candidates: Candidates,
    /// The guard's, so that its sockets are free when it is closed, whoever still holds this handle.
    connection: Weak<dyn PeerConnection>,
    closed: watch::Receiver<bool>,
}

impl Publisher {
    /// The publisher's credentials of the ICE session in place.
    fn theirs(&self) -> IceCredentials {
        self.link
            .restarts()
            .and_then(|restarts| restarts.theirs().cloned())
            .unwrap_or_else(|| self.offer_ice.clone())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.link.life().stop();
    }
}

impl Peer for Publisher {
    fn add_candidates(
        &self,
        candidates: RemoteCandidates,
    ) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let Some(connection) = self.connection.upgrade() else {
                return Ok(());
            };
            let of_another_session = self.link.restarts().is_some_and(|restarts| {
                let said = candidates.ice.as_ref().map(|ice| &ice.ufrag);
                said.is_some() && said != restarts.theirs().map(|ice| &ice.ufrag)
            });
            if of_another_session {
                // A restart has overtaken them.
                return Ok(());
            }
            for candidate in candidates.candidates {
                let text = candidate.candidate.trim();
                let text = text.strip_prefix("a=").unwrap_or(text);
                let bare = text.strip_prefix("candidate:").unwrap_or(text);
                if !usable_candidate(bare) {
                    continue;
                }
                let init = RTCIceCandidateInit {
                    candidate: format!("candidate:{bare}"),
                    ..RTCIceCandidateInit::default()
                };
                if let Err(error) = connection.add_ice_candidate(init).await {
                    tracing::debug!(%error, "candidate not taken");
                }
            }
            self.link.life().nudge();
            Ok(())
        })
    }

    fn restart_ice(
        &self,
        candidates: RemoteCandidates,
    ) -> BoxFuture<'_, Result<IceRestart, PublishError>> {
        Box::pin(async move {
            let failed = |why: &str| Err(PublishError::IceRestartFailed(why.to_owned()));
            let Some(theirs) = candidates.ice.clone() else {
                return failed("a restart needs new ICE credentials");
            };
            if self.theirs().ufrag == theirs.ufrag {
                return failed("the user fragment is that of the ICE session in place");
            }
            if self.link.life().is_over() {
                return failed("the connection is over");
            }
            let ours = super::new_credentials();
            let first = self.offer_ice.clone();
            let gone = self.link.restart(first, ours.clone(), theirs);
            if !self
                .routes
                .insert_restart(&self.link, &ours.ufrag, gone.as_deref())
            {
                return failed("the connection is over");
            }
            tracing::info!(ufrag = ours.ufrag, "ICE restarts");
            self.add_candidates(candidates).await?;
            let with_tcp = self.link.has_tcp();
            let lines = self.candidates.lines().into_iter();
            Ok(IceRestart {
                ice: ours,
                // Clients exist that cannot take more than one, so ICE-TCP only where it is in use.
                candidates: lines
                    .filter(|line| with_tcp || !line.contains(" tcp "))
                    .collect(),
            })
        })
    }

    fn request_keyframe(&self, track: TrackIndex) {
        self.link.want_keyframe(track);
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.link.life().stop();
        let mut closed = self.closed.clone();
        Box::pin(async move {
            let _late = tokio::time::timeout(CLOSING, closed.wait_for(|closed| *closed)).await;
        })
    }

    fn stats(&self) -> PeerStats {
        self.link.stats()
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
